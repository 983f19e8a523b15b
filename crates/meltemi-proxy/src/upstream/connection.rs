//! Makes one connection to an upstream: socket, TLS, HTTP handshake.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use meltemi_pki::HandshakeInfo;
use parking_lot::Mutex;

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
