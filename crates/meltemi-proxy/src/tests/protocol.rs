//! What HTTP/1 and HTTP/2 have beyond requests and responses, through a whole proxy.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_proto::type_url;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::configuration::{cluster, forward, outbound_http};
use super::mesh::{App, Authority, Client, Sidecar, get, http2_client};

/// An outbound listener whose connection manager has these options, too.
fn listener(route: Value, options: Value) -> Value {
    let mut listener = outbound_http(route);
    let manager = &mut listener["filterChains"][0]["filters"][0]["typedConfig"];
    for (name, value) in options.as_object().unwrap() {
        manager[name] = value.clone();
    }
    listener
}

/// A proxy with these options in front of `upstream`, and where to reach it.
async fn proxy(upstream: SocketAddr, route: Value, options: Value) -> (Sidecar, SocketAddr) {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[upstream])]);
    sidecar.apply(type_url::LISTENER, &[listener(route, options)]);
    let address = sidecar.address("outbound").await;
    (sidecar, address)
}

/// Fails instead of hanging.
async fn within<F: Future>(what: &str, step: F) -> F::Output {
    let limit = std::time::Duration::from_secs(20);
    tokio::time::timeout(limit, step).await.expect(what)
}

/// Reads a head, up to its empty line.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// Sends `request` to the proxy and reads until it closes.
async fn raw(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

#[tokio::test]
async fn a_connection_ends_after_as_many_requests_as_it_may_have() {
    let app = App::echo().await;
    let options = json!({"commonHttpProtocolOptions": {"maxRequestsPerConnection": 2}});
    let (_sidecar, address) = proxy(app.address, forward("c"), options).await;
    let mut browser = Client::connect(address).await;
    assert!(!browser.get("/").await.headers().contains_key("connection"));
    assert_eq!(browser.get("/").await.headers()["connection"], "close");
    assert!(browser.send(get("/")).await.is_err());
    let mut streams = http2_client::<Full<Bytes>>(address).await;
    for _ in 0..2 {
        streams.ready().await.unwrap();
        let request = Request::get("http://a/").body(Full::default()).unwrap();
        assert_eq!(
            streams.send_request(request).await.unwrap().status(),
            StatusCode::OK
        );
    }
    // GOAWAY: hyper's client is not ready any more.
    while streams.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn names_of_headers_keep_their_case_both_ways() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let format = json!({"headerKeyFormat": {"statefulFormatter": {"name": "preserve_case", "typedConfig": {
        "@type": "type.googleapis.com/envoy.extensions.http.header_formatters.preserve_case.v3.PreserveCaseFormatterConfig"}}}});
    let sidecar = Sidecar::start(&Authority::new(), "client");
    let mut kept = cluster("c", &[upstream.local_addr().unwrap()]);
    kept["typedExtensionProtocolOptions"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": type_url::HTTP_PROTOCOL_OPTIONS, "explicitHttpConfig": {"httpProtocolOptions": format}}});
    sidecar.apply(type_url::CLUSTER, &[kept]);
    sidecar.apply(
        type_url::LISTENER,
        &[listener(
            forward("c"),
            json!({"httpProtocolOptions": format}),
        )],
    );
    let mut browser = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    browser
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nX-CuStOm: 1\r\nx-lower: 2\r\n\r\n")
        .await
        .unwrap();
    let (mut app, _) = upstream.accept().await.unwrap();
    let request = head(&mut app).await;
    assert!(
        request.contains("\r\nX-CuStOm: 1\r\n") && request.contains("\r\nx-lower: 2\r\n"),
        "{request}"
    );
    app.write_all(b"HTTP/1.1 200 OK\r\nX-AnSwEr: 3\r\nContent-Length: 0\r\n\r\n")
        .await
        .unwrap();
    let response = head(&mut browser).await;
    assert!(response.contains("\r\nX-AnSwEr: 3\r\n"), "{response}");
}

#[tokio::test]
async fn trusted_hops_tell_who_asks() {
    let app = App::echo().await;
    for (options, expected) in [
        (json!({}), "3.3.3.3"),
        (json!({"xffNumTrustedHops": 1}), "2.2.2.2"),
        (json!({"useRemoteAddress": true}), "127.0.0.1"),
        (
            json!({"useRemoteAddress": true, "xffNumTrustedHops": 2}),
            "2.2.2.2",
        ),
        (json!({"xffNumTrustedHops": 9}), "127.0.0.1"),
    ] {
        let mut route = forward("c");
        route["requestHeadersToAdd"] = json!([{"header": {"key": "x-client", "value": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%"}}]);
        let (_sidecar, address) = proxy(app.address, route, options.clone()).await;
        let mut request = get("/");
        request.headers_mut().insert(
            "x-forwarded-for",
            HeaderValue::from_static("1.1.1.1, 2.2.2.2,3.3.3.3"),
        );
        Client::connect(address).await.send(request).await.unwrap();
        let (_, headers) = app.seen.lock().pop().unwrap();
        assert_eq!(headers["x-client"], expected, "{options}");
    }
}

#[tokio::test]
async fn a_body_with_get_is_passed_on() {
    let app = App::echo().await;
    let (_sidecar, address) = proxy(app.address, forward("c"), json!({})).await;
    let request = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let answer = raw(address, request).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello"),
        "{answer}"
    );
}

#[tokio::test]
async fn crumbs_of_a_cookie_are_one_line_again() {
    let app = App::echo().await;
    let (_sidecar, address) = proxy(app.address, forward("c"), json!({})).await;
    let request = Request::get("http://a/")
        .header("cookie", "a=1")
        .header("cookie", "b=2")
        .body(Full::default())
        .unwrap();
    http2_client::<Full<Bytes>>(address)
        .await
        .send_request(request)
        .await
        .unwrap();
    let (_, headers) = app.seen.lock().pop().unwrap();
    let cookies: Vec<&HeaderValue> = headers.get_all("cookie").iter().collect();
    assert_eq!(cookies, ["a=1; b=2"]);
}

#[tokio::test]
async fn http10_is_answered_in_kind_where_it_is_accepted() {
    let app = App::start(|_, _| Response::new(Full::new(Bytes::from_static(b"hello")))).await;
    let options = json!({"httpProtocolOptions": {"acceptHttp10": true, "defaultHostForHttp10": "old.example"}});
    let (_sidecar, address) = proxy(app.address, forward("c"), options).await;
    let answer = raw(address, "GET / HTTP/1.0\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.0 200 ") && answer.ends_with("\r\n\r\nhello"),
        "{answer}"
    );
    assert!(
        !answer.to_ascii_lowercase().contains("transfer-encoding"),
        "{answer}"
    );
    let (_, headers) = app.seen.lock().pop().unwrap();
    assert_eq!(headers["host"], "old.example");
}

/// C05: what follows a CONNECT or an upgrade that was refused was never meant to be a request.
#[tokio::test]
async fn a_refused_tunnel_ends_the_connection() {
    let app = App::echo().await;
    let (_sidecar, address) = proxy(app.address, forward("c"), json!({})).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for (request, status) in [
        ("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n", 404),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: other\r\n\r\n",
            403,
        ),
        (
            "GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            200,
        ),
    ] {
        let answer = raw(address, &format!("{request}{smuggled}")).await;
        assert!(
            answer.starts_with(&format!("HTTP/1.1 {status} ")),
            "{answer}"
        );
        assert_eq!(answer.matches("HTTP/1.1").count(), 1, "{answer}");
    }
    // An offer that nobody takes changes nothing (C08).
    let h2c = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n";
    let last = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    let answer = raw(address, &format!("{h2c}{last}")).await;
    assert_eq!(answer.matches("HTTP/1.1 200").count(), 2, "{answer}");
    assert!(
        app.seen
            .lock()
            .iter()
            .all(|(path, headers)| path != "/smuggled" && !headers.contains_key("http2-settings"))
    );
}

/// RFC 8441.
#[tokio::test]
async fn a_websocket_over_http2_reaches_an_http1_server() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let options = json!({"http2ProtocolOptions": {"allowConnect": true}});
    let (sidecar, address) = proxy(upstream.local_addr().unwrap(), forward("c"), options).await;
    let io = TokioIo::new(TcpStream::connect(address).await.unwrap());
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), io).await.unwrap();
    let mut connection = Box::pin(connection);
    // The server's SETTINGS must have come.
    let enabled = std::future::poll_fn(|cx| {
        assert!(connection.as_mut().poll(cx).is_pending());
        match connection.is_extended_connect_protocol_enabled() {
            true => std::task::Poll::Ready(()),
            false => {
                cx.waker().wake_by_ref();
                std::task::Poll::Pending
            }
        }
    });
    within("SETTINGS", enabled).await;
    tokio::spawn(connection);
    let mut request: Request<Full<Bytes>> = Request::builder()
        .method(Method::CONNECT)
        .uri("http://a/chat")
        .body(Full::default())
        .unwrap();
    request
        .extensions_mut()
        .insert(hyper::ext::Protocol::from_static("websocket"));
    request
        .headers_mut()
        .insert("sec-websocket-version", HeaderValue::from_static("13"));
    let answering = tokio::spawn(async move { client.send_request(request).await.unwrap() });
    let (mut app, _) = within("accept", upstream.accept()).await.unwrap();
    let request = within("head", head(&mut app)).await.to_ascii_lowercase();
    assert!(request.starts_with("get /chat http/1.1\r\n"), "{request}");
    for line in [
        "upgrade: websocket\r\n",
        "connection: upgrade\r\n",
        "sec-websocket-key: ",
        "host: a\r\n",
    ] {
        assert!(request.contains(line), "{line} in {request}");
    }
    app.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n")
        .await
        .unwrap();
    let mut response = within("answer", answering).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(!response.headers().contains_key("sec-websocket-accept"));
    let mut tunnel = TokioIo::new(
        within("upgrade", hyper::upgrade::on(&mut response))
            .await
            .unwrap(),
    );
    tunnel.write_all(b"ping").await.unwrap();
    let mut got = [0; 4];
    within("ping", app.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"ping");
    app.write_all(b"pong").await.unwrap();
    within("pong", tunnel.read_exact(&mut got)).await.unwrap();
    assert_eq!(&got, b"pong");
    drop((tunnel, app));
    assert_eq!(
        within("log", sidecar.lines(1)).await,
        ["GET /chat 101 - via_upstream 4 4 c 1\n"]
    );
}

