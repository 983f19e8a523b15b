//! A cluster at work: its configuration, its current hosts and the balancer over them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use arc_swap::ArcSwap;
use meltemi_proxy_core::balance::{LoadBalancer, Pick};
use meltemi_proxy_core::quick::QuickMap;
use meltemi_proxy_core::runtime::{
    Cluster, ClusterLoadAssignment, Discovery, Endpoint, EndpointAddress, Thresholds, UpstreamTls,
};
use parking_lot::Mutex;
use rand::Rng as _;
use tokio::time::Instant;

use super::host::{Host, HostState};
use super::outlier::Outcome;
use super::pool::{DEFAULT_MAX_STREAMS, PoolLimits};
use super::tls::fingerprint;
use crate::telemetry::series::Counter;

/// Hosts remembered of an original-destination cluster.
const ORIGINAL_DST_LIMIT: usize = 4096;

/// A cluster that requests and connections go to.
pub(crate) struct Upstream {
    pub(crate) config: Arc<Cluster>,
    pub(crate) limits: PoolLimits,
    pub(crate) stats: Arc<ClusterStats>,
    hosts: ArcSwap<HostSet>,
    /// Hosts of an original-destination cluster, made as connections ask for them.
    original: Mutex<HashMap<SocketAddr, Arc<Host>>>,
    fingerprints: HashMap<usize, u64>,
    turn: AtomicU64,
    /// Its names were looked up once, if it has any (Envoy: the cluster is initialised).
    is_initialised: AtomicBool,
}

/// Numbers of a cluster that outlive its updates.
#[derive(Debug, Default)]
pub(crate) struct ClusterStats {
    pub(crate) active_requests: AtomicU32,
    pub(crate) active_connections: AtomicU32,
    /// Requests that wait for a connection.
    pub(crate) pending_requests: AtomicU32,
    pub(crate) active_retries: AtomicU32,
    pub(crate) retries: Counter,
    /// What a circuit breaker turned away.
    pub(crate) overflows: Counter,
    /// Of hosts that are gone, too.
    pub(crate) connections: Counter,
    pub(crate) connect_failures: Counter,
    pub(crate) requests: Counter,
    /// Times that a connection was wanted and `max_connections` stood against it.
    pub(crate) connection_overflows: Counter,
    pub(crate) ejections: Counter,
}

struct HostSet {
    assignment: Arc<ClusterLoadAssignment>,
    balancer: LoadBalancer,
    hosts: Vec<Arc<Host>>,
    by_endpoint: QuickMap<usize, Arc<Host>>,
}

/// A host, or why there is none.
pub(crate) enum Picked {
    Host(Arc<Host>),
    /// No endpoint can take the request.
    NoHealthyHost,
    /// The cluster drops a share of its load on purpose.
    Dropped,
}

/// What a pick depends on.
pub(crate) struct PickFor<'a> {
    pub(crate) hash: Option<u64>,
    /// How often to choose again when the choice was tried before.
    pub(crate) attempts: u32,
    pub(crate) original_dst: Option<SocketAddr>,
    pub(crate) tried: &'a [SocketAddr],
}

fn key(endpoint: &Arc<Endpoint>) -> usize {
    Arc::as_ptr(endpoint) as usize
}

impl Upstream {
    /// Makes a cluster; `previous` hands over its hosts' state and, for EDS, its endpoints until new ones come.
    pub(crate) fn new(config: Arc<Cluster>, previous: Option<&Self>) -> Self {
        let contexts = config
            .transport
            .matches
            .iter()
            .filter_map(|m| m.tls.as_ref())
            .chain(&config.transport.default);
        let fingerprints = contexts
            .map(|tls| (Arc::as_ptr(tls) as usize, fingerprint(tls)))
            .collect();
        let assignment = match (&config.discovery, previous) {
            (Discovery::Static(assignment), _) => assignment.clone(),
            (Discovery::Eds { service_name }, Some(previous))
                if previous.config.eds_name() == Some(service_name) =>
            {
                previous.hosts.load().assignment.clone()
            }
            // What was resolved serves until the names are resolved again.
            (Discovery::StrictDns { .. } | Discovery::LogicalDns { .. }, Some(previous))
                if previous.resolves_names() =>
            {
                previous.hosts.load().assignment.clone()
            }
            _ => Arc::new(empty_assignment(&config.name)),
        };
        let http = &config.http;
        let limits = PoolLimits {
            idle_timeout: http
                .idle_timeout
                .unwrap_or(std::time::Duration::from_secs(365 * 24 * 3600)),
            max_requests_per_connection: http.max_requests_per_connection.unwrap_or(0),
            max_streams: http
                .http2
                .max_concurrent_streams
                .map_or(DEFAULT_MAX_STREAMS, |max| max.max(1) as usize),
            max_age: http.max_connection_duration,
        };
        let needs_lookup = matches!(
            config.discovery,
            Discovery::StrictDns { .. } | Discovery::LogicalDns { .. }
        );
        let was_initialised =
            previous.is_some_and(|previous| previous.resolves_names() && previous.is_initialised());
        let upstream = Self {
            is_initialised: AtomicBool::new(!needs_lookup || was_initialised),
            hosts: ArcSwap::from_pointee(HostSet::empty(&config, &assignment)),
            limits,
            stats: previous.map_or_else(Arc::default, |previous| previous.stats.clone()),
            original: Mutex::default(),
            fingerprints,
            turn: AtomicU64::new(0),
            config,
        };
        let states = previous.map(Self::states).unwrap_or_default();
        upstream.install(assignment, &states);
        upstream
    }

