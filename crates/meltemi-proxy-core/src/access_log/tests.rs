use std::sync::Arc;
use std::time::{Duration, SystemTime};

use http::{HeaderValue, StatusCode};

use super::*;
use crate::error::{ProxyError, ResetReason};
use crate::record::{Protocol, RequestRecord};
use crate::runtime::{AccessLogFilter, Comparison, ComparisonOp, JsonNode, LogFormat};
use crate::testing::{connection_record, route};

/// Istio's default format (istio-behaviour 5.2).
const ISTIO: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

fn record() -> RequestRecord {
    let start = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
    let mut record = RequestRecord::new(Arc::new(connection_record()), Protocol::Http11, start);
    record.path = "/reviews/0".into();
    record.authority = "reviews:9080".into();
    record
        .request_headers
        .insert("user-agent", HeaderValue::from_static("curl/8"));
    record.route = Some(Arc::new(route(
        "default",
        crate::runtime::PathMatch::Connect,
    )));
    record.cluster_name = Some("outbound|9080||reviews.default.svc.cluster.local".into());
    record.duration = Duration::from_micros(7_900);
    record
}

fn check(format: &str, record: &RequestRecord, expected: &str) {
    assert_eq!(
        render_pieces(&parse(format).unwrap(), record),
        expected,
        "{format}"
    );
}

#[test]
fn istios_default_line() {
    let mut record = record();
    record.status = Some(StatusCode::OK);
    record.details = Some("via_upstream".into());
    record.bytes_sent = 375;
    record.response_headers.insert(
        "x-envoy-upstream-service-time",
        HeaderValue::from_static("6"),
    );
    record.upstream.remote_address = Some("10.244.0.7:9080".parse().unwrap());
    record.upstream.local_address = Some("10.244.0.5:40000".parse().unwrap());
    check(
        ISTIO,
        &record,
        "[2023-11-14T22:13:20.123Z] \"GET /reviews/0 HTTP/1.1\" 200 - via_upstream - \"-\" 0 375 7 6 \"-\" \"curl/8\" \"-\" \
         \"reviews:9080\" \"10.244.0.7:9080\" outbound|9080||reviews.default.svc.cluster.local 10.244.0.5:40000 \
         10.96.0.7:9080 10.244.0.5:50000 - default\n",
    );
}

#[test]
fn a_failure_fills_its_fields() {
    let mut record = record();
    record.fail(ProxyError::reset(
        ResetReason::RemoteConnectionFailure,
        Some("delayed connect error: Connection refused"),
    ));
    check(
        "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG% %RESPONSE_CODE_DETAILS% %UPSTREAM_TRANSPORT_FAILURE_REASON%",
        &record,
        "503 UF UpstreamConnectionFailure \
         upstream_reset_before_response_started{remote_connection_failure|delayed_connect_error:_Connection_refused} \
         delayed connect error: Connection refused",
    );
}

