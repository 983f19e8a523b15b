//! Takes resources in from the control plane: compiles, accepts or rejects each alone, and puts them in force in an order
//! that never shows traffic a half.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use meltemi_core::names;
use meltemi_proto::type_url;
use meltemi_proxy_core::compile;
use meltemi_proxy_core::listener_table::ListenerTable;
use meltemi_proxy_core::runtime::{
    Cluster, ClusterLoadAssignment, Listener, RouteConfiguration, VirtualHost,
};
use meltemi_xds::Resource;
use smallvec::SmallVec;

use super::Routes;
use super::dump::{Retained, Retention};
use super::guard::Loss;
use super::known::{Known, KnownClusters};
use super::on_demand::{Asked, STANDING};
use crate::secrets::{self, is_own};
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
    Cluster(Box<Cluster>),
    ClusterLoadAssignment(Arc<ClusterLoadAssignment>),
    VirtualHost(Arc<VirtualHost>),
    Secret(Arc<str>, Box<secrets::Content>),
}

impl Compiled {
    fn name(&self) -> &Arc<str> {
        match self {
            Self::Listener(listener) => &listener.name,
            Self::RouteConfiguration(routes) => &routes.name,
            Self::Cluster(cluster) => &cluster.name,
            Self::ClusterLoadAssignment(assignment) => &assignment.cluster_name,
            Self::VirtualHost(host) => &host.name,
            Self::Secret(name, _) => name,
        }
    }
}

/// What is wrong with a resource, as the NACK says it after the resource's name.
fn reason(errors: &compile::CompileErrors) -> String {
    let problems = errors.problems.iter();
    let problems: Vec<String> = problems
        .map(|p| format!("{}: {}", p.field, p.reason))
        .collect();
    problems.join("; ")
}

/// How much of a resource is in force.
enum Taken {
    Whole(Compiled),
    /// With the body that is in force, and what is wrong with the rest.
    Part(Compiled, Bytes, String),
}

/// Compiles a resource; the error is what the NACK says after the resource's name.
fn compile(
    type_url: &str,
    body: &Bytes,
    direct_response_limit_bytes: usize,
) -> Result<Compiled, String> {
    fn decode<M: prost::Message + Default>(body: &Bytes) -> Result<M, String> {
        M::decode(&**body).map_err(|error| format!("body: {error}"))
    }
    let reason = |errors: compile::CompileErrors| reason(&errors);
    match type_url {
        type_url::LISTENER => compile::listener(decode(body)?)
            .map(|compiled| Compiled::Listener(Arc::new(compiled)))
            .map_err(reason),
        type_url::CLUSTER => compile::cluster(decode(body)?)
            .map(|compiled| Compiled::Cluster(Box::new(compiled)))
            .map_err(reason),
        type_url::ENDPOINT => compile::cluster_load_assignment(decode(body)?)
            .map(|compiled| Compiled::ClusterLoadAssignment(Arc::new(compiled)))
            .map_err(reason),
        type_url::VIRTUAL_HOST => compile::virtual_host(decode(body)?, direct_response_limit_bytes)
            .map(|compiled| Compiled::VirtualHost(Arc::new(compiled)))
            .map_err(reason),
        type_url::SECRET => {
            let secret = compile::secret(decode(body)?).map_err(reason)?;
            let name = secret.name.clone();
            let content = secrets::Content::new(secret)
                .map_err(|error| format!("{:#}", anyhow::Error::new(error)))?;
            Ok(Compiled::Secret(name, Box::new(content)))
        }
        other => Err(format!(
            "type_url: {other} is not a type this proxy asked for"
        )),
    }
}

/// The resources of a type that a control plane sends whatever the mesh holds.
fn standing(type_url: &str) -> &'static [&'static str] {
    match type_url {
        type_url::LISTENER => &STANDING,
        type_url::CLUSTER => &[
            names::PASSTHROUGH_CLUSTER,
            names::BLACKHOLE_CLUSTER,
            names::INBOUND_PASSTHROUGH_CLUSTER,
        ],
        _ => &[],
    }
}

