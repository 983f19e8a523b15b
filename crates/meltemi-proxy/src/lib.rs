//! The proxy of a sidecar or gateway: certificates, xDS client, captured traffic, telemetry and admin interface in one process.
//!
//! ```text
//! bootstrap -> certificates ----------------------.
//!          \-> control link (xDS) -> config -------+-> listener -> downstream -> http | tcp -> upstream
//!                                                   \-> telemetry, admin, status
//! ```
//!
//! Decisions are made in `meltemi-proxy-core`; this crate does the I/O. It knows no Kubernetes object and no Istio resource:
//! the control plane's half of the mesh is met only as xDS on the wire.

mod admin;
mod app;
pub mod applets;
mod authorizer;
mod bootstrap;
mod certificates;
mod config;
mod control_channel;
mod control_link;
mod downstream;
mod drain;
mod envoy;
mod http;
mod http1;
mod io;
mod jwks;
mod listener;
pub mod memory;
mod secrets;
mod status;
mod tcp;
mod telemetry;
mod upstream;
mod worker;

#[cfg(test)]
mod fuzzing;
#[cfg(test)]
mod tests;

pub use app::run;
pub use bootstrap::{AppMetrics, Bootstrap, Paths, Role};
