//! The xDS client at work: subscribes to what the workload needs, judges what comes, and goes on for ever.

use std::sync::Arc;

use meltemi_process::readiness::Gate;
use meltemi_proto::type_url;
use meltemi_xds::client::{Transport, TransportError};
use meltemi_xds::{Rejection, Update};

use crate::bootstrap::{Bootstrap, node};
use crate::config::Configurator;
use crate::control_channel::{self, Endpoint};
use crate::worker::Shared;

/// Runs the client until the process ends. Configuration that was applied stays in force whatever becomes of the control
/// plane. `gate` opens when clusters and listeners, and all they name, have been applied once.
pub(crate) async fn run(
    bootstrap: &Bootstrap,
    endpoint: Endpoint,
    mut configurator: Configurator,
    gate: Gate,
) {
    let (subscriptions, mut updates, worker) =
        meltemi_xds::client::new(node(bootstrap), move || {
            let endpoint = endpoint.clone();
            async move { connect(&endpoint).await }
        });
    subscriptions.subscribe_all(type_url::CLUSTER);
    subscriptions.subscribe_all(type_url::LISTENER);
    tokio::spawn(worker);
    let shared = configurator.shared().clone();
    let state = updates.state();
    tokio::spawn(count_connections(state, shared));
    while let Some(update) = updates.next().await {
        apply(&mut configurator, update);
        subscriptions.set_names(type_url::ENDPOINT, configurator.wanted_endpoints());
        subscriptions.set_names(type_url::ROUTE, configurator.wanted_routes());
        if configurator.is_complete() {
            gate.open();
        }
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

fn apply(configurator: &mut Configurator, update: Update) {
    let (added, removed) = (&update.added, &update.removed);
    tracing::debug!(
        type_url = update.type_url,
        added = added.len(),
        removed = removed.len(),
        "xDS update"
    );
    let rejected = configurator.apply(&update.type_url, added, removed);
    update.reject(
        rejected
            .into_iter()
            .map(|r| Rejection {
                name: r.name,
                reason: r.reason,
            })
            .collect(),
    );
}

async fn count_connections(
    mut state: tokio::sync::watch::Receiver<meltemi_xds::ClientState>,
    shared: Arc<Shared>,
) {
    let mut connections = 0;
    while state.changed().await.is_ok() {
        let now = state.borrow_and_update().clone();
        let counters = &shared.telemetry.counters;
        counters
            .control_connections
            .add(now.connections - connections);
        connections = now.connections;
        if now.last_error.is_some() {
            counters.control_failures.add(1);
        }
    }
}
