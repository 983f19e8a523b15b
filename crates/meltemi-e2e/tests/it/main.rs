//! The mesh in a real lab: processes, network namespaces, redirection, certificates.
//!
//! Each test has a lab of its own and tells one story with the commands that a user types.
#![allow(
    clippy::print_stdout,
    reason = "what a failing test prints is its report"
)]

mod authorization;
mod churn;
mod commands;
mod demo;
mod diagnostics;
mod endurance;
mod envoy;
mod external_authorization;
mod gateway;
mod guide;
mod guide_page;
mod hygiene;
mod kubelet;
mod mtls;
mod routing;
mod scope;
mod sidecar;
mod tokens;