/// Whether a resource is one of the listeners that own sockets.
pub(crate) fn is_standing_listener(type_url: &str, name: &str) -> bool {
    type_url == type_url::LISTENER && STANDING.contains(&name)
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
    /// One table with the store's, until it changes.
    pub(super) clusters: Arc<KnownClusters>,
    pub(super) assignments: HashMap<Arc<str>, Arc<Retained>>,
    /// Clusters by the name of their endpoints.
    by_endpoints: HashMap<Arc<str>, SmallVec<[Arc<str>; 1]>>,
    /// Names that were asked for and do not exist: an answer too, nothing waits for them any longer.
    pub(super) absent: HashSet<(&'static str, String)>,
    pub(super) asked: Option<Asked>,
    seen: HashSet<&'static str>,
}

/// The types that are taken in.
const KNOWN: [&str; 6] = [
    type_url::CLUSTER,
    type_url::LISTENER,
    type_url::ROUTE,
    type_url::ENDPOINT,
    type_url::VIRTUAL_HOST,
    type_url::SECRET,
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
            clusters: Arc::default(),
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
        added: Vec<Resource>,
        removed: &[String],
    ) -> Vec<Rejection> {
        let mut rejections = Vec::new();
        for resource in added {
            let (name, body) = (resource.name, Bytes::from(resource.body.value));
            let take = |this: &mut Self, compiled: Compiled, version: &str, body| {
                let kept = Retained::now(version.to_owned(), body);
                let key = this.key(&name, &compiled);
                if type_url == type_url::SECRET {
                    // What is secret is kept where it is used alone; only an earlier refusal is over.
                    this.retention.remove(type_url, &key);
                } else {
                    this.retention.keep(type_url, key, kept.clone());
                }
                this.accept(&name, compiled, kept);
            };
            match self.compile(type_url, &name, &body) {
                Ok(Taken::Whole(compiled)) => take(self, compiled, &resource.version, body),
                Ok(Taken::Part(compiled, body, reason)) => {
                    // Never the control plane's version: it must not take this for what it sent.
                    take(
                        self,
                        compiled,
                        &format!("{}-in-part", resource.version),
                        body,
                    );
                    tracing::warn!(%name, reason, "rejected a part of a resource");
                    self.retention
                        .reject(type_url, &name, &resource.version, &reason);
                    rejections.push(Rejection {
                        name: name.to_string(),
                        reason,
                    });
                }
                Err(reason) => {
                    tracing::warn!(%name, reason, "rejected a resource");
                    if type_url == type_url::SECRET && !self.is_held(type_url, &name) {
                        // An answer too: its server refuses handshakes, and nothing waits for it.
                        self.note_absence(type_url, &name, true);
                    }
                    self.retention
                        .reject(type_url, &name, &resource.version, &reason);
                    rejections.push(Rejection {
                        name: name.to_string(),
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

    /// Route configurations are taken in part: a virtual host that is refused keeps its last good form.
    fn compile(&self, type_url: &str, name: &str, body: &Bytes) -> Result<Taken, String> {
        if type_url != type_url::ROUTE {
            let limit_bytes = self.direct_response_limit_bytes(name);
            return compile(type_url, body, limit_bytes).map(Taken::Whole);
        }
        let warming = self.warming_routes.get(name);
        let last = warming
            .or_else(|| self.routes.get(name))
            .map(|last| &**last);
        let compiled = compile::encoded_route_configuration(body, last);
        let compiled = compiled.map_err(|errors| reason(&errors))?;
        let routes = Compiled::RouteConfiguration(Arc::new(compiled.routes));
        Ok(match compiled.refused {
            None => Taken::Whole(routes),
            Some((errors, body)) => Taken::Part(routes, body, reason(&errors)),
        })
    }

    /// Why a resource would not be accepted.
    pub(crate) fn refusal_of(&self, type_url: &str, resource: &Resource) -> Option<String> {
        let body = Bytes::from(resource.body.value.clone());
        self.compile(type_url, &resource.name, &body).err()
    }

    pub(crate) fn is_held(&self, type_url: &str, name: &str) -> bool {
        match type_url {
            type_url::LISTENER => self.listeners.contains_key(name),
            type_url::ROUTE => self.routes.contains_key(name),
            type_url::CLUSTER => self.clusters.contains_key(name),
            type_url::ENDPOINT => self.assignments.contains_key(name),
            type_url::VIRTUAL_HOST => self.hosts.contains_key(name),
            type_url::SECRET => self.shared.secrets.get(name).is_some(),
            _ => false,
        }
    }

    /// What an update would take away.
    pub(crate) fn loss(&self, type_url: &str, added: &[Resource], removed: &[String]) -> Loss {
        let is_held = |name: &&str| self.is_held(type_url, name);
        let standing = standing(type_url);
        let held_standing = standing.iter().filter(|name| is_held(name)).count();
        let removed: Vec<&str> = removed.iter().map(String::as_str).filter(is_held).collect();
        let is_standing = |name: &&&str| standing.contains(*name);
        let removed_standing = removed.iter().filter(is_standing).count();
        let mut names = added.iter().map(|resource| &*resource.name);
        Loss {
            held: self.count(type_url) - held_standing,
            removed: removed.len() - removed_standing,
            removes_standing: removed_standing > 0,
            touches_held: !removed.is_empty() || names.any(|name| is_held(&name)),
        }
    }

    /// How many resources of a type are held.
    fn count(&self, type_url: &str) -> usize {
        match type_url {
            type_url::LISTENER => self.listeners.len(),
            type_url::ROUTE => self.routes.len(),
            type_url::CLUSTER => self.clusters.len(),
            type_url::ENDPOINT => self.assignments.len(),
            type_url::VIRTUAL_HOST => self.hosts.len(),
            type_url::SECRET => self.shared.secrets.all().len(),
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

    /// The name under which a resource is kept: one string with the compiled form's, or the cluster's, where they are equal.
    fn key(&self, name: &str, compiled: &Compiled) -> Arc<str> {
        let of_cluster = self.by_endpoints.get_key_value(name).map(|(key, _)| key);
        let own = Some(compiled.name()).filter(|own| ***own == *name);
        let known = match compiled {
            Compiled::ClusterLoadAssignment(_) => of_cluster.or(own),
            _ => own,
        };
        known.map_or_else(|| name.into(), Arc::clone)
    }

    fn accept(&mut self, name: &str, compiled: Compiled, kept: Arc<Retained>) {
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
                let name = cluster.name.clone();
                self.note_absence(type_url::CLUSTER, &name, false);
                self.unindex(&name);
                let endpoints = cluster.eds_name().and_then(|eds_name| {
                    let clusters = self.by_endpoints.entry(eds_name.clone()).or_default();
                    clusters.push(name.clone());
                    self.assignments.get(eds_name).cloned()
                });
                let previous = self.clusters.get(&name).map(|previous| &**previous);
                let known = Arc::new(Known::new(*cluster, kept, endpoints, previous));
                Arc::make_mut(&mut self.clusters).insert(name, known);
            }
            Compiled::ClusterLoadAssignment(assignment) => {
                let name = &assignment.cluster_name;
                self.note_absence(type_url::ENDPOINT, name, false);
                let indexed = self.by_endpoints.get_key_value(name);
                let clusters = indexed.into_iter().flat_map(|(_, clusters)| clusters);
                for known in clusters.filter_map(|name| self.clusters.get(name)) {
                    known.set_endpoints(&kept, &assignment);
                }
                let key = indexed.map_or(name, |(key, _)| key).clone();
                self.assignments.insert(key, kept);
            }
            Compiled::Secret(name, content) => {
                self.note_absence(type_url::SECRET, &name, false);
                let version = kept.version.to_string();
                self.shared.secrets.put(&name, version, *content);
            }
        }
    }

    /// Forgets where a cluster's endpoints come from, before it is replaced or removed.
    fn unindex(&mut self, cluster: &str) {
        let Some(known) = self.clusters.get(cluster) else {
            return;
        };
        let Some(endpoints) = known.eds_name() else {
            return;
        };
        if let Some(clusters) = self.by_endpoints.get_mut(endpoints) {
            clusters.retain(|name| **name != *cluster);
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
                Arc::make_mut(&mut self.clusters).remove(name);
            }
            type_url::ENDPOINT => {
                self.assignments.remove(name);
            }
            type_url::SECRET => self.shared.secrets.remove(name),
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
        self.shared.store.clusters.store(self.clusters.clone());
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
        let routes = self.wanted_routes();
        let endpoints = self.assignments.keys();
        let stale = endpoints.filter(|name| !self.by_endpoints.contains_key(*name));
        for name in stale.cloned().collect::<Vec<_>>() {
            self.drop_resource(type_url::ENDPOINT, &name);
        }
        let stale = |names: Vec<&Arc<str>>| -> Vec<Arc<str>> {
            let stale = names.into_iter().filter(|name| !routes.contains(*name));
            stale.cloned().collect()
        };
        for name in stale(self.routes.keys().collect()) {
            if let Some(retired) = self.routes.get(&name) {
                self.retired_routes
                    .insert(name.clone(), (retired.clone(), 0));
            }
            self.drop_resource(type_url::ROUTE, &name);
        }
        for name in stale(self.warming_routes.keys().collect()) {
            self.drop_resource(type_url::ROUTE, &name);
        }
        let secrets = self.wanted_secrets();
        self.shared.secrets.keep(&secrets);
        let by_name = self.asked.is_some();
        self.absent.retain(|(url, name)| match *url {
            type_url::SECRET => secrets.contains(name.as_str()),
            type_url::ENDPOINT => self.by_endpoints.contains_key(name.as_str()),
            type_url::ROUTE => routes.contains(name.as_str()),
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
        let mut secrets = listener.secret_names().filter(|name| !is_own(name));
        let has_secrets = secrets.all(|name| {
            self.is_held(type_url::SECRET, name) || self.is_absent(type_url::SECRET, name)
        });
        has_secrets
            && listener
                .route_names()
                .all(|name| self.routes.contains_key(name) || self.is_absent(type_url::ROUTE, name))
    }

    /// The endpoints to ask for by name.
    pub(crate) fn wanted_endpoints(&self) -> impl Iterator<Item = Arc<str>> {
        self.by_endpoints.keys().cloned()
    }

    /// The routes to ask for by name.
    pub(crate) fn wanted_routes(&self) -> BTreeSet<Arc<str>> {
        let listeners = self.listeners.values().chain(self.warming.values());
        listeners
            .flat_map(|listener| listener.route_names().cloned().collect::<Vec<_>>())
            .collect()
    }

    /// The secrets to ask for by name.
    pub(crate) fn wanted_secrets(&self) -> BTreeSet<Arc<str>> {
        let listeners = self.listeners.values().chain(self.warming.values());
        let names = listeners.flat_map(|listener| listener.secret_names());
        names.filter(|name| !is_own(name)).cloned().collect()
    }

    /// Whether traffic can be served as configured: clusters and listeners came, and everything they name.
    pub(crate) fn is_complete(&self) -> bool {
        if self.asked.is_some() {
            return self.has_standing();
        }
        self.seen.contains(type_url::CLUSTER)
            && self.seen.contains(type_url::LISTENER)
            && self.warming.is_empty()
            && self.by_endpoints.keys().all(|name| {
                self.assignments.contains_key(name) || self.is_absent(type_url::ENDPOINT, name)
            })
    }
}
