use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use super::{AccessLog, DownstreamTls, HttpConnectionManager, NetworkFilter, RouteSource};

/// Envoy `config.listener.v3.Listener`.
#[derive(Debug, Clone)]
pub struct Listener {
    pub name: Arc<str>,
    pub address: SocketAddr,
    pub additional_addresses: Vec<SocketAddr>,
    /// False for listeners that only receive connections handed over by a `use_original_dst` listener.
    pub bind_to_port: bool,
    /// Hands a redirected connection to the listener of its original destination, if there is one.
    pub use_original_dst: bool,
    pub transparent: bool,
    pub traffic_direction: TrafficDirection,
    pub listener_filters: Vec<ListenerFilter>,
    /// How long the inspectors may wait for bytes; `None` waits for ever. Envoy's default is 15 s.
    pub listener_filters_timeout: Option<Duration>,
    /// At the timeout: go on with what is known, instead of closing.
    pub continue_on_listener_filters_timeout: bool,
    /// In configuration order; selected by [`crate::filter_chain::match_filter_chain`].
    pub filter_chains: Vec<Arc<FilterChain>>,
    pub default_filter_chain: Option<Arc<FilterChain>>,
    pub access_log: Vec<Arc<AccessLog>>,
    pub per_connection_buffer_limit_bytes: u32,
}

impl Listener {
    /// The RDS names that the chains of this listener refer to.
    pub fn route_names(&self) -> impl Iterator<Item = &Arc<str>> {
        self.chains().filter_map(|chain| match &chain.terminal {
            Terminal::Http(hcm) => match &hcm.routes {
                RouteSource::Rds(name) => Some(name),
                RouteSource::Inline(_) => None,
            },
            Terminal::Tcp(_) | Terminal::Close => None,
        })
    }

    /// The SDS names that the chains of this listener refer to.
    pub fn secret_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let contexts = self.chains().filter_map(|chain| chain.tls.as_deref());
        contexts.flat_map(DownstreamTls::secret_names)
    }

    pub fn chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.filter_chains.iter().chain(&self.default_filter_chain)
    }

    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        std::iter::once(self.address).chain(self.additional_addresses.iter().copied())
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrafficDirection {
    Unspecified,
    Inbound,
    Outbound,
}

/// A listener filter, and the original destination ports for which it is skipped.
#[derive(Debug, Clone)]
pub struct ListenerFilter {
    pub kind: InspectorKind,
    pub disabled_for: Option<PortPredicate>,
}

impl ListenerFilter {
    pub fn is_enabled_for(&self, destination_port: u16) -> bool {
        !self
            .disabled_for
            .as_ref()
            .is_some_and(|predicate| predicate.matches(destination_port))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum InspectorKind {
    OriginalDst,
    Tls,
    Http,
}

/// Envoy `ListenerFilterChainMatchPredicate`.
#[derive(Debug, Clone)]
pub enum PortPredicate {
    Any,
    /// `[start, end)`.
    Ports {
        start: u16,
        end: u32,
    },
    Not(Box<Self>),
    AnyOf(Vec<Self>),
    AllOf(Vec<Self>),
}

impl PortPredicate {
    pub fn matches(&self, port: u16) -> bool {
        match self {
            Self::Any => true,
            Self::Ports { start, end } => port >= *start && u32::from(port) < *end,
            Self::Not(inner) => !inner.matches(port),
            Self::AnyOf(inner) => inner.iter().any(|p| p.matches(port)),
            Self::AllOf(inner) => inner.iter().all(|p| p.matches(port)),
        }
    }
}

/// Envoy `config.listener.v3.FilterChain`.
#[derive(Debug, Clone)]
pub struct FilterChain {
    pub name: Arc<str>,
    pub matches: FilterChainMatch,
    /// `None`: the connection's bytes are taken as they are.
    pub tls: Option<Arc<DownstreamTls>>,
    /// How long the TLS handshake may take; `None` without bound.
    pub transport_socket_connect_timeout: Option<Duration>,
    /// Before the terminal filter, in order.
    pub filters: Vec<NetworkFilter>,
    pub terminal: Terminal,
}

/// What finally serves the connection.
#[derive(Debug, Clone)]
pub enum Terminal {
    Tcp(Arc<TcpProxy>),
    Http(Arc<HttpConnectionManager>),
    /// A chain without filters: the connection is closed.
    Close,
}

/// Envoy `FilterChainMatch`; empty parts match everything.
#[derive(Debug, Clone, Default)]
pub struct FilterChainMatch {
    pub destination_port: Option<u16>,
    pub prefix_ranges: Vec<IpNet>,
    pub server_names: ServerNames,
    pub transport_protocol: Option<TransportProtocol>,
    pub application_protocols: Vec<Arc<str>>,
    pub direct_source_prefix_ranges: Vec<IpNet>,
    pub source_type: SourceType,
    pub source_prefix_ranges: Vec<IpNet>,
    pub source_ports: Vec<u16>,
}

/// Lower-case names.
#[derive(Debug, Clone, Default)]
pub struct ServerNames {
    pub exact: Vec<Arc<str>>,
    /// `*.example.com` is kept as `.example.com`.
    pub suffixes: Vec<Arc<str>>,
}

impl ServerNames {
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.suffixes.is_empty()
    }
}

/// What an inspector made of the first bytes; `raw_buffer` is what Envoy calls everything that is not TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TransportProtocol {
    RawBuffer,
    Tls,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SourceType {
    #[default]
    Any,
    SameIpOrLoopback,
    External,
}

/// Envoy `TcpProxy`.
#[derive(Debug, Clone)]
pub struct TcpProxy {
    pub stat_prefix: Arc<str>,
    pub target: TcpTarget,
    /// `None` never; Envoy's default is one hour.
    pub idle_timeout: Option<Duration>,
    pub max_downstream_connection_duration: Option<Duration>,
    pub max_connect_attempts: u32,
    /// Consistent hashing by source address.
    pub hash_source_ip: bool,
    pub access_log: Vec<Arc<AccessLog>>,
}

#[derive(Debug, Clone)]
pub enum TcpTarget {
    Cluster(Arc<str>),
    Weighted {
        clusters: Vec<TcpWeightedCluster>,
        total_weight: u64,
    },
}

#[derive(Debug, Clone)]
pub struct TcpWeightedCluster {
    pub name: Arc<str>,
    pub weight: u32,
}

impl TcpTarget {
    /// Picks the cluster of a new connection with a uniformly random number.
    pub fn pick(&self, random: u64) -> &Arc<str> {
        match self {
            Self::Cluster(name) => name,
            Self::Weighted {
                clusters,
                total_weight,
            } => {
                let mut rest = random % (*total_weight).max(1);
                for cluster in clusters {
                    match rest.checked_sub(u64::from(cluster.weight)) {
                        Some(left) => rest = left,
                        None => return &cluster.name,
                    }
                }
                &clusters[clusters.len() - 1].name
            }
        }
    }

    pub fn clusters(&self) -> Vec<&Arc<str>> {
        match self {
            Self::Cluster(name) => vec![name],
            Self::Weighted { clusters, .. } => clusters.iter().map(|c| &c.name).collect(),
        }
    }
}
