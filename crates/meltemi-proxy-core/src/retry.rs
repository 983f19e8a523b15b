//! Decides whether a failed attempt is tried again, and when.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::error::{ResetReason, grpc};
use crate::request::RequestHead;
use crate::runtime::{RetryBackoff, RetryConditions, RetryPolicy};

// Parsed once: a look-up by text parses and hashes the name every time.
const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// How an attempt ended without a response that may be sent on.
#[derive(Debug, Clone, Copy)]
pub enum AttemptOutcome<'a> {
    Response {
        status: StatusCode,
        headers: &'a HeaderMap,
    },
    Reset {
        reason: ResetReason,
        /// Some of the request was sent.
        request_started: bool,
    },
    /// Counts as a local reset, as in Envoy: `connect-failure` and `unavailable` do not retry it.
    PerTryTimeout,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryDecision {
    /// The outcome is final.
    Stop,
    /// Would be retried, but no tries are left (flag `URX`).
    Exhausted,
    /// Try again after this pause.
    After(Duration),
}

/// The retries of one request.
#[derive(Debug, Clone)]
pub struct Retries<'p> {
    policy: &'p RetryPolicy,
    on: RetryConditions,
    left: u32,
    done: u32,
}

impl<'p> Retries<'p> {
    /// `None` if the request is not to be retried. Requests on which the application may steer us (`trusted`) can widen the
    /// policy with `x-envoy-retry-on`, `x-envoy-retry-grpc-on` and `x-envoy-max-retries`, as in Envoy's router.
    pub fn new(policy: &'p RetryPolicy, head: &RequestHead<'_>, trusted: bool) -> Option<Self> {
        let is_retriable = policy.retriable_request_headers.is_empty()
            || policy
                .retriable_request_headers
                .iter()
                .any(|m| m.matches(head));
        if !is_retriable {
            return None;
        }
        let header = |name: &HeaderName| {
            let value = trusted.then(|| head.headers.get(name)).flatten();
            value.and_then(|value| value.to_str().ok())
        };
        let mut on = policy.on;
        for name in &[RETRY_ON, RETRY_GRPC_ON] {
            for condition in header(name).into_iter().flat_map(|list| list.split(',')) {
                // Unknown words of a client are ignored, as Envoy does.
                on.set(condition.trim());
            }
        }
        let left = header(&MAX_RETRIES)
            .and_then(|text| text.parse().ok())
            .unwrap_or(policy.num_retries);
        Some(Self {
            policy,
            on,
            left,
            done: 0,
        })
    }

    /// Decides over an outcome; `random` is uniform and gives the jitter.
    pub fn on_attempt(&mut self, outcome: &AttemptOutcome<'_>, random: u64) -> RetryDecision {
        if !self.is_retriable(outcome) {
            return RetryDecision::Stop;
        }
        if self.left == 0 {
            return RetryDecision::Exhausted;
        }
        self.left -= 1;
        let pause = self.policy.backoff.pause(self.done, random);
        self.done += 1;
        RetryDecision::After(pause)
    }

    /// How many retries were granted.
    pub fn count(&self) -> u32 {
        self.done
    }

    fn is_retriable(&self, outcome: &AttemptOutcome<'_>) -> bool {
        match outcome {
            AttemptOutcome::Response { status, headers } => {
                self.is_retriable_response(*status, headers)
            }
            AttemptOutcome::Reset {
                reason,
                request_started,
            } => self.is_retriable_reset(*reason, *request_started),
            AttemptOutcome::PerTryTimeout => self.is_retriable_reset(ResetReason::LocalReset, true),
        }
    }

    /// Envoy counts every reset as a 5xx, since it would become one.
    fn is_retriable_reset(&self, reason: ResetReason, request_started: bool) -> bool {
        match reason {
            ResetReason::Overflow => return false,
            ResetReason::RemoteRefusedStream if self.on.refused_stream => return true,
            _ => {}
        }
        self.on.server_error
            || self.on.gateway_error
            || self.on.reset
            || (self.on.reset_before_request && !request_started)
            || (self.on.connect_failure && reason.is_connect_failure())
    }

    fn is_retriable_response(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let on = &self.on;
        if headers.contains_key(&RATELIMITED) {
            return on.envoy_ratelimited;
        }
        (on.server_error && status.is_server_error())
            || (on.gateway_error && matches!(status.as_u16(), 502..=504))
            || (on.retriable_4xx && status == StatusCode::CONFLICT)
            || (on.retriable_status_codes && self.policy.retriable_status_codes.contains(&status))
            || (on.retriable_headers
                && self
                    .policy
                    .retriable_headers
                    .iter()
                    .any(|m| m.matches_headers(headers)))
            || grpc_status(headers).is_some_and(|code| on.has_grpc(code))
    }
}

/// The `grpc-status` of response headers or trailers.
pub fn grpc_status(headers: &HeaderMap) -> Option<u32> {
    headers
        .get(&GRPC_STATUS)?
        .to_str()
        .ok()?
        .trim()
        .parse()
        .ok()
}

impl RetryBackoff {
    /// Uniform in `[0, min(max, base * 2^retry))`.
    pub fn pause(&self, retry: u32, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(retry).unwrap_or(u32::MAX);
        let bound = self.base.saturating_mul(factor).min(self.max);
        let nanos = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX).max(1);
        Duration::from_nanos(random % nanos)
    }
}

impl RetryConditions {
    /// Sets the condition of a name (Envoy router `x-envoy-retry-on`, `x-envoy-retry-grpc-on`); false if there is none.
    pub fn set(&mut self, name: &str) -> bool {
        let flag = match name {
            "5xx" => &mut self.server_error,
            "gateway-error" => &mut self.gateway_error,
            "reset" => &mut self.reset,
            "reset-before-request" => &mut self.reset_before_request,
            "connect-failure" => &mut self.connect_failure,
            "envoy-ratelimited" => &mut self.envoy_ratelimited,
            "retriable-4xx" => &mut self.retriable_4xx,
            "refused-stream" => &mut self.refused_stream,
            "retriable-status-codes" => &mut self.retriable_status_codes,
            "retriable-headers" => &mut self.retriable_headers,
            "cancelled" => &mut self.grpc_cancelled,
            "deadline-exceeded" => &mut self.grpc_deadline_exceeded,
            "internal" => &mut self.grpc_internal,
            "resource-exhausted" => &mut self.grpc_resource_exhausted,
            "unavailable" => &mut self.grpc_unavailable,
            _ => return false,
        };
        *flag = true;
        true
    }

    fn has_grpc(&self, code: u32) -> bool {
        match code {
            grpc::CANCELLED => self.grpc_cancelled,
            grpc::DEADLINE_EXCEEDED => self.grpc_deadline_exceeded,
            grpc::INTERNAL => self.grpc_internal,
            grpc::RESOURCE_EXHAUSTED => self.grpc_resource_exhausted,
            grpc::UNAVAILABLE => self.grpc_unavailable,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests;
