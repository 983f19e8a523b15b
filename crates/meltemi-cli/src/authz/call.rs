//! One call, judged by what the called workload's proxy would be given.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use meltemi_core::Identity;
use meltemi_core::names::alpn;
use meltemi_model::MeshSnapshot;
use meltemi_proto::Resource;
use meltemi_proxy_core::filter_chain::{ConnectionFacts, match_filter_chain};
use meltemi_proxy_core::jwt::{self, JwtStatus};
use meltemi_proxy_core::rbac::{self, RbacRequest};
use meltemi_proxy_core::request::RequestHead;
use meltemi_proxy_core::runtime::{
    FilterChain, HttpFilterKind, Listener, NetworkFilter, PathNormalisation, RbacAction,
    RbacFilter, Terminal, TransportProtocol,
};
use meltemi_proxy_core::{compile, path};
use meltemi_xdsgen::{ProxyView, generate};
use prost::Message as _;
use serde_json::{Map, Value};

/// The ALPN of a mesh client that speaks HTTP, and of one that does not.
const MESH_HTTP: [&str; 3] = [alpn::ISTIO_HTTP11, alpn::ISTIO, alpn::HTTP11];
const PLAIN_HTTP: [&str; 1] = [alpn::HTTP11];

/// Of the rules that choose what an external authorizer is asked about.
const ASKED_PREFIX: &str = "istio_ext_authz_";

/// Who calls what.
#[derive(Debug)]
pub(super) struct Call<'a> {
    /// Of mutual TLS.
    pub(super) caller: Option<&'a Identity>,
    pub(super) source: IpAddr,
    pub(super) destination: SocketAddr,
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) host: &'a str,
    pub(super) headers: &'a [(String, String)],
    pub(super) token: Option<&'a str>,
    /// Since 1970.
    pub(super) now: Duration,
}

/// What a filter said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) action: &'static str,
    pub(super) is_allowed: bool,
    /// The rule that matched, as proxies call it.
    pub(super) rule: Option<Arc<str>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Judgement {
    /// Whether requests are looked into.
    pub(super) is_http: bool,
    /// Of the filters, to the first that denies.
    pub(super) enforced: Vec<Said>,
    pub(super) dry_runs: Vec<Said>,
    /// The rule of CUSTOM that matched: an external authorizer has a say, too.
    pub(super) asks: Option<Said>,
}

impl Judgement {
    pub(super) fn is_allowed(&self) -> bool {
        self.enforced.iter().all(|said| said.is_allowed)
    }
}

/// Why there is nothing to judge.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum Unjudged {
    #[error("nothing listens on port {0}")]
    NoListener(u16),
    /// STRICT refuses plain text before any policy is asked.
    #[error("the connection is refused: it needs mutual TLS")]
    NoChain,
    #[error("the proxy would refuse its configuration: {0}")]
    Refused(String),
    #[error("\"{0}\" is no path, header or method of a request")]
    Malformed(String),
    #[error("the token is refused: {0}")]
    Token(JwtStatus),
}

/// Judges a call to the workload that `view` is of.
pub(super) fn judge(
    view: &ProxyView,
    mesh: &MeshSnapshot,
    call: &Call<'_>,
) -> Result<Judgement, Unjudged> {
    let generated = generate(view, mesh);
    let port = call.destination.port();
    let names = [
        "virtualInbound".to_owned(),
        format!("0.0.0.0_{port}"),
        format!("::_{port}"),
    ];
    let is_own = |name: &&String| match view.role {
        meltemi_xdsgen::Role::Sidecar => name.as_str() == "virtualInbound",
        meltemi_xdsgen::Role::Router => name.as_str() != "virtualInbound",
    };
    let resource = names
        .iter()
        .filter(is_own)
        .find_map(|name| generated.listeners.get(name.as_str()));
    let listener = compiled(resource.ok_or(Unjudged::NoListener(port))?)?;
    let chain = chain(&listener, call).ok_or(Unjudged::NoChain)?;
    match &chain.terminal {
        Terminal::Http(manager) => {
            let kinds = || manager.http_filters.iter().map(|filter| &filter.kind);
            let filters = kinds().filter_map(|kind| match kind {
                HttpFilterKind::Rbac(config) => Some(config),
                _ => None,
            });
            let tokens = kinds().find_map(|kind| match kind {
                HttpFilterKind::Jwt(config) => Some(config),
                _ => None,
            });
            let verified = match (tokens, call.token) {
                (Some(config), Some(token)) => Some(jwt::foresee(config, token, call.now)),
                // Nobody looks at it.
                _ => None,
            };
            let verified = verified.transpose().map_err(Unjudged::Token)?;
            requests(filters, call, verified.as_ref(), manager.path)
        }
        _ => {
            let filters = chain.filters.iter().filter_map(|filter| match filter {
                NetworkFilter::Rbac(config) => Some(config),
                _ => None,
            });
            Ok(collect(filters, &facts(call, None), false))
        }
    }
}

