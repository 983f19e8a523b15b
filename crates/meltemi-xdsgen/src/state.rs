//! What a proxy holds, and bringing it up to date with the parts of the mesh that changed.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use meltemi_core::{Hostname, ObjectRef};
use meltemi_model::{ChangeSet, MeshSnapshot};
use meltemi_proto::Resource;

use crate::inputs::Inputs;
use crate::on_demand::{Asked, Wanted, virtual_host_name};
use crate::resource::{self, Kind, resource};
use crate::shelf::{Inventory, Made, Round, Shelf, Source};
use crate::{Generated, ProxyView, Role, clusters, endpoints, gateways, jwt, listeners, routes};

/// A piece of generation: what it reads is tracked together, and its resources are replaced together.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
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

/// The configuration of one connected proxy, kept up to date.
#[derive(Clone, Debug)]
pub struct ProxyState {
    view: Arc<ProxyView>,
    /// The units that there are; proxies with the same full set share it.
    inventory: Arc<Inventory>,
    /// What was made of each unit of the inventory, in its order.
    made: Vec<Arc<Made>>,
    wanted: Wanted,
    generated: Generated,
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
    let mut shelf = Shelf::default();
    let mut round = shelf.round(mesh, &ChangeSet::default());
    ProxyState::new(view.clone(), &mut round).generated
}

impl ProxyState {
    pub fn new(view: ProxyView, round: &mut Round<'_>) -> Self {
        let mut view = Arc::new(view);
        view.follow(round.mesh);
        let wanted = Wanted::default();
        let inventory = inventory(&view, &wanted, round);
        let units = inventory.units.iter();
        let made: Vec<Arc<Made>> = units
            .map(|unit| make_shared(unit, &view, &wanted, round))
            .collect();
        let mut generated = Generated::default();
        for kind in Kind::ALL {
            let of_kind = made.iter().flat_map(|made| &made.resources);
            let of_kind = of_kind.filter(|(other, _)| *other == kind);
            *generated.of_mut(kind) = round.map(of_kind.map(|(_, resource)| resource));
        }
        Self {
            view,
            inventory,
            made,
            wanted,
            generated,
        }
    }

    pub fn view(&self) -> &ProxyView {
        &self.view
    }

    /// The current resources. They stay as they are when the state moves on.
    pub fn generated(&self) -> Generated {
        self.generated.clone()
    }

    /// The objects of users that the configuration was made from, some of them more than once.
    pub fn origins(&self) -> impl Iterator<Item = &ObjectRef> {
        self.made.iter().flat_map(|made| made.origins())
    }

    /// Brings the configuration up to date: only what was made from a changed part is made again.
    pub fn update(&mut self, round: &mut Round<'_>) -> UpdateReport {
        let changed = self.view.follow(round.mesh);
        let is_stale = |made: &Arc<Made>| made.is_stale() || made.depends_on(changed);
        if self.inventory.is_stale() || self.inventory.depends_on(changed) {
            let inventory = inventory(&self.view, &self.wanted, round);
            self.renew(inventory, |_, made| is_stale(made), round)
        } else if self.made.iter().any(is_stale) {
            let inventory = Arc::clone(&self.inventory);
            self.renew(inventory, |_, made| is_stale(made), round)
        } else {
            UpdateReport::default()
        }
    }

    /// Makes what a proxy on demand asks for, by name and no more than that. For others it changes nothing.
    pub fn want(&mut self, asked: &Asked, round: &mut Round<'_>) -> UpdateReport {
        if !self.view.on_demand {
            return UpdateReport::default();
        }
        let before = std::mem::replace(&mut self.wanted, Wanted::new(asked));
        let inventory = inventory(&self.view, &self.wanted, round);
        let wanted = self.wanted.clone();
        let is_other = |unit: &Unit, _: &Arc<Made>| wanted.names(unit) != before.names(unit);
        self.renew(inventory, is_other, round)
    }

