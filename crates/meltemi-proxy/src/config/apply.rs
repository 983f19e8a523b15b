//! Takes resources in from the control plane: compiles, accepts or rejects each alone, and puts them in force in an order
//! that never shows traffic a half.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use meltemi_proto::type_url;
use meltemi_proxy_core::compile;
use meltemi_proxy_core::listener_table::ListenerTable;
use meltemi_proxy_core::runtime::{
    Cluster, ClusterLoadAssignment, Discovery, Listener, RouteConfiguration, VirtualHost,
};
use meltemi_xds::Resource;

use super::dump::{Retained, Retention};
use super::on_demand::Asked;
use super::{Routes, Upstreams};
use crate::upstream::Upstream;
use crate::worker::Shared;

/// A resource that is not taken, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) name: String,
    pub(crate) reason: String,
}

/// A compiled resource.
enum Compiled {
    Listener(Arc<Listener>),
    RouteConfiguration(Arc<RouteConfiguration>),
    Cluster(Arc<Cluster>),
    ClusterLoadAssignment(Arc<ClusterLoadAssignment>),
    VirtualHost(Arc<VirtualHost>),
}

/// Compiles a resource; the error is what the NACK says after the resource's name.
fn compile(
    type_url: &str,
    body: &[u8],
    direct_response_limit_bytes: usize,
) -> Result<Compiled, String> {
    fn decode<M: prost::Message + Default>(body: &[u8]) -> Result<M, String> {
        M::decode(body).map_err(|error| format!("body: {error}"))
    }
    let reason = |errors: compile::CompileErrors| {
        let problems: Vec<String> = errors
            .problems
            .iter()
            .map(|p| format!("{}: {}", p.field, p.reason))
            .collect();
        problems.join("; ")
    };
    match type_url {
        type_url::LISTENER => compile::listener(decode(body)?)
            .map(|compiled| Compiled::Listener(Arc::new(compiled)))
            .map_err(reason),
        type_url::ROUTE => compile::route_configuration(decode(body)?)
            .map(|compiled| Compiled::RouteConfiguration(Arc::new(compiled)))
            .map_err(reason),
        type_url::CLUSTER => compile::cluster(decode(body)?)
            .map(|compiled| Compiled::Cluster(Arc::new(compiled)))
            .map_err(reason),
        type_url::ENDPOINT => compile::cluster_load_assignment(decode(body)?)
            .map(|compiled| Compiled::ClusterLoadAssignment(Arc::new(compiled)))
            .map_err(reason),
        type_url::VIRTUAL_HOST => compile::virtual_host(decode(body)?, direct_response_limit_bytes)
            .map(|compiled| Compiled::VirtualHost(Arc::new(compiled)))
            .map_err(reason),
        other => Err(format!(
            "type_url: {other} is not a type this proxy asked for"
        )),
    }
}

/// Two minutes and more, of 45 s that connections drain for by default.
const RETIRED_SWEEPS: u8 = 5;

