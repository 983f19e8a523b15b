//! One connection of the load generator.

use bytes::Bytes;
use http::{HeaderMap, Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::Options;

/// The largest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

pub(super) enum Connection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Sends one request, over the connection at hand while it is open. `Err` is the kind of failure.
pub(super) async fn request(
    options: &Options,
    connection: &mut Option<Connection>,
) -> Result<Answer, String> {
    let mut open = match connection.take() {
        Some(open) if open.is_open() => open,
        _ => connect(options).await?,
    };
    let response = open.send(options).await?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_LIMIT_BYTES)
        .collect()
        .await
        .map_err(|error| format!("body: {error}"))?;
    *connection = Some(open);
    Ok(Answer {
        status: head.status,
        headers: head.headers,
        body: body.to_bytes(),
    })
}

async fn connect(options: &Options) -> Result<Connection, String> {
    let host = options.url.host().unwrap_or_default();
    let port = options.url.port_u16().unwrap_or(80);
    let stream = TcpStream::connect((host, port))
        .await
        .map_err(|error| format!("connect: {}", error.kind()))?;
    stream
        .set_nodelay(true)
        .map_err(|error| format!("connect: {}", error.kind()))?;
    let io = TokioIo::new(stream);
    if options.h2 {
        let (sender, driver) = http2::handshake(TokioExecutor::new(), io)
            .await
            .map_err(|error| format!("handshake: {error}"))?;
        tokio::spawn(driver);
        return Ok(Connection::Http2(sender));
    }
    let (sender, driver) = http1::handshake(io)
        .await
        .map_err(|error| format!("handshake: {error}"))?;
    tokio::spawn(driver);
    Ok(Connection::Http1(sender))
}

impl Connection {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    async fn send(
        &mut self,
        options: &Options,
    ) -> Result<http::Response<hyper::body::Incoming>, String> {
        let mut request = Request::new(Empty::new());
        for (name, value) in &options.header {
            request.headers_mut().append(name, value.clone());
        }
        let sent = match self {
            Self::Http2(sender) => {
                *request.uri_mut() = options.url.clone();
                sender
                    .ready()
                    .await
                    .map_err(|error| format!("send: {error}"))?;
                sender.send_request(request).await
            }
            Self::Http1(sender) => {
                let path = options
                    .url
                    .path_and_query()
                    .map_or("/", http::uri::PathAndQuery::as_str);
                *request.uri_mut() = path.parse().map_err(|_| "send: bad path".to_owned())?;
                if !request.headers().contains_key(header::HOST) {
                    let host = options
                        .url
                        .authority()
                        .map(http::uri::Authority::as_str)
                        .unwrap_or_default();
                    let host = host.parse().map_err(|_| "send: bad host".to_owned())?;
                    request.headers_mut().insert(header::HOST, host);
                }
                sender
                    .ready()
                    .await
                    .map_err(|error| format!("send: {error}"))?;
                sender.send_request(request).await
            }
        };
        sent.map_err(|error| format!("send: {error}"))
    }
}
