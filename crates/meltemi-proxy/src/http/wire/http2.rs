//! Counts HTTP/2 frames and ends a connection that uses up its budget, or whose header fields the library would not refuse
//! though it must.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use meltemi_proxy_core::frame_budget::FrameMeter;
use meltemi_proxy_core::header_blocks::{End, HeaderBlocks};
use meltemi_proxy_core::runtime::HttpConnectionManager;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

use super::WireState;
use super::patience::Unfinished;
use crate::io::Transport;

/// A header block that never ends, in frames without a byte. The library knows this attack: it answers with GOAWAY
/// ENHANCE_YOUR_CALM, behind what it had to send before, and closes.
const ENDLESS_HEADERS: [u8; 9] = [0, 0, 0, 1, 0, 0x7f, 0xff, 0xff, 0xff];
const ENDLESS_CONTINUATION: [u8; 9] = [0, 0, 0, 9, 0, 0x7f, 0xff, 0xff, 0xff];
/// Bytes of it after which the library must have given up.
const ENDLESS_LIMIT_BYTES: usize = 64 * 1024;

/// DATA on no stream: the library answers with GOAWAY PROTOCOL_ERROR, and closes.
const PROTOCOL_ERROR: [u8; 9] = [0; 9];

/// What the library gets in place of what the peer sends, and how much of it it was given.
enum Cut {
    Endless(usize),
    ProtocolError(usize),
    /// In the middle of a frame: nothing that is sent then would be understood.
    Broken,
}

pub(super) struct Guard {
    meter: FrameMeter,
    blocks: HeaderBlocks,
    started: Instant,
    cut: Option<Cut>,
    /// The head that was unfinished when nothing more came.
    unfinished: Option<u64>,
    head_timer: Unfinished,
    state: Arc<WireState>,
}

impl Guard {
    pub(super) fn new(manager: &HttpConnectionManager, state: Arc<WireState>) -> Self {
        Self {
            meter: FrameMeter::new(manager.http2.frames),
            blocks: HeaderBlocks::default(),
            started: Instant::now(),
            cut: None,
            unfinished: None,
            head_timer: Unfinished::new(manager.request_headers_timeout),
            state,
        }
    }

    pub(super) fn sent(&mut self, bytes: usize) {
        self.meter.sent(bytes);
    }

    pub(super) fn poll_read(
        &mut self,
        transport: &mut Transport,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if let Some(cut) = &mut self.cut {
            return Poll::Ready(cut.give(buf));
        }
        let start = buf.filled().len();
        match Pin::new(transport).poll_read(cx, buf) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => return self.poll_unfinished(cx),
        }
        if self.state.was_flooded() {
            self.meter.exceed();
        }
        if let Some(end) = self.blocks.read(&mut buf.filled_mut()[start..]) {
            let (passed, cut) = match end {
                End::BetweenFrames { passed } => (passed, Cut::ProtocolError(0)),
                End::InFrame { passed } => (passed, Cut::Broken),
            };
            buf.set_filled(start + passed);
            self.cut = Some(cut);
        }
        let started = self.started;
        let passed = self
            .meter
            .read(&buf.filled()[start..], || started.elapsed());
        if let Some(passed) = passed {
            buf.set_filled(start + passed);
            self.cut = Some(Cut::Endless(0));
            self.state.flooded();
        }
        match &mut self.cut {
            // Nothing at all would be the end of the connection.
            Some(cut) if buf.filled().len() == start => Poll::Ready(cut.give(buf)),
            _ => Poll::Ready(Ok(())),
        }
    }

    /// Bounds the time of an unfinished head, as HTTP/1 does (`request_headers_timeout`).
    fn poll_unfinished(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let unfinished = self.meter.unfinished_head();
        if unfinished != self.unfinished {
            self.unfinished = unfinished;
            self.head_timer.done();
        }
        if unfinished.is_some() && self.head_timer.poll_expired(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Poll::Pending
    }
}

impl Cut {
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let (given, frame, limit) = match self {
            Self::Endless(given) if *given < 9 => (given, ENDLESS_HEADERS, ENDLESS_LIMIT_BYTES),
            Self::Endless(given) => (given, ENDLESS_CONTINUATION, ENDLESS_LIMIT_BYTES),
            Self::ProtocolError(given) => (given, PROTOCOL_ERROR, PROTOCOL_ERROR.len()),
            Self::Broken => return Err(io::ErrorKind::InvalidData.into()),
        };
        if *given >= limit {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let rest = &frame[*given % 9..];
        let rest = &rest[..rest.len().min(buf.remaining())];
        buf.put_slice(rest);
        *given += rest.len();
        Ok(())
    }
}
