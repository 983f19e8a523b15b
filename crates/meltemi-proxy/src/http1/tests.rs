use std::future::poll_fn;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::strict::{HeadRules, Malformed};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::http::wire::Wire;
use crate::io::{Replay, Socket, Transport};

fn wire(stream: DuplexStream) -> Wire {
    Wire::upstream(Transport::Plain(Replay::from(Socket::boxed(stream))))
}

fn server(near: DuplexStream) -> Server {
    let options = ServerOptions {
        rules: HeadRules {
            max_bytes: 1024,
            max_fields: 10,
            allow_chunked_length: false,
        },
        head_timeout: Some(Duration::from_secs(15)),
        preserve_header_case: true,
        enable_trailers: true,
    };
    Server::new(wire(near), options)
}

fn client(near: DuplexStream) -> Client {
    let options = ClientOptions {
        preserve_header_case: false,
        enable_trailers: true,
    };
    Client::new(wire(near), options)
}

async fn next(server: &mut Server) -> Next {
    poll_fn(|cx| server.poll_next(cx)).await
}

async fn request(server: &mut Server) -> Request<Body> {
    match next(server).await {
        Next::Request(request, _) => request,
        Next::Refused(kind) => panic!("refused: {kind:?}"),
        Next::End => panic!("the end"),
    }
}

async fn answer(server: &mut Server, response: Response<Full<Bytes>>) -> After {
    let mut answer = server.respond(response).unwrap();
    poll_fn(|cx| server.poll_answer(&mut answer, cx))
        .await
        .unwrap();
    poll_fn(|cx| server.poll_after(cx)).await
}

/// Answers requests by what they are, until there are no more; says why the last was refused.
async fn echo(mut server: Server) -> Option<ErrorKind> {
    loop {
        match next(&mut server).await {
            Next::End => return None,
            Next::Refused(kind) => return Some(kind),
            Next::Request(request, _) => {
                let (parts, body) = request.into_parts();
                let Ok(body) = body.collect().await else {
                    return Some(ErrorKind::DownstreamDisconnect);
                };
                let text = format!("{} {} ", parts.method, parts.uri);
                let text = [text.as_bytes(), &body.to_bytes()].concat();
                if answer(&mut server, Response::new(Full::from(text))).await != After::Next {
                    poll_fn(|cx| server.poll_close(cx)).await;
                    return None;
                }
            }
        }
    }
}

/// What comes back, without the dates.
async fn read_all(far: &mut DuplexStream) -> String {
    let mut all = Vec::new();
    far.read_to_end(&mut all).await.unwrap();
    without_dates(&all)
}

fn without_dates(bytes: &[u8]) -> String {
    let text = std::str::from_utf8(bytes).unwrap();
    let lines = text.split_inclusive("\r\n");
    lines.filter(|line| !line.starts_with("date: ")).collect()
}

async fn read_some(far: &mut DuplexStream) -> String {
    let mut space = vec![0; 64 * 1024];
    let read = far.read(&mut space).await.unwrap();
    without_dates(&space[..read])
}

