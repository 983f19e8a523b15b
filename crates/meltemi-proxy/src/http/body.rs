//! Bodies on their way through: requests that can be sent again, responses that bring their connection back.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use meltemi_proxy_core::error::ErrorKind;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::bounds::Bounds;
use super::exchange::Exchange;
use super::grpc::MessageCounter;
use super::incoming::Incoming;
use crate::upstream::Lease;

pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Request bytes kept for another attempt; longer requests are sent once.
pub(crate) const REPLAY_LIMIT_BYTES: usize = 64 * 1024;

/// What went by of a request's body, readable while it still flows.
#[derive(Debug, Default)]
pub(crate) struct BodyProgress {
    bytes: AtomicU64,
    messages: AtomicU64,
    /// Why the downstream's body has no end.
    broken: OnceLock<ErrorKind>,
    /// It will not be kept as a whole.
    overflowed: AtomicBool,
    ended_at: OnceLock<Instant>,
    changed: Notify,
}

impl BodyProgress {
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    pub(crate) fn fault(&self) -> Option<&ErrorKind> {
        self.broken.get()
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended_at.get().is_some()
    }

    pub(crate) fn ended_at(&self) -> Option<Instant> {
        self.ended_at.get().copied()
    }

    /// Returns when the body has ended.
    pub(crate) async fn ended(&self) {
        self.until(Self::has_ended).await;
    }

    /// Returns when the body has ended, broke off, or became too long to be kept.
    async fn settled(&self) {
        let is_settled = |this: &Self| {
            this.has_ended() || this.is_broken() || this.overflowed.load(Ordering::Relaxed)
        };
        self.until(is_settled).await;
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        loop {
            let mut notified = std::pin::pin!(self.changed.notified());
            notified.as_mut().enable();
            if condition(self) {
                return;
            }
            notified.await;
        }
    }

    pub(crate) fn end(&self) {
        let _first = self.ended_at.set(Instant::now());
        self.changed.notify_waiters();
    }

    fn broke(&self, fault: ErrorKind) {
        let _first = self.broken.set(fault);
        self.changed.notify_waiters();
    }

