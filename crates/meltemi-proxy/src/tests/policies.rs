//! Policies around a request, where a mistake would let something through or hurt someone else.

use meltemi_proto::type_url;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::configuration::{cluster, forward, outbound_http, outbound_tcp};
use super::mesh::{App, Authority, Client, Sidecar};

fn deny(permission: Value) -> Value {
    json!({"action": "DENY", "policies": {"p": {"permissions": [permission], "principals": [{"any": true}]}}})
}

fn allow(permission: Value) -> Value {
    json!({"action": "ALLOW", "policies": {"p": {"permissions": [permission], "principals": [{"any": true}]}}})
}

#[tokio::test]
async fn a_network_filter_guards_http_too() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let mut listener = outbound_http(forward("c"));
    let filters = listener["filterChains"][0]["filters"]
        .as_array_mut()
        .unwrap();
    let rbac = json!({"@type": type_url::NETWORK_RBAC, "statPrefix": "x", "rules": deny(json!({"any": true}))});
    filters.insert(0, json!({"name": "rbac", "typedConfig": rbac}));
    sidecar.apply(type_url::LISTENER, &[listener]);
    let mut stream = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    assert_eq!(app.connections(), 0);
}

/// A denial is answered, counted and logged as Envoy does; a dry run is counted and logged, and lets everything through.
#[tokio::test]
async fn verdicts_are_answered_counted_and_logged() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let mut listener = outbound_http(forward("c"));
    let manager = &mut listener["filterChains"][0]["filters"][0]["typedConfig"];
    manager["statPrefix"] = "inbound_0.0.0.0_8080;".into();
    let path = |prefix: &str| json!({"urlPath": {"path": {"prefix": prefix}}});
    let filter = json!({"@type": type_url::RBAC, "rules": deny(path("/secret")), "shadowRules": deny(path("/tried")),
        "shadowRulesStatPrefix": "istio_dry_run_deny_"});
    let filters = manager["httpFilters"].as_array_mut().unwrap();
    filters.insert(0, json!({"name": "rbac", "typedConfig": filter}));
    let prefix = "envoy.filters.http.rbac:istio_dry_run_deny_shadow";
    let format = format!(
        "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %DYNAMIC_METADATA({prefix}_engine_result)% \
         %DYNAMIC_METADATA({prefix}_effective_policy_id)%\n"
    );
    manager["accessLog"][0]["typedConfig"]["logFormat"]["textFormatSource"]["inlineString"] =
        format.into();
    sidecar.apply(type_url::LISTENER, &[listener]);
    let mut client = Client::connect(sidecar.address("outbound").await).await;
    let refused = client.get("/secret").await;
    assert_eq!(refused.status(), 403);
    assert_eq!(&refused.body()[..], b"RBAC: access denied");
    assert_eq!(client.get("/tried").await.status(), 200);
    assert_eq!(client.get("/open").await.status(), 200);
    let call = http::Request::post("/secret/grpc")
        .header("host", "a")
        .header("content-type", "application/grpc")
        .body(http_body_util::Full::default())
        .unwrap();
    let refused = client.send(call).await.unwrap();
    assert_eq!(refused.headers()["grpc-status"], "7");
    assert_eq!(app.seen.lock().len(), 2);
    let logged = sidecar.lines(4).await;
    let denied = "rbac_access_denied_matched_policy[p]";
    assert_eq!(
        logged[0].trim_end(),
        format!("/secret 403 - {denied} allowed -")
    );
    assert_eq!(logged[1].trim_end(), "/tried 200 - via_upstream denied p");
    assert_eq!(logged[2].trim_end(), "/open 200 - via_upstream allowed -");
    let name = "envoy_http_inbound_0_0_0_0_8080_rbac{";
    for (labels, expected) in [
        ("authz_enforce_result=\"allowed\"", " 2"),
        ("authz_enforce_result=\"denied\"", " 2"),
        (
            "authz_dry_run_action=\"deny\",authz_dry_run_result=\"allowed\"",
            " 3",
        ),
        (
            "authz_dry_run_action=\"deny\",authz_dry_run_result=\"denied\"",
            " 1",
        ),
    ] {
        let found = sidecar.metric(&[name, labels]);
        assert!(
            found.len() == 1 && found[0].ends_with(expected),
            "{labels} {found:?}"
        );
    }
    let mut plain = String::new();
    sidecar.shared.telemetry.rbac.plain(&mut plain);
    let envoys = "http.inbound_0.0.0.0_8080;.rbac.istio_dry_run_deny_shadow_denied: 1\n";
    assert!(plain.contains(envoys), "{plain}");
}

/// A denied connection is closed before its first byte is passed on, and counted with Istio's prefix of TCP.
#[tokio::test]
async fn a_denied_connection_is_closed_and_counted() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let mut listener = outbound_tcp("c");
    let filters = listener["filterChains"][0]["filters"]
        .as_array_mut()
        .unwrap();
    let config = json!({"@type": type_url::NETWORK_RBAC, "statPrefix": "tcp.", "rules": deny(json!({"any": true})),
        "shadowRules": allow(json!({"destinationPort": 1})), "shadowRulesStatPrefix": "istio_dry_run_allow_"});
    filters.insert(1, json!({"name": "rbac", "typedConfig": config}));
    sidecar.apply(type_url::LISTENER, &[listener]);
    let mut stream = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    drop(stream.write_all(b"hello").await);
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    assert_eq!(app.connections(), 0);
    for labels in [
        "authz_enforce_result=\"denied\"",
        "authz_dry_run_action=\"allow\",authz_dry_run_result=\"denied\"",
    ] {
        let found = sidecar.metric(&["envoy_tcp_rbac{", labels]);
        assert!(
            found.len() == 1 && found[0].ends_with(" 1"),
            "{labels} {found:?}"
        );
    }
}

