//! The downstream's end of a connection: requests come one after another, each is answered before the next is read.

use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, Version, header};
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::strict::{HeadRules, HeadScanner, Malformed, ScannedHead};
use tokio::sync::oneshot;

use super::body::Body;
use super::encode::{self, Asked};
use super::error::{BoxError, Error};
use super::head;
use super::send::Sending;
use super::stream::{Shared, Stream};
use super::tunnel::{OnTunnel, Tunnel};
use crate::http::wire::{Unfinished, Wire};

/// Bytes behind a request that are kept until it was answered.
const AHEAD_LIMIT_BYTES: usize = 64 * 1024;

pub(crate) struct ServerOptions {
    pub(crate) rules: HeadRules,
    /// For a head that was begun.
    pub(crate) head_timeout: Option<Duration>,
    pub(crate) preserve_header_case: bool,
    /// Trailers of responses are sent.
    pub(crate) enable_trailers: bool,
}

pub(crate) struct Server {
    shared: Shared,
    options: ServerOptions,
    scanner: HeadScanner,
    head_timer: Unfinished,
    served: Served,
    /// A request has come that was not answered to its end.
    is_serving: bool,
    /// No other request follows.
    is_last: bool,
    /// Gets the connection when the answer grants it.
    tunnel: Option<oneshot::Sender<Tunnel>>,
}

/// What a response must know of its request.
struct Served {
    method: Method,
    version: Version,
    keeps_alive: bool,
}

/// What comes next on a connection.
#[expect(
    clippy::large_enum_variant,
    reason = "nearly always a request, and taken apart at once"
)]
pub(crate) enum Next {
    /// With what becomes a tunnel if the answer is 101.
    Request(Request<Body>, Option<OnTunnel>),
    /// It is to be answered, and is the last.
    Refused(ErrorKind),
    End,
}

/// An extension of a request of which so much has come that its body is known to have no end: nothing of it is passed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BrokenBody(pub(crate) Malformed);

/// What becomes of a connection after an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum After {
    /// Another request may come.
    Next,
    Close,
    /// It was handed over.
    Tunnel,
}

impl Server {
    pub(crate) fn new(wire: Wire, options: ServerOptions) -> Self {
        Self {
            shared: Stream::shared(wire),
            scanner: HeadScanner::default(),
            head_timer: Unfinished::new(options.head_timeout),
            served: Served {
                method: Method::GET,
                version: Version::HTTP_11,
                keeps_alive: false,
            },
            options,
            is_serving: false,
            is_last: false,
            tunnel: None,
        }
    }

