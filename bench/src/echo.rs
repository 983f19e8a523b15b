//! The gRPC service of the server, for both sides: each request message is answered by one of 1 KiB.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use http::uri::PathAndQuery;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use tonic::body::Body;
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

use crate::backend::ANSWER;

const UNARY: &str = "/bench.Echo/Unary";
const STREAM: &str = "/bench.Echo/Stream";
/// Messages a stream may have waiting.
const WAITING: usize = 4;

/// Answers gRPC calls; nothing for other paths.
pub(crate) async fn serve(request: http::Request<Incoming>) -> Option<http::Response<Body>> {
    let mut server = tonic::server::Grpc::new(ProstCodec::<Bytes, Bytes>::default());
    match request.uri().path() {
        UNARY => Some(server.unary(Unary, request).await),
        STREAM => Some(server.streaming(Messages, request).await),
        _ => None,
    }
}

struct Unary;

impl Service<Request<Bytes>> for Unary {
    type Response = Response<Bytes>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Bytes>) -> Self::Future {
        std::future::ready(Ok(Response::new(Bytes::from_static(&ANSWER))))
    }
}

struct Messages;

impl Service<Request<Streaming<Bytes>>> for Messages {
    type Response = Response<Pin<Box<dyn Stream<Item = Result<Bytes, Status>> + Send>>>;
    type Error = Status;
    type Future = std::future::Ready<Result<Self::Response, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Streaming<Bytes>>) -> Self::Future {
        let answers = request
            .into_inner()
            .map(|message| message.map(|_| Bytes::from_static(&ANSWER)));
        std::future::ready(Ok(Response::new(Box::pin(answers))))
    }
}

/// An HTTP/2 connection as gRPC clients want it.
#[derive(Clone, Debug)]
pub(crate) struct Connection(pub(crate) SendRequest<Body>);

impl Service<http::Request<Body>> for Connection {
    type Response = http::Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = hyper::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<hyper::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        Box::pin(self.0.send_request(request))
    }
}

pub(crate) type Client = tonic::client::Grpc<Connection>;

/// # Errors
/// The answer is not the server's.
pub(crate) async fn unary(client: &mut Client) -> anyhow::Result<()> {
    client.ready().await?;
    let request = Request::new(Bytes::from_static(b"hello"));
    let path = PathAndQuery::from_static(UNARY);
    let codec = ProstCodec::<Bytes, Bytes>::default();
    let answer = client.unary(request, path, codec).await?.into_inner();
    check(&answer)
}

/// An open stream that echoes.
#[derive(Debug)]
pub(crate) struct Conversation {
    to: tokio::sync::mpsc::Sender<Bytes>,
    from: Streaming<Bytes>,
}

impl Conversation {
    /// # Errors
    /// The stream is refused.
    pub(crate) async fn open(mut client: Client) -> anyhow::Result<Self> {
        client.ready().await?;
        let (to, messages) = tokio::sync::mpsc::channel(WAITING);
        let messages = tokio_stream::wrappers::ReceiverStream::new(messages);
        let path = PathAndQuery::from_static(STREAM);
        let codec = ProstCodec::<Bytes, Bytes>::default();
        let answer = client
            .streaming(Request::new(messages), path, codec)
            .await?;
        Ok(Self {
            to,
            from: answer.into_inner(),
        })
    }

    /// # Errors
    /// The stream has ended.
    pub(crate) async fn say(&mut self) -> anyhow::Result<()> {
        self.to.send(Bytes::from_static(b"hello")).await?;
        let answer = self.from.message().await?;
        check(&answer.unwrap_or_default())
    }
}

fn check(answer: &[u8]) -> anyhow::Result<()> {
    anyhow::ensure!(
        answer.len() == ANSWER.len(),
        "a message of {} bytes",
        answer.len()
    );
    Ok(())
}

/// The plain answer of the HTTP/2 port.
pub(crate) fn plain() -> Result<http::Response<Body>, Infallible> {
    let body = http_body_util::Full::new(Bytes::from_static(&ANSWER));
    Ok(http::Response::new(Body::new(body)))
}