/// A denial that arrives later ends open connections that it is for, and leaves alone those that it is not.
#[tokio::test]
async fn a_later_denial_ends_an_open_connection() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(&Authority::new(), "client");
    let upstream = cluster("c", &[app.local_addr().unwrap()]);
    sidecar.apply(type_url::CLUSTER, &[upstream]);
    sidecar.apply(type_url::LISTENER, &[outbound_tcp("c")]);
    let mut stream = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    let (mut far, _) = app.accept().await.unwrap();
    let guarded = |permission: Value| {
        let mut listener = outbound_tcp("c");
        let config = json!({"@type": type_url::NETWORK_RBAC, "statPrefix": "tcp.", "rules": deny(permission)});
        let filters = listener["filterChains"][0]["filters"]
            .as_array_mut()
            .unwrap();
        filters.insert(1, json!({"name": "rbac", "typedConfig": config}));
        listener
    };
    sidecar.apply(
        type_url::LISTENER,
        &[guarded(json!({"destinationPort": 1}))],
    );
    stream.write_all(b"still here").await.unwrap();
    let mut got = [0; 10];
    far.read_exact(&mut got).await.unwrap();
    assert_eq!(&got, b"still here");
    sidecar.apply(type_url::LISTENER, &[guarded(json!({"any": true}))]);
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    assert!(far.read_to_end(&mut Vec::new()).await.is_err());
}

/// Routes speak of a filter by its name: what they say of one is nothing to another of its kind.
#[tokio::test]
async fn an_override_is_for_the_filter_of_its_name() {
    let app = App::echo().await;
    let off = json!({"@type": type_url::RBAC_PER_ROUTE});
    let path = |prefix: &str| json!({"urlPath": {"path": {"prefix": prefix}}});
    let weighted = json!({"weightedClusters": {"clusters": [
        {"name": "c", "weight": 1, "typedPerFilterConfig": {"allow": off}}]}});
    let plain = json!({"cluster": "c"});
    for (action, overrides, secret, open) in [
        (&plain, json!({}), 403, 403),
        (&plain, json!({"allow": off}), 403, 200),
        (&plain, json!({"deny": off, "allow": off}), 200, 200),
        (&weighted, json!({}), 403, 200),
    ] {
        let route = json!({"name": "default", "match": {"prefix": "/"}, "route": action,
            "typedPerFilterConfig": overrides});
        let mut listener = outbound_http(route);
        let filters = &mut listener["filterChains"][0]["filters"][0]["typedConfig"]["httpFilters"];
        let rbac = |name: &str, rules: Value| json!({"name": name, "typedConfig": {"@type": type_url::RBAC, "rules": rules}});
        let filters = filters.as_array_mut().unwrap();
        filters.insert(0, rbac("deny", deny(path("/secret"))));
        filters.insert(1, rbac("allow", allow(path("/nothing"))));
        let sidecar = Sidecar::start(&Authority::new(), "client");
        sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
        sidecar.apply(type_url::LISTENER, &[listener]);
        let mut browser = Client::connect(sidecar.address("outbound").await).await;
        let found = (
            browser.get("/secret").await.status().as_u16(),
            browser.get("/open").await.status().as_u16(),
        );
        assert_eq!(found, (secret, open), "{overrides}");
    }
}

/// A request is on its way before its copy can be.
#[tokio::test]
async fn a_request_does_not_wait_for_its_copy() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let shadow = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    let clusters = [
        cluster("c", &[upstream.local_addr().unwrap()]),
        cluster("shadow", &[shadow.address]),
    ];
    sidecar.apply(type_url::CLUSTER, &clusters);
    let mut route = forward("c");
    route["route"]["requestMirrorPolicies"] = json!([{"cluster": "shadow"}]);
    sidecar.apply(type_url::LISTENER, &[outbound_http(route)]);
    let mut browser = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    browser
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        )
        .await
        .unwrap();
    let (mut app, _) = upstream.accept().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello\r\n") {
        got.push(app.read_u8().await.unwrap());
    }
    assert!(shadow.seen.lock().is_empty());
    browser.write_all(b"0\r\n\r\n").await.unwrap();
    while shadow.seen.lock().is_empty() {
        tokio::task::yield_now().await;
    }
}

/// A client that breaks off says nothing about the host that it talked to.
#[tokio::test]
async fn a_broken_upload_is_not_the_hosts_fault() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(
        type_url::CLUSTER,
        &[cluster("c", &[upstream.local_addr().unwrap()])],
    );
    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut browser = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    browser
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\nhello")
        .await
        .unwrap();
    let (mut app, _) = upstream.accept().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"hello") {
        got.push(app.read_u8().await.unwrap());
    }
    drop(browser);
    let line = sidecar.lines(1).await.remove(0);
    assert!(line.contains(" DC "), "{line}");
    let hosts = sidecar.shared.store.upstream("c").unwrap().hosts();
    assert_eq!(hosts[0].state.errors.get(), 0);
}
