use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use serde_json::{Map, Value};

use super::{HeaderMutations, StringMatcher};

/// Envoy `filters.http.ext_authz.v3.ExtAuthz`.
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    pub authorizer: Authorizer,
    pub enabled: Option<PolicyMatcher>,
    /// `failure_mode_allow`: a request passes if the authorizer cannot say.
    pub fails_open: bool,
    /// `failure_mode_allow_header_add`: the upstream is told of it.
    pub tells_of_failure: bool,
    /// Default 403.
    pub status_on_error: StatusCode,
    /// What of the request's body the authorizer sees; `None`: nothing.
    pub body: Option<CheckedBody>,
    pub clear_route_cache: bool,
    /// The headers that it sees; `None`: all.
    pub allowed_headers: Option<HeaderNames>,
    pub disallowed_headers: HeaderNames,
    pub include_tls_session: bool,
    /// Bytes of a denial's body; 0 is no bound but our own.
    pub max_denied_body_bytes: usize,
    pub takes_metadata: bool,
}

/// Envoy `filters.network.ext_authz.v3.ExtAuthz`.
#[derive(Debug, Clone)]
pub struct NetworkExtAuthz {
    pub authorizer: GrpcAuthorizer,
    pub enabled: Option<PolicyMatcher>,
    pub fails_open: bool,
    pub include_tls_session: bool,
}

/// Who is asked.
#[derive(Debug, Clone)]
pub enum Authorizer {
    Http(Box<HttpAuthorizer>),
    Grpc(GrpcAuthorizer),
}

/// Asked with a request like the one that it judges; 200 allows.
#[derive(Debug, Clone)]
pub struct HttpAuthorizer {
    pub cluster: Arc<str>,
    pub timeout: Duration,
    pub path_prefix: Arc<str>,
    /// On the request to the authorizer.
    pub added_headers: HeaderMutations,
    /// From an answer that allows to the upstream: in place of the client's, or beside them.
    pub to_upstream: HeaderNames,
    pub to_upstream_appended: HeaderNames,
    /// From an answer that denies to the client; `None`: all.
    pub to_client_on_denial: Option<HeaderNames>,
    /// From an answer that allows to the client.
    pub to_client_on_success: HeaderNames,
    pub to_metadata: HeaderNames,
}

/// Asked by `envoy.service.auth.v3.Authorization/Check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcAuthorizer {
    pub cluster: Arc<str>,
    pub authority: Arc<str>,
    pub timeout: Duration,
}

impl Authorizer {
    pub fn cluster(&self) -> &Arc<str> {
        match self {
            Self::Http(http) => &http.cluster,
            Self::Grpc(grpc) => &grpc.cluster,
        }
    }

    pub fn timeout(&self) -> Duration {
        match self {
            Self::Http(http) => http.timeout,
            Self::Grpc(grpc) => grpc.timeout,
        }
    }
}

/// Envoy `ListStringMatcher` over names of headers, which are lower-case.
#[derive(Debug, Clone, Default)]
pub struct HeaderNames(pub Vec<StringMatcher>);

impl HeaderNames {
    pub fn contains(&self, name: &str) -> bool {
        self.0
            .iter()
            .any(|matcher| matcher.matches(name.as_bytes()))
    }
}

/// Envoy `ExtAuthz.filter_enabled_metadata` over what the RBAC filters in front have left: the authorizer is asked where
/// the value under `key` matches.
#[derive(Debug, Clone)]
pub struct PolicyMatcher {
    /// `istio_ext_authz_shadow_effective_policy_id`.
    pub key: Arc<str>,
    pub value: StringMatcher,
    pub invert: bool,
}

impl PolicyMatcher {
    pub fn matches(&self, found: Option<&str>) -> bool {
        found.is_some_and(|text| self.value.matches(text.as_bytes())) != self.invert
    }
}

/// Envoy `BufferSettings`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckedBody {
    pub max_bytes: usize,
    /// A longer body is cut, instead of being refused.
    pub may_be_partial: bool,
    /// In `raw_body` rather than in `body`.
    pub is_raw: bool,
}

/// Envoy `ExtAuthzPerRoute`.
#[derive(Debug, Clone, Default)]
pub struct ExtAuthzPerRoute {
    pub is_disabled: bool,
    pub context_extensions: BTreeMap<String, String>,
    pub skips_body: bool,
    pub body: Option<CheckedBody>,
}

/// What an authorizer left to be logged: Envoy's dynamic metadata `envoy.filters.http.ext_authz`.
pub type ExtAuthzMetadata = Arc<Map<String, Value>>;
