//! Decides which faults a request suffers (Envoy `HTTPFault`).

use std::time::Duration;

use crate::request::RequestHead;
use crate::runtime::{FaultAbortStatus, FaultInjection};

/// Delay first, then abort.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct FaultDecision {
    pub delay: Option<Duration>,
    pub abort: Option<FaultAbortStatus>,
}

/// `active` is how many faults are in force now; `random` decides delay and abort apart.
pub fn decide(
    fault: &FaultInjection,
    cluster: &str,
    head: &RequestHead<'_>,
    active: u32,
    random: [u64; 2],
) -> FaultDecision {
    let applies = fault
        .upstream_cluster
        .as_deref()
        .is_none_or(|wanted| wanted == cluster)
        && fault.headers.iter().all(|matcher| matcher.matches(head))
        && fault.max_active_faults.is_none_or(|max| active < max);
    if !applies {
        return FaultDecision::default();
    }
    FaultDecision {
        delay: fault
            .delay
            .filter(|delay| delay.share.contains(random[0]))
            .map(|delay| delay.delay),
        abort: fault
            .abort
            .filter(|abort| abort.share.contains(random[1]))
            .map(|abort| abort.status),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::{FaultAbort, FaultDelay, Fraction};
    use http::{HeaderMap, StatusCode};

    #[test]
    fn shares_limits_and_clusters() {
        let fault = FaultInjection {
            delay: Some(FaultDelay {
                delay: Duration::from_secs(7),
                share: Fraction::ALWAYS,
            }),
            abort: Some(FaultAbort {
                status: FaultAbortStatus::Http(StatusCode::IM_A_TEAPOT),
                share: Fraction {
                    numerator: 10,
                    denominator: 100,
                },
            }),
            upstream_cluster: Some("ratings".into()),
            headers: Vec::new(),
            max_active_faults: Some(1),
        };
        let headers = HeaderMap::new();
        let head = RequestHead {
            method: "GET",
            path: "/",
            authority: "a",
            scheme: "http",
            headers: &headers,
        };
        let both = decide(&fault, "ratings", &head, 0, [99, 9]);
        assert_eq!(both.delay, Some(Duration::from_secs(7)));
        assert_eq!(
            both.abort,
            Some(FaultAbortStatus::Http(StatusCode::IM_A_TEAPOT))
        );
        assert_eq!(decide(&fault, "ratings", &head, 0, [99, 10]).abort, None);
        assert_eq!(
            decide(&fault, "ratings", &head, 1, [0, 0]),
            FaultDecision::default()
        );
        assert_eq!(
            decide(&fault, "reviews", &head, 0, [0, 0]),
            FaultDecision::default()
        );
    }
}
