//! What a proxy holds, and bringing it up to date with the parts of the mesh that changed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_core::Hostname;
use meltemi_model::{ChangeSet, MeshSnapshot, Part};

use crate::inputs::Inputs;
use crate::on_demand::{Asked, Wanted, virtual_host_name};
use crate::resource::Kind;
use crate::{
    Generated, ProxyView, Resource, Role, clusters, endpoints, gateways, listeners, routes,
};

/// A piece of generation: what it reads is tracked together, and its resources are replaced together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Unit {
    /// The clusters and listeners that depend on no service.
    Standing,
    /// The clusters of a service.
    Clusters(Hostname),
    /// The load assignments of a service.
    Endpoints(Hostname),
    /// The inbound listener and clusters of the proxy's own workload.
    Inbound,
    /// The outbound listeners of a port number.
    Listeners(u16),
    /// The route configurations of a port number.
    Routes(u16),
    /// The listeners and routes of a gateway.
    Gateways,
    /// The certificates of a gateway's servers.
    Secrets,
    /// The virtual host of an authority on a port number, for a proxy that asked for it.
    VirtualHost(u16, String),
}

/// The output of a unit and the parts it was made from.
#[derive(Clone, Debug, Default)]
struct Made {
    resources: Vec<Arc<Resource>>,
    parts: BTreeSet<Part>,
}

/// The configuration of one connected proxy, kept up to date.
#[derive(Clone, Debug)]
pub struct ProxyState {
    view: ProxyView,
    units: BTreeMap<Unit, Made>,
    /// What decided the list of units: the mesh, or what the proxy asked for.
    inventory: BTreeSet<Part>,
    wanted: Wanted,
    generated: Arc<Generated>,
}

/// What one update did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpdateReport {
    /// Resources made again because something they were made from changed.
    pub regenerated: usize,
    /// Resources that are new or differ from before.
    pub changed: usize,
    pub removed: usize,
}

/// Generates everything one proxy needs.
pub fn generate(view: &ProxyView, mesh: &MeshSnapshot) -> Generated {
    let state = ProxyState::new(view.clone(), mesh);
    Arc::unwrap_or_clone(state.generated)
}

/// Brings a proxy's configuration up to date: only what was made from a changed part is made again.
pub fn update(state: &mut ProxyState, mesh: &MeshSnapshot, changes: &ChangeSet) -> UpdateReport {
    state.update(mesh, changes)
}

impl ProxyState {
    pub fn new(view: ProxyView, mesh: &MeshSnapshot) -> Self {
        let wanted = Wanted::default();
        let (units, inventory) = inventory(&view, mesh, &wanted);
        let units: BTreeMap<_, _> = units
            .into_iter()
            .map(|unit| {
                let made = make(&unit, &view, mesh, &wanted);
                (unit, made)
            })
            .collect();
        let mut generated = Generated::default();
        for resource in units.values().flat_map(|made| &made.resources) {
            put(&mut generated, resource);
        }
        Self {
            view,
            units,
            inventory,
            wanted,
            generated: Arc::new(generated),
        }
    }

    pub fn view(&self) -> &ProxyView {
        &self.view
    }

    /// The current resources. They stay as they are when the state moves on.
    pub fn generated(&self) -> Arc<Generated> {
        Arc::clone(&self.generated)
    }

    /// As [`update`].
    pub fn update(&mut self, mesh: &MeshSnapshot, changes: &ChangeSet) -> UpdateReport {
        let stale = self
            .units
            .iter()
            .filter(|(_, made)| changes.touches(&made.parts))
            .map(|(unit, _)| unit.clone())
            .collect();
        self.renew(mesh, stale, changes.touches(&self.inventory))
    }

    /// Makes what a proxy on demand asks for, by name and no more than that. For others it changes nothing.
    pub fn want(&mut self, mesh: &MeshSnapshot, asked: &Asked) -> UpdateReport {
        if !self.view.on_demand {
            return UpdateReport::default();
        }
        let wanted = Wanted::new(asked);
        let stale = self
            .units
            .keys()
            .filter(|unit| wanted.names(unit) != self.wanted.names(unit))
            .cloned()
            .collect();
        self.wanted = wanted;
        self.renew(mesh, stale, true)
    }

