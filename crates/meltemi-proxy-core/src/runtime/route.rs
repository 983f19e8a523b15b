use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use regex::bytes::Regex;

use crate::virtual_host::DomainIndex;

use super::{
    Fraction, HeaderMatcher, HeaderSource, LazyVirtualHost, LogPiece, MetadataMatcher,
    PerFilterConfig, QueryMatcher, RegexRewrite,
};

/// Envoy `RouteConfiguration`.
#[derive(Debug, Clone)]
pub struct RouteConfiguration {
    pub name: Arc<str>,
    pub virtual_hosts: Box<[LazyVirtualHost]>,
    /// Built from the domains; see [`crate::virtual_host::select`].
    pub index: DomainIndex,
    pub ignore_port_in_host_matching: bool,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// Route-level mutations are applied after the configuration's, so that the most specific wins.
    pub most_specific_header_mutations_wins: bool,
    pub per_filter: PerFilterConfig,
    pub mirrors: Vec<MirrorPolicy>,
    /// Virtual hosts that are not here are to be asked for, by authority (`vhds`).
    pub asks_for_hosts: bool,
    /// The longest `direct_response` body of its virtual hosts.
    pub direct_response_limit_bytes: usize,
}

#[derive(Debug, Clone)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub domains: Vec<Arc<str>>,
    /// The first match wins.
    pub routes: Vec<Arc<Route>>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub per_filter: PerFilterConfig,
    /// Sets `x-envoy-attempt-count` on upstream requests.
    pub include_request_attempt_count: bool,
    pub include_attempt_count_in_response: bool,
}

#[derive(Debug, Clone)]
pub struct Route {
    /// Empty if unnamed.
    pub name: Arc<str>,
    pub matches: RouteMatch,
    pub action: RouteAction,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub per_filter: PerFilterConfig,
    /// `metadata["istio"].config`: the object that this route came from, as Istio records it.
    pub config_source: Option<Arc<str>>,
    /// Span operation (`decorator.operation`).
    pub operation: Option<Arc<str>>,
}

/// Everything must match.
#[derive(Debug, Clone)]
pub struct RouteMatch {
    pub path: PathMatch,
    pub headers: Vec<HeaderMatcher>,
    pub query: Vec<QueryMatcher>,
    pub runtime_fraction: Option<Fraction>,
    /// Only gRPC requests.
    pub grpc_only: bool,
    /// Over what was verified of the request.
    pub metadata: Vec<MetadataMatcher>,
}

/// Tests on the path without query. Letters are lower-case where `ignore_case`.
#[derive(Debug, Clone)]
pub enum PathMatch {
    Prefix {
        prefix: Arc<str>,
        ignore_case: bool,
    },
    Exact {
        path: Arc<str>,
        ignore_case: bool,
    },
    /// The prefix itself, or it followed by `/`.
    SeparatedPrefix {
        prefix: Arc<str>,
        ignore_case: bool,
    },
    /// The whole path.
    Regex(Regex),
    /// CONNECT requests.
    Connect,
}

#[derive(Debug, Clone)]
pub enum RouteAction {
    Forward(Box<ForwardAction>),
    Redirect(Box<Redirect>),
    DirectResponse(DirectResponse),
}

/// Envoy `RouteAction`.
#[derive(Debug, Clone)]
pub struct ForwardAction {
    pub cluster: ClusterTarget,
    pub cluster_not_found_status: StatusCode,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HostRewrite>,
    /// Appends the old authority to `x-forwarded-host` when it is rewritten.
    pub append_x_forwarded_host: bool,
    /// The route's timeout; `None` is disabled. Envoy's default is 15 s.
    pub timeout: Option<Duration>,
    /// Replaces the stream idle timeout of the connection manager: `Some(None)` switches it off.
    pub idle_timeout: Option<Option<Duration>>,
    /// `max_stream_duration.max_stream_duration`; `Some(None)` is unbounded.
    pub max_stream_duration: Option<Option<Duration>>,
    /// `Some(None)`: `grpc-timeout` is honoured without bound; `Some(Some(max))`: up to `max`; `None`: ignored.
    pub grpc_timeout_max: Option<Option<Duration>>,
    pub grpc_timeout_offset: Option<Duration>,
    pub retry: Option<Arc<RetryPolicy>>,
    pub hash: Arc<[HashPolicy]>,
    pub mirrors: Arc<[MirrorPolicy]>,
    pub upgrades: Vec<UpgradeOverride>,
    pub high_priority: bool,
}

impl ForwardAction {
    /// Every cluster that requests may go to, mirrors included; none for `cluster_header`.
    pub fn clusters(&self) -> Vec<&Arc<str>> {
        let mut names: Vec<&Arc<str>> = match &self.cluster {
            ClusterTarget::Cluster(name) => vec![name],
            ClusterTarget::Weighted(weighted) => {
                weighted.clusters.iter().map(|c| &c.name).collect()
            }
            ClusterTarget::Header(_) => Vec::new(),
        };
        names.extend(self.mirrors.iter().map(|mirror| &mirror.cluster));
        names
    }
}

