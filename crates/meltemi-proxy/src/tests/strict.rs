//! What must be refused, through a whole proxy: nothing of it reaches the upstream, and the connection ends with the answer.

use std::net::SocketAddr;

use meltemi_proto::type_url;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::configuration::{cluster, forward, outbound_http};
use super::mesh::{App, Authority, Sidecar};

/// A proxy in front of an application, and where to reach it.
async fn proxy(app: &App) -> (Sidecar, SocketAddr) {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let address = sidecar.address("outbound").await;
    (sidecar, address)
}

/// Everything the proxy answers to these bytes, until it closes.
async fn exchange(address: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

async fn refused(address: SocketAddr, bytes: &[u8], status: u16) {
    let answer = String::from_utf8(exchange(address, bytes).await).unwrap();
    let shown = bytes.escape_ascii();
    let line = answer.split_once(' ').map_or("", |(_, rest)| rest);
    assert!(line.starts_with(&format!("{status} ")), "{shown}: {answer}");
    assert!(
        answer.contains("connection: close\r\n"),
        "{shown}: {answer}"
    );
    assert_eq!(answer.matches("HTTP/1.").count(), 1, "{shown}: {answer}");
}

/// C01, C02, C03, C06, C10, C15, C34 of the security catalogue, and what RFC 9112 lets others repair.
#[tokio::test]
async fn ambiguous_requests_are_refused_and_nothing_of_them_is_passed_on() {
    let app = App::echo().await;
    let (sidecar, address) = proxy(&app).await;
    let smuggled = "GET /secret HTTP/1.1\r\nHost: a\r\n\r\n";
    let fields = [
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            400,
        ),
        (
            "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("Transfer-Encoding: chunked, identity", 400),
        ("Transfer-Encoding: gzip, chunked", 501),
        ("Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        ("Content-Length: +5", 400),
        ("Content-Length: 5, 6", 400),
        ("Content-Length: 5\r\nContent-Length: 5", 400),
        ("Content-Length: 18446744073709551616", 400),
        ("Host: b", 400),
        ("A : b", 400),
        ("A: b\r\n folded", 400),
        ("A: b\rc", 400),
        ("A: b\0c", 400),
        ("A: b\nC: d", 400),
    ];
    for (lines, status) in fields {
        let request = format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n0\r\n\r\n{smuggled}");
        refused(address, request.as_bytes(), status).await;
    }
    let heads = [
        ("GET /", 400),
        ("GET / HTTP/1.1\nHost: a\n\n", 400),
        ("GET / HTTP/2.0\r\nHost: a", 505),
        ("GET /a b HTTP/1.1\r\nHost: a", 400),
        ("GET /admin#x HTTP/1.1\r\nHost: a", 400),
        ("GET a HTTP/1.1\r\nHost: a", 400),
        ("GET / HTTP/1.1", 400),
        ("GET / HTTP/1.1\r\nHost: a, b", 400),
        ("GET / HTTP/1.1\r\nHost: u@a", 400),
        ("GET / HTTP/1.1\r\nHost: a/b", 400),
        ("GET http://b/ HTTP/1.1\r\nHost: a", 400),
        (
            "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked",
            400,
        ),
        ("GET / HTTP/1.0\r\nHost: a", 426),
    ];
    for (head, status) in heads {
        refused(
            address,
            format!("{head}\r\n\r\n{smuggled}").as_bytes(),
            status,
        )
        .await;
    }
    for body in [
        "10000000000000000\r\n",
        "0x5\r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhelloX\r\n0\r\n",
        "0\r\na b\r\n",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}\r\n{smuggled}"
        );
        refused(address, request.as_bytes(), 400).await;
    }
    assert_eq!((app.connections(), app.seen.lock().len()), (0, 0));
    let count = fields.len() + heads.len() + 5;
    assert_eq!(
        sidecar.metric(&["meltemi_refused_requests_total"])[1],
        format!("meltemi_refused_requests_total {count}")
    );
    let lines = sidecar.lines(count).await;
    assert_eq!(
        lines[0],
        "- - 400 DPE http1.duplicate_transfer_encoding 0 11 - 0\n"
    );
    assert!(
        lines
            .iter()
            .all(|line| line.contains(" DPE ") || line.contains(" low_version ")),
        "{lines:?}"
    );
}

