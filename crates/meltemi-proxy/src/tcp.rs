//! TCP through the proxy: pick a cluster and a host, connect, copy bytes both ways.

pub(crate) mod copy;
pub(crate) mod ext_authz;
mod metadata_exchange;
mod record;
mod serve;

pub(crate) use serve::serve;
