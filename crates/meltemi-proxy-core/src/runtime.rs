//! What the proxy runs on: the compiled, validated, immutable form of xDS resources.
//!
//! Nothing here knows protobuf; a [`LazyVirtualHost`] carries it, unread. A value is built once by [`crate::compile`], shared by `Arc`, and swapped whole when the
//! resource changes; a connection or request keeps the version it started with. Wire forms and compiled forms have the same
//! names and live in different modules: write `runtime::Cluster`.

mod access_log;
mod cluster;
mod endpoint;
mod ext_authz;
mod filter;
mod http_connection_manager;
mod jwt;
mod listener;
mod matcher;
mod metadata;
mod rbac;
mod route;
mod tls;
mod virtual_hosts;

pub use access_log::{
    AccessLog, AccessLogFilter, AccessLogSink, Comparison, ComparisonOp, JsonNode, LogFormat,
    LogPiece, Operator,
};
pub use cluster::{
    CircuitBreakers, Cluster, Discovery, DnsSettings, LbPolicy, MaglevSettings, OutlierDetection,
    RetryBudget, RingHashFunction, RingHashSettings, ServiceRef, TcpKeepalive, Thresholds,
    TransportSocketMatch, UpstreamHttp, UpstreamHttpVersion, UpstreamTransport,
};
pub use endpoint::{
    ClusterLoadAssignment, DropOverload, Endpoint, EndpointAddress, Health, LocalityEndpoints,
    WorkloadMetadata,
};
pub use ext_authz::{
    Authorizer, CheckedBody, ExtAuthz, ExtAuthzMetadata, ExtAuthzPerRoute, GrpcAuthorizer,
    HeaderNames, HttpAuthorizer, NetworkExtAuthz, PolicyMatcher,
};
pub use filter::{
    AlpnOverrides, AlpnProtocol, Cors, FaultAbort, FaultAbortStatus, FaultDelay, FaultInjection,
    FilterOverride, GrpcStats, HttpFilter, HttpFilterKind, LocalRateLimit, NetworkFilter,
    OverrideConfig, PeerMetadataExchange, PeerMetadataMethod, PerFilterConfig, Router, Stats,
    StatsReporter, TcpMetadataExchange, TokenBucket,
};
pub use http_connection_manager::{
    ClientCertDetails, EscapedSlashes, ForwardClientCert, Http1Options, Http2Options, HttpCodec,
    HttpConnectionManager, PathNormalisation, RouteSource, ServerHeader, StripPort, Upgrade,
};
pub use jwt::{
    JwtAuthentication, JwtBypass, JwtClaimHeader, JwtKeys, JwtLocation, JwtPerRoute, JwtProvider,
    JwtRequirement, JwtRule, RemoteJwks,
};
pub use listener::{
    FilterChain, FilterChainMatch, InspectorKind, Listener, ListenerFilter, PortPredicate,
    ServerNames, SourceType, TcpProxy, TcpTarget, TcpWeightedCluster, Terminal, TrafficDirection,
    TransportProtocol,
};
pub use matcher::{
    Fraction, HeaderMatch, HeaderMatcher, HeaderSource, QueryMatch, QueryMatcher, RegexRewrite,
    StringMatcher, StringPattern,
};
pub use metadata::{MetadataMatcher, ValueMatcher};
pub use rbac::{RbacAction, RbacFilter, RbacPermission, RbacPolicy, RbacPrincipal, RbacRules};
pub use route::{
    ClusterTarget, DirectResponse, ForwardAction, HashPolicy, HashSource, HeaderAppend,
    HeaderMutation, HeaderMutations, HeaderTemplate, HostRewrite, MirrorPolicy, PathMatch,
    PathRewrite, Redirect, RedirectPath, RetryBackoff, RetryConditions, RetryPolicy, Route,
    RouteAction, RouteConfiguration, RouteMatch, UpgradeOverride, VirtualHost, WeightedCluster,
    WeightedClusters,
};
pub use tls::{
    CertificateSource, DownstreamTls, SanMatcher, SanType, Secret, SecretContent, TlsVersion,
    TlsVersions, TrustSource, UpstreamTls, Validation,
};
pub use virtual_hosts::LazyVirtualHost;
