//! Requests and connections that an external authorizer judges.

mod authorizers;
mod envoy;

use std::sync::atomic::Ordering;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use meltemi_proto::type_url;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use authorizers::{Asked, grpc_authorizer, http_authorizer};

use super::configuration::{cluster, forward, nowhere, outbound_http, outbound_tcp, with_http2};
use super::mesh::{App, Authority, Client, Sidecar, get, http2_client, post};

const FILTER: &str = "envoy.filters.http.ext_authz";
const POLICY_ID: &str = "istio_ext_authz_shadow_effective_policy_id";

fn by_grpc(changes: &Value) -> Value {
    let config = json!({"@type": type_url::EXT_AUTHZ, "transportApiVersion": "V3",
        "grpcService": {"envoyGrpc": {"clusterName": "authorizer", "authority": "authorizer"}, "timeout": "2s"}});
    with(config, changes)
}

fn by_http(changes: &Value) -> Value {
    let config = json!({"@type": type_url::EXT_AUTHZ, "transportApiVersion": "V3",
        "httpService": {"serverUri": {"uri": "http://a", "cluster": "http-authorizer", "timeout": "2s"}, "pathPrefix": "/check",
            "authorizationRequest": {"allowedHeaders": {"patterns": [{"exact": "x-told", "ignoreCase": true}]},
                "headersToAdd": [{"key": "x-mesh", "value": "m"}]},
            "authorizationResponse": {"allowedUpstreamHeaders": {"patterns": [{"exact": "x-user"}]},
                "allowedUpstreamHeadersToAppend": {"patterns": [{"exact": "x-role"}]},
                "allowedClientHeaders": {"patterns": [{"exact": "x-said"}]},
                "allowedClientHeadersOnSuccess": {"patterns": [{"exact": "x-said"}]}}}});
    with(config, changes)
}

fn with(mut config: Value, changes: &Value) -> Value {
    let changes = changes.as_object().unwrap().clone();
    config.as_object_mut().unwrap().extend(changes);
    config
}

struct Setup {
    app: App,
    sidecar: Sidecar,
    browser: Client,
    asked: Asked,
    http: App,
}

impl Setup {
    async fn new(filters: &[Value], routes: &[Value]) -> Self {
        let (app, http) = (App::echo().await, http_authorizer().await);
        let (grpc, asked) = grpc_authorizer().await;
        let sidecar = Sidecar::start(&Authority::new(), "client");
        let clusters = [
            cluster("c", &[app.address]),
            with_http2(cluster("authorizer", &[grpc])),
            cluster("http-authorizer", &[http.address]),
            cluster("nowhere", &[nowhere()]),
        ];
        sidecar.apply(type_url::CLUSTER, &clusters);
        sidecar.apply(type_url::LISTENER, &[listener(filters, routes)]);
        let browser = Client::connect(sidecar.address("outbound").await).await;
        Self {
            app,
            sidecar,
            browser,
            asked,
            http,
        }
    }

