//! Floods and slowness: bodies byte by byte, answers that nobody reads, heads that never end.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use super::Course;
use crate::http2::frame::{flag, headers, request_block, setting, window_update};
use crate::http2::peer::Peer;
use crate::rig::client;

/// Content that is sent in chunks of one byte.
const CONTENT_BYTES: usize = 256 << 10;
/// How long the answer to it may take.
const LONG_PATIENCE: Duration = Duration::from_secs(20);
const PIPELINED: usize = 10_000;
/// How long a proxy may take bytes whose answers are not read.
const PRESSURE: Duration = Duration::from_secs(3);

/// A body in chunks of one byte each: it arrives.
pub(super) async fn one_byte_chunks(address: SocketAddr) -> Result<Course> {
    let mut request = b"POST /v HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    request.extend(b"1\r\nx\r\n".repeat(CONTENT_BYTES));
    request.extend(b"0\r\n\r\n");
    let begun = Instant::now();
    let reply = client::talk_patiently(address, &request, LONG_PATIENCE).await?;
    Ok(Course {
        sent: CONTENT_BYTES as u64,
        seconds: begun.elapsed().as_secs_f64(),
        cut: None,
        is_served: reply.statuses() == [200],
    })
}

/// Requests in one go, of which no answer is read.
pub(super) async fn pipelined(address: SocketAddr) -> Result<Course> {
    let requests = b"GET /v HTTP/1.1\r\nHost: a\r\n\r\n".repeat(100);
    let mut stream = TcpStream::connect(address).await?;
    let deadline = Instant::now() + PRESSURE;
    let mut sent = 0;
    while sent < PIPELINED {
        match timeout_at(deadline, stream.write_all(&requests)).await {
            Ok(Ok(())) => sent += 100,
            _ => break,
        }
    }
    sleep_until(deadline).await;
    Ok(pressed(sent as u64))
}

/// A large answer that is not read.
pub(super) async fn slow_reader(address: SocketAddr) -> Result<Course> {
    let mut stream = TcpStream::connect(address).await?;
    stream
        .write_all(b"GET /v HTTP/1.1\r\nHost: a\r\n\r\n")
        .await?;
    sleep(PRESSURE).await;
    Ok(pressed(1))
}

/// Ten large answers on one HTTP/2 connection, each read by windows of one byte.
pub(super) async fn one_byte_windows(address: SocketAddr) -> Result<Course> {
    let mut peer = Peer::client(address, &[(setting::INITIAL_WINDOW_SIZE, 1)]).await?;
    let streams = || (0..10).map(|at| 2 * at + 1);
    for stream in streams() {
        let request = headers(stream, flag::END_STREAM, &request_block("GET", &[]));
        peer.send(&request).await;
    }
    for _ in 0..50 {
        for stream in streams() {
            peer.send(&window_update(stream, 1)).await;
        }
    }
    sleep(PRESSURE).await;
    Ok(pressed(500))
}

fn pressed(sent: u64) -> Course {
    Course {
        sent,
        seconds: PRESSURE.as_secs_f64(),
        ..Course::default()
    }
}

/// Connections with a head that never ends, and when each must be closed.
const SLOW_CONNECTIONS: usize = 1000;
const SLOW_LIMIT: Duration = Duration::from_secs(40);

/// Opens connections, begins a request on each and waits for the proxy to close them.
pub(super) async fn slow_heads(address: SocketAddr) -> Result<Course> {
    let begun = Instant::now();
    let mut open = Vec::new();
    for _ in 0..SLOW_CONNECTIONS {
        let mut stream = TcpStream::connect(address).await?;
        stream
            .write_all(b"GET /v HTTP/1.1\r\nHost: a\r\nX: ")
            .await?;
        open.push(stream);
    }
    let deadline = begun + SLOW_LIMIT;
    let mut left = 0;
    let mut buffer = [0; 4096];
    for stream in &mut open {
        // An answer such as 408 may come first.
        let closed = timeout_at(deadline, async {
            while matches!(stream.read(&mut buffer).await, Ok(read) if read > 0) {}
        });
        left += u64::from(closed.await.is_err());
    }
    Ok(Course {
        sent: SLOW_CONNECTIONS as u64 - left,
        seconds: begun.elapsed().as_secs_f64(),
        cut: (left == 0).then(|| "all closed".to_owned()),
        is_served: false,
    })
}

/// Whether another client is still served.
pub(super) async fn is_serving(address: SocketAddr) -> bool {
    let asked = client::talk(address, b"GET /v HTTP/1.1\r\nHost: a\r\n\r\n");
    matches!(asked.await, Ok(reply) if reply.statuses() == [200])
}
