use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use meltemi_proto::type_url;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::configuration::{
    cluster, forward, inbound_http, mesh_cluster, nowhere, outbound_http, with_http2,
};
use super::mesh::{App, Authority, Client, Sidecar, get, http2_client, post};

/// Client proxy -> mutual TLS -> server proxy -> application.
async fn pair(app: &App, http2: bool) -> (Sidecar, Sidecar, Authority) {
    let authority = Authority::new();
    let server = Sidecar::start(&authority, "server");
    server.apply(
        type_url::CLUSTER,
        &[cluster("inbound|80||", &[app.address])],
    );
    server.apply(type_url::LISTENER, &[inbound_http("inbound|80||", false)]);
    let address = server.address("inbound").await;
    let client = Sidecar::start(&authority, "client");
    let mut upstream = mesh_cluster(
        "outbound|80||echo",
        &[address],
        "server",
        &["istio-peer-exchange", "istio"],
    );
    if http2 {
        upstream = with_http2(upstream);
    }
    client.apply(type_url::CLUSTER, &[upstream]);
    client.apply(
        type_url::LISTENER,
        &[outbound_http(forward("outbound|80||echo"))],
    );
    (client, server, authority)
}

#[tokio::test]
async fn a_request_travels_in_mutual_tls_and_both_ends_tell_of_it() {
    let app = App::echo().await;
    let (client, server, _) = pair(&app, false).await;
    let mut browser = Client::connect(client.address("outbound").await).await;
    let response = browser.send(post("/a/../b?c=d", b"hello")).await.unwrap();
    assert_eq!(
        (response.status(), &response.body()[..]),
        (StatusCode::OK, &b"hello"[..])
    );
    assert_eq!(response.headers()["server"], "envoy");
    assert!(
        response
            .headers()
            .contains_key("x-envoy-upstream-service-time")
    );
    assert!(!response.headers().contains_key("x-envoy-peer-metadata"));

    let (path, headers) = app.seen.lock()[0].clone();
    assert_eq!(path, "/b?c=d");
    assert_eq!(headers["host"], "echo.default");
    let xfcc = headers["x-forwarded-client-cert"].to_str().unwrap();
    assert!(
        xfcc.starts_with("By=spiffe://cluster.local/ns/default/sa/server;Hash="),
        "{xfcc}"
    );
    assert!(
        xfcc.ends_with(";URI=spiffe://cluster.local/ns/default/sa/client"),
        "{xfcc}"
    );
    assert!(headers.contains_key("x-request-id"));
    assert!(!headers.contains_key("x-envoy-peer-metadata"));

    let line = "POST /b?c=d 200 - via_upstream 5 5";
    assert_eq!(
        client.lines(1).await,
        [format!("{line} outbound|80||echo 1\n")]
    );
    assert_eq!(server.lines(1).await, [format!("{line} inbound|80|| 1\n")]);
    let source = client.metric(&[
        "istio_requests_total{",
        "reporter=\"source\"",
        "response_code=\"200\"",
    ]);
    assert_eq!(source.len(), 1, "{}", client.metrics());
    for label in [
        "destination_workload=\"server\"",
        "destination_principal=\"spiffe://cluster.local/ns/default/sa/server\"",
        "source_workload=\"client\"",
    ] {
        assert!(source[0].contains(label), "{label} in {}", source[0]);
    }
    let destination = server.metric(&[
        "istio_requests_total{",
        "reporter=\"destination\"",
        "connection_security_policy=\"mutual_tls\"",
        "source_workload=\"client\"",
    ]);
    assert_eq!(destination.len(), 1, "{}", server.metrics());
    let rows = server.shared.telemetry.tls.downstream_rows();
    assert_eq!(
        (rows[0].evident.mode, rows[0].evident.tls_version),
        ("mtls", Some("TLSv1.3"))
    );
    let rows = client.shared.telemetry.tls.upstream_rows();
    assert_eq!(
        rows[0].evident.peer_identity.as_deref(),
        Some("spiffe://cluster.local/ns/default/sa/server")
    );
    assert_eq!(rows[0].evident.alpn.as_deref(), Some("http/1.1"));
}

#[tokio::test]
async fn connections_are_kept_and_shared() {
    for http2 in [false, true] {
        let app = App::echo().await;
        let (client, server, _) = pair(&app, http2).await;
        let address = client.address("outbound").await;
        let mut browser = Client::connect(address).await;
        for _ in 0..5 {
            assert_eq!(browser.get("/").await.status(), StatusCode::OK);
        }
        assert_eq!(
            Client::connect(address).await.get("/").await.status(),
            StatusCode::OK
        );
        assert_eq!(
            client.shared.telemetry.tls.upstream_rows()[0]
                .evident
                .handshakes,
            1,
            "http2: {http2}"
        );
        assert_eq!(app.connections(), 1);
        assert_eq!(server.lines(6).await.len(), 6);
    }
}

