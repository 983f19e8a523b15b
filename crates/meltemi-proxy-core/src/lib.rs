//! The proxy's decisions without I/O: xDS resources are compiled to an immutable [`runtime`] configuration, and pure
//! functions decide over it which chain, host, route, endpoint and answer a connection or request gets.
//!
//! ```text
//! Listener, RouteConfiguration, Cluster, ClusterLoadAssignment --compile--> runtime::*
//! first bytes -> sniff -> listener -> filter chain -> strict -> path -> virtual host -> route -> cluster -> endpoint
//!                                                                     -> retry | ProxyError -> RequestRecord -> log, metrics
//! ```
//!
//! It must not know: sockets, tasks, timers, the clock, the environment, random sources. Time and randomness are arguments.
//! The control plane's tests use it as the judge of what generated xDS does.

pub mod runtime;
pub mod compile;

pub mod sniff;
pub mod listener_table;
pub mod filter_chain;
pub mod request;
pub mod virtual_host;
pub mod routing;
pub mod timeout;
pub mod retry;
pub mod error;
pub mod flags;
pub mod record;
pub mod access_log;

#[cfg(test)]
mod testing;
