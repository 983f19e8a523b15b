//! Istio's resources as types. A field that is absent is `None` or empty: defaults that depend on the mesh belong to
//! who applies them.

mod authorization_policy;
mod common;
mod destination_rule;
mod extension_provider;
mod gateway;
mod mesh_config;
mod peer_authentication;
mod request_authentication;
mod service_entry;
mod sidecar;
mod virtual_service;

pub use authorization_policy::{
    Attribute, AuthorizationAction, AuthorizationPolicy, AuthorizationProvider, AuthorizationRule,
    Condition, Operation, PolicyTargetReference, RuleFrom, RuleTo, Source, ValuePattern,
};
pub(crate) use common::duration;
pub use common::{Destination, LabelSelector, Percent, PortSelector, StringMatch};
pub use destination_rule::{
    ClientTlsMode, ClientTlsSettings, ConnectionPool, ConsistentHash, DestinationRule, Distribute,
    Failover, H2UpgradePolicy, HashKey, HttpCookie, HttpSettings, LoadBalancer, LocalityLbSetting,
    OutlierDetection, PortTrafficPolicy, RetryBudget, SimpleLb, Subset, TcpKeepalive, TcpSettings,
    TrafficPolicy, Warmup,
};
pub use extension_provider::{
    AuthorizerProvider, CheckedRequestBody, ExtAuthzGrpc, ExtAuthzHttp, ExtensionProvider,
};
pub use gateway::{Gateway, GatewayPort, Server, ServerTlsMode, ServerTlsSettings, TlsProtocol};
pub use mesh_config::{
    AccessLogEncoding, ForwardClientCertDetails, GatewayTopology, InboundTrafficPolicy,
    InboundTrafficPolicyMode, MeshConfig, OutboundTrafficPolicy, OutboundTrafficPolicyMode,
    PathNormalization, PathNormalizationType, ProxyConfig, ProxyImage, ProxyStatsMatcher, Tracing,
};
pub use peer_authentication::{MutualTls, PeerAuthentication, TlsMode};
pub use request_authentication::{
    ClaimToHeader, JwtHeader, JwtRule, Presence, RequestAuthentication, TargetRef, claim_path,
};
pub use service_entry::{
    Location, Resolution, ServiceEntry, ServicePort, WorkloadEntry, WorkloadSelector,
};
pub use sidecar::{
    CaptureMode, EgressListener, IngressListener, Sidecar, SidecarOutboundPolicy, SidecarPort,
};
pub use virtual_service::{
    Abort, AbortKind, CorsPolicy, Delay, Delegate, DerivePort, DirectResponse, DirectResponseBody,
    Fault, GrpcStatus, HeaderOperations, Headers, HttpMatch, HttpRoute, L4Match, Mirror, Redirect,
    RegexRewrite, Retries, Rewrite, RouteDestination, TcpRoute, TlsMatch, TlsRoute,
    UnmatchedPreflights, VirtualService,
};
