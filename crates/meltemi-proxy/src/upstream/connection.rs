//! Makes one connection to an upstream: socket, TLS, HTTP handshake.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Waker};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use meltemi_pki::HandshakeInfo;
use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::task::coop::has_budget_remaining;

use crate::http::body::RequestBody;
use crate::io::{Gathered, Transport, Turn, gather};

/// What is fixed for the life of an upstream connection.
#[derive(Debug, Default)]
pub(crate) struct ConnectionFacts {
    pub(crate) local: Option<SocketAddr>,
    pub(crate) handshake: Option<HandshakeInfo>,
    pub(crate) principals: Arc<Principals>,
    pub(crate) is_http2: bool,
}

/// Who the two ends of a connection proved to be, as metrics tell of them. Connections with the same ends share one, so
/// that what was found for one of them is found again by its address.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Principals {
    pub(crate) local: Option<String>,
    pub(crate) peer: Option<String>,
}

impl Principals {
    pub(crate) fn of(handshake: Option<&HandshakeInfo>) -> Self {
        let local = handshake.and_then(|handshake| handshake.local.as_ref());
        let peer = handshake.and_then(|handshake| handshake.peer.as_ref());
        Self {
            local: local.map(ToString::to_string),
            peer: peer.map(|peer| peer.identity.to_string()),
        }
    }
}

/// Speaks HTTP/1 on `transport`.
pub(crate) async fn http1(
    transport: Transport,
    preserve_header_case: bool,
    guard: impl Send + 'static,
) -> hyper::Result<(http1::SendRequest<RequestBody>, Driver)> {
    let (sender, connection) = http1::Builder::new()
        .max_buf_size(crate::http::MAX_HEAD_BYTES)
        .preserve_header_case(preserve_header_case)
        .handshake(TokioIo::new(transport))
        .await?;
    let driving = async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "upstream connection ended");
        }
        drop(guard);
    };
    Ok((sender, Driver(Some(Box::pin(driving)))))
}

/// Reads and writes an HTTP/1 connection, in the task of the request that it carries: a task of its own would be two more
/// wake-ups per request. Between requests nothing drives it; what its peer did then shows at the next look.
pub(crate) struct Driver(Option<Pin<Box<dyn Future<Output = ()> + Send>>>);

impl Driver {
    /// Lets the connection go as far as it can, then looks at what that brought to `exchange`, the connection's other end.
    pub(crate) fn poll<T>(
        &mut self,
        cx: &mut Context<'_>,
        mut exchange: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> Poll<T> {
        if self.0.is_none() {
            return exchange(cx);
        }
        self.drive(cx);
        if !has_budget_remaining() {
            // The runtime makes it wait for the next turn, whatever there is.
            return exchange(cx);
        }
        // Nobody but the connection moves this end, so that it has nothing to wake.
        exchange(&mut Context::from_waker(Waker::noop()))
    }

    /// Takes note of what the peer did in the meantime.
    pub(crate) fn look(&mut self) {
        self.drive(&mut Context::from_waker(Waker::noop()));
    }

    /// Leaves the connection to a task, where nobody will ask for both its directions.
    pub(crate) fn hand_over(&mut self) {
        if let Some(driving) = self.0.take()
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(driving);
        }
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(driving) = &mut self.0
            && driving.as_mut().poll(cx).is_ready()
        {
            self.0 = None;
        }
    }
}

impl Drop for Driver {
    /// Ends the connection in good order; its requests are gone before.
    fn drop(&mut self) {
        self.look();
        self.hand_over();
    }
}

/// Speaks HTTP/2 on `transport`; also hands out the peer's current stream limit.
pub(crate) async fn http2(
    transport: Transport,
    guard: impl Send + 'static,
) -> hyper::Result<(http2::SendRequest<RequestBody>, Arc<AtomicUsize>)> {
    let (gathered, turn) = gather(transport);
    let (sender, connection) = http2::Builder::new(Executor(Arc::new(Mutex::new(Some(turn)))))
        .timer(TokioTimer::new())
        .initial_stream_window_size(crate::http::H2_STREAM_WINDOW_BYTES)
        .initial_connection_window_size(crate::http::H2_CONNECTION_WINDOW_BYTES)
        .handshake(TokioIo::new(gathered))
        .await?;
    let max_streams = Arc::new(AtomicUsize::new(super::pool::DEFAULT_MAX_STREAMS));
    let task = WatchedConnection {
        connection: Box::pin(connection),
        max_streams: max_streams.clone(),
        polls: 0,
    };
    tokio::spawn(async move {
        if let Err(error) = task.await {
            tracing::debug!(%error, "upstream connection ended");
        }
        drop(guard);
    });
    Ok((sender, max_streams))
}

/// Starts the tasks of a connection. The first is the one that reads and writes, and ends its turns with a flush.
#[derive(Clone)]
struct Executor(Arc<Mutex<Option<Turn<Transport>>>>);

impl<F> hyper::rt::Executor<F> for Executor
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        match self.0.lock().take() {
            Some(turn) => tokio::spawn(async move {
                let mut task = std::pin::pin!(task);
                poll_fn(|cx| turn.poll(cx, |cx| task.as_mut().poll(cx))).await
            }),
            None => tokio::spawn(task),
        };
    }
}

type H2Connection = http2::Connection<TokioIo<Gathered<Transport>>, RequestBody, Executor>;

/// Publishes the peer's stream limit, which only the connection itself knows.
struct WatchedConnection {
    connection: Pin<Box<H2Connection>>,
    max_streams: Arc<AtomicUsize>,
    polls: u32,
}

impl Future for WatchedConnection {
    type Output = hyper::Result<()>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polled = self.connection.as_mut().poll(cx);
        self.polls = self.polls.wrapping_add(1);
        // SETTINGS come first and rarely change; reading them takes a lock of the connection.
        if self.polls < 8 || self.polls.is_multiple_of(64) {
            self.max_streams.store(
                self.connection.current_max_send_streams(),
                Ordering::Relaxed,
            );
        }
        polled
    }
}