/// The answers of the requests before it come first, and each once.
#[tokio::test]
async fn a_malformed_request_is_answered_in_its_turn() {
    let app = App::echo().await;
    let (sidecar, address) = proxy(&app).await;
    let good = "POST /one HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\none";
    let bad = "POST /two HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let answer = exchange(address, format!("{good}{good}{bad}{good}").as_bytes()).await;
    let answer = String::from_utf8(answer).unwrap();
    let statuses: Vec<&str> = answer
        .matches("HTTP/1.1 200")
        .chain(answer.matches("HTTP/1.1 400"))
        .collect();
    assert_eq!(
        statuses,
        ["HTTP/1.1 200", "HTTP/1.1 200", "HTTP/1.1 400"],
        "{answer}"
    );
    assert!(
        answer.find("HTTP/1.1 400") > answer.rfind("HTTP/1.1 200"),
        "{answer}"
    );
    assert_eq!(app.seen.lock().len(), 2);
    assert_eq!(
        sidecar.lines(3).await[2],
        "- - 400 DPE http1.content_length_and_chunked_not_allowed 0 11 - 0\n"
    );
}

/// A body that breaks after its beginning was passed on: the upstream gets no end of it, the client 400.
#[tokio::test]
async fn a_body_that_breaks_on_its_way_ends_without_an_end() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(
        type_url::CLUSTER,
        &[cluster("c", &[listener.local_addr().unwrap()])],
    );
    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut browser = TcpStream::connect(sidecar.address("outbound").await)
        .await
        .unwrap();
    browser
        .write_all(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        )
        .await
        .unwrap();
    let (mut app, _) = listener.accept().await.unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"5\r\nhello\r\n") {
        got.push(app.read_u8().await.unwrap());
    }
    browser.write_all(b"-1\r\n\r\n0\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // The end of the connection, orderly or not, without the last chunk.
    let _ended = app.read_to_end(&mut rest).await;
    assert_eq!(rest, b"");
    let mut answer = String::new();
    browser.read_to_string(&mut answer).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 ") && answer.contains("connection: close"),
        "{answer}"
    );
    assert_eq!(
        sidecar.lines(1).await,
        ["POST / 400 DPE http1.invalid_chunk_size 5 11 c 1\n"]
    );
}

/// `allow_chunked_length`: the length is forgotten, not passed on.
#[tokio::test]
async fn a_length_beside_chunks_is_dropped_where_that_is_allowed() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    let mut listener = outbound_http(forward("c"));
    listener["filterChains"][0]["filters"][0]["typedConfig"]["httpProtocolOptions"] =
        json!({"allowChunkedLength": true});
    sidecar.apply(type_url::LISTENER, &[listener]);
    let address = sidecar.address("outbound").await;
    for lines in [
        "Content-Length: 3\r\nTransfer-Encoding: chunked",
        "Transfer-Encoding: chunked\r\nContent-Length: 3",
    ] {
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
        );
        let answer = String::from_utf8(exchange(address, request.as_bytes()).await).unwrap();
        assert!(
            answer.starts_with("HTTP/1.1 200 ") && answer.contains("hello"),
            "{answer}"
        );
    }
    let seen = app.seen.lock();
    assert_eq!(seen.len(), 2);
    assert!(
        seen.iter()
            .all(|(_, headers)| !headers.contains_key("content-length")),
        "{seen:?}"
    );
}

/// What a client of HTTP/2 prior knowledge writes first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

/// C20, C21: the peer is told to calm down, and its connection ends; others go on.
#[tokio::test]
async fn frames_without_end_end_the_connection() {
    let app = App::echo().await;
    let (sidecar, address) = proxy(&app).await;
    let floods: [(&str, &[u8], usize); 5] = [
        ("SETTINGS", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00", 3000),
        (
            "PING",
            b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678",
            3000,
        ),
        (
            "PRIORITY",
            b"\x00\x00\x05\x02\x00\x00\x00\x00\x03\x00\x00\x00\x01\x10",
            300,
        ),
        (
            "WINDOW_UPDATE",
            b"\x00\x00\x04\x08\x00\x00\x00\x00\x00\x00\x00\x00\x01",
            3000,
        ),
        ("unknown", b"\x00\x00\x00\xfa\x00\x00\x00\x00\x00", 3000),
    ];
    let mut honest = super::mesh::Client::connect(address).await;
    for (name, frame, count) in floods {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream
            .write_all(&[PREFACE, &frame.repeat(count)].concat())
            .await
            .unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(goaway(&answer), Some(11), "{name}");
        assert_eq!(honest.get("/").await.status(), 200);
    }
    let counted = "meltemi_http2_frame_floods_total 5".to_owned();
    while !sidecar
        .metric(&["meltemi_http2_frame_floods_total"])
        .contains(&counted)
    {
        tokio::task::yield_now().await;
    }
}

/// The error code of the GOAWAY in a stream of frames.
fn goaway(mut frames: &[u8]) -> Option<u32> {
    while let [a, b, c, kind, _, _, _, _, _, rest @ ..] = frames {
        let len = u32::from_be_bytes([0, *a, *b, *c]) as usize;
        if *kind == 7 {
            return Some(u32::from_be_bytes(rest[4..8].try_into().unwrap()));
        }
        frames = rest.get(len..)?;
    }
    None
}
