//! Upstreams: clusters with their hosts, connections to them, and what is learnt from their answers.

pub(crate) mod ask;
pub(crate) mod cluster;
pub(crate) mod connect;
mod connection;
mod dial;
pub(crate) mod dns;
pub(crate) mod host;
mod outlier;
mod pool;
pub(crate) mod tls;

pub(crate) use cluster::{Picked, Upstream};
pub(crate) use connection::{ConnectionFacts, Principals};
pub(crate) use host::Host;
pub(crate) use outlier::Outcome;
pub(crate) use pool::{Lease, PoolKey, PoolProtocol, Pools, SendError};
