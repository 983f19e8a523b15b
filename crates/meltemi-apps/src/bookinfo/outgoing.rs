//! Calls between the services: where they go and which headers go along.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use crate::serve::env_or;

/// Headers that an application in a mesh hands on: tracing, and what routes may look at.
const FORWARDED: [&str; 16] = [
    "x-request-id",
    "traceparent",
    "tracestate",
    "b3",
    "x-b3-traceid",
    "x-b3-spanid",
    "x-b3-parentspanid",
    "x-b3-sampled",
    "x-b3-flags",
    "x-ot-span-context",
    "x-datadog-trace-id",
    "x-datadog-parent-id",
    "end-user",
    "user-agent",
    "cookie",
    "authorization",
];

/// The largest answer read from another service.
const ANSWER_LIMIT_BYTES: usize = 1 << 20;

pub(super) type HttpClient = Client<HttpConnector, Empty<Bytes>>;

pub(super) fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

/// The base URL of a service, from the environment that Istio's manifests set: `REVIEWS_HOSTNAME`,
/// `REVIEWS_SERVICE_PORT`, `SERVICES_DOMAIN`.
pub(super) fn base_url(service: &str) -> String {
    let upper = service.to_uppercase();
    let domain = env_or("SERVICES_DOMAIN", "");
    let host = env_or(&format!("{upper}_HOSTNAME"), service);
    let port = env_or(&format!("{upper}_SERVICE_PORT"), "9080");
    let dot = if domain.is_empty() { "" } else { "." };
    format!("http://{host}{dot}{domain}:{port}")
}

pub(super) fn forwarded(headers: &HeaderMap) -> HeaderMap {
    let pick = |name: &'static str| {
        headers
            .get(name)
            .map(|value| (HeaderName::from_static(name), value.clone()))
    };
    FORWARDED.into_iter().filter_map(pick).collect()
}

/// Gets JSON. `Err` is the status to report: the service's own, or 503 when it did not answer.
pub(super) async fn get_json(
    client: &HttpClient,
    url: &str,
    headers: &HeaderMap,
    limit: Duration,
) -> Result<Value, StatusCode> {
    let call = async {
        let uri: Uri = url.parse().map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = uri;
        *request.headers_mut() = headers.clone();
        let response = client
            .request(request)
            .await
            .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES)
            .collect()
            .await;
        let body = body
            .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?
            .to_bytes();
        if !status.is_success() {
            return Err(status);
        }
        serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_GATEWAY)
    };
    tokio::time::timeout(limit, call)
        .await
        .unwrap_or(Err(StatusCode::GATEWAY_TIMEOUT))
}
