//! The service as gRPC: two methods, each a stream in both directions.
//!
//! Differs from tonic's server in one thing: a message is encoded into a buffer of its own, which goes with the last byte
//! sent. tonic keeps a buffer for each stream, as large as the largest message that it ever carried: with a full set for each of some
//! hundred proxies that was half of a control plane's memory.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use http_body::Frame;
use prost::Message;
use tokio::sync::mpsc;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstDecoder;
use tower_service::Service;

use super::stream::{self, Session};
use super::{Connector, delta, sotw};
use crate::limits::REQUEST_LIMIT_BYTES;

const STATE_OF_THE_WORLD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources";
const DELTA: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// What stands before a message: whether it is compressed, and its length (gRPC over HTTP/2, "Length-Prefixed-Message").
const PREFIX_BYTES: usize = 5;
const NOT_COMPRESSED: u8 = 0;

/// The aggregated discovery service, state-of-the-world and delta: a service to add to a tonic router (see
/// [`crate::limits::server_builder`]).
#[derive(Debug)]
pub struct AdsServer<C>(Arc<C>);

impl<C: Connector> AdsServer<C> {
    pub fn new(connector: C) -> Self {
        Self(Arc::new(connector))
    }

    fn open<S: Session>(&self, request: http::Request<Body>, session: S) -> http::Response<Body> {
        let requests = request.map(|body| {
            let decoder = ProstDecoder::default();
            Streaming::new_request(decoder, body, None, Some(REQUEST_LIMIT_BYTES))
        });
        let responses = stream::spawn(&self.0, Request::from_http(requests), session);
        let mut response = http::Response::new(Body::new(Responses::Open(responses)));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, GRPC_CONTENT_TYPE);
        response
    }
}

impl<C> Clone for AdsServer<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C> NamedService for AdsServer<C> {
    const NAME: &'static str = "envoy.service.discovery.v3.AggregatedDiscoveryService";
}

impl<C: Connector> Service<http::Request<Body>> for AdsServer<C> {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        ready(Ok(match request.uri().path() {
            DELTA => self.open(request, delta::DeltaSession::default()),
            STATE_OF_THE_WORLD => self.open(request, sotw::SotwSession::default()),
            _ => Status::unimplemented("no such method").into_http(),
        }))
    }
}

/// The body of a response: messages, and the status in trailers.
#[derive(Debug)]
enum Responses<M> {
    Open(mpsc::Receiver<Result<M, Status>>),
    Ended,
}

impl<M: Message> http_body::Body for Responses<M> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Self::Open(messages) = &mut *self else {
            return Poll::Ready(None);
        };
        let next = ready!(messages.poll_recv(cx));
        let framed = next.unwrap_or_else(|| Err(Status::ok(""))).and_then(framed);
        let frame = framed.map_or_else(|status| Frame::trailers(trailers(&status)), Frame::data);
        if frame.is_trailers() {
            *self = Self::Ended;
        }
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Ended)
    }
}

fn framed(message: impl Message) -> Result<Bytes, Status> {
    let length = message.encoded_len();
    let prefix = u32::try_from(length)
        .map_err(|_| Status::resource_exhausted("the response is larger than 4 GiB"))?;
    let mut buffer = BytesMut::with_capacity(PREFIX_BYTES + length);
    buffer.put_u8(NOT_COMPRESSED);
    buffer.put_u32(prefix);
    let encoded = message.encode(&mut buffer);
    encoded.map_err(|error| Status::internal(error.to_string()))?;
    Ok(buffer.freeze())
}

fn trailers(status: &Status) -> HeaderMap {
    let mut headers = HeaderMap::new();
    // A message that no header can hold is left out; the code never is.
    if status.add_header(&mut headers).is_err() {
        headers.insert(Status::GRPC_STATUS, (status.code() as i32).into());
    }
    headers
}