#[tokio::test]
async fn an_upstream_of_another_identity_is_refused() {
    let app = App::echo().await;
    let (client, server, _) = pair(&app, false).await;
    let address = server.address("inbound").await;
    client.apply(
        type_url::CLUSTER,
        &[mesh_cluster(
            "outbound|80||echo",
            &[address],
            "someone-else",
            &["istio"],
        )],
    );
    let response = Client::connect(client.address("outbound").await)
        .await
        .get("/")
        .await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    let body = String::from_utf8_lossy(response.body()).into_owned();
    assert!(
        body.contains("transport failure reason: TLS_error:"),
        "{body}"
    );
    assert!(body.contains("sa/server"), "{body}");
    assert!(client.lines(1).await[0].contains(" 503 UF "), "UF");
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn strict_resets_plain_text_before_a_byte_reaches_the_application() {
    let app = App::echo().await;
    let (_, server, _) = pair(&app, false).await;
    let mut stream = TcpStream::connect(server.address("inbound").await)
        .await
        .unwrap();
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    assert_eq!(app.connections(), 0);
}

#[tokio::test]
async fn a_stricter_mode_drains_old_connections_and_refuses_new_ones() {
    let app = App::echo().await;
    let server = Sidecar::start(&Authority::new(), "server");
    server.apply(
        type_url::CLUSTER,
        &[cluster("inbound|80||", &[app.address])],
    );
    server.apply(type_url::LISTENER, &[inbound_http("inbound|80||", true)]);
    let address = server.address("inbound").await;
    let mut old = Client::connect(address).await;
    let response = old.get("/").await;
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("connection"));
    server.apply(type_url::LISTENER, &[inbound_http("inbound|80||", false)]);
    // The connection learns of the change in its own task.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let response = old.get("/").await;
    assert_eq!(
        (
            response.status(),
            response.headers()["connection"].as_bytes()
        ),
        (StatusCode::OK, &b"close"[..])
    );
    let mut new = TcpStream::connect(address).await.unwrap();
    new.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
        .await
        .unwrap();
    assert!(new.read_to_end(&mut Vec::new()).await.is_err());
}

#[tokio::test]
async fn certificates_turn_over_without_a_failed_request() {
    let app = App::echo().await;
    let (client, server, authority) = pair(&app, false).await;
    let address = client.address("outbound").await;
    let mut kept = Client::connect(address).await;
    assert_eq!(kept.get("/").await.status(), StatusCode::OK);
    for sidecar in [(&client, "client"), (&server, "server")] {
        sidecar
            .0
            .shared
            .credentials
            .replace(authority.issue(sidecar.1), authority.bundle());
    }
    assert_eq!(kept.get("/").await.status(), StatusCode::OK);
    let upstream = client.shared.store.upstream("outbound|80||echo").unwrap();
    let host = &upstream.hosts()[0];
    let fresh =
        crate::upstream::connect::connect(&client.shared, &upstream, host, &Default::default())
            .await
            .unwrap();
    assert!(
        fresh
            .facts
            .handshake
            .as_ref()
            .is_some_and(|handshake| !handshake.resumed)
    );
}

#[tokio::test]
async fn a_failed_endpoint_is_retried_on_another() {
    let app = App::echo().await;
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(
        type_url::CLUSTER,
        &[cluster("c", &[nowhere(), app.address])],
    );
    let mut route = forward("c");
    route["route"]["retryPolicy"] = json!({
        "retryOn": "connect-failure", "numRetries": 2, "retryBackOff": {"baseInterval": "0.001s"},
        "retryHostPredicate": [{"name": "envoy.retry_host_predicates.previous_hosts", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"}}],
        "hostSelectionRetryMaxAttempts": "5"});
    client.apply(type_url::LISTENER, &[outbound_http(route)]);
    let mut browser = Client::connect(client.address("outbound").await).await;
    for _ in 0..4 {
        let response = browser.send(post("/", b"body")).await.unwrap();
        assert_eq!(
            (response.status(), &response.body()[..]),
            (StatusCode::OK, &b"body"[..])
        );
    }
    let attempts: Vec<String> = client
        .lines(4)
        .await
        .iter()
        .map(|line| line.trim().rsplit(' ').next().unwrap().to_owned())
        .collect();
    assert!(attempts.contains(&"2".to_owned()), "{attempts:?}");
    let seen = app.seen.lock();
    assert!(
        seen.iter()
            .any(|(_, headers)| headers["x-envoy-attempt-count"] == "2")
    );
}

#[tokio::test]
async fn statuses_are_retried_as_the_policy_says() {
    let tries = AtomicUsize::new(0);
    let app = App::start(move |_, _| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"x")));
        if tries.fetch_add(1, Ordering::SeqCst) < 2 {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        response
    })
    .await;
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let mut route = forward("c");
    route["route"]["retryPolicy"] =
        json!({"retryOn": "5xx", "numRetries": 2, "retryBackOff": {"baseInterval": "0.001s"}});
    client.apply(type_url::LISTENER, &[outbound_http(route)]);
    let response = Client::connect(client.address("outbound").await)
        .await
        .get("/")
        .await;
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(
        client.lines(1).await,
        ["GET / 200 - via_upstream 0 1 c 3\n"]
    );
}

