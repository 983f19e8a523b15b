//! Questions and answers, word for word.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use meltemi_proto::envoy::config::core::v3::{
    HeaderValue as WireHeader, HeaderValueOption, QueryParameter,
    header_value_option::HeaderAppendAction,
};
use meltemi_proto::envoy::service::auth::v3::check_response::HttpResponse;
use meltemi_proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use meltemi_proto::google::protobuf::{BoolValue, Struct};
use meltemi_proto::google::rpc::Status;

use super::check::{self, CheckedConnection, CheckedRequest, SeenBody};
use super::*;
use crate::request::RequestHead;
use crate::runtime::{
    Authorizer, ExtAuthz, GrpcAuthorizer, HeaderMutations, HeaderNames, HttpAuthorizer,
    StringMatcher,
};

fn map(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    let lines = lines.iter();
    let lines = lines.map(|(name, value)| {
        (
            HeaderName::from_static(name),
            HeaderValue::from_static(value),
        )
    });
    let mut map = HeaderMap::new();
    lines.for_each(|(name, value)| {
        map.append(name, value);
    });
    map
}

fn names(exact: &[&str]) -> HeaderNames {
    HeaderNames(
        exact
            .iter()
            .map(|name| StringMatcher::exact(name))
            .collect(),
    )
}

fn authorizer() -> HttpAuthorizer {
    HttpAuthorizer {
        cluster: "a".into(),
        timeout: Duration::from_secs(1),
        path_prefix: "/check".into(),
        added_headers: HeaderMutations::default(),
        to_upstream: names(&["x-user", "content-length"]),
        to_upstream_appended: names(&["x-role"]),
        to_client_on_denial: None,
        to_client_on_success: names(&["x-said"]),
        to_metadata: names(&["x-user"]),
    }
}

fn filter(authorizer: Authorizer, allowed_headers: Option<HeaderNames>) -> ExtAuthz {
    ExtAuthz {
        authorizer,
        enabled: None,
        fails_open: false,
        tells_of_failure: false,
        status_on_error: StatusCode::FORBIDDEN,
        body: None,
        clear_route_cache: false,
        allowed_headers,
        disallowed_headers: HeaderNames::default(),
        include_tls_session: true,
        max_denied_body_bytes: 0,
        takes_metadata: true,
    }
}

fn grpc() -> Authorizer {
    Authorizer::Grpc(GrpcAuthorizer {
        cluster: "a".into(),
        authority: "a".into(),
        timeout: Duration::from_secs(1),
    })
}

fn request(headers: &HeaderMap, body: Option<SeenBody>) -> CheckedRequest<'_> {
    CheckedRequest {
        connection: CheckedConnection {
            source: ([10, 0, 0, 1], 1234).into(),
            destination: ([10, 0, 0, 2], 80).into(),
            source_principal: "spiffe://td/ns/a/sa/b",
            destination_principal: "spiffe://td/ns/c/sa/d",
            server_name: Some("sni"),
        },
        id: 7,
        time: Duration::from_millis(1500),
        head: RequestHead {
            method: "POST",
            path: "/p?q=1",
            authority: "host:80",
            scheme: "http",
            headers,
        },
        protocol: "HTTP/1.1",
        received_bytes: 3,
        body,
    }
}

fn seen(bytes: &'static [u8], is_partial: bool, is_raw: bool) -> Option<SeenBody> {
    Some(SeenBody {
        bytes: Bytes::from_static(bytes),
        is_partial,
        is_raw,
    })
}

