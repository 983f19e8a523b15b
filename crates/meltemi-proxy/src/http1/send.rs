//! A message on its way out: its head stands in the connection's output, its body follows as it comes.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::Body;

use super::encode::Encoder;
use super::error::{BoxError, Error};
use super::stream::Shared;

/// Sends a body. What is there of it leaves in as few writes as there can be, the head with it.
pub(super) struct Sending<B> {
    /// `None` when all of it was read: it may hold a connection, which others wait for.
    body: Option<B>,
    encoder: Encoder,
    ended: bool,
}

impl<B> Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    pub(super) fn new(body: B, encoder: Encoder) -> Self {
        Self {
            body: Some(body),
            ended: encoder == Encoder::Nothing,
            encoder,
        }
    }

    /// The end of the connection is the end of the body: cut off, it would look whole.
    pub(super) fn ends_connection(&self) -> bool {
        self.encoder == Encoder::UntilEnd
    }

    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
    ) -> Poll<Result<(), Error>> {
        loop {
            let has_more = self.gather(cx, shared)?;
            let mut stream = shared.lock();
            if has_more {
                ready!(stream.poll_write(cx))?;
                continue;
            }
            let flushed = stream.poll_flush(cx);
            drop(stream);
            if self.ended {
                // Whatever the body does at its end comes after its last byte.
                self.body = None;
                return flushed.map_err(Error::from);
            }
            ready!(flushed)?;
            return Poll::Pending;
        }
    }

    /// Takes as much of the body as is written at once. Whether there may be more.
    fn gather(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Result<bool, Error> {
        let Some(body) = &mut self.body else {
            return Ok(false);
        };
        while !self.ended {
            if !body.is_end_stream() {
                if shared.lock().is_full() {
                    return Ok(true);
                }
                match Pin::new(&mut *body).poll_frame(cx) {
                    Poll::Pending => return Ok(false),
                    Poll::Ready(Some(Ok(frame))) => {
                        self.encoder.frame(frame, &mut shared.lock())?;
                        continue;
                    }
                    Poll::Ready(Some(Err(error))) => return Err(Error::Body(error.into())),
                    Poll::Ready(None) => {}
                }
            }
            self.encoder.end(&mut shared.lock())?;
            self.ended = true;
        }
        Ok(false)
    }
}
