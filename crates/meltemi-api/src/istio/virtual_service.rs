use std::collections::BTreeMap;
use std::time::Duration;

use meltemi_core::Labels;
use serde::Deserialize;

use super::common::{StringMap, duration};
use super::{Destination, Percent, StringMatch};

/// How requests to a host are routed (`networking.v1.VirtualService`). First matching route wins.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct VirtualService {
    /// As written; short names are resolved in the namespace of the object.
    pub hosts: Vec<String>,
    /// Empty means `mesh`.
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<TlsRoute>,
    pub tcp: Vec<TcpRoute>,
    /// `.`, `*` or namespace names; empty means the mesh's default.
    pub export_to: Vec<String>,
}

impl VirtualService {
    /// Whether sidecars obey it.
    pub fn applies_to_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|gateway| gateway == "mesh")
    }

    /// Every place that its routes lead to, mirrors included.
    pub fn destinations(&self) -> impl Iterator<Item = &Destination> {
        let http = self.http.iter().flat_map(|http| {
            let routes = http.route.iter().map(|route| &route.destination);
            let mirrors = http.mirrors.iter().map(|mirror| &mirror.destination);
            routes.chain(mirrors).chain(&http.mirror)
        });
        let tls = self.tls.iter().flat_map(|tls| &tls.route);
        let tcp = self.tcp.iter().flat_map(|tcp| &tcp.route);
        let layer4 = tls.chain(tcp).map(|route| &route.destination);
        http.chain(layer4)
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpRoute {
    pub name: String,
    /// Any of them; empty matches everything.
    #[serde(rename = "match")]
    pub matches: Vec<HttpMatch>,
    pub route: Vec<RouteDestination>,
    pub redirect: Option<Redirect>,
    pub direct_response: Option<DirectResponse>,
    pub delegate: Option<Delegate>,
    pub rewrite: Option<Rewrite>,
    /// Absent: no timeout.
    #[serde(with = "duration")]
    pub timeout: Option<Duration>,
    /// Absent: the mesh's default policy.
    pub retries: Option<Retries>,
    pub fault: Option<Fault>,
    pub mirror: Option<Destination>,
    pub mirror_percentage: Option<Percent>,
    pub mirrors: Vec<Mirror>,
    pub cors_policy: Option<CorsPolicy>,
    pub headers: Option<Headers>,
}

/// All fields that are set must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpMatch {
    pub name: String,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, StringMatch>,
    pub without_headers: BTreeMap<String, StringMatch>,
    pub query_params: BTreeMap<String, StringMatch>,
    pub port: Option<u32>,
    pub source_labels: Labels,
    pub source_namespace: String,
    /// Empty: the gateways of the VirtualService.
    pub gateways: Vec<String>,
    /// For exact and prefix matches of `uri`.
    pub ignore_uri_case: bool,
    pub stat_prefix: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RouteDestination {
    pub destination: Destination,
    /// Relative to the sum; a single destination ignores it.
    pub weight: i32,
    pub headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Headers {
    pub request: Option<HeaderOperations>,
    pub response: Option<HeaderOperations>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HeaderOperations {
    pub set: StringMap,
    pub add: StringMap,
    pub remove: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Redirect {
    pub uri: String,
    pub prefix_rewrite: String,
    pub authority: String,
    pub port: Option<u32>,
    pub derive_port: Option<DerivePort>,
    pub scheme: String,
    /// Absent: 301.
    pub redirect_code: Option<u32>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum DerivePort {
    FromProtocolDefault,
    FromRequestPort,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DirectResponse {
    pub status: u32,
    pub body: Option<DirectResponseBody>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum DirectResponseBody {
    String(String),
    Bytes(k8s_openapi::ByteString),
}

/// The VirtualService that holds the routes, when this one has hosts only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Delegate {
    pub name: String,
    pub namespace: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Rewrite {
    /// Replaces the matched prefix, or the whole path where the match was none.
    pub uri: String,
    pub authority: String,
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RegexRewrite {
    #[serde(rename = "match")]
    pub pattern: String,
    pub rewrite: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Retries {
    /// 0 switches retries off.
    pub attempts: i32,
    #[serde(with = "duration")]
    pub per_try_timeout: Option<Duration>,
    /// Comma separated; empty means Istio's default conditions.
    pub retry_on: String,
    /// Absent: true.
    pub retry_ignore_previous_hosts: Option<bool>,
    #[serde(with = "duration")]
    pub backoff: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Fault {
    pub delay: Option<Delay>,
    pub abort: Option<Abort>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Delay {
    #[serde(with = "duration")]
    pub fixed_delay: Option<Duration>,
    /// Absent: 100.
    pub percentage: Option<Percent>,
    /// The deprecated whole-number form.
    pub percent: Option<i32>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(try_from = "AbortFields")]
pub struct Abort {
    pub kind: AbortKind,
    /// Absent: 100.
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AbortKind {
    HttpStatus(i32),
    GrpcStatus(GrpcStatus),
}

/// As it is written, `UNAVAILABLE` or `14`; validation reports what has no [`code`](Self::code).
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct GrpcStatus(String);

impl GrpcStatus {
    /// By code, in the order of the gRPC specification ("Status codes and their use in gRPC").
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];

    /// The number of the status; none for what is neither a name nor a number of one.
    pub fn code(&self) -> Option<u32> {
        let number = match Self::NAMES.iter().position(|name| *name == self.0) {
            Some(position) => position,
            None => self.0.parse().ok()?,
        };
        let number = (number < Self::NAMES.len()).then_some(number)?;
        u32::try_from(number).ok()
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AbortFields {
    http_status: Option<i32>,
    grpc_status: Option<GrpcStatus>,
    percentage: Option<Percent>,
}

impl TryFrom<AbortFields> for Abort {
    type Error = &'static str;

    fn try_from(fields: AbortFields) -> Result<Self, Self::Error> {
        let kind = match (fields.http_status, fields.grpc_status) {
            (Some(status), None) => AbortKind::HttpStatus(status),
            (None, Some(status)) => AbortKind::GrpcStatus(status),
            _ => return Err("set exactly one of httpStatus and grpcStatus"),
        };
        Ok(Self {
            kind,
            percentage: fields.percentage,
        })
    }
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Mirror {
    pub destination: Destination,
    /// Absent: 100.
    pub percentage: Option<Percent>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CorsPolicy {
    pub allow_origins: Vec<StringMatch>,
    pub allow_methods: Vec<String>,
    pub allow_headers: Vec<String>,
    pub expose_headers: Vec<String>,
    #[serde(with = "duration")]
    pub max_age: Option<Duration>,
    pub allow_credentials: Option<bool>,
    pub unmatched_preflights: UnmatchedPreflights,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum UnmatchedPreflights {
    #[default]
    Unspecified,
    Forward,
    Ignore,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsRoute {
    #[serde(rename = "match")]
    pub matches: Vec<TlsMatch>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TlsMatch {
    /// Each must be covered by a host of the VirtualService.
    pub sni_hosts: Vec<String>,
    pub destination_subnets: Vec<String>,
    pub port: Option<u32>,
    pub source_labels: Labels,
    pub source_namespace: String,
    pub gateways: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpRoute {
    #[serde(rename = "match")]
    pub matches: Vec<L4Match>,
    pub route: Vec<RouteDestination>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct L4Match {
    pub destination_subnets: Vec<String>,
    pub port: Option<u32>,
    pub source_labels: Labels,
    pub source_namespace: String,
    pub gateways: Vec<String>,
}
