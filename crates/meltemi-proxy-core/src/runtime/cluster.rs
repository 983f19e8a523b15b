use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{
    ClusterLoadAssignment, Endpoint, Http1Options, Http2Options, NetworkFilter, UpstreamTls,
};

/// Envoy `config.cluster.v3.Cluster`.
#[derive(Debug, Clone)]
pub struct Cluster {
    pub name: Arc<str>,
    /// `alt_stat_name`, or the name.
    pub stat_name: Arc<str>,
    pub discovery: Discovery,
    pub lb: LbPolicy,
    /// Default 5 s.
    pub connect_timeout: Duration,
    pub per_connection_buffer_limit_bytes: u32,
    pub transport: UpstreamTransport,
    pub http: UpstreamHttp,
    pub circuit_breakers: CircuitBreakers,
    pub outlier_detection: Option<OutlierDetection>,
    /// Source address of upstream connections; Istio's inbound passthrough uses 127.0.0.6.
    pub source_address: Option<IpAddr>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// Below this share of healthy endpoints all are used; default 50, 0 never.
    pub panic_threshold_percent: f64,
    /// Localities are weighted (`locality_weighted_lb_config`).
    pub locality_weighted: bool,
    /// Pooled connections to an endpoint close when it turns unhealthy.
    pub close_connections_on_host_health_failure: bool,
    /// `metadata["istio"].services`, for metric labels.
    pub services: Arc<[ServiceRef]>,
    /// Network filters on upstream connections (`istio.metadata_exchange`).
    pub filters: Vec<NetworkFilter>,
    /// Outside of the mesh (`metadata["istio"].external`).
    pub external: bool,
    /// `metadata["istio"].config`: the object that shaped this cluster.
    pub config_source: Option<Arc<str>>,
}

impl Cluster {
    /// The transport for an endpoint: the first match whose criteria its metadata satisfies, or the default
    /// (Envoy `transport_socket_matches`).
    pub fn transport_for(&self, endpoint: &Endpoint) -> Option<&Arc<UpstreamTls>> {
        self.transport
            .matches
            .iter()
            .find(|m| m.selects(&endpoint.transport_socket_match))
            .map_or(self.transport.default.as_ref(), |m| m.tls.as_ref())
    }

    /// The name to subscribe to for endpoints, if they come by EDS.
    pub fn eds_name(&self) -> Option<&Arc<str>> {
        match &self.discovery {
            Discovery::Eds { service_name } => Some(service_name),
            _ => None,
        }
    }
}

/// Where endpoints come from.
#[derive(Debug, Clone)]
pub enum Discovery {
    Static(Arc<ClusterLoadAssignment>),
    StrictDns {
        endpoints: Arc<ClusterLoadAssignment>,
        dns: DnsSettings,
    },
    LogicalDns {
        endpoints: Arc<ClusterLoadAssignment>,
        dns: DnsSettings,
    },
    Eds {
        service_name: Arc<str>,
    },
    /// The original destination of the downstream connection, optionally with another port.
    OriginalDst {
        port_override: Option<u16>,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DnsSettings {
    pub refresh: Duration,
    pub respect_ttl: bool,
    pub ipv4: bool,
    pub ipv6: bool,
    /// With both families: prefer IPv4 (V4_PREFERRED), prefer IPv6 (AUTO), or use all.
    pub prefer_ipv4: bool,
    pub use_all: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LbPolicy {
    RoundRobin,
    LeastRequest {
        choices: u32,
    },
    Random,
    RingHash(RingHashSettings),
    Maglev(MaglevSettings),
    /// The original destination.
    ClusterProvided,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingHashSettings {
    pub minimum_size: u64,
    pub maximum_size: u64,
    pub function: RingHashFunction,
    pub use_hostname: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RingHashFunction {
    XxHash64,
    Murmur2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MaglevSettings {
    /// A prime.
    pub table_size: u64,
    pub use_hostname: bool,
}

#[derive(Debug, Clone, Default)]
pub struct UpstreamTransport {
    /// `None` is cleartext.
    pub default: Option<Arc<UpstreamTls>>,
    /// Tried in order.
    pub matches: Vec<TransportSocketMatch>,
}

#[derive(Debug, Clone)]
pub struct TransportSocketMatch {
    pub name: Arc<str>,
    /// All must be among the endpoint's; empty matches every endpoint.
    pub criteria: Vec<(Arc<str>, Arc<str>)>,
    /// `None` is cleartext.
    pub tls: Option<Arc<UpstreamTls>>,
}

impl TransportSocketMatch {
    fn selects(&self, metadata: &[(Arc<str>, Arc<str>)]) -> bool {
        self.criteria.iter().all(|pair| metadata.contains(pair))
    }
}

/// Envoy `HttpProtocolOptions` and `CommonHttpProtocolOptions`.
#[derive(Debug, Clone)]
pub struct UpstreamHttp {
    pub version: UpstreamHttpVersion,
    pub http1: Http1Options,
    pub http2: Http2Options,
    /// Of pooled connections; default 1 h, `None` never.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_stream_duration: Option<Duration>,
    /// `None` is unlimited.
    pub max_requests_per_connection: Option<u32>,
    /// The request's authority is the server name (`upstream_http_protocol_options.auto_sni`).
    pub auto_sni: bool,
    /// The peer must carry a DNS SAN equal to the request's authority.
    pub auto_san_validation: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpstreamHttpVersion {
    Http1,
    Http2,
    /// As the downstream request came.
    Downstream,
    /// By ALPN; HTTP/1.1 without an answer.
    Alpn,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CircuitBreakers {
    pub default: Thresholds,
    pub high: Thresholds,
}

/// Envoy `CircuitBreakers.Thresholds`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Thresholds {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// Replaces `max_retries`.
    pub retry_budget: Option<RetryBudget>,
}

/// Retries in flight may be `percent` of the active requests, and at least `min_concurrency`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetryBudget {
    pub percent: f64,
    pub min_concurrency: u32,
}

/// Envoy `OutlierDetection`, what consecutive errors do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutlierDetection {
    /// 0 switches the check off.
    pub consecutive_5xx: u32,
    pub consecutive_gateway_failure: u32,
    pub consecutive_local_origin_failure: u32,
    pub split_external_local_origin_errors: bool,
    pub enforcing_consecutive_5xx_percent: u32,
    pub enforcing_consecutive_gateway_failure_percent: u32,
    pub enforcing_consecutive_local_origin_failure_percent: u32,
    pub interval: Duration,
    pub base_ejection_time: Duration,
    pub max_ejection_time: Duration,
    pub max_ejection_percent: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// A service that a cluster stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRef {
    pub host: Arc<str>,
    pub name: Arc<str>,
    pub namespace: Arc<str>,
}