fn compiled(resource: &Resource) -> Result<Listener, Unjudged> {
    let refused = |error: &dyn std::fmt::Display| Unjudged::Refused(error.to_string());
    let message = meltemi_proto::envoy::config::listener::v3::Listener::decode(
        resource.body.value.as_slice(),
    )
    .map_err(|error| refused(&error))?;
    compile::listener(message).map_err(|error| refused(&error))
}

fn chain<'l>(listener: &'l Listener, call: &Call<'_>) -> Option<&'l FilterChain> {
    let (transport, application): (_, &[&str]) = match call.caller {
        Some(_) => (TransportProtocol::Tls, &MESH_HTTP),
        None => (TransportProtocol::RawBuffer, &PLAIN_HTTP),
    };
    let facts = ConnectionFacts {
        destination: call.destination,
        source: SocketAddr::new(call.source, 0),
        direct_source: call.source,
        server_name: None,
        transport,
        application_protocols: application,
    };
    match_filter_chain(listener, &facts).map(AsRef::as_ref)
}

fn requests<'f>(
    filters: impl Iterator<Item = &'f Arc<RbacFilter>>,
    call: &Call<'_>,
    verified: Option<&Map<String, Value>>,
    rules: PathNormalisation,
) -> Result<Judgement, Unjudged> {
    let malformed = |text: &str| Unjudged::Malformed(text.to_owned());
    let mut headers = HeaderMap::new();
    for (name, value) in call.headers {
        let name = HeaderName::try_from(name).map_err(|_| malformed(name))?;
        let value = HeaderValue::from_str(value).map_err(|_| malformed(value))?;
        headers.append(name, value);
    }
    http::Method::from_bytes(call.method.as_bytes()).map_err(|_| malformed(call.method))?;
    let path = match path::normalise(call.path, rules).map_err(|_| malformed(call.path))? {
        path::PathOutcome::Unchanged => call.path.to_owned(),
        path::PathOutcome::Changed(path) | path::PathOutcome::Redirect(path) => path,
    };
    let head = RequestHead {
        method: call.method,
        path: &path,
        authority: call.host,
        scheme: "http",
        headers: &headers,
    };
    let (request, san) = facts(call, Some(&head));
    let request = RbacRequest {
        verified,
        ..request
    };
    Ok(collect(filters, &(request, san), true))
}

fn facts<'a>(
    call: &'a Call<'_>,
    head: Option<&'a RequestHead<'a>>,
) -> (RbacRequest<'a>, Option<String>) {
    let san = call.caller.map(ToString::to_string);
    let request = RbacRequest {
        head,
        destination: call.destination,
        direct_remote: call.source,
        remote: call.source,
        requested_server_name: None,
        peer_uri_san: None,
        verified: None,
    };
    (request, san)
}

fn collect<'f>(
    filters: impl Iterator<Item = &'f Arc<RbacFilter>>,
    (request, san): &(RbacRequest<'_>, Option<String>),
    is_http: bool,
) -> Judgement {
    let request = RbacRequest {
        peer_uri_san: san.as_deref(),
        ..*request
    };
    let mut judgement = Judgement {
        is_http,
        ..Judgement::default()
    };
    for filter in filters {
        let (enforced, shadow) = rbac::evaluate(filter, &request);
        let said = |rules: &Option<_>, verdict: rbac::Verdict<'_>| {
            let rules: Option<&meltemi_proxy_core::runtime::RbacRules> = rules.as_ref();
            let action = match rules?.action {
                RbacAction::Allow => "ALLOW",
                RbacAction::Deny => "DENY",
                RbacAction::Log => "AUDIT",
            };
            Some(Said {
                action,
                is_allowed: verdict.is_allowed,
                rule: verdict.policy.cloned(),
            })
        };
        if &*filter.shadow_prefix == ASKED_PREFIX {
            // These rules choose what the authorizer behind them is asked about.
            let rule = shadow.and_then(|shadow| shadow.policy.cloned());
            judgement.asks = judgement.asks.or_else(|| {
                Some(Said {
                    action: "CUSTOM",
                    is_allowed: true,
                    rule: Some(rule?),
                })
            });
            continue;
        }
        let shadow = shadow.and_then(|shadow| said(&filter.shadow_rules, shadow));
        judgement.dry_runs.extend(shadow);
        judgement.enforced.extend(said(&filter.rules, enforced));
        if !enforced.is_allowed {
            break;
        }
    }
    judgement
}