    /// Makes stale units again, and those that an inventory finds missing.
    fn renew(
        &mut self,
        mesh: &MeshSnapshot,
        mut stale: BTreeSet<Unit>,
        take_inventory: bool,
    ) -> UpdateReport {
        let mut replaced = Replaced::default();
        if take_inventory {
            let (wanted, parts) = inventory(&self.view, mesh, &self.wanted);
            self.inventory = parts;
            let missing = wanted.iter().filter(|unit| !self.units.contains_key(unit));
            stale.extend(missing.cloned());
            stale.retain(|unit| wanted.contains(unit));
            self.units.retain(|unit, made| {
                let kept = wanted.contains(unit);
                if !kept {
                    replaced.before.append(&mut made.resources);
                }
                kept
            });
        }
        for unit in stale {
            let made = make(&unit, &self.view, mesh, &self.wanted);
            replaced.after.extend(made.resources.iter().cloned());
            let before = self.units.insert(unit, made).unwrap_or_default();
            replaced.before.extend(before.resources);
        }
        self.replace(&replaced)
    }

    fn replace(&mut self, replaced: &Replaced) -> UpdateReport {
        let mut report = UpdateReport {
            regenerated: replaced.after.len(),
            ..UpdateReport::default()
        };
        if replaced.before.is_empty() && replaced.after.is_empty() {
            return report;
        }
        let before = Arc::clone(&self.generated);
        let generated = Arc::make_mut(&mut self.generated);
        for resource in &replaced.before {
            generated.of_mut(resource.kind).remove(&resource.name);
        }
        for resource in &replaced.after {
            // The same content keeps its allocation, and with it whatever is shared by pointer.
            match before.of(resource.kind).get(&resource.name) {
                Some(old) if old.version == resource.version => put(generated, old),
                _ => {
                    report.changed += 1;
                    put(generated, resource);
                }
            }
        }
        report.removed = replaced
            .before
            .iter()
            .filter(|resource| !generated.of(resource.kind).contains_key(&resource.name))
            .count();
        report
    }
}

/// The resources of the units that an update touched, old and new.
#[derive(Default)]
struct Replaced {
    before: Vec<Arc<Resource>>,
    after: Vec<Arc<Resource>>,
}

/// The first resource of a name counts.
fn put(generated: &mut Generated, resource: &Arc<Resource>) {
    generated
        .of_mut(resource.kind)
        .entry(resource.name.clone())
        .or_insert_with(|| Arc::clone(resource));
}

fn inventory(
    view: &ProxyView,
    mesh: &MeshSnapshot,
    wanted: &Wanted,
) -> (BTreeSet<Unit>, BTreeSet<Part>) {
    let inputs = Inputs::new(view, mesh);
    if view.role == Role::Router {
        let units = at_the_edge(&inputs);
        return (units, inputs.into_parts());
    }
    let mut units = BTreeSet::from([Unit::Standing, Unit::Inbound]);
    if view.on_demand {
        units.extend(wanted.units().cloned());
        return (units, inputs.into_parts());
    }
    for service in inputs.services() {
        units.insert(Unit::Clusters(service.hostname.clone()));
        units.insert(Unit::Endpoints(service.hostname.clone()));
        for port in &service.ports {
            units.insert(Unit::Listeners(port.number));
            units.insert(Unit::Routes(port.number));
        }
    }
    (units, inputs.into_parts())
}

/// A gateway has the clusters that its routes lead to.
fn at_the_edge(inputs: &Inputs<'_>) -> BTreeSet<Unit> {
    let merged = gateways::merged(inputs);
    let destinations = gateways::destinations(inputs, &merged).into_iter();
    destinations
        .flat_map(|host| [Unit::Clusters(host.clone()), Unit::Endpoints(host)])
        .chain([Unit::Standing, Unit::Gateways, Unit::Secrets])
        .collect()
}

