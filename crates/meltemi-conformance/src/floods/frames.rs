//! Floods of HTTP/2 frames on one connection.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::Course;
use crate::http2::frame::{
    Frame, block, code, continuation, data, flag, frame, headers, indexed_literal, kind, literal,
    ping, priority, request_block, rst_stream, setting, settings, window_update,
};
use crate::http2::peer::{Event, Peer};

/// How long a flood goes on, and how much it sends at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) time: Duration,
    pub(super) bytes: u64,
}

/// What is sent again and again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flood {
    RapidReset,
    MadeYouReset,
    Continuation,
    EmptyContinuation,
    Settings,
    Ping,
    Priority,
    WindowUpdate,
    EmptyData,
    HeaderBomb,
    CookieBomb,
    LongHost,
}

/// Frames that are written at once.
const BATCH: u32 = 500;
/// How long the proxy may take to end what it was sent.
const GRACE: Duration = Duration::from_secs(2);

impl Flood {
    /// What comes first, once.
    fn prelude(self) -> Vec<u8> {
        match self {
            Self::Continuation | Self::EmptyContinuation => {
                frame(kind::HEADERS, 0, 1, &request_block("GET", &[]))
            }
            Self::EmptyData => headers(1, 0, &request_block("POST", &[])),
            Self::HeaderBomb => bomb("x"),
            Self::CookieBomb => bomb("cookie"),
            Self::LongHost => {
                let host = literal(b"host", &[b'h'; 15000]);
                let first = [request_block("GET", &[]), host].concat();
                frame(kind::HEADERS, flag::END_STREAM, 1, &first)
            }
            _ => Vec::new(),
        }
    }

    /// The `n`th batch, and how many it counts for.
    fn batch(self, n: u32) -> (Vec<u8>, u64) {
        let streams = (n * BATCH..(n + 1) * BATCH).map(|at| 2 * at + 1);
        let request = |stream| headers(stream, flag::END_STREAM, &request_block("GET", &[]));
        let many = |one: Vec<u8>, count: usize| (one.repeat(count), count as u64);
        let all = |bytes: Vec<u8>| (bytes, u64::from(BATCH));
        match self {
            Self::RapidReset => {
                let pair = |s| [request(s), rst_stream(s, code::CANCEL)].concat();
                all(streams.flat_map(pair).collect())
            }
            Self::MadeYouReset => {
                let pair = |s| [request(s), window_update(s, 0)].concat();
                all(streams.flat_map(pair).collect())
            }
            Self::Continuation => many(continuation(1, 0, &literal(b"x", &[b'y'; 16000])), 4),
            Self::EmptyContinuation => many(continuation(1, 0, b""), BATCH as usize),
            Self::Settings => many(
                settings(&[(setting::MAX_FRAME_SIZE, 16384)]),
                BATCH as usize,
            ),
            Self::Ping => many(ping(*b"12345678"), BATCH as usize),
            Self::Priority => many(priority(1, 0, 1), BATCH as usize),
            Self::WindowUpdate => many(window_update(0, 1), BATCH as usize),
            Self::EmptyData => many(data(1, 0, b""), BATCH as usize),
            // Some thousand references to the entry, one byte each, on a stream of its own.
            Self::HeaderBomb | Self::CookieBomb => {
                let block = [request_block("GET", &[]), vec![0xbe; 16000]].concat();
                (headers(2 * n + 3, flag::END_STREAM, &block), 1)
            }
            // The request of the prelude goes on with four times as much.
            Self::LongHost if n == 0 => {
                let field = literal(b"x", &[b'y'; 15000]);
                let mut bytes = continuation(1, 0, &field).repeat(4);
                bytes.extend(continuation(1, flag::END_HEADERS, &block(&[("x", "y")])));
                (bytes, 5)
            }
            Self::LongHost => (ping(*b"12345678"), 1),
        }
    }

    /// How many batches there are at most.
    fn batches(self) -> u32 {
        match self {
            Self::LongHost => 1,
            Self::HeaderBomb | Self::CookieBomb => 64,
            _ => u32::MAX,
        }
    }
}

