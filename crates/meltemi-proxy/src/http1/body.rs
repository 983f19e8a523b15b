use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use super::error::Error;
use super::stream::{Shared, Stream};

/// The body of a message as it is read from its connection.
pub(crate) struct Body {
    /// `None` when nothing follows.
    stream: Option<Shared>,
    size: SizeHint,
}

impl Body {
    pub(super) fn empty() -> Self {
        Self {
            stream: None,
            size: SizeHint::with_exact(0),
        }
    }

    /// Of the message whose head was just read from `stream`, which says by its framing how long it is.
    pub(super) fn of(shared: &Shared, stream: &Stream) -> Self {
        use super::decode::Decoder;
        match &stream.decoder {
            Decoder::Done => Self::empty(),
            Decoder::Length(length) => Self {
                stream: Some(shared.clone()),
                size: SizeHint::with_exact(*length),
            },
            Decoder::Chunked(_) | Decoder::UntilEnd | Decoder::Broken => Self {
                stream: Some(shared.clone()),
                size: SizeHint::new(),
            },
        }
    }
}

impl Body {
    /// Leaves the connection to whoever else holds it.
    fn release(&mut self) {
        if let Some(shared) = self.stream.take() {
            let waiter = shared.lock().take_waiter();
            // Before it looks who is left.
            drop(shared);
            if let Some(waiter) = waiter {
                waiter.wake();
            }
        }
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = self.get_mut();
        let Some(shared) = &this.stream else {
            return Poll::Ready(None);
        };
        let mut stream = shared.lock();
        let polled = stream.poll_frame(cx);
        let ended = match &polled {
            Poll::Pending => false,
            Poll::Ready(Some(Ok(_))) => stream.decoder.is_done(),
            Poll::Ready(None | Some(Err(_))) => true,
        };
        drop(stream);
        if ended {
            this.release();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        self.size
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.release();
    }
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Body")
            .field("is_end", &self.stream.is_none())
            .finish_non_exhaustive()
    }
}
