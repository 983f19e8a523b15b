//! The HTTP filters of a connection manager, resolved once per connection, and what routes override of them.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, header};
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::runtime::{
    AlpnOverrides, Cors, FaultInjection, HttpConnectionManager, HttpFilterKind, LocalRateLimit,
    PeerMetadataExchange, PerFilterConfig, RbacFilter, Stats,
};
use meltemi_proxy_core::{headers, rbac};

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::forward::Matched;
use super::{record, respond};

/// The filters of a listener, by what they do.
#[derive(Debug, Default)]
pub(crate) struct FilterPlan {
    pub(crate) peer_metadata: Option<Arc<PeerMetadataExchange>>,
    pub(crate) alpn: Option<Arc<AlpnOverrides>>,
    pub(crate) stats: Option<Stats>,
    /// In configuration order: those that can answer a request.
    gates: Vec<Gate>,
    fault: Option<(Arc<str>, Arc<FaultInjection>)>,
}

#[derive(Debug)]
enum Gate {
    Cors(Arc<str>),
    Rbac(Arc<str>, Arc<RbacFilter>),
    RateLimit(Arc<str>, Arc<LocalRateLimit>),
}

impl FilterPlan {
    pub(crate) fn new(manager: &HttpConnectionManager) -> Self {
        let mut plan = Self::default();
        for filter in manager
            .http_filters
            .iter()
            .filter(|filter| !filter.disabled)
        {
            let name = filter.name.clone();
            match &filter.kind {
                HttpFilterKind::Fault(config) => plan.fault = Some((name, config.clone())),
                HttpFilterKind::Cors => plan.gates.push(Gate::Cors(name)),
                HttpFilterKind::GrpcStats(_) => {}
                HttpFilterKind::Alpn(config) => plan.alpn = Some(config.clone()),
                HttpFilterKind::PeerMetadata(config) => plan.peer_metadata = Some(config.clone()),
                HttpFilterKind::Stats(config) => plan.stats = Some(config.clone()),
                HttpFilterKind::Rbac(config) => plan.gates.push(Gate::Rbac(name, config.clone())),
                HttpFilterKind::LocalRateLimit(config) => {
                    plan.gates.push(Gate::RateLimit(name, config.clone()))
                }
            }
        }
        plan
    }
}

/// An answer that a filter gives instead of the route.
pub(crate) enum Answer {
    Error(ErrorKind),
    Limited(Arc<LocalRateLimit>),
    /// A CORS preflight that was allowed.
    Preflight(Arc<Cors>),
}

pub(crate) fn reply(exchange: Exchange, answer: Answer) -> Response<ResponseBody> {
    match answer {
        Answer::Error(kind) => respond::error(exchange, kind.into()),
        Answer::Limited(config) => {
            let mut added = HeaderMap::new();
            headers::apply(&config.response_headers, &mut added, &|pieces: &[_]| {
                record::format(&exchange, pieces)
            });
            let kind = ErrorKind::LocalRateLimited {
                status: config.status,
                as_resource_exhausted: config.rate_limited_as_resource_exhausted,
            };
            let mut response = respond::error(exchange, kind.into());
            response.headers_mut().extend(added);
            response
        }
        Answer::Preflight(cors) => {
            let mut headers = HeaderMap::new();
            let origin = exchange.head.headers.get(header::ORIGIN).cloned();
            allow_origin(&cors, origin, &mut headers);
            let mut put = |name, value: &Option<HeaderValue>| {
                if let Some(value) = value {
                    headers.insert(name, value.clone());
                }
            };
            put(header::ACCESS_CONTROL_ALLOW_METHODS, &cors.allow_methods);
            put(header::ACCESS_CONTROL_ALLOW_HEADERS, &cors.allow_headers);
            put(header::ACCESS_CONTROL_MAX_AGE, &cors.max_age);
            respond::direct(exchange, StatusCode::OK, bytes::Bytes::new(), headers)
        }
    }
}

/// Runs the filters that may answer before the router.
pub(crate) async fn before_routing(exchange: &mut Exchange, matched: &Matched) -> Option<Answer> {
    let connection = exchange.connection.clone();
    for gate in &connection.plan.gates {
        let answer = match gate {
            Gate::Cors(name) if !is_disabled(matched, name) => preflight(exchange, matched),
            Gate::Rbac(name, config) if !is_disabled(matched, name) => {
                authorise(exchange, matched, config)
            }
            Gate::RateLimit(name, config) if !is_disabled(matched, name) => {
                let config = first(matched, |per| per.local_rate_limit.clone())
                    .unwrap_or_else(|| config.clone());
                limit(exchange, &config)
            }
            _ => None,
        };
        if answer.is_some() {
            return answer;
        }
    }
    None
}

