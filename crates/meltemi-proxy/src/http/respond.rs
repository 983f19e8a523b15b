//! Responses that the proxy makes itself.

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{HeaderMap, Response, StatusCode};
use meltemi_proxy_core::error::{ErrorKind, ProxyError};
use meltemi_proxy_core::runtime::ServerHeader;

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::filters;
use super::headers::{GRPC_MESSAGE, GRPC_STATUS, OVERLOADED};

/// Answers with an error as Envoy does: its text, its flag, and for gRPC a trailers-only response.
pub(crate) fn error(mut exchange: Exchange, error: ProxyError) -> Response<ResponseBody> {
    exchange.failed(&error);
    let mut headers = HeaderMap::new();
    if error.is_overload() {
        headers.insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    let grpc = exchange.head.is_grpc.then(|| error.grpc_status());
    reply(exchange, error.status(), grpc, error.body().into(), headers)
}

/// Answers with an error in the words of whoever caused it.
pub(crate) fn in_words(
    mut exchange: Exchange,
    error: ProxyError,
    body: Bytes,
    mut headers: HeaderMap,
) -> Response<ResponseBody> {
    exchange.failed(&error);
    headers.remove(header::CONTENT_LENGTH);
    if body.is_empty() {
        headers.remove(header::CONTENT_TYPE);
    }
    let grpc = exchange.head.is_grpc.then(|| error.grpc_status());
    reply(exchange, error.status(), grpc, body, headers)
}

/// Answers a request of which nothing is left but its connection.
pub(crate) fn internal_error() -> Response<ResponseBody> {
    let error = ProxyError::from(ErrorKind::Internal);
    let mut response = Response::new(ResponseBody::Full(Some(error.body().into())));
    *response.status_mut() = error.status();
    response
}

/// Answers with a redirect.
pub(crate) fn redirect(
    mut exchange: Exchange,
    status: StatusCode,
    location: &str,
) -> Response<ResponseBody> {
    exchange.details = "direct_response".into();
    let mut headers = HeaderMap::new();
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(header::LOCATION, location);
    }
    reply(exchange, status, None, Bytes::new(), headers)
}

/// Answers with a body of the configuration.
pub(crate) fn direct(
    mut exchange: Exchange,
    status: StatusCode,
    body: Bytes,
    headers: HeaderMap,
) -> Response<ResponseBody> {
    exchange.details = "direct_response".into();
    reply(exchange, status, None, body, headers)
}

fn reply(
    mut exchange: Exchange,
    status: StatusCode,
    grpc: Option<u32>,
    body: Bytes,
    mut headers: HeaderMap,
) -> Response<ResponseBody> {
    let (status, body) = match grpc {
        Some(code) => {
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            headers.insert(GRPC_STATUS, HeaderValue::from(code));
            if !body.is_empty() {
                headers.insert(GRPC_MESSAGE, percent_encoded(&body));
            }
            (StatusCode::OK, Bytes::new())
        }
        None => (status, body),
    };
    if !body.is_empty() {
        headers
            .entry(header::CONTENT_TYPE)
            .or_insert(HeaderValue::from_static("text/plain"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    filters::on_any_response(&exchange, &mut headers);
    server_header(&exchange, &mut headers);
    if exchange.is_last() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.responded(status, &headers);
    exchange.sent_bytes = if exchange.head.method == http::Method::HEAD {
        0
    } else {
        body.len() as u64
    };
    exchange.complete();
    let body = if body.is_empty() {
        ResponseBody::Empty
    } else {
        ResponseBody::Full(Some(body))
    };
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// `server_header_transformation`.
pub(crate) fn server_header(exchange: &Exchange, headers: &mut HeaderMap) {
    let manager = &exchange.connection.manager;
    match manager.server_header {
        ServerHeader::PassThrough => {}
        ServerHeader::AppendIfAbsent if headers.contains_key(header::SERVER) => {}
        ServerHeader::AppendIfAbsent | ServerHeader::Overwrite => {
            headers.insert(header::SERVER, manager.server_name.clone());
        }
    }
}

/// `grpc-message` is percent-encoded (gRPC over HTTP/2, "Responses").
fn percent_encoded(text: &[u8]) -> HeaderValue {
    let mut out = String::with_capacity(text.len());
    for byte in text.iter().copied() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    HeaderValue::from_str(&out).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_messages_are_printable() {
        assert_eq!(
            percent_encoded("a b%\n\u{e9}".as_bytes()),
            "a b%25%0A%C3%A9"
        );
    }
}
