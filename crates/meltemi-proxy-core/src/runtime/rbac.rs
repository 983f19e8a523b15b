use std::sync::Arc;

use ipnet::IpNet;
use regex::bytes::Regex;

use super::{HeaderMatcher, MetadataMatcher, StringMatcher};

/// Envoy `filters.{network,http}.rbac.v3.RBAC`.
#[derive(Debug, Clone, Default)]
pub struct RbacFilter {
    /// `None` allows everything.
    pub rules: Option<RbacRules>,
    /// Evaluated and recorded, never enforced.
    pub shadow_rules: Option<RbacRules>,
    pub shadow_prefix: Arc<str>,
    pub stat_prefix: Arc<str>,
}

/// Envoy `config.rbac.v3.RBAC`.
#[derive(Debug, Clone)]
pub struct RbacRules {
    pub action: RbacAction,
    /// By name, as Envoy evaluates them.
    pub policies: Vec<RbacPolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacAction {
    Allow,
    Deny,
    /// Never denies.
    Log,
}

/// Applies if any permission and any principal matches.
#[derive(Debug, Clone)]
pub struct RbacPolicy {
    pub name: Arc<str>,
    pub permissions: Vec<RbacPermission>,
    pub principals: Vec<RbacPrincipal>,
}

/// What is accessed.
#[derive(Debug, Clone)]
pub enum RbacPermission {
    Any,
    AllOf(Vec<Self>),
    AnyOf(Vec<Self>),
    Not(Box<Self>),
    Header(HeaderMatcher),
    /// The path without query and fragment.
    UrlPath(StringMatcher),
    /// The same by a template, as an expression for the whole path.
    UrlTemplate(Regex),
    DestinationIp(IpNet),
    DestinationPort(u16),
    /// `[start, end)`.
    DestinationPortRange {
        start: u32,
        end: u32,
    },
    RequestedServerName(StringMatcher),
}

/// Who accesses.
#[derive(Debug, Clone)]
pub enum RbacPrincipal {
    Any,
    AllOf(Vec<Self>),
    AnyOf(Vec<Self>),
    Not(Box<Self>),
    /// A peer with a verified certificate; with a matcher, one whose URI SAN, DNS SAN or subject matches.
    Authenticated(Option<StringMatcher>),
    /// The peer of the connection.
    DirectRemoteIp(IpNet),
    /// The client's address after `x-forwarded-for` processing.
    RemoteIp(IpNet),
    Header(HeaderMatcher),
    UrlPath(StringMatcher),
    /// What a verified token says.
    Metadata(MetadataMatcher),
    /// Istio's `io.istio.peer_principal` filter state: the peer's SPIFFE ID, as `spiffe://...`.
    PeerPrincipal(StringMatcher),
}
