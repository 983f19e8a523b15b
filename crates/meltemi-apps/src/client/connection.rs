//! One connection of the load generator, in any protocol that the echo server speaks.

use std::error::Error;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use tokio::net::TcpStream;

use super::http_calls::{self, HttpConnection};
use super::{Options, Protocol, grpc, websocket};

pub(super) enum Connection {
    Http(HttpConnection),
    Grpc(grpc::Calls),
    GrpcStream(grpc::Messages),
    WebSocket(websocket::Messages),
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why there is no answer.
pub(super) struct Failure {
    /// What is counted.
    pub(super) kind: String,
    /// The server cannot have seen it (RFC 9113 8.7): clients send it again.
    pub(super) unsent: bool,
}

impl Failure {
    pub(super) fn new(step: &str, error: &(dyn Error + 'static)) -> Self {
        Self {
            kind: format!("{step}: {error}"),
            unsent: is_unsent(error),
        }
    }

    pub(super) fn said(kind: impl Into<String>) -> Self {
        Self {
            kind: kind.into(),
            unsent: false,
        }
    }
}

/// Sends one request or message, over the connection at hand while it is open; what provably was not taken, because the
/// connection was being closed, goes over a new one, once.
pub(super) async fn request(
    options: &Options,
    connection: &mut Option<Connection>,
) -> Result<Answer, String> {
    let was_open = connection.is_some();
    match attempt(options, connection).await {
        Err(failure) if failure.unsent && was_open => {
            *connection = None;
            attempt(options, connection).await
        }
        outcome => outcome,
    }
    .map_err(|failure| failure.kind)
}

async fn attempt(
    options: &Options,
    connection: &mut Option<Connection>,
) -> Result<Answer, Failure> {
    let mut open = match connection.take() {
        Some(open) if open.is_open() => open,
        _ => connect(options).await?,
    };
    let answer = match &mut open {
        Connection::Http(http) => http.send(options).await?,
        Connection::Grpc(calls) => calls.call(options).await?,
        Connection::GrpcStream(messages) => messages.exchange().await?,
        Connection::WebSocket(messages) => messages.exchange().await?,
    };
    *connection = Some(open);
    Ok(answer)
}

async fn connect(options: &Options) -> Result<Connection, Failure> {
    let limit = options.messages_per_stream;
    Ok(match options.protocol {
        Protocol::Http1 => Connection::Http(http_calls::http1(options).await?),
        Protocol::H2 => Connection::Http(http_calls::http2(options).await?),
        Protocol::Grpc => Connection::Grpc(grpc::Calls::open(options).await?),
        Protocol::GrpcStream => Connection::GrpcStream(grpc::Messages::open(options, limit).await?),
        Protocol::Websocket => {
            Connection::WebSocket(websocket::Messages::open(options, limit).await?)
        }
    })
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Self::Http(http) => http.is_open(),
            // A channel connects again by itself, and a stream that was closed says so to the next message.
            Self::Grpc(_) | Self::GrpcStream(_) | Self::WebSocket(_) => true,
        }
    }

    /// Whether a stream has carried all its messages.
    pub(super) fn is_done(&self) -> bool {
        match self {
            Self::Http(_) | Self::Grpc(_) => false,
            Self::GrpcStream(messages) => messages.is_done(),
            Self::WebSocket(messages) => messages.is_done(),
        }
    }

    /// Ends what has an end of its own; what goes wrong there fails the last message.
    pub(super) async fn close(self) -> Result<(), String> {
        match self {
            Self::Http(_) | Self::Grpc(_) => Ok(()),
            Self::GrpcStream(messages) => messages.close().await.map_err(|failure| failure.kind),
            Self::WebSocket(messages) => messages.close().await.map_err(|failure| failure.kind),
        }
    }
}

pub(super) async fn tcp(options: &Options) -> Result<TcpStream, Failure> {
    let host = options.url.host().unwrap_or_default();
    let port = options.url.port_u16().unwrap_or(80);
    let failed = |error: std::io::Error| Failure::said(format!("connect: {}", error.kind()));
    let stream = TcpStream::connect((host, port)).await.map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    Ok(stream)
}

/// Whether hyper kept the request to itself, or the peer said with GOAWAY or REFUSED_STREAM that it did not take it.
fn is_unsent(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let canceled = error
            .downcast_ref::<hyper::Error>()
            .is_some_and(hyper::Error::is_canceled);
        let refused = error.downcast_ref::<h2::Error>().is_some_and(|error| {
            error.is_remote()
                && (error.reason() == Some(h2::Reason::REFUSED_STREAM)
                    || error.is_go_away() && error.reason() == Some(h2::Reason::NO_ERROR))
        });
        if canceled || refused {
            return true;
        }
        cause = error.source();
    }
    false
}
