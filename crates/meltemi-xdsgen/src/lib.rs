//! The configuration of a proxy, as Istio shapes it: (what is known of the proxy, the mesh) -> listeners, routes,
//! clusters and endpoints.
//!
//! ```text
//! ProxyView + MeshSnapshot -> units of generation -> protobuf -> canonical bytes -> Resource (name, version, Any)
//!                  \__ Inputs: notes every part that was read, which is when a unit is made again, and for whom it is
//!                      the same: Shelf hands it to them
//! ```
//! Pure: no files, sockets, clocks, tasks or globals; equal inputs give equal bytes. It knows nothing of streams,
//! subscriptions or acknowledgements, and does not see user objects except through the model.

mod access_log;
mod authorization;
mod canonical;
mod clusters;
mod endpoints;
mod filters;
mod gateways;
mod inputs;
mod jwt;
mod listeners;
mod on_demand;
mod origin;
mod resource;
mod routes;
mod shelf;
mod state;
mod tls;
mod view;
mod wire;

pub use on_demand::{Asked, virtual_host_name};
pub use resource::{Generated, Kind, Resources};
pub use shelf::{Round, Shelf};
pub use state::{ProxyState, UpdateReport, generate};
pub use view::{Flavour, ProxyView, Role};

#[cfg(test)]
mod tests;
