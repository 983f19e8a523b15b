//! The upstream's end of a connection: one request after another.
//!
//! A request is written, and its response's head read, in the task that sends it. If the head comes before the request was
//! written to its end, the rest of that goes on in a task of its own, beside the response's body.

use std::future::poll_fn;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Method, Request, Response};
use tokio::task::JoinHandle;

use super::body::Body;
use super::error::{BoxError, Error};
use super::send::Sending;
use super::stream::{Shared, Stream};
use super::tunnel::Tunnel;
use super::{encode, head};
use crate::http::wire::Wire;

/// Bytes of a response's head.
const MAX_HEAD_BYTES: usize = 128 * 1024;
/// Interim responses before the one that counts.
const MAX_INTERIM: u32 = 32;

#[derive(Debug, Clone, Copy)]
pub(crate) struct ClientOptions {
    pub(crate) preserve_header_case: bool,
    /// Trailers of requests are sent.
    pub(crate) enable_trailers: bool,
}

pub(crate) struct Client {
    shared: Shared,
    options: ClientOptions,
    /// The rest of a request.
    upload: Option<Upload>,
    /// Whether the last exchange lets another follow.
    keeps_alive: bool,
}

struct Upload(JoinHandle<Result<(), Error>>);

impl Drop for Upload {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A request that got no response.
#[derive(Debug)]
pub(crate) struct SendError {
    pub(crate) error: Error,
    /// Nothing of it was written.
    pub(crate) is_unsent: bool,
}

impl Client {
    pub(crate) fn new(wire: Wire, options: ClientOptions) -> Self {
        Self {
            shared: Stream::shared(wire),
            options,
            upload: None,
            keeps_alive: true,
        }
    }

    /// Whether it waits for a request, as far as its peer has told.
    pub(crate) fn is_open(&self) -> bool {
        // Between exchanges nothing is expected: whatever comes ends the connection.
        let cx = &mut Context::from_waker(Waker::noop());
        self.is_free() && self.shared.lock().poll_fill(cx).is_pending()
    }

    /// Whether the last exchange is over in both directions, and another may follow.
    pub(crate) fn is_free(&self) -> bool {
        if !self.keeps_alive || self.upload.is_some() {
            return false;
        }
        let stream = self.shared.lock();
        stream.decoder.is_done() && stream.input.is_empty()
    }

    /// Whether a request is still being written that has its response.
    pub(crate) fn is_sending(&self) -> bool {
        self.upload.is_some()
    }

    /// Waits until the request was written to its end, which the response did not wait for.
    pub(crate) async fn settle(&mut self) {
        if let Some(upload) = &mut self.upload {
            let written = matches!((&mut upload.0).await, Ok(Ok(())));
            self.keeps_alive &= written;
            self.upload = None;
        }
    }

    /// Sends a request and waits for the response's head.
    ///
    /// # Errors
    /// There is no response.
    pub(crate) async fn send<B>(&mut self, request: Request<B>) -> Result<Response<Body>, SendError>
    where
        B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<BoxError>,
    {
        if !self.is_open() {
            return Err(SendError {
                error: Error::Closed,
                is_unsent: true,
            });
        }
        // Until it has been answered.
        self.keeps_alive = false;
        let failed = |error| SendError {
            error,
            is_unsent: false,
        };
        let (parts, body) = request.into_parts();
        let encoder = {
            let output = &mut self.shared.lock().output;
            let trailers = self.options.enable_trailers;
            encode::request(&parts, body.is_end_stream(), trailers, output).map_err(failed)?
        };
        let mut sending = Some(Sending::new(body, encoder));
        let mut reading = ReadHead {
            asked: parts.method,
            keeps_case: self.options.preserve_header_case,
            seen: 0,
            interim: 0,
        };
        let response = poll_fn(|cx| {
            let sent = match &mut sending {
                Some(rest) => rest.poll(cx, &self.shared),
                None => Poll::Pending,
            };
            let failure = match sent {
                Poll::Ready(sent) => {
                    sending = None;
                    sent.err()
                }
                Poll::Pending => None,
            };
            // A peer that takes no more may have answered why.
            match (reading.poll(cx, &self.shared), failure) {
                (Poll::Pending, Some(failure)) => Poll::Ready(Err(failure)),
                (polled, _) => polled,
            }
        });
        let response = response.await.map_err(failed)?;
        self.keeps_alive = head::keeps_alive(response.version(), response.headers());
        if let Some(mut rest) = sending {
            let shared = self.shared.clone();
            let uploading = async move { poll_fn(|cx| rest.poll(cx, &shared)).await };
            self.upload = Some(Upload(tokio::spawn(uploading)));
        }
        Ok(response)
    }

    /// The connection behind a 101.
    pub(crate) fn take_tunnel(&mut self) -> Option<Tunnel> {
        Tunnel::take(&mut self.shared.lock())
    }
}

impl Drop for Client {
    /// Says goodbye, as far as that goes without waiting.
    fn drop(&mut self) {
        self.upload = None;
        if let Some((_, wire)) = self.shared.lock().take() {
            wire.hang_up();
        }
    }
}

/// Waits for the head of the response.
struct ReadHead {
    asked: Method,
    keeps_case: bool,
    /// Bytes of the input in which no head ends.
    seen: usize,
    interim: u32,
}

impl ReadHead {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
    ) -> Poll<Result<Response<Body>, Error>> {
        let mut stream = shared.lock();
        loop {
            if let Some(end) = head::response_end(&stream.input, self.seen) {
                self.seen = 0;
                let read = head::response(&mut stream.input, end, &self.asked, self.keeps_case)?;
                if let Some((response, decoder)) = read {
                    stream.decoder = decoder;
                    let body = Body::of(shared, &stream);
                    return Poll::Ready(Ok(response.map(|()| body)));
                }
                self.interim += 1;
                if self.interim > MAX_INTERIM {
                    return Poll::Ready(Err(Error::Response("too many interim responses")));
                }
                continue;
            }
            self.seen = stream.input.len();
            if self.seen > MAX_HEAD_BYTES {
                return Poll::Ready(Err(Error::Response("head too large")));
            }
            match ready!(stream.poll_fill(cx)) {
                Ok(0) if stream.input.is_empty() => return Poll::Ready(Err(Error::Closed)),
                Ok(0) => return Poll::Ready(Err(Error::Incomplete)),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}
