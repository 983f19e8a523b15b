//! The raw HTTP/1 reader in front of the HTTP library.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use meltemi_proxy_core::strict::HeadRules;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWriteExt as _, ReadBuf};

use crate::http::wire::WireState;
use crate::http::wire::http1::Guard;

const RULES: HeadRules = HeadRules {
    max_bytes: 4096,
    max_fields: 20,
    allow_chunked_length: false,
};

/// Bytes that come in pieces, and then no more.
struct Pieces<'a> {
    rest: &'a [u8],
    size: usize,
}

impl AsyncRead for Pieces<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let taken = self.size.min(buf.remaining()).min(self.rest.len());
        let (piece, rest) = self.rest.split_at(taken);
        buf.put_slice(piece);
        self.rest = rest;
        Poll::Ready(Ok(()))
    }
}

/// What becomes of a connection's bytes.
#[derive(Debug, PartialEq)]
struct Passed {
    bytes: Vec<u8>,
    requests: u64,
    /// The request that was refused, and why.
    refused: Option<(u64, String)>,
    is_broken: bool,
}

/// The bytes of a connection, the first of which says how they are cut: however that is, the same passes; and the HTTP
/// library finds no request in it that was not read, and no more content (C01 to C06 of the security catalogue).
///
/// # Panics
/// It does.
pub(crate) fn wire_head(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = pass(bytes, bytes.len().max(1));
    let pieces = pass(bytes, usize::from(*cut).max(1));
    assert_eq!(whole, pieces, "in pieces of {cut}");
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else {
        return;
    };
    let found = runtime.block_on(requests_of_library(&whole.bytes));
    // The stand-in of a refused request is one, too.
    let read = whole.requests + u64::from(whole.refused.is_some());
    assert!(
        found <= read,
        "the library finds {found} requests: {whole:?}"
    );
}

fn pass(bytes: &[u8], size: usize) -> Passed {
    let state = Arc::new(WireState::default());
    let mut guard = Guard::new(RULES, None, state.clone());
    let mut pieces = Pieces { rest: bytes, size };
    let mut cx = Context::from_waker(Waker::noop());
    let mut passed = Vec::new();
    let mut space = vec![0; 512];
    let is_broken = loop {
        let mut buf = ReadBuf::new(&mut space);
        match guard.poll_read(&mut pieces, &mut cx, &mut buf) {
            Poll::Ready(Ok(())) if buf.filled().is_empty() => break false,
            Poll::Ready(Ok(())) => passed.extend_from_slice(buf.filled()),
            Poll::Ready(Err(_)) => break true,
            // So much is held that may be a tunnel's that no more is read.
            Poll::Pending => break false,
        }
    };
    let requests = guard.requests;
    let refused = (1..=requests + 1).find_map(|number| {
        let refusal = state.refusal(number)?;
        Some((number, format!("{:?}", refusal.kind)))
    });
    Passed {
        bytes: passed,
        requests,
        refused: refused.filter(|_| !is_broken),
        is_broken,
    }
}

async fn requests_of_library(bytes: &[u8]) -> u64 {
    let count = Mutex::new(0);
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let service = hyper::service::service_fn(|request: Request<Incoming>| async {
        *count.lock() += 1;
        let _content = request.into_body().collect().await;
        Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .half_close(true)
        .serve_connection(TokioIo::new(far), service);
    let feeding = async {
        let written = near.write_all(bytes).await;
        let shut = near.shutdown().await;
        // The answers are read, so that the library is never stuck with one.
        let _answers = tokio::io::copy(&mut near, &mut tokio::io::sink()).await;
        written.and(shut)
    };
    let _ended = tokio::join!(serving, feeding);
    count.into_inner()
}
