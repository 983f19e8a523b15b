//! The xDS client at work: subscribes to what the workload needs, judges what comes, and goes on for ever.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use meltemi_process::readiness::Gate;
use meltemi_proto::type_url;
use meltemi_xds::client::{Transport, TransportError};
use meltemi_xds::{Rejection, Resource, Subscriptions, Update, Updates};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::bootstrap::{Bootstrap, node};
use crate::config::demand::{Allowance, Demand, Wish};
use crate::config::guard::{Loss, RemovalGuard, UNSAID_LIMIT};
use crate::config::saved::Saved;
use crate::config::{self, Configurator, SWEEP_INTERVAL, is_standing_listener};
use crate::control_channel::{self, Endpoint};
use crate::memory;
use crate::worker::Shared;

/// How often a configuration that changed is written for the next start.
const SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// After an update of this size the memory that it was taken in with is given back; after start-up its own too.
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
    let mut link = Link::new(configurator, subscriptions, gate, believe);
    let saved = bootstrap.cache_directory.as_deref();
    link.saved = saved.map(|directory| Saved::new(directory, &bootstrap.node_id()));
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
    waiting: Waiting,
    connections: u64,
    /// The configuration is that of an earlier run: already the first connection may take it away.
    is_restored: bool,
    allowance: Allowance,
    /// An operator says that the control plane means its removals.
    believe: Arc<Notify>,
    /// The configuration was complete once.
    has_started: bool,
    /// Memory is to be given back then.
    give_back_at: Option<Instant>,
}

/// Changes of the listeners that own sockets, put off until what a control plane means that was away has been judged. They
/// are acknowledged: until then it would not say the rest.
#[derive(Default)]
struct Waiting {
    resources: BTreeMap<String, Resource>,
    due: Option<Instant>,
}

impl Link {
    fn new(
        configurator: Configurator,
        subscriptions: Subscriptions,
        gate: Gate,
        believe: Arc<Notify>,
    ) -> Self {
        let shared = configurator.shared().clone();
        Self {
            demand: shared.store.demand.clone(),
            saved: None,
            shared,
            configurator,
            subscriptions,
            gate,
            guard: RemovalGuard::default(),
            waiting: Waiting::default(),
            connections: 0,
            is_restored: false,
            allowance: Allowance::default(),
            believe,
            has_started: false,
            give_back_at: None,
        }
    }