    /// Takes over the units of an inventory: makes those that are new or stale, and keeps the others.
    fn renew(
        &mut self,
        inventory: Arc<Inventory>,
        is_stale: impl Fn(&Unit, &Arc<Made>) -> bool,
        round: &mut Round<'_>,
    ) -> UpdateReport {
        let before = std::mem::replace(&mut self.inventory, inventory);
        let made = std::mem::take(&mut self.made);
        let mut before = before.units.iter().zip(made).peekable();
        let mut replaced = Replaced::default();
        self.made.reserve_exact(self.inventory.units.len());
        for unit in &self.inventory.units {
            // What sorts before it is in the old inventory alone.
            while let Some((_, gone)) = before.next_if(|(other, _)| *other < unit) {
                replaced.before.push(gone);
            }
            let held = before.next_if(|(other, _)| *other == unit);
            let made = match held {
                Some((_, made)) if !is_stale(unit, &made) => made,
                held => {
                    replaced.before.extend(held.map(|(_, made)| made));
                    let made = make_shared(unit, &self.view, &self.wanted, round);
                    replaced.after.push(Arc::clone(&made));
                    made
                }
            };
            self.made.push(made);
        }
        replaced.before.extend(before.map(|(_, gone)| gone));
        self.replace(&replaced, round)
    }

    fn replace(&mut self, replaced: &Replaced, round: &mut Round<'_>) -> UpdateReport {
        let mut report = UpdateReport::default();
        for kind in Kind::ALL {
            let (gone, come) = (of(kind, &replaced.before), of(kind, &replaced.after));
            report.regenerated += come.len();
            let current = self.generated.of(kind);
            let holds = |resource: &&Arc<Resource>| {
                let held = current.get(&resource.name);
                held.is_some_and(|held| Arc::ptr_eq(held, resource))
            };
            let changed = come.iter().filter(|resource| !holds(resource)).count();
            let names: HashSet<&str> = come.iter().map(|resource| &*resource.name).collect();
            let stays = |gone: &&Arc<Resource>| names.contains(&*gone.name);
            let removed = gone.iter().filter(|gone| !stays(gone)).count();
            if changed + removed > 0 {
                let gone = gone.into_iter().cloned().collect();
                let after = round.step(current, gone, &come);
                *self.generated.of_mut(kind) = after;
            }
            report.changed += changed;
            report.removed += removed;
        }
        report
    }
}

/// The units that there should be.
fn inventory(view: &Arc<ProxyView>, wanted: &Wanted, round: &mut Round<'_>) -> Arc<Inventory> {
    if view.on_demand {
        let standing = [Unit::Standing, Unit::Inbound].into_iter();
        let units = standing.chain(wanted.units().cloned()).collect();
        return Arc::new(Inventory::new(units, Source::nothing(view)));
    }
    round.inventory(view, |mesh| full_set(view, mesh))
}

/// What a unit is for a proxy; another's, if it is the same.
fn make_shared(
    unit: &Unit,
    view: &Arc<ProxyView>,
    wanted: &Wanted,
    round: &mut Round<'_>,
) -> Arc<Made> {
    let asked = view.on_demand.then(|| wanted.names(unit));
    round.unit(unit, view, asked, |mesh| make(unit, view, mesh, asked))
}

/// The units that an update touched, old and new.
#[derive(Default)]
struct Replaced {
    before: Vec<Arc<Made>>,
    after: Vec<Arc<Made>>,
}

fn of(kind: Kind, made: &[Arc<Made>]) -> Vec<&Arc<Resource>> {
    let all = made.iter().flat_map(|made| &made.resources);
    let of_kind = all.filter(|(other, _)| *other == kind);
    of_kind.map(|(_, resource)| resource).collect()
}

/// Everything that the proxy may call, and what it serves itself.
fn full_set(view: &Arc<ProxyView>, mesh: &MeshSnapshot) -> Inventory {
    let inputs = Inputs::new(view, mesh);
    if inputs.role() == Role::Router {
        let units = at_the_edge(&inputs);
        return Inventory::new(units, Source::new(inputs.into_read(), view, None));
    }
    let mut units = BTreeSet::from([Unit::Standing, Unit::Inbound]);
    for service in inputs.services() {
        units.insert(Unit::Clusters(service.hostname.clone()));
        units.insert(Unit::Endpoints(service.hostname.clone()));
        for port in &service.ports {
            units.insert(Unit::Listeners(port.number));
            units.insert(Unit::Routes(port.number));
        }
    }
    Inventory::new(units, Source::new(inputs.into_read(), view, None))
}

