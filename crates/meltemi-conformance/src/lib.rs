//! What the proxy does with what a hostile or a broken peer sends, beside a stock Envoy.
//!
//! ```text
//!  case -> raw bytes -> proxy under test (a process) -> scripted upstream that keeps every byte -> verdict
//! ```
//!
//! A crate of its own, for three reasons: it needs the real programs, as the tests in a lab do, but neither a lab nor a mesh;
//! it writes invalid frames by hand, which nothing that ships may do; and it is a command that people run against their own
//! build, where a test prints nothing when it passes. It knows the proxy by its sockets alone, and configures it over xDS as
//! any control plane would.
//!
//! Everything happens in a network of its own ([`rig::namespace`]): cases send what no network should see.

pub mod floods;
pub mod http2;
pub mod report;
pub mod rig;
pub mod smuggling;
