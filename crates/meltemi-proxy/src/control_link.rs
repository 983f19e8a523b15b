//! The xDS client at work: subscribes to what the workload needs, judges what comes, and goes on for ever.

use std::sync::Arc;
use std::time::Duration;

use meltemi_process::readiness::Gate;
use meltemi_proto::type_url;
use meltemi_xds::client::{Transport, TransportError};
use meltemi_xds::{Rejection, Subscriptions, Update, Updates};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::allocator;
use crate::bootstrap::{Bootstrap, node};
use crate::config::demand::{Allowance, Demand, Wish};
use crate::config::guard::RemovalGuard;
use crate::config::saved::Saved;
use crate::config::{Configurator, SWEEP_INTERVAL};
use crate::control_channel::{self, Endpoint};
use crate::worker::Shared;

/// How often a configuration that changed is written for the next start.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// After an update of this size the memory that it was taken in with is given back.
const LARGE_BYTES: usize = 256 << 10;
/// When: the client has to answer the update first.
const GIVE_BACK_DELAY: Duration = Duration::from_millis(250);

/// Runs the client until the process ends. Configuration that was applied stays in force whatever becomes of the control
/// plane. `gate` opens when clusters and listeners, and all they name, have been applied once.
pub(crate) async fn run(
    bootstrap: &Bootstrap,
    endpoint: Endpoint,
    configurator: Configurator,
    gate: Gate,
    believe: Arc<Notify>,
) {
    let (subscriptions, updates, worker) = meltemi_xds::client::new(node(bootstrap), move || {
        let endpoint = endpoint.clone();
        async move { connect(&endpoint).await }
    });
    let shared = configurator.shared().clone();
    let saved = bootstrap.cache_directory.as_deref();
    let mut link = Link {
        demand: shared.store.demand.clone(),
        saved: saved.map(|directory| Saved::new(directory, &bootstrap.node_id())),
        shared,
        configurator,
        subscriptions,
        gate,
        guard: RemovalGuard::default(),
        connections: 0,
        allowance: Allowance::default(),
        believe,
        give_back_at: None,
    };
    link.restore().await;
    link.subscribe();
    tokio::spawn(worker);
    link.run(updates).await;
}

struct Link {
    shared: Arc<Shared>,
    /// `None` with the full set.
    demand: Option<Arc<Demand>>,
    saved: Option<Saved>,
    configurator: Configurator,
    subscriptions: Subscriptions,
    gate: Gate,
    guard: RemovalGuard,
    connections: u64,
    allowance: Allowance,
    /// An operator says that the control plane means its removals.
    believe: Arc<Notify>,
    /// Memory is to be given back then.
    give_back_at: Option<Instant>,
}

impl Link {
    async fn run(&mut self, mut updates: Updates) {
        let mut state = updates.state();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut save = tokio::time::interval(SAVE_INTERVAL);
        let believe = self.believe.clone();
        loop {
            let patience = self.guard.deadline();
            tokio::select! {
                update = updates.next() => {
                    let Some(update) = update else { return };
                    // A connection that brought this is counted before it is judged.
                    self.note_connection(&state.borrow().clone());
                    self.apply(update);
                    self.subscribe();
                }
                wishes = wishes(self.demand.as_deref(), &mut self.allowance) => {
                    self.configurator.ask(wishes);
                    self.subscribe();
                }
                Ok(()) = state.changed() => self.note_connection(&state.borrow_and_update().clone()),
                () = until(patience) => self.give_in(),
                () = until(self.give_back_at) => {
                    self.give_back_at = None;
                    allocator::give_back();
                }
                () = believe.notified() => self.give_in(),
                _ = sweep.tick() => {
                    self.configurator.sweep();
                    self.subscribe();
                }
                _ = save.tick() => self.save().await,
            }
        }
    }

    fn subscribe(&self) {
        let Some(names) = self.configurator.subscriptions() else {
            self.subscriptions.subscribe_all(type_url::CLUSTER);
            self.subscriptions.subscribe_all(type_url::LISTENER);
            let endpoints = self.configurator.wanted_endpoints();
            self.subscriptions.set_names(type_url::ENDPOINT, endpoints);
            let routes = self.configurator.wanted_routes();
            self.subscriptions.set_names(type_url::ROUTE, routes);
            return;
        };
        for (type_url, names) in names {
            self.subscriptions.set_names(type_url, names);
        }
    }

