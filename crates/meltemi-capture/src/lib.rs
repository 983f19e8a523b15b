//! Traffic redirection of a pod: settings in, nftables rules out.
//!
//! ```text
//! istio-iptables flags -> Args -> Settings -> ruleset text (pure) -> one `nft -f -` transaction
//! ```
//!
//! The chains, their order and their exclusions are those of `istio-iptables`, so that what Istio's documentation says about
//! captured and exempt traffic holds. The rules act on the network namespace of the caller; this crate knows no pods,
//! no namespaces and no proxy configuration.

mod apply;
mod args;
mod ruleset;
mod settings;

pub use apply::{ApplyError, apply, remove};
pub use args::{Args, ArgsError};
pub use ruleset::{removal, ruleset};
pub use settings::{Exemption, Ports, Ranges, Settings};
