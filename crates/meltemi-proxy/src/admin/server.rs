//! A small HTTP/1 server for handlers that answer with bytes.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;

pub(crate) type Answer = Response<Full<Bytes>>;

/// A request with its sender.
pub(crate) struct Asked {
    pub(crate) request: Request<Incoming>,
    pub(crate) peer: SocketAddr,
}

impl Asked {
    pub(crate) fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// The value of a query parameter; empty if it has none.
    pub(crate) fn query(&self, name: &str) -> Option<String> {
        self.request
            .uri()
            .query()
            .unwrap_or_default()
            .split('&')
            .find_map(|pair| {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                (key == name).then(|| decode(value))
            })
    }

    /// Whether the request was meant for this machine's loopback: a page in a browser cannot set Host (DNS rebinding).
    pub(crate) fn is_for_loopback(&self) -> bool {
        let host = self
            .request
            .headers()
            .get(header::HOST)
            .and_then(|value| value.to_str().ok())
            .unwrap_or_default();
        let name = meltemi_proxy_core::request::without_port(host);
        let no_origin = !self.request.headers().contains_key(header::ORIGIN);
        no_origin && matches!(name, "localhost" | "127.0.0.1" | "[::1]" | "")
    }
}

/// `%xx` and `+` of a query.
fn decode(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match byte {
            b'+' => out.push(b' '),
            b'%' => {
                let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
                match (digit(bytes.next()), digit(bytes.next())) {
                    (Some(high), Some(low)) => {
                        out.push(u8::try_from(high * 16 + low).unwrap_or(b'?'))
                    }
                    _ => out.push(b'?'),
                }
            }
            byte => out.push(byte),
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A plain answer.
pub(crate) fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    typed(status, "text/plain; charset=UTF-8", body)
}

pub(crate) fn typed(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

pub(crate) fn json(value: &serde_json::Value) -> Answer {
    typed(
        StatusCode::OK,
        "application/json",
        serde_json::to_vec_pretty(value).unwrap_or_default(),
    )
}

/// Serves on a bound socket for ever.
pub(crate) async fn listen<H, F>(listener: TcpListener, handler: H)
where
    H: Fn(Asked) -> F + Send + Sync + 'static,
    F: Future<Output = Answer> + Send + 'static,
{
    const PAUSE: Duration = Duration::from_millis(50);
    let handler = Arc::new(handler);
    loop {
        let (stream, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let handler = handler.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handler(Asked { request, peer });
                async move { Ok::<_, Infallible>(answer.await) }
            });
            let serving = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(30))
                .serve_connection(TokioIo::new(stream), service)
                .with_upgrades();
            if let Err(error) = serving.await {
                tracing::debug!(%error, "admin connection ended");
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decodes_queries() {
        assert_eq!(decode("outbound%7C80%7C%7Ca.b+c"), "outbound|80||a.b c");
        assert_eq!(decode("100%"), "100?");
    }
}
