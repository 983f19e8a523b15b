use std::fmt::Write as _;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

use super::{Answer, Log, Seen};

/// Serves a connection; what hyper refuses of the proxy's frames never gets to be seen.
pub(super) async fn serve(stream: TcpStream, log: Log) {
    let service = hyper::service::service_fn(move |request| {
        let log = log.clone();
        async move { Ok::<_, std::convert::Infallible>(answer(request, &log).await) }
    });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    let _ended = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(request: Request<Incoming>, log: &Log) -> Response<Full<Bytes>> {
    let busy = log.begin();
    let (parts, body) = request.into_parts();
    let head = written(&parts);
    let read = async {
        let collected = body.collect().await;
        let is_complete = collected.is_ok();
        let body = collected.map(|body| body.to_bytes().to_vec());
        Seen {
            head,
            body: body.unwrap_or_default(),
            is_complete,
            oddity: None,
        }
    };
    if log.answer() == Answer::Early {
        let seen = Box::pin(read);
        tokio::spawn(async move { busy.note(seen.await) });
    } else {
        busy.note(read.await);
    }
    Response::new(Full::new(Bytes::from_static(b"ok")))
}

/// The head in the form of HTTP/1, so that both upstreams are judged alike.
fn written(parts: &http::request::Parts) -> Vec<u8> {
    let authority = parts.uri.authority().map_or("", |a| a.as_str());
    let target = parts.uri.path_and_query().map_or("", |p| p.as_str());
    let mut head = String::new();
    // Writing into a string does not fail.
    let _written = write!(
        head,
        "{} {target} HTTP/2\r\nhost: {authority}\r\n",
        parts.method
    );
    let mut head = head.into_bytes();
    for (name, value) in &parts.headers {
        head.extend_from_slice(name.as_str().as_bytes());
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head
}
