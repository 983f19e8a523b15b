//! The mesh in a real lab: processes, network namespaces, redirection, certificates.
//!
//! Each test has a lab of its own and tells one story with the commands that a user types.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot go on panics with what it saw")]

mod certificates;
mod diagnostics;
mod envoy;
mod guide;
mod hygiene;
mod mtls;
mod outage;
mod routing;
