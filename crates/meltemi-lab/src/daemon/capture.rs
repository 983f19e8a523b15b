//! Frames on a pod's link, as a pcap file.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use bytes::{BufMut as _, BytesMut};
use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::Timestamp;
use serde::Deserialize;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, timeout_at};

use super::{Answer, Shared, default_namespace};

/// Offloading joins segments, so that a frame may be as long as IP allows.
const FRAME_LIMIT: usize = 65_536 + 64;
const CAPTURE_LIMIT_BYTES: usize = 64 * 1024 * 1024;
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
    rustix::io::ioctl_fionbio(&socket, true).context("cannot make the socket non-blocking")?;
    let socket = Arc::new(AsyncFd::new(socket).context("cannot watch the socket")?);
    let deadline = Instant::now() + Duration::from_millis(query.millis).min(LONGEST);
    let head = stream::once(async { Ok::<_, io::Error>(header()) });
    let frames = stream::unfold(0, move |sent| {
        let socket = Arc::clone(&socket);
        async move {
            if sent > CAPTURE_LIMIT_BYTES {
                return None;
            }
            let frame = timeout_at(deadline, read_frame(&socket)).await.ok()?;
            let record = frame.map(|frame| record(&frame, Timestamp::now()));
            let length = record.as_ref().map_or(CAPTURE_LIMIT_BYTES, Bytes::len);
            Some((record, sent + length))
        }
    });
    Ok(Body::from_stream(head.chain(frames)))
}

async fn read_frame(socket: &AsyncFd<OwnedFd>) -> io::Result<Vec<u8>> {
    loop {
        let mut ready = socket.readable().await?;
        let mut frame = vec![0; FRAME_LIMIT];
        let read = ready.try_io(|socket| Ok(rustix::io::read(socket.get_ref().as_fd(), &mut frame)?));
        if let Ok(length) = read {
            frame.truncate(length?);
            return Ok(frame);
        }
    }
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
        assert_eq!(record[..], [0, 0, 0, 5, 0, 0, 0, 7, 0, 0, 0, 5, 0, 0, 0, 5, b'f', b'r', b'a', b'm', b'e']);
    }
}
