//! Chunked bodies.

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

/// A chunked body through the HTTP library: where a strict reader of RFC 9112 section 7.1 finds content, the library finds
/// the same; and what the library takes for whole, no reader would end elsewhere.
///
/// # Panics
/// They differ.
pub(crate) fn chunked_body(bytes: &[u8]) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else {
        return;
    };
    let found = runtime.block_on(read_by_library(bytes));
    match (read_strictly(bytes), &found) {
        (Some(content), _) => assert_eq!(found.as_deref(), Some(&*content)),
        // Blanks and extensions that the strict reader does not know: the sizes are the same.
        (None, Some(content)) => assert_eq!(read_leniently(bytes).as_ref(), Some(content)),
        (None, None) => {}
    }
}

/// The content, once the library has read it to its end.
async fn read_by_library(bytes: &[u8]) -> Option<Vec<u8>> {
    // What stands behind the body is no request: nobody reads more than one answer.
    const HEAD: &[u8] =
        b"POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let (mut near, far) = tokio::io::duplex(HEAD.len() + bytes.len() + 1024);
    near.write_all(HEAD).await.ok()?;
    near.write_all(bytes).await.ok()?;
    near.shutdown().await.ok()?;
    let content = parking_lot::Mutex::new(None);
    let service = hyper::service::service_fn(|request: Request<Incoming>| async {
        let body = request.into_body().collect().await;
        *content.lock() = body.ok().map(|body| body.to_bytes().to_vec());
        Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let _ended = hyper::server::conn::http1::Builder::new()
        // The input ends before it is answered.
        .half_close(true)
        .serve_connection(TokioIo::new(far), service)
        .await;
    content.into_inner()
}

/// Sizes of hexadecimal digits alone, CRLF at every end.
fn read_strictly(bytes: &[u8]) -> Option<Vec<u8>> {
    read(bytes, |line| std::str::from_utf8(line).ok())
        .filter(|(_, rest)| rest.starts_with(b"\r\n"))
        .map(|(content, _)| content)
}

/// Sizes up to the first blank or semicolon.
fn read_leniently(bytes: &[u8]) -> Option<Vec<u8>> {
    read(bytes, |line| {
        let size = line.split(|c| b" \t;".contains(c)).next()?;
        std::str::from_utf8(size).ok()
    })
    .map(|(content, _)| content)
}

/// The content, and what follows the last chunk's size: trailers, which are not judged.
fn read(bytes: &[u8], size: impl Fn(&[u8]) -> Option<&str>) -> Option<(Vec<u8>, &[u8])> {
    let mut content = Vec::new();
    let mut rest = bytes;
    loop {
        let end = rest.windows(2).position(|window| window == b"\r\n")?;
        let (line, behind) = rest.split_at(end);
        let digits = size(line)?;
        if digits.is_empty() || !digits.bytes().all(|c| c.is_ascii_hexdigit()) {
            return None;
        }
        let size = usize::from_str_radix(digits, 16).ok()?;
        rest = behind.get(2..)?;
        if size == 0 {
            return Some((content, rest));
        }
        let (chunk, behind) = rest.split_at_checked(size)?;
        content.extend_from_slice(chunk);
        rest = behind.strip_prefix(b"\r\n")?;
    }
}