#[test]
fn operators_and_their_syntax() {
    let record = record();
    check("100%%", &record, "100%");
    check("%REQ(X-A?USER-AGENT):3%", &record, "cur");
    check("%DOWNSTREAM_REMOTE_PORT:2%", &record, "50");
    check(
        "%START_TIME(%s.%3f %F %T)%",
        &record,
        "1700000000.123 2023-11-14 22:13:20",
    );
    check("%RESPONSE_CODE% %DYNAMIC_METADATA(a:b)%", &record, "0 -");
    for bad in [
        "%RESPONSE_CODE",
        "%NOT_THERE%",
        "%REQ%",
        "%START_TIME(%q)%",
        "%REQ(a):x%",
        "% %",
    ] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn nobody_forges_a_line() {
    let mut record = record();
    record.request_headers.insert(
        "user-agent",
        HeaderValue::from_bytes(b"a\" 200 \\ \xff\ty").unwrap(),
    );
    check(
        "\"%REQ(USER-AGENT)%\"",
        &record,
        "\"a\\x22 200 \\x5c \\xff\\x09y\"",
    );
}

#[test]
fn tcp_has_no_request() {
    let mut record = record();
    record.protocol = Protocol::Tcp;
    check(
        "%REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE%",
        &record,
        "- - - 0",
    );
}

#[test]
fn json_keeps_types_and_order() {
    let node = |format: &str| JsonNode::Template(parse(format).unwrap());
    let format = LogFormat::Json(JsonNode::Object(vec![
        ("response_code".into(), node("%RESPONSE_CODE%")),
        ("path".into(), node("%REQ(:PATH)%")),
        ("both".into(), node("%RESPONSE_CODE% %PROTOCOL%")),
        ("flags".into(), node("%RESPONSE_FLAGS%")),
    ]));
    assert_eq!(
        render(&format, &record()),
        "{\"response_code\":0,\"path\":\"/reviews/0\",\"both\":\"0 HTTP/1.1\",\"flags\":null}\n"
    );
}

#[test]
fn formats_tell_what_they_read() {
    let format = LogFormat::Text(parse(ISTIO).unwrap());
    let names =
        |list: Vec<http::HeaderName>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(
        names(request_headers(&format)),
        [
            "user-agent",
            "x-envoy-original-path",
            "x-forwarded-for",
            "x-request-id"
        ]
    );
    assert_eq!(
        names(response_headers(&format)),
        ["x-envoy-upstream-service-time"]
    );
}

#[test]
fn filters() {
    let mut record = record();
    record.status = Some(StatusCode::NOT_FOUND);
    let at_least = |value| {
        AccessLogFilter::StatusCode(Comparison {
            op: ComparisonOp::AtLeast,
            value,
        })
    };
    let no_route = AccessLogFilter::ResponseFlags(vec!["NR".into()]);
    assert!(admits(&at_least(400), &record, 0));
    assert!(!admits(&at_least(500), &record, 0));
    assert!(!admits(&no_route, &record, 0));
    assert!(admits(
        &AccessLogFilter::AnyOf(vec![no_route.clone(), at_least(404)]),
        &record,
        0
    ));
    record.fail(crate::error::ErrorKind::RouteNotFound.into());
    assert!(admits(
        &AccessLogFilter::AllOf(vec![no_route, at_least(404)]),
        &record,
        0
    ));
}

/// Envoy, "Role Based Access Control (RBAC) Filter, Dynamic Metadata".
#[test]
fn verdicts_stand_in_dynamic_metadata() {
    use crate::rbac::Verdict;
    use crate::runtime::{RbacAction, RbacFilter, RbacRules};
    let rules = |action| RbacRules {
        action,
        policies: Vec::new(),
    };
    let mut record = record();
    let policy: Arc<str> = "ns[a]-policy[b]-rule[0]".into();
    let verdict = |is_allowed, policy| Verdict { is_allowed, policy };
    let deny = RbacFilter {
        rules: Some(rules(RbacAction::Deny)),
        shadow_rules: Some(rules(RbacAction::Deny)),
        shadow_prefix: "istio_dry_run_deny_".into(),
        ..RbacFilter::default()
    };
    let matched = verdict(false, Some(&policy));
    record
        .authorization
        .note(&deny, verdict(true, None), Some(matched));
    let audit = RbacFilter {
        rules: Some(rules(RbacAction::Log)),
        ..RbacFilter::default()
    };
    check(
        "%DYNAMIC_METADATA(envoy.common:access_log_hint)%",
        &record,
        "-",
    );
    record
        .authorization
        .note(&audit, verdict(true, Some(&policy)), None);
    for (namespace, key, expected) in [
        (
            "envoy.filters.http.rbac",
            "istio_dry_run_deny_shadow_engine_result",
            "denied",
        ),
        (
            "envoy.filters.http.rbac",
            "istio_dry_run_deny_shadow_effective_policy_id",
            &*policy,
        ),
        (
            "envoy.filters.http.rbac",
            "istio_dry_run_allow_shadow_engine_result",
            "-",
        ),
        (
            "envoy.filters.http.rbac",
            "enforced_engine_result",
            "allowed",
        ),
        (
            "envoy.filters.http.rbac",
            "enforced_effective_policy_id",
            "-",
        ),
        ("envoy.filters.network.rbac", "enforced_engine_result", "-"),
        ("envoy.common", "access_log_hint", "true"),
    ] {
        check(
            &format!("%DYNAMIC_METADATA({namespace}:{key})%"),
            &record,
            expected,
        );
    }
}

/// Envoy, "External Authorization, Dynamic Metadata".
#[test]
fn what_an_authorizer_says_stands_in_dynamic_metadata() {
    let said = serde_json::json!({"user": "alice", "level": 5, "groups": ["a"], "lines": "a\nb"});
    let mut record = record();
    let said = said.as_object().cloned().unwrap();
    record.authorization.note_authorizer(Some(Arc::new(said)));
    // One that says nothing takes nothing away.
    record.authorization.note_authorizer(None);
    let http = "envoy.filters.http.ext_authz";
    for (namespace, key, expected) in [
        (http, "user", "alice"),
        (http, "level", "5"),
        (http, "groups", "[\"a\"]"),
        (http, "nothing", "-"),
        ("envoy.filters.network.ext_authz", "user", "-"),
        ("envoy.filters.http.rbac", "user", "-"),
    ] {
        let format = format!("%DYNAMIC_METADATA({namespace}:{key})%");
        check(&format, &record, expected);
    }
    // A line of the log is one line.
    check(
        &format!("%DYNAMIC_METADATA({http}:lines)%"),
        &record,
        "a\\x0ab",
    );
}
