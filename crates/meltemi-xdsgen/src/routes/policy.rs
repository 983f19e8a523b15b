//! Retries, hashing, faults and CORS of a route.

use meltemi_api::istio::{
    AbortKind, CorsPolicy as Cors, Fault, HashKey, Retries, UnmatchedPreflights,
};
use meltemi_core::Hostname;
use meltemi_proto::envoy::config::route::v3::{RetryPolicy, retry_policy, route_action};
use meltemi_proto::envoy::extensions::filters::common::fault::v3::{FaultDelay, fault_delay};
use meltemi_proto::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use meltemi_proto::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort,
};

use super::matches::string_matcher;
use crate::inputs::Inputs;
use crate::wire;
use route_action::hash_policy::{self, PolicySpecifier};

/// Istio's default conditions. 503 is not among them.
const DEFAULT_RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const DEFAULT_ATTEMPTS: u32 = 2;
/// How often another host is looked for when the chosen one was tried already.
const HOST_SELECTION_ATTEMPTS: i64 = 5;
const PREVIOUS_HOSTS: &str =
    "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate";

/// The mesh's default policy, else Istio's.
pub(super) fn default_retries(inputs: &Inputs<'_>, hashed: bool) -> Option<RetryPolicy> {
    match &inputs.config().default_http_retry_policy {
        Some(policy) => retries(policy, hashed),
        None => Some(base(DEFAULT_ATTEMPTS, hashed)),
    }
}

fn base(attempts: u32, hashed: bool) -> RetryPolicy {
    let mut policy = RetryPolicy {
        retry_on: DEFAULT_RETRY_ON.to_owned(),
        num_retries: wire::u32_value(attempts),
        ..RetryPolicy::default()
    };
    // Under consistent hashing the same host is the point.
    if !hashed {
        avoid_previous_hosts(&mut policy);
    }
    policy
}

fn avoid_previous_hosts(policy: &mut RetryPolicy) {
    policy.retry_host_predicate = vec![retry_policy::RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_policy::retry_host_predicate::ConfigType::TypedConfig(
            wire::empty_any(PREVIOUS_HOSTS),
        )),
    }];
    policy.host_selection_retry_max_attempts = HOST_SELECTION_ATTEMPTS;
}

/// The policy of a route; none where `attempts` is 0.
pub(super) fn retries(retries: &Retries, hashed: bool) -> Option<RetryPolicy> {
    let attempts = u32::try_from(retries.attempts).ok().filter(|n| *n > 0)?;
    let ignore_previous = retries.retry_ignore_previous_hosts.unwrap_or(true);
    let mut policy = base(attempts, hashed || !ignore_previous);
    if !retries.retry_on.is_empty() {
        (policy.retry_on, policy.retriable_status_codes) = conditions(&retries.retry_on);
    }
    policy.per_try_timeout = retries
        .per_try_timeout
        .filter(|timeout| !timeout.is_zero())
        .map(wire::duration);
    policy.retry_back_off = retries.backoff.map(|backoff| retry_policy::RetryBackOff {
        base_interval: Some(wire::duration(backoff)),
        max_interval: None,
    });
    Some(policy)
}

/// Splits Istio's `retryOn` into Envoy's conditions and the status codes written among them.
fn conditions(retry_on: &str) -> (String, Vec<u32>) {
    let mut words = Vec::new();
    let mut codes = Vec::new();
    for part in retry_on
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        match part.parse::<u32>() {
            Ok(code) => codes.push(code),
            Err(_) => words.push(part),
        }
    }
    if !codes.is_empty() && !words.contains(&"retriable-status-codes") {
        words.push("retriable-status-codes");
    }
    (words.join(","), codes)
}

/// What a consistent-hash balancer hashes, from the destination's rule.
pub(super) fn hash_policies(
    inputs: &Inputs<'_>,
    host: &Hostname,
    port: u16,
    subset: &str,
) -> Vec<route_action::HashPolicy> {
    let Some(rule) = inputs.destination_rule(host) else {
        return Vec::new();
    };
    let policy = rule.policy(port, rule.subset(subset));
    let balancer = policy.load_balancer;
    let Some(hash) = balancer.and_then(|balancer| balancer.consistent_hash.as_ref()) else {
        return Vec::new();
    };
    let specifier = match &hash.key {
        HashKey::Header(name) => PolicySpecifier::Header(hash_policy::Header {
            header_name: name.clone(),
            regex_rewrite: None,
        }),
        HashKey::Cookie(cookie) => PolicySpecifier::Cookie(hash_policy::Cookie {
            name: cookie.name.clone(),
            ttl: cookie.ttl.map(wire::duration),
            path: cookie.path.clone(),
            attributes: Vec::new(),
        }),
        HashKey::SourceIp => {
            PolicySpecifier::ConnectionProperties(hash_policy::ConnectionProperties {
                source_ip: true,
            })
        }
        HashKey::QueryParameter(name) => {
            PolicySpecifier::QueryParameter(hash_policy::QueryParameter { name: name.clone() })
        }
    };
    vec![route_action::HashPolicy {
        terminal: false,
        policy_specifier: Some(specifier),
    }]
}

/// Client-side faults (Istio reference, HTTPFaultInjection).
pub(super) fn fault(fault: &Fault) -> HttpFault {
    let delay = fault.delay.as_ref().and_then(|delay| {
        let percent = delay
            .percentage
            .map(|percentage| percentage.value)
            .or_else(|| delay.percent.map(f64::from))
            .unwrap_or(100.0);
        Some(FaultDelay {
            percentage: Some(wire::fraction(percent)),
            fault_delay_secifier: Some(fault_delay::FaultDelaySecifier::FixedDelay(
                wire::duration(delay.fixed_delay?),
            )),
        })
    });
    let abort = fault.abort.as_ref().and_then(|abort| {
        let error_type = match &abort.kind {
            AbortKind::HttpStatus(status) => {
                fault_abort::ErrorType::HttpStatus(u32::try_from(*status).ok()?)
            }
            AbortKind::GrpcStatus(status) => fault_abort::ErrorType::GrpcStatus(status.code()?),
        };
        Some(FaultAbort {
            percentage: Some(wire::fraction(abort.percentage.map_or(100.0, |p| p.value))),
            error_type: Some(error_type),
            ..FaultAbort::default()
        })
    });
    HttpFault {
        delay,
        abort,
        ..HttpFault::default()
    }
}

pub(super) fn cors(cors: &Cors) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: cors
            .allow_origins
            .iter()
            .filter_map(string_matcher)
            .collect(),
        allow_methods: cors.allow_methods.join(","),
        allow_headers: cors.allow_headers.join(","),
        expose_headers: cors.expose_headers.join(","),
        max_age: cors
            .max_age
            .map(|age| age.as_secs().to_string())
            .unwrap_or_default(),
        allow_credentials: cors.allow_credentials.and_then(wire::bool_value),
        filter_enabled: Some(wire::runtime_fraction(100.0)),
        forward_not_matching_preflights: wire::bool_value(
            cors.unmatched_preflights != UnmatchedPreflights::Ignore,
        ),
        ..CorsPolicy::default()
    }
}
