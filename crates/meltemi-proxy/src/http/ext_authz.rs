//! The gate that asks an external authorizer (Envoy `filters.http.ext_authz`).

use std::collections::BTreeMap;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use meltemi_proxy_core::error::{ErrorKind, ProxyError};
use meltemi_proxy_core::ext_authz::check::{self, CheckedConnection, CheckedRequest, SeenBody};
use meltemi_proxy_core::ext_authz::{Allowance, Denial, HeadLimits, RequestParts, Verdict};
use meltemi_proxy_core::record::Protocol;
use meltemi_proxy_core::runtime::{Authorizer, CheckedBody, ExtAuthz, ExtAuthzPerRoute};

use super::exchange::Exchange;
use super::record;
use super::request::BodySource;
use crate::authorizer;

/// How long a client may take to send what the authorizer is to see, where the connection manager sets no bound.
const BODY_LIMIT: Duration = Duration::from_secs(300);

/// A request that may go on.
pub(crate) enum Passed {
    AsItWas,
    /// Its route is to be found again.
    Elsewhere,
}

/// The answer to a request that may not.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl From<ErrorKind> for Box<Refusal> {
    fn from(kind: ErrorKind) -> Self {
        let body = ProxyError::from(kind.clone()).body();
        Self::new(Refusal {
            kind,
            headers: HeaderMap::new(),
            body: body.into(),
        })
    }
}

/// Lets the authorizer judge the request if the rules in front want it, and does what it says.
pub(crate) async fn judge(
    exchange: &mut Exchange,
    config: &ExtAuthz,
    route: Option<&ExtAuthzPerRoute>,
    body: &BodySource,
) -> Result<Passed, Box<Refusal>> {
    if route.is_some_and(|route| route.is_disabled) {
        return Ok(Passed::AsItWas);
    }
    let shared = exchange.connection.worker.shared.clone();
    let counters = &shared.telemetry.counters;
    if let Some(wanted) = &config.enabled
        && !wanted.matches(exchange.authorization.metadata(&wanted.key))
    {
        counters.ext_authz_disabled.add(1);
        return Ok(Passed::AsItWas);
    }
    let shown = shown_body(config, route);
    let body = match (shown, body) {
        (Some(shown), BodySource::Stream(_)) if exchange.head.upgrade.is_none() => {
            Some(read_body(exchange, shown, body).await?)
        }
        _ => None,
    };
    let extensions = route.map(|route| &route.context_extensions);
    let none = BTreeMap::new();
    match ask(exchange, config, extensions.unwrap_or(&none), body).await {
        Some(Verdict::Allowed(allowance)) => {
            let passed = allow(exchange, config, *allowance);
            let counter = match passed {
                Ok(_) => &counters.ext_authz_ok,
                Err(_) => &counters.ext_authz_invalid,
            };
            counter.add(1);
            passed
        }
        Some(Verdict::Denied(denial)) => {
            counters.ext_authz_denied.add(1);
            Err(deny(exchange, config, *denial))
        }
        Some(Verdict::Failed(said)) => {
            counters.ext_authz_error.add(1);
            if config.fails_open {
                counters.ext_authz_failure_mode_allowed.add(1);
                if config.tells_of_failure {
                    let value = http::HeaderValue::from_static("true");
                    let headers = &mut exchange.head.headers;
                    headers.append("x-envoy-auth-failure-mode-allowed", value);
                }
                return Ok(Passed::AsItWas);
            }
            Err(fail(exchange, config, said.map(|said| *said)))
        }
        Some(Verdict::Invalid) => {
            counters.ext_authz_invalid.add(1);
            Err(ErrorKind::ExtAuthzInvalid.into())
        }
        // What cannot be asked about passes in no mode.
        None => {
            counters.ext_authz_error.add(1);
            Err(ErrorKind::ExtAuthzFailed(config.status_on_error).into())
        }
    }
}

/// What of the body the authorizer sees: as the route says, else as the filter does.
fn shown_body(config: &ExtAuthz, route: Option<&ExtAuthzPerRoute>) -> Option<CheckedBody> {
    match route {
        Some(route) if route.skips_body => None,
        Some(route) => route.body.or(config.body),
        None => config.body,
    }
}

/// Waits for the part of the body that the authorizer sees; the upstream gets it all the same.
///
/// Differs from Envoy: a body of exactly the bound that goes on is told to be partial.
async fn read_body(
    exchange: &Exchange,
    shown: CheckedBody,
    body: &BodySource,
) -> Result<SeenBody, ErrorKind> {
    let BodySource::Stream(source) = body else {
        return Err(ErrorKind::Internal);
    };
    let bound = exchange.connection.manager.request_timeout;
    let left = bound.unwrap_or(BODY_LIMIT);
    let left = left.saturating_sub(exchange.started.elapsed());
    let enough = match shown.may_be_partial {
        true => shown.max_bytes,
        // One more tells that it is too long.
        false => shown.max_bytes.saturating_add(1),
    };
    match tokio::time::timeout(left, source.prefetch(enough)).await {
        Ok(Ok(())) => {}
        Ok(Err(_)) => return Err(exchange.broken_body()),
        Err(_) => return Err(ErrorKind::RequestTimeout),
    }
    let (bytes, is_whole) = source.prefix(shown.max_bytes);
    if !is_whole && !shown.may_be_partial {
        return Err(ErrorKind::RequestPayloadTooLarge);
    }
    Ok(SeenBody {
        bytes,
        is_partial: !is_whole,
        is_raw: shown.is_raw,
    })
}

