//! The body of a message that is being read: bytes become content and trailers.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue};
use http_body::Frame;
use meltemi_proxy_core::strict::{ChunkScanner, Malformed};

use super::error::Error;
use super::names;

/// Trailers of a body (Envoy's default `max_headers_count`).
const MAX_TRAILERS: usize = 100;

/// How the rest of a body is delimited (RFC 9112 section 6.3).
#[derive(Debug)]
pub(super) enum Decoder {
    Length(u64),
    Chunked(Box<ChunkScanner>),
    /// By the end of the connection.
    UntilEnd,
    Done,
    /// Where the message ends is unknown.
    Broken,
}

impl Decoder {
    pub(super) fn length(length: u64) -> Self {
        if length == 0 {
            Self::Done
        } else {
            Self::Length(length)
        }
    }

    pub(super) fn chunked(max_trailer_bytes: usize) -> Self {
        Self::Chunked(Box::new(ChunkScanner::new(max_trailer_bytes)))
    }

    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Done)
    }

    /// Bytes that are surely content: a reader may fetch so many at once.
    pub(super) fn bulk(&self) -> u64 {
        match self {
            Self::Length(left) => *left,
            Self::Chunked(scanner) => scanner.content(),
            Self::UntilEnd => u64::MAX,
            Self::Done | Self::Broken => 0,
        }
    }

    /// Takes the next frame from `input`; `None` asks for more bytes, or nothing follows.
    pub(super) fn decode(
        &mut self,
        input: &mut BytesMut,
    ) -> Result<Option<Frame<Bytes>>, Malformed> {
        match self {
            Self::Length(left) => {
                let data = take(input, *left);
                *left -= data.len() as u64;
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(content(data))
            }
            Self::Chunked(scanner) => {
                let frame = chunk(scanner, input);
                match &frame {
                    Ok(_) if scanner.is_done() => *self = Self::Done,
                    Ok(_) => {}
                    Err(_) => *self = Self::Broken,
                }
                frame
            }
            Self::UntilEnd => Ok(content(input.split().freeze())),
            Self::Done | Self::Broken => Ok(None),
        }
    }

    /// Why the body, of which `input` came with its head, has no end, if that shows.
    pub(super) fn foresee(&self, input: &[u8]) -> Option<Malformed> {
        let Self::Chunked(scanner) = self else {
            return None;
        };
        let scanned = scanner.as_ref().clone().scan(input);
        scanned.err().map(|(_, malformed)| malformed)
    }

    /// The peer has ended its side.
    pub(super) fn end(&mut self) -> Result<(), Error> {
        match self {
            Self::UntilEnd | Self::Done => {
                *self = Self::Done;
                Ok(())
            }
            Self::Length(_) | Self::Chunked(_) | Self::Broken => {
                *self = Self::Broken;
                Err(Error::Incomplete)
            }
        }
    }
}

fn take(input: &mut BytesMut, limit: u64) -> Bytes {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    if input.len() <= limit {
        input.split().freeze()
    } else {
        input.split_to(limit).freeze()
    }
}

fn content(data: Bytes) -> Option<Frame<Bytes>> {
    (!data.is_empty()).then(|| Frame::data(data))
}

/// The content of one chunk as far as it is there, with the framing behind it: whoever gets the last content is to know
/// that it is the last.
fn chunk(
    scanner: &mut ChunkScanner,
    input: &mut BytesMut,
) -> Result<Option<Frame<Bytes>>, Malformed> {
    read_framing(scanner, input)?;
    if scanner.is_done() {
        return trailers(scanner.trailers()).map(|fields| fields.map(Frame::trailers));
    }
    let data = take(input, scanner.content());
    scanner.took(data.len() as u64);
    if !data.is_empty() && has_no_trailers(scanner, input) {
        read_framing(scanner, input)?;
    }
    Ok(content(data))
}

/// Whether the end of the body is at hand and nothing stands before it.
fn has_no_trailers(scanner: &ChunkScanner, input: &[u8]) -> bool {
    scanner.content() == 0 && input.starts_with(b"\r\n0\r\n\r\n")
}

fn read_framing(scanner: &mut ChunkScanner, input: &mut BytesMut) -> Result<(), Malformed> {
    let read = scanner.framing(input).map_err(|(_, malformed)| malformed)?;
    input.advance(read);
    Ok(())
}

/// The fields of a trailer section whose syntax was checked. What would change the message's framing or its meaning to a
/// recipient has no place there (RFC 9110 section 6.5.1).
fn trailers(section: &[u8]) -> Result<Option<HeaderMap>, Malformed> {
    let mut fields = HeaderMap::new();
    for line in section.split_inclusive(|byte| *byte == b'\n') {
        let line = line.trim_ascii_end();
        let colon = line.iter().position(|byte| *byte == b':');
        let (name, value) = line.split_at(colon.ok_or(Malformed::Trailer)?);
        let name = names::parse(name).ok_or(Malformed::Trailer)?;
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        let value = HeaderValue::from_bytes(value).map_err(|_| Malformed::Trailer)?;
        if fields.len() >= MAX_TRAILERS {
            return Err(Malformed::HeadTooLarge);
        }
        if is_allowed(&name) {
            fields.append(name, value);
        }
    }
    Ok((!fields.is_empty()).then_some(fields))
}

fn is_allowed(name: &http::HeaderName) -> bool {
    use http::header;
    ![
        header::AUTHORIZATION,
        header::CACHE_CONTROL,
        header::CONNECTION,
        header::CONTENT_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_RANGE,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::EXPECT,
        header::HOST,
        header::SET_COOKIE,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ]
    .contains(name)
}
