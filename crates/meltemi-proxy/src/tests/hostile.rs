//! Peers that break off, come in pieces or name too much: they cost nothing that stays, and harm nobody else.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use meltemi_proto::type_url;
use parking_lot::Mutex;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::configuration::{
    cluster, forward, inbound_http, mesh_cluster, outbound_http, outbound_tcp,
};
use super::mesh::{App, Authority, Client, Sidecar, get};

/// Longer than any ClientHello of ours.
const FIRST_FLIGHT_BYTES: usize = 4096;

/// The lines of metrics after `rounds` of 300 requests of which no two have a name in common.
async fn lines_of_metrics(cluster: serde_json::Value, rounds: usize) -> Vec<usize> {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster]);
    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut browser = Client::connect(sidecar.address("outbound").await).await;
    let mut counts = Vec::new();
    for round in 0..rounds {
        for number in 0..300 {
            let request = Request::get(format!("/{round}/{number}"))
                .header("host", format!("h{round}-{number}.example.com"))
                .header("user-agent", format!("agent {round} {number}"))
                .header(
                    "x-envoy-peer-metadata-id",
                    format!("sidecar~{round}~{number}"),
                )
                .body(Full::default())
                .unwrap();
            assert_eq!(
                browser.send(request).await.unwrap().status(),
                StatusCode::OK
            );
        }
        sidecar.lines(300).await;
        counts.push(sidecar.metrics().lines().count());
    }
    counts
}

/// C32 of the security catalogue: what clients say of a service does not become a label.
#[tokio::test]
async fn names_that_clients_invent_make_no_series() {
    let app = App::echo().await;
    let mut service = cluster("c", &[app.address]);
    service["metadata"] = json!({"filterMetadata": {"istio": {"services": [
        {"host": "echo.default.svc.cluster.local", "name": "echo", "namespace": "default"}]}}});
    let counts = lines_of_metrics(service, 2).await;
    assert_eq!(counts[0], counts[1]);
}

/// C32: where Istio's stats filter takes the host for the service, it does so for a few.
#[tokio::test]
async fn unknown_hosts_make_a_bounded_number_of_series() {
    let app = App::echo().await;
    let counts = lines_of_metrics(cluster("c", &[app.address]), 2).await;
    assert_eq!(counts[0], counts[1]);
}

/// A PROXY header of version 2 whose TLVs are longer than what it says, with bytes that are no UTF-8.
const PROXY_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x14\x01\x02\x03\x04\x05\x06\x07\x08\0\x50\0\x50\x02\xff\xff\xc3\x28\xff\xfe\x80";

