//! Gathers what an HTTP/2 connection writes in one turn of its task.
//!
//! The library flushes behind every DATA frame of 256 bytes or more, however many wait: on a connection with many streams
//! each small message would leave in a TLS record and a system call of its own. Here its flushes wait until the connection
//! has nothing more to do, which whoever drives it knows.
//!
//! ```text
//! library -> Gathered --what does not fit--> stream            (within the turn)
//!            Turn::poll --all that is left--> stream, flushed  (at its end)
//! ```

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::lent::{Lent, SMALL_BYTES, Size};
use super::pieces;

/// The library's end.
pub(crate) struct Gathered<S>(Arc<Mutex<Shared<S>>>);

/// The end of whoever drives the connection.
pub(crate) struct Turn<S>(Arc<Mutex<Shared<S>>>);

struct Shared<S> {
    stream: S,
    /// What was written and has not gone on, as much as one TLS record holds.
    gathered: Option<Gather>,
    is_flushed: bool,
    /// Why the last flush failed, until the library asks.
    failure: Option<io::Error>,
}

struct Gather {
    buffer: Lent,
    start: usize,
    end: usize,
}

pub(crate) fn gather<S>(stream: S) -> (Gathered<S>, Turn<S>) {
    let shared = Arc::new(Mutex::new(Shared {
        stream,
        gathered: None,
        is_flushed: true,
        failure: None,
    }));
    (Gathered(shared.clone()), Turn(shared))
}

impl<S: AsyncWrite + Unpin> Turn<S> {
    /// Gives the connection its turn, then sends what it wrote. `cx` must be of the task that drives the connection: it is
    /// woken when the stream takes more.
    pub(crate) fn poll<T>(
        &self,
        cx: &mut Context<'_>,
        mut connection: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        let polled = connection(cx);
        let flushed = self.0.lock().poll_flush(cx);
        match flushed {
            Poll::Ready(Err(error)) if polled.is_pending() => {
                self.0.lock().failure = Some(error);
                // It must learn of this at once: nothing else may ever wake it.
                connection(cx)
            }
            _ => polled,
        }
    }
}