    async fn send(&mut self, path: &str, lines: &[(&'static str, &str)]) -> Response<Bytes> {
        let mut request: Request<Full<Bytes>> = get(path);
        for (name, value) in lines {
            request.headers_mut().append(*name, value.parse().unwrap());
        }
        self.browser.send(request).await.unwrap()
    }

    fn metric(&self, name: &str) -> String {
        let lines = self
            .sidecar
            .metric(&[&format!("envoy_http_ext_authz_{name} ")]);
        let line = lines.iter().find(|line| !line.starts_with('#')).unwrap();
        line.rsplit(' ').next().unwrap().to_owned()
    }
}

fn listener(filters: &[Value], routes: &[Value]) -> Value {
    let mut listener = outbound_http(routes[0].clone());
    let manager = &mut listener["filterChains"][0]["filters"][0]["typedConfig"];
    manager["routeConfig"]["virtualHosts"][0]["routes"] = routes.into();
    let own = manager["httpFilters"].as_array_mut().unwrap();
    for (index, filter) in filters.iter().enumerate() {
        let name = match filter["@type"] == type_url::EXT_AUTHZ {
            true => FILTER,
            false => "envoy.filters.http.rbac",
        };
        own.insert(index, json!({"name": name, "typedConfig": filter}));
    }
    listener
}

/// Istio's rules in front of the filter, and the filter's question for them.
fn for_path(prefix: &str) -> (Value, Value) {
    let rules = json!({"action": "DENY", "policies": {"istio-ext-authz-p-ns[a]-policy[b]-rule[0]": {
        "permissions": [{"urlPath": {"path": {"prefix": prefix}}}], "principals": [{"any": true}]}}});
    let rbac = json!({"@type": type_url::RBAC, "shadowRules": rules, "shadowRulesStatPrefix": "istio_ext_authz_"});
    let wanted = json!({"filterEnabledMetadata": {"filter": "envoy.filters.http.rbac", "path": [{"key": POLICY_ID}],
        "value": {"stringMatch": {"prefix": "istio-ext-authz"}}}});
    (rbac, wanted)
}

#[tokio::test]
async fn only_what_the_rules_select_is_asked_about() {
    let (rbac, wanted) = for_path("/denied");
    let mut setup = Setup::new(&[rbac, by_grpc(&wanted)], &[forward("c")]).await;
    assert_eq!(setup.send("/open", &[]).await.status(), StatusCode::OK);
    assert!(setup.asked.lock().is_empty());
    let denied = setup.send("/denied", &[]).await;
    assert_eq!(
        (denied.status(), denied.body().len()),
        (StatusCode::FORBIDDEN, 0)
    );
    assert_eq!(setup.asked.lock().len(), 1);
    assert_eq!(
        (setup.metric("denied"), setup.metric("disabled")),
        ("1".into(), "1".into())
    );
    let line = setup.sidecar.lines(2).await.remove(1);
    assert!(line.contains("403 UAEX ext_authz_denied"), "{line}");
}

/// What the authorizer sets is not what the client set.
#[tokio::test]
async fn the_application_sees_what_the_authorizer_says() {
    let mut setup = Setup::new(&[by_grpc(&json!({}))], &[forward("c")]).await;
    let lines = [
        ("x-set", "client"),
        ("x-add", "client"),
        ("x-absent", "client"),
        ("x-remove", "client"),
    ];
    let allowed = setup.send("/change", &lines).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(allowed.headers()["x-said"], "yes");
    let (_, headers) = setup.app.seen.lock()[0].clone();
    let all = |name: &str| -> Vec<String> {
        let values = headers.get_all(name).iter();
        values
            .map(|value| value.to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(all("x-set"), ["new"]);
    for replaced in ["x-add", "x-absent", "x-exists"] {
        assert_eq!(all(replaced), ["new"]);
    }
    assert!(all("x-remove").is_empty());
    assert_eq!(all("host"), ["echo.default"]);
    assert_eq!(
        setup.send("/query?b=2&a=1&c=3", &[]).await.status(),
        StatusCode::OK
    );
    assert_eq!(setup.app.seen.lock()[1].0, "/query?a=9&b=2");
}

#[tokio::test]
async fn a_denial_is_the_authorizers_own() {
    let mut setup = Setup::new(&[by_grpc(&json!({}))], &[forward("c")]).await;
    let denied = setup.send("/401", &[]).await;
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(denied.headers()["www-authenticate"], "Basic");
    assert_eq!(denied.headers()["content-type"], "text/html");
    assert_eq!(&denied.body()[..], b"<b>who?</b>");
    let denied = setup
        .send("/denied", &[("content-type", "application/grpc")])
        .await;
    assert_eq!(denied.status(), StatusCode::OK);
    assert_eq!(denied.headers()["grpc-status"], "7");
    assert_eq!(setup.app.connections(), 0);
}

/// Whatever keeps an answer away: status_on_error, and only failure_mode_allow lets it pass. Nonsense passes in no mode.
#[tokio::test]
async fn a_failure_denies_unless_it_may_pass() {
    let nowhere =
        json!({"grpcService": {"envoyGrpc": {"clusterName": "nowhere"}, "timeout": "1s"}});
    let nobody = json!({"grpcService": {"envoyGrpc": {"clusterName": "nobody"}, "timeout": "1s"}});
    for (config, path) in [(json!({}), "/broken"), (nowhere, "/"), (nobody, "/")] {
        for fails_open in [false, true] {
            let mut config = config.clone();
            config["statusOnError"] = json!({"code": "ServiceUnavailable"});
            config["failureModeAllow"] = fails_open.into();
            config["failureModeAllowHeaderAdd"] = true.into();
            let mut setup = Setup::new(&[by_grpc(&config)], &[forward("c")]).await;
            let answer = setup.send(path, &[]).await;
            let line = setup.sidecar.lines(1).await.remove(0);
            assert_eq!(setup.metric("error"), "1");
            match fails_open {
                true => {
                    assert_eq!(answer.status(), StatusCode::OK, "{config}");
                    assert_eq!(setup.metric("failure_mode_allowed"), "1");
                    let (_, headers) = setup.app.seen.lock()[0].clone();
                    assert_eq!(headers["x-envoy-auth-failure-mode-allowed"], "true");
                }
                false => {
                    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE, "{config}");
                    assert!(line.contains("503 UAEX ext_authz_error"), "{line}");
                    assert_eq!(setup.app.connections(), 0);
                }
            }
            let invalid = setup.send("/bad", &[]).await;
            if config["grpcService"].is_null() {
                assert_eq!(invalid.status(), StatusCode::INTERNAL_SERVER_ERROR);
                assert_eq!(setup.metric("invalid"), "1");
            }
        }
    }
}

#[tokio::test]
async fn an_authorizer_that_does_not_answer_is_not_waited_for() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config =
        json!({"grpcService": {"envoyGrpc": {"clusterName": "silent"}, "timeout": "0.05s"}});
    let mut setup = Setup::new(&[by_grpc(&config)], &[forward("c")]).await;
    let silent = cluster("silent", &[silent.local_addr().unwrap()]);
    setup.sidecar.apply(
        type_url::CLUSTER,
        &[cluster("c", &[setup.app.address]), silent],
    );
    assert_eq!(setup.send("/", &[]).await.status(), StatusCode::FORBIDDEN);
}

/// C28: a client that goes away while the authorizer thinks leaves nothing behind.
#[tokio::test]
async fn nobody_is_asked_for_a_client_that_has_gone() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let config = json!({"grpcService": {"envoyGrpc": {"clusterName": "silent"}, "timeout": "60s"}});
    let setup = Setup::new(&[by_grpc(&config)], &[forward("c")]).await;
    let address = silent.local_addr().unwrap();
    let clusters = [
        cluster("c", &[setup.app.address]),
        cluster("silent", &[address]),
    ];
    setup.sidecar.apply(type_url::CLUSTER, &clusters);
    let active = || {
        let upstream = setup.sidecar.shared.store.upstream("silent").unwrap();
        upstream.stats.active_requests.load(Ordering::Relaxed)
    };
    let mut client = http2_client(setup.sidecar.address("outbound").await).await;
    let request = Request::get("http://echo.default/").body(Full::<Bytes>::default());
    let asking = tokio::spawn(client.send_request(request.unwrap()));
    while active() == 0 {
        tokio::task::yield_now().await;
    }
    asking.abort();
    while active() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(setup.sidecar.lines(1).await[0].contains(" 0 DC "));
    assert_eq!(setup.app.connections(), 0);
}

#[tokio::test]
async fn an_authorizer_over_http_is_asked_the_same_question() {
    let mut setup = Setup::new(&[by_http(&json!({}))], &[forward("c")]).await;
    let lines = [
        ("x-told", "1"),
        ("x-hidden", "1"),
        ("authorization", "t"),
        ("x-user", "mallory"),
        ("x-role", "writer"),
        ("x-remove", "1"),
    ];
    let allowed = setup.send("/change?q", &lines).await;
    assert_eq!(allowed.status(), StatusCode::OK);
    assert_eq!(allowed.headers()["x-said"], "yes");
    let (uri, asked) = setup.http.seen.lock()[0].clone();
    assert_eq!(uri, "/check/change?q");
    assert_eq!(
        (&asked["x-told"], &asked["x-mesh"]),
        (&"1".parse().unwrap(), &"m".parse().unwrap())
    );
    assert_eq!(
        (&asked["host"], &asked["authorization"]),
        (&"echo.default".parse().unwrap(), &"t".parse().unwrap())
    );
    assert!(!asked.contains_key("x-hidden") && !asked.contains_key("x-user"));
    let (_, seen) = setup.app.seen.lock()[0].clone();
    assert_eq!(seen["x-user"], "alice");
    assert_eq!(seen.get_all("x-role").iter().count(), 2);
    assert!(!seen.contains_key("x-remove") && !seen.contains_key("x-secret"));
    let denied = setup.send("/401", &[]).await;
    assert_eq!(denied.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(&denied.body()[..], b"who?");
    assert_eq!(denied.headers()["x-said"], "yes");
    assert!(!denied.headers().contains_key("x-secret"));
    assert_eq!(
        setup.send("/302", &[]).await.headers()["location"],
        "/login"
    );
    assert_eq!(
        setup.send("/500", &[]).await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(setup.metric("error"), "1");
}

/// C28 and more: the authorizer sees the beginning of a body, and the application all of it.
#[tokio::test]
async fn bodies_are_shown_and_go_on() {
    let body = |partial: bool, raw: bool| json!({"withRequestBody": {"maxRequestBytes": 4, "allowPartialMessage": partial, "packAsBytes": raw}});
    for (config, sent, shown, is_partial) in [
        (body(false, false), &b"abcd"[..], Some("abcd"), "false"),
        (body(false, true), b"abcde", None, ""),
        (body(true, true), b"abcdefgh", Some("abcd"), "true"),
    ] {
        let mut setup = Setup::new(&[by_grpc(&config)], &[forward("c")]).await;
        let answer = setup.browser.send(post("/", sent)).await.unwrap();
        let Some(shown) = shown else {
            assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
            assert!(setup.asked.lock().is_empty());
            continue;
        };
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.body(), sent);
        let asked = setup.asked.lock()[0].clone().attributes.unwrap();
        let asked = asked.request.unwrap().http.unwrap();
        let seen = [asked.body.as_bytes(), &asked.raw_body].concat();
        assert_eq!(seen, shown.as_bytes());
        assert_eq!(asked.headers["x-envoy-auth-partial-body"], is_partial);
    }
    // Over HTTP it is the body of the question.
    let mut setup = Setup::new(&[by_http(&body(true, false))], &[forward("c")]).await;
    assert_eq!(
        setup
            .browser
            .send(post("/", b"abcdefgh"))
            .await
            .unwrap()
            .status(),
        StatusCode::OK
    );
    let (_, asked) = setup.http.seen.lock()[0].clone();
    assert_eq!(asked["content-length"], "4");
}

#[tokio::test]
async fn the_route_is_found_again_if_that_is_wanted() {
    let answers = |name: &str, matches: Value| json!({"name": name, "match": matches, "directResponse": {"status": 200, "body": {"inlineString": name}}});
    let other =
        json!({"prefix": "/", "headers": [{"name": "x-route", "stringMatch": {"exact": "other"}}]});
    let routes = [
        answers("other", other),
        answers("usual", json!({"prefix": "/"})),
    ];
    for (clears, expected) in [(true, "other"), (false, "usual")] {
        let config = by_grpc(&json!({"clearRouteCache": clears}));
        let mut setup = Setup::new(&[config], &routes).await;
        let answer = setup.send("/elsewhere", &[]).await;
        assert_eq!(&answer.body()[..], expected.as_bytes());
    }
}

/// Whoever may not ask learns nothing of what there is.
#[tokio::test]
async fn a_request_without_a_route_is_judged_too() {
    let only = json!({"name": "one", "match": {"path": "/one"}, "directResponse": {"status": 200}});
    let mut setup = Setup::new(&[by_grpc(&json!({}))], &[only]).await;
    assert_eq!(
        setup.send("/denied", &[]).await.status(),
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        setup.send("/other", &[]).await.status(),
        StatusCode::NOT_FOUND
    );
    assert_eq!(setup.asked.lock().len(), 2);
}

#[tokio::test]
async fn routes_can_do_without() {
    let off = json!({"@type": type_url::EXT_AUTHZ_PER_ROUTE, "disabled": true});
    let told = json!({"@type": type_url::EXT_AUTHZ_PER_ROUTE, "checkSettings": {"contextExtensions": {"k": "v"}}});
    let route = |prefix: &str, config: Value| {
        json!({"name": prefix, "match": {"prefix": prefix}, "route": {"cluster": "c"},
        "typedPerFilterConfig": {FILTER: config}})
    };
    let routes = [route("/denied", off), route("/", told)];
    let mut setup = Setup::new(&[by_grpc(&json!({}))], &routes).await;
    assert_eq!(setup.send("/denied", &[]).await.status(), StatusCode::OK);
    assert!(setup.asked.lock().is_empty());
    assert_eq!(setup.send("/", &[]).await.status(), StatusCode::OK);
    let asked = setup.asked.lock()[0].clone().attributes.unwrap();
    assert_eq!(asked.context_extensions["k"], "v");
}

#[tokio::test]
async fn what_is_not_understood_is_refused_with_its_field() {
    let setup = Setup::new(&[by_grpc(&json!({}))], &[forward("c")]).await;
    for (config, expected) in [
        (json!({"shadowMode": true}), "shadow_mode"),
        (
            json!({"withRequestBody": {"maxRequestBytes": 0}}),
            "with_request_body.max_request_bytes",
        ),
        (
            json!({"grpcService": {"googleGrpc": {"targetUri": "a", "statPrefix": "b"}}}),
            "grpc_service",
        ),
        (
            json!({"filterEnabledMetadata": {"filter": "x", "path": [{"key": "a"}], "value": {"presentMatch": true}}}),
            "filter_enabled_metadata.filter",
        ),
        (
            json!({"transportApiVersion": "V2"}),
            "transport_api_version",
        ),
        (
            json!({"statusOnError": {"code": "Continue"}}),
            "status_on_error",
        ),
    ] {
        let filters = [by_grpc(&config)];
        let rejected = setup
            .sidecar
            .try_apply(type_url::LISTENER, &[listener(&filters, &[forward("c")])]);
        let field = format!("http_filters[0].typed_config.{expected}");
        assert!(
            rejected.len() == 1 && rejected[0].contains(&field),
            "{rejected:?}"
        );
    }
}

fn tcp_listener(changes: &Value) -> Value {
    let mut listener = outbound_tcp("c");
    let filters = listener["filterChains"][0]["filters"]
        .as_array_mut()
        .unwrap();
    let rules = json!({"action": "DENY", "policies": {"istio-ext-authz-p": {"permissions": [{"any": true}], "principals": [{"any": true}]}}});
    let rbac = json!({"@type": type_url::NETWORK_RBAC, "statPrefix": "tcp.", "shadowRules": rules, "shadowRulesStatPrefix": "istio_ext_authz_"});
    let config = with(
        json!({"@type": type_url::NETWORK_EXT_AUTHZ, "statPrefix": "tcp.", "transportApiVersion": "V3",
        "grpcService": {"envoyGrpc": {"clusterName": "authorizer"}, "timeout": "1s"},
        "filterEnabledMetadata": {"filter": "envoy.filters.network.rbac", "path": [{"key": POLICY_ID}], "value": {"stringMatch": {"prefix": "istio-ext-authz"}}}}),
        changes,
    );
    filters.insert(
        0,
        json!({"name": "envoy.filters.network.rbac", "typedConfig": rbac}),
    );
    filters.insert(
        1,
        json!({"name": "envoy.filters.network.ext_authz", "typedConfig": config}),
    );
    listener
}

/// No byte flows, and nothing is connected, before there is a verdict.
#[tokio::test]
async fn a_connection_waits_for_its_verdict() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (grpc, asked) = grpc_authorizer().await;
    let nobody = json!({"grpcService": {"envoyGrpc": {"clusterName": "nobody"}, "timeout": "1s"}});
    let open = with(nobody.clone(), &json!({"failureModeAllow": true}));
    for (changes, passes) in [(json!({}), true), (nobody, false), (open, true)] {
        let sidecar = Sidecar::start(&Authority::new(), "client");
        let clusters = [
            cluster("c", &[app.local_addr().unwrap()]),
            with_http2(cluster("authorizer", &[grpc])),
        ];
        sidecar.apply(type_url::CLUSTER, &clusters);
        sidecar.apply(type_url::LISTENER, &[tcp_listener(&changes)]);
        let mut stream = TcpStream::connect(sidecar.address("outbound").await)
            .await
            .unwrap();
        stream.write_all(b"hello").await.unwrap();
        if passes {
            let (mut far, _) = app.accept().await.unwrap();
            let mut said = [0; 5];
            far.read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"hello");
        } else {
            assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
            assert!(
                !sidecar
                    .metric(&["envoy_ext_authz_tcp_cx_closed 1"])
                    .is_empty()
            );
        }
    }
    let asked = asked.lock()[0].clone().attributes.unwrap();
    assert!(asked.request.is_none());
    assert!(asked.source.unwrap().address.is_some());
}