/// F20: a body that does not come.
#[tokio::test]
async fn a_request_that_is_not_finished_in_time_is_given_up() {
    let app = App::echo().await;
    let (sidecar, address) = proxy(
        app.address,
        forward("c"),
        json!({"requestTimeout": "0.05s"}),
    )
    .await;
    let answer = raw(
        address,
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\nhello",
    )
    .await;
    assert!(
        answer.starts_with("HTTP/1.1 408 ") && answer.ends_with("request timeout"),
        "{answer}"
    );
    assert_eq!(
        sidecar.lines(1).await,
        ["POST / 408 - request_overall_timeout 5 15 c 1\n"]
    );
    let answer = raw(
        address,
        "GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
    )
    .await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test]
async fn browsers_are_told_what_they_may_do() {
    let app = App::echo().await;
    let mut route = forward("c");
    route["typedPerFilterConfig"] = json!({"cors": {"@type": type_url::CORS_POLICY,
        "allowOriginStringMatch": [{"exact": "https://good"}], "allowMethods": "GET,PUT", "allowHeaders": "x-a",
        "exposeHeaders": "x-b", "maxAge": "60", "allowCredentials": true}});
    let mut configured = listener(route, json!({}));
    let filters = &mut configured["filterChains"][0]["filters"][0]["typedConfig"]["httpFilters"];
    let cors = json!({"name": "cors", "typedConfig": {"@type": type_url::CORS}});
    filters.as_array_mut().unwrap().insert(0, cors);
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    sidecar.apply(type_url::LISTENER, &[configured]);
    let mut browser = Client::connect(sidecar.address("outbound").await).await;
    let ask = |method: Method, origin: &'static str| {
        let mut request = get("/");
        *request.method_mut() = method;
        request
            .headers_mut()
            .insert("origin", HeaderValue::from_static(origin));
        request.headers_mut().insert(
            "access-control-request-method",
            HeaderValue::from_static("PUT"),
        );
        request
    };
    let preflight = browser
        .send(ask(Method::OPTIONS, "https://good"))
        .await
        .unwrap();
    assert_eq!(preflight.status(), StatusCode::OK);
    for (name, value) in [
        ("access-control-allow-origin", "https://good"),
        ("access-control-allow-methods", "GET,PUT"),
        ("access-control-allow-headers", "x-a"),
        ("access-control-allow-credentials", "true"),
        ("access-control-max-age", "60"),
    ] {
        assert_eq!(preflight.headers()[name], value);
    }
    assert!(app.seen.lock().is_empty(), "a preflight is ours to answer");
    let answer = browser
        .send(ask(Method::GET, "https://good"))
        .await
        .unwrap();
    assert_eq!(
        answer.headers()["access-control-allow-origin"],
        "https://good"
    );
    assert_eq!(answer.headers()["access-control-expose-headers"], "x-b");
    let answer = browser.send(ask(Method::GET, "https://bad")).await.unwrap();
    assert!(!answer.headers().contains_key("access-control-allow-origin"));
}

