//! What every long-running program of the mesh has: logs, metrics, readiness, an orderly end, an admin server.
//!
//! This crate knows nothing of meshes, and decides nothing.

pub mod admin;
pub mod clock;
pub mod logging;
pub mod metrics;
pub mod readiness;
pub mod shutdown;

pub use metrics::Metrics;
pub use readiness::Readiness;
pub use tokio_util::sync::CancellationToken;

/// The version of every program of this workspace.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