/// C38: lines of one name are one text. C47: bytes that are no UTF-8 make no message that cannot be read.
#[test]
fn a_check_request_tells_all() {
    let mut headers = map(&[
        ("x-role", "user"),
        ("x-role", "admin"),
        ("x-envoy-auth-partial-body", "forged"),
        ("x-envoy-downstream-service-cluster", "web"),
    ]);
    headers.insert("x-bytes", HeaderValue::from_bytes(b"a\xff\xfeb").unwrap());
    let config = filter(grpc(), None);
    let extensions = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    let check = check::of_request(&config, &request(&headers, None), &extensions);
    let attributes = check.attributes.unwrap();
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://td/ns/a/sa/b");
    assert_eq!(source.service, "web");
    assert_eq!(
        attributes.destination.unwrap().principal,
        "spiffe://td/ns/c/sa/d"
    );
    assert_eq!(attributes.tls_session.unwrap().sni, "sni");
    assert_eq!(attributes.context_extensions["k"], "v");
    let request = attributes.request.unwrap();
    let time = request.time.unwrap();
    assert_eq!((time.seconds, time.nanos), (1, 500_000_000));
    let http = request.http.unwrap();
    assert_eq!(
        (
            &*http.id,
            &*http.method,
            &*http.path,
            &*http.host,
            &*http.scheme,
            &*http.protocol
        ),
        ("7", "POST", "/p?q=1", "host:80", "http", "HTTP/1.1")
    );
    let told: BTreeMap<_, _> = http.headers.into_iter().collect();
    let told: Vec<_> = told
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    assert_eq!(
        told,
        [
            ":authority=host:80",
            ":method=POST",
            ":path=/p?q=1",
            ":scheme=http",
            "x-bytes=a!!b",
            "x-envoy-downstream-service-cluster=web",
            "x-role=user,admin"
        ]
    );
}

#[test]
fn bodies_are_shown_as_configured() {
    let headers = HeaderMap::new();
    for (body, expected) in [
        (seen(b"ab\xff", false, true), ("", &b"ab\xff"[..], "false")),
        (seen(b"ab\xff", true, false), ("ab!", b"", "true")),
    ] {
        let check = check::of_request(
            &filter(grpc(), None),
            &request(&headers, body),
            &BTreeMap::new(),
        );
        let http = check.attributes.unwrap().request.unwrap().http.unwrap();
        let partial = http.headers["x-envoy-auth-partial-body"].as_str();
        assert_eq!((&*http.body, &*http.raw_body, partial), expected);
    }
}

#[test]
fn only_listed_headers_are_told() {
    let headers = map(&[
        ("authorization", "t"),
        ("cookie", "c"),
        ("x-a", "1"),
        ("x-b", "2"),
    ]);
    let mut config = filter(grpc(), Some(names(&["x-a", "cookie"])));
    config.disallowed_headers = names(&["cookie"]);
    let check = check::of_request(&config, &request(&headers, None), &BTreeMap::new());
    let http = check.attributes.unwrap().request.unwrap().http.unwrap();
    assert_eq!(
        http.headers.into_iter().collect::<Vec<_>>(),
        [("x-a".into(), "1".into())]
    );
}

