//! The mesh in a real Kubernetes, driven by kubectl and the commands: `cargo xtask kube test`.

mod admission;
mod gateway;
mod guide;
mod last;
mod outage;
mod revisions;
mod rollouts;
mod status;
mod workloads;
