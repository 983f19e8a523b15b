//! The messages of the wire: Envoy's types, the few of Istio that `envoy-types` lacks, and proto-JSON.
//!
//! This crate has no logic beyond packing, naming, unpacking and printing messages, and does not know what any of them means.

pub mod any;
pub mod json;
mod messages;
mod resource;
pub mod type_url;

pub use envoy_types::pb::{envoy, google, udpa, xds};
pub use messages::{alpn, istio, metadata_exchange, peer_metadata, stats, typed_struct};
pub use resource::{Resource, ResourceMap};

#[cfg(test)]
mod tests;
