//! The admin interface on loopback, in Envoy's shapes: what is configured, who is connected, with which certificates.

mod clusters;
mod config_dump;
mod connect;
mod routes;
mod server;
mod stats;
mod tls;

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use meltemi_process::logging::LogControl;
use meltemi_process::{CancellationToken, Readiness};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::bootstrap::Bootstrap;
use crate::config::dump::Retention;
use crate::worker::{Shared, Tunnel};

pub(crate) use routes::serve;
pub(crate) use server::{Answer, Asked, listen, text};
pub(crate) use stats::prometheus;

/// Tells the tunnel's client who the call will be made as.
pub(crate) const IDENTITY_HEADER: &str = "x-meltemi-identity";

/// What the admin, status and metrics servers read.
pub(crate) struct Admin {
    pub(crate) shared: Arc<Shared>,
    pub(crate) bootstrap: Arc<Bootstrap>,
    pub(crate) retention: Arc<Retention>,
    pub(crate) readiness: Readiness,
    pub(crate) started: Instant,
    pub(crate) tunnels: Vec<mpsc::Sender<Tunnel>>,
    pub(crate) next_tunnel: AtomicUsize,
    pub(crate) log: Option<LogControl>,
    /// Ends the process at once.
    pub(crate) quit: CancellationToken,
    /// Tells that the control plane means its removals.
    pub(crate) believe: Arc<tokio::sync::Notify>,
}
