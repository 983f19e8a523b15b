//! The xDS transport protocol, both ends: aggregated discovery, state-of-the-world and delta
//! (Envoy, "xDS REST and gRPC protocol").
//!
//! ```text
//!  control: watch<Option<Arc<Snapshot>>> -> session (what this peer holds, what it is owed) -> stream -> peer
//!  proxy:   Subscriptions -> worker (reconnects, versions) -> Update -> verdict -> ACK / NACK
//! ```
//!
//! This crate does not know what a resource means: it compares names and versions and moves bytes. The sessions are
//! pure state machines; `server::stream` and `client::worker` alone do I/O.

pub mod client;
pub mod limits;
mod resource;
pub mod server;
mod types;

pub use client::{ClientState, Rejection, Subscriptions, Update, Updates};
pub use meltemi_proto::{Resource, ResourceMap};
pub use resource::Snapshot;
pub use server::{AdsServer, Connection, Connector, Event, Peer, StatusSink};

#[cfg(test)]
mod tests;