#[tokio::test]
async fn a_connection_that_died_while_idle_costs_no_request() {
    // Answers one request per connection, then closes without having said so.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut head = vec![0; 4096];
                let read = stream.read(&mut head).await.unwrap();
                assert!(read > 0);
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")
                    .await
                    .unwrap();
                // The next request meets a closed socket.
                let _next = stream.read(&mut head).await;
            });
        }
    });
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("c", &[address])]);
    client.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut browser = Client::connect(client.address("outbound").await).await;
    for _ in 0..3 {
        assert_eq!(browser.get("/").await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn no_route_no_cluster_no_endpoint() {
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("empty", &[])]);
    for (route, status, flag) in [
        (
            json!({"name": "r", "match": {"path": "/other"}, "route": {"cluster": "empty"}}),
            404,
            "NR",
        ),
        (forward("missing"), 503, "NC"),
        (forward("empty"), 503, "UH"),
    ] {
        client.apply(type_url::LISTENER, &[outbound_http(route)]);
        let response = Client::connect(client.address("outbound").await)
            .await
            .get("/")
            .await;
        assert_eq!(response.status().as_u16(), status);
        let line = client.lines(1).await.remove(0);
        assert!(line.contains(&format!(" {status} {flag} ")), "{line}");
    }
}

#[tokio::test]
async fn direct_answers_and_redirects() {
    let client = Sidecar::start(&Authority::new(), "client");
    let route = json!({"match": {"prefix": "/"}, "directResponse": {"status": 418, "body": {"inlineString": "teapot"}}});
    client.apply(type_url::LISTENER, &[outbound_http(route)]);
    let response = Client::connect(client.address("outbound").await)
        .await
        .get("/")
        .await;
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (418, &b"teapot"[..])
    );
    let route = json!({"match": {"prefix": "/"}, "redirect": {"pathRedirect": "/new", "responseCode": "FOUND"}});
    client.apply(type_url::LISTENER, &[outbound_http(route)]);
    let response = Client::connect(client.address("outbound").await)
        .await
        .get("/old")
        .await;
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["location"].as_bytes()
        ),
        (302, &b"http://echo.default/new"[..])
    );
}

#[tokio::test]
async fn head_and_empty_responses_keep_their_framing() {
    let app = App::start(|request, _| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"12345")));
        if request.uri().path() == "/none" {
            *response.body_mut() = Full::default();
            *response.status_mut() = StatusCode::NO_CONTENT;
        }
        response
    })
    .await;
    let (client, _server, _) = pair(&app, false).await;
    let mut browser = Client::connect(client.address("outbound").await).await;
    let head = Request::head("/")
        .header("host", "a")
        .body(Full::default())
        .unwrap();
    let response = browser.send(head).await.unwrap();
    assert_eq!(
        (
            response.headers()["content-length"].as_bytes(),
            response.body().len()
        ),
        (&b"5"[..], 0)
    );
    assert_eq!(browser.get("/none").await.status(), StatusCode::NO_CONTENT);
    assert_eq!(&browser.get("/").await.body()[..], b"12345");
}

#[tokio::test(start_paused = true)]
async fn the_route_timeout_answers_504() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("c", &[address])]);
    let mut route = forward("c");
    route["route"]["timeout"] = "3s".into();
    client.apply(type_url::LISTENER, &[outbound_http(route)]);
    let response = Client::connect(client.address("outbound").await)
        .await
        .get("/")
        .await;
    assert_eq!(
        (response.status().as_u16(), &response.body()[..]),
        (504, &b"upstream request timeout"[..])
    );
    assert_eq!(
        client.lines(1).await,
        ["GET / 504 UT response_timeout 0 24 c 1\n"]
    );
    drop(listener);
}

