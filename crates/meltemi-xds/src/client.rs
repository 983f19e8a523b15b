//! The subscribing end: a delta client that keeps its subscriptions and versions across connections.
//!
//! ```no_run
//! # async fn example(node: meltemi_proto::envoy::config::core::v3::Node, channel: tonic::transport::Channel) {
//! use meltemi_proto::type_url;
//! let (subscriptions, mut updates, worker) = meltemi_xds::client::new(node, move || {
//!     let transport = meltemi_xds::client::Transport::new(channel.clone());
//!     async move { Ok(transport) }
//! });
//! subscriptions.subscribe_all(type_url::CLUSTER);
//! tokio::spawn(worker);
//! while let Some(update) = updates.next().await {
//!     update.accept();
//! }
//! # }
//! ```

mod backoff;
mod interest;
mod state;
mod worker;

use std::future::Future;

use meltemi_proto::envoy::config::core::v3::Node;
use tokio::sync::{mpsc, oneshot, watch};
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;

use crate::Resource;
pub use interest::Subscriptions;

/// Why there is no transport.
pub type TransportError = Box<dyn std::error::Error + Send + Sync>;

/// A way to the control plane, made anew for every connection so that it can carry a fresh token and certificate.
#[derive(Clone, Debug)]
pub struct Transport {
    /// Connected; see [`crate::limits::client_endpoint`].
    pub channel: Channel,
    /// Sent with the stream, for example `authorization`.
    pub metadata: MetadataMap,
}

impl Transport {
    pub fn new(channel: Channel) -> Self {
        Self {
            channel,
            metadata: MetadataMap::new(),
        }
    }
}

/// A resource that the application cannot use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    pub name: String,
    /// `field path: reason`
    pub reason: String,
}

/// What one response changes. The worker waits for the verdict before it reads on.
#[derive(Debug)]
pub struct Update {
    pub type_url: String,
    pub added: Vec<Resource>,
    /// Resources that are gone, and subscribed names that do not exist.
    pub removed: Vec<String>,
    verdict: oneshot::Sender<Vec<Rejection>>,
}

impl Update {
    /// Everything applies: ACK.
    pub fn accept(self) {
        self.reject(Vec::new());
    }

    /// All but these apply: NACK with every name and reason. The rejected ones keep their last good version. An
    /// update that is dropped without a verdict counts as rejected whole.
    pub fn reject(self, rejected: Vec<Rejection>) {
        if self.verdict.send(rejected).is_err() {
            tracing::debug!("the xDS worker ended before the verdict");
        }
    }
}

/// The updates, in the order of the stream.
#[derive(Debug)]
pub struct Updates {
    updates: mpsc::Receiver<Update>,
    state: watch::Receiver<ClientState>,
}

impl Updates {
    /// The next update; `None` once the worker has ended. Cancel safe.
    pub async fn next(&mut self) -> Option<Update> {
        self.updates.recv().await
    }

    /// Follows the connection's state.
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.state.clone()
    }
}

/// Whether there is a control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientState {
    pub connected: bool,
    /// Connections made so far.
    pub connections: u64,
    pub last_error: Option<String>,
}

/// Makes a client: its subscriptions, its updates, and the future that does the work until `Updates` is dropped.
/// `connect` is called for every connection attempt.
pub fn new<C, F>(
    node: Node,
    connect: C,
) -> (
    Subscriptions,
    Updates,
    impl Future<Output = ()> + Send + 'static,
)
where
    C: FnMut() -> F + Send + 'static,
    F: Future<Output = Result<Transport, TransportError>> + Send + 'static,
{
    let subscriptions = Subscriptions::default();
    // One: the application sees an update only when it has judged the one before.
    let (updates_tx, updates_rx) = mpsc::channel(1);
    let (state_tx, state_rx) = watch::channel(ClientState::default());
    let worker = worker::Worker::new(node, subscriptions.clone(), updates_tx, state_tx);
    let updates = Updates {
        updates: updates_rx,
        state: state_rx,
    };
    (subscriptions, updates, worker.run(connect))
}
