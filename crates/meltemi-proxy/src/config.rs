//! The xDS resources in force, compiled. Readers take what they need without a lock; the control thread replaces whole
//! resources.

mod apply;
pub(crate) mod demand;
pub(crate) mod dump;
pub(crate) mod guard;
mod known;
mod on_demand;
pub(crate) mod saved;

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use meltemi_proxy_core::listener_table::ListenerTable;
use meltemi_proxy_core::quick::QuickMap;
use meltemi_proxy_core::runtime::{FilterChain, Listener, RouteConfiguration};
use parking_lot::Mutex;
use tokio::sync::watch;

use demand::Demand;

pub(crate) use apply::{Configurator, Rejection, is_standing_listener};
pub(crate) use known::KnownClusters;
pub(crate) use on_demand::SWEEP_INTERVAL;

use crate::upstream::tls::fingerprint;
use crate::upstream::{PoolKey, Upstream};

/// The listener that outbound connections are redirected to.
const OUTBOUND: &str = "virtualOutbound";

pub(crate) type Routes = QuickMap<Arc<str>, Arc<RouteConfiguration>>;

/// What the data path reads.
pub(crate) struct Store {
    pub(crate) listeners: ArcSwap<ListenerTable>,
    pub(crate) routes: ArcSwap<Routes>,
    pub(crate) clusters: ArcSwap<KnownClusters>,
    chains: ArcSwap<Chains>,
    /// For what is not held but may be asked for; `None` with the full set.
    pub(crate) demand: Option<Arc<Demand>>,
    changed: watch::Sender<u64>,
    /// Where listeners really listen: differs from the configuration only for port 0.
    open: Mutex<HashMap<Arc<str>, SocketAddr>>,
}

impl Default for Store {
    fn default() -> Self {
        Self {
            listeners: ArcSwap::default(),
            routes: ArcSwap::default(),
            clusters: ArcSwap::default(),
            chains: ArcSwap::default(),
            demand: None,
            changed: watch::Sender::new(0),
            open: Mutex::default(),
        }
    }
}

impl Store {
    /// A store of what is in use; the rest is asked for when it is.
    pub(crate) fn on_demand() -> Self {
        Self {
            demand: Some(Arc::default()),
            ..Self::default()
        }
    }

    /// A cluster has resolved its names for the first time.
    pub(crate) fn initialised(&self) {
        if let Some(demand) = &self.demand {
            demand.wake();
        }
    }

    pub(crate) fn listener(&self, name: &str) -> Option<Arc<Listener>> {
        self.listeners
            .load()
            .iter()
            .find(|listener| &*listener.name == name)
            .cloned()
    }

    pub(crate) fn outbound_listener(&self) -> Option<Arc<Listener>> {
        self.listener(OUTBOUND)
    }

    /// The cluster of a name, to be used.
    pub(crate) fn upstream(&self, name: &str) -> Option<Arc<Upstream>> {
        self.clusters.load().get(name)?.upstream()
    }

    /// The clusters that were ever used.
    pub(crate) fn upstreams_in_use(&self) -> Vec<Arc<Upstream>> {
        let clusters = self.clusters.load();
        let in_use = clusters.values().filter_map(|known| known.in_use());
        in_use.cloned().collect()
    }

    /// Tells of every change of listeners, routes, clusters or endpoints.
    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn notify(&self) {
        self.changed.send_modify(|generation| *generation += 1);
    }

    /// Puts listeners in force.
    pub(crate) fn set_listeners(&self, table: ListenerTable) {
        let old = self.chains.load();
        let mut chains = Chains::default();
        for listener in table.iter() {
            for chain in listener.chains() {
                let key = Arc::as_ptr(chain) as usize;
                let known = old.by_chain.get(&key);
                let fingerprint =
                    known.map_or_else(|| fingerprint(chain), |(_, fingerprint)| *fingerprint);
                chains.by_chain.insert(key, (chain.clone(), fingerprint));
                chains.in_force.insert((listener.name.clone(), fingerprint));
            }
        }
        self.chains.store(Arc::new(chains));
        self.listeners.store(Arc::new(table));
    }

    /// Identifies what a chain does; equal for chains compiled twice from one configuration.
    pub(crate) fn chain_fingerprint(&self, chain: &Arc<FilterChain>) -> u64 {
        let chains = self.chains.load();
        let known = chains.by_chain.get(&(Arc::as_ptr(chain) as usize));
        known.map_or_else(|| fingerprint(chain), |(_, fingerprint)| *fingerprint)
    }

    /// Whether new connections to the listener may still get such a chain.
    pub(crate) fn is_in_force(&self, listener: &Arc<str>, chain: u64) -> bool {
        self.chains
            .load()
            .in_force
            .contains(&(listener.clone(), chain))
    }

    /// Whether a pool's connections are still wanted.
    pub(crate) fn uses(&self, key: &PoolKey) -> bool {
        let clusters = self.clusters.load();
        let known = clusters.get(&key.cluster);
        known
            .and_then(|known| known.in_use())
            .is_some_and(|upstream| upstream.uses(key.address, key.tls))
    }

    pub(crate) fn opened(&self, name: &Arc<str>, address: SocketAddr) {
        self.open.lock().insert(name.clone(), address);
        self.notify();
    }

    /// Whether every listener that owns a socket listens.
    pub(crate) fn is_open(&self) -> bool {
        let open = self.open.lock();
        self.listeners
            .load()
            .bound()
            .all(|listener| open.contains_key(&listener.name))
    }

    pub(crate) fn open_addresses(&self) -> HashMap<Arc<str>, SocketAddr> {
        self.open.lock().clone()
    }
}

/// Chains in force, by address and by what they do.
#[derive(Default)]
struct Chains {
    /// The chain is kept so that its address stays its own.
    by_chain: HashMap<usize, (Arc<FilterChain>, u64)>,
    in_force: HashSet<(Arc<str>, u64)>,
}
