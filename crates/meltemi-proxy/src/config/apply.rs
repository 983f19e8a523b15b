//! Takes resources in from the control plane: compiles, accepts or rejects each alone, and puts them in force in an order
//! that never shows traffic a half.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use meltemi_proto::type_url;
use meltemi_proxy_core::compile;
use meltemi_proxy_core::listener_table::ListenerTable;
use meltemi_proxy_core::runtime::{
    Cluster, ClusterLoadAssignment, Discovery, Listener, RouteConfiguration,
};
use meltemi_xds::Resource;

use super::dump::{Retained, Retention};
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
}

/// Compiles a resource; the error is what the NACK says after the resource's name.
fn compile(type_url: &str, body: &[u8]) -> Result<Compiled, String> {
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
        other => Err(format!(
            "type_url: {other} is not a type this proxy asked for"
        )),
    }
}

/// Owns the control side of the configuration: everything accepted, also what waits for what it refers to.
pub(crate) struct Configurator {
    shared: Arc<Shared>,
    retention: Arc<Retention>,
    listeners: HashMap<Arc<str>, Arc<Listener>>,
    /// Accepted listeners whose routes have not come yet; the version before them serves on (Envoy: warming).
    warming: HashMap<Arc<str>, Arc<Listener>>,
    routes: HashMap<Arc<str>, Arc<RouteConfiguration>>,
    upstreams: HashMap<Arc<str>, Arc<Upstream>>,
    assignments: HashMap<Arc<str>, Arc<ClusterLoadAssignment>>,
    /// Names that were asked for and do not exist: an answer too, nothing waits for them any longer.
    absent_routes: HashSet<String>,
    absent_endpoints: HashSet<String>,
    seen: HashSet<&'static str>,
}

impl Configurator {
    pub(crate) fn new(shared: Arc<Shared>, retention: Arc<Retention>) -> Self {
        Self {
            shared,
            retention,
            listeners: HashMap::new(),
            warming: HashMap::new(),
            routes: HashMap::new(),
            upstreams: HashMap::new(),
            assignments: HashMap::new(),
            absent_routes: HashSet::new(),
            absent_endpoints: HashSet::new(),
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
            match compile(type_url, &resource.body.value) {
                Ok(compiled) => {
                    self.accept(compiled);
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
            self.retention.remove(type_url, name);
        }
        let counters = &self.shared.telemetry.counters;
        counters.applied_updates.add(1);
        counters.rejected_resources.add(rejections.len() as u64);
        self.publish(type_url);
        rejections
    }

    fn accept(&mut self, compiled: Compiled) {
        match compiled {
            Compiled::Listener(listener) => {
                self.warming.insert(listener.name.clone(), listener);
            }
            Compiled::RouteConfiguration(routes) => {
                self.absent_routes.remove(&*routes.name);
                self.routes.insert(routes.name.clone(), routes);
            }
            Compiled::Cluster(cluster) => {
                let previous = self.upstreams.get(&cluster.name);
                let upstream = Upstream::new(cluster.clone(), previous.map(|previous| &**previous));
                if let Some(assignment) = cluster
                    .eds_name()
                    .and_then(|name| self.assignments.get(name))
                {
                    upstream.set_endpoints(assignment.clone());
                }
                self.upstreams
                    .insert(cluster.name.clone(), Arc::new(upstream));
            }
            Compiled::ClusterLoadAssignment(assignment) => {
                for upstream in self.upstreams.values() {
                    if upstream.config.eds_name() == Some(&assignment.cluster_name) {
                        upstream.set_endpoints(assignment.clone());
                    }
                }
                self.absent_endpoints.remove(&*assignment.cluster_name);
                self.assignments
                    .insert(assignment.cluster_name.clone(), assignment);
            }
        }
    }

    fn remove(&mut self, type_url: &str, name: &str) {
        match type_url {
            type_url::LISTENER => {
                self.listeners.remove(name);
                self.warming.remove(name);
            }
            type_url::ROUTE => {
                self.routes.remove(name);
                self.absent_routes.insert(name.to_owned());
            }
            type_url::CLUSTER => {
                self.upstreams.remove(name);
            }
            type_url::ENDPOINT => {
                self.assignments.remove(name);
                self.absent_endpoints.insert(name.to_owned());
            }
            _ => {}
        }
    }

    /// Puts what is complete in force. Clusters first, then routes, then the listeners that lead to them.
    fn publish(&mut self, type_url: &str) {
        let store = &self.shared.store;
        match type_url {
            type_url::CLUSTER => store.upstreams.store(Arc::new(self.upstreams.clone())),
            type_url::ROUTE => store.routes.store(Arc::new(self.routes.clone())),
            _ => {}
        }
        let warm: Vec<Arc<str>> = self
            .warming
            .values()
            .filter(|listener| self.is_warm(listener))
            .map(|l| l.name.clone())
            .collect();
        let changed = !warm.is_empty() || type_url == type_url::LISTENER;
        for name in warm {
            if let Some(listener) = self.warming.remove(&name) {
                self.listeners.insert(name, listener);
            }
        }
        if changed {
            store.set_listeners(ListenerTable::new(self.listeners.values().cloned()));
        }
        self.seen.extend(
            [
                type_url::CLUSTER,
                type_url::LISTENER,
                type_url::ROUTE,
                type_url::ENDPOINT,
            ]
            .iter()
            .filter(|known| **known == type_url),
        );
        store.notify();
    }

    fn is_warm(&self, listener: &Listener) -> bool {
        listener
            .route_names()
            .all(|name| self.routes.contains_key(name) || self.absent_routes.contains(&**name))
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
        self.seen.contains(type_url::CLUSTER)
            && self.seen.contains(type_url::LISTENER)
            && self.warming.is_empty()
            && self
                .upstreams
                .values()
                .all(|upstream| match &upstream.config.discovery {
                    Discovery::Eds { service_name } => {
                        self.assignments.contains_key(service_name)
                            || self.absent_endpoints.contains(&**service_name)
                    }
                    _ => true,
                })
    }
}