#[tokio::test]
async fn what_follows_an_upgrade_waits_for_its_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("c", &[address])]);
    client.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut browser = TcpStream::connect(client.address("outbound").await)
        .await
        .unwrap();
    let request =
        "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nearly";
    browser.write_all(request.as_bytes()).await.unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(app.read_u8().await.unwrap());
    }
    let text = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(
        text.contains("upgrade: websocket\r\n") && text.contains("connection: upgrade\r\n"),
        "{text}"
    );
    app.write_all(
        b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\nhi",
    )
    .await
    .unwrap();
    let mut early = [0; 5];
    app.read_exact(&mut early).await.unwrap();
    assert_eq!(&early, b"early");
    let mut answer = Vec::new();
    while !answer.ends_with(b"hi") {
        answer.push(browser.read_u8().await.unwrap());
    }
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    drop(browser);
    drop(app);
    assert_eq!(
        client.lines(1).await,
        ["GET /chat 101 - via_upstream 5 2 c 1\n"]
    );
}

#[tokio::test]
async fn two_hosts_are_refused() {
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut browser = TcpStream::connect(client.address("outbound").await)
        .await
        .unwrap();
    browser
        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    assert!(
        answer.to_ascii_lowercase().contains("connection: close"),
        "{answer}"
    );
}

#[tokio::test]
async fn a_large_body_passes_unchanged() {
    let app = App::echo().await;
    let (client, _server, _) = pair(&app, true).await;
    let body: Vec<u8> = (0..300_000_u32).map(|i| (i % 253) as u8).collect();
    let mut request = get("/");
    *request.method_mut() = http::Method::PUT;
    *request.body_mut() = Full::new(Bytes::from(body.clone()));
    let response = Client::connect(client.address("outbound").await)
        .await
        .send(request)
        .await
        .unwrap();
    assert!(response.body()[..] == body[..]);
}

#[tokio::test]
async fn copies_go_to_the_mirror_and_their_answers_nowhere() {
    let app = App::echo().await;
    let shadow = App::start(|_, _| {
        let mut response = Response::new(Full::new(Bytes::from_static(b"ignored")));
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(
        type_url::CLUSTER,
        &[
            cluster("c", &[app.address]),
            cluster("shadow", &[shadow.address]),
        ],
    );
    let mut route = forward("c");
    route["route"]["requestMirrorPolicies"] = json!([{"cluster": "shadow"}]);
    client.apply(type_url::LISTENER, &[outbound_http(route)]);
    let mut browser = Client::connect(client.address("outbound").await).await;
    let response = browser.send(post("/a", b"body")).await.unwrap();
    assert_eq!(
        (response.status(), &response.body()[..]),
        (StatusCode::OK, &b"body"[..])
    );
    while shadow.seen.lock().is_empty() {
        tokio::task::yield_now().await;
    }
    let (path, headers) = shadow.seen.lock()[0].clone();
    assert_eq!(
        (path.as_str(), headers["host"].as_bytes()),
        ("/a", &b"echo.default-shadow"[..])
    );
    assert_eq!(headers["content-length"], "4");
}

#[tokio::test]
async fn grpc_keeps_its_trailers_and_is_counted_by_message() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service =
            hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let body = request.into_body();
                let frames = http_body_util::BodyExt::map_frame(body, |frame| frame);
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", http::HeaderValue::from_static("7"));
                let body =
                    http_body_util::BodyExt::with_trailers(
                        frames,
                        async move { Some(Ok(trailers)) },
                    );
                Ok::<_, hyper::Error>(
                    Response::builder()
                        .header("content-type", "application/grpc")
                        .body(body)
                        .unwrap(),
                )
            });
        let builder =
            hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new());
        builder
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
            .await
    });
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[with_http2(cluster("c", &[address]))]);
    client.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut sender = http2_client(client.address("outbound").await).await;
    let messages = b"\0\0\0\0\x01a\0\0\0\0\x02bc";
    let request = Request::post("http://echo.default/s/m")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(messages)))
        .unwrap();
    let response = sender.send_request(request).await.unwrap();
    let collected = http_body_util::BodyExt::collect(response.into_body())
        .await
        .unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "7");
    assert_eq!(&collected.to_bytes()[..], messages);
    while client.metric(&["istio_requests_total{"]).is_empty() {
        tokio::task::yield_now().await;
    }
    let requests = client.metric(&[
        "istio_requests_total{",
        "request_protocol=\"grpc\"",
        "grpc_response_status=\"7\"",
    ]);
    assert_eq!(requests.len(), 1, "{}", client.metrics());
    assert!(client.metric(&["istio_request_messages_total{"])[0].ends_with(" 2"));
    assert!(client.metric(&["istio_response_messages_total{"])[0].ends_with(" 2"));
}

