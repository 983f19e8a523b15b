use std::future::poll_fn;

use meltemi_proxy_core::strict::Malformed;
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};

use super::*;
use crate::io::{Replay, Socket, Transport};

struct Far(DuplexStream);

fn connection() -> (Far, Transport, Guard) {
    let (far, near) = duplex(64 * 1024);
    (
        Far(far),
        Transport::Plain(Replay::from(Socket::boxed(near))),
        Guard::for_tests(),
    )
}

/// Reads once, with room for `room` bytes; `None` while there is nothing to hand on.
async fn read(
    guard: &mut Guard,
    transport: &mut Transport,
    room: usize,
) -> Option<io::Result<Vec<u8>>> {
    let mut space = vec![0; room];
    let mut buf = ReadBuf::new(&mut space);
    // A task that never yields finds its pipes not ready after a while.
    tokio::task::yield_now().await;
    let polled = poll_fn(|cx| Poll::Ready(guard.poll_read(transport, cx, &mut buf))).await;
    match polled {
        Poll::Pending => None,
        Poll::Ready(Ok(())) => Some(Ok(buf.filled().to_vec())),
        Poll::Ready(Err(error)) => Some(Err(error)),
    }
}

/// All that the library gets of what the client wrote.
async fn all(guard: &mut Guard, transport: &mut Transport, room: usize) -> Vec<u8> {
    let mut all = Vec::new();
    while let Some(Ok(bytes)) = read(guard, transport, room).await {
        all.extend_from_slice(&bytes);
    }
    all
}

fn refused(guard: &Guard, request: u64) -> Option<(ErrorKind, bool)> {
    guard
        .state
        .refusal(request)
        .map(|refusal| (refusal.kind.clone(), refusal.in_body))
}

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const CHUNKED: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test]
async fn good_requests_pass_unchanged_however_they_are_cut() {
    let sent = [
        GET,
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n01234567890123456789",
        CHUNKED,
        b"5\r\nhello\r\n0\r\n\r\n",
        GET,
    ]
    .concat();
    for cut in 1..sent.len() {
        for room in [7, 8192] {
            let (mut far, mut transport, mut guard) = connection();
            let mut got = Vec::new();
            for part in sent.chunks(cut) {
                far.0.write_all(part).await.unwrap();
                got.extend(all(&mut guard, &mut transport, room).await);
            }
            assert_eq!(got, sent, "cut {cut}");
            assert_eq!(guard.requests, 4);
        }
    }
}

#[tokio::test]
async fn a_bad_head_never_arrives_and_a_stand_in_takes_its_turn() {
    for cut in 1..60 {
        let (mut far, mut transport, mut guard) = connection();
        let bad =
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: +5\r\n\r\nGET /secret HTTP/1.1\r\n\r\n";
        let mut got = Vec::new();
        for part in [GET, bad].concat().chunks(cut) {
            far.0.write_all(part).await.unwrap();
            got.extend(all(&mut guard, &mut transport, 8192).await);
        }
        assert_eq!(got, [GET, STAND_IN].concat(), "cut {cut}");
        assert_eq!(refused(&guard, 1), None);
        assert_eq!(
            refused(&guard, 2),
            Some((ErrorKind::Malformed(Malformed::ContentLength), false))
        );
        // The rest is read and forgotten, so that the client's end is seen.
        far.0.write_all(b"more").await.unwrap();
        assert!(read(&mut guard, &mut transport, 64).await.is_none());
        drop(far);
        assert!(
            read(&mut guard, &mut transport, 64)
                .await
                .unwrap()
                .unwrap()
                .is_empty()
        );
    }
}

#[tokio::test]
async fn a_bad_chunk_ends_the_body_in_an_error() {
    let (mut far, mut transport, mut guard) = connection();
    far.0
        .write_all(&[CHUNKED, b"5\r\nhello\r\n0x5\r\nhello\r\n0\r\n\r\n"].concat())
        .await
        .unwrap();
    let got = read(&mut guard, &mut transport, 8192)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(got, [CHUNKED, b"5\r\nhello\r\n0"].concat());
    assert_eq!(
        refused(&guard, 1),
        Some((ErrorKind::Malformed(Malformed::ChunkSize), true))
    );
    let error = read(&mut guard, &mut transport, 8192)
        .await
        .unwrap()
        .unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData);
}

#[tokio::test]
async fn what_follows_a_tunnel_request_waits() {
    let upgrade = b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";
    for answer in [Answer::Http, Answer::Tunnel] {
        let (mut far, mut transport, mut guard) = connection();
        far.0.write_all(&[upgrade, GET].concat()).await.unwrap();
        assert_eq!(all(&mut guard, &mut transport, 8192).await, upgrade);
        far.0.write_all(b"\x81\x02hi").await.unwrap();
        assert!(read(&mut guard, &mut transport, 8192).await.is_none());
        guard.state.resolve(answer);
        let got = all(&mut guard, &mut transport, 8192).await;
        match answer {
            Answer::Tunnel => assert_eq!(got, [GET, b"\x81\x02hi"].concat()),
            Answer::Http => {
                assert_eq!(got, [GET, STAND_IN].concat());
                assert_eq!(
                    refused(&guard, 3),
                    Some((ErrorKind::Malformed(Malformed::RequestLine), false))
                );
            }
        }
        assert_eq!(guard.is_tunnel(), answer == Answer::Tunnel);
    }
}

#[tokio::test]
async fn what_waits_for_a_tunnel_is_bounded() {
    let (mut far, mut transport, mut guard) = connection();
    far.0
        .write_all(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(guard.requests, 0);
    all(&mut guard, &mut transport, 8192).await;
    for _ in 0..40 {
        let _written = tokio::time::timeout(Duration::ZERO, far.0.write_all(&[7; 4096])).await;
        all(&mut guard, &mut transport, 8192).await;
    }
    assert!(
        guard.held.len() < HELD_LIMIT_BYTES + 4096,
        "{}",
        guard.held.len()
    );
}

/// F20: a head that trickles is given up, whatever trickles.
#[tokio::test(start_paused = true)]
async fn an_unfinished_head_is_given_up_after_its_time() {
    let (mut far, mut transport, mut guard) = connection();
    for byte in b"GET / HTTP/1.1\r" {
        far.0.write_all(&[*byte]).await.unwrap();
        assert!(read(&mut guard, &mut transport, 64).await.is_none());
        tokio::time::advance(Duration::from_millis(990)).await;
    }
    tokio::time::advance(Duration::from_millis(200)).await;
    assert_eq!(
        read(&mut guard, &mut transport, 64).await.unwrap().unwrap(),
        STAND_IN
    );
    assert_eq!(
        refused(&guard, 1),
        Some((ErrorKind::RequestHeadersTimeout, false))
    );
}
