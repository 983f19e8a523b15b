//! A lane: something that carries one request at a time to its answer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http::{HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::time::Instant;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::bytes::ping;
use super::tls::Caller;
use crate::backend::{ANSWER, WEBSOCKET};
use crate::echo::{self, Connection, Conversation};
use crate::peer::mesh;
use crate::rig::{BACK, Port, SERVICE};

/// The Host that the mesh routes by.
const HOST: &str = "server.bench.svc.cluster.local";
/// How long a fresh pair of proxies may take until it answers.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(2);

/// Where to connect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// Through both proxies.
    Mesh(Port),
    /// To the server itself.
    Direct(Port),
    /// Through both proxies, by the name of one of many services.
    Member(usize),
}

impl Target {
    pub(crate) fn port(self) -> Port {
        match self {
            Self::Mesh(port) | Self::Direct(port) => port,
            Self::Member(_) => Port::Http1,
        }
    }

    pub(crate) fn address(self) -> SocketAddr {
        let (ip, port) = match self {
            Self::Mesh(port) => (SERVICE, port.service()),
            Self::Direct(port) => (BACK, port.direct()),
            Self::Member(index) => (mesh::address(index), Port::Http1.service()),
        };
        SocketAddr::new(IpAddr::V4(ip), port)
    }

    pub(crate) fn authority(self) -> String {
        let port = self.port().service();
        match self {
            Self::Mesh(_) | Self::Direct(_) => format!("{HOST}:{port}"),
            Self::Member(index) => format!("{}:{port}", mesh::host(index)),
        }
    }

    pub(crate) async fn connect(self) -> std::io::Result<TcpStream> {
        let stream = TcpStream::connect(self.address()).await?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// What is spoken on a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Http1,
    Http2,
    Unary,
    /// Messages on a gRPC stream that stays open.
    Conversation,
    WebSocket,
    /// One byte and its echo on a connection that stays open.
    Bytes,
    /// The same, each on a connection of its own.
    Connections,
}

#[derive(Debug)]
pub(crate) enum Lane {
    Http1 {
        sender: http1::SendRequest<Empty<Bytes>>,
        host: HeaderValue,
    },
    Http2 {
        sender: http2::SendRequest<tonic::body::Body>,
        uri: http::Uri,
    },
    Unary(Box<echo::Client>),
    Conversation(Box<Conversation>),
    WebSocket(Box<WebSocketStream<TcpStream>>),
    Bytes(TcpStream),
    Connections(Target),
    Handshakes(Caller),
}

impl Lane {
    /// # Errors
    /// The answer is not the server's.
    pub(crate) async fn call(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Http1 { sender, host } => {
                let request = Request::get("/").header(header::HOST, &*host);
                sender.ready().await?;
                check(sender.send_request(request.body(Empty::new())?).await?).await
            }
            Self::Http2 { sender, uri } => {
                let request = Request::get(uri.clone()).body(tonic::body::Body::empty())?;
                sender.ready().await?;
                check(sender.send_request(request).await?).await
            }
            Self::Unary(client) => echo::unary(client).await,
            Self::Conversation(conversation) => conversation.say().await,
            Self::WebSocket(socket) => {
                socket
                    .send(Message::Binary(Bytes::from_static(&ANSWER)))
                    .await?;
                let answer = socket.next().await.context("the socket was closed")??;
                anyhow::ensure!(
                    answer.len() == ANSWER.len(),
                    "a message of {} bytes",
                    answer.len()
                );
                Ok(())
            }
            Self::Bytes(stream) => Ok(ping(stream).await?),
            Self::Connections(target) => Ok(ping(&mut target.connect().await?).await?),
            Self::Handshakes(caller) => caller.call().await,
        }
    }
}

async fn check(response: http::Response<Incoming>) -> anyhow::Result<()> {
    let status = response.status();
    anyhow::ensure!(status == StatusCode::OK, "the answer is {status}");
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame?.data_ref().map_or(0, Bytes::len);
    }
    anyhow::ensure!(length == ANSWER.len(), "the answer has {length} bytes");
    Ok(())
}

/// Opens connections with `streams` lanes on each, where the protocol has streams.
///
/// # Errors
/// The proxies do not answer.
pub(crate) async fn open(
    target: Target,
    kind: Kind,
    connections: usize,
    streams: usize,
) -> anyhow::Result<Vec<Lane>> {
    let mut lanes = Vec::with_capacity(connections * streams);
    for _ in 0..connections {
        match kind {
            Kind::Http1 => lanes.push(http1(target).await?),
            Kind::Http2 | Kind::Unary | Kind::Conversation => {
                lanes.extend(http2(target, kind, streams).await?);
            }
            Kind::WebSocket => lanes.push(websocket(target).await?),
            Kind::Bytes => lanes.push(Lane::Bytes(target.connect().await?)),
            Kind::Connections => lanes.push(Lane::Connections(target)),
        }
    }
    Ok(lanes)
}

/// Tries until a request is answered, and tells how long that took.
///
/// # Errors
/// The last failure, when there is no answer in time.
pub(crate) async fn until_answered(target: Target, kind: Kind) -> anyhow::Result<Duration> {
    let start = Instant::now();
    loop {
        let attempt = async { open(target, kind, 1, 1).await?.remove(0).call().await };
        let error = match tokio::time::timeout(PATIENCE, attempt).await {
            Ok(Ok(())) => return Ok(start.elapsed()),
            Ok(Err(error)) => error,
            Err(_) => anyhow::anyhow!("no answer"),
        };
        if start.elapsed() > PATIENCE {
            return Err(error.context("the proxies do not serve"));
        }
        tokio::time::sleep(POLL).await;
    }
}

async fn http1(target: Target) -> anyhow::Result<Lane> {
    let stream = target.connect().await.context("connecting")?;
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let host = HeaderValue::try_from(target.authority())?;
    Ok(Lane::Http1 { sender, host })
}

async fn http2(target: Target, kind: Kind, streams: usize) -> anyhow::Result<Vec<Lane>> {
    let stream = target.connect().await.context("connecting")?;
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let uri: http::Uri = format!("http://{}/", target.authority()).parse()?;
    let client = || tonic::client::Grpc::with_origin(Connection(sender.clone()), uri.clone());
    let mut lanes = Vec::with_capacity(streams);
    for _ in 0..streams {
        lanes.push(match kind {
            Kind::Unary => Lane::Unary(Box::new(client())),
            Kind::Conversation => Lane::Conversation(Box::new(Conversation::open(client()).await?)),
            _ => Lane::Http2 {
                sender: sender.clone(),
                uri: uri.clone(),
            },
        });
    }
    Ok(lanes)
}

async fn websocket(target: Target) -> anyhow::Result<Lane> {
    let stream = target.connect().await.context("connecting")?;
    let url = format!("ws://{}{WEBSOCKET}", target.authority());
    let (socket, _) = tokio_tungstenite::client_async(url, stream).await?;
    Ok(Lane::WebSocket(Box::new(socket)))
}
