//! The bytes of an HTTP connection, between its transport and whoever reads them as HTTP.
//!
//! On a downstream's, what the HTTP/2 library would repair or answer without end is stopped here ([`http2`]); a peer that
//! takes nothing is given up; and the connection lingers for a while after its last byte, so that an answer is not lost to a
//! reset (Envoy `delayed_close_timeout`).

mod http2;
mod patience;
mod state;

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use meltemi_proxy_core::runtime::HttpConnectionManager;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

pub(crate) use patience::Unfinished;
use patience::poll_discard;
pub(crate) use state::WireState;

use crate::io::Transport;

/// A transport with what watches over it.
pub(crate) struct Wire {
    transport: Transport,
    /// Of HTTP/2.
    guard: Option<Box<http2::Guard>>,
    /// A peer that takes nothing of what waits for it (Envoy `stream_idle_timeout`). Nobody asks a body for anything while
    /// the connection cannot write, so the limits of the response itself see nothing of this.
    stalled: Unfinished,
    linger: Linger,
}

/// What is left to do when the library has closed its side.
struct Linger {
    limit: Option<Duration>,
    is_shut: bool,
    peer_is_gone: bool,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Wire {
    /// Of a downstream.
    pub(crate) fn new(
        transport: Transport,
        is_http2: bool,
        manager: &HttpConnectionManager,
        state: Arc<WireState>,
    ) -> Self {
        Self {
            guard: is_http2.then(|| Box::new(http2::Guard::new(manager, state))),
            stalled: Unfinished::new(manager.stream_idle_timeout),
            ..Self::bare(transport, manager.delayed_close_timeout)
        }
    }

    /// Of an upstream, which its requests watch over.
    pub(crate) fn upstream(transport: Transport) -> Self {
        Self::bare(transport, None)
    }

    fn bare(transport: Transport, linger: Option<Duration>) -> Self {
        Self {
            transport,
            guard: None,
            stalled: Unfinished::new(None),
            linger: Linger {
                limit: linger,
                is_shut: false,
                peer_is_gone: false,
                timer: None,
            },
        }
    }

    /// From now on it carries bytes that mean nothing to us, for as long as both sides like.
    pub(crate) fn become_tunnel(&mut self) {
        self.stalled = Unfinished::new(None);
        self.linger.limit = None;
    }

    /// Closing it sends a TCP reset.
    pub(crate) fn reset_on_close(&self) {
        self.transport.socket().reset_on_close();
    }

    /// Ends it in good order, as far as that goes without waiting.
    pub(crate) fn hang_up(mut self) {
        let cx = &mut Context::from_waker(Waker::noop());
        let _unsaid = Pin::new(&mut self.transport).poll_shutdown(cx);
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let result = ready!(match &mut this.guard {
            Some(guard) => guard.poll_read(&mut this.transport, cx, buf),
            None => Pin::new(&mut this.transport).poll_read(cx, buf),
        });
        this.linger.peer_is_gone |= result.is_ok() && buf.filled().len() == before;
        Poll::Ready(result)
    }
}

impl Wire {
    /// Counts what was written.
    fn wrote(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if let (Some(guard), Poll::Ready(Ok(bytes))) = (&mut self.guard, &written) {
            guard.sent(*bytes);
        }
        self.bounded(cx, written)
    }

    /// Gives a peer up that takes nothing for too long.
    fn bounded<T>(
        &mut self,
        cx: &mut Context<'_>,
        taken: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.stalled.done();
        } else if self.stalled.poll_expired(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        taken
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.transport).poll_write(cx, buf);
        this.wrote(cx, written)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.transport).poll_write_vectored(cx, bufs);
        this.wrote(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.transport.is_write_vectored()
    }

    /// TLS takes what does not fit into the socket, and waits here for it to go.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let flushed = Pin::new(&mut this.transport).poll_flush(cx);
        this.bounded(cx, flushed)
    }

    /// Ends our side, then reads and forgets what the peer still sends: closing on unread bytes would reset the connection,
    /// and a reset overtakes the answer.
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.linger.is_shut {
            ready!(Pin::new(&mut this.transport).poll_shutdown(cx))?;
            this.linger.is_shut = true;
        }
        if this.linger.peer_is_gone {
            return Poll::Ready(Ok(()));
        }
        let Some(limit) = this.linger.limit else {
            return Poll::Ready(Ok(()));
        };
        let timer = this
            .linger
            .timer
            .get_or_insert_with(|| Box::pin(sleep(limit)));
        if timer.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        ready!(poll_discard(&mut this.transport, cx));
        this.linger.peer_is_gone = true;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::io::{Duplex, Replay, Socket};
    use tokio::io::AsyncWriteExt as _;
    use tokio::time::Instant;

    fn wire(limit: Option<Duration>, linger: Option<Duration>) -> (tokio::io::DuplexStream, Wire) {
        let (far, near) = tokio::io::duplex(16);
        (far, wire_on(near, limit, linger))
    }

    fn wire_on(
        stream: impl Duplex + 'static,
        limit: Option<Duration>,
        linger: Option<Duration>,
    ) -> Wire {
        Wire {
            stalled: Unfinished::new(limit),
            ..Wire::bare(
                Transport::Plain(Replay::from(Socket::boxed(stream))),
                linger,
            )
        }
    }

    /// Takes all that is written and gets rid of none of it, as TLS above a full socket.
    struct Hoarder;

    impl AsyncRead for Hoarder {
        fn poll_read(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            _: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Hoarder {
        fn poll_write(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_from_tls_is_given_up() {
        let mut wire = wire_on(Hoarder, Some(Duration::from_secs(300)), None);
        let started = Instant::now();
        wire.write_all(&[0; 64]).await.unwrap();
        let error = wire.flush().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 300);
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let (_far, mut wire) = wire(Some(Duration::from_secs(300)), None);
        let started = Instant::now();
        let error = wire.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert_eq!(started.elapsed().as_secs(), 300);
    }

    /// Envoy `delayed_close_timeout`.
    #[tokio::test(start_paused = true)]
    async fn lingers_for_the_peer_to_close_first() {
        let (far, mut lone) = wire(None, Some(Duration::from_secs(1)));
        let started = Instant::now();
        lone.shutdown().await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 1);
        drop(far);
        let (far, mut answered) = wire(None, Some(Duration::from_secs(1)));
        drop(far);
        let started = Instant::now();
        answered.shutdown().await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 0);
    }
}
