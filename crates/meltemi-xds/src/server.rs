//! The serving end: one stream per proxy, at most one pending push each.

mod delta;
mod service;
mod sotw;
mod stream;

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3::Node;
use tokio::sync::watch;
use tonic::Status;

use crate::resource::Snapshot;

pub use service::AdsServer;

/// Who opened the stream, as the transport tells: `authorization` and other metadata, and what the acceptor put into
/// the connection's extensions (addresses, TLS session).
#[derive(Debug)]
pub struct Peer {
    pub metadata: tonic::metadata::MetadataMap,
    pub extensions: tonic::Extensions,
}

/// What happened on a stream, for the sync status of a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Sent {
        type_url: String,
        /// The snapshot's version.
        version: String,
        nonce: String,
    },
    Acked {
        type_url: String,
        nonce: String,
    },
    /// The versions that the client brought along prove that it holds everything it asked for: nothing need be sent.
    InSync {
        type_url: String,
        /// The snapshot's version.
        version: String,
    },
    /// The client asks for names, or no longer does. What is made only on demand is answered by a snapshot that is
    /// [`Snapshot::answering`] `order` or later.
    Subscribed {
        type_url: String,
        added: Vec<String>,
        dropped: Vec<String>,
        order: u64,
    },
    /// The client has accepted or refused everything that it asks for of a snapshot.
    AtRest {
        /// The snapshot's version.
        version: String,
    },
    Nacked {
        type_url: String,
        nonce: String,
        /// The client's words, bounded.
        detail: String,
    },
    /// The last event.
    Disconnected,
}

/// Is told of everything that happens on a stream. Called on the stream's task: must not block.
pub trait StatusSink: Send + 'static {
    fn record(&self, event: Event);
}

/// An admitted proxy.
pub struct Connection {
    /// `None` until the first snapshot is computed. Whatever is published while a push is under way is merged into
    /// the next one. Dropping the sender ends the stream.
    pub snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    pub status: Box<dyn StatusSink>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// Decides who may connect, and gives what they are to be sent.
pub trait Connector: Send + Sync + 'static {
    /// # Errors
    /// The status that ends the stream: `UNAUTHENTICATED`, `PERMISSION_DENIED`, `INVALID_ARGUMENT`...
    fn connect(
        &self,
        node: Node,
        peer: Peer,
    ) -> impl Future<Output = Result<Connection, Status>> + Send;
}
