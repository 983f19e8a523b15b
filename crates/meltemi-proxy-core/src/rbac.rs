//! Evaluates RBAC policies (Envoy `config.rbac.v3`) over requests and connections.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::request::RequestHead;
use crate::runtime::{
    RbacAction, RbacFilter, RbacPermission, RbacPolicy, RbacPrincipal, RbacRules, StringMatcher,
};

/// What policies look at. A connection has no head: tests of headers and paths then never match.
#[derive(Debug, Clone, Copy)]
pub struct RbacRequest<'a> {
    pub head: Option<&'a RequestHead<'a>>,
    /// The original destination, or the local address.
    pub destination: SocketAddr,
    pub direct_remote: IpAddr,
    /// After `x-forwarded-for` processing.
    pub remote: IpAddr,
    pub requested_server_name: Option<&'a str>,
    /// The URI SAN of the verified peer certificate, `spiffe://...`; `None` without mutual TLS.
    pub peer_uri_san: Option<&'a str>,
    /// What tokens prove (Envoy: dynamic metadata `envoy.filters.http.jwt_authn`).
    pub verified: Option<&'a Map<String, Value>>,
}

/// What the rules say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict<'r> {
    pub is_allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'r Arc<str>>,
}

/// The enforced and the shadow verdict of a filter; shadow is `None` without shadow rules.
pub fn evaluate<'r>(
    filter: &'r RbacFilter,
    request: &RbacRequest<'_>,
) -> (Verdict<'r>, Option<Verdict<'r>>) {
    let enforced = filter.rules.as_ref().map_or(
        Verdict {
            is_allowed: true,
            policy: None,
        },
        |rules| rules.evaluate(request),
    );
    (
        enforced,
        filter
            .shadow_rules
            .as_ref()
            .map(|rules| rules.evaluate(request)),
    )
}

impl RbacRules {
    /// ALLOW without a matching policy denies; DENY with one denies; LOG never does.
    fn evaluate(&self, request: &RbacRequest<'_>) -> Verdict<'_> {
        let reading = match self.action {
            RbacAction::Allow => Reading::Every,
            RbacAction::Deny | RbacAction::Log => Reading::Any,
        };
        let mut policies = self.policies.iter();
        let matched = policies.find(|policy| policy.matches(request, reading));
        Verdict {
            is_allowed: match self.action {
                RbacAction::Allow => matched.is_some(),
                RbacAction::Deny => matched.is_none(),
                RbacAction::Log => true,
            },
            policy: matched.map(|policy| &policy.name),
        }
    }
}

/// What a path that applications read in different ways has to match in: where a match opens, in each of its readings; where
/// it closes, in one of them.
#[derive(Debug, Clone, Copy)]
enum Reading {
    Any,
    Every,
}

impl Reading {
    /// Under a negation a match opens what it closed.
    fn turned(self) -> Self {
        match self {
            Self::Any => Self::Every,
            Self::Every => Self::Any,
        }
    }
}

impl RbacPolicy {
    fn matches(&self, request: &RbacRequest<'_>, reading: Reading) -> bool {
        let (mut permissions, mut principals) = (self.permissions.iter(), self.principals.iter());
        permissions.any(|permission| permission.matches(request, reading))
            && principals.any(|principal| principal.matches(request, reading))
    }
}

impl RbacPermission {
    fn matches(&self, request: &RbacRequest<'_>, reading: Reading) -> bool {
        match self {
            Self::Any => true,
            Self::AllOf(list) => list.iter().all(|inner| inner.matches(request, reading)),
            Self::AnyOf(list) => list.iter().any(|inner| inner.matches(request, reading)),
            Self::Not(inner) => !inner.matches(request, reading.turned()),
            Self::Header(matcher) => request.head.is_some_and(|head| matcher.matches(head)),
            Self::UrlPath(matcher) => request.has_path(matcher, reading),
            Self::UrlTemplate(template) => {
                request.is_path(|path| template.is_match(path.as_bytes()), reading)
            }
            Self::DestinationIp(net) => net.contains(&request.destination.ip().to_canonical()),
            Self::DestinationPort(port) => request.destination.port() == *port,
            Self::DestinationPortRange { start, end } => {
                (*start..*end).contains(&u32::from(request.destination.port()))
            }
            Self::RequestedServerName(matcher) => {
                matcher.matches(request.requested_server_name.unwrap_or_default().as_bytes())
            }
        }
    }
}

impl RbacPrincipal {
    fn matches(&self, request: &RbacRequest<'_>, reading: Reading) -> bool {
        match self {
            Self::Any => true,
            Self::AllOf(list) => list.iter().all(|inner| inner.matches(request, reading)),
            Self::AnyOf(list) => list.iter().any(|inner| inner.matches(request, reading)),
            Self::Not(inner) => !inner.matches(request, reading.turned()),
            Self::Authenticated(None) => request.peer_uri_san.is_some(),
            Self::Authenticated(Some(matcher)) | Self::PeerPrincipal(matcher) => request
                .peer_uri_san
                .is_some_and(|san| matcher.matches(san.as_bytes())),
            Self::DirectRemoteIp(net) => net.contains(&request.direct_remote.to_canonical()),
            Self::RemoteIp(net) => net.contains(&request.remote.to_canonical()),
            Self::Header(matcher) => request.head.is_some_and(|head| matcher.matches(head)),
            Self::UrlPath(matcher) => request.has_path(matcher, reading),
            Self::Metadata(matcher) => matcher.matches(request.verified),
        }
    }
}

impl RbacRequest<'_> {
    fn has_path(&self, matcher: &StringMatcher, reading: Reading) -> bool {
        let test = |path: &str| matcher.matches(path.as_bytes());
        match reading {
            // Who writes of parameters means the path as it is sent.
            Reading::Every if matcher.names(';') => self
                .head
                .is_some_and(|head| test(head.path_without_query())),
            reading => self.is_path(test, reading),
        }
    }

