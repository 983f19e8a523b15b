//! A connection's bytes, and how the body that is being read is framed.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body::Frame;
use parking_lot::Mutex;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::decode::Decoder;
use super::error::Error;
use crate::http::wire::Wire;
use crate::io::lent::{Lent, SMALL_BYTES, Size};

/// Content is fetched in pieces of this size at most.
const BULK_BYTES: usize = 64 * 1024;
/// Content up to this length is copied behind what is to be written, and leaves in one piece with it.
pub(super) const SHORT_BYTES: usize = 4096;

/// Shared by a connection's holder and the bodies that are read from it or written to it. It is locked for a step, and
/// never while anything else is asked.
pub(super) type Shared = Arc<Mutex<Stream>>;

pub(super) struct Stream {
    /// `None` once it was handed over to a tunnel.
    wire: Option<Wire>,
    /// Read, and nobody's yet.
    pub(super) input: BytesMut,
    /// To be written, then `long`, then `tail`.
    pub(super) output: BytesMut,
    pub(super) long: Bytes,
    pub(super) tail: &'static [u8],
    needs_flush: bool,
    pub(super) decoder: Decoder,
    /// The peer waits for `100 Continue` before it sends the body.
    pub(super) expects_continue: bool,
    /// Who waits for the body to have been read, or to be read by nobody.
    waiter: Option<Waker>,
}

impl Stream {
    pub(super) fn shared(wire: Wire) -> Shared {
        Arc::new(Mutex::new(Self {
            wire: Some(wire),
            input: BytesMut::new(),
            output: BytesMut::new(),
            long: Bytes::new(),
            tail: b"",
            needs_flush: false,
            decoder: Decoder::Done,
            expects_continue: false,
            waiter: None,
        }))
    }

    fn wire(&mut self) -> io::Result<Pin<&mut Wire>> {
        let gone = || io::Error::from(io::ErrorKind::NotConnected);
        self.wire.as_mut().map(Pin::new).ok_or_else(gone)
    }

    /// Hands the connection over: what was read of it, and the rest.
    pub(super) fn take(&mut self) -> Option<(Bytes, Wire)> {
        let wire = self.wire.take()?;
        Some((std::mem::take(&mut self.input).freeze(), wire))
    }

    /// Reads more input; 0 bytes are the end of the peer's side.
    ///
    /// What is short goes through a buffer that the worker lends, so that a connection which waits has none.
    pub(super) fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let bulk = usize::try_from(self.decoder.bulk()).unwrap_or(usize::MAX);
        if bulk >= SMALL_BYTES && self.input.is_empty() {
            return self.poll_fill_bulk(cx, bulk.min(BULK_BYTES));
        }
        let mut lent = Lent::new(Size::Small);
        let mut buf = ReadBuf::new(&mut lent);
        ready!(self.wire()?.poll_read(cx, &mut buf))?;
        self.input.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    fn poll_fill_bulk(&mut self, cx: &mut Context<'_>, size: usize) -> Poll<io::Result<usize>> {
        let mut input = BytesMut::with_capacity(size);
        let read = ready!(tokio_util::io::poll_read_buf(self.wire()?, cx, &mut input))?;
        self.input = input;
        Poll::Ready(Ok(read))
    }

    /// Reads on in the body.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        loop {
            match self.decoder.decode(&mut self.input) {
                Ok(Some(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(None) if self.decoder.is_done() => return Poll::Ready(None),
                Ok(None) => {}
                Err(malformed) => return Poll::Ready(Some(Err(malformed.into()))),
            }
            if std::mem::take(&mut self.expects_continue) {
                self.output
                    .extend_from_slice(b"HTTP/1.1 100 Continue\r\n\r\n");
                // What does not leave now does so with the answer.
                let _left = self.poll_flush(cx)?;
            }
            match ready!(self.poll_fill(cx)) {
                Ok(0) => {
                    if let Err(error) = self.decoder.end() {
                        return Poll::Ready(Some(Err(error)));
                    }
                }
                Ok(_) => {}
                Err(error) => {
                    self.decoder = Decoder::Broken;
                    return Poll::Ready(Some(Err(error.into())));
                }
            }
        }
    }

    /// Reads over the rest of the body if it has come already.
    pub(super) fn skip_body(&mut self) -> bool {
        while let Ok(Some(_)) = self.decoder.decode(&mut self.input) {}
        self.decoder.is_done()
    }

    /// Ends the connection by a reset when it is closed.
    pub(super) fn reset_on_close(&self) {
        if let Some(wire) = &self.wire {
            wire.reset_on_close();
        }
    }

    /// Waits for the end of the body or of its reader.
    pub(super) fn wait(&mut self, cx: &Context<'_>) {
        match &mut self.waiter {
            Some(waiter) => waiter.clone_from(cx.waker()),
            None => self.waiter = Some(cx.waker().clone()),
        }
    }

    /// Whoever waits is to be woken: the body that was read has ended, or its reader has gone.
    pub(super) fn take_waiter(&mut self) -> Option<Waker> {
        self.waiter.take()
    }

    /// Bytes that wait to be written.
    fn unwritten(&self) -> usize {
        self.output.len() + self.long.len() + self.tail.len()
    }

    /// Whether so much waits to be written that nothing is to be put behind it.
    pub(super) fn is_full(&self) -> bool {
        self.output.len() >= SMALL_BYTES || !self.long.is_empty()
    }

    /// Writes all that waits.
    pub(super) fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.unwritten() > 0 {
            let Some(wire) = self.wire.as_mut().map(Pin::new) else {
                return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
            };
            let written = if self.long.is_empty() && self.tail.is_empty() {
                ready!(wire.poll_write(cx, &self.output))?
            } else {
                let pieces = [&*self.output, &*self.long, self.tail].map(IoSlice::new);
                let first = pieces.iter().position(|piece| !piece.is_empty());
                let pieces = &pieces[first.unwrap_or_default()..];
                ready!(wire.poll_write_vectored(cx, pieces))?
            };
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.needs_flush = true;
            self.wrote(written);
        }
        // Kept, they would be an idle connection's.
        self.output = BytesMut::new();
        self.long = Bytes::new();
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, written: usize) {
        let of_output = written.min(self.output.len());
        self.output.advance(of_output);
        let of_long = (written - of_output).min(self.long.len());
        self.long.advance(of_long);
        let of_tail = written - of_output - of_long;
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
    }

    /// Writes all that waits, to the last byte that TLS holds.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_write(cx))?;
        if self.needs_flush {
            ready!(self.wire()?.poll_flush(cx))?;
            self.needs_flush = false;
        }
        Poll::Ready(Ok(()))
    }

    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.wire {
            Some(wire) => Pin::new(wire).poll_shutdown(cx),
            None => Poll::Ready(Ok(())),
        }
    }
}
