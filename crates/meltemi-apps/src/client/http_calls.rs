//! Plain requests over HTTP/1.1 and HTTP/2.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Options;
use super::connection::{Answer, Failure, tcp};

/// The largest answer that is read.
const ANSWER_LIMIT_BYTES: usize = 64 << 20;

pub(super) enum HttpConnection {
    Http1(http1::SendRequest<Empty<Bytes>>),
    Http2(http2::SendRequest<Empty<Bytes>>),
}

pub(super) async fn http1(options: &Options) -> Result<HttpConnection, Failure> {
    let io = TokioIo::new(tcp(options).await?);
    let (sender, driver) = http1::handshake(io)
        .await
        .map_err(|error| Failure::new("handshake", &error))?;
    tokio::spawn(driver);
    Ok(HttpConnection::Http1(sender))
}

pub(super) async fn http2(options: &Options) -> Result<HttpConnection, Failure> {
    let io = TokioIo::new(tcp(options).await?);
    let (sender, driver) = http2::handshake(TokioExecutor::new(), io)
        .await
        .map_err(|error| Failure::new("handshake", &error))?;
    tokio::spawn(driver);
    Ok(HttpConnection::Http2(sender))
}

impl HttpConnection {
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => !sender.is_closed(),
            Self::Http2(sender) => !sender.is_closed(),
        }
    }

    pub(super) async fn send(&mut self, options: &Options) -> Result<Answer, Failure> {
        let sending = |error: hyper::Error| Failure::new("send", &error);
        let mut request = Request::new(Empty::new());
        for (name, value) in &options.header {
            request.headers_mut().append(name, value.clone());
        }
        let response = match self {
            Self::Http2(sender) => {
                *request.uri_mut() = options.url.clone();
                sender.ready().await.map_err(sending)?;
                sender.send_request(request).await
            }
            Self::Http1(sender) => {
                in_origin_form(&mut request, options)?;
                sender.ready().await.map_err(sending)?;
                sender.send_request(request).await
            }
        };
        let (head, body) = response.map_err(sending)?.into_parts();
        let body = Limited::new(body, ANSWER_LIMIT_BYTES)
            .collect()
            .await
            .map_err(|error| Failure::said(format!("body: {error}")))?;
        Ok(Answer {
            status: head.status,
            headers: head.headers,
            body: body.to_bytes(),
        })
    }
}

fn in_origin_form(request: &mut Request<Empty<Bytes>>, options: &Options) -> Result<(), Failure> {
    let path = options
        .url
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    *request.uri_mut() = path.parse().map_err(|_| Failure::said("send: bad path"))?;
    if !request.headers().contains_key(header::HOST) {
        let host = options
            .url
            .authority()
            .map(http::uri::Authority::as_str)
            .unwrap_or_default();
        let host = host.parse().map_err(|_| Failure::said("send: bad host"))?;
        request.headers_mut().insert(header::HOST, host);
    }
    Ok(())
}