    fn overflow(&self) {
        self.overflowed.store(true, Ordering::Relaxed);
        self.changed.notify_waiters();
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The body of an upstream request.
#[derive(Debug)]
pub(crate) enum RequestBody {
    Empty,
    /// A copy of a whole body.
    Kept(VecDeque<Bytes>),
    Stream(Box<ReplayableBody>),
}

/// One attempt's reading of a body that several attempts share.
#[derive(Debug)]
pub(crate) struct ReplayableBody {
    source: Arc<ReplaySource>,
    attempt: u32,
    /// Frames of the kept prefix that this attempt has sent; the trailers count as one.
    position: usize,
}

/// A downstream body, with what was read of it kept up to a bound.
#[derive(Debug)]
pub(crate) struct ReplaySource {
    state: Mutex<ReplayState>,
    progress: Arc<BodyProgress>,
    size: SizeHint,
}

#[derive(Debug)]
struct ReplayState {
    incoming: Incoming,
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    trailers: Option<HeaderMap>,
    limit_bytes: usize,
    keeps_trailers: bool,
    /// More than the bound went by: no attempt can start from the beginning again, and what is sent is forgotten.
    overflowed: bool,
    ended: bool,
    messages: Option<MessageCounter>,
    /// The only attempt that may read on.
    attempt: u32,
}

impl ReplaySource {
    pub(crate) fn new(
        incoming: Incoming,
        limit_bytes: usize,
        grpc: bool,
        keeps_trailers: bool,
    ) -> Arc<Self> {
        let size = incoming.size_hint();
        let state = ReplayState {
            incoming,
            kept: VecDeque::new(),
            kept_bytes: 0,
            trailers: None,
            limit_bytes,
            keeps_trailers,
            overflowed: false,
            ended: false,
            messages: grpc.then(MessageCounter::default),
            attempt: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            progress: Arc::default(),
            size,
        })
    }

    pub(crate) fn progress(&self) -> &Arc<BodyProgress> {
        &self.progress
    }

    /// Whether another attempt could send the body from its beginning.
    pub(crate) fn can_replay(&self) -> bool {
        !self.state.lock().overflowed
    }

    /// A copy of the whole body once an attempt has read it; `None` if it is too long or broke off.
    pub(crate) async fn copied(&self) -> Option<VecDeque<Bytes>> {
        self.progress.settled().await;
        let state = self.state.lock();
        (state.ended && !state.overflowed).then(|| state.kept.clone())
    }

    /// Reads until the body has ended, or this much of it is kept, before any attempt does. Cancel-safe.
    ///
    /// # Errors
    /// The downstream broke off.
    pub(crate) async fn prefetch(&self, bytes: usize) -> Result<(), BoxError> {
        std::future::poll_fn(|cx| {
            let mut state = self.state.lock();
            while !state.ended && state.kept_bytes < bytes {
                match std::task::ready!(state.poll_read(cx, &self.progress)) {
                    None => break,
                    Some(Err(error)) => return Poll::Ready(Err(error)),
                    Some(Ok(())) => {}
                }
            }
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// What was prefetched, up to a length, and whether that is the whole body.
    pub(crate) fn prefix(&self, bytes: usize) -> (Bytes, bool) {
        let state = self.state.lock();
        let mut prefix = Vec::with_capacity(state.kept_bytes.min(bytes));
        for data in &state.kept {
            let room = bytes - prefix.len();
            prefix.extend(data.iter().take(room));
        }
        let is_whole = state.ended && state.kept_bytes <= bytes;
        (prefix.into(), is_whole)
    }

    /// Starts over; an earlier attempt that is still around reads no further.
    pub(crate) fn attempt(self: &Arc<Self>) -> RequestBody {
        let mut state = self.state.lock();
        state.attempt += 1;
        RequestBody::Stream(Box::new(ReplayableBody {
            source: self.clone(),
            attempt: state.attempt,
            position: 0,
        }))
    }
}

impl ReplayState {
    /// Reads one more frame of the downstream's body into what is kept.
    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        progress: &BodyProgress,
    ) -> Poll<Option<Result<(), BoxError>>> {
        if self.ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(None) => {
                self.end(progress);
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                progress.broke(error.request_fault());
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(Some(Ok(frame))) => {
                match frame.into_data() {
                    Ok(data) => self.keep(data, progress),
                    Err(frame) if self.keeps_trailers => self.trailers = frame.into_trailers().ok(),
                    Err(_) => {}
                }
                // Nobody asks again for what is beyond an announced length.
                if self.incoming.is_end_stream() {
                    self.end(progress);
                }
                Poll::Ready(Some(Ok(())))
            }
        }
    }

    fn end(&mut self, progress: &BodyProgress) {
        self.ended = true;
        progress.end();
    }

    /// Empty frames are dropped: sent on, one would be an empty DATA frame that does not end its stream, of which an HTTP/2
    /// peer may count only so many per connection (h2 closes it at the 101st).
    fn keep(&mut self, data: Bytes, progress: &BodyProgress) {
        if data.is_empty() {
            return;
        }
        progress.read(data.len());
        if let Some(counter) = &mut self.messages {
            progress
                .messages
                .fetch_add(counter.count(&data), Ordering::Relaxed);
        }
        self.kept_bytes += data.len();
        self.kept.push_back(data);
    }
}

impl ReplayableBody {
    /// Whether nothing follows: the last frame then carries the end with it.
    fn is_end_stream(&self) -> bool {
        let state = self.source.state.lock();
        let sent = if state.overflowed {
            state.kept.is_empty()
        } else {
            self.position >= state.kept.len()
        };
        state.ended && sent && state.trailers.is_none()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let mut guard = self.source.state.lock();
        let state = &mut *guard;
        if state.attempt != self.attempt {
            return Poll::Ready(Some(Err("another attempt took over".into())));
        }
        loop {
            if let Some(frame) = next_kept(state, &mut self.position) {
                return Poll::Ready(Some(Ok(frame)));
            }
            match std::task::ready!(state.poll_read(cx, &self.source.progress)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                Some(Ok(())) if state.kept_bytes > state.limit_bytes && !state.overflowed => {
                    state.overflowed = true;
                    self.source.progress.overflow();
                    state.kept.drain(..self.position);
                    self.position = 0;
                }
                Some(Ok(())) => {}
            }
        }
    }
}

fn next_kept(state: &mut ReplayState, position: &mut usize) -> Option<Frame<Bytes>> {
    if state.overflowed {
        let data = state.kept.pop_front().map(Frame::data);
        return data.or_else(|| state.trailers.take().map(Frame::trailers));
    }
    let frame = match state.kept.get(*position) {
        Some(data) => Frame::data(data.clone()),
        None if *position == state.kept.len() => Frame::trailers(state.trailers.clone()?),
        None => return None,
    };
    *position += 1;
    Some(frame)
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Kept(frames) => Poll::Ready(frames.pop_front().map(|data| Ok(Frame::data(data)))),
            Self::Stream(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Kept(frames) => frames.is_empty(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Kept(frames) => {
                SizeHint::with_exact(frames.iter().map(|data| data.len() as u64).sum())
            }
            Self::Stream(body) => body.source.size,
        }
    }
}

/// The body of a downstream response.
pub(crate) enum ResponseBody {
    Empty,
    Full(Option<Bytes>),
    Upstream(Box<UpstreamBody>),
}

/// A body read from an upstream. Its end, or its loss, ends the exchange.
pub(crate) struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
    exchange: Exchange,
    messages: Option<MessageCounter>,
    keeps_trailers: bool,
    idle: Option<super::timeouts::IdleTimer>,
    /// Bytes of the request when the response was last seen idle: a stream is idle when neither side moves.
    idle_received: u64,
    deadline: Option<Deadline>,
    /// Sets a deadline when the request has ended, which it has not yet.
    bounds: Option<Box<Bounds>>,
}

/// When a response must have ended, and what it is called if it has not.
struct Deadline {
    timer: Pin<Box<tokio::time::Sleep>>,
    kind: ErrorKind,
}

impl Deadline {
    fn of(bounds: &Bounds) -> Option<Self> {
        let (due, kind) = bounds.end()?;
        let timer = Box::pin(tokio::time::sleep_until(due));
        Some(Self { timer, kind })
    }
}

impl UpstreamBody {
    pub(crate) fn new(
        incoming: Incoming,
        lease: Lease,
        exchange: Exchange,
        keeps_trailers: bool,
        idle: Option<super::timeouts::IdleTimer>,
        bounds: &Bounds,
    ) -> Self {
        let messages = exchange.counts_messages().then(MessageCounter::default);
        let deadline = Deadline::of(bounds);
        let bounds = bounds.waits_for_request().then(|| Box::new(bounds.clone()));
        Self {
            incoming,
            lease: Some(lease),
            exchange,
            messages,
            keeps_trailers,
            idle,
            idle_received: 0,
            deadline,
            bounds,
        }
    }

    /// Whether a limit ended the response while nothing came.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Option<&'static str> {
        if self
            .bounds
            .as_ref()
            .is_some_and(|bounds| !bounds.waits_for_request())
        {
            self.deadline = self.bounds.take().and_then(|bounds| Deadline::of(&bounds));
        }
        if let Some(deadline) = &mut self.deadline
            && deadline.timer.as_mut().poll(cx).is_ready()
        {
            let kind = deadline.kind.clone();
            self.exchange.timed_out(kind);
            return Some("response timeout");
        }
        let idle = self.idle.as_mut()?;
        while idle.poll_expired(cx) {
            let body = self.exchange.request_body.as_ref();
            let received = body.map_or(0, |body| body.bytes());
            if received == self.idle_received {
                self.exchange.stream_idle();
                return Some("stream idle timeout");
            }
            self.idle_received = received;
            idle.touch();
        }
        None
    }

    fn end(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.finish();
        }
        self.exchange.complete();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Full(data) => Poll::Ready(data.take().map(|data| Ok(Frame::data(data)))),
            Self::Upstream(body) => Pin::new(&mut **body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty | Self::Full(None) => true,
            Self::Full(Some(_)) => false,
            Self::Upstream(body) => body.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty | Self::Full(None) => SizeHint::with_exact(0),
            Self::Full(Some(data)) => SizeHint::with_exact(data.len() as u64),
            Self::Upstream(body) => body.incoming.size_hint(),
        }
    }
}