#[tokio::test]
async fn trailers_of_http1_pass_where_they_are_enabled() {
    for enabled in [false, true] {
        let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let trailers = json!({"enableTrailers": enabled});
        let sidecar = Sidecar::start(&Authority::new(), "client");
        let mut configured = cluster("c", &[upstream.local_addr().unwrap()]);
        configured["typedExtensionProtocolOptions"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": type_url::HTTP_PROTOCOL_OPTIONS, "explicitHttpConfig": {"httpProtocolOptions": trailers}}});
        sidecar.apply(type_url::CLUSTER, &[configured]);
        sidecar.apply(
            type_url::LISTENER,
            &[listener(
                forward("c"),
                json!({"httpProtocolOptions": trailers}),
            )],
        );
        let mut browser = TcpStream::connect(sidecar.address("outbound").await)
            .await
            .unwrap();
        browser
            .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nTE: trailers\r\nConnection: te\r\nTrailer: x-sum\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nx-sum: 1\r\n\r\n")
            .await
            .unwrap();
        let (mut app, _) = upstream.accept().await.unwrap();
        head(&mut app).await;
        let mut body = String::new();
        while !body.ends_with("\r\n\r\n") {
            body.push(char::from(app.read_u8().await.unwrap()));
        }
        assert_eq!(body.contains("x-sum: 1\r\n"), enabled, "{body}");
        app.write_all(b"HTTP/1.1 200 OK\r\nTrailer: x-end\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nb\r\n0\r\nx-end: 2\r\n\r\n")
            .await
            .unwrap();
        head(&mut browser).await;
        let mut body = String::new();
        while !body.ends_with("\r\n\r\n") {
            body.push(char::from(browser.read_u8().await.unwrap()));
        }
        assert_eq!(body.contains("x-end: 2\r\n"), enabled, "{body}");
    }
}

/// C16: a peer that opens streams only to reset them is sent away.
#[tokio::test]
async fn streams_that_are_reset_at_once_are_counted() {
    let upstream = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (sidecar, address) = proxy(upstream.local_addr().unwrap(), forward("c"), json!({})).await;
    let mut client = http2_client::<Full<Bytes>>(address).await;
    const ALL: usize = 20_000;
    let mut sent = 0;
    while client.ready().await.is_ok() && sent < ALL {
        let request = Request::get("http://a/").body(Full::default()).unwrap();
        let answer = client.send_request(request);
        let (_ended, ()) = tokio::join!(
            async {
                tokio::time::timeout(std::time::Duration::from_millis(1), answer)
                    .await
                    .is_ok()
            },
            tokio::task::yield_now()
        );
        sent += 1;
    }
    // By how many, and by whose bound, depends on how many arrive at once.
    assert!(sent < ALL, "{sent}");
    let counted = "meltemi_http2_frame_floods_total 1".to_owned();
    while !sidecar
        .metric(&["meltemi_http2_frame_floods_total"])
        .contains(&counted)
    {
        tokio::task::yield_now().await;
    }
}

/// RFC 9110 section 10.1.1.
#[tokio::test]
async fn an_interim_expectation_is_met_before_the_body() {
    let app = App::echo().await;
    let (_sidecar, address) = proxy(app.address, forward("c"), json!({})).await;
    let mut browser = TcpStream::connect(address).await.unwrap();
    browser
        .write_all(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\nConnection: close\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut browser).await.starts_with("HTTP/1.1 100 "));
    browser.write_all(b"hello").await.unwrap();
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.ends_with("hello"),
        "{answer}"
    );
}
