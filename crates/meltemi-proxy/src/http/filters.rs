//! The HTTP filters of a connection manager, resolved once per connection, and what routes override of them.

use std::sync::Arc;

use http::header::{HeaderMap, HeaderValue};
use http::{Method, Response, StatusCode, header};
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::runtime::{
    AlpnOverrides, Cors, ExtAuthz, FaultInjection, FilterOverride, HttpConnectionManager,
    HttpFilterKind, JwtAuthentication, LocalRateLimit, OverrideConfig, PeerMetadataExchange,
    RbacFilter, Stats,
};
use meltemi_proxy_core::{headers, rbac};

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::ext_authz::{self, Passed};
use super::forward::{Found, Matched};
use super::jwt::{self, Refusal};
use super::request::BodySource;
use super::{record, respond};
use crate::config::demand::Unanswered;
use crate::telemetry::Telemetry;
use crate::telemetry::rbac::RbacSeries;

/// The filters of a listener, by what they do.
#[derive(Debug, Default)]
pub(crate) struct FilterPlan {
    pub(crate) peer_metadata: Option<Arc<PeerMetadataExchange>>,
    pub(crate) alpn: Option<Arc<AlpnOverrides>>,
    pub(crate) stats: Option<Stats>,
    /// In configuration order: those that can answer a request.
    gates: Vec<(Named, Gate)>,
    fault: Option<(Named, Arc<FaultInjection>)>,
}

/// How routes speak of a filter.
#[derive(Debug, Clone)]
struct Named {
    name: Arc<str>,
    /// Unless a route switches it on.
    is_off: bool,
}

#[derive(Debug)]
enum Gate {
    Cors,
    Rbac(Arc<RbacFilter>, Arc<RbacSeries>),
    RateLimit(Arc<LocalRateLimit>),
    Jwt(Arc<JwtAuthentication>),
    ExtAuthz(Arc<ExtAuthz>),
}

impl FilterPlan {
    pub(crate) fn new(manager: &HttpConnectionManager, telemetry: &Telemetry) -> Self {
        let mut plan = Self::default();
        for filter in &manager.http_filters {
            let named = Named {
                name: filter.name.clone(),
                is_off: filter.disabled,
            };
            match &filter.kind {
                HttpFilterKind::Fault(config) => plan.fault = Some((named, config.clone())),
                HttpFilterKind::Cors => plan.gates.push((named, Gate::Cors)),
                HttpFilterKind::Rbac(config) => {
                    let family = &telemetry.rbac;
                    let series = family.of_requests(&manager.stat_prefix, config);
                    plan.gates.push((named, Gate::Rbac(config.clone(), series)))
                }
                HttpFilterKind::LocalRateLimit(config) => {
                    plan.gates.push((named, Gate::RateLimit(config.clone())))
                }
                HttpFilterKind::Jwt(config) => plan.gates.push((named, Gate::Jwt(config.clone()))),
                HttpFilterKind::ExtAuthz(config) => {
                    plan.gates.push((named, Gate::ExtAuthz(config.clone())))
                }
                HttpFilterKind::GrpcStats(_) => {}
                // No route speaks of these.
                _ if filter.disabled => {}
                HttpFilterKind::Alpn(config) => plan.alpn = Some(config.clone()),
                HttpFilterKind::PeerMetadata(config) => plan.peer_metadata = Some(config.clone()),
                HttpFilterKind::Stats(config) => plan.stats = Some(config.clone()),
            }
        }
        plan
    }

    /// A path as logs may show it: without the tokens that it brings; `None` as it is.
    ///
    /// Differs from Envoy, which logs them where the upstream gets them, or where they were refused.
    pub(crate) fn without_tokens(&self, path: &str) -> Option<Box<str>> {
        let judges = self.gates.iter().filter_map(|(_, gate)| match gate {
            Gate::Jwt(config) => Some(config),
            _ => None,
        });
        let mut judges = judges.peekable();
        // Nearly all requests: nothing is copied for them.
        if judges.peek().is_none() || !path.contains('?') {
            return None;
        }
        let mut told = path.to_owned();
        judges.for_each(|config| config.redact(&mut told));
        (told != path).then(|| told.into())
    }
}