    /// Whether a test holds for the path without query: as it is, and as an application reads it that ignores the parameters
    /// of segments, and then perhaps empty segments. `/admin;a=b` is `/admin` there, and `/;x/admin`, too.
    ///
    /// Differs from Envoy, which knows no such parameters (CVE-2026-73511).
    fn is_path(&self, test: impl Fn(&str) -> bool, reading: Reading) -> bool {
        let Some(path) = self.head.map(RequestHead::path_without_query) else {
            return false;
        };
        let holds = test(path);
        let Cow::Owned(bare) = without_parameters(path) else {
            return holds;
        };
        match reading {
            Reading::Any => holds || test(&bare) || test(&merged(&bare)),
            Reading::Every => holds && test(&bare) && test(&merged(&bare)),
        }
    }
}

/// A path without its empty segments but the last.
fn merged(path: &str) -> String {
    let mut merged = String::with_capacity(path.len());
    for character in path.chars() {
        if character != '/' || !merged.ends_with('/') {
            merged.push(character);
        }
    }
    merged
}

/// A path without what follows a semicolon in each segment (RFC 3986 section 3.3).
fn without_parameters(path: &str) -> Cow<'_, str> {
    if memchr::memchr(b';', path.as_bytes()).is_none() {
        return Cow::Borrowed(path);
    }
    let segments = path.split('/');
    let bare: Vec<&str> = segments
        .map(|segment| segment.split(';').next().unwrap_or_default())
        .collect();
    Cow::Owned(bare.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{HeaderMatch, HeaderMatcher, HeaderSource, StringMatcher};
    use http::HeaderMap;

    const PRODUCTPAGE: &str = "spiffe://cluster.local/ns/default/sa/bookinfo-productpage";

    fn rules(action: RbacAction) -> RbacFilter {
        let get = HeaderMatcher {
            source: HeaderSource::Method,
            test: HeaderMatch::Value(StringMatcher::exact("GET")),
            invert: false,
            treat_missing_as_empty: false,
        };
        let policy = RbacPolicy {
            name: "ns[default]-policy[reviews]-rule[0]".into(),
            permissions: vec![RbacPermission::AllOf(vec![
                RbacPermission::Header(get),
                RbacPermission::UrlPath(StringMatcher::prefix("/reviews")),
                RbacPermission::DestinationPort(9080),
            ])],
            principals: vec![RbacPrincipal::Authenticated(Some(StringMatcher::exact(
                PRODUCTPAGE,
            )))],
        };
        RbacFilter {
            rules: Some(RbacRules {
                action,
                policies: vec![policy],
            }),
            ..RbacFilter::default()
        }
    }

    fn check(filter: &RbacFilter, method: &str, path: &str, peer: Option<&str>, allowed: bool) {
        let headers = HeaderMap::new();
        let head = RequestHead {
            method,
            path,
            authority: "reviews",
            scheme: "http",
            headers: &headers,
        };
        let request = RbacRequest {
            head: Some(&head),
            destination: "10.244.0.7:9080".parse().unwrap(),
            direct_remote: "10.244.0.5".parse().unwrap(),
            remote: "10.244.0.5".parse().unwrap(),
            requested_server_name: None,
            peer_uri_san: peer,
            verified: None,
        };
        assert_eq!(
            evaluate(filter, &request).0.is_allowed,
            allowed,
            "{method} {path} {peer:?}"
        );
    }

    #[test]
    fn allow_needs_a_match() {
        let filter = rules(RbacAction::Allow);
        check(&filter, "GET", "/reviews/0?x", Some(PRODUCTPAGE), true);
        check(&filter, "POST", "/reviews/0", Some(PRODUCTPAGE), false);
        check(&filter, "GET", "/ratings", Some(PRODUCTPAGE), false);
        check(
            &filter,
            "GET",
            "/reviews",
            Some("spiffe://cluster.local/ns/default/sa/other"),
            false,
        );
        check(&filter, "GET", "/reviews", None, false);
    }

    #[test]
    fn deny_and_log() {
        check(
            &rules(RbacAction::Deny),
            "GET",
            "/reviews",
            Some(PRODUCTPAGE),
            false,
        );
        check(&rules(RbacAction::Deny), "GET", "/reviews", None, true);
        check(&rules(RbacAction::Log), "GET", "/other", None, true);
        check(&RbacFilter::default(), "GET", "/", None, true);
        let nothing = RbacFilter {
            rules: Some(RbacRules {
                action: RbacAction::Allow,
                policies: Vec::new(),
            }),
            ..RbacFilter::default()
        };
        check(&nothing, "GET", "/", Some(PRODUCTPAGE), false);
    }

    #[test]
    fn a_connection_has_no_headers_to_match() {
        let request = RbacRequest {
            head: None,
            destination: "10.244.0.7:9080".parse().unwrap(),
            direct_remote: "10.244.0.5".parse().unwrap(),
            remote: "10.244.0.5".parse().unwrap(),
            requested_server_name: None,
            peer_uri_san: Some(PRODUCTPAGE),
            verified: None,
        };
        let filter = rules(RbacAction::Allow);
        let (verdict, shadow) = evaluate(&filter, &request);
        assert!(!verdict.is_allowed && shadow.is_none());
    }

    /// CVE-2026-73511.
    #[test]
    fn parameters_of_a_segment_hide_no_path() {
        for (path, bare) in [
            ("/admin", "/admin"),
            ("/admin;a=b", "/admin"),
            ("/a;x/b;y=1;z/c", "/a/b/c"),
            ("/;x", "/"),
        ] {
            assert_eq!(without_parameters(path), bare);
        }
        assert_eq!(merged("//a///b/"), "/a/b/");
    }

    /// A path with parameters is allowed where every reading of it is, and denied where one of them is.
    #[test]
    fn parameters_open_nothing() {
        let filter = |action, permission| RbacFilter {
            rules: Some(RbacRules {
                action,
                policies: vec![RbacPolicy {
                    name: "p".into(),
                    permissions: vec![permission],
                    principals: vec![RbacPrincipal::Any],
                }],
            }),
            ..RbacFilter::default()
        };
        let path = |matcher| RbacPermission::UrlPath(matcher);
        let not = |matcher| RbacPermission::Not(Box::new(path(matcher)));
        let (admin, css) = (
            StringMatcher::exact("/admin"),
            StringMatcher::suffix(".css"),
        );
        for (action, permission, asked, is_allowed) in [
            (RbacAction::Allow, path(css.clone()), "/a.css", true),
            (RbacAction::Allow, path(css.clone()), "/admin;.css", false),
            (RbacAction::Allow, path(admin.clone()), "/admin;a=b", false),
            (RbacAction::Allow, not(admin.clone()), "/admin;a=b", false),
            (RbacAction::Allow, not(admin.clone()), "/other;a=b", true),
            (RbacAction::Deny, path(admin.clone()), "/admin;a=b", false),
            (RbacAction::Deny, path(admin.clone()), "/;x/admin", false),
            (RbacAction::Deny, path(admin), "/other;x", true),
            (RbacAction::Deny, not(css.clone()), "/admin;.css", false),
            (RbacAction::Deny, not(css), "/a.css", true),
        ] {
            check(&filter(action, permission), "GET", asked, None, is_allowed);
        }
    }
}