    /// Reads the next request's head, whole or not at all.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let shared = self.shared.clone();
        let mut stream = shared.lock();
        loop {
            if !stream.input.is_empty() {
                match self.scanner.scan(&stream.input, &self.options.rules) {
                    Ok(Some(scanned)) => return Poll::Ready(self.begin(&scanned, &mut stream)),
                    Ok(None) => {}
                    Err(malformed) => {
                        return Poll::Ready(self.refuse(ErrorKind::Malformed(malformed)));
                    }
                }
            }
            match stream.poll_fill(cx) {
                Poll::Ready(Ok(0) | Err(_)) => return Poll::Ready(Next::End),
                Poll::Ready(Ok(_)) => {}
                Poll::Pending if self.scanner.is_empty() => return Poll::Pending,
                Poll::Pending if self.head_timer.poll_expired(cx) => {
                    return Poll::Ready(self.refuse(ErrorKind::RequestHeadersTimeout));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    fn begin(&mut self, scanned: &ScannedHead, stream: &mut Stream) -> Next {
        let keeps_case = self.options.preserve_header_case;
        let read = head::request(&self.scanner, scanned, &mut stream.input, keeps_case);
        self.scanner = HeadScanner::default();
        self.head_timer.done();
        let mut request = match read {
            Ok(request) => request,
            Err(malformed) => return self.refuse(ErrorKind::Malformed(malformed)),
        };
        self.served = Served {
            method: request.method().clone(),
            version: request.version(),
            keeps_alive: head::keeps_alive(request.version(), request.headers()),
        };
        self.is_serving = true;
        stream.decoder = scanned.framing.into();
        if let Some(malformed) = stream.decoder.foresee(&stream.input) {
            request.extensions_mut().insert(BrokenBody(malformed));
        }
        stream.expects_continue = expects_continue(&request) && !stream.decoder.is_done();
        let body = Body::of(&self.shared, stream);
        let on_tunnel = scanned.asks_tunnel.then(|| {
            let (grant, on_tunnel) = oneshot::channel();
            self.tunnel = Some(grant);
            on_tunnel
        });
        Next::Request(request.map(|()| body), on_tunnel)
    }

    /// Where another request would begin is not known.
    fn refuse(&mut self, kind: ErrorKind) -> Next {
        self.is_serving = true;
        self.is_last = true;
        Next::Refused(kind)
    }

    /// Whether it waits for a request of which nothing has come.
    pub(crate) fn is_idle(&self) -> bool {
        !self.is_serving && self.scanner.is_empty() && self.shared.lock().input.is_empty()
    }

    /// No request is taken after the one that is being served.
    pub(crate) fn end_after_this(&mut self) {
        self.is_last = true;
    }

    /// Waits for the client to go. What it sends in the meantime is kept up to a bound; while there is a body to read, it is
    /// for its reader to notice.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = self.shared.lock();
        if !stream.decoder.is_done() {
            stream.wait(cx);
            return Poll::Pending;
        }
        while stream.input.len() < AHEAD_LIMIT_BYTES {
            if let Ok(0) | Err(_) = ready!(stream.poll_fill(cx)) {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }

    /// Begins to answer.
    ///
    /// # Errors
    /// The response announces a length that is none.
    pub(crate) fn respond<B>(&mut self, response: Response<B>) -> Result<Answer<B>, Error>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        let (parts, body) = response.into_parts();
        let mut stream = self.shared.lock();
        // Whether the body comes that the client was not asked for, is not known.
        self.is_last |= std::mem::take(&mut stream.expects_continue);
        let asked = Asked {
            method: &self.served.method,
            version: self.served.version,
            keeps_alive: self.served.keeps_alive && !self.is_last,
            keeps_case: self.options.preserve_header_case,
            trailers: self.options.enable_trailers,
        };
        let size = (body.is_end_stream(), body.size_hint());
        let before = stream.output.len();
        let encoded = encode::response(&parts, size, &asked, &mut stream.output);
        let (encoder, is_last) = encoded.inspect_err(|_| stream.output.truncate(before))?;
        self.is_last |= is_last;
        if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            self.tunnel = None;
        }
        Ok(Answer(Sending::new(body, encoder)))
    }

    /// Writes an answer on.
    ///
    /// # Errors
    /// It cannot be sent to its end.
    pub(crate) fn poll_answer<B>(
        &mut self,
        answer: &mut Answer<B>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Error>>
    where
        B: http_body::Body<Data = Bytes> + Unpin,
        B::Error: Into<BoxError>,
    {
        answer.0.poll(cx, &self.shared)
    }

    /// After the answer. A body that is still being read, is read to its end; one that nobody reads ends the connection,
    /// unless the rest of it has come already.
    pub(crate) fn poll_after(&mut self, cx: &mut Context<'_>) -> Poll<After> {
        let mut stream = self.shared.lock();
        if let Some(grant) = self.tunnel.take() {
            if !stream.decoder.is_done() {
                return Poll::Ready(After::Close);
            }
            if let Some(tunnel) = Tunnel::take(&mut stream) {
                // Whoever waited may have gone: that ends the connection.
                let _gone = grant.send(tunnel);
            }
            return Poll::Ready(After::Tunnel);
        }
        if self.is_last {
            return Poll::Ready(After::Close);
        }
        if !stream.decoder.is_done() {
            if Arc::strong_count(&self.shared) > 1 {
                stream.wait(cx);
                return Poll::Pending;
            }
            if !stream.skip_body() {
                return Poll::Ready(After::Close);
            }
        }
        self.is_serving = false;
        Poll::Ready(After::Next)
    }

    /// Sends what is left to send, and ends the connection in good order.
    pub(crate) fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut stream = self.shared.lock();
        let ended = match ready!(stream.poll_flush(cx)) {
            Ok(()) => ready!(stream.poll_shutdown(cx)),
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "downstream connection broke");
        }
        Poll::Ready(())
    }

    /// Ends the connection so that nobody takes what was sent for whole.
    pub(crate) fn reset(&mut self) {
        self.shared.lock().reset_on_close();
    }
}

impl Drop for Server {
    /// A body may outlive the connection; it is not to keep it open.
    fn drop(&mut self) {
        drop(self.shared.lock().take());
    }
}

/// A response on its way out.
pub(crate) struct Answer<B>(Sending<B>);

impl<B> Answer<B>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: Into<BoxError>,
{
    /// Where it ends is told by the end of the connection.
    pub(crate) fn ends_connection(&self) -> bool {
        self.0.ends_connection()
    }
}

/// RFC 9110 section 10.1.1.
fn expects_continue(request: &Request<()>) -> bool {
    let expect = request.headers().get(header::EXPECT);
    request.version() == Version::HTTP_11
        && expect.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}