/// An answer that a filter gives instead of the route.
pub(crate) enum Answer {
    Error(ErrorKind),
    Unauthenticated(Refusal),
    Unauthorized(Box<ext_authz::Refusal>),
    Limited(Arc<LocalRateLimit>),
    /// A CORS preflight that was allowed.
    Preflight(Arc<Cors>),
}

pub(crate) fn reply(exchange: Exchange, answer: Answer) -> Response<ResponseBody> {
    match answer {
        Answer::Error(kind) => respond::error(exchange, kind.into()),
        Answer::Unauthenticated(refusal) => {
            let mut response = respond::error(exchange, refusal.kind.into());
            if let Some(challenge) = refusal.challenge {
                let name = header::WWW_AUTHENTICATE;
                response.headers_mut().insert(name, challenge);
            }
            response
        }
        Answer::Unauthorized(refusal) => {
            let ext_authz::Refusal {
                kind,
                headers,
                body,
            } = *refusal;
            respond::in_words(exchange, kind.into(), body, headers)
        }
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

/// Runs the filters that may answer before the router. A request without a route is judged as the listener says.
pub(crate) async fn before_routing(
    exchange: &mut Exchange,
    found: &mut Found,
    body: &BodySource,
) -> Option<Answer> {
    let connection = exchange.connection.clone();
    for (named, gate) in &connection.plan.gates {
        let matched = found.matched.as_ref();
        if matched.map_or(named.is_off, |matched| named.is_off_for(matched)) {
            continue;
        }
        let over = matched.and_then(|matched| named.config(matched));
        let answer = match (gate, over) {
            (Gate::Jwt(config), over) => {
                let over = match over {
                    Some(OverrideConfig::Jwt(over)) => Some(over),
                    _ => None,
                };
                match jwt::judge(exchange, config, over).await {
                    Ok(true) => found.select(exchange),
                    Ok(false) => {}
                    Err(refusal) => return Some(Answer::Unauthenticated(refusal)),
                }
                None
            }
            (Gate::ExtAuthz(config), over) => {
                let over = match over {
                    Some(OverrideConfig::ExtAuthz(over)) => Some(&**over),
                    _ => None,
                };
                // Boxed, so that requests that nobody is asked about do not keep its room.
                match Box::pin(ext_authz::judge(exchange, config, over, body)).await {
                    Ok(Passed::AsItWas) => None,
                    Ok(Passed::Elsewhere) => match Found::of(exchange).await {
                        Ok(again) => {
                            *found = again;
                            None
                        }
                        Err(Unanswered) => Some(Answer::Error(ErrorKind::NotDiscovered)),
                    },
                    Err(refusal) => Some(Answer::Unauthorized(refusal)),
                }
            }
            (Gate::Cors, Some(OverrideConfig::Cors(cors))) => preflight(exchange, cors),
            // Only routes carry policies.
            (Gate::Cors, _) => None,
            (Gate::Rbac(_, series), Some(OverrideConfig::Rbac(over))) => over
                .as_ref()
                .and_then(|config| authorise(exchange, config, series)),
            (Gate::Rbac(config, series), _) => authorise(exchange, config, series),
            (Gate::RateLimit(_), Some(OverrideConfig::LocalRateLimit(config)))
            | (Gate::RateLimit(config), _) => limit(exchange, config),
        };
        if answer.is_some() {
            return answer;
        }
    }
    None
}

impl Named {
    /// What routes say of the filter, the most specific first.
    fn overrides<'a>(&self, matched: &'a Matched) -> impl Iterator<Item = &'a FilterOverride> {
        let levels = matched.per_filter();
        levels.filter_map(|level| level.get(&self.name))
    }

    fn is_off_for(&self, matched: &Matched) -> bool {
        let said = || self.overrides(matched).find_map(|over| over.disabled);
        let said = matched.has_overrides.then(said).flatten();
        said.unwrap_or(self.is_off)
    }

    fn config<'a>(&self, matched: &'a Matched) -> Option<&'a OverrideConfig> {
        let said = || {
            self.overrides(matched)
                .find_map(|over| over.config.as_ref())
        };
        matched.has_overrides.then(said).flatten()
    }
}

