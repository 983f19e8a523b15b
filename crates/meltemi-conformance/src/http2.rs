//! HTTP/2 behaviour, case by case with the sections of RFC 9113 and RFC 7541, in both roles of the proxy.
//!
//! The list of the server's role follows the one that `h2spec` made known (146 behaviours), the numbers are its; everything
//! else is ours. A case is a script of frames and the answer that the RFC requires.

mod expect;
pub mod frame;
pub mod peer;
mod run;
mod script;

mod client_role;
mod server_role;

pub use run::{cases, run};
