//! A worker: one thread, one single-threaded runtime, its own listening sockets and upstream pools.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::authorizer;
use crate::certificates::CredentialStore;
use crate::config::Store;
use crate::drain::Drain;
use crate::http::faults::ActiveFaults;
use crate::http::rate_limit::RateLimits;
use crate::jwks::KeyCache;
use crate::listener::{Accepted, accept_loop, serve, socket};
use crate::secrets::SecretStore;
use crate::telemetry::Telemetry;
use crate::upstream::Pools;
use crate::upstream::tls::TlsConfigs;

/// How often pools are looked through for connections that were idle too long.
const SWEEP_INTERVAL: Duration = Duration::from_secs(10);
/// Tunnels that may wait for a worker to take them.
const TUNNEL_QUEUE: usize = 64;

/// What all workers and the control thread share.
pub(crate) struct Shared {
    pub(crate) store: Store,
    pub(crate) credentials: Arc<CredentialStore>,
    pub(crate) secrets: Arc<SecretStore>,
    pub(crate) tls: TlsConfigs,
    pub(crate) telemetry: Telemetry,
    pub(crate) drain: Drain,
    pub(crate) rate_limits: RateLimits,
    pub(crate) keys: KeyCache,
    pub(crate) active_faults: ActiveFaults,
    pub(crate) socket_mark: Option<u32>,
    /// How long connections of a replaced filter chain may live on.
    pub(crate) drain_time: Duration,
    /// Where the proxy itself listens for captured connections; calling that would loop.
    pub(crate) own_ips: Vec<std::net::IpAddr>,
    pub(crate) own_ports: Vec<u16>,
}

pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pools: Pools,
    /// Questions to external authorizers.
    pub(crate) checks: Semaphore,
}

impl Worker {
    pub(crate) fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            shared,
            pools: Pools::default(),
            checks: Semaphore::new(authorizer::CHECK_LIMIT),
        })
    }
}

/// A connection that the admin port carries as if the capture rules had redirected it.
pub(crate) type Tunnel = Accepted;

/// Starts a worker's thread. It ends when `stop` is closed.
///
/// # Errors
/// The thread or its runtime cannot be made.
pub(crate) fn start(
    shared: Arc<Shared>,
    index: usize,
    stop: tokio::sync::watch::Receiver<bool>,
) -> std::io::Result<(mpsc::Sender<Tunnel>, std::thread::JoinHandle<()>)> {
    let (tunnels, incoming) = mpsc::channel(TUNNEL_QUEUE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            runtime.block_on(run(Worker::new(shared), incoming, stop));
        })?;
    Ok((tunnels, thread))
}

/// Keeps the sockets that the configuration asks for open, and serves tunnels, until told to stop.
pub(crate) async fn run(
    worker: Arc<Worker>,
    mut tunnels: mpsc::Receiver<Tunnel>,
    mut stop: tokio::sync::watch::Receiver<bool>,
) {
    let mut open: HashMap<(Arc<str>, SocketAddr), JoinHandle<()>> = HashMap::new();
    let mut changes = worker.shared.store.watch();
    let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
    loop {
        changes.mark_unchanged();
        open_sockets(&worker, &mut open);
        worker.pools.sweep(|key| worker.shared.store.uses(key));
        tokio::select! {
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Some(tunnel) = tunnels.recv() => {
                let worker = worker.clone();
                if let Some(listener) = worker.shared.store.outbound_listener() {
                    tokio::spawn(async move { serve(&worker, listener, tunnel).await });
                }
            }
            _ = sweep.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

fn open_sockets(worker: &Arc<Worker>, open: &mut HashMap<(Arc<str>, SocketAddr), JoinHandle<()>>) {
    let listeners = worker.shared.store.listeners.load();
    let wanted: Vec<(Arc<str>, SocketAddr)> = listeners
        .bound()
        .flat_map(|listener| {
            listener
                .addresses()
                .map(|address| (listener.name.clone(), address))
        })
        .collect();
    open.retain(|key, task| {
        let keep = wanted.contains(key);
        if !keep {
            tracing::info!(listener = %key.0, address = %key.1, "closed a listener");
            task.abort();
        }
        keep
    });
    for key in wanted {
        if open.contains_key(&key) {
            continue;
        }
        match socket::listen(key.1) {
            Ok(socket) => {
                worker
                    .shared
                    .store
                    .opened(&key.0, socket.local_addr().unwrap_or(key.1));
                let task = tokio::spawn(accept_loop(worker.clone(), key.0.clone(), socket));
                open.insert(key, task);
            }
            Err(error) => {
                tracing::error!(listener = %key.0, address = %key.1, %error, "cannot listen")
            }
        }
    }
}
