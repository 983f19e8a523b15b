//! Messages on their way out: heads, and content in its framing.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{self, HeaderMap};
use http::{Method, StatusCode, Version};
use http_body::{Frame, SizeHint};

use super::error::Error;
use super::names::WrittenNames;
use super::stream::{SHORT_BYTES, Stream};
use super::{date, head};

/// Room for a usual head, so that it is written without moving it.
const USUAL_HEAD_BYTES: usize = 1024;

/// How a body that is sent is delimited.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Encoder {
    /// Nothing follows the head.
    Nothing,
    Length(u64),
    Chunked {
        /// Trailers are sent, not dropped (Envoy `enable_trailers`).
        trailers: bool,
    },
    /// By the end of the connection.
    UntilEnd,
}

/// What a response's head depends on besides itself.
pub(super) struct Asked<'a> {
    pub(super) method: &'a Method,
    pub(super) version: Version,
    /// The client would send another request.
    pub(super) keeps_alive: bool,
    pub(super) keeps_case: bool,
    pub(super) trailers: bool,
}

/// Writes a response's head. Says how its body is to be sent, and whether another request may follow.
pub(super) fn response(
    parts: &http::response::Parts,
    body: (bool, SizeHint),
    asked: &Asked<'_>,
    out: &mut BytesMut,
) -> Result<(Encoder, bool), Error> {
    let status = parts.status;
    let is_switching = status == StatusCode::SWITCHING_PROTOCOLS;
    let announced = announced_length(&parts.headers)?;
    let framed = Framed::of_response(status, announced, body, asked);
    let is_last = !is_switching
        && (framed.encoder == Encoder::UntilEnd
            || !asked.keeps_alive
            || says_close(&parts.headers));
    out.reserve(USUAL_HEAD_BYTES);
    out.put_slice(match asked.version {
        Version::HTTP_10 => b"HTTP/1.0 ",
        _ => b"HTTP/1.1 ",
    });
    out.put_slice(status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    let written = asked.keeps_case.then(|| parts.extensions.get()).flatten();
    fields(&parts.headers, written, framed.keeps_length, out);
    if !is_switching && !parts.headers.contains_key(header::DATE) {
        out.put_slice(b"date: ");
        date::write(out);
        out.put_slice(b"\r\n");
    }
    if !parts.headers.contains_key(header::CONNECTION) {
        match asked.version {
            _ if is_switching => {}
            Version::HTTP_10 if !is_last => out.put_slice(b"connection: keep-alive\r\n"),
            Version::HTTP_10 => {}
            _ if is_last => out.put_slice(b"connection: close\r\n"),
            _ => {}
        }
    }
    framed.end_head(out);
    Ok((framed.encoder, is_last))
}

/// Writes a request's head and says how its body is to be sent.
pub(super) fn request(
    parts: &http::request::Parts,
    is_empty: bool,
    trailers: bool,
    out: &mut BytesMut,
) -> Result<Encoder, Error> {
    let announced = announced_length(&parts.headers)?;
    let framed = Framed::of_request(&parts.method, announced, is_empty, trailers);
    out.reserve(USUAL_HEAD_BYTES);
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    match parts.uri.path_and_query() {
        Some(target) => out.put_slice(target.as_str().as_bytes()),
        None => out.put_u8(b'/'),
    }
    out.put_slice(b" HTTP/1.1\r\n");
    fields(
        &parts.headers,
        parts.extensions.get(),
        framed.keeps_length,
        out,
    );
    framed.end_head(out);
    Ok(framed.encoder)
}

/// How a body is sent, and what the head says of it.
struct Framed {
    encoder: Encoder,
    /// The `content-length` of the message stays.
    keeps_length: bool,
    /// One that it did not have.
    new_length: Option<u64>,
}

impl Framed {
    fn of_response(
        status: StatusCode,
        announced: Option<u64>,
        (is_empty, size): (bool, SizeHint),
        asked: &Asked<'_>,
    ) -> Self {
        if status.is_informational() || status == StatusCode::NO_CONTENT {
            return Self::nothing(false, None);
        }
        let known = announced.or_else(|| size.exact().filter(|_| !is_empty));
        if asked.method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
            return Self::nothing(true, known.filter(|_| announced.is_none()));
        }
        let encoder = match known {
            _ if is_empty && announced.is_none() => return Self::nothing(false, Some(0)),
            Some(0) => Encoder::Nothing,
            Some(length) => Encoder::Length(length),
            None if asked.version == Version::HTTP_10 => Encoder::UntilEnd,
            None => Encoder::Chunked {
                trailers: asked.trailers,
            },
        };
        Self {
            encoder,
            keeps_length: true,
            new_length: known.filter(|_| announced.is_none()),
        }
    }

    /// Methods that mean to bring content say that there is none (RFC 9110 section 8.6).
    fn of_request(method: &Method, announced: Option<u64>, is_empty: bool, trailers: bool) -> Self {
        let brings = [Method::POST, Method::PUT, Method::PATCH].contains(method);
        let encoder = match announced {
            Some(0) => Encoder::Nothing,
            Some(length) => Encoder::Length(length),
            None if is_empty => return Self::nothing(true, brings.then_some(0)),
            None => Encoder::Chunked { trailers },
        };
        Self {
            encoder,
            keeps_length: true,
            new_length: None,
        }
    }

    fn nothing(keeps_length: bool, new_length: Option<u64>) -> Self {
        Self {
            encoder: Encoder::Nothing,
            keeps_length,
            new_length,
        }
    }

    fn end_head(&self, out: &mut BytesMut) {
        if let Some(length) = self.new_length {
            // A buffer of bytes takes whatever is written to it.
            let _written = write!(out.writer(), "content-length: {length}\r\n");
        }
        if let Encoder::Chunked { .. } = self.encoder {
            out.put_slice(b"transfer-encoding: chunked\r\n");
        }
        out.put_slice(b"\r\n");
    }
}

fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, Error> {
    let Some(length) = headers.get(header::CONTENT_LENGTH) else {
        return Ok(None);
    };
    let parsed = length.to_str().ok().and_then(|text| text.parse().ok());
    parsed.map(Some).ok_or(Error::Length)
}

fn says_close(headers: &HeaderMap) -> bool {
    headers.contains_key(header::CONNECTION) && !head::keeps_alive(Version::HTTP_11, headers)
}

/// Writes the fields of a message. How it is framed is the connection's to say.
fn fields(
    headers: &HeaderMap,
    written: Option<&WrittenNames>,
    keeps_length: bool,
    out: &mut BytesMut,
) {
    let mut has_length = !keeps_length;
    let mut line = |name: &[u8], value: &[u8]| {
        out.put_slice(name);
        out.put_slice(b": ");
        out.put_slice(value);
        out.put_slice(b"\r\n");
    };
    let mut is_kept = |name: &header::HeaderName| {
        if name == header::CONTENT_LENGTH {
            // One of several that agree.
            return !std::mem::replace(&mut has_length, true);
        }
        name != header::TRANSFER_ENCODING
    };
    match written {
        None => {
            for (name, value) in headers {
                if is_kept(name) {
                    line(name.as_str().as_bytes(), value.as_bytes());
                }
            }
        }
        Some(written) => written.each(headers, |name, written, value| {
            if is_kept(name) {
                line(written, value);
            }
        }),
    }
}

impl Encoder {
    /// Puts a frame behind what waits to be written.
    pub(super) fn frame(&mut self, frame: Frame<Bytes>, to: &mut Stream) -> Result<(), Error> {
        match frame.into_data() {
            Ok(data) if data.is_empty() => Ok(()),
            Ok(data) => self.data(data, to),
            Err(frame) => {
                if let (Self::Chunked { trailers: true }, Ok(trailers)) =
                    (&*self, frame.into_trailers())
                {
                    to.output.put_slice(b"0\r\n");
                    fields(&trailers, None, false, &mut to.output);
                    to.output.put_slice(b"\r\n");
                    *self = Self::Nothing;
                }
                Ok(())
            }
        }
    }

    fn data(&mut self, data: Bytes, to: &mut Stream) -> Result<(), Error> {
        let length = data.len();
        match self {
            // Nothing follows trailers.
            Self::Nothing => return Err(Error::Length),
            Self::Length(left) => {
                *left = left.checked_sub(length as u64).ok_or(Error::Length)?;
            }
            Self::Chunked { .. } => {
                let _written = write!((&mut to.output).writer(), "{length:x}\r\n");
                to.tail = b"\r\n";
            }
            Self::UntilEnd => {}
        }
        if length <= SHORT_BYTES {
            to.output.put_slice(&data);
            to.output.put_slice(std::mem::take(&mut to.tail));
        } else {
            to.long = data;
        }
        Ok(())
    }

    /// The body has ended.
    pub(super) fn end(&mut self, to: &mut Stream) -> Result<(), Error> {
        match std::mem::replace(self, Self::Nothing) {
            Self::Nothing | Self::UntilEnd | Self::Length(0) => Ok(()),
            Self::Length(_) => Err(Error::Length),
            Self::Chunked { .. } if to.long.is_empty() => {
                to.output.put_slice(b"0\r\n\r\n");
                Ok(())
            }
            Self::Chunked { .. } => {
                to.tail = b"\r\n0\r\n\r\n";
                Ok(())
            }
        }
    }
}