    pub(crate) fn is_initialised(&self) -> bool {
        self.is_initialised.load(Ordering::Acquire)
    }

    /// Notes that its names were looked up; true the first time.
    pub(crate) fn initialised(&self) -> bool {
        !self.is_initialised.swap(true, Ordering::AcqRel)
    }

    fn resolves_names(&self) -> bool {
        matches!(
            self.config.discovery,
            Discovery::StrictDns { .. } | Discovery::LogicalDns { .. }
        )
    }

    /// Replaces the endpoints. Hosts at known addresses keep their load, statistics and ejection.
    pub(crate) fn set_endpoints(&self, assignment: Arc<ClusterLoadAssignment>) {
        let states = self.states();
        self.install(assignment, &states);
    }

    /// Builds the balancer again after a host was ejected or taken back.
    fn rebalance(&self) {
        let assignment = self.hosts.load().assignment.clone();
        self.set_endpoints(assignment);
    }

    fn states(&self) -> HashMap<SocketAddr, Arc<HostState>> {
        self.hosts
            .load()
            .hosts
            .iter()
            .map(|host| (host.address, host.state.clone()))
            .collect()
    }

    fn install(
        &self,
        assignment: Arc<ClusterLoadAssignment>,
        states: &HashMap<SocketAddr, Arc<HostState>>,
    ) {
        let mut hosts = Vec::new();
        let mut by_endpoint = QuickMap::default();
        for endpoint in assignment.endpoints() {
            let Some(address) = endpoint.socket_addr() else {
                continue;
            };
            let state = states.get(&address).cloned().unwrap_or_default();
            let host = Arc::new(self.host(endpoint.clone(), address, state));
            by_endpoint.insert(key(endpoint), host.clone());
            hosts.push(host);
        }
        let ejected = |endpoint: &Endpoint| {
            let address = endpoint.socket_addr();
            address
                .and_then(|address| states.get(&address))
                .is_some_and(|state| state.outlier.is_ejected())
        };
        let balancer = LoadBalancer::new(&self.config, &assignment, &ejected);
        self.hosts.store(Arc::new(HostSet {
            assignment,
            balancer,
            hosts,
            by_endpoint,
        }));
    }

    fn host(&self, endpoint: Arc<Endpoint>, address: SocketAddr, state: Arc<HostState>) -> Host {
        let fingerprint = |tls: &Arc<UpstreamTls>| {
            let known = self.fingerprints.get(&(Arc::as_ptr(tls) as usize));
            known.copied().unwrap_or_else(|| fingerprint(tls))
        };
        Host::new(&self.config, endpoint, address, state, fingerprint)
    }

    pub(crate) fn hosts(&self) -> Vec<Arc<Host>> {
        let mut hosts = self.hosts.load().hosts.clone();
        hosts.extend(self.original.lock().values().cloned());
        hosts
    }

    /// Whether connections to this address in this TLS context are still wanted.
    pub(crate) fn uses(&self, address: SocketAddr, tls: u64) -> bool {
        if let Discovery::OriginalDst { .. } = self.config.discovery {
            let default = self.config.transport.default.as_ref();
            return default
                .and_then(|tls| self.fingerprints.get(&(Arc::as_ptr(tls) as usize)))
                .copied()
                .unwrap_or(0)
                == tls;
        }
        self.hosts.load().hosts.iter().any(|host| {
            host.address == address
                && host.fingerprint() == tls
                && !(self.config.close_connections_on_host_health_failure && host.has_failed())
        })
    }

    /// Chooses a host for a request or connection.
    pub(crate) fn pick(&self, pick: &PickFor<'_>) -> Picked {
        if let Discovery::OriginalDst { port_override } = self.config.discovery {
            return match pick.original_dst {
                Some(destination) => Picked::Host(self.original_host(destination, port_override)),
                None => Picked::NoHealthyHost,
            };
        }
        let hosts = self.hosts.load();
        let mut random = || rand::rng().random::<u64>();
        if hosts
            .assignment
            .drop_overloads
            .iter()
            .any(|drop| drop.share.contains(random()))
        {
            return Picked::Dropped;
        }
        let load = |endpoint: &Endpoint| {
            let host = hosts
                .by_endpoint
                .get(&(std::ptr::from_ref(endpoint) as usize));
            host.map_or(0, |host| host.state.active_requests.load(Ordering::Relaxed))
        };
        let avoid = |endpoint: &Endpoint| {
            endpoint
                .socket_addr()
                .is_some_and(|address| pick.tried.contains(&address))
        };
        let picked = hosts.balancer.pick(&mut Pick {
            random: &mut random,
            turn: self.turn.fetch_add(1, Ordering::Relaxed),
            hash: pick.hash,
            active: &load,
            avoid: &avoid,
            attempts: pick.attempts,
        });
        match picked.and_then(|endpoint| hosts.by_endpoint.get(&key(endpoint))) {
            Some(host) => Picked::Host(host.clone()),
            None => Picked::NoHealthyHost,
        }
    }