/// A body of one data frame whose end comes in a frame of its own, which is then empty (gRPC clients send such).
fn ends_late(
    data: Bytes,
) -> impl hyper::body::Body<Data = Bytes, Error = std::convert::Infallible> + Unpin {
    let frames = [Ok(hyper::body::Frame::data(data))];
    http_body_util::StreamBody::new(futures_util::stream::iter(frames))
}

/// An HTTP/2 peer closes a connection that carried more than 100 empty DATA frames which end nothing (h2
/// `MAX_RECV_EMPTY_DATA_FRAMES`): the empty end of one stream must not become such a frame on the next hop.
#[tokio::test]
async fn empty_frames_are_not_sent_on() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let service =
            hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                let collected = http_body_util::BodyExt::collect(request.into_body()).await?;
                Ok::<_, hyper::Error>(Response::new(ends_late(collected.to_bytes())))
            });
        hyper::server::conn::http2::Builder::new(hyper_util::rt::TokioExecutor::new())
            .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
            .await
    });
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[with_http2(cluster("c", &[address]))]);
    client.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut sender = http2_client(client.address("outbound").await).await;
    for call in 0..110 {
        let request = Request::post("http://echo.default/")
            .body(ends_late(Bytes::from_static(b"hello")))
            .unwrap();
        let response = sender.send_request(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "call {call}");
        let collected = http_body_util::BodyExt::collect(response.into_body()).await;
        assert_eq!(&collected.unwrap().to_bytes()[..], b"hello", "call {call}");
    }
}

#[tokio::test]
async fn a_local_answer_to_grpc_is_trailers_only() {
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("empty", &[])]);
    client.apply(type_url::LISTENER, &[outbound_http(forward("empty"))]);
    let mut request = post("/s/m", b"");
    request.headers_mut().insert(
        "content-type",
        http::HeaderValue::from_static("application/grpc"),
    );
    let response = Client::connect(client.address("outbound").await)
        .await
        .send(request)
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "14");
    assert_eq!(response.headers()["grpc-message"], "no healthy upstream");
}

#[tokio::test]
async fn the_circuit_breaker_refuses_what_is_too_much() {
    let app = App::echo().await;
    let client = Sidecar::start(&Authority::new(), "client");
    let mut limited = cluster("c", &[app.address]);
    limited["circuitBreakers"] = json!({"thresholds": [{"maxRequests": 0}]});
    client.apply(type_url::CLUSTER, &[limited]);
    client.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let response = Client::connect(client.address("outbound").await)
        .await
        .get("/")
        .await;
    assert_eq!(
        (
            response.status().as_u16(),
            response.headers()["x-envoy-overloaded"].as_bytes()
        ),
        (503, &b"true"[..])
    );
    assert!(client.lines(1).await[0].contains(" 503 UO "), "UO");
}

#[tokio::test]
async fn failing_hosts_are_ejected() {
    let bad = App::start(|_, _| {
        let mut response = Response::new(Full::default());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    })
    .await;
    let good = App::echo().await;
    let client = Sidecar::start(&Authority::new(), "client");
    let mut watched = cluster("c", &[bad.address, good.address]);
    watched["outlierDetection"] =
        json!({"consecutive5xx": 2, "maxEjectionPercent": 50, "baseEjectionTime": "60s"});
    client.apply(type_url::CLUSTER, &[watched]);
    client.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut browser = Client::connect(client.address("outbound").await).await;
    let mut statuses = Vec::new();
    for _ in 0..10 {
        statuses.push(browser.get("/").await.status().as_u16());
    }
    assert_eq!(
        statuses.iter().filter(|status| **status == 500).count(),
        2,
        "{statuses:?}"
    );
}

#[tokio::test]
async fn a_draining_process_tells_its_peers_to_go() {
    let app = App::echo().await;
    let (_client, server, _) = pair(&app, false).await;
    server.apply(type_url::LISTENER, &[inbound_http("inbound|80||", true)]);
    let mut peer = Client::connect(server.address("inbound").await).await;
    assert_eq!(peer.get("/").await.status(), StatusCode::OK);
    server.shared.drain.enter(crate::drain::Phase::Draining);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    let response = peer.get("/").await;
    assert_eq!(
        (
            response.status(),
            response.headers()["connection"].as_bytes()
        ),
        (StatusCode::OK, &b"close"[..])
    );
}
