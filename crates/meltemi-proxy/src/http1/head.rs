//! Heads of messages: bytes become a request or a response, and how its body is framed.

use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use meltemi_proxy_core::strict::{Framing, HeadScanner, Malformed, ScannedHead};

use super::decode::Decoder;
use super::error::Error;
use super::names::{self, WrittenNames};

/// Fields of a response's head (Envoy's default `max_headers_count`).
const MAX_RESPONSE_FIELDS: usize = 100;

/// A request that was scanned and found good, which `input` begins with.
pub(super) fn request(
    scanner: &HeadScanner,
    scanned: &ScannedHead,
    input: &mut BytesMut,
    keeps_case: bool,
) -> Result<Request<()>, Malformed> {
    let head = take(input, scanned.len);
    let slice = |part: &[u8]| head.slice_ref(part);
    let mut request = Request::new(());
    *request.method_mut() = method(scanner.method(&head))?;
    *request.uri_mut() =
        Uri::from_maybe_shared(slice(scanner.target(&head))).map_err(|_| Malformed::Codec)?;
    *request.version_mut() = version(scanned.is_http_10);
    let fields = scanner.fields(&head);
    let mut map = HeaderMap::with_capacity(fields.len());
    let mut written = keeps_case.then(WrittenNames::default);
    for (name, value) in fields {
        let parsed = names::parse(name).ok_or(Malformed::HeaderName)?;
        if let Some(written) = &mut written {
            written.push(parsed.clone(), slice(name));
        }
        let value = HeaderValue::from_maybe_shared(slice(value));
        map.append(parsed, value.map_err(|_| Malformed::HeaderValue)?);
    }
    *request.headers_mut() = map;
    if let Some(written) = written {
        request.extensions_mut().insert(written);
    }
    Ok(request)
}

fn method(name: &[u8]) -> Result<Method, Malformed> {
    Method::from_bytes(name).map_err(|_| Malformed::RequestLine)
}

fn version(is_http_10: bool) -> Version {
    if is_http_10 {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

/// What `input` begins with. Whoever keeps a part of it keeps no more than this alive.
fn take(input: &mut BytesMut, length: usize) -> Bytes {
    if input.len() == length {
        std::mem::take(input).freeze()
    } else {
        input.split_to(length).freeze()
    }
}

impl From<Framing> for Decoder {
    fn from(framing: Framing) -> Self {
        match framing {
            Framing::Length(length) => Self::length(length),
            Framing::Chunked => Self::chunked(super::MAX_TRAILER_BYTES),
        }
    }
}

/// Whether the connection may carry another message (RFC 9112 section 9.3).
pub(super) fn keeps_alive(version: Version, headers: &HeaderMap) -> bool {
    let mut says_close = false;
    let mut says_keep = false;
    for value in headers.get_all(header::CONNECTION) {
        for word in words(value) {
            says_close |= word.eq_ignore_ascii_case(b"close");
            says_keep |= word.eq_ignore_ascii_case(b"keep-alive");
        }
    }
    !says_close && (version == Version::HTTP_11 || says_keep)
}

/// The members of a list.
pub(super) fn words(value: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    let members = value.as_bytes().split(|byte| *byte == b',');
    members.map(<[u8]>::trim_ascii)
}

/// Where the head ends that `input` begins with, counted with its empty line; `seen` bytes of it were looked at before.
pub(super) fn response_end(input: &[u8], seen: usize) -> Option<usize> {
    let from = seen.saturating_sub(3);
    let mut at = from;
    while let Some(found) = memchr::memchr(b'\n', input.get(at..)?) {
        let end = at + found;
        let before = input.get(..end)?;
        if before.ends_with(b"\n") || before.ends_with(b"\n\r") {
            return Some(end + 1);
        }
        at = end + 1;
    }
    None
}

/// The response that `input` begins with, `length` bytes of head, and how its body is framed. `None` is an interim one
/// (RFC 9110 section 15.2), of which nothing is kept.
pub(super) fn response(
    input: &mut BytesMut,
    length: usize,
    asked: &Method,
    keeps_case: bool,
) -> Result<Option<(Response<()>, Decoder)>, Error> {
    let head = take(input, length);
    let mut fields = [httparse::EMPTY_HEADER; MAX_RESPONSE_FIELDS];
    let mut parsed = httparse::Response::new(&mut fields);
    match parsed.parse(&head) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Error::Response("incomplete head")),
        Err(httparse::Error::TooManyHeaders) => return Err(Error::Response("too many headers")),
        Err(_) => return Err(Error::Response("malformed head")),
    }
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Error::Response("malformed status"))?;
    if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(None);
    }
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.version_mut() = version(parsed.version == Some(0));
    let mut map = HeaderMap::with_capacity(parsed.headers.len());
    let mut written = keeps_case.then(WrittenNames::default);
    let mut said = Said::default();
    for field in parsed.headers.iter() {
        let name = names::parse(field.name.as_bytes());
        let name = name.ok_or(Error::Response("malformed header name"))?;
        if let Some(written) = &mut written {
            written.push(name.clone(), head.slice_ref(field.name.as_bytes()));
        }
        let value = HeaderValue::from_maybe_shared(head.slice_ref(field.value));
        let value = value.map_err(|_| Error::Response("malformed header value"))?;
        said.note(&name, value.as_bytes())?;
        map.append(name, value);
    }
    let decoder = response_framing(asked, status, response.version(), said)?;
    *response.headers_mut() = map;
    if let Some(written) = written {
        response.extensions_mut().insert(written);
    }
    Ok(Some((response, decoder)))
}

