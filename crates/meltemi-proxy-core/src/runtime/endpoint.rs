use std::net::SocketAddr;
use std::sync::Arc;

use meltemi_core::Locality;

/// Envoy `ClusterLoadAssignment`.
#[derive(Debug, Clone)]
pub struct ClusterLoadAssignment {
    pub cluster_name: Arc<str>,
    pub localities: Vec<LocalityEndpoints>,
    /// Percent; Envoy's default is 140.
    pub overprovisioning_factor_percent: u32,
    pub drop_overloads: Vec<DropOverload>,
}

impl ClusterLoadAssignment {
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.localities
            .iter()
            .flat_map(|locality| &locality.endpoints)
    }
}

/// A share of requests to refuse, for a named reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropOverload {
    pub category: Arc<str>,
    pub share: super::Fraction,
}

#[derive(Debug, Clone)]
pub struct LocalityEndpoints {
    pub locality: Arc<Locality>,
    /// `None`: no locality weighting; zero: gets no load.
    pub weight: Option<u32>,
    /// 0 is tried first.
    pub priority: u32,
    pub endpoints: Vec<Arc<Endpoint>>,
}

#[derive(Debug, Clone)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// For `auto_host_rewrite` and `auto_host_sni`; empty if unknown.
    pub hostname: Arc<str>,
    pub health: Health,
    /// At least 1.
    pub weight: u32,
    /// `envoy.transport_socket_match`, by key.
    pub transport_socket_match: Arc<[(Arc<str>, Arc<str>)]>,
    pub workload: Option<Arc<WorkloadMetadata>>,
    /// The key that consistent hashing uses instead of the address (`envoy.lb` `hash_key`).
    pub hash_key: Option<Arc<str>>,
    pub locality: Arc<Locality>,
    pub priority: u32,
}

impl Endpoint {
    /// A healthy endpoint of which nothing but the address is known.
    pub fn at(address: EndpointAddress) -> Self {
        Self {
            address,
            hostname: Arc::from(""),
            health: Health::Healthy,
            weight: 1,
            transport_socket_match: Arc::new([]),
            workload: None,
            hash_key: None,
            locality: Arc::default(),
            priority: 0,
        }
    }

    pub fn socket_addr(&self) -> Option<SocketAddr> {
        match self.address {
            EndpointAddress::Socket(address) => Some(address),
            EndpointAddress::Dns { .. } => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    Socket(SocketAddr),
    /// To be resolved by the proxy (STRICT_DNS and LOGICAL_DNS clusters).
    Dns {
        host: Arc<str>,
        port: u16,
    },
}

impl std::fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Socket(address) => address.fmt(f),
            Self::Dns { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

/// What the control plane says of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Also `UNKNOWN`.
    Healthy,
    Degraded,
    /// Also `TIMEOUT`.
    Unhealthy,
    /// Serves only what sticks to it.
    Draining,
}

/// Istio's endpoint metadata `istio.workload`: `name;namespace;canonical name;canonical revision;cluster`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkloadMetadata {
    pub workload: Arc<str>,
    pub namespace: Arc<str>,
    pub canonical_name: Arc<str>,
    pub canonical_revision: Arc<str>,
    pub cluster_id: Arc<str>,
}