#[test]
fn an_http_check_is_like_its_request() {
    let headers = map(&[
        ("content-length", "99"),
        ("connection", "close"),
        ("expect", "100-continue"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-a", "1"),
    ]);
    let told = [
        "content-length",
        "connection",
        "expect",
        "x-forwarded-for",
        "x-a",
    ];
    let config = filter(Authorizer::Http(Box::new(authorizer())), Some(names(&told)));
    let body = seen(b"abc", false, false);
    let check = check::http(
        &config,
        &authorizer(),
        &request(&headers, body),
        "10.0.0.2",
        &|_| String::new(),
    )
    .unwrap();
    assert_eq!(
        (check.method, check.path.as_str()),
        (Method::POST, "/check/p?q=1")
    );
    assert_eq!(check.authority, "host:80");
    assert_eq!(
        check.headers,
        map(&[
            ("x-a", "1"),
            ("x-envoy-auth-partial-body", "false"),
            ("x-forwarded-for", "1.2.3.4,10.0.0.2"),
            ("x-envoy-internal", "true"),
            ("x-envoy-expected-rq-timeout-ms", "1000"),
            ("content-length", "3"),
        ])
    );
}

/// What a client makes unaskable is not a failure of the authorizer, which could be configured to let it pass.
#[test]
fn what_cannot_be_asked_is_told_apart() {
    let headers = HeaderMap::new();
    let config = filter(Authorizer::Http(Box::new(authorizer())), None);
    let mut tunnel = request(&headers, None);
    tunnel.head.method = "CONNECT";
    assert!(check::http(&config, &authorizer(), &tunnel, "::1", &|_| String::new()).is_none());
    let mut nameless = request(&headers, None);
    nameless.head.authority = "";
    assert!(check::http(&config, &authorizer(), &nameless, "::1", &|_| String::new()).is_none());
}

fn said(status: u16, headers: &[(&'static str, &'static str)]) -> Verdict {
    let status = StatusCode::from_u16(status).unwrap();
    of_http(
        &authorizer(),
        status,
        map(headers),
        Bytes::from_static(b"no"),
    )
}

#[test]
fn an_answer_of_500_or_more_is_a_failure() {
    for status in [500, 503, 599] {
        assert!(
            matches!(said(status, &[]), Verdict::Failed(None)),
            "{status}"
        );
    }
    for status in [201, 204, 302, 401, 403, 429] {
        let Verdict::Denied(denial) = said(status, &[("www-authenticate", "x"), ("host", "h")])
        else {
            panic!("{status}");
        };
        assert_eq!(denial.status.map(|status| status.as_u16()), Some(status));
        assert_eq!(denial.headers, map(&[("www-authenticate", "x")]));
        assert_eq!(denial.body, "no");
    }
}

#[test]
fn a_denial_tells_what_is_listed_and_what_must_be() {
    let mut config = authorizer();
    config.to_client_on_denial = Some(names(&["x-why"]));
    let headers = map(&[
        ("x-why", "1"),
        ("x-secret", "2"),
        ("location", "/login"),
        ("connection", "x"),
    ]);
    let verdict = of_http(&config, StatusCode::FOUND, headers, Bytes::new());
    let Verdict::Denied(denial) = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(
        denial.headers,
        map(&[("x-why", "1"), ("location", "/login")])
    );
}

fn changed(
    allowance: &Allowance,
    headers: &[(&'static str, &'static str)],
) -> (String, String, Vec<String>) {
    let (mut method, mut path, mut authority) =
        (Method::GET, "/p?b=1&a=2".to_owned(), "h".to_owned());
    let mut headers = map(headers);
    let mut parts = RequestParts {
        method: &mut method,
        path: &mut path,
        authority: &mut authority,
        headers: &mut headers,
    };
    let limits = HeadLimits {
        headers: 10,
        bytes: 1000,
    };
    assert!(allowance.apply(&mut parts, limits));
    let lines = headers.iter();
    let lines = lines.map(|(name, value)| format!("{name}={}", value.to_str().unwrap()));
    let mut lines: Vec<_> = lines.collect();
    lines.sort();
    (path, authority, lines)
}

#[test]
fn an_allowance_over_http_sets_appends_and_removes() {
    let verdict = said(
        200,
        &[
            ("x-user", "alice"),
            ("x-role", "reader"),
            ("x-said", "yes"),
            ("x-other", "1"),
            ("content-length", "2"),
            (
                "x-envoy-auth-headers-to-remove",
                "authorization, , host, :path, x y",
            ),
        ],
    );
    let Verdict::Allowed(allowance) = verdict else {
        panic!("{verdict:?}");
    };
    assert!(allowance.changes_request());
    let client = [
        ("x-user", "mallory"),
        ("x-role", "writer"),
        ("authorization", "secret"),
        ("content-length", "7"),
    ];
    let (_, _, lines) = changed(&allowance, &client);
    assert_eq!(
        lines,
        [
            "content-length=7",
            "x-role=reader",
            "x-role=writer",
            "x-user=alice"
        ]
    );
    let mut response = HeaderMap::new();
    allowance
        .response
        .iter()
        .for_each(|change| change.apply(&mut response));
    assert_eq!(response, map(&[("x-said", "yes")]));
    assert_eq!(allowance.metadata.unwrap()["x-user"], "alice");
}

fn option(name: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(WireHeader {
            key: name.to_owned(),
            value: value.to_owned(),
            ..WireHeader::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

fn answer(code: i32, said: HttpResponse) -> CheckResponse {
    CheckResponse {
        status: Some(Status {
            code,
            ..Status::default()
        }),
        http_response: Some(said),
        ..CheckResponse::default()
    }
}

fn ok(ok: OkHttpResponse) -> Verdict {
    of_grpc(answer(0, HttpResponse::OkResponse(ok)))
}

#[test]
fn an_allowance_over_grpc_changes_what_it_names() {
    let verdict = ok(OkHttpResponse {
        headers: vec![
            option("x-user", "alice"),
            option(":path", "/new?b=1&a=2"),
            option("Host", "other"),
        ],
        headers_to_remove: ["authorization", ":method", "Host", "no name"]
            .map(str::to_owned)
            .to_vec(),
        query_parameters_to_set: vec![QueryParameter {
            key: "c".to_owned(),
            value: "3".to_owned(),
        }],
        query_parameters_to_remove: vec!["a".to_owned()],
        response_headers_to_add: vec![option("x-said", "yes")],
        ..OkHttpResponse::default()
    });
    let Verdict::Allowed(allowance) = verdict else {
        panic!("{verdict:?}");
    };
    let client = [("x-user", "mallory"), ("authorization", "secret")];
    let (path, authority, lines) = changed(&allowance, &client);
    assert_eq!(path, "/new?b=1&c=3");
    assert_eq!(authority, "other");
    assert_eq!(lines, ["x-user=alice"]);
    assert_eq!(allowance.response.len(), 1);
}

#[test]
fn changes_that_cannot_be_made_allow_nothing() {
    let bad = [
        option("x y", "1"),
        option("x", "a\nb"),
        option("content-length", "0"),
        option("Transfer-Encoding", "chunked"),
        option("connection", "x"),
        option(":status", "200"),
        option(":path", "no-slash"),
        option(":path", "/a b"),
        option("host", "a b"),
        option(":method", "G T"),
        HeaderValueOption {
            append_action: 99,
            ..option("x", "1")
        },
        HeaderValueOption::default(),
    ];
    for header in bad {
        let verdict = ok(OkHttpResponse {
            headers: vec![option("x", "1"), header.clone()],
            ..OkHttpResponse::default()
        });
        assert!(matches!(verdict, Verdict::Invalid), "{header:?}");
    }
    let verdict = ok(OkHttpResponse {
        response_headers_to_add: vec![option("content-length", "0")],
        ..OkHttpResponse::default()
    });
    assert!(matches!(verdict, Verdict::Invalid));
    let verdict = ok(OkHttpResponse {
        query_parameters_to_set: vec![QueryParameter {
            key: "a b".to_owned(),
            value: String::new(),
        }],
        ..OkHttpResponse::default()
    });
    assert!(matches!(verdict, Verdict::Invalid));
}

#[test]
fn a_request_may_not_outgrow_its_bounds() {
    let many = (0..11).map(|n| option(&format!("x-{n}"), "1")).collect();
    let long = vec![option("x", &"1".repeat(1000))];
    for headers in [many, long] {
        let Verdict::Allowed(allowance) = ok(OkHttpResponse {
            headers,
            ..OkHttpResponse::default()
        }) else {
            panic!();
        };
        let (mut method, mut path, mut authority) = (Method::GET, "/".to_owned(), String::new());
        let mut parts = RequestParts {
            method: &mut method,
            path: &mut path,
            authority: &mut authority,
            headers: &mut HeaderMap::new(),
        };
        let limits = HeadLimits {
            headers: 10,
            bytes: 1000,
        };
        assert!(!allowance.apply(&mut parts, limits));
    }
}

/// What is set replaces what the client sent, whatever the action says; what is appended needs something to stand behind.
#[test]
fn set_or_appended() {
    let client = [("x", "1"), ("x", "2")];
    for (append, sent, expected) in [
        (Some(true), &client[..], vec!["x=1,new", "x=2"]),
        (Some(true), &[], vec![]),
        (Some(false), &client, vec!["x=new"]),
        (None, &client, vec!["x=new"]),
        (None, &[], vec!["x=new"]),
    ] {
        for action in [
            HeaderAppendAction::AppendIfExistsOrAdd,
            HeaderAppendAction::AddIfAbsent,
            HeaderAppendAction::OverwriteIfExists,
        ] {
            #[allow(deprecated, reason = "authorizers still write it")]
            let header = HeaderValueOption {
                append: append.map(|value| BoolValue { value }),
                append_action: action.into(),
                ..option("x", "new")
            };
            let Verdict::Allowed(allowance) = ok(OkHttpResponse {
                headers: vec![header],
                ..OkHttpResponse::default()
            }) else {
                panic!();
            };
            assert_eq!(changed(&allowance, sent).2, expected);
        }
    }
}

#[test]
fn denials_and_errors_over_grpc() {
    let denied = |status: i32| DeniedHttpResponse {
        status: (status != 0)
            .then_some(meltemi_proto::envoy::r#type::v3::HttpStatus { code: status }),
        headers: vec![option("x-why", "1"), option("connection", "x")],
        body: "no".to_owned(),
    };
    for (code, said, expected) in [
        (7, HttpResponse::DeniedResponse(denied(0)), Some(403)),
        (16, HttpResponse::DeniedResponse(denied(401)), Some(401)),
        (7, HttpResponse::DeniedResponse(denied(42)), None),
        (7, HttpResponse::DeniedResponse(denied(100)), None),
    ] {
        match (of_grpc(answer(code, said)), expected) {
            (Verdict::Denied(denial), Some(status)) => {
                assert_eq!(denial.status.map(|status| status.as_u16()), Some(status));
                assert_eq!(denial.headers, map(&[("x-why", "1")]));
                assert_eq!(denial.body, "no");
            }
            (Verdict::Invalid, None) => {}
            (verdict, _) => panic!("{verdict:?}"),
        }
    }
    // An allowance that comes with a status that denies is none.
    let verdict = of_grpc(answer(
        7,
        HttpResponse::OkResponse(OkHttpResponse::default()),
    ));
    assert!(matches!(verdict, Verdict::Denied(_)));
    // And a denial with one that allows is one that was not meant.
    let verdict = of_grpc(answer(0, HttpResponse::DeniedResponse(denied(401))));
    assert!(matches!(verdict, Verdict::Allowed(_)));
    let Verdict::Failed(Some(failure)) =
        of_grpc(answer(13, HttpResponse::ErrorResponse(denied(0))))
    else {
        panic!();
    };
    assert_eq!(failure.status, None);
    assert_eq!(failure.body, "no");
}

#[test]
fn metadata_of_either_place() {
    let text = |text: &str| Struct {
        fields: [(
            "k".to_owned(),
            Value {
                kind: Some(Kind::StringValue(text.to_owned())),
            },
        )]
        .into(),
    };
    #[allow(deprecated, reason = "authorizers still write it")]
    let inner = OkHttpResponse {
        dynamic_metadata: Some(text("inner")),
        ..OkHttpResponse::default()
    };
    for (inner, expected) in [(inner, "inner"), (OkHttpResponse::default(), "outer")] {
        let mut answer = answer(0, HttpResponse::OkResponse(inner));
        answer.dynamic_metadata = Some(text("outer"));
        let Verdict::Allowed(allowance) = of_grpc(answer) else {
            panic!();
        };
        assert_eq!(allowance.metadata.unwrap()["k"], expected);
    }
}