    async fn run(&mut self, mut updates: Updates) {
        let mut state = updates.state();
        let mut sweep = tokio::time::interval(SWEEP_INTERVAL);
        let mut save = tokio::time::interval(SAVE_INTERVAL);
        let believe = self.believe.clone();
        loop {
            let patience = self.guard.deadline();
            // While something is refused they wait as long as it does.
            let settled = self.waiting.due.filter(|_| patience.is_none());
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
                () = until(settled) => self.apply_waiting(),
                () = until(self.give_back_at) => {
                    self.give_back_at = None;
                    memory::give_back();
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
            let secrets = self.configurator.wanted_secrets();
            self.subscriptions.set_names(type_url::SECRET, secrets);
            return;
        };
        for (type_url, names) in names {
            self.subscriptions.set_names(type_url, names);
        }
    }

    fn apply(&mut self, mut update: Update) {
        let added = std::mem::take(&mut update.added);
        let rejected = self.take(&update.type_url, added, &update.removed);
        update.reject(rejected);
        if self.configurator.is_complete() {
            self.gate.open();
            if !std::mem::replace(&mut self.has_started, true) {
                self.give_back_at = Some(Instant::now() + GIVE_BACK_DELAY);
            }
        }
    }

    /// Takes of an update what may be taken. The answer is what is rejected.
    fn take(&mut self, url: &str, added: Vec<Resource>, removed: &[String]) -> Vec<Rejection> {
        let size: usize = added.iter().map(|resource| resource.body.value.len()).sum();
        if size >= LARGE_BYTES {
            self.give_back_at = Some(Instant::now() + GIVE_BACK_DELAY);
        }
        let (added_count, removed_count) = (added.len(), removed.len());
        tracing::debug!(
            type_url = url,
            added = added_count,
            removed = removed_count,
            "xDS update"
        );
        let loss = self.configurator.loss(url, &added, removed);
        if self.guard.refuses(loss, Instant::now()) {
            return self.refuse(url, &added, removed, loss);
        }
        let added = self.put_off(url, added);
        let rejected = self.configurator.apply(url, added, removed);
        rejected.into_iter().map(rejection).collect()
    }

    /// Keeps what is held, whatever the update says of it.
    fn refuse(
        &self,
        url: &str,
        added: &[Resource],
        removed: &[String],
        loss: Loss,
    ) -> Vec<Rejection> {
        let counters = &self.shared.telemetry.counters;
        counters.refused_removals.add(removed.len() as u64);
        let Loss {
            held,
            removed: lost,
            ..
        } = loss;
        tracing::warn!(
            type_url = url,
            held,
            removed = lost,
            changed = added.len(),
            "the control plane came back and removes most of the configuration: kept for now"
        );
        let until = "taken after 60 s, or by POST /believe_removals on the admin port";
        let gone = format!(
            "not removed yet: {lost} of {held} at once, from a control plane that was away; {until}"
        );
        let changed = format!(
            "not changed yet: the control plane was away and removes most of the configuration; {until}"
        );
        let added = added.iter().map(|resource| (&*resource.name, &changed));
        let removed = removed.iter().map(|name| (name.as_str(), &gone));
        let rejection = |(name, reason): (&str, &String)| Rejection {
            name: name.to_owned(),
            reason: reason.clone(),
        };
        added.chain(removed).map(rejection).collect()
    }

    /// Puts changes of standing listeners off, if the control plane has to be heard out first. The answer is the rest.
    fn put_off(&mut self, url: &str, added: Vec<Resource>) -> Vec<Resource> {
        if url != type_url::LISTENER {
            return added;
        }
        let settles_at = self.guard.settles_at(Instant::now());
        let mut rest = Vec::new();
        for resource in added {
            let is_change = is_standing_listener(url, &resource.name)
                && self.configurator.is_held(url, &resource.name);
            // What is rejected is rejected at once.
            let waits = settles_at.is_some()
                && is_change
                && self.configurator.refusal_of(url, &resource).is_none();
            self.waiting.resources.remove(&*resource.name);
            if waits {
                let name = resource.name.to_string();
                self.waiting.resources.insert(name, resource);
            } else {
                rest.push(resource);
            }
        }
        if self.waiting.resources.is_empty() {
            self.waiting.due = None;
        } else {
            self.waiting.due = settles_at.or_else(|| Some(Instant::now()));
        }
        rest
    }

    fn apply_waiting(&mut self) {
        let waiting = std::mem::take(&mut self.waiting);
        if waiting.resources.is_empty() {
            return;
        }
        let resources = waiting.resources.into_values().collect();
        self.configurator.apply(type_url::LISTENER, resources, &[]);
        self.subscribe();
    }

    /// Takes what was refused: the control plane is asked to say again what it means.
    fn give_in(&mut self) {
        self.apply_waiting();
        if self.guard.give_in(Instant::now()) {
            self.subscriptions.restart();
        }
    }

    fn note_connection(&mut self, state: &meltemi_xds::ClientState) {
        let counters = &self.shared.telemetry.counters;
        let new = state.connections - self.connections;
        if new > 0 {
            counters.control_connections.add(new);
            if self.connections > 0 || self.is_restored {
                let now = Instant::now();
                self.guard.connected_again(now);
                if !self.waiting.resources.is_empty() {
                    // It holds our acknowledgement, and may have nothing to add.
                    self.waiting.due = Some(now + UNSAID_LIMIT);
                }
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
                self.is_restored = true;
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

fn rejection(rejected: config::Rejection) -> Rejection {
    Rejection {
        name: rejected.name,
        reason: rejected.reason,
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, config::saved::SavedError> + Send + 'static,
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

#[cfg(test)]
mod tests;
