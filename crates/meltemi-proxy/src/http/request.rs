//! Builds the request that goes upstream.

use std::sync::Arc;

use http::header::{self, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Request, Uri, Version};
use http_body::Body as _;
use meltemi_proxy_core::runtime::{PeerMetadataMethod, WeightedCluster};
use meltemi_proxy_core::{headers, rewrite};

use super::attempt;
use super::body::{REPLAY_LIMIT_BYTES, ReplaySource, RequestBody};
use super::exchange::Exchange;
use super::forward::Matched;
use super::headers::{
    ATTEMPT_COUNT, EXPECTED_TIMEOUT, ORIGINAL_PATH, PEER_METADATA, PEER_METADATA_ID,
    X_FORWARDED_HOST, number,
};
use super::incoming::Incoming;
use super::record;
use crate::upstream::{PoolProtocol, Upstream};

/// Gives each attempt its body.
#[derive(Clone)]
pub(crate) enum BodySource {
    Empty,
    Stream(Arc<ReplaySource>),
}

impl BodySource {
    /// Takes in the body of a request; nothing is read of it yet.
    pub(crate) fn new(exchange: &mut Exchange, body: Incoming) -> Self {
        if body.is_end_stream() {
            return Self::Empty;
        }
        let manager = &exchange.connection.manager;
        let keeps_trailers =
            exchange.head.version == Version::HTTP_2 || manager.http1.enable_trailers;
        let is_grpc = exchange.head.is_grpc;
        let source = ReplaySource::new(body, REPLAY_LIMIT_BYTES, is_grpc, keeps_trailers);
        exchange.request_body = Some(source.progress().clone());
        Self::Stream(source)
    }

    pub(crate) fn body(&self) -> RequestBody {
        match self {
            Self::Empty => RequestBody::Empty,
            Self::Stream(source) => source.attempt(),
        }
    }

    /// Whether another attempt could send it from its beginning.
    pub(crate) fn can_replay(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => source.can_replay(),
        }
    }

    /// Whether the client has sent all of it.
    pub(crate) fn has_ended(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Stream(source) => source.progress().has_ended(),
        }
    }

    /// Whether the client broke off.
    pub(crate) fn is_broken(&self) -> bool {
        match self {
            Self::Empty => false,
            Self::Stream(source) => source.progress().is_broken(),
        }
    }
}

