use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;

use super::{
    ExtAuthz, ExtAuthzPerRoute, Fraction, HeaderMatcher, HeaderMutations, JwtAuthentication,
    JwtPerRoute, NetworkExtAuthz, RbacFilter, StringMatcher,
};

/// A network filter in front of the terminal one.
#[derive(Debug, Clone)]
pub enum NetworkFilter {
    /// `istio.metadata_exchange` over TCP.
    MetadataExchange(TcpMetadataExchange),
    Rbac(Arc<RbacFilter>),
    ExtAuthz(Arc<NetworkExtAuthz>),
    /// `istio.stats`.
    Stats(Stats),
}

/// `envoy.tcp.metadataexchange.config.MetadataExchange`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpMetadataExchange {
    /// The ALPN value that switches the exchange on, `istio-peer-exchange`.
    pub protocol: Arc<str>,
    pub enable_discovery: bool,
}

/// A filter of the HTTP connection manager, in configuration order.
#[derive(Debug, Clone)]
pub struct HttpFilter {
    /// The key under which routes override it.
    pub name: Arc<str>,
    /// Switched off unless a route switches it on.
    pub disabled: bool,
    pub kind: HttpFilterKind,
}

#[derive(Debug, Clone)]
pub enum HttpFilterKind {
    Fault(Arc<FaultInjection>),
    /// Only routes carry CORS policies.
    Cors,
    GrpcStats(GrpcStats),
    /// `istio.alpn`.
    Alpn(Arc<AlpnOverrides>),
    /// `istio.metadata_exchange` over HTTP.
    PeerMetadata(Arc<PeerMetadataExchange>),
    Stats(Stats),
    Rbac(Arc<RbacFilter>),
    LocalRateLimit(Arc<LocalRateLimit>),
    Jwt(Arc<JwtAuthentication>),
    ExtAuthz(Arc<ExtAuthz>),
}

/// `envoy.filters.http.router`, always the last filter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Router {
    /// Neither adds `x-envoy-*` response headers nor `x-envoy-expected-rq-timeout-ms`.
    pub suppress_envoy_headers: bool,
}

/// What virtual hosts, routes and weighted clusters override of the filters (`typed_per_filter_config`), by filter name: two
/// filters of a kind have nothing in common.
#[derive(Debug, Clone, Default)]
pub struct PerFilterConfig(Vec<(Arc<str>, FilterOverride)>);

/// What one filter is here.
#[derive(Debug, Clone, Default)]
pub struct FilterOverride {
    /// `FilterConfig.disabled`: switched off, or on.
    pub disabled: Option<bool>,
    pub config: Option<OverrideConfig>,
}

#[derive(Debug, Clone)]
pub enum OverrideConfig {
    Fault(Arc<FaultInjection>),
    Cors(Arc<Cors>),
    /// `None` switches the filter off.
    Rbac(Option<Arc<RbacFilter>>),
    LocalRateLimit(Arc<LocalRateLimit>),
    Jwt(JwtPerRoute),
    ExtAuthz(Arc<ExtAuthzPerRoute>),
}

impl PerFilterConfig {
    pub fn get(&self, name: &str) -> Option<&FilterOverride> {
        let found = self.0.iter().find(|(known, _)| **known == *name);
        found.map(|(_, over)| over)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Arc<str>, FilterOverride)> for PerFilterConfig {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, FilterOverride)>>(overrides: I) -> Self {
        Self(overrides.into_iter().collect())
    }
}

/// Envoy `filters.http.fault.v3.HTTPFault`.
#[derive(Debug, Clone, Default)]
pub struct FaultInjection {
    pub delay: Option<FaultDelay>,
    pub abort: Option<FaultAbort>,
    /// Only requests to this cluster.
    pub upstream_cluster: Option<Arc<str>>,
    /// All must match.
    pub headers: Vec<HeaderMatcher>,
    pub max_active_faults: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultDelay {
    pub delay: Duration,
    pub share: Fraction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultAbort {
    pub status: FaultAbortStatus,
    pub share: Fraction,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAbortStatus {
    Http(http::StatusCode),
    /// A gRPC status code.
    Grpc(u32),
}

/// Envoy `filters.http.cors.v3.CorsPolicy`.
#[derive(Debug, Clone)]
pub struct Cors {
    pub allow_origins: Vec<StringMatcher>,
    pub allow_methods: Option<HeaderValue>,
    pub allow_headers: Option<HeaderValue>,
    pub expose_headers: Option<HeaderValue>,
    pub max_age: Option<HeaderValue>,
    pub allow_credentials: bool,
    pub enabled: Fraction,
    /// Preflights of unknown origins go to the upstream (Envoy's default) instead of being answered.
    pub forward_not_matching_preflights: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcStats {
    pub emit_filter_state: bool,
}

/// Downstream protocols, as `istio.alpn` distinguishes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AlpnProtocol {
    Http10,
    Http11,
    Http2,
}

/// `istio.envoy.config.filter.http.alpn.v2alpha1.FilterConfig`: what to offer upstream, by the upstream protocol of the request.
#[derive(Debug, Clone)]
pub struct AlpnOverrides {
    pub overrides: Vec<(AlpnProtocol, Arc<[Arc<str>]>)>,
}

/// `io.istio.http.peer_metadata.Config`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerMetadataExchange {
    pub downstream_discovery: Vec<PeerMetadataMethod>,
    pub upstream_discovery: Vec<PeerMetadataMethod>,
    /// Adds our metadata to responses.
    pub downstream_propagation: Vec<PeerMetadataMethod>,
    /// Adds our metadata to upstream requests.
    pub upstream_propagation: Vec<PeerMetadataMethod>,
    pub shared_with_upstream: bool,
    /// Labels added to `LABELS` of the propagated struct.
    pub additional_labels: Vec<Arc<str>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerMetadataMethod {
    /// `x-envoy-peer-metadata` headers; `skip_external` leaves out clusters that are not in the mesh.
    IstioHeaders {
        skip_external_clusters: bool,
    },
    WorkloadDiscovery,
    Baggage,
}

/// `stats.PluginConfig`, shared by the HTTP and the TCP form of `istio.stats`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    pub reporter: StatsReporter,
    pub disable_host_header_fallback: bool,
    /// How often open TCP connections are reported.
    pub tcp_reporting_interval: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StatsReporter {
    /// The direction of the listener decides (`UNSPECIFIED`).
    ByDirection,
    ServerGateway,
}

/// Envoy `filters.http.local_ratelimit.v3.LocalRateLimit`, one bucket.
#[derive(Debug, Clone)]
pub struct LocalRateLimit {
    pub stat_prefix: Arc<str>,
    pub status: http::StatusCode,
    /// `None`: the filter limits nothing here.
    pub bucket: Option<TokenBucket>,
    pub enabled: Fraction,
    pub enforced: Fraction,
    pub response_headers: HeaderMutations,
    pub rate_limited_as_resource_exhausted: bool,
    /// One bucket per downstream connection instead of one per process.
    pub per_downstream_connection: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenBucket {
    pub max_tokens: u32,
    pub tokens_per_fill: u32,
    pub fill_interval: Duration,
}
