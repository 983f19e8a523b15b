//! Calls and streams of the echo server's gRPC service.

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Streaming};

use super::Options;
use super::connection::{Answer, Failure};
use crate::echo::grpc::proto::echo_client::EchoClient;
use crate::echo::grpc::proto::{EchoRequest, EchoResponse};

/// Unary calls over one channel.
pub(super) struct Calls(EchoClient<Channel>);

impl Calls {
    pub(super) async fn open(options: &Options) -> Result<Self, Failure> {
        let endpoint = Endpoint::from(options.url.clone()).tcp_nodelay(true);
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| Failure::new("connect", &error))?;
        Ok(Self(EchoClient::new(channel)))
    }

    pub(super) async fn call(&mut self, options: &Options) -> Result<Answer, Failure> {
        let answer = self
            .0
            .call(with_headers(message(), options))
            .await
            .map_err(|status| failure(&status))?;
        Ok(answered(&answer.into_inner()))
    }
}

/// One stream of messages, each answered before the next is sent.
pub(super) struct Messages {
    requests: mpsc::Sender<EchoRequest>,
    answers: Streaming<EchoResponse>,
    left: u32,
}

impl Messages {
    pub(super) async fn open(options: &Options, limit: u32) -> Result<Self, Failure> {
        let Calls(mut client) = Calls::open(options).await?;
        let (requests, receiver) = mpsc::channel(1);
        let stream = client
            .stream(with_headers(ReceiverStream::new(receiver), options))
            .await
            .map_err(|status| failure(&status))?;
        Ok(Self {
            requests,
            answers: stream.into_inner(),
            left: limit,
        })
    }

    pub(super) fn is_done(&self) -> bool {
        self.left == 0
    }

    pub(super) async fn exchange(&mut self) -> Result<Answer, Failure> {
        self.left = self.left.saturating_sub(1);
        // A stream that has ended says why in its status.
        drop(self.requests.send(message()).await);
        match self.answers.message().await {
            Ok(Some(answer)) => Ok(answered(&answer)),
            Ok(None) => Err(Failure::said("grpc: the stream ended before its time")),
            Err(status) => Err(failure(&status)),
        }
    }

    pub(super) async fn close(self) -> Result<(), Failure> {
        let Self {
            requests,
            mut answers,
            ..
        } = self;
        drop(requests);
        match answers.message().await {
            Ok(None) => Ok(()),
            Ok(Some(_)) => Err(Failure::said("grpc: an answer to no message")),
            Err(status) => Err(failure(&status)),
        }
    }
}

fn message() -> EchoRequest {
    EchoRequest {
        message: "hello".to_owned(),
    }
}

fn with_headers<T>(message: T, options: &Options) -> Request<T> {
    let mut headers = HeaderMap::new();
    for (name, value) in &options.header {
        headers.append(name, value.clone());
    }
    let mut request = Request::new(message);
    *request.metadata_mut() = tonic::metadata::MetadataMap::from_headers(headers);
    request
}

fn answered(answer: &EchoResponse) -> Answer {
    let body = json!({"hostname": answer.hostname, "version": answer.version});
    Answer {
        status: StatusCode::OK,
        headers: HeaderMap::new(),
        body: Bytes::from(body.to_string()),
    }
}

fn failure(status: &tonic::Status) -> Failure {
    let mut failure = Failure::new("grpc", status);
    failure.kind = format!("grpc: {:?} {}", status.code(), status.message());
    failure
}
