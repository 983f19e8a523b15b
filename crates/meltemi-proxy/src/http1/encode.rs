//! Messages on their way out: heads, and content in its framing.

use std::io::Write as _;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
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
///
/// # Errors
/// It announces a length that is none. What was written of it must not be sent.
pub(super) fn response(
    parts: &http::response::Parts,
    body: (bool, SizeHint),
    asked: &Asked<'_>,
    out: &mut BytesMut,
) -> Result<(Encoder, bool), Error> {
    let status = parts.status;
    let is_switching = status == StatusCode::SWITCHING_PROTOCOLS;
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
    let noted = fields(&parts.headers, written, may_have_length(status), out)?;
    let framed = Framed::of_response(status, noted.length, body, asked);
    let is_last = !is_switching
        && (framed.encoder == Encoder::UntilEnd || !asked.keeps_alive || noted.says_close);
    if !is_switching && !noted.has_date {
        out.put_slice(b"date: ");
        date::write(out);
        out.put_slice(b"\r\n");
    }
    if !noted.has_connection && !is_switching {
        match (asked.version, is_last) {
            (Version::HTTP_10, false) => out.put_slice(b"connection: keep-alive\r\n"),
            (Version::HTTP_10, true) | (_, false) => {}
            (_, true) => out.put_slice(b"connection: close\r\n"),
        }
    }
    framed.end_head(out);
    Ok((framed.encoder, is_last))
}

/// Writes a request's head and says how its body is to be sent.
///
/// # Errors
/// As [`response`].
pub(super) fn request(
    parts: &http::request::Parts,
    is_empty: bool,
    trailers: bool,
    out: &mut BytesMut,
) -> Result<Encoder, Error> {
    out.reserve(USUAL_HEAD_BYTES);
    out.put_slice(parts.method.as_str().as_bytes());
    out.put_u8(b' ');
    match parts.uri.path_and_query() {
        Some(target) => out.put_slice(target.as_str().as_bytes()),
        None => out.put_u8(b'/'),
    }
    out.put_slice(b" HTTP/1.1\r\n");
    let noted = fields(&parts.headers, parts.extensions.get(), true, out)?;
    let framed = Framed::of_request(&parts.method, noted.length, is_empty, trailers);
    framed.end_head(out);
    Ok(framed.encoder)
}

/// How a body is sent, and what the head says of it.
struct Framed {
    encoder: Encoder,
    /// A `content-length` that it did not have.
    new_length: Option<u64>,
}

/// RFC 9110 section 8.6.
fn may_have_length(status: StatusCode) -> bool {
    !status.is_informational() && status != StatusCode::NO_CONTENT
}

impl Framed {
    fn of_response(
        status: StatusCode,
        announced: Option<u64>,
        (is_empty, size): (bool, SizeHint),
        asked: &Asked<'_>,
    ) -> Self {
        if !may_have_length(status) {
            return Self::nothing(None);
        }
        let known = announced.or_else(|| size.exact().filter(|_| !is_empty));
        if asked.method == Method::HEAD || status == StatusCode::NOT_MODIFIED {
            return Self::nothing(known.filter(|_| announced.is_none()));
        }
        let encoder = match known {
            _ if is_empty && announced.is_none() => return Self::nothing(Some(0)),
            Some(0) => Encoder::Nothing,
            Some(length) => Encoder::Length(length),
            None if asked.version == Version::HTTP_10 => Encoder::UntilEnd,
            None => Encoder::Chunked {
                trailers: asked.trailers,
            },
        };
        Self {
            encoder,
            new_length: known.filter(|_| announced.is_none()),
        }
    }

    /// Methods that mean to bring content say that there is none (RFC 9110 section 8.6).
    fn of_request(method: &Method, announced: Option<u64>, is_empty: bool, trailers: bool) -> Self {
        let brings = [Method::POST, Method::PUT, Method::PATCH].contains(method);
        let encoder = match announced {
            Some(0) => Encoder::Nothing,
            Some(length) => Encoder::Length(length),
            None if is_empty => return Self::nothing(brings.then_some(0)),
            None => Encoder::Chunked { trailers },
        };
        Self {
            encoder,
            new_length: None,
        }
    }

    fn nothing(new_length: Option<u64>) -> Self {
        Self {
            encoder: Encoder::Nothing,
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

/// What the fields of a message say of its framing.
#[derive(Default)]
struct Noted {
    length: Option<u64>,
    has_date: bool,
    has_connection: bool,
    says_close: bool,
}

/// Writes the fields of a message, but for those of its framing that do not hold for the connection that it leaves by.
fn fields(
    headers: &HeaderMap,
    written: Option<&WrittenNames>,
    may_have_length: bool,
    out: &mut BytesMut,
) -> Result<Noted, Error> {
    let mut noted = Noted::default();
    let mut field = |name: &HeaderName, written: &[u8], value: &HeaderValue| {
        if name == header::CONTENT_LENGTH {
            let length = value.to_str().ok().and_then(|text| text.parse().ok());
            let length: u64 = length.ok_or(Error::Length)?;
            // Of several that agree one is enough.
            if noted.length.replace(length).is_some() || !may_have_length {
                return Ok(());
            }
        } else if name == header::CONNECTION {
            noted.has_connection = true;
            noted.says_close |= head::words(value).any(|word| word.eq_ignore_ascii_case(b"close"));
        } else if name == header::DATE {
            noted.has_date = true;
        } else if name == header::TRANSFER_ENCODING {
            return Ok(());
        }
        out.put_slice(written);
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
        Ok(())
    };
    match written {
        None => {
            for (name, value) in headers {
                field(name, name.as_str().as_bytes(), value)?;
            }
        }
        Some(written) => written.each(headers, field)?,
    }
    Ok(noted)
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
                    fields(&trailers, None, false, &mut to.output)?;
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
