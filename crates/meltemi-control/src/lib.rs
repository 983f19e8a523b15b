//! The control plane as one process: configuration in, xDS and certificates out.
//!
//! ```text
//! source (thread) -> SourceUpdate -+     (or an Environment's, from Kubernetes)
//!                                  +-> Hub: owns Mesh and proxies -> watch<Snapshot> per proxy -> ADS stream (15012)
//! connector (admits proxies) ------+            \-> Views -> debug endpoints, metrics (15014)
//! authority -> CreateCertificate (15012), its own serving certificate
//! ```
//! One task owns all that changes; everybody else holds immutable snapshots. Nothing is served before the configuration
//! has been read once. What a resource means is `meltemi-model`'s and `meltemi-xdsgen`'s to know, not this crate's.

mod authority;
mod connector;
mod debug;
mod environment;
mod hub;
mod keys;
mod listener;
mod memory;
mod metrics;
mod node;
mod options;
mod plane;
mod replicas;
mod source;
mod standing;
mod status;
mod webhooks;

pub use authority::AuthorityError;
pub use environment::{Environment, MakeAuthenticators, TakeStandings};
pub use meltemi_model::SecretsOf;
pub use options::Options;
pub use plane::{ControlError, ControlPlane, run, run_in};
pub use source::SourceUpdate;
pub use standing::StandingReader;

#[cfg(test)]
mod tests;
