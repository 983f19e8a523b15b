//! The control side of configuration on demand: what was asked for, what that leads to, and when it is forgotten.
//!
//! | state of an entry | leaves it by |
//! |---|---|
//! | asked for | an answer; nobody waits any longer: after [`UNANSWERED_LIMIT`] |
//! | in force, or does not exist | idle for [`IDLE_LIMIT`] and held by no connection; the least used of too many |
//!
//! Route configurations and clusters follow from listeners and virtual hosts, endpoints from clusters: what nothing in
//! force refers to any longer goes at the second sweep that finds it so.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use meltemi_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, Resource as WireResource,
};
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::type_url;
use meltemi_proxy_core::runtime::{
    HttpFilter, HttpFilterKind, JwtKeys, LazyVirtualHost, Listener, NetworkFilter, RouteAction,
    RouteConfiguration, RouteSource, Terminal, VirtualHost,
};
use meltemi_xds::Resource;

use super::apply::Configurator;
use super::demand::{AnsweredHost, Answers, Demand, Usage, Wish};

/// What nobody uses for this long is forgotten.
const IDLE_LIMIT: Duration = Duration::from_secs(3600);
/// An entry without an answer is given up after this time.
const UNANSWERED_LIMIT: Duration = Duration::from_secs(60);
/// Listeners and virtual hosts that are subscribed to at a time.
pub(crate) const ENTRY_LIMIT: usize = 2048;
/// How often to look for what is idle.
pub(crate) const SWEEP_INTERVAL: Duration = Duration::from_secs(30);
/// The listeners that own sockets. They stand: all others are found through them.
pub(super) const STANDING: [&str; 2] = ["virtualInbound", "virtualOutbound"];
/// The types that are asked for by name, in the order of a push.
const TYPES: [&str; 5] = [
    type_url::CLUSTER,
    type_url::ENDPOINT,
    type_url::LISTENER,
    type_url::ROUTE,
    type_url::VIRTUAL_HOST,
];

/// What the data path has asked for.
pub(super) struct Asked {
    demand: Arc<Demand>,
    entries: BTreeMap<Wish, Arc<Usage>>,
    /// Clusters that nothing referred to at the last sweep.
    unreferenced: HashSet<Arc<str>>,
    changed_since_saved: bool,
}

impl Asked {
    pub(super) fn new(demand: Arc<Demand>) -> Self {
        Self {
            demand,
            entries: BTreeMap::new(),
            unreferenced: HashSet::new(),
            changed_since_saved: false,
        }
    }

    fn add(&mut self, wish: Wish) {
        if self.entries.contains_key(&wish) {
            return;
        }
        let usage = Usage::new(self.demand.second());
        self.entries.insert(wish, usage);
        let count = self.entries.len() as u64;
        self.demand.counts.entries.store(count, Ordering::Relaxed);
    }

    fn remove(&mut self, wish: &Wish) {
        self.entries.remove(wish);
        let count = self.entries.len() as u64;
        self.demand.counts.entries.store(count, Ordering::Relaxed);
    }

    /// The entry that was used the longest ago and that no connection holds.
    fn least_used(&self) -> Option<Wish> {
        let idle = self.entries.iter().filter(|(_, usage)| !usage.is_active());
        let least = idle.min_by_key(|(_, usage)| usage.last_second());
        least.map(|(wish, _)| wish.clone())
    }
}

impl Configurator {
    /// Grants wishes of the data path: subscribes to what they name.
    pub(crate) fn ask(&mut self, wishes: Vec<Wish>) {
        for wish in wishes {
            let Some(asked) = &mut self.asked else { return };
            if asked.entries.len() >= ENTRY_LIMIT && !asked.entries.contains_key(&wish) {
                let Some(least) = asked.least_used() else {
                    asked.demand.counts.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                };
                asked.demand.counts.evicted.fetch_add(1, Ordering::Relaxed);
                self.forget(&least);
            }
            if let Some(asked) = &mut self.asked {
                asked.add(wish);
            }
        }
        self.publish_demanded();
    }

