//! HTTP through the proxy: one connection serves exchanges, one exchange is a request, its attempts and a response.
//!
//! ```text
//! wire (frame budgets, time) -> serve -> exchange: intake (strict check, path, identity headers)
//!       -> forward: virtual host -> route -> filters -> action
//!       -> call: attempt* (host, lease, send) within bounds -> response headers -> body -> end of the record
//! ```

pub(crate) mod attempt;
pub(crate) mod body;
mod bounds;
mod call;
pub(crate) mod exchange;
mod ext_authz;
pub(crate) mod faults;
mod filters;
mod forward;
mod grpc;
mod headers;
pub(crate) mod incoming;
mod intake;
mod jwt;
mod mirror;
pub(crate) mod rate_limit;
mod record;
mod request;
mod respond;
mod response;
mod serve;
pub(crate) mod timeouts;
mod upgrade;
mod watch;
pub(crate) mod wire;

pub(crate) use serve::serve;

/// HTTP/2 flow-control windows; larger ones help bulk transfers and cost memory only when used. The library takes half of
/// the connection's as its budget for small DATA frames that wait to be read, of which a thousand honest gRPC streams may
/// have many at once.
pub(crate) const H2_STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
pub(crate) const H2_CONNECTION_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
