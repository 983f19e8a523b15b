//! Whole proxies on loopback: real sockets, real handshakes, configuration as resources, scripted upstreams.

pub(crate) mod configuration;
mod ext_authz;
mod gateway;
mod hostile;
mod http;
mod jwt;
mod limits;
pub(crate) mod mesh;
mod on_demand;
mod origination;
mod policies;
mod protocol;
mod stock;
mod strict;
mod tcp;
mod telemetry;