impl<S: AsyncWrite + Unpin> Shared<S> {
    /// Passes on what was gathered.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(gather) = &mut self.gathered {
            let rest = &gather.buffer[gather.start..gather.end];
            let written = ready!(Pin::new(&mut self.stream).poll_write(cx, rest))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            gather.start += written;
            if gather.start == gather.end {
                self.gathered = None;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_flushed {
            ready!(self.poll_drain(cx))?;
            ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.check()?;
        self.is_flushed = false;
        let length = bufs.iter().map(|buf| buf.len()).sum();
        let room = SMALL_BYTES - self.gathered.as_ref().map_or(0, |gather| gather.end);
        if length > room {
            ready!(self.poll_drain(cx))?;
        }
        if length > SMALL_BYTES {
            return Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        }
        let gather = self.gathered.get_or_insert_with(|| Gather {
            buffer: Lent::new(Size::Small),
            start: 0,
            end: 0,
        });
        for buf in bufs {
            let end = gather.end + buf.len();
            pieces::copy(&mut gather.buffer[gather.end..end], buf);
            gather.end = end;
        }
        Poll::Ready(Ok(length))
    }

    fn check(&mut self) -> io::Result<()> {
        self.failure.take().map_or(Ok(()), Err)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        shared.check()?;
        Pin::new(&mut shared.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.lock().poll_write(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Left to the end of the turn.
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        shared.is_flushed = false;
        Poll::Ready(shared.check())
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut shared = self.0.lock();
        shared.check()?;
        ready!(shared.poll_flush(cx))?;
        Pin::new(&mut shared.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::task::Waker;

    /// Takes `room` bytes and notes the length of each write; a read finds nothing.
    struct Sink {
        room: usize,
        written: Vec<usize>,
        flushes: usize,
        is_broken: bool,
    }

    impl Sink {
        fn new(room: usize) -> Self {
            Self {
                room,
                written: Vec::new(),
                flushes: 0,
                is_broken: false,
            }
        }
    }

    impl AsyncRead for Sink {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.is_broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            let taken = buf.len().min(self.room);
            if taken == 0 {
                return Poll::Pending;
            }
            self.room -= taken;
            self.written.push(taken);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.flushes += 1;
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn write(
        to: &mut Gathered<Sink>,
        cx: &mut Context<'_>,
        bytes: usize,
    ) -> Poll<io::Result<usize>> {
        let buf = vec![7; bytes];
        let written = Pin::new(&mut *to).poll_write_vectored(cx, &[IoSlice::new(&buf)]);
        assert!(Pin::new(to).poll_flush(cx).is_ready());
        written
    }

    #[test]
    fn what_one_turn_writes_leaves_at_its_end_at_once() {
        let (mut gathered, turn) = gather(Sink::new(usize::MAX));
        let mut cx = Context::from_waker(Waker::noop());
        let polled = turn.poll(&mut cx, |cx| {
            for _ in 0..3 {
                assert!(matches!(
                    write(&mut gathered, cx, 1000),
                    Poll::Ready(Ok(1000))
                ));
            }
            assert!(gathered.0.lock().stream.written.is_empty());
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        let shared = turn.0.lock();
        assert_eq!(shared.stream.written, [3000]);
        assert_eq!(shared.stream.flushes, 1);
        assert!(
            shared.gathered.is_none(),
            "an idle connection has no buffer"
        );
    }

    #[test]
    fn what_does_not_fit_pushes_the_rest_on() {
        let (mut gathered, turn) = gather(Sink::new(usize::MAX));
        let mut cx = Context::from_waker(Waker::noop());
        let polled = turn.poll(&mut cx, |cx| {
            for bytes in [10_000, 9_000, SMALL_BYTES + 1, 5] {
                assert!(write(&mut gathered, cx, bytes).is_ready());
            }
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        let expected = [10_000, 9_000, SMALL_BYTES + 1, 5];
        assert_eq!(turn.0.lock().stream.written, expected);
    }

    #[test]
    fn a_slow_stream_stops_the_connection_and_gets_the_rest_later() {
        let (mut gathered, turn) = gather(Sink::new(4_000));
        let mut cx = Context::from_waker(Waker::noop());
        let polled = turn.poll(&mut cx, |cx| {
            assert!(write(&mut gathered, cx, 10_000).is_ready());
            assert!(write(&mut gathered, cx, 10_000).is_pending());
            Poll::<()>::Pending
        });
        assert!(polled.is_pending());
        turn.0.lock().stream.room = usize::MAX;
        assert!(turn.poll(&mut cx, |_| Poll::<()>::Pending).is_pending());
        assert_eq!(turn.0.lock().stream.written, [4_000, 6_000]);
    }

    #[test]
    fn a_connection_learns_at_once_that_its_stream_broke() {
        let mut sink = Sink::new(usize::MAX);
        sink.is_broken = true;
        let (mut gathered, turn) = gather(sink);
        let mut cx = Context::from_waker(Waker::noop());
        let mut is_first = true;
        let polled = turn.poll(&mut cx, |cx| {
            if std::mem::take(&mut is_first) {
                assert!(write(&mut gathered, cx, 10).is_ready());
            }
            Pin::new(&mut gathered).poll_read(cx, &mut ReadBuf::new(&mut [0; 8]))
        });
        assert!(
            matches!(polled, Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe)
        );
    }

    #[tokio::test]
    async fn closing_sends_what_is_left() {
        let (mut gathered, turn) = gather(Sink::new(usize::MAX));
        let ended = poll_fn(|cx| {
            assert!(write(&mut gathered, cx, 10).is_ready());
            Pin::new(&mut gathered).poll_shutdown(cx)
        });
        ended.await.unwrap();
        assert_eq!(turn.0.lock().stream.written, [10]);
    }
}