    fn original_host(&self, destination: SocketAddr, port_override: Option<u16>) -> Arc<Host> {
        let address = SocketAddr::new(
            destination.ip(),
            port_override.unwrap_or_else(|| destination.port()),
        );
        let mut hosts = self.original.lock();
        if let Some(host) = hosts.get(&address) {
            return host.clone();
        }
        if hosts.len() >= ORIGINAL_DST_LIMIT {
            hosts.retain(|_, host| host.state.active_connections.load(Ordering::Relaxed) > 0);
        }
        let endpoint = Endpoint::at(EndpointAddress::Socket(address));
        let host = Arc::new(self.host(Arc::new(endpoint), address, Arc::default()));
        hosts.insert(address, host.clone());
        host
    }

    /// Tells outlier detection how a request to `host` ended.
    pub(crate) fn observe(&self, host: &Host, outcome: Outcome) {
        let Some(settings) = &self.config.outlier_detection else {
            return;
        };
        if !host
            .state
            .outlier
            .observe(settings, outcome, rand::rng().random_range(0..100))
        {
            return;
        }
        let hosts = self.hosts.load();
        let ejected = hosts
            .hosts
            .iter()
            .filter(|host| host.state.outlier.is_ejected())
            .count();
        // Envoy ejects at least one host whatever the percentage says.
        let allowed = (hosts.hosts.len() * settings.max_ejection_percent as usize / 100).max(1);
        if ejected >= allowed {
            return;
        }
        let time = host.state.outlier.eject(settings, Instant::now());
        self.stats.ejections.add(1);
        tracing::info!(cluster = %self.config.name, host = %host.address, seconds = time.as_secs(), "ejected a host");
        drop(hosts);
        self.rebalance();
    }

    /// Takes hosts back whose ejection is over.
    pub(crate) fn readmit(&self) {
        let now = Instant::now();
        let back = self
            .hosts
            .load()
            .hosts
            .iter()
            .filter(|host| host.state.outlier.readmit(now))
            .count();
        if back > 0 {
            tracing::info!(cluster = %self.config.name, hosts = back, "took hosts back");
            self.rebalance();
        }
    }

    /// The circuit breakers of a priority.
    pub(crate) fn thresholds(&self, high_priority: bool) -> &Thresholds {
        if high_priority {
            &self.config.circuit_breakers.high
        } else {
            &self.config.circuit_breakers.default
        }
    }
}

impl HostSet {
    fn empty(config: &Cluster, assignment: &Arc<ClusterLoadAssignment>) -> Self {
        Self {
            assignment: assignment.clone(),
            balancer: LoadBalancer::new(config, &empty_assignment(&config.name), &|_| false),
            hosts: Vec::new(),
            by_endpoint: QuickMap::default(),
        }
    }
}

fn empty_assignment(name: &Arc<str>) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: name.clone(),
        localities: Vec::new(),
        overprovisioning_factor_percent: 140,
        drop_overloads: Vec::new(),
    }
}

/// Holds one of a bounded number, and gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Slot(Arc<ClusterStats>, fn(&ClusterStats) -> &AtomicU32);

impl Slot {
    /// Takes a slot if fewer than `limit` are taken: a circuit breaker.
    pub(crate) fn take(
        stats: &Arc<ClusterStats>,
        which: fn(&ClusterStats) -> &AtomicU32,
        limit: u32,
    ) -> Option<Self> {
        let taken = Self::within(stats, which, limit);
        if taken.is_none() {
            stats.overflows.add(1);
        }
        taken
    }

    /// Takes a slot for a connection, if fewer than `limit` are taken or, by `is_first`, there must be one whatever the
    /// limit says.
    pub(crate) fn for_connection(
        stats: &Arc<ClusterStats>,
        limit: u32,
        is_first: bool,
    ) -> Option<Self> {
        if let Some(slot) = Self::within(stats, |stats| &stats.active_connections, limit) {
            return Some(slot);
        }
        stats.connection_overflows.add(1);
        if !is_first {
            return None;
        }
        stats.active_connections.fetch_add(1, Ordering::Relaxed);
        Some(Self(stats.clone(), |stats| &stats.active_connections))
    }

    fn within(
        stats: &Arc<ClusterStats>,
        which: fn(&ClusterStats) -> &AtomicU32,
        limit: u32,
    ) -> Option<Self> {
        if which(stats).fetch_add(1, Ordering::Relaxed) >= limit {
            which(stats).fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Self(stats.clone(), which))
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        (self.1)(&self.0).fetch_sub(1, Ordering::Relaxed);
    }
}