/// C14 of the security catalogue (CVE-2026-47692, CVE-2024-23324). No source is configured from which a PROXY header would
/// be taken: it is what any other bytes are.
#[tokio::test]
async fn a_proxy_header_is_taken_from_nobody() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let mut configured = outbound_http(forward("c"));
    configured["listenerFilters"] = json!([{"name": "envoy.filters.listener.proxy_protocol",
        "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}]);
    let rejected = sidecar.try_apply(type_url::LISTENER, &[configured]);
    assert!(
        rejected.len() == 1 && rejected[0].contains("listener_filters[0].typed_config"),
        "{rejected:?}"
    );

    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut http = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    http.write_all(PROXY_V2).await.unwrap();
    http.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    http.read_to_end(&mut answer).await.unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{answer:?}");
    assert_eq!(app.connections(), 0);
}

/// C14, on a TCP chain: the application gets the bytes, and the peer stays who the socket says.
#[tokio::test]
async fn a_proxy_header_on_a_tcp_chain_is_the_applications() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(&Authority::new(), "client");
    let target = cluster("c", &[app.local_addr().unwrap()]);
    sidecar.apply(type_url::CLUSTER, &[target]);
    sidecar.apply(type_url::LISTENER, &[outbound_tcp("c")]);
    let mut stream = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    stream.write_all(PROXY_V2).await.unwrap();
    stream.shutdown().await.unwrap();
    let (mut far, _) = app.accept().await.unwrap();
    let mut received = Vec::new();
    far.read_to_end(&mut received).await.unwrap();
    assert_eq!(received, PROXY_V2);
}

/// C31 of the security catalogue (CVE-2019-14993, CVE-2019-15225): whatever an admission let through, the proxy compiles no
/// expression beyond its limits, and matches in linear time.
#[tokio::test]
async fn regular_expressions_are_bounded_in_size_and_in_time() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let route = |regex: &str| {
        let mut route = forward("c");
        route["match"] = json!({"safeRegex": {"regex": regex}});
        outbound_http(route)
    };
    let megabyte = "a".repeat(1 << 20);
    for (regex, reason) in [
        (&*megabyte, "is longer than 1024 characters"),
        ("(a{1000}){1000}", "does not compile"),
        ("((a{100}){100}){100}", "does not compile"),
        (r"(a)\1", "does not compile"),
    ] {
        let rejected = sidecar.try_apply(type_url::LISTENER, &[route(regex)]);
        let is_refused = rejected.len() == 1 && rejected[0].contains(reason);
        assert!(is_refused, "{reason}: {rejected:.200?}");
    }
    // Exponential for an engine that goes back.
    sidecar.apply(type_url::LISTENER, &[route("/(a+)+b")]);
    let mut client = Client::connect(sidecar.address("outbound").await).await;
    let path = format!("/{}", "a".repeat(8000));
    let started = std::time::SystemTime::now();
    assert_eq!(client.get(&path).await.status(), StatusCode::NOT_FOUND);
    assert!(started.elapsed().unwrap() < Duration::from_secs(5));
    let found = client.get(&format!("{path}b")).await;
    assert_eq!(found.status(), StatusCode::OK);
}

/// C59, C61 of the security catalogue (RUSTSEC-2024-0336, RUSTSEC-2024-0399).
#[tokio::test]
async fn handshakes_in_pieces_succeed_and_torn_ones_harm_nobody() {
    let app = App::echo().await;
    let authority = Authority::new();
    let server = Sidecar::start(&authority, "server");
    let inside = "inbound|80||";
    server.apply(type_url::CLUSTER, &[cluster(inside, &[app.address])]);
    server.apply(type_url::LISTENER, &[inbound_http(inside, false)]);
    let inbound = server.address("inbound").await;
    let (relay, flights) = by_single_bytes(inbound).await;
    let client = Sidecar::start(&authority, "client");
    let alpn = ["istio-peer-exchange", "istio"];
    let upstream = mesh_cluster("outbound|80||echo", &[relay], "server", &alpn);
    client.apply(type_url::CLUSTER, &[upstream]);
    client.apply(
        type_url::LISTENER,
        &[outbound_http(forward("outbound|80||echo"))],
    );
    let mut browser = Client::connect(client.address("outbound").await).await;
    assert_eq!(browser.get("/").await.status(), StatusCode::OK);

    let hello = flights.lock().clone();
    let length = 5 + usize::from(u16::from_be_bytes([hello[3], hello[4]]));
    let hello = &hello[..length];
    // RFC 8446 6.1: a close_notify alert, unencrypted.
    let close_notify = [21, 3, 3, 0, 2, 1, 0];
    let torn = [
        hello[..1].to_vec(),
        hello[..5].to_vec(),
        hello[..length / 2].to_vec(),
        [&hello[..length / 2], &close_notify].concat(),
        [hello, &close_notify].concat(),
        [hello, hello].concat(),
        close_notify.to_vec(),
        // A record of the largest length that is not a handshake, and one beyond it (RFC 8446 5.1).
        [&[22, 3, 1, 0x40, 0x00][..], &[0; 64]].concat(),
        [&[22, 3, 1, 0xff, 0xff][..], &[0; 64]].concat(),
    ];
    for bytes in torn {
        let shown = bytes.len();
        let mut stream = TcpStream::connect(inbound).await.unwrap();
        // The proxy may close before all is written.
        let _cut = stream.write_all(&bytes).await;
        let _cut = stream.shutdown().await;
        let mut said = Vec::new();
        let end = stream.read_to_end(&mut said);
        let ended = tokio::time::timeout(Duration::from_secs(20), end).await;
        assert!(ended.is_ok(), "{shown} bytes of a handshake stay open");
    }
    assert_eq!(app.connections(), 1, "something reached the application");
    assert_eq!(browser.get("/").await.status(), StatusCode::OK);
}