/// Builds the request of one attempt.
pub(crate) fn build(
    exchange: &Exchange,
    to: &attempt::Target<'_>,
    protocol: PoolProtocol,
    body: RequestBody,
) -> Result<Request<RequestBody>, http::Error> {
    let attempt::Target {
        matched,
        action,
        weighted,
        upstream,
        host,
    } = *to;
    let head = &exchange.head;
    let mut map = head.headers.clone();
    headers::remove_hop_by_hop(&mut map);
    let view = head.view();
    let path = rewrite::path(&matched.route, action, &view);
    let authority = rewrite::authority(action, weighted, &view, &host.endpoint.hostname);
    if let Some(rewritten) = &path
        && let Ok(original) = HeaderValue::from_str(&head.path)
        && !rewritten.is_empty()
    {
        map.insert(ORIGINAL_PATH, original);
    }
    if authority.is_some()
        && action.append_x_forwarded_host
        && let Ok(original) = HeaderValue::from_str(&head.authority)
    {
        map.append(X_FORWARDED_HOST, original);
    }
    let mut target = Target {
        path: path.unwrap_or_else(|| head.path.clone()),
        authority: authority.unwrap_or_else(|| head.authority.clone()),
    };
    mutate(exchange, matched, weighted, &mut map, &mut target);
    introduce(exchange, matched, upstream, &mut map);
    if let Some(timeout) = action.timeout
        && !exchange.connection.manager.router.suppress_envoy_headers
    {
        map.insert(
            EXPECTED_TIMEOUT,
            HeaderValue::from(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        );
    }
    if let Some(kind) = &head.upgrade
        && let Ok(kind) = HeaderValue::from_str(kind)
    {
        map.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        map.insert(header::UPGRADE, kind);
    }
    let mut request = finish(head.method.clone(), head.scheme, target, map, protocol)?;
    *request.body_mut() = body;
    if upstream.config.http.http1.preserve_header_case {
        *request.extensions_mut() = head.extensions.clone();
    }
    Ok(request)
}

/// Marks a copy in its authority, in front of the port (Envoy's historic `-shadow`).
pub(crate) fn add_host_suffix(request: &mut Request<RequestBody>, suffix: &str) {
    let mark = |authority: &str| {
        let host = meltemi_proxy_core::request::without_port(authority);
        format!(
            "{host}{suffix}{}",
            authority.strip_prefix(host).unwrap_or_default()
        )
    };
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .map(mark);
    if let Some(host) = host.and_then(|host| HeaderValue::try_from(host).ok()) {
        request.headers_mut().insert(header::HOST, host);
    }
    if let Some(marked) = request
        .uri()
        .authority()
        .map(|authority| mark(authority.as_str()))
    {
        let mut parts = request.uri().clone().into_parts();
        parts.authority = Authority::try_from(marked).ok();
        if let Ok(uri) = Uri::from_parts(parts) {
            *request.uri_mut() = uri;
        }
    }
}

struct Target {
    path: String,
    authority: String,
}

/// Header operations of weighted cluster, route, virtual host and route configuration, the most specific first unless the
/// configuration turns the order around.
fn mutate(
    exchange: &Exchange,
    matched: &Matched,
    weighted: Option<&WeightedCluster>,
    map: &mut HeaderMap,
    target: &mut Target,
) {
    let mut levels = [
        weighted.map(|weighted| &weighted.request_headers),
        Some(&matched.route.request_headers),
        Some(&matched.host.request_headers),
        Some(&matched.config.request_headers),
    ];
    if matched.config.most_specific_header_mutations_wins {
        levels.reverse();
    }
    for mutations in levels
        .into_iter()
        .flatten()
        .filter(|mutations| !mutations.is_empty())
    {
        let format = |pieces: &[_]| record::format(exchange, pieces);
        let pseudo = headers::apply(mutations, map, &format);
        if let Some(path) = pseudo.path {
            target.path = path;
        }
        if let Some(authority) = pseudo.authority {
            target.authority = authority;
        }
    }
}

/// Says who we are, and how often we have tried.
fn introduce(exchange: &Exchange, matched: &Matched, upstream: &Upstream, map: &mut HeaderMap) {
    let own = &exchange.connection.worker.shared.telemetry.own;
    let exchanges = exchange.connection.plan.peer_metadata.as_deref();
    let propagates = exchanges.is_some_and(|exchanges| {
        exchanges
            .upstream_propagation
            .iter()
            .any(|method| match method {
                PeerMetadataMethod::IstioHeaders {
                    skip_external_clusters,
                } => !(*skip_external_clusters && upstream.config.external),
                PeerMetadataMethod::WorkloadDiscovery | PeerMetadataMethod::Baggage => false,
            })
    });
    if propagates {
        map.insert(PEER_METADATA_ID, own.id.clone());
        map.insert(PEER_METADATA, own.header.clone());
    }
    if matched.host.include_request_attempt_count {
        map.insert(ATTEMPT_COUNT, number(exchange.attempts.into()));
    }
}

/// Nothing is put in the place of a target that a rewrite has broken: what was decided about is what is sent, or nothing.
fn finish(
    method: http::Method,
    scheme: &str,
    target: Target,
    mut map: HeaderMap,
    protocol: PoolProtocol,
) -> Result<Request<RequestBody>, http::Error> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(PathAndQuery::try_from(target.path)?);
    let version = match protocol {
        PoolProtocol::Http2 => {
            parts.authority = Some(Authority::try_from(target.authority)?);
            parts.scheme = Some(Scheme::try_from(scheme)?);
            Version::HTTP_2
        }
        PoolProtocol::Http11 => {
            map.insert(header::HOST, HeaderValue::try_from(target.authority)?);
            Version::HTTP_11
        }
    };
    let mut request = Request::new(RequestBody::Empty);
    *request.method_mut() = method;
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = version;
    *request.headers_mut() = map;
    Ok(request)
}