/// RFC 9112 section 6.3. A response that says in two ways how long it is, is refused, as Envoy does: who reads it
/// otherwise would find another response behind it.
fn response_framing(
    asked: &Method,
    status: StatusCode,
    version: Version,
    Said { length, is_chunked }: Said,
) -> Result<Decoder, Error> {
    if is_chunked.is_some() && (length.is_some() || version == Version::HTTP_10) {
        return Err(Error::Response(
            "transfer-encoding beside content-length or in HTTP/1.0",
        ));
    }
    let has_none = status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    Ok(match (is_chunked, length) {
        _ if has_none || asked == Method::HEAD => Decoder::Done,
        (Some(true), _) => Decoder::chunked(super::MAX_TRAILER_BYTES),
        (None, Some(length)) => Decoder::length(length),
        (Some(false), _) | (None, None) => Decoder::UntilEnd,
    })
}

/// What a response says of its length.
#[derive(Default)]
struct Said {
    length: Option<u64>,
    /// Whether the last coding is `chunked`; `None` without any.
    is_chunked: Option<bool>,
}

impl Said {
    fn note(&mut self, name: &header::HeaderName, value: &[u8]) -> Result<(), Error> {
        if name == header::CONTENT_LENGTH {
            let length = decimal(value).ok_or(Error::Response("malformed content-length"))?;
            // Lines that agree are one.
            if self
                .length
                .replace(length)
                .is_some_and(|before| before != length)
            {
                return Err(Error::Response("two content-lengths"));
            }
        } else if name == header::TRANSFER_ENCODING {
            let last = value.rsplit(|byte| *byte == b',').next();
            let last = last.unwrap_or_default().trim_ascii();
            let is_chunked = last.eq_ignore_ascii_case(b"chunked");
            if self.is_chunked.replace(is_chunked).is_some() {
                return Err(Error::Response("two transfer-encodings"));
            }
        }
        Ok(())
    }
}

fn decimal(digits: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(digits).ok()?;
    let is_decimal = text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| is_decimal)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(head: &[u8], asked: &Method) -> Result<Option<(Response<()>, Decoder)>, Error> {
        let mut input = BytesMut::from(head);
        let end = response_end(&input, 0).unwrap();
        assert_eq!(end, head.len(), "{}", head.escape_ascii());
        response(&mut input, end, asked, false)
    }

    #[test]
    fn heads_end_at_their_empty_line() {
        let head = b"HTTP/1.1 200 OK\r\na: b\r\n\r\nrest\r\n\r\n";
        for seen in 0..head.len() - 8 {
            let expected = (seen <= 25 + 2).then_some(25);
            if let Some(expected) = expected {
                assert_eq!(response_end(head, seen.min(24)), Some(expected), "{seen}");
            }
        }
        assert_eq!(response_end(b"HTTP/1.1 200 OK\r\na: b\r\n\r", 0), None);
        assert_eq!(response_end(b"HTTP/1.1 200 OK\na: b\n\n", 0), Some(22));
    }

    #[test]
    fn bodies_are_framed_as_rfc_9112_says() {
        for (head, asked, expected) in [
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                Method::GET,
                "Length(5)",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
                Method::GET,
                "Done",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\n",
                Method::GET,
                "Length(5)",
            ),
            (
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
                Method::HEAD,
                "Done",
            ),
            (
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 5\r\n\r\n",
                Method::GET,
                "Done",
            ),
            ("HTTP/1.1 204 No Content\r\n\r\n", Method::GET, "Done"),
            ("HTTP/1.1 200 OK\r\n\r\n", Method::GET, "UntilEnd"),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
                Method::GET,
                "UntilEnd",
            ),
            (
                "HTTP/1.1 101 Switching Protocols\r\n\r\n",
                Method::GET,
                "Done",
            ),
        ] {
            let (_, decoder) = read(head.as_bytes(), &asked).unwrap().unwrap();
            assert_eq!(format!("{decoder:?}"), expected, "{head}");
        }
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, Chunked\r\n\r\n";
        let (_, decoder) = read(chunked, &Method::GET).unwrap().unwrap();
        assert!(matches!(decoder, Decoder::Chunked(_)));
        let interim = read(b"HTTP/1.1 103 Early Hints\r\n\r\n", &Method::GET);
        assert!(interim.unwrap().is_none());
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for head in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: \r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
            "HTTP/1.1 099 OK\r\n\r\n",
            "HTTP/2.0 200 OK\r\n\r\n",
            "HTTP/1.1 200 OK\r\na : b\r\n\r\n",
            "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
            "ICY 200 OK\r\n\r\n",
        ] {
            let read = read(head.as_bytes(), &Method::GET);
            assert!(matches!(read, Err(Error::Response(_))), "{head}: {read:?}");
        }
    }

    #[test]
    fn who_keeps_a_connection_says_so() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(header::CONNECTION, HeaderValue::from_static(value))])
        };
        assert!(keeps_alive(Version::HTTP_11, &HeaderMap::new()));
        assert!(!keeps_alive(Version::HTTP_10, &HeaderMap::new()));
        assert!(keeps_alive(Version::HTTP_10, &headers("Keep-Alive")));
        assert!(!keeps_alive(Version::HTTP_11, &headers("upgrade, Close")));
    }
}
