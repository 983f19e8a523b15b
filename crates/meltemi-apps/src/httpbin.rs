//! The paths of httpbin that Istio's tasks call.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::{ConnectInfo, Path, Query, Request};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use base64::Engine as _;
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};

use crate::serve::Source;

/// The largest body read and sent, and the longest pause.
const BODY_LIMIT_BYTES: usize = 1 << 20;
const DELAY_LIMIT_SECONDS: f64 = 10.0;
const REDIRECT_LIMIT: u32 = 20;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The port to listen on.
    #[arg(long, default_value_t = 8080)]
    port: u16,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    crate::serve::http(options.port, app()).await
}

fn app() -> Router {
    Router::new()
        .route(
            "/",
            get(|| async {
                Html("<h1>httpbin</h1><p>Try /get, /headers, /status/418, /delay/1.</p>")
            }),
        )
        .route(
            "/html",
            get(|| async { Html("<!DOCTYPE html><h1>A page</h1><p>Some text.</p>") }),
        )
        .route("/get", any(anything))
        .route("/post", any(anything))
        .route("/put", any(anything))
        .route("/patch", any(anything))
        .route("/delete", any(anything))
        .route("/anything", any(anything))
        .route("/anything/{*rest}", any(anything))
        .route(
            "/headers",
            get(|headers: HeaderMap| async move { Json(json!({"headers": header_map(&headers)})) }),
        )
        .route(
            "/ip",
            get(|ConnectInfo(source): ConnectInfo<Source>| async move {
                Json(json!({"origin": source.address.ip().to_string()}))
            }),
        )
        .route("/user-agent", get(user_agent))
        .route(
            "/uuid",
            get(|| async { Json(json!({"uuid": uuid(rand::random())})) }),
        )
        .route("/status/{code}", any(status))
        .route("/delay/{seconds}", any(delay))
        .route(
            "/bytes/{count}",
            get(|Path(count): Path<usize>| async move {
                Bytes::from(vec![b'*'; count.min(BODY_LIMIT_BYTES)])
            }),
        )
        .route("/stream/{count}", get(lines))
        .route("/redirect/{count}", get(redirect))
        .route("/response-headers", get(response_headers))
        .route("/basic-auth/{user}/{password}", get(basic_auth))
        .route("/base64/{value}", get(base64_decoded))
}

async fn anything(
    ConnectInfo(source): ConnectInfo<Source>,
    Query(args): Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let Ok(body) = Limited::new(body, BODY_LIMIT_BYTES).collect().await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    let data = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    let host = head
        .headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let seen = json!({
        "args": args,
        "headers": header_map(&head.headers),
        "method": head.method.as_str(),
        "origin": source.address.ip().to_string(),
        "url": format!("http://{host}{}", head.uri),
        "json": serde_json::from_str::<Value>(&data).ok(),
        "data": data,
    });
    Json(seen).into_response()
}

/// Names in the capitals that httpbin prints; a list of values for each.
fn header_map(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        map.entry(canonical(name))
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    map
}

fn canonical(name: &HeaderName) -> String {
    let capital = |part: &str| {
        let mut letters = part.chars();
        letters.next().map_or_else(String::new, |first| {
            first.to_ascii_uppercase().to_string() + letters.as_str()
        })
    };
    name.as_str()
        .split('-')
        .map(capital)
        .collect::<Vec<_>>()
        .join("-")
}

async fn user_agent(headers: HeaderMap) -> Json<Value> {
    let agent = headers
        .get(header::USER_AGENT)
        .and_then(|agent| agent.to_str().ok());
    Json(json!({"user-agent": agent.unwrap_or_default()}))
}

/// A version 4 UUID (RFC 9562) from random bits.
fn uuid(random: u128) -> String {
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex: Vec<char> = format!("{bits:032x}").chars().collect();
    let part = |range: std::ops::Range<usize>| hex[range].iter().collect::<String>();
    [
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32),
    ]
    .join("-")
}

async fn status(Path(code): Path<u16>) -> StatusCode {
    StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_REQUEST)
}

async fn delay(
    Path(seconds): Path<f64>,
    source: ConnectInfo<Source>,
    query: Query<BTreeMap<String, String>>,
    request: Request,
) -> Response {
    tokio::time::sleep(Duration::from_secs_f64(
        seconds.clamp(0.0, DELAY_LIMIT_SECONDS),
    ))
    .await;
    anything(source, query, request).await
}

async fn lines(Path(count): Path<u64>) -> String {
    (0..count.min(100))
        .map(|id| format!("{}\n", json!({"id": id})))
        .collect()
}

async fn redirect(Path(count): Path<u32>) -> Redirect {
    match count.min(REDIRECT_LIMIT) {
        0 | 1 => Redirect::to("/get"),
        count => Redirect::to(&format!("/redirect/{}", count - 1)),
    }
}

async fn response_headers(Query(wanted): Query<BTreeMap<String, String>>) -> Response {
    let mut response = Json(json!(wanted)).into_response();
    for (name, value) in wanted {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            return StatusCode::BAD_REQUEST.into_response();
        };
        response.headers_mut().insert(name, value);
    }
    response
}

/// The bytes that a base64url text stands for.
async fn base64_decoded(Path(value): Path<String>) -> Response {
    let text = value.trim_end_matches('=');
    match base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(text) {
        Ok(bytes) => bytes.into_response(),
        Err(error) => (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    }
}

async fn basic_auth(
    Path((user, password)): Path<(String, String)>,
    headers: HeaderMap,
) -> Response {
    let expected = format!(
        "Basic {}",
        base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"))
    );
    if headers
        .get(header::AUTHORIZATION)
        .is_some_and(|given| given.as_bytes() == expected.as_bytes())
    {
        return Json(json!({"authenticated": true, "user": user})).into_response();
    }
    (
        StatusCode::UNAUTHORIZED,
        [(header::WWW_AUTHENTICATE, "Basic realm=\"httpbin\"")],
    )
        .into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_names_have_capitals() {
        assert_eq!(
            canonical(&HeaderName::from_static("x-forwarded-client-cert")),
            "X-Forwarded-Client-Cert"
        );
    }

    #[test]
    fn uuids_are_version_4() {
        let id = uuid(u128::MAX);
        assert_eq!(id, "ffffffff-ffff-4fff-bfff-ffffffffffff");
    }
}
