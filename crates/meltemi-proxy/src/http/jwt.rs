//! The gate that believes or refuses the tokens of requests (Envoy `filters.http.jwt_authn`).

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::HeaderValue;
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::jwt::{JwtRequest, JwtStatus, Verified};
use meltemi_proxy_core::runtime::{JwtAuthentication, JwtPerRoute, JwtRequirement};

use super::exchange::Exchange;

/// Bytes of the path that a challenge repeats (Envoy's bound).
const REALM_PATH_BYTES: usize = 256;

/// A request that is refused, and how its client is asked for a better token.
pub(crate) struct Refusal {
    pub(crate) kind: ErrorKind,
    /// `www-authenticate` (RFC 6750 section 3).
    pub(crate) challenge: Option<HeaderValue>,
}

/// Judges the request, and notes in it what was verified. The answer is a refusal, or whether the route may be another now.
pub(crate) async fn judge(
    exchange: &mut Exchange,
    config: &Arc<JwtAuthentication>,
    route: Option<&JwtPerRoute>,
) -> Result<bool, Refusal> {
    let shared = exchange.connection.worker.shared.clone();
    let counters = &shared.telemetry.counters;
    // Good tokens are taken out of the query before another is found bad.
    let has_query = exchange.head.path.contains('?');
    let asked = has_query.then(|| exchange.head.path.clone());
    config.sanitise(&mut exchange.head.headers);
    if config.bypasses(&exchange.head.method, &exchange.head.headers) {
        counters.jwt_preflights.add(1);
        counters.jwt_allowed.add(1);
        return Ok(false);
    }
    let requirement = config.requirement(route, &exchange.head.view(), rand::random());
    let verified = match requirement {
        Ok(None) => Ok(Verified::default()),
        Ok(Some(requirement)) => verify(exchange, config, requirement).await,
        Err(message) => {
            counters.jwt_denied.add(1);
            let message = message.into();
            return Err(Refusal {
                kind: ErrorKind::JwtMisconfigured { message },
                challenge: None,
            });
        }
    };
    match verified {
        Ok(verified) => {
            counters.jwt_allowed.add(1);
            let clears_route = verified.clears_route;
            if !verified.metadata.is_empty() {
                exchange.verified = Some(Arc::new(verified.metadata));
            }
            Ok(clears_route)
        }
        Err(status) => {
            counters.jwt_denied.add(1);
            let is_told = !config.strip_failure_response;
            let asked = asked.as_deref().unwrap_or(&exchange.head.path);
            let refusal = refusal(exchange, status, is_told, asked);
            Err(refusal)
        }
    }
}

async fn verify(
    exchange: &mut Exchange,
    config: &JwtAuthentication,
    requirement: &JwtRequirement,
) -> Result<Verified, JwtStatus> {
    let worker = exchange.connection.worker.clone();
    let head = &exchange.head;
    let wanted = config.wanted_keys(requirement, &head.headers, &head.path);
    let mut fetched = Vec::with_capacity(wanted.len());
    for remote in wanted {
        let keys = Box::pin(worker.shared.keys.get(&worker, remote)).await;
        fetched.push((remote.clone(), keys));
    }
    let head = &mut exchange.head;
    let request = JwtRequest {
        headers: &mut head.headers,
        path: &mut head.path,
    };
    let of = |remote: &_| {
        let mut fetched = fetched.iter();
        let found = fetched.find(|(known, _)| **known == *remote);
        found.and_then(|(_, keys)| keys.clone())
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    // A clock before 1970 knows no token that is valid.
    config.verify(requirement, request, &of, now.unwrap_or(Duration::MAX))
}

fn refusal(exchange: &Exchange, status: JwtStatus, is_told: bool, asked: &str) -> Refusal {
    let challenge = is_told
        .then(|| challenge(exchange, status, asked))
        .flatten();
    Refusal {
        kind: ErrorKind::JwtDenied { status, is_told },
        challenge,
    }
}

fn challenge(exchange: &Exchange, status: JwtStatus, asked: &str) -> Option<HeaderValue> {
    let head = &exchange.head;
    let end = asked.floor_char_boundary(REALM_PATH_BYTES);
    let path = asked.get(..end)?.replace('"', "%22");
    let error = match status {
        JwtStatus::Missing => "",
        _ => ", error=\"invalid_token\"",
    };
    let realm = format!("{}://{}{path}", head.scheme, head.authority);
    HeaderValue::try_from(format!("Bearer realm=\"{realm}\"{error}")).ok()
}