impl Body for UpstreamBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let this = self.get_mut();
        let polled = loop {
            match Pin::new(&mut this.incoming).poll_frame(cx) {
                // As in `ReplayState::keep`.
                Poll::Ready(Some(Ok(frame))) if frame.data_ref().is_some_and(Bytes::is_empty) => {}
                polled => break polled,
            }
        };
        match polled {
            Poll::Pending => match this.poll_limits(cx) {
                Some(limit) => Poll::Ready(Some(Err(limit.into()))),
                None => Poll::Pending,
            },
            Poll::Ready(None) => {
                this.end();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => {
                this.exchange.upstream_reset(&error);
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(Some(Ok(frame))) if frame.is_trailers() && !this.keeps_trailers => {
                Pin::new(this).poll_frame(cx)
            }
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(idle) = &mut this.idle {
                    idle.touch();
                }
                if let Some(data) = frame.data_ref() {
                    let messages = this
                        .messages
                        .as_mut()
                        .map_or(0, |counter| counter.count(data));
                    this.exchange.sent(data.len() as u64, messages);
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.exchange.trailers(trailers);
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl Drop for UpstreamBody {
    fn drop(&mut self) {
        // Nobody asks again after a frame that ended the stream.
        if self.lease.is_some() && self.incoming.is_end_stream() {
            self.end();
        }
    }
}