    /// Shows people what is subscribed to and not held: what does not exist, what was not answered yet.
    fn show_others(&self) {
        let Some(subscriptions) = self.subscriptions() else {
            return;
        };
        let others = subscriptions.into_iter().map(|(url, names)| {
            let state = |name: String| {
                let state = if self.is_absent(url, &name) {
                    "DOES_NOT_EXIST"
                } else {
                    "REQUESTED"
                };
                (name, state)
            };
            let others = names.into_iter().filter(|name| !self.is_held(url, name));
            (url, others.map(state).collect())
        });
        self.retention.set_others(others.collect());
    }

    /// The names to subscribe to, per type; `None` for a proxy that gets the full set.
    pub(crate) fn subscriptions(&self) -> Option<BTreeMap<&'static str, BTreeSet<String>>> {
        let asked = self.asked.as_ref()?;
        let mut names: BTreeMap<&str, BTreeSet<String>> =
            TYPES.iter().map(|url| (*url, BTreeSet::new())).collect();
        let mut add = |url, name: &str| {
            names.entry(url).or_default().insert(name.to_owned());
        };
        for name in STANDING {
            add(type_url::LISTENER, name);
        }
        for wish in asked.entries.keys() {
            add(wish.type_url(), wish.name());
        }
        for cluster in self
            .referenced_clusters()
            .iter()
            .chain(self.clusters.keys())
        {
            add(type_url::CLUSTER, cluster);
        }
        for endpoints in self.wanted_endpoints() {
            add(type_url::ENDPOINT, &endpoints);
        }
        for routes in self.wanted_routes() {
            add(type_url::ROUTE, &routes);
        }
        Some(names)
    }

    /// Every cluster that traffic may be sent to by what is in force or about to be.
    fn referenced_clusters(&self) -> HashSet<Arc<str>> {
        let listeners = self.listeners.values().chain(self.warming.values());
        let routes = self.routes.values().chain(self.warming_routes.values());
        let hosts = self.hosts.values().chain(self.warming_hosts.values());
        let mut clusters = HashSet::new();
        listeners.for_each(|listener| clusters.extend(clusters_of_listener(listener)));
        routes.for_each(|routes| clusters.extend(clusters_of_routes(routes)));
        hosts.for_each(|host| clusters.extend(clusters_of_host(host)));
        clusters
    }

    /// Whether traffic to the cluster can be served, or it is known that it cannot.
    fn is_settled(&self, cluster: &Arc<str>) -> bool {
        if self.is_absent(type_url::CLUSTER, cluster) {
            return true;
        }
        self.clusters.get(cluster).is_some_and(|known| {
            known.is_initialised()
                && known.eds_name().is_none_or(|name| {
                    self.assignments.contains_key(name) || self.is_absent(type_url::ENDPOINT, name)
                })
        })
    }

    /// Whether everything that a listener leads to is there.
    pub(super) fn leads_somewhere(&self, listener: &Listener) -> bool {
        let routes_settled = listener
            .route_names()
            .all(|name| self.routes.contains_key(name) || self.is_absent(type_url::ROUTE, name));
        let clusters = clusters_of_listener(listener);
        routes_settled && clusters.iter().all(|cluster| self.is_settled(cluster))
    }

    /// Puts routes and virtual hosts in force whose clusters have come, then tells the data path what is answered.
    pub(crate) fn publish_demanded(&mut self) {
        if self.asked.is_none() {
            return;
        }
        let warm: Vec<Arc<str>> = self
            .warming_routes
            .iter()
            .filter(|(_, routes)| {
                clusters_of_routes(routes)
                    .iter()
                    .all(|c| self.is_settled(c))
            })
            .map(|(name, _)| name.clone())
            .collect();
        let has_warm_routes = !warm.is_empty();
        for name in warm {
            if let Some(routes) = self.warming_routes.remove(&name) {
                self.routes.insert(name, routes);
            }
        }
        if has_warm_routes {
            self.publish_routes();
        }
        let warm: Vec<String> = self
            .warming_hosts
            .iter()
            .filter(|(_, host)| clusters_of_host(host).iter().all(|c| self.is_settled(c)))
            .map(|(name, _)| name.clone())
            .collect();
        for name in warm {
            if let Some(host) = self.warming_hosts.remove(&name) {
                self.hosts.insert(name, host);
            }
        }
        self.publish_listeners(false);
        self.note_change();
        self.answer();
    }

    fn note_change(&mut self) {
        if let Some(asked) = &mut self.asked {
            asked.changed_since_saved = true;
        }
    }

    fn answer(&mut self) {
        let mut answers = Answers::default();
        let Some(asked) = &self.asked else { return };
        for (wish, usage) in &asked.entries {
            let is_absent = self.is_absent(wish.type_url(), wish.name());
            match wish {
                Wish::Listener(name) => {
                    if is_absent || self.listeners.contains_key(name.as_str()) {
                        answers
                            .listeners
                            .insert(name.as_str().into(), usage.clone());
                    }
                }
                Wish::Host(name) => {
                    let host = self.hosts.get(name).cloned();
                    let Some((routes, authority)) = name.split_once('/') else {
                        continue;
                    };
                    if is_absent || host.is_some() {
                        let usage = usage.clone();
                        let of_routes = answers.hosts.entry(routes.into()).or_default();
                        of_routes.insert(authority.into(), AnsweredHost { host, usage });
                    }
                }
            }
        }
        asked.demand.publish(answers);
        self.show_others();
    }

    /// Forgets what is idle, and what nothing refers to any longer.
    pub(crate) fn sweep(&mut self) {
        self.drop_retired();
        let Some(asked) = &self.asked else { return };
        asked.demand.tick();
        let now = asked.demand.second();
        let idle = |(wish, usage): &(&Wish, &Arc<Usage>)| {
            let limit = if self.is_answered(wish) {
                IDLE_LIMIT
            } else {
                UNANSWERED_LIMIT
            };
            !usage.is_active() && usage.last_second() + limit.as_secs() <= now
        };
        let idle = asked.entries.iter().filter(idle);
        let idle: Vec<Wish> = idle.map(|(wish, _)| wish.clone()).collect();
        let expired = &asked.demand.counts.expired;
        expired.fetch_add(idle.len() as u64, Ordering::Relaxed);
        for wish in &idle {
            self.forget(wish);
            self.note_change();
        }
        self.drop_unreferenced();
        self.publish_listeners(!idle.is_empty());
        self.answer();
    }

    fn is_answered(&self, wish: &Wish) -> bool {
        let is_held = match wish {
            Wish::Listener(name) => self.listeners.contains_key(name.as_str()),
            Wish::Host(name) => self.hosts.contains_key(name),
        };
        is_held || self.is_absent(wish.type_url(), wish.name())
    }

    fn forget(&mut self, wish: &Wish) {
        if let Some(asked) = &mut self.asked {
            asked.remove(wish);
        }
        self.drop_resource(wish.type_url(), wish.name());
    }

    /// Clusters leave a sweep later than the last that referred to them: a request that has just chosen one still looks
    /// for it.
    fn drop_unreferenced(&mut self) {
        let referenced = self.referenced_clusters();
        let names = self.clusters.keys();
        let unreferenced: HashSet<Arc<str>> = names
            .filter(|name| !referenced.contains(*name))
            .cloned()
            .collect();
        let Some(asked) = &mut self.asked else { return };
        let before = std::mem::replace(&mut asked.unreferenced, unreferenced.clone());
        for name in unreferenced.intersection(&before) {
            self.drop_resource(type_url::CLUSTER, name);
        }
        self.drop_unsubscribed();
        let wanted = self.subscriptions().unwrap_or_default();
        self.absent.retain(|(url, name)| {
            let of_type = wanted.get(url);
            of_type.is_some_and(|names| names.contains(name))
        });
        self.publish_routes();
        self.publish_upstreams();
        self.shared.store.notify();
    }

    /// The configuration in use if it changed since this was last asked, to be kept for the next start.
    pub(crate) fn take_changes_to_save(&mut self) -> Option<Vec<DeltaDiscoveryResponse>> {
        let asked = self.asked.as_mut()?;
        if !std::mem::take(&mut asked.changed_since_saved) {
            return None;
        }
        let of_type = |url: &str| DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            resources: self
                .retention
                .of(url)
                .accepted
                .into_iter()
                .map(|(name, retained)| WireResource {
                    name: name.to_string(),
                    version: retained.version.to_string(),
                    resource: Some(Any {
                        type_url: url.to_owned(),
                        value: retained.body.to_vec(),
                    }),
                    ..WireResource::default()
                })
                .collect(),
            removed_resources: self
                .absent
                .iter()
                .filter(|(of, _)| *of == url)
                .map(|(_, name)| name.clone())
                .collect(),
            ..DeltaDiscoveryResponse::default()
        };
        Some(TYPES.into_iter().map(of_type).collect())
    }

    /// Takes up the configuration that an earlier run kept.
    pub(crate) fn restore(&mut self, saved: Vec<DeltaDiscoveryResponse>) {
        if self.asked.is_none() {
            return;
        }
        for of_type in saved {
            let names = of_type.resources.iter().map(|resource| &resource.name);
            let names: Vec<String> = names.chain(&of_type.removed_resources).cloned().collect();
            let wish: Option<fn(String) -> Wish> = match of_type.type_url.as_str() {
                type_url::LISTENER => Some(Wish::Listener),
                type_url::VIRTUAL_HOST => Some(Wish::Host),
                _ => None,
            };
            let asked_for = names
                .into_iter()
                .filter(|name| !STANDING.contains(&name.as_str()));
            if let (Some(wish), Some(asked)) = (wish, &mut self.asked) {
                asked_for
                    .take(ENTRY_LIMIT)
                    .for_each(|name| asked.add(wish(name)));
            }
            let resources: Vec<Resource> = of_type
                .resources
                .into_iter()
                .filter_map(|resource| {
                    Some(Resource {
                        name: resource.name.into(),
                        version: resource.version.into(),
                        body: resource.resource?,
                    })
                })
                .collect();
            // What a newer version of the proxy refuses is asked for anew.
            self.apply(&of_type.type_url, resources, &of_type.removed_resources);
        }
    }

    /// Whether the listeners that own sockets are in force.
    pub(super) fn has_standing(&self) -> bool {
        STANDING
            .iter()
            .all(|name| self.listeners.contains_key(*name))
    }
}