/// The verdict; `None` if there is no way to ask.
async fn ask(
    exchange: &Exchange,
    config: &ExtAuthz,
    extensions: &BTreeMap<String, String>,
    body: Option<SeenBody>,
) -> Option<Verdict> {
    let connection = &exchange.connection;
    let downstream = &connection.downstream;
    let worker = &connection.worker;
    let subject = downstream.certificate.as_ref();
    let subject = subject.map_or("", |peer| peer.subject.as_str());
    let tls = downstream.record.tls.as_ref();
    let time = exchange.started_at.duration_since(UNIX_EPOCH);
    let protocol = match exchange.head.version {
        http::Version::HTTP_10 => Protocol::Http10,
        http::Version::HTTP_2 => Protocol::Http2,
        _ => Protocol::Http11,
    };
    let received = exchange.request_body.as_ref();
    let request = CheckedRequest {
        connection: CheckedConnection {
            source: downstream.arrival.peer,
            destination: downstream.arrival.destination,
            source_principal: downstream.principal().unwrap_or(subject),
            destination_principal: tls
                .and_then(|tls| tls.local_uri_san.as_deref())
                .unwrap_or_default(),
            server_name: tls.and(downstream.arrival.server_name.as_deref()),
        },
        id: rand::random(),
        time: time.unwrap_or_default(),
        head: exchange.head.view(),
        protocol: protocol.as_str().unwrap_or_default(),
        received_bytes: received.map_or(0, |body| body.bytes()),
        body,
    };
    Some(match &config.authorizer {
        Authorizer::Http(authorizer) => {
            let own = worker.shared.own_ips.first();
            let own = own.map_or_else(
                || downstream.arrival.destination.ip().to_string(),
                ToString::to_string,
            );
            let format = |pieces: &[_]| record::format(exchange, pieces);
            let check = check::http(config, authorizer, &request, &own, &format)?;
            authorizer::by_http(worker, authorizer, check).await
        }
        Authorizer::Grpc(authorizer) => {
            let check = check::of_request(config, &request, extensions);
            authorizer::by_grpc(worker, authorizer, &check).await
        }
    })
}

fn allow(
    exchange: &mut Exchange,
    config: &ExtAuthz,
    allowance: Allowance,
) -> Result<Passed, Box<Refusal>> {
    let manager = &exchange.connection.manager;
    let limits = HeadLimits {
        headers: manager.max_request_headers_count,
        bytes: manager.max_request_headers_bytes,
    };
    let head = &mut exchange.head;
    let mut parts = RequestParts {
        method: &mut head.method,
        path: &mut head.path,
        authority: &mut head.authority,
        headers: &mut head.headers,
    };
    if !allowance.apply(&mut parts, limits) {
        return Err(ErrorKind::ExtAuthzInvalid.into());
    }
    note(exchange, config, allowance.metadata.clone());
    let is_new = config.clear_route_cache && allowance.changes_request();
    if !allowance.response.is_empty() {
        exchange.response_changes.push(allowance.response);
    }
    Ok(match is_new {
        true => Passed::Elsewhere,
        false => Passed::AsItWas,
    })
}

fn deny(exchange: &mut Exchange, config: &ExtAuthz, denial: Denial) -> Box<Refusal> {
    note(exchange, config, denial.metadata);
    let mut body = denial.body;
    if config.max_denied_body_bytes > 0 {
        body.truncate(config.max_denied_body_bytes);
    }
    Box::new(Refusal {
        kind: ErrorKind::ExtAuthzDenied(denial.status.unwrap_or(StatusCode::FORBIDDEN)),
        headers: denial.headers,
        body,
    })
}

fn fail(exchange: &mut Exchange, config: &ExtAuthz, said: Option<Denial>) -> Box<Refusal> {
    let said = said.unwrap_or_default();
    note(exchange, config, said.metadata);
    Box::new(Refusal {
        kind: ErrorKind::ExtAuthzFailed(said.status.unwrap_or(config.status_on_error)),
        headers: said.headers,
        body: said.body,
    })
}

fn note(
    exchange: &mut Exchange,
    config: &ExtAuthz,
    metadata: Option<meltemi_proxy_core::runtime::ExtAuthzMetadata>,
) {
    if config.takes_metadata {
        exchange.authorization.note_authorizer(metadata);
    }
}