/// A gateway has the clusters that its routes lead to, and those that its filters ask.
fn at_the_edge(inputs: &Inputs<'_>) -> BTreeSet<Unit> {
    let merged = gateways::merged(inputs);
    let mut destinations = gateways::destinations(inputs, &merged);
    destinations.extend(jwt::key_servers(inputs));
    destinations.extend(inputs.authorizers());
    let destinations = destinations.into_iter();
    destinations
        .flat_map(|host| [Unit::Clusters(host.clone()), Unit::Endpoints(host)])
        .chain([Unit::Standing, Unit::Gateways, Unit::Secrets])
        .collect()
}

/// `names`: those that a proxy on demand asked for.
fn make(
    unit: &Unit,
    view: &Arc<ProxyView>,
    mesh: &MeshSnapshot,
    names: Option<&BTreeSet<String>>,
) -> Made {
    let inputs = Inputs::new(view, mesh);
    let is_wanted = |name: &str| names.is_none_or(|names| names.contains(name));
    let resources: Vec<resource::Made> = match unit {
        Unit::Standing => standing(&inputs),
        Unit::Clusters(host) => clusters::targets(&inputs, host)
            .iter()
            .filter(|target| is_wanted(&target.name().to_string()))
            .map(|target| {
                let cluster = clusters::outbound(&inputs, target);
                resource(Kind::Cluster, &cluster.name, &cluster)
            })
            .collect(),
        Unit::Endpoints(host) => clusters::targets(&inputs, host)
            .iter()
            .filter(|target| target.resolution() == meltemi_model::Resolution::Endpoints)
            .filter(|target| is_wanted(&target.name().to_string()))
            .map(|target| {
                let assignment = endpoints::assignment(&inputs, target);
                resource(Kind::Endpoints, &assignment.cluster_name, &assignment)
            })
            .collect(),
        Unit::Inbound => inbound(&inputs),
        Unit::Listeners(port) => listeners::on_port(&inputs, *port, &is_wanted)
            .iter()
            .map(|listener| resource(Kind::Listener, &listener.name, listener))
            .collect(),
        Unit::Routes(port) => match names {
            Some(names) => routes::on_demand(&inputs, *port, names),
            None => routes::on_port(&inputs, *port),
        }
        .iter()
        .map(|routes| resource(Kind::Route, &routes.name, routes))
        .collect(),
        Unit::Gateways => at_gateways(&inputs),
        Unit::Secrets => gateways::secrets(&inputs)
            .iter()
            .map(|secret| resource(Kind::Secret, &secret.name, secret))
            .collect(),
        Unit::VirtualHost(port, authority) => {
            let host = routes::virtual_host_of(&inputs, *port, authority);
            let name = virtual_host_name(&port.to_string(), authority);
            vec![resource(Kind::VirtualHost, &name, &host)]
        }
    };
    let source = Source::new(inputs.into_read(), view, names.cloned());
    Made::new(resources, source)
}

fn at_gateways(inputs: &Inputs<'_>) -> Vec<resource::Made> {
    let merged = gateways::merged(inputs);
    let listeners = gateways::listeners(inputs, &merged);
    let listeners = listeners
        .iter()
        .map(|listener| resource(Kind::Listener, &listener.name, listener));
    let routes = gateways::routes(inputs, &merged);
    let routes = routes
        .iter()
        .map(|routes| resource(Kind::Route, &routes.name, routes));
    listeners.chain(routes).collect()
}

fn standing(inputs: &Inputs<'_>) -> Vec<resource::Made> {
    if inputs.role() == Role::Router {
        let cluster = clusters::black_hole(inputs);
        return vec![resource(Kind::Cluster, &cluster.name, &cluster)];
    }
    let listener = listeners::virtual_outbound(inputs);
    clusters::standing(inputs)
        .iter()
        .map(|cluster| resource(Kind::Cluster, &cluster.name, cluster))
        .chain([resource(Kind::Listener, &listener.name, &listener)])
        .collect()
}

fn inbound(inputs: &Inputs<'_>) -> Vec<resource::Made> {
    let served = listeners::inbound_ports(inputs);
    let listener = listeners::virtual_inbound(inputs, &served);
    served
        .iter()
        .map(|port| {
            let cluster = clusters::inbound(inputs, port);
            resource(Kind::Cluster, &cluster.name, &cluster)
        })
        .chain([resource(Kind::Listener, &listener.name, &listener)])
        .collect()
}