#[derive(Debug, Clone)]
pub enum ClusterTarget {
    Cluster(Arc<str>),
    Weighted(Arc<WeightedClusters>),
    /// The request header that names the cluster.
    Header(HeaderSource),
}

#[derive(Debug, Clone)]
pub struct WeightedClusters {
    pub clusters: Vec<WeightedCluster>,
    /// Never zero.
    pub total_weight: u64,
}

#[derive(Debug, Clone)]
pub struct WeightedCluster {
    pub name: Arc<str>,
    pub weight: u32,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub host_rewrite: Option<Arc<str>>,
    pub per_filter: PerFilterConfig,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeOverride {
    pub kind: Arc<str>,
    pub enabled: bool,
}

/// Applies to the path; the query stays.
#[derive(Debug, Clone)]
pub enum PathRewrite {
    /// Replaces what the route matched: the prefix, or the whole path for exact and regex matches.
    Prefix(Arc<str>),
    Regex(RegexRewrite),
}

#[derive(Debug, Clone)]
pub enum HostRewrite {
    Literal(Arc<str>),
    /// The chosen endpoint's hostname (`auto_host_rewrite`).
    Endpoint,
    Header(HeaderName),
    /// On the path without query.
    PathRegex(RegexRewrite),
}

#[derive(Debug, Clone)]
pub struct Redirect {
    pub https: bool,
    pub scheme: Option<Arc<str>>,
    pub host: Option<Arc<str>>,
    pub port: Option<u16>,
    pub path: Option<RedirectPath>,
    pub status: StatusCode,
    pub strip_query: bool,
}

#[derive(Debug, Clone)]
pub enum RedirectPath {
    /// May carry its own query, which then replaces the request's.
    Replace(Arc<str>),
    Prefix(Arc<str>),
    Regex(RegexRewrite),
}

#[derive(Debug, Clone)]
pub struct DirectResponse {
    pub status: StatusCode,
    pub body: Bytes,
}

/// Envoy `RetryPolicy`.
#[derive(Debug, Clone)]
pub struct RetryPolicy {
    pub on: RetryConditions,
    /// Beyond the first attempt.
    pub num_retries: u32,
    /// `None`: the route's timeout is the only bound.
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    pub retriable_status_codes: Vec<StatusCode>,
    pub retriable_headers: Vec<HeaderMatcher>,
    /// Only requests that match one of these are retried; empty for all.
    pub retriable_request_headers: Vec<HeaderMatcher>,
    pub backoff: RetryBackoff,
    /// Avoid endpoints tried before (`previous_hosts`).
    pub avoid_previous_hosts: bool,
    /// How often to pick again for an endpoint that is to be avoided.
    pub host_selection_attempts: u32,
}

/// Exponential with full jitter: uniform in `[0, min(max, base * 2^n))` before the n-th retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBackoff {
    pub base: Duration,
    pub max: Duration,
}

/// The values of `retry_on` that are set (Envoy router documentation, `x-envoy-retry-on` and `x-envoy-retry-grpc-on`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RetryConditions {
    pub server_error: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub envoy_ratelimited: bool,
    pub retriable_4xx: bool,
    pub refused_stream: bool,
    pub retriable_status_codes: bool,
    pub retriable_headers: bool,
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}

#[derive(Debug, Clone)]
pub struct HashPolicy {
    pub source: HashSource,
    /// Stop here if this one produced a hash.
    pub terminal: bool,
}

#[derive(Debug, Clone)]
pub enum HashSource {
    Header {
        source: HeaderSource,
        rewrite: Option<RegexRewrite>,
    },
    /// With a TTL the proxy makes the cookie when the request lacks it.
    Cookie {
        name: Arc<str>,
        ttl: Option<Duration>,
        path: Arc<str>,
        attributes: Vec<(Arc<str>, Arc<str>)>,
    },
    SourceIp,
    QueryParameter(Arc<str>),
}

#[derive(Debug, Clone)]
pub struct MirrorPolicy {
    pub cluster: Arc<str>,
    pub share: Fraction,
    /// The authority is sent as it is, without the historic `-shadow` suffix.
    pub disable_shadow_host_suffix: bool,
}

/// What to do to a header map: removals, then additions in order.
#[derive(Debug, Clone, Default)]
pub struct HeaderMutations {
    pub remove: Vec<HeaderName>,
    pub add: Vec<HeaderMutation>,
}

impl HeaderMutations {
    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }
}

#[derive(Debug, Clone)]
pub struct HeaderMutation {
    /// `:path`, `:authority` and `host` may be set too, on requests.
    pub target: HeaderSource,
    pub value: HeaderTemplate,
    pub append: HeaderAppend,
    pub keep_empty: bool,
}

/// A value with or without access-log operators in it.
#[derive(Debug, Clone)]
pub enum HeaderTemplate {
    Literal(HeaderValue),
    Format(Vec<LogPiece>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderAppend {
    AppendIfExistsOrAdd,
    AddIfAbsent,
    OverwriteIfExistsOrAdd,
    OverwriteIfExists,
}