/// The most specific setting: route before virtual host before route configuration.
fn first<T>(matched: &Matched, get: impl Fn(&PerFilterConfig) -> Option<T>) -> Option<T> {
    get(&matched.route.per_filter)
        .or_else(|| get(&matched.host.per_filter))
        .or_else(|| get(&matched.config.per_filter))
}

fn is_disabled(matched: &Matched, name: &str) -> bool {
    let found = first(matched, |per| {
        per.disabled
            .iter()
            .find(|(known, _)| &**known == name)
            .map(|(_, off)| *off)
    });
    found.unwrap_or(false)
}

/// The fault injection in force for a route.
pub(crate) fn fault(exchange: &Exchange, matched: &Matched) -> Option<Arc<FaultInjection>> {
    let (name, config) = exchange.connection.plan.fault.as_ref()?;
    if is_disabled(matched, name) {
        return None;
    }
    Some(first(matched, |per| per.fault.clone()).unwrap_or_else(|| config.clone()))
}

fn authorise(
    exchange: &mut Exchange,
    matched: &Matched,
    config: &Arc<RbacFilter>,
) -> Option<Answer> {
    let overridden = first(matched, |per| per.rbac.clone());
    let config = match overridden {
        Some(None) => return None,
        Some(Some(config)) => config,
        None => config.clone(),
    };
    let downstream = &exchange.connection.downstream;
    let view = exchange.head.view();
    let request = rbac::RbacRequest {
        head: Some(&view),
        destination: downstream.arrival.destination,
        direct_remote: downstream.arrival.peer.ip(),
        remote: exchange.client(),
        requested_server_name: downstream.arrival.server_name.as_deref(),
        peer_uri_san: downstream.principal(),
    };
    let (verdict, shadow) = rbac::evaluate(&config, &request);
    if let Some(shadow) = shadow {
        let policy = shadow.policy.map_or("none", |policy| policy);
        tracing::debug!(is_allowed = shadow.is_allowed, policy, "shadow verdict");
    }
    if verdict.is_allowed {
        return None;
    }
    Some(Answer::Error(ErrorKind::RbacDenied {
        policy: verdict.policy.cloned(),
    }))
}

fn limit(exchange: &Exchange, config: &Arc<LocalRateLimit>) -> Option<Answer> {
    let random: u64 = rand::random();
    let connection = &exchange.connection;
    let scope = if config.per_downstream_connection {
        connection.downstream.id
    } else {
        0
    };
    if !config.enabled.contains(random)
        || connection.worker.shared.rate_limits.admit(config, scope)
        || !config.enforced.contains(random)
    {
        return None;
    }
    Some(Answer::Limited(config.clone()))
}

/// Answers a preflight of an allowed origin (Envoy CORS filter; Fetch standard "CORS-preflight request").
fn preflight(exchange: &Exchange, matched: &Matched) -> Option<Answer> {
    let cors = first(matched, |per| per.cors.clone())?;
    let headers = &exchange.head.headers;
    let is_preflight = cors.enabled.contains(rand::random())
        && exchange.head.method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return None;
    }
    if is_allowed(&cors, headers.get(header::ORIGIN)) {
        return Some(Answer::Preflight(cors));
    }
    // Without the allow headers the browser refuses; the answer itself is an empty 200.
    (!cors.forward_not_matching_preflights).then(|| {
        let nobody = Cors {
            allow_origins: Vec::new(),
            ..(*cors).clone()
        };
        Answer::Preflight(Arc::new(nobody))
    })
}

fn is_allowed(cors: &Cors, origin: Option<&HeaderValue>) -> bool {
    origin.is_some_and(|origin| {
        cors.allow_origins
            .iter()
            .any(|matcher| matcher.matches(origin.as_bytes()))
    })
}

fn allow_origin(cors: &Cors, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
    let Some(origin) = origin.filter(|origin| is_allowed(cors, Some(origin))) else {
        return;
    };
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    if cors.allow_credentials {
        headers.insert(
            header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
            HeaderValue::from_static("true"),
        );
    }
}

/// Adds what filters add to responses.
pub(crate) fn on_response(exchange: &Exchange, matched: &Matched, headers: &mut HeaderMap) {
    let has_cors = exchange
        .connection
        .plan
        .gates
        .iter()
        .any(|gate| matches!(gate, Gate::Cors(_)));
    if !has_cors {
        return;
    }
    let Some(cors) = first(matched, |per| per.cors.clone()) else {
        return;
    };
    let origin = exchange.head.headers.get(header::ORIGIN).cloned();
    if !is_allowed(&cors, origin.as_ref()) {
        return;
    }
    allow_origin(&cors, origin, headers);
    if let Some(expose) = &cors.expose_headers {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}
