use super::*;
use crate::runtime::RetryPolicy;
use http::HeaderValue;

fn policy(on: &str, num_retries: u32) -> RetryPolicy {
    let mut conditions = RetryConditions::default();
    for name in on.split(',') {
        assert!(conditions.set(name), "{name}");
    }
    RetryPolicy {
        on: conditions,
        num_retries,
        per_try_timeout: None,
        per_try_idle_timeout: None,
        retriable_status_codes: vec![StatusCode::SERVICE_UNAVAILABLE],
        retriable_headers: Vec::new(),
        retriable_request_headers: Vec::new(),
        backoff: RetryBackoff {
            base: Duration::from_millis(25),
            max: Duration::from_millis(250),
        },
        avoid_previous_hosts: true,
        host_selection_attempts: 5,
    }
}

fn head(headers: &HeaderMap) -> RequestHead<'_> {
    RequestHead {
        method: "GET",
        path: "/",
        authority: "a",
        scheme: "http",
        headers,
    }
}

fn check(on: &str, outcome: &AttemptOutcome<'_>, retried: bool) {
    let policy = policy(on, 1);
    let headers = HeaderMap::new();
    let mut retries = Retries::new(&policy, &head(&headers), false).unwrap();
    let expected = if retried {
        RetryDecision::After(Duration::ZERO)
    } else {
        RetryDecision::Stop
    };
    assert_eq!(retries.on_attempt(outcome, 0), expected, "{on} {outcome:?}");
}

const ISTIO: &str = "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";

fn reset(reason: ResetReason) -> AttemptOutcome<'static> {
    AttemptOutcome::Reset {
        reason,
        request_started: true,
    }
}

#[test]
fn resets() {
    use ResetReason as R;
    for reason in [
        R::LocalConnectionFailure,
        R::RemoteConnectionFailure,
        R::ConnectionTimeout,
    ] {
        check(ISTIO, &reset(reason), true);
        check("reset-before-request", &reset(reason), false);
    }
    check(ISTIO, &reset(R::RemoteRefusedStream), true);
    check(ISTIO, &reset(R::ConnectionTermination), false);
    check(ISTIO, &AttemptOutcome::PerTryTimeout, false);
    check("5xx", &AttemptOutcome::PerTryTimeout, true);
    check("5xx,reset", &reset(R::Overflow), false);
    check("reset", &reset(R::RemoteReset), true);
    let early = AttemptOutcome::Reset {
        reason: R::ConnectionTermination,
        request_started: false,
    };
    check("reset-before-request", &early, true);
    check(
        "reset-before-request",
        &reset(R::ConnectionTermination),
        false,
    );
}

#[test]
fn responses() {
    let none = HeaderMap::new();
    let response = |status: u16| AttemptOutcome::Response {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &none,
    };
    check("5xx", &response(500), true);
    check("5xx", &response(404), false);
    check("gateway-error", &response(503), true);
    check("gateway-error", &response(500), false);
    check("retriable-4xx", &response(409), true);
    check("retriable-4xx", &response(404), false);
    check(ISTIO, &response(503), true);
    check(ISTIO, &response(500), false);

    let mut grpc = HeaderMap::new();
    grpc.insert("grpc-status", HeaderValue::from_static("14"));
    check(
        ISTIO,
        &AttemptOutcome::Response {
            status: StatusCode::OK,
            headers: &grpc,
        },
        true,
    );
    check(
        "cancelled",
        &AttemptOutcome::Response {
            status: StatusCode::OK,
            headers: &grpc,
        },
        false,
    );

    let mut limited = HeaderMap::new();
    limited.insert("x-envoy-ratelimited", HeaderValue::from_static("true"));
    let limited = AttemptOutcome::Response {
        status: StatusCode::SERVICE_UNAVAILABLE,
        headers: &limited,
    };
    check("5xx", &limited, false);
    check("envoy-ratelimited", &limited, true);
}

#[test]
fn tries_run_out() {
    let policy = policy("5xx", 2);
    let headers = HeaderMap::new();
    let mut retries = Retries::new(&policy, &head(&headers), false).unwrap();
    let outcome = reset(ResetReason::RemoteReset);
    let decisions: Vec<_> = (0..3)
        .map(|_| retries.on_attempt(&outcome, 30_000_000))
        .collect();
    assert_eq!(
        decisions,
        [
            RetryDecision::After(Duration::from_millis(5)),
            RetryDecision::After(Duration::from_millis(30)),
            RetryDecision::Exhausted
        ]
    );
}

#[test]
fn the_pause_is_bounded() {
    let backoff = RetryBackoff {
        base: Duration::from_millis(25),
        max: Duration::from_millis(250),
    };
    for retry in [0, 1, 4, 31, 32, u32::MAX] {
        assert!(
            backoff.pause(retry, u64::MAX) < Duration::from_millis(250),
            "{retry}"
        );
    }
    assert!(backoff.pause(0, u64::MAX) < Duration::from_millis(25));
}

#[test]
fn only_trusted_headers_steer() {
    let policy = policy("connect-failure", 0);
    let mut headers = HeaderMap::new();
    headers.insert("x-envoy-retry-on", HeaderValue::from_static("bogus, 5xx"));
    headers.insert("x-envoy-max-retries", HeaderValue::from_static("3"));
    let outcome = reset(ResetReason::RemoteReset);
    let mut retries = Retries::new(&policy, &head(&headers), true).unwrap();
    assert_eq!(
        retries.on_attempt(&outcome, 0),
        RetryDecision::After(Duration::ZERO)
    );
    let mut retries = Retries::new(&policy, &head(&headers), false).unwrap();
    assert_eq!(retries.on_attempt(&outcome, 0), RetryDecision::Stop);
}
