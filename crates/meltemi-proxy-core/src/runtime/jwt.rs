use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use super::{RouteMatch, StringMatcher};
use crate::jwt::Jwks;

/// Envoy `filters.http.jwt_authn.v3.JwtAuthentication`.
#[derive(Debug, Clone)]
pub struct JwtAuthentication {
    /// By name; requirements name them by position.
    pub providers: Vec<JwtProvider>,
    /// The first that matches counts; where none does, nothing is required.
    pub rules: Vec<JwtRule>,
    /// Requirements that routes name (`requirement_map`).
    pub named: Vec<(Arc<str>, JwtRequirement)>,
    pub bypass_cors_preflight: bool,
    /// Tells the client nothing but the status.
    pub strip_failure_response: bool,
    /// What only this filter may say to the application: taken from every request, whatever it requires.
    pub reserved_headers: Vec<HeaderName>,
}

#[derive(Debug, Clone)]
pub struct JwtRule {
    pub matches: RouteMatch,
    /// `None`: nothing is looked at.
    pub requires: Option<JwtRequirement>,
}

/// Envoy `JwtRequirement`.
#[derive(Debug, Clone)]
pub enum JwtRequirement {
    Provider {
        provider: usize,
        /// In place of the provider's own.
        audiences: Option<Vec<Arc<str>>>,
    },
    AnyOf {
        alternatives: Vec<Self>,
        or_else: Option<JwtBypass>,
    },
    AllOf(Vec<Self>),
    /// Without a provider: of all providers, whichever issued the token.
    Bypass(JwtBypass),
}

/// What may be in place of a good token. Each includes the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum JwtBypass {
    /// No token at all; one that is there must be good.
    Missing,
    /// Anything.
    MissingOrFailed,
}

/// Envoy `JwtProvider`.
#[derive(Debug, Clone)]
pub struct JwtProvider {
    pub name: Arc<str>,
    /// Empty: tokens of every issuer.
    pub issuer: Arc<str>,
    /// In the form of [`crate::jwt::audience`]; empty: for whomever.
    pub audiences: Vec<Arc<str>>,
    pub subjects: Option<StringMatcher>,
    pub require_expiration: bool,
    pub max_lifetime: Option<Duration>,
    pub clock_skew: Duration,
    pub locations: Vec<JwtLocation>,
    /// The token goes on to the upstream.
    pub forward: bool,
    pub payload_header: Option<HeaderName>,
    pub pads_payload_header: bool,
    pub claim_headers: Vec<JwtClaimHeader>,
    /// The key of the payload among what the filter tells others.
    pub payload_in_metadata: Option<Arc<str>>,
    /// Of that payload: texts that are lists of words.
    pub space_delimited_claims: Vec<Arc<str>>,
    pub clear_route_cache: bool,
    pub keys: JwtKeys,
}

/// Where a token may stand in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtLocation {
    Header {
        name: HeaderName,
        /// In front of the token.
        prefix: Arc<str>,
    },
    /// Of the query.
    Parameter(Arc<str>),
    Cookie(Arc<str>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtClaimHeader {
    pub header: HeaderName,
    /// Names of objects within objects.
    pub claim: Vec<Arc<str>>,
}

/// With what a provider's signatures are checked.
#[derive(Debug, Clone)]
pub enum JwtKeys {
    Local(Arc<Jwks>),
    /// Fetched by the proxy.
    Remote(Arc<RemoteJwks>),
}

/// Envoy `RemoteJwks`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteJwks {
    /// `http[s]://host[:port]/path`; the cluster decides where that is.
    pub uri: Arc<str>,
    pub cluster: Arc<str>,
    pub timeout: Duration,
    pub cache_duration: Duration,
}

/// Envoy `jwt_authn.v3.PerRouteConfig`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JwtPerRoute {
    Disabled,
    /// Of [`JwtAuthentication::named`].
    Requirement(Arc<str>),
}
