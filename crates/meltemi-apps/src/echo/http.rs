//! The HTTP face of the echo server: JSON of everything received; queries shape the answer.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::ws::{Message, WebSocket, WebSocketUpgrade};
use axum::extract::{ConnectInfo, Query, Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::{Json, Router};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use rand::Rng;
use serde::Deserialize;
use serde_json::{Value, json};

use super::grpc;
use crate::serve::{Counters, Source, env_or, hostname};

/// The longest pause and the largest body that a query may ask for.
const DELAY_LIMIT: Duration = Duration::from_secs(60);
const SIZE_LIMIT_BYTES: usize = 16 << 20;

pub(super) fn app(counters: &Counters) -> Router {
    Router::new()
        .route("/counters", get(read_counters))
        .route("/health", get(|| async { "ok" }))
        .route("/ws", any(websocket))
        .fallback(any(echo))
        .with_state(counters.clone())
        .route_service("/meltemi.echo.v1.Echo/{method}", grpc::service())
}

async fn read_counters(State(counters): State<Counters>) -> Json<Value> {
    Json(json!({"ports": counters.read()}))
}

/// `?codes=503:50,200:50` picks a status by weight, `?delay=100ms` waits, `?size=4096` fills the answer.
#[derive(Debug, Default, Deserialize)]
struct Wishes {
    codes: Option<String>,
    delay: Option<String>,
    size: Option<usize>,
}

async fn echo(
    ConnectInfo(source): ConnectInfo<Source>,
    Query(wishes): Query<Wishes>,
    request: Request,
) -> Response {
    let (head, body) = request.into_parts();
    let (body_bytes, trailers) = drain(body).await;
    if let Some(delay) = wishes
        .delay
        .as_deref()
        .and_then(meltemi_core::duration::parse)
    {
        tokio::time::sleep(delay.min(DELAY_LIMIT)).await;
    }
    let status = wishes.codes.as_deref().map_or(StatusCode::OK, |codes| {
        pick_status(codes, rand::rng().random())
    });
    if let Some(size) = wishes.size {
        return (status, Bytes::from(vec![b'x'; size.min(SIZE_LIMIT_BYTES)])).into_response();
    }
    let seen = json!({
        "method": head.method.as_str(),
        "path": head.uri.path(),
        "query": head.uri.query().unwrap_or_default(),
        "host": host(&head.headers, &head.uri),
        "protocol": format!("{:?}", head.version),
        "headers": header_map(&head.headers),
        "trailers": header_map(&trailers),
        "body_bytes": body_bytes,
        "source": source.address.to_string(),
        "local_port": source.local_port,
        "hostname": hostname(),
        "version": env_or("SERVICE_VERSION", ""),
        "status": status.as_u16(),
    });
    (status, Json(seen)).into_response()
}

/// Reads a body to its end and counts it; a broken body counts up to where it broke.
async fn drain(mut body: Body) -> (usize, HeaderMap) {
    let (mut bytes, mut trailers) = (0, HeaderMap::new());
    while let Some(Ok(frame)) = body.frame().await {
        match frame.into_data() {
            Ok(data) => bytes += data.len(),
            Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
        }
    }
    (bytes, trailers)
}

fn host(headers: &HeaderMap, uri: &http::Uri) -> String {
    let header = headers
        .get(http::header::HOST)
        .and_then(|host| host.to_str().ok());
    header
        .or_else(|| uri.authority().map(http::uri::Authority::as_str))
        .unwrap_or_default()
        .to_owned()
}

/// Every value of every header, in order.
fn header_map(headers: &HeaderMap) -> BTreeMap<String, Vec<String>> {
    let mut map: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in headers {
        map.entry(name.to_string())
            .or_default()
            .push(String::from_utf8_lossy(value.as_bytes()).into_owned());
    }
    map
}

/// Picks from `503:50,200:50` by weight; a missing weight counts 1, what cannot be read counts nothing.
fn pick_status(codes: &str, random: u32) -> StatusCode {
    let choices: Vec<(StatusCode, u32)> = codes
        .split(',')
        .filter_map(|choice| {
            let (code, weight) = choice.split_once(':').unwrap_or((choice, "1"));
            Some((
                StatusCode::from_u16(code.parse().ok()?).ok()?,
                weight.parse().ok()?,
            ))
        })
        .collect();
    let total: u32 = choices.iter().map(|(_, weight)| weight).sum();
    let mut left = random.checked_rem(total).unwrap_or(0);
    for (status, weight) in choices {
        if left < weight {
            return status;
        }
        left -= weight;
    }
    StatusCode::OK
}

async fn websocket(upgrade: WebSocketUpgrade) -> Response {
    upgrade.on_upgrade(echo_messages)
}

async fn echo_messages(mut socket: WebSocket) {
    while let Some(Ok(message)) = socket.recv().await {
        if matches!(message, Message::Text(_) | Message::Binary(_))
            && socket.send(message).await.is_err()
        {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_routes_are_sound() {
        drop(app(&Counters::default()));
    }

    #[test]
    fn status_by_weight() {
        assert_eq!(
            pick_status("503:50,200:50", 49),
            StatusCode::SERVICE_UNAVAILABLE
        );
        assert_eq!(pick_status("503:50,200:50", 50), StatusCode::OK);
        assert_eq!(pick_status("404", 7), StatusCode::NOT_FOUND);
        assert_eq!(pick_status("nonsense", 7), StatusCode::OK);
    }
}
