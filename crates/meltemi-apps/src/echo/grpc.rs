//! The gRPC face of the echo server.

use std::pin::Pin;

use tokio_stream::{Stream, StreamExt};
use tonic::metadata::KeyAndValueRef;
use tonic::{Request, Response, Status, Streaming};

use crate::serve::{env_or, hostname};

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::or_fun_call,
    clippy::use_self,
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    unused_qualifications,
    missing_debug_implementations,
    elided_lifetimes_in_paths,
    dead_code,
    reason = "generated"
)]
pub(crate) mod proto {
    tonic::include_proto!("meltemi.echo.v1");
}

use proto::echo_server::{Echo, EchoServer};
use proto::{EchoRequest, EchoResponse};

pub(super) fn service() -> EchoServer<GrpcEcho> {
    EchoServer::new(GrpcEcho)
}

pub(super) struct GrpcEcho;

#[tonic::async_trait]
impl Echo for GrpcEcho {
    async fn call(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let seen = Seen::of(&request);
        Ok(Response::new(seen.answer(request.into_inner())))
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let seen = Seen::of(&request);
        let answers = request
            .into_inner()
            .map(move |message| message.map(|message| seen.answer(message)));
        Ok(Response::new(Box::pin(answers)))
    }
}

/// What the caller sent beside its messages.
struct Seen {
    headers: std::collections::HashMap<String, String>,
    source: String,
}

impl Seen {
    fn of<T>(request: &Request<T>) -> Self {
        let entry = |entry: KeyAndValueRef<'_>| match entry {
            KeyAndValueRef::Ascii(key, value) => (
                key.to_string(),
                value.to_str().unwrap_or_default().to_owned(),
            ),
            KeyAndValueRef::Binary(key, value) => (
                key.to_string(),
                format!("{} bytes", value.as_encoded_bytes().len()),
            ),
        };
        let source = request
            .extensions()
            .get::<axum::extract::ConnectInfo<crate::serve::Source>>();
        Self {
            headers: request.metadata().iter().map(entry).collect(),
            source: source.map_or_else(String::new, |source| source.0.address.to_string()),
        }
    }

    fn answer(&self, request: EchoRequest) -> EchoResponse {
        EchoResponse {
            message: request.message,
            headers: self.headers.clone(),
            hostname: hostname(),
            version: env_or("SERVICE_VERSION", ""),
            source: self.source.clone(),
        }
    }
}