fn clusters_of_listener(listener: &Listener) -> Vec<Arc<str>> {
    let of_terminal = |terminal: &Terminal| match terminal {
        Terminal::Tcp(tcp) => tcp.target.clusters().into_iter().cloned().collect(),
        Terminal::Http(manager) => {
            let keys = manager.http_filters.iter().flat_map(clusters_of_filter);
            match &manager.routes {
                RouteSource::Inline(routes) => keys.chain(clusters_of_routes(routes)).collect(),
                RouteSource::Rds(_) => keys.collect(),
            }
        }
        Terminal::Close => Vec::new(),
    };
    let of_network_filter = |filter: &NetworkFilter| match filter {
        NetworkFilter::ExtAuthz(config) => Some(config.authorizer.cluster.clone()),
        _ => None,
    };
    listener
        .chains()
        .flat_map(|chain| {
            let asked = chain.filters.iter().filter_map(of_network_filter);
            let mut clusters = of_terminal(&chain.terminal);
            clusters.extend(asked);
            clusters
        })
        .collect()
}

/// Where a filter fetches the keys of tokens, or asks an authorizer.
fn clusters_of_filter(filter: &HttpFilter) -> Vec<Arc<str>> {
    match &filter.kind {
        HttpFilterKind::Jwt(config) => {
            let providers = config.providers.iter();
            let clusters = providers.filter_map(|provider| match &provider.keys {
                JwtKeys::Remote(remote) => Some(remote.cluster.clone()),
                JwtKeys::Local(_) => None,
            });
            clusters.collect()
        }
        HttpFilterKind::ExtAuthz(config) => vec![config.authorizer.cluster().clone()],
        _ => Vec::new(),
    }
}

fn clusters_of_routes(routes: &RouteConfiguration) -> Vec<Arc<str>> {
    let mirrors = routes.mirrors.iter().map(|mirror| mirror.cluster.clone());
    let hosts = routes.virtual_hosts.iter().filter_map(LazyVirtualHost::get);
    hosts
        .flat_map(|host| clusters_of_host(host))
        .chain(mirrors)
        .collect()
}

fn clusters_of_host(host: &VirtualHost) -> Vec<Arc<str>> {
    let of_action = |action: &RouteAction| match action {
        RouteAction::Forward(forward) => forward.clusters().into_iter().cloned().collect(),
        RouteAction::Redirect(_) | RouteAction::DirectResponse(_) => Vec::new(),
    };
    let routes = host.routes.iter();
    routes.flat_map(|route| of_action(&route.action)).collect()
}