/// Passes connections on to `to`; what clients say first goes byte by byte, and is noted.
async fn by_single_bytes(to: SocketAddr) -> (SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let noted = Arc::new(Mutex::new(Vec::new()));
    let flights = noted.clone();
    tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = TcpStream::connect(to).await.unwrap();
            server.set_nodelay(true).unwrap();
            let noted = noted.clone();
            tokio::spawn(async move {
                let mut first = vec![0; FIRST_FLIGHT_BYTES];
                let read = client.read(&mut first).await.unwrap();
                noted.lock().extend_from_slice(&first[..read]);
                for byte in &first[..read] {
                    server.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
                let _ended = tokio::io::copy_bidirectional(&mut client, &mut server).await;
            });
        }
    });
    (address, flights)
}

/// C28 of the security catalogue: wherever a request is given up, nothing of it stays.
#[tokio::test]
async fn requests_that_are_abandoned_leave_nothing_behind() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, accepted) = (server.local_addr().unwrap(), Arc::new(Mutex::new(0)));
    let counted = accepted.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = server.accept().await.unwrap();
            *counted.lock() += 1;
            // Begins an answer and never ends it.
            tokio::spawn(async move {
                let mut request = vec![0; 1024];
                while !matches!(stream.read(&mut request).await, Ok(0) | Err(_)) {
                    let begun = b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhello";
                    if request.starts_with(b"GET /answered") {
                        let _gone = stream.write_all(begun).await;
                    }
                }
            });
        }
    });
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[address])]);
    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let outbound = sidecar.address("outbound").await;
    let abandoned: [(&[u8], usize); 5] = [
        (b"GET / HT", 0),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\n",
            1,
        ),
        (
            b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nhalf",
            1,
        ),
        (b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 1),
        (b"GET /answered HTTP/1.1\r\nhost: a\r\n\r\n", 1),
    ];
    for (request, reached) in abandoned {
        let before = *accepted.lock();
        let mut stream = TcpStream::connect(outbound).await.unwrap();
        stream.write_all(request).await.unwrap();
        let shown = request.escape_ascii();
        settled(&format!("{shown} reaches the server"), || {
            *accepted.lock() - before == reached
        })
        .await;
        if request.starts_with(b"GET /answered") {
            stream.read_u8().await.unwrap();
        }
        socket2::SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
        drop(stream);
        settled(&format!("{shown} leaves something behind"), || {
            let store = &sidecar.shared.store;
            let upstream = store.upstream("c").unwrap();
            let hosts = upstream.hosts();
            hosts.iter().all(|host| {
                let state = &host.state;
                state.active_requests.load(Ordering::Relaxed) == 0
                    && state.active_connections.load(Ordering::Relaxed) == 0
            })
        })
        .await;
    }
}

async fn settled(what: &str, mut is_so: impl FnMut() -> bool) {
    let settling = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    let limit = Duration::from_secs(20);
    assert!(
        tokio::time::timeout(limit, settling).await.is_ok(),
        "{what}"
    );
}

/// C27 of the security catalogue (CVE-2021-28682): eight digits of hours are a limit, not a wrapped one.
#[tokio::test]
async fn the_longest_grpc_timeout_is_not_a_short_one() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let mut route = forward("c");
    route["route"]["maxStreamDuration"] = serde_json::json!({"grpcTimeoutHeaderMax": "0s"});
    sidecar.apply(type_url::LISTENER, &[outbound_http(route)]);
    let mut browser = Client::connect(sidecar.address("outbound").await).await;
    for limit in ["99999999H", "99999999M", "99999999S"] {
        let mut request: Request<Full<Bytes>> = get("/");
        request
            .headers_mut()
            .insert("grpc-timeout", limit.parse().unwrap());
        let response = browser.send(request).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{limit}");
    }
}
