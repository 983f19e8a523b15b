//! Asks external authorizers. A question is bounded in time, size and number; whatever keeps an answer away is
//! [`Verdict::Failed`], never leave to pass.

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::uri::Scheme;
use http::{HeaderMap, Method, Request, StatusCode, Uri, Version};
use meltemi_proto::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use meltemi_proxy_core::ext_authz::check::HttpCheck;
use meltemi_proxy_core::ext_authz::{Verdict, of_grpc, of_http};
use meltemi_proxy_core::request::without_port;
use meltemi_proxy_core::runtime::{GrpcAuthorizer, HttpAuthorizer};
use prost::Message as _;

use crate::http::body::RequestBody;
use crate::upstream::PoolProtocol;
use crate::upstream::ask::{Answer, Question, Speech, ask};
use crate::worker::Worker;

/// Questions of one worker at a time; each may hold a body.
pub(crate) const CHECK_LIMIT: usize = 4096;
/// Bytes of an answer, its body included.
const ANSWER_LIMIT_BYTES: usize = 1024 * 1024;
const CHECK_PATH: &str = "/envoy.service.auth.v3.Authorization/Check";
/// Of a gRPC message: whether it is compressed, and its length.
const GRPC_PREFIX_BYTES: usize = 5;

/// Asks by a request like the one in question.
pub(crate) async fn by_http(worker: &Worker, config: &HttpAuthorizer, check: HttpCheck) -> Verdict {
    let question = Question {
        cluster: &config.cluster,
        speech: Speech::OfTheCluster,
        server_name: without_port(check.authority.as_str()),
        limit_bytes: ANSWER_LIMIT_BYTES,
    };
    let asking = ask(worker, &question, |protocol| http_request(&check, protocol));
    let answer = within(worker, &config.cluster, config.timeout, asking).await;
    answer.map_or(Verdict::Failed(None), |answer| {
        of_http(config, answer.status, answer.headers, answer.body)
    })
}

/// Asks by `envoy.service.auth.v3.Authorization/Check`.
pub(crate) async fn by_grpc(
    worker: &Worker,
    config: &GrpcAuthorizer,
    check: &CheckRequest,
) -> Verdict {
    let message = framed(check);
    let question = Question {
        cluster: &config.cluster,
        speech: Speech::Http2,
        server_name: without_port(&config.authority),
        limit_bytes: ANSWER_LIMIT_BYTES,
    };
    let asking = ask(worker, &question, |_| grpc_request(config, message.clone()));
    let asking = async { unframed(&asking.await?) };
    let answer = within(worker, &config.cluster, config.timeout, asking).await;
    answer.map_or(Verdict::Failed(None), of_grpc)
}

async fn within<T>(
    worker: &Worker,
    cluster: &Arc<str>,
    timeout: Duration,
    asking: impl Future<Output = Result<T, String>>,
) -> Option<T> {
    let asked = match worker.checks.try_acquire() {
        Ok(_turn) => tokio::time::timeout(timeout, Box::pin(asking))
            .await
            .unwrap_or_else(|_| Err("took too long".to_owned())),
        Err(_) => Err("too many questions at a time".to_owned()),
    };
    asked
        .inspect_err(|reason| tracing::debug!(%cluster, reason, "cannot ask an authorizer"))
        .ok()
}

fn http_request(
    check: &HttpCheck,
    protocol: PoolProtocol,
) -> Result<Request<RequestBody>, http::Error> {
    let mut parts = http::uri::Parts::default();
    parts.path_and_query = Some(check.path.clone());
    let mut headers = check.headers.clone();
    let version = match protocol {
        PoolProtocol::Http2 => {
            parts.authority = Some(check.authority.clone());
            parts.scheme = Some(check.scheme.clone());
            Version::HTTP_2
        }
        PoolProtocol::Http11 => {
            let host = HeaderValue::try_from(check.authority.as_str())?;
            headers.insert(header::HOST, host);
            Version::HTTP_11
        }
    };
    let body = match check.body.is_empty() {
        true => RequestBody::Empty,
        false => RequestBody::Kept([check.body.clone()].into()),
    };
    let mut request = Request::new(body);
    *request.method_mut() = check.method.clone();
    *request.uri_mut() = Uri::from_parts(parts)?;
    *request.version_mut() = version;
    *request.headers_mut() = headers;
    Ok(request)
}

