//! The conditions of `retryOn`.

/// Envoy's `x-envoy-retry-on` and `x-envoy-retry-grpc-on` values that proxies here act on.
const CONDITIONS: &[&str] = &[
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "envoy-ratelimited",
    "retriable-4xx",
    "refused-stream",
    "retriable-status-codes",
    "retriable-headers",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// Differs from Istio: upstreams are not spoken to in HTTP/3, so the condition could never hold.
const HTTP3: &str = "http3-post-connect-failure";

/// What is wrong with a list, and how to mend it.
pub(super) fn problems(list: &str) -> Vec<(String, String)> {
    let conditions = list.split(',').map(str::trim);
    conditions
        .filter(|condition| !condition.is_empty() && !is_condition(condition))
        .map(problem)
        .collect()
}

fn is_condition(condition: &str) -> bool {
    CONDITIONS.contains(&condition)
        || condition
            .parse()
            .is_ok_and(|status: u16| (100..=599).contains(&status))
}

fn problem(condition: &str) -> (String, String) {
    if condition == HTTP3 {
        let message =
            format!("\"{condition}\" is not supported: upstreams are not reached by HTTP/3");
        return (message, "remove it, the other conditions stay".to_owned());
    }
    let hint = crate::suggest::did_you_mean(condition, CONDITIONS.iter().copied())
        .map(|near| format!("did you mean \"{near}\"?"))
        .unwrap_or_default();
    let message = format!("\"{condition}\" is neither a retry condition nor a status");
    (message, hint)
}
