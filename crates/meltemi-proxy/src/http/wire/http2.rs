//! Counts HTTP/2 frames and ends a connection that uses up its budget.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use meltemi_proxy_core::frame_budget::FrameMeter;
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

pub(super) struct Guard {
    meter: FrameMeter,
    started: Instant,
    /// Once the budget is used up: the bytes of the endless block given to the library.
    cut: Option<usize>,
    /// The head that was unfinished when nothing more came.
    unfinished: Option<u64>,
    head_timer: Unfinished,
    state: Arc<WireState>,
}

impl Guard {
    pub(super) fn new(manager: &HttpConnectionManager, state: Arc<WireState>) -> Self {
        Self {
            meter: FrameMeter::new(manager.http2.frames),
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
        if self.cut.is_some() {
            return Poll::Ready(self.give_endless(buf));
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
        let started = self.started;
        let passed = self
            .meter
            .read(&buf.filled()[start..], || started.elapsed());
        if let Some(passed) = passed {
            buf.set_filled(start + passed);
            self.cut = Some(0);
            self.state.flooded();
            if passed == 0 {
                return Poll::Ready(self.give_endless(buf));
            }
        }
        Poll::Ready(Ok(()))
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

    fn give_endless(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        let given = self.cut.get_or_insert(0);
        if *given >= ENDLESS_LIMIT_BYTES {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let frame = if *given < 9 {
            ENDLESS_HEADERS
        } else {
            ENDLESS_CONTINUATION
        };
        let rest = &frame[*given % 9..];
        let rest = &rest[..rest.len().min(buf.remaining())];
        buf.put_slice(rest);
        *given += rest.len();
        Ok(())
    }
}