/// The fault injection in force for a route.
pub(crate) fn fault(exchange: &Exchange, matched: &Matched) -> Option<Arc<FaultInjection>> {
    let (named, config) = exchange.connection.plan.fault.as_ref()?;
    if named.is_off_for(matched) {
        return None;
    }
    Some(match named.config(matched) {
        Some(OverrideConfig::Fault(config)) => config.clone(),
        _ => config.clone(),
    })
}

fn authorise(exchange: &mut Exchange, config: &RbacFilter, series: &RbacSeries) -> Option<Answer> {
    let connection = exchange.connection.clone();
    let downstream = &connection.downstream;
    let view = exchange.head.view();
    let request = rbac::RbacRequest {
        head: Some(&view),
        destination: downstream.arrival.destination,
        direct_remote: downstream.arrival.peer.ip(),
        remote: exchange.client(),
        requested_server_name: downstream.arrival.server_name.as_deref(),
        peer_uri_san: downstream.principal(),
        verified: exchange.jwt_payload(),
    };
    let (verdict, shadow) = rbac::evaluate(config, &request);
    series.tell(config, verdict, shadow);
    exchange.authorization.note(config, verdict, shadow);
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
    let limits = if config.per_downstream_connection {
        &connection.rate_limits
    } else {
        &connection.worker.shared.rate_limits
    };
    if !config.enabled.contains(random) || limits.admit(config) || !config.enforced.contains(random)
    {
        return None;
    }
    Some(Answer::Limited(config.clone()))
}

/// Answers a preflight of an allowed origin (Envoy CORS filter; Fetch standard "CORS-preflight request").
fn preflight(exchange: &Exchange, cors: &Arc<Cors>) -> Option<Answer> {
    let headers = &exchange.head.headers;
    let is_preflight = cors.enabled.contains(rand::random())
        && exchange.head.method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    if !is_preflight {
        return None;
    }
    if is_allowed(cors, headers.get(header::ORIGIN)) {
        return Some(Answer::Preflight(cors.clone()));
    }
    // Without the allow headers the browser refuses; the answer itself is an empty 200.
    (!cors.forward_not_matching_preflights).then(|| {
        let nobody = Cors {
            allow_origins: Vec::new(),
            ..(**cors).clone()
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

/// Makes the changes that authorizers asked for, to every response that there is after they allowed the request.
pub(crate) fn on_any_response(exchange: &Exchange, headers: &mut HeaderMap) {
    let changes = exchange.response_changes.iter();
    changes
        .flat_map(|changes| changes.iter())
        .for_each(|change| change.apply(headers));
}

/// Adds what filters add to responses.
pub(crate) fn on_response(exchange: &Exchange, matched: &Matched, headers: &mut HeaderMap) {
    let gates = &exchange.connection.plan.gates;
    let cors = gates
        .iter()
        .find(|(_, gate)| matches!(gate, Gate::Cors))
        .filter(|(named, _)| !named.is_off_for(matched))
        .and_then(|(named, _)| named.config(matched));
    let Some(OverrideConfig::Cors(cors)) = cors else {
        return;
    };
    let origin = exchange.head.headers.get(header::ORIGIN).cloned();
    if !is_allowed(cors, origin.as_ref()) {
        return;
    }
    allow_origin(cors, origin, headers);
    if let Some(expose) = &cors.expose_headers {
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, expose.clone());
    }
}
