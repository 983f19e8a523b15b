//! The mesh as it is: services, workloads, endpoints and the policies that hold for them, from the objects users wrote.
//!
//! ```text
//! Change -> Mesh (indexes, one owner) -> Arc<MeshSnapshot> (immutable, shared) + ChangeSet (which parts differ)
//! ```
//! Everything here is a pure function of the objects: no files, sockets, clocks, tasks or globals. It knows nothing of
//! xDS; it answers which service, endpoint, rule or mode counts, with Istio's lookup and precedence.

mod analysis;
mod authentication;
mod authorization_policy;
mod authorizer;
mod change;
mod credential;
mod destination_rule;
mod gateway;
mod kubernetes;
mod mesh;
mod peer_authentication;
mod protocol;
mod request_authentication;
mod service;
mod service_entry;
mod sidecar;
mod snapshot;
mod virtual_service;
mod workload;

pub use analysis::analyze;
pub use authentication::{AuthenticationRow, EndpointAuthentication, authentication_rows};
pub use authorization_policy::MeshAuthorizationPolicy;
pub use change::{ChangeSet, Part};
pub use credential::{AUTHORITY_SUFFIX, Credential, KeyPair};
pub use destination_rule::{EffectivePolicy, HostRule};
pub use gateway::{
    BoundServer, Dropped, MESH, Merged, MergedPort, MeshGateway, PortKind, ServerHost, Why,
    common_hosts, gateway_name, merge,
};
pub use kubernetes::TOPOLOGY_SUBZONE;
pub use mesh::{Mesh, SecretsOf};
pub use peer_authentication::{ServerTls, WorkloadTls};
pub use protocol::Protocol;
pub use request_authentication::{JwksSource, KeyFetching, KeyServer};
pub use service::{
    ExportTo, Resolution, Service, ServiceAddress, ServiceAlias, ServicePort, TargetPort,
};
pub use sidecar::MeshSidecar;
pub use snapshot::MeshSnapshot;
pub use virtual_service::MeshVirtualService;
pub use workload::{Endpoint, EndpointAddress, Health, ServiceEndpoints, Workload, WorkloadPort};

#[cfg(test)]
mod tests;