fn grpc_request(
    config: &GrpcAuthorizer,
    message: Bytes,
) -> Result<Request<RequestBody>, http::Error> {
    let uri = Uri::builder()
        .scheme(Scheme::HTTP)
        .authority(&*config.authority)
        .path_and_query(CHECK_PATH)
        .build()?;
    let millis = config.timeout.as_millis();
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(uri)
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .header("grpc-timeout", format!("{millis}m"))
        .header("x-envoy-internal", "true")
        .body(RequestBody::Kept([message].into()))
}

fn framed(check: &CheckRequest) -> Bytes {
    let length = check.encoded_len();
    let mut message = BytesMut::with_capacity(GRPC_PREFIX_BYTES + length);
    message.put_u8(0);
    message.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    message.extend_from_slice(&check.encode_to_vec());
    message.freeze()
}

/// The message of an answer that is one in every respect (gRPC over HTTP/2, "Responses").
fn unframed(answer: &Answer) -> Result<CheckResponse, String> {
    if answer.status != StatusCode::OK {
        return Err(format!("the answer is {}", answer.status));
    }
    let status = |headers: &HeaderMap| headers.get("grpc-status").cloned();
    let status = status(&answer.trailers).or_else(|| status(&answer.headers));
    match status.as_ref().map(HeaderValue::as_bytes) {
        Some(b"0") => {}
        Some(code) => {
            let code = String::from_utf8_lossy(code);
            return Err(format!("the call ended with gRPC status {code}"));
        }
        None => return Err("the answer has no gRPC status".to_owned()),
    }
    let Some((prefix, message)) = answer.body.split_first_chunk::<GRPC_PREFIX_BYTES>() else {
        return Err("the answer has no message".to_owned());
    };
    let [compressed, length @ ..] = *prefix;
    if compressed != 0 {
        return Err("the message is compressed, which was not offered".to_owned());
    }
    if usize::try_from(u32::from_be_bytes(length)).ok() != Some(message.len()) {
        return Err("the answer is not one whole message".to_owned());
    }
    CheckResponse::decode(message).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, trailers: &[(&'static str, &'static str)], body: &[u8]) -> Answer {
        let mut map = HeaderMap::new();
        for (name, value) in trailers {
            map.insert(*name, HeaderValue::from_static(value));
        }
        Answer {
            status: StatusCode::from_u16(status).unwrap(),
            headers: HeaderMap::new(),
            body: Bytes::copy_from_slice(body),
            trailers: map,
        }
    }

    #[test]
    fn only_a_whole_answer_of_a_call_that_succeeded_is_one() {
        let good = [("grpc-status", "0")];
        let empty: &[u8] = &[0, 0, 0, 0, 0];
        assert_eq!(
            unframed(&answer(200, &good, empty)),
            Ok(CheckResponse::default())
        );
        for (answer, expected) in [
            (answer(200, &[], empty), "no gRPC status"),
            (answer(503, &good, empty), "503"),
            (answer(200, &[("grpc-status", "14")], empty), "status 14"),
            (answer(200, &good, &[]), "no message"),
            (answer(200, &good, &[1, 0, 0, 0, 0]), "compressed"),
            (answer(200, &good, &[0, 0, 0, 0, 9]), "whole"),
            (answer(200, &good, &[0, 0, 0, 0, 0, 0]), "whole"),
            (answer(200, &good, &[0, 0, 0, 0, 1, 255]), ""),
        ] {
            let error = unframed(&answer).unwrap_err();
            assert!(error.contains(expected), "{error}: {expected}");
        }
    }

    #[test]
    fn messages_are_framed() {
        assert_eq!(&framed(&CheckRequest::default())[..], [0, 0, 0, 0, 0]);
    }
}