fn make(unit: &Unit, view: &ProxyView, mesh: &MeshSnapshot, wanted: &Wanted) -> Made {
    let inputs = Inputs::new(view, mesh);
    let names = view.on_demand.then(|| wanted.names(unit));
    let is_wanted = |name: &str| names.is_none_or(|names| names.contains(name));
    let resources: Vec<Resource> = match unit {
        Unit::Standing => standing(&inputs),
        Unit::Clusters(host) => clusters::targets(&inputs, host)
            .iter()
            .filter(|target| is_wanted(&target.name().to_string()))
            .map(|target| {
                let cluster = clusters::outbound(&inputs, target);
                Resource::new(Kind::Cluster, &cluster.name, &cluster)
            })
            .collect(),
        Unit::Endpoints(host) => clusters::targets(&inputs, host)
            .iter()
            .filter(|target| target.resolution() == meltemi_model::Resolution::Endpoints)
            .filter(|target| is_wanted(&target.name().to_string()))
            .map(|target| {
                let assignment = endpoints::assignment(&inputs, target);
                Resource::new(Kind::Endpoints, &assignment.cluster_name, &assignment)
            })
            .collect(),
        Unit::Inbound => inbound(&inputs),
        Unit::Listeners(port) => listeners::on_port(&inputs, *port, &is_wanted)
            .iter()
            .map(|listener| Resource::new(Kind::Listener, &listener.name, listener))
            .collect(),
        Unit::Routes(port) => match names {
            Some(names) => routes::on_demand(&inputs, *port, names),
            None => routes::on_port(&inputs, *port),
        }
        .iter()
        .map(|routes| Resource::new(Kind::Route, &routes.name, routes))
        .collect(),
        Unit::Gateways => at_gateways(&inputs),
        Unit::Secrets => gateways::secrets(&inputs)
            .iter()
            .map(|secret| Resource::new(Kind::Secret, &secret.name, secret))
            .collect(),
        Unit::VirtualHost(port, authority) => {
            let host = routes::virtual_host_of(&inputs, *port, authority);
            let name = virtual_host_name(&port.to_string(), authority);
            vec![Resource::new(Kind::VirtualHost, &name, &host)]
        }
    };
    Made {
        resources: resources.into_iter().map(Arc::new).collect(),
        parts: inputs.into_parts(),
    }
}

fn at_gateways(inputs: &Inputs<'_>) -> Vec<Resource> {
    let merged = gateways::merged(inputs);
    let listeners = gateways::listeners(inputs, &merged);
    let listeners = listeners
        .iter()
        .map(|listener| Resource::new(Kind::Listener, &listener.name, listener));
    let routes = gateways::routes(inputs, &merged);
    let routes = routes
        .iter()
        .map(|routes| Resource::new(Kind::Route, &routes.name, routes));
    listeners.chain(routes).collect()
}

fn standing(inputs: &Inputs<'_>) -> Vec<Resource> {
    if inputs.view.role == Role::Router {
        let cluster = clusters::black_hole(inputs);
        return vec![Resource::new(Kind::Cluster, &cluster.name, &cluster)];
    }
    let listener = listeners::virtual_outbound(inputs);
    clusters::standing(inputs)
        .iter()
        .map(|cluster| Resource::new(Kind::Cluster, &cluster.name, cluster))
        .chain([Resource::new(Kind::Listener, &listener.name, &listener)])
        .collect()
}

fn inbound(inputs: &Inputs<'_>) -> Vec<Resource> {
    let served = listeners::inbound_ports(inputs);
    let listener = listeners::virtual_inbound(inputs, &served);
    served
        .iter()
        .map(|port| {
            let cluster = clusters::inbound(inputs, port);
            Resource::new(Kind::Cluster, &cluster.name, &cluster)
        })
        .chain([Resource::new(Kind::Listener, &listener.name, &listener)])
        .collect()
}