    fn apply(&mut self, mut update: Update) {
        let added = std::mem::take(&mut update.added);
        let size: usize = added.iter().map(|resource| resource.body.value.len()).sum();
        if size >= LARGE_BYTES {
            self.give_back_at = Some(Instant::now() + GIVE_BACK_DELAY);
        }
        let url = &update.type_url;
        let (added_count, removed_count) = (added.len(), update.removed.len());
        tracing::debug!(
            type_url = url,
            added = added_count,
            removed = removed_count,
            "xDS update"
        );
        let held = self.configurator.count(url);
        let removed = self.configurator.count_held(url, &update.removed);
        let refuses = self.guard.refuses(held, removed, Instant::now());
        let taken: &[String] = if refuses { &[] } else { &update.removed };
        let rejected = self.configurator.apply(url, added, taken);
        let mut rejected: Vec<Rejection> = rejected
            .into_iter()
            .map(|r| Rejection {
                name: r.name,
                reason: r.reason,
            })
            .collect();
        if refuses {
            self.shared
                .telemetry
                .counters
                .refused_removals
                .add(removed_count as u64);
            tracing::warn!(
                type_url = url,
                held,
                removed,
                "the control plane came back and removes most of the configuration: kept for now"
            );
            let reason = format!(
                "not removed yet: {removed} of {held} at once, from a control plane that was away; taken after 60 s, or by POST /believe_removals on the admin port"
            );
            rejected.extend(update.removed.iter().map(|name| Rejection {
                name: name.clone(),
                reason: reason.clone(),
            }));
        }
        update.reject(rejected);
        if self.configurator.is_complete() {
            self.gate.open();
        }
    }

    /// Takes removals that were refused: the control plane is asked to say again what it means.
    fn give_in(&mut self) {
        if self.guard.give_in(Instant::now()) {
            self.subscriptions.restart();
        }
    }

    fn note_connection(&mut self, state: &meltemi_xds::ClientState) {
        let counters = &self.shared.telemetry.counters;
        let new = state.connections - self.connections;
        if new > 0 {
            counters.control_connections.add(new);
            if self.connections > 0 {
                self.guard.connected_again(Instant::now());
            }
            self.connections = state.connections;
        } else if state.last_error.is_some() {
            counters.control_failures.add(1);
        }
    }

    async fn restore(&mut self) {
        let Some(saved) = self.saved.clone() else {
            return;
        };
        match blocking(move || saved.read()).await {
            Ok(types) if types.is_empty() => {}
            Ok(types) => {
                self.configurator.restore(types);
                tracing::info!("took up the configuration of the last run");
                if self.configurator.is_complete() {
                    self.gate.open();
                }
            }
            Err(error) => tracing::warn!(%error, "no configuration of an earlier run"),
        }
    }

    async fn save(&mut self) {
        let Some(saved) = self.saved.clone() else {
            return;
        };
        let Some(types) = self.configurator.take_changes_to_save() else {
            return;
        };
        if let Err(error) = blocking(move || saved.write(&types)).await {
            tracing::warn!(%error, "the configuration is not kept for the next start");
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, crate::config::saved::SavedError> + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await??)
}

/// What the data path asks for; nothing ever with the full set.
async fn wishes(demand: Option<&Demand>, allowance: &mut Allowance) -> Vec<Wish> {
    match demand {
        Some(demand) => demand.wishes(allowance).await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Transport, TransportError> {
    let channel = control_channel::connect(endpoint).await.map_err(words)?;
    let mut transport = Transport::new(channel);
    control_channel::authorise(endpoint, &mut transport.metadata)
        .await
        .map_err(words)?;
    Ok(transport)
}

/// The error with its causes, because the client logs only the first.
fn words(error: control_channel::ChannelError) -> TransportError {
    format!("{:#}", anyhow::Error::new(error)).into()
}
