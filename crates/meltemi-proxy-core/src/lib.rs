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

pub mod compile;
pub mod runtime;

pub mod quick;

// A connection finds its chain.
pub mod filter_chain;
pub mod frame_budget;
pub mod header_blocks;
pub mod listener_table;
pub mod sniff;

// A request finds its cluster.
pub mod ext_authz;
pub mod jwt;
pub mod path;
pub mod rbac;
pub mod request;
pub mod routing;
pub mod strict;
pub mod virtual_host;

// And changes on the way.
pub mod alpn;
pub mod fault;
pub mod headers;
pub mod rewrite;
pub mod timeout;
pub mod xfcc;

// A cluster finds an endpoint.
pub mod balance;
pub mod hash;
pub mod retry;

// What came of it.
pub mod access_log;
pub mod error;
pub mod flags;
pub mod record;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod testing;
