//! A connection that no longer speaks HTTP.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf as _, Bytes};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::oneshot;

use super::stream::Stream;
use crate::http::wire::Wire;
use crate::io::forward_write;

/// Told when the answer to a request granted it the connection.
pub(crate) type OnTunnel = oneshot::Receiver<Tunnel>;

/// The bytes behind a 101, both ways.
pub(crate) struct Tunnel {
    /// Read together with the head.
    prefix: Bytes,
    wire: Wire,
}

impl Tunnel {
    pub(super) fn take(stream: &mut Stream) -> Option<Self> {
        let (prefix, mut wire) = stream.take()?;
        wire.become_tunnel();
        Some(Self { prefix, wire })
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_empty() {
            return Pin::new(&mut this.wire).poll_read(cx, buf);
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

forward_write!(Tunnel: Self { wire: io, .. } => io);
