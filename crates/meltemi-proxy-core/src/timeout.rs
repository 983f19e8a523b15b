//! Resolves the time limits of a request.

use std::time::Duration;

use http::{HeaderMap, HeaderName};

use crate::request::RequestHead;
use crate::runtime::{ForwardAction, HttpConnectionManager};

const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");
const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// The limits of one request; `None` is no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RequestTimeouts {
    /// From the end of the request to the end of the response, over all attempts.
    pub route: Option<Duration>,
    pub per_try: Option<Duration>,
    pub per_try_idle: Option<Duration>,
    /// Without a byte in either direction.
    pub stream_idle: Option<Duration>,
    /// Of the whole stream.
    pub max_stream_duration: Option<Duration>,
}

impl RequestTimeouts {
    /// Envoy router and connection manager: the route overrides the connection manager; a `grpc-timeout` bounds the stream
    /// where `grpc_timeout_header_max` allows it; a per-try timeout above the route's has no effect. `trusted` requests may set
    /// `x-envoy-upstream-rq-timeout-ms` and `x-envoy-upstream-rq-per-try-timeout-ms`.
    pub fn resolve(
        action: &ForwardAction,
        manager: &HttpConnectionManager,
        head: &RequestHead<'_>,
        trusted: bool,
    ) -> Self {
        let header =
            |name: &HeaderName| trusted.then(|| milliseconds(head.headers, name)).flatten();
        let route = header(&TIMEOUT).map_or(action.timeout, non_zero);
        let retry = action.retry.as_deref();
        let per_try = header(&PER_TRY_TIMEOUT)
            .map_or_else(|| retry.and_then(|policy| policy.per_try_timeout), non_zero)
            .filter(|per_try| route.is_none_or(|route| *per_try < route));
        Self {
            route,
            per_try,
            per_try_idle: retry.and_then(|policy| policy.per_try_idle_timeout),
            stream_idle: action.idle_timeout.unwrap_or(manager.stream_idle_timeout),
            max_stream_duration: action
                .stream_duration_from_grpc(head.headers)
                .unwrap_or_else(|| {
                    action
                        .max_stream_duration
                        .unwrap_or(manager.max_stream_duration)
                }),
        }
    }
}

impl ForwardAction {
    /// The limit that `grpc-timeout` sets, if the route listens to it and the request has one.
    fn stream_duration_from_grpc(&self, headers: &HeaderMap) -> Option<Option<Duration>> {
        let max = self.grpc_timeout_max?;
        let asked = parse_grpc_timeout(headers.get(&GRPC_TIMEOUT)?.as_bytes())?;
        let bounded = match max {
            Some(max) if asked > max || asked.is_zero() => max,
            _ => asked,
        };
        let offset = self.grpc_timeout_offset.filter(|offset| *offset < bounded);
        Some(non_zero(bounded.saturating_sub(offset.unwrap_or_default())))
    }
}

fn non_zero(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn milliseconds(headers: &HeaderMap, name: &HeaderName) -> Option<Duration> {
    let text = headers.get(name)?.to_str().ok()?;
    text.parse().ok().map(Duration::from_millis)
}

/// Parses a `grpc-timeout` (gRPC over HTTP/2: at most eight digits and a unit); `None` if it is malformed.
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let is_number =
        !digits.is_empty() && digits.len() <= 8 && digits.iter().all(u8::is_ascii_digit);
    if !is_number {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(number * 3600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{forward, http_connection_manager};
    use http::HeaderValue;

    #[test]
    fn grpc_timeouts() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3600))),
            ("99999999H", Some(Duration::from_secs(99_999_999 * 3600))),
            ("250m", Some(Duration::from_millis(250))),
            ("7u", Some(Duration::from_micros(7))),
            ("0n", Some(Duration::ZERO)),
            ("100000000S", None),
            ("5", None),
            ("S", None),
            ("+5S", None),
            ("5s", None),
            ("", None),
        ] {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), expected, "{text}");
        }
    }

    fn resolve(
        action: &ForwardAction,
        headers: &[(&'static str, &'static str)],
        trusted: bool,
    ) -> RequestTimeouts {
        let headers = headers
            .iter()
            .map(|(n, v)| (n.parse().unwrap(), HeaderValue::from_static(v)))
            .collect();
        let head = RequestHead {
            method: "POST",
            path: "/",
            authority: "a",
            scheme: "http",
            headers: &headers,
        };
        RequestTimeouts::resolve(action, &http_connection_manager(), &head, trusted)
    }

    #[test]
    fn the_grpc_deadline_is_capped_and_shortened() {
        let mut action = forward("x");
        let duration = |action: &ForwardAction, timeout| {
            resolve(action, &[("grpc-timeout", timeout)], false).max_stream_duration
        };
        assert_eq!(duration(&action, "5S"), None);
        action.grpc_timeout_max = Some(None);
        assert_eq!(duration(&action, "5S"), Some(Duration::from_secs(5)));
        action.grpc_timeout_max = Some(Some(Duration::from_secs(2)));
        action.grpc_timeout_offset = Some(Duration::from_millis(500));
        assert_eq!(duration(&action, "5S"), Some(Duration::from_millis(1500)));
        assert_eq!(duration(&action, "100m"), Some(Duration::from_millis(100)));
        assert_eq!(duration(&action, "bogus"), None);
    }

    #[test]
    fn the_route_overrides_the_connection_manager() {
        let mut action = forward("x");
        action.timeout = Some(Duration::from_secs(3));
        assert_eq!(
            resolve(&action, &[], false).stream_idle,
            Some(Duration::from_secs(300))
        );
        action.idle_timeout = Some(None);
        let timeouts = resolve(&action, &[("x-envoy-upstream-rq-timeout-ms", "10")], false);
        assert_eq!(
            (timeouts.stream_idle, timeouts.route),
            (None, Some(Duration::from_secs(3)))
        );
        let timeouts = resolve(
            &action,
            &[
                ("x-envoy-upstream-rq-timeout-ms", "10"),
                ("x-envoy-upstream-rq-per-try-timeout-ms", "10"),
            ],
            true,
        );
        assert_eq!(
            (timeouts.route, timeouts.per_try),
            (Some(Duration::from_millis(10)), None)
        );
    }
}