const GET: &[u8] = b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &[u8] = b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn requests_are_the_same_however_they_are_cut() {
    let sent = [
        GET,
        b"POST /b HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n01234567890123456789",
        CHUNKED,
        b"5\r\nhello\r\n1;x=y\r\n!\r\n0\r\na: b\r\n\r\n",
        GET,
    ]
    .concat();
    let ok = |body: &str| {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let expected = [
        ok("GET /a "),
        ok("POST /b 01234567890123456789"),
        ok("POST /c hello!"),
        ok("GET /a "),
    ]
    .concat();
    for cut in 1..sent.len() {
        let (mut far, near) = duplex(64 * 1024);
        let serving = tokio::spawn(echo(server(near)));
        for part in sent.chunks(cut) {
            far.write_all(part).await.unwrap();
            tokio::task::yield_now().await;
        }
        far.shutdown().await.unwrap();
        assert_eq!(read_all(&mut far).await, expected, "cut {cut}");
        assert_eq!(serving.await.unwrap(), None);
    }
}

#[tokio::test]
async fn a_malformed_head_is_the_last() {
    let bad =
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nGET /secret HTTP/1.1\r\n\r\n";
    for cut in 1..60 {
        let (mut far, near) = duplex(64 * 1024);
        let serving = tokio::spawn(echo(server(near)));
        for part in [GET, bad].concat().chunks(cut) {
            // Nothing is read behind it.
            let _refused = far.write_all(part).await;
            tokio::task::yield_now().await;
        }
        let refused = serving.await.unwrap();
        let expected = Some(ErrorKind::Malformed(Malformed::ContentLength));
        assert_eq!(refused, expected, "cut {cut}");
    }
}

#[tokio::test]
async fn a_malformed_chunk_ends_the_body_in_an_error() {
    let (mut far, near) = duplex(64 * 1024);
    let mut server = server(near);
    far.write_all(&[CHUNKED, b"5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n"].concat())
        .await
        .unwrap();
    let mut body = request(&mut server).await.into_body();
    let first = body.frame().await.unwrap().unwrap();
    assert_eq!(first.into_data().unwrap(), "hello");
    let error = body.frame().await.unwrap().unwrap_err();
    assert!(
        matches!(error, Error::Malformed(Malformed::ChunkSize)),
        "{error:?}"
    );
    // Where the next request begins is not known.
    let after = answer(&mut server, Response::new(Full::from("no"))).await;
    assert_eq!(after, After::Close);
}

/// F20: a head that trickles is given up, whatever trickles.
#[tokio::test(start_paused = true)]
async fn an_unfinished_head_is_given_up_after_its_time() {
    let (mut far, near) = duplex(64);
    let serving = tokio::spawn(echo(server(near)));
    for byte in b"GET / HTTP/1.1\r" {
        far.write_all(&[*byte]).await.unwrap();
        tokio::time::sleep(Duration::from_millis(990)).await;
    }
    assert!(!serving.is_finished());
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_eq!(
        serving.await.unwrap(),
        Some(ErrorKind::RequestHeadersTimeout)
    );
}

const UPGRADE: &[u8] =
    b"GET /u HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";

async fn upgrade(server: &mut Server) -> OnTunnel {
    match next(server).await {
        Next::Request(_, Some(on_tunnel)) => on_tunnel,
        _ => panic!("no request for a tunnel"),
    }
}

#[tokio::test]
async fn what_follows_a_granted_tunnel_is_its_own() {
    let (mut far, near) = duplex(64 * 1024);
    let mut server = server(near);
    far.write_all(&[UPGRADE, GET].concat()).await.unwrap();
    let on_tunnel = upgrade(&mut server).await;
    let mut granted = Response::new(Full::default());
    *granted.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    assert_eq!(answer(&mut server, granted).await, After::Tunnel);
    let head = read_some(&mut far).await;
    assert_eq!(head, "HTTP/1.1 101 Switching Protocols\r\n\r\n");
    far.write_all(b"\x01more").await.unwrap();
    let mut tunnel = on_tunnel.await.unwrap();
    let mut got = vec![0; GET.len() + 5];
    tunnel.read_exact(&mut got).await.unwrap();
    assert_eq!(got, [GET, b"\x01more"].concat());
    tunnel.write_all(b"back").await.unwrap();
    tunnel.flush().await.unwrap();
    assert_eq!(read_some(&mut far).await, "back");
}

#[tokio::test]
async fn a_tunnel_that_was_not_granted_is_none() {
    let (mut far, near) = duplex(64 * 1024);
    let mut server = server(near);
    far.write_all(&[UPGRADE, GET].concat()).await.unwrap();
    let on_tunnel = upgrade(&mut server).await;
    let after = answer(&mut server, Response::new(Full::from("no"))).await;
    assert_eq!(after, After::Next);
    assert!(on_tunnel.await.is_err());
    assert_eq!(request(&mut server).await.uri(), "/a");
}

#[tokio::test]
async fn what_waits_for_an_answer_is_bounded() {
    let (mut far, near) = duplex(4096);
    let mut server = server(near);
    far.write_all(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
        .await
        .unwrap();
    let _on_tunnel = upgrade(&mut server).await;
    let flooding = tokio::spawn(async move { far.write_all(&[7; 1024 * 1024]).await });
    let gone = poll_fn(|cx| server.poll_gone(cx));
    assert!(
        tokio::time::timeout(Duration::from_millis(50), gone)
            .await
            .is_err()
    );
    assert!(!flooding.is_finished());
}

#[tokio::test]
async fn a_connection_is_idle_between_requests_alone() {
    let (mut far, near) = duplex(4096);
    let mut server = server(near);
    assert!(server.is_idle());
    far.write_all(GET).await.unwrap();
    let served = request(&mut server).await;
    assert!(!server.is_idle());
    drop(served);
    answer(&mut server, Response::new(Full::from("hi"))).await;
    assert!(server.is_idle());
    far.write_all(b"G").await.unwrap();
    let reading = tokio::time::timeout(Duration::from_millis(20), next(&mut server));
    assert!(reading.await.is_err());
    assert!(!server.is_idle());
}

#[tokio::test]
async fn a_body_does_not_keep_its_connection_open() {
    let (mut far, near) = duplex(4096);
    let mut server = server(near);
    far.write_all(CHUNKED).await.unwrap();
    let mut body = request(&mut server).await.into_body();
    drop(server);
    assert_eq!(read_all(&mut far).await, "");
    assert!(body.frame().await.unwrap().is_err());
}

#[tokio::test]
async fn a_client_that_goes_is_noticed() {
    let (mut far, near) = duplex(4096);
    let mut server = server(near);
    far.write_all(GET).await.unwrap();
    let _request = request(&mut server).await;
    drop(far);
    poll_fn(|cx| server.poll_gone(cx)).await;
}

#[tokio::test]
async fn content_that_nobody_reads_is_passed_over_or_ends_the_connection() {
    const POST: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n";
    for (content, expected) in [(&b"hello"[..], After::Next), (b"hel", After::Close)] {
        let (mut far, near) = duplex(4096);
        let mut server = server(near);
        far.write_all(&[POST, content].concat()).await.unwrap();
        drop(request(&mut server).await);
        let after = answer(&mut server, Response::new(Full::from("no"))).await;
        assert_eq!(after, expected, "{}", content.escape_ascii());
    }
}

/// RFC 9110 section 10.1.1: only who reads the content asks for it.
#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on() {
    let (mut far, near) = duplex(4096);
    let mut server = server(near);
    far.write_all(
        b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    )
    .await
    .unwrap();
    let body = request(&mut server).await.into_body();
    let reading = tokio::spawn(body.collect());
    assert_eq!(read_some(&mut far).await, "HTTP/1.1 100 Continue\r\n\r\n");
    far.write_all(b"hello").await.unwrap();
    assert_eq!(reading.await.unwrap().unwrap().to_bytes(), "hello");
}

/// What it sends next may be the content, or another request.
#[tokio::test]
async fn a_client_that_was_not_told_to_go_on_is_told_to_go() {
    let (mut far, near) = duplex(4096);
    let mut server = server(near);
    far.write_all(
        b"PUT / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n",
    )
    .await
    .unwrap();
    let unread = request(&mut server).await;
    let after = answer(&mut server, Response::new(Full::from("no"))).await;
    drop(unread);
    assert_eq!(after, After::Close);
    let head = read_some(&mut far).await;
    assert!(head.contains("\r\nconnection: close\r\n"), "{head}");
}

#[tokio::test]
async fn responses_are_framed_for_their_request() {
    for (head, status, expected) in [
        (
            "GET / HTTP/1.1",
            200,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (
            "HEAD / HTTP/1.1",
            200,
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n",
        ),
        ("GET / HTTP/1.1", 204, "HTTP/1.1 204 No Content\r\n\r\n"),
        (
            "GET / HTTP/1.1",
            304,
            "HTTP/1.1 304 Not Modified\r\ncontent-length: 2\r\n\r\n",
        ),
        (
            "GET / HTTP/1.0",
            200,
            "HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (
            "GET / HTTP/1.0\r\nConnection: keep-alive",
            200,
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (
            "GET / HTTP/1.1\r\nConnection: close",
            200,
            "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
        ),
        (
            "GET / HTTP/1.1",
            299,
            "HTTP/1.1 299 \r\ncontent-length: 2\r\n\r\nhi",
        ),
    ] {
        let (mut far, near) = duplex(4096);
        let mut server = server(near);
        far.write_all(format!("{head}\r\nHost: a\r\n\r\n").as_bytes())
            .await
            .unwrap();
        let _request = request(&mut server).await;
        let mut response = Response::new(Full::from("hi"));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        answer(&mut server, response).await;
        assert_eq!(read_some(&mut far).await, expected, "{head} {status}");
    }
}

/// A body of the given pieces.
fn pieces(
    pieces: Vec<Bytes>,
) -> impl http_body::Body<Data = Bytes, Error = std::convert::Infallible> + Send + Unpin + 'static {
    let frames = pieces
        .into_iter()
        .map(|data| Ok(http_body::Frame::data(data)));
    StreamBody::new(futures_util::stream::iter(frames))
}

#[tokio::test]
async fn content_of_unknown_length_is_chunked_and_long_pieces_are_whole() {
    let long = Bytes::from(vec![b'x'; 10_000]);
    let parts = vec![Bytes::from_static(b"short"), long.clone(), long.clone()];
    let (mut far, near) = duplex(512);
    let mut upstream = client(near);
    let sending = tokio::spawn(async move {
        let request = Request::post("/p").body(pieces(parts)).unwrap();
        let response = upstream.send(request).await.unwrap();
        (response.into_body().collect().await.unwrap(), upstream)
    });
    let mut got = Vec::new();
    while !got.ends_with(b"\r\n0\r\n\r\n") {
        let mut space = [0; 300];
        let read = far.read(&mut space).await.unwrap();
        got.extend_from_slice(&space[..read]);
    }
    let expected = [
        &b"POST /p HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nshort\r\n"[..],
        b"2710\r\n",
        &long,
        b"\r\n2710\r\n",
        &long,
        b"\r\n0\r\n\r\n",
    ]
    .concat();
    assert!(got == expected, "{}", got.escape_ascii());
    far.write_all(b"HTTP/1.1 103 Early Hints\r\na: b\r\n\r\nHTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx: y\r\n\r\n")
        .await
        .unwrap();
    let (body, upstream) = sending.await.unwrap();
    assert_eq!(body.trailers().unwrap()["x"], "y");
    assert_eq!(body.to_bytes(), "hi");
    assert!(upstream.is_free());
}

async fn exchange(
    far: &mut DuplexStream,
    upstream: &mut Client,
    answer: &[u8],
) -> Result<Bytes, String> {
    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    far.write_all(b"").await.unwrap();
    let answering = async {
        assert_eq!(read_some(far).await, "GET / HTTP/1.1\r\n\r\n");
        far.write_all(answer).await.unwrap();
    };
    let (response, ()) = tokio::join!(upstream.send(request), answering);
    let response = response.map_err(|failed| failed.error.to_string())?;
    let body = response.into_body().collect().await;
    body.map(|body| body.to_bytes())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_connection_is_used_again_only_if_nothing_is_left_of_the_last_exchange() {
    for (answer, expected, is_free) in [
        (
            &b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"[..],
            Ok("hi"),
            true,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi!",
            Ok("hi"),
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi",
            Ok("hi"),
            false,
        ),
        (
            b"HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi",
            Ok("hi"),
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1x\r\n",
            Err("http1.invalid_chunk_size"),
            false,
        ),
        (
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nhi",
            Err("malformed response: two content-lengths"),
            false,
        ),
    ] {
        let (mut far, near) = duplex(4096);
        let mut upstream = client(near);
        let got = exchange(&mut far, &mut upstream, answer).await;
        let got = got.as_ref().map(|body| std::str::from_utf8(body).unwrap());
        assert_eq!(
            got.map_err(String::as_str),
            expected,
            "{}",
            answer.escape_ascii()
        );
        assert_eq!(upstream.is_free(), is_free, "{}", answer.escape_ascii());
    }
}

#[tokio::test]
async fn a_closed_connection_takes_no_request() {
    let (far, near) = duplex(4096);
    let mut upstream = client(near);
    assert!(upstream.is_open());
    drop(far);
    assert!(!upstream.is_open());
    let request = Request::get("/").body(Full::<Bytes>::default()).unwrap();
    let failed = upstream.send(request).await.unwrap_err();
    assert!(failed.is_unsent, "{failed:?}");
}

/// The response may come before the request was sent to its end; both go on.
#[tokio::test]
async fn an_early_response_does_not_end_the_request() {
    let (mut far, near) = duplex(4096);
    let mut upstream = client(near);
    let (more, body) = tokio::sync::mpsc::channel::<Result<_, std::convert::Infallible>>(1);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(body));
    let request = Request::builder()
        .method(Method::PUT)
        .uri("/")
        .header("content-length", 4)
        .body(body)
        .unwrap();
    let answering = async {
        let head = read_some(&mut far).await;
        assert_eq!(head, "PUT / HTTP/1.1\r\ncontent-length: 4\r\n\r\n");
        far.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            .await
            .unwrap();
    };
    let (response, ()) = tokio::join!(upstream.send(request), answering);
    let body = response.unwrap().into_body().collect().await.unwrap();
    assert_eq!(body.to_bytes(), "hi");
    assert!(!upstream.is_free() && upstream.is_sending());
    more.send(Ok(http_body::Frame::data(Bytes::from_static(b"late"))))
        .await
        .unwrap();
    drop(more);
    assert_eq!(read_some(&mut far).await, "late");
    upstream.settle().await;
    assert!(upstream.is_free());
}
