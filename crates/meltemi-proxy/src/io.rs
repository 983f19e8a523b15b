//! Byte streams of the data path: a socket, a socket whose first bytes were already read, and either of them in TLS.

mod forward;
pub(crate) mod lent;
mod pieces;
mod read_ahead;
mod turn;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

pub(crate) use forward::{forward_read, forward_write};
pub(crate) use read_ahead::ReadAhead;
pub(crate) use turn::{Gathered, Turn, gather};

use pieces::InPieces;

/// What a boxed stream must be able to do: an upgraded HTTP stream or a memory pipe stands in for a socket.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// The transport below TLS.
pub(crate) enum Socket {
    Tcp(TcpStream),
    Boxed(Box<dyn Duplex>),
}

impl Socket {
    pub(crate) fn boxed(stream: impl Duplex + 'static) -> Self {
        Self::Boxed(Box::new(stream))
    }

    /// Makes closing this socket send a TCP reset instead of an orderly end, so that the peer learns at once that it was
    /// refused and no buffered byte is acknowledged.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self
            && let Err(error) = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "cannot arm a reset");
        }
    }
}

forward_read!(Socket: Self::Tcp(io) => io, Self::Boxed(io) => io);
forward_write!(Socket: Self::Tcp(io) => io, Self::Boxed(io) => io);

/// A socket that first gives back the bytes a sniffer took from it.
pub(crate) struct Replay {
    prefix: Bytes,
    socket: Socket,
}

impl Replay {
    pub(crate) fn new(prefix: Bytes, socket: Socket) -> Self {
        Self { prefix, socket }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Waits until a read may find something.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.socket {
            Socket::Tcp(stream) if self.prefix.is_empty() => stream.poll_read_ready(cx),
            _ => Poll::Ready(Ok(())),
        }
    }
}

impl From<Socket> for Replay {
    fn from(socket: Socket) -> Self {
        Self::new(Bytes::new(), socket)
    }
}

impl AsyncRead for Replay {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.socket).poll_read(cx, buf);
        }
        let taken = this.prefix.len().min(buf.remaining());
        buf.put_slice(&this.prefix[..taken]);
        this.prefix.advance(taken);
        if this.prefix.is_empty() {
            this.prefix = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

forward_write!(Replay: Self { socket: io, .. } => io);

/// A stream in TLS.
pub(crate) struct Secured {
    stream: InPieces<TlsStream<ReadAhead<Replay>>>,
    /// The last read waits for the socket: until that has more, TLS has no more either.
    ///
    /// HTTP/1 looks for input at every turn of a connection, some five times per message. A look through TLS costs several
    /// hundred instructions, one at the socket few.
    waits: bool,
}

impl Secured {
    fn replay(&self) -> &Replay {
        self.stream.0.get_ref().0.get_ref()
    }
}

impl AsyncRead for Secured {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.waits {
            ready!(this.replay().poll_readable(cx))?;
        }
        let read = Pin::new(&mut this.stream).poll_read(cx, buf);
        this.waits = read.is_pending();
        read
    }
}

forward_write!(Secured: Self { stream: io, .. } => io);

/// One end of the proxy, in the clear or in TLS, on either side.
pub(crate) enum Transport {
    Plain(Replay),
    Tls(Box<Secured>),
}

impl Transport {
    pub(crate) fn tls(stream: impl Into<TlsStream<ReadAhead<Replay>>>) -> Self {
        Self::Tls(Box::new(Secured {
            stream: InPieces(stream.into()),
            waits: false,
        }))
    }

    pub(crate) fn socket(&self) -> &Socket {
        match self {
            Self::Plain(replay) => replay.socket(),
            Self::Tls(tls) => tls.replay().socket(),
        }
    }
}

forward_read!(Transport: Self::Plain(io) => io, Self::Tls(io) => io);
forward_write!(Transport: Self::Plain(io) => io, Self::Tls(io) => io);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn replays_the_prefix_before_the_socket() {
        let (mut far, near) = tokio::io::duplex(64);
        far.write_all(b"world").await.unwrap();
        drop(far);
        let mut replay = Replay::new(Bytes::from_static(b"hello "), Socket::boxed(near));
        let mut all = String::new();
        replay.read_to_string(&mut all).await.unwrap();
        assert_eq!(all, "hello world");
    }
}
