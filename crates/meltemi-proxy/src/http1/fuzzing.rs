//! What is read of HTTP/1 against what another library reads, without a connection in between.

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use meltemi_proxy_core::strict::{HeadRules, HeadScanner};
use parking_lot::Mutex;
use tokio::io::AsyncWriteExt as _;

use super::decode::Decoder;
use super::head;

const RULES: HeadRules = HeadRules {
    max_bytes: 4096,
    max_fields: 20,
    allow_chunked_length: false,
};

/// A request as somebody read it.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    method: String,
    target: String,
    fields: Vec<(String, Vec<u8>)>,
    /// `None` if it is broken or not all there.
    content: Option<Vec<u8>>,
}

impl Read {
    fn new<T>(request: &Request<T>) -> Self {
        let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
            (name.to_string(), value.as_bytes().to_vec())
        };
        Self {
            method: request.method().to_string(),
            target: request.uri().to_string(),
            fields: request.headers().iter().map(field).collect(),
            content: None,
        }
    }
}

/// The bytes of a connection, the first of which says how they are cut: however that is, the same requests are read; and
/// each of them is what another library finds in its place (C01 to C06 of the security catalogue).
///
/// # Panics
/// It is not.
pub(crate) fn wire_head(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else {
        return;
    };
    let whole = requests(bytes, bytes.len().max(1));
    let pieces = requests(bytes, usize::from(*cut).max(1));
    assert_eq!(whole, pieces, "in pieces of {cut}");
    let found = with_library(bytes);
    // The library may find a fault that is none to us, and then nothing behind it.
    for (ours, theirs) in whole.iter().zip(&found) {
        assert_eq!(
            (&ours.method, &ours.target),
            (&theirs.method, &theirs.target)
        );
        assert_eq!(ours.fields, theirs.fields);
        // It has bounds of its own.
        if let (Some(ours), Some(theirs)) = (&ours.content, &theirs.content) {
            assert_eq!(ours, theirs);
        }
    }
}

/// A chunked body: where a strict reader of RFC 9112 section 7.1 finds content, the same is found; and what is taken for
/// whole, no other reader would end elsewhere.
///
/// # Panics
/// They differ.
pub(crate) fn chunked_body(bytes: &[u8]) {
    let mut decoder = Decoder::chunked(super::MAX_TRAILER_BYTES);
    let mut input = BytesMut::from(bytes);
    let found = content(&mut decoder, &mut input).filter(|_| decoder.is_done());
    if let Some(strict) = read_strictly(bytes) {
        assert_eq!(found.as_ref(), Some(&strict));
    }
    if let Some(found) = found {
        assert_eq!(read_leniently(bytes).as_ref(), Some(&found));
        const HEAD: &[u8] = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        let theirs = with_library(&[HEAD, bytes].concat()).into_iter().next();
        // It has bounds of its own.
        if let Some(content) = theirs.and_then(|request| request.content) {
            assert_eq!(content, found);
        }
    }
}

/// The requests in `bytes`, which come in pieces of `size`, up to the first that is refused.
fn requests(bytes: &[u8], size: usize) -> Vec<Read> {
    let mut pieces = bytes.chunks(size);
    let mut input = BytesMut::new();
    let mut requests = Vec::new();
    let mut scanner = HeadScanner::default();
    let mut decoder = Decoder::Done;
    let mut body = Vec::new();
    loop {
        if decoder.is_done() {
            let Ok(scanned) = scanner.scan(&input, &RULES) else {
                return requests;
            };
            if let Some(scanned) = scanned {
                let Ok(request) = head::request(&scanner, &scanned, &mut input, false) else {
                    return requests;
                };
                scanner = HeadScanner::default();
                requests.push(Read::new(&request));
                decoder = scanned.framing.into();
                // What follows may be a tunnel's.
                if scanned.asks_tunnel {
                    return requests;
                }
                continue_body(&mut decoder, &mut input, &mut body, &mut requests);
                continue;
            }
        }
        let Some(piece) = pieces.next() else {
            return requests;
        };
        input.extend_from_slice(piece);
        if !decoder.is_done() && !continue_body(&mut decoder, &mut input, &mut body, &mut requests)
        {
            return requests;
        }
    }
}

/// Reads on in a body. `false` if it is broken.
fn continue_body(
    decoder: &mut Decoder,
    input: &mut BytesMut,
    body: &mut Vec<u8>,
    requests: &mut [Read],
) -> bool {
    let Some(content) = content(decoder, input) else {
        body.clear();
        return false;
    };
    body.extend(content);
    if decoder.is_done()
        && let Some(request) = requests.last_mut()
    {
        request.content = Some(std::mem::take(body));
    }
    true
}

/// The content in `input`, as far as it goes. `None` if it is broken.
fn content(decoder: &mut Decoder, input: &mut BytesMut) -> Option<Vec<u8>> {
    let mut content = Vec::new();
    while let Some(frame) = decoder.decode(input).ok()? {
        if let Ok(data) = frame.into_data() {
            content.extend_from_slice(&data);
        }
    }
    Some(content)
}

/// The requests that the library finds.
fn with_library(bytes: &[u8]) -> Vec<Read> {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    runtime.map_or_else(
        |_| Vec::new(),
        |runtime| runtime.block_on(requests_of_library(bytes)),
    )
}

async fn requests_of_library(bytes: &[u8]) -> Vec<Read> {
    let found = Mutex::new(Vec::new());
    let (mut near, far) = tokio::io::duplex(64 * 1024);
    let service = hyper::service::service_fn(|request: Request<Incoming>| async {
        let mut read = Read::new(&request);
        let content = request.into_body().collect().await;
        read.content = content.ok().map(|content| content.to_bytes().to_vec());
        found.lock().push(read);
        Ok::<_, std::convert::Infallible>(Response::new(Empty::<Bytes>::new()))
    });
    let serving = hyper::server::conn::http1::Builder::new()
        // The input ends before it is answered.
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
    found.into_inner()
}

/// Sizes of hexadecimal digits alone, CRLF at every end, no trailers.
fn read_strictly(bytes: &[u8]) -> Option<Vec<u8>> {
    read(bytes, |line| {
        let text = std::str::from_utf8(line).ok()?;
        (text.len() <= 16).then_some(text)
    })
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
