//! What the end-to-end tests share: a lab, or a cluster, driven by the commands that a user types.
//!
//! It must not know the inside of any crate: what cannot be seen through a command, a port or a file is not tested here.
#![allow(
    clippy::print_stdout,
    reason = "what a failing test prints is its report"
)]

mod cluster;
mod lab;
mod load;
mod manifests;
mod output;

pub use cluster::{Cluster, Namespace, PodLoad};
pub use lab::{Lab, eventually, programs};
pub use load::{Load, Summary};
pub use manifests::{istio, project_root, sample};
pub use output::Output;