/// Owns the control side of the configuration: everything accepted, also what waits for what it refers to.
pub(crate) struct Configurator {
    pub(super) shared: Arc<Shared>,
    pub(super) retention: Arc<Retention>,
    pub(super) listeners: HashMap<Arc<str>, Arc<Listener>>,
    /// Accepted listeners whose routes have not come yet; the version before them serves on (Envoy: warming).
    pub(super) warming: HashMap<Arc<str>, Arc<Listener>>,
    pub(super) routes: HashMap<Arc<str>, Arc<RouteConfiguration>>,
    /// Routes and virtual hosts whose clusters have not come yet; on demand only.
    /// Routes that no listener names any longer, by sweeps survived: draining connections still look for theirs.
    pub(super) retired_routes: HashMap<Arc<str>, (Arc<RouteConfiguration>, u8)>,
    pub(super) warming_routes: HashMap<Arc<str>, Arc<RouteConfiguration>>,
    pub(super) hosts: HashMap<String, Arc<VirtualHost>>,
    pub(super) warming_hosts: HashMap<String, Arc<VirtualHost>>,
    pub(super) upstreams: Upstreams,
    pub(super) assignments: HashMap<Arc<str>, Arc<ClusterLoadAssignment>>,
    /// Clusters by the name of their endpoints.
    by_endpoints: HashMap<Arc<str>, BTreeSet<Arc<str>>>,
    /// Names that were asked for and do not exist: an answer too, nothing waits for them any longer.
    pub(super) absent: HashSet<(&'static str, String)>,
    pub(super) asked: Option<Asked>,
    seen: HashSet<&'static str>,
}

/// The types that are taken in.
const KNOWN: [&str; 5] = [
    type_url::CLUSTER,
    type_url::LISTENER,
    type_url::ROUTE,
    type_url::ENDPOINT,
    type_url::VIRTUAL_HOST,
];

impl Configurator {
    pub(crate) fn new(shared: Arc<Shared>, retention: Arc<Retention>) -> Self {
        let demand = shared.store.demand.clone();
        Self {
            shared,
            retention,
            listeners: HashMap::new(),
            warming: HashMap::new(),
            routes: HashMap::new(),
            retired_routes: HashMap::new(),
            warming_routes: HashMap::new(),
            hosts: HashMap::new(),
            warming_hosts: HashMap::new(),
            upstreams: Upstreams::default(),
            assignments: HashMap::new(),
            by_endpoints: HashMap::new(),
            absent: HashSet::new(),
            asked: demand.map(Asked::new),
            seen: HashSet::new(),
        }
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Applies one update of one type. What is rejected keeps its last good version.
    pub(crate) fn apply(
        &mut self,
        type_url: &str,
        added: &[Resource],
        removed: &[String],
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for resource in added {
            let limit_bytes = self.direct_response_limit_bytes(&resource.name);
            match compile(type_url, &resource.body.value, limit_bytes) {
                Ok(compiled) => {
                    self.accept(&resource.name, compiled);
                    self.retention.keep(type_url, Retained::now(resource));
                }
                Err(reason) => {
                    tracing::warn!(name = resource.name, reason, "rejected a resource");
                    self.retention
                        .reject(type_url, &resource.name, &resource.version, &reason);
                    rejections.push(Rejection {
                        name: resource.name.clone(),
                        reason,
                    });
                }
            }
        }
        for name in removed {
            self.remove(type_url, name);
            self.note_absence(type_url, name, true);
            self.retention.remove(type_url, name);
        }
        let counters = &self.shared.telemetry.counters;
        counters.applied_updates.add(1);
        counters.rejected_resources.add(rejections.len() as u64);
        self.publish(type_url);
        rejections
    }

    /// How many of these names are held.
    pub(crate) fn count_held(&self, type_url: &str, names: &[String]) -> usize {
        let is_held = |name: &&String| match type_url {
            type_url::LISTENER => self.listeners.contains_key(name.as_str()),
            type_url::ROUTE => self.routes.contains_key(name.as_str()),
            type_url::CLUSTER => self.upstreams.contains_key(name.as_str()),
            type_url::ENDPOINT => self.assignments.contains_key(name.as_str()),
            type_url::VIRTUAL_HOST => self.hosts.contains_key(name.as_str()),
            _ => false,
        };
        names.iter().filter(is_held).count()
    }

    /// How many resources of a type are held.
    pub(crate) fn count(&self, type_url: &str) -> usize {
        match type_url {
            type_url::LISTENER => self.listeners.len(),
            type_url::ROUTE => self.routes.len(),
            type_url::CLUSTER => self.upstreams.len(),
            type_url::ENDPOINT => self.assignments.len(),
            type_url::VIRTUAL_HOST => self.hosts.len(),
            _ => 0,
        }
    }

    /// The bound of a virtual host's route configuration, which is its name's first part.
    fn direct_response_limit_bytes(&self, name: &str) -> usize {
        let routes = name.split_once('/').map_or(name, |(routes, _)| routes);
        let warming = self.warming_routes.get(routes);
        let config = warming.or_else(|| self.routes.get(routes));
        config.map_or(0, |config| config.direct_response_limit_bytes)
    }

    pub(super) fn is_absent(&self, type_url: &'static str, name: &str) -> bool {
        self.absent.contains(&(type_url, name.to_owned()))
    }

    fn note_absence(&mut self, type_url: &str, name: &str, absent: bool) {
        let Some(known) = KNOWN.into_iter().find(|known| *known == type_url) else {
            return;
        };
        let key = (known, name.to_owned());
        if absent {
            self.absent.insert(key);
        } else {
            self.absent.remove(&key);
        }
    }

    fn accept(&mut self, name: &str, compiled: Compiled) {
        match compiled {
            Compiled::VirtualHost(host) => {
                self.note_absence(type_url::VIRTUAL_HOST, name, false);
                self.warming_hosts.insert(name.to_owned(), host);
            }
            Compiled::Listener(listener) => {
                self.note_absence(type_url::LISTENER, &listener.name, false);
                self.warming.insert(listener.name.clone(), listener);
            }
            Compiled::RouteConfiguration(routes) => {
                self.note_absence(type_url::ROUTE, &routes.name, false);
                if self.asked.is_some() {
                    self.warming_routes.insert(routes.name.clone(), routes);
                } else {
                    self.routes.insert(routes.name.clone(), routes);
                }
            }
            Compiled::Cluster(cluster) => {
                self.note_absence(type_url::CLUSTER, &cluster.name, false);
                let previous = self.upstreams.get(&cluster.name);
                let upstream = Upstream::new(cluster.clone(), previous.map(|previous| &**previous));
                if let Some(assignment) = cluster
                    .eds_name()
                    .and_then(|name| self.assignments.get(name))
                {
                    upstream.set_endpoints(assignment.clone());
                }
                self.unindex(&cluster.name);
                if let Some(endpoints) = cluster.eds_name() {
                    let clusters = self.by_endpoints.entry(endpoints.clone()).or_default();
                    clusters.insert(cluster.name.clone());
                }
                self.upstreams
                    .insert(cluster.name.clone(), Arc::new(upstream));
            }
            Compiled::ClusterLoadAssignment(assignment) => {
                let clusters = self.by_endpoints.get(&assignment.cluster_name);
                for name in clusters.into_iter().flatten() {
                    if let Some(upstream) = self.upstreams.get(name) {
                        upstream.set_endpoints(assignment.clone());
                    }
                }
                self.note_absence(type_url::ENDPOINT, &assignment.cluster_name, false);
                self.assignments
                    .insert(assignment.cluster_name.clone(), assignment);
            }
        }
    }

    /// Forgets where a cluster's endpoints come from, before it is replaced or removed.
    fn unindex(&mut self, cluster: &str) {
        let Some(upstream) = self.upstreams.get(cluster) else {
            return;
        };
        let Some(endpoints) = upstream.config.eds_name() else {
            return;
        };
        if let Some(clusters) = self.by_endpoints.get_mut(endpoints) {
            clusters.remove(cluster);
            if clusters.is_empty() {
                self.by_endpoints.remove(endpoints);
            }
        }
    }

    pub(super) fn remove(&mut self, type_url: &str, name: &str) {
        match type_url {
            type_url::LISTENER => {
                self.listeners.remove(name);
                self.warming.remove(name);
            }
            type_url::ROUTE => {
                self.routes.remove(name);
                self.warming_routes.remove(name);
            }
            type_url::VIRTUAL_HOST => {
                self.hosts.remove(name);
                self.warming_hosts.remove(name);
            }
            type_url::CLUSTER => {
                self.unindex(name);
                self.upstreams.remove(name);
            }
            type_url::ENDPOINT => {
                self.assignments.remove(name);
            }
            _ => {}
        }
    }

    /// Puts what is complete in force. Clusters first, then routes, then the listeners that lead to them.
    fn publish(&mut self, type_url: &str) {
        match type_url {
            type_url::CLUSTER => self.publish_upstreams(),
            type_url::ROUTE => self.publish_routes(),
            _ => {}
        }
        self.publish_listeners(type_url == type_url::LISTENER);
        self.publish_demanded();
        self.drop_unsubscribed();
        self.seen
            .extend(KNOWN.iter().filter(|known| **known == type_url));
        self.shared.store.notify();
    }

    pub(super) fn publish_upstreams(&self) {
        let upstreams = Arc::new(self.upstreams.clone());
        self.shared.store.upstreams.store(upstreams);
    }

    pub(super) fn publish_routes(&self) {
        let retired = self.retired_routes.iter();
        let mut routes: Routes = retired
            .map(|(name, (routes, _))| (name.clone(), routes.clone()))
            .collect();
        routes.extend(self.routes.clone());
        self.shared.store.routes.store(Arc::new(routes));
    }

    /// Forgets endpoints and routes that nothing names any longer. They are not subscribed to, so nobody tells of their
    /// changes: what names them again must not start with them.
    pub(super) fn drop_unsubscribed(&mut self) {
        let (endpoints, routes) = (self.wanted_endpoints(), self.wanted_routes());
        let stale = |names: Vec<&Arc<str>>, wanted: &BTreeSet<String>| -> Vec<Arc<str>> {
            let stale = names.into_iter().filter(|name| !wanted.contains(&***name));
            stale.cloned().collect()
        };
        for name in stale(self.assignments.keys().collect(), &endpoints) {
            self.drop_resource(type_url::ENDPOINT, &name);
        }
        for name in stale(self.routes.keys().collect(), &routes) {
            if let Some(retired) = self.routes.get(&name) {
                self.retired_routes
                    .insert(name.clone(), (retired.clone(), 0));
            }
            self.drop_resource(type_url::ROUTE, &name);
        }
        for name in stale(self.warming_routes.keys().collect(), &routes) {
            self.drop_resource(type_url::ROUTE, &name);
        }
        let by_name = self.asked.is_some();
        self.absent.retain(|(url, name)| match *url {
            type_url::ENDPOINT => endpoints.contains(name),
            type_url::ROUTE => routes.contains(name),
            // With the full set the others are not asked for by name, and what is gone is gone.
            _ => by_name,
        });
    }

    /// Lets go of retired routes once no connection can be draining any longer.
    pub(super) fn drop_retired(&mut self) {
        let before = self.retired_routes.len();
        for (_, sweeps) in self.retired_routes.values_mut() {
            *sweeps += 1;
        }
        self.retired_routes
            .retain(|_, (_, sweeps)| *sweeps < RETIRED_SWEEPS);
        if self.retired_routes.len() != before {
            self.publish_routes();
        }
    }

    pub(super) fn drop_resource(&mut self, type_url: &'static str, name: &str) {
        self.remove(type_url, name);
        self.absent.remove(&(type_url, name.to_owned()));
        self.retention.remove(type_url, name);
    }

    /// Puts listeners in force that are complete; all again if some were changed otherwise.
    pub(super) fn publish_listeners(&mut self, mut changed: bool) {
        let warm: Vec<Arc<str>> = self
            .warming
            .values()
            .filter(|listener| self.is_warm(listener))
            .map(|l| l.name.clone())
            .collect();
        changed |= !warm.is_empty();
        for name in warm {
            if let Some(listener) = self.warming.remove(&name) {
                self.listeners.insert(name, listener);
            }
        }
        if changed {
            let table = ListenerTable::new(self.listeners.values().cloned());
            self.shared.store.set_listeners(table);
        }
    }

    fn is_warm(&self, listener: &Listener) -> bool {
        if self.asked.is_some() {
            return self.leads_somewhere(listener);
        }
        listener
            .route_names()
            .all(|name| self.routes.contains_key(name) || self.is_absent(type_url::ROUTE, name))
    }

    /// The endpoints to ask for by name.
    pub(crate) fn wanted_endpoints(&self) -> BTreeSet<String> {
        self.upstreams
            .values()
            .filter_map(|upstream| upstream.config.eds_name())
            .map(ToString::to_string)
            .collect()
    }

    /// The routes to ask for by name.
    pub(crate) fn wanted_routes(&self) -> BTreeSet<String> {
        let listeners = self.listeners.values().chain(self.warming.values());
        listeners
            .flat_map(|listener| {
                listener
                    .route_names()
                    .map(ToString::to_string)
                    .collect::<Vec<_>>()
            })
            .collect()
    }

    /// Whether traffic can be served as configured: clusters and listeners came, and everything they name.
    pub(crate) fn is_complete(&self) -> bool {
        if self.asked.is_some() {
            return self.has_standing();
        }
        self.seen.contains(type_url::CLUSTER)
            && self.seen.contains(type_url::LISTENER)
            && self.warming.is_empty()
            && self
                .upstreams
                .values()
                .all(|upstream| match &upstream.config.discovery {
                    Discovery::Eds { service_name } => {
                        self.assignments.contains_key(service_name)
                            || self.is_absent(type_url::ENDPOINT, service_name)
                    }
                    _ => true,
                })
    }
}
