//! Frames on a pod's link, as a pcap file.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use bytes::{BufMut as _, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::Timestamp;
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;

use super::{Answer, Shared, default_namespace};

/// Offloading joins segments, so that a frame may be as long as IP allows.
const FRAME_LIMIT: usize = 65_536 + 64;
const CAPTURE_LIMIT_BYTES: usize = 64 * 1024 * 1024;
/// Frames read and not yet sent on.
const QUEUE: usize = 1024;
/// How soon a capture without traffic notices its end.
const STEP: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_secs(600);

#[derive(Debug, Deserialize)]
pub(super) struct Capture {
    #[serde(default = "default_namespace")]
    namespace: String,
    pod: String,
    millis: u64,
}

pub(super) async fn capture(State(daemon): Shared, Query(query): Query<Capture>) -> Answer<Body> {
    let target = daemon.target(query.namespace, query.pod, None).await?;
    let network = target.network.context("the pod has no network yet")?;
    let socket = network.packets().context("cannot open a packet socket")?;
    let deadline = Instant::now() + Duration::from_millis(query.millis).min(LONGEST);
    let (sender, records) = mpsc::channel(QUEUE);
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read_frames(&socket, deadline, &sender) {
            tracing::warn!(%error, "a capture ended early");
        }
    });
    let head = stream::once(async { Ok::<_, Infallible>(header()) });
    let frames = ReceiverStream::new(records).map(Ok);
    Ok(Body::from_stream(head.chain(frames)))
}

/// Reads until the deadline, the limit, or nobody listens. When the reader is slow the kernel drops frames, not we.
fn read_frames(
    socket: &OwnedFd,
    deadline: Instant,
    records: &mpsc::Sender<Bytes>,
) -> io::Result<()> {
    rustix::net::sockopt::set_socket_timeout(socket, Timeout::Recv, Some(STEP))?;
    let mut frame = vec![0; FRAME_LIMIT];
    let mut sent = 0;
    while Instant::now() < deadline && sent < CAPTURE_LIMIT_BYTES {
        let length = match rustix::io::read(socket, &mut frame) {
            Ok(length) => length,
            Err(Errno::AGAIN | Errno::INTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let record = record(frame.get(..length).unwrap_or_default(), Timestamp::now());
        sent += record.len();
        if records.blocking_send(record).is_err() {
            break;
        }
    }
    Ok(())
}

/// The head of a pcap file (draft-ietf-opsawg-pcap), of Ethernet frames.
fn header() -> Bytes {
    let mut head = BytesMut::new();
    head.put_u32(0xa1b2_c3d4);
    head.put_u16(2);
    head.put_u16(4);
    head.put_u64(0);
    head.put_u32(u32::try_from(FRAME_LIMIT).unwrap_or(u32::MAX));
    head.put_u32(1);
    head.freeze()
}

fn record(frame: &[u8], at: Timestamp) -> Bytes {
    let length = u32::try_from(frame.len()).unwrap_or(u32::MAX);
    let mut record = BytesMut::new();
    record.put_u32(u32::try_from(at.as_second()).unwrap_or_default());
    record.put_u32(u32::try_from(at.subsec_microsecond()).unwrap_or_default());
    record.put_u32(length);
    record.put_u32(length);
    record.put_slice(frame);
    record.freeze()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_pcap() {
        assert_eq!(header().len(), 24);
        let record = record(b"frame", Timestamp::new(5, 7000).unwrap());
        assert_eq!(
            record[..],
            [
                0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 5, b'f', b'r', b'a', b'm', b'e'
            ]
        );
    }
}