/// A request that puts an entry of 4 KB into the table.
fn bomb(name: &str) -> Vec<u8> {
    let entry = indexed_literal(name.as_bytes(), &[b'y'; 4000]);
    headers(
        1,
        flag::END_STREAM,
        &[request_block("GET", &[]), entry].concat(),
    )
}

/// Sends a flood until the proxy ends it or a limit is reached.
pub(super) async fn flood(address: SocketAddr, flood: Flood, limits: Limits) -> Result<Course> {
    let (stream, rest) = Peer::client(address, &[]).await?.into_parts();
    let (reader, mut writer) = stream.into_split();
    let (told, mut cut) = watch::channel(None);
    let listening = tokio::spawn(listen(reader, rest, told));
    let begun = Instant::now();
    let mut course = Course::default();
    let mut bytes = 0;
    let mut is_open = writer.write_all(&flood.prelude()).await.is_ok();
    let mut n = 0;
    while is_open
        && n < flood.batches()
        && begun.elapsed() < limits.time
        && bytes < limits.bytes
        && cut.borrow().is_none()
    {
        let (batch, count) = flood.batch(n);
        n += 1;
        bytes += batch.len() as u64;
        let left = limits.time.saturating_sub(begun.elapsed());
        match timeout(left, writer.write_all(&batch)).await {
            Ok(Ok(())) => course.sent += count,
            Ok(Err(_)) => is_open = false,
            // The proxy no longer reads.
            Err(_) => break,
        }
        tokio::task::yield_now().await;
    }
    // What ends the connection may still be on its way.
    let ended = timeout(GRACE, cut.wait_for(Option::is_some)).await;
    course.cut = match ended {
        Ok(Ok(cut)) => cut.clone(),
        _ => None,
    };
    course.seconds = begun.elapsed().as_secs_f64();
    listening.abort();
    Ok(course)
}

/// Reads whatever comes, so that the proxy can send, and tells how it ends.
async fn listen(
    mut reader: OwnedReadHalf,
    mut buffer: Vec<u8>,
    told: watch::Sender<Option<String>>,
) {
    loop {
        while let Some(frame) = Frame::take(&mut buffer) {
            if frame.kind == kind::GOAWAY && frame.code() != Some(code::NO_ERROR) {
                told.send_replace(frame.code().map(code::name));
                return;
            }
        }
        if !matches!(reader.read_buf(&mut buffer).await, Ok(read) if read > 0) {
            told.send_replace(Some("closed".to_owned()));
            return;
        }
    }
}

/// Streams that are open at once, and messages of ten bytes on each: together less than any first window.
const STREAMS: u32 = 50;
const MESSAGES: u32 = 120;

/// Many small messages that are no flood (gRPC streams): each stream is answered.
pub(super) async fn small_messages(address: SocketAddr) -> Result<Course> {
    let mut peer = Peer::client(address, &[]).await?;
    let begun = Instant::now();
    let streams = || (0..STREAMS).map(|at| 2 * at + 1);
    let heads = streams().flat_map(|stream| headers(stream, 0, &request_block("POST", &[])));
    let mut is_open = peer.send(&heads.collect::<Vec<u8>>()).await;
    for round in 0..MESSAGES {
        let flags = if round + 1 == MESSAGES {
            flag::END_STREAM
        } else {
            0
        };
        let messages = streams().flat_map(|stream| data(stream, flags, b"0123456789"));
        is_open = is_open && peer.send(&messages.collect::<Vec<u8>>()).await;
    }
    let deadline = Instant::now() + GRACE * 5;
    let mut course = Course {
        sent: u64::from(STREAMS * MESSAGES),
        ..Course::default()
    };
    let mut answered = 0;
    while is_open && answered < STREAMS {
        match peer.next(deadline).await {
            Event::Frame(frame) if frame.ends_stream() => answered += 1,
            Event::Frame(frame) => {
                if let Some(code) = frame.code().filter(|code| *code != code::NO_ERROR) {
                    course.cut = Some(code::name(code));
                }
            }
            Event::Closed => {
                course.cut = Some("closed".to_owned());
                break;
            }
            Event::Silence => break,
        }
    }
    course.is_served = answered == STREAMS;
    course.seconds = begun.elapsed().as_secs_f64();
    Ok(course)
}
