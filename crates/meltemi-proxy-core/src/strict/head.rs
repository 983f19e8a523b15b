//! Reads the head of an HTTP/1 request as it stands on the wire, before any parser had the chance to be kind to it.
//!
//! Two servers that read one head differently are how requests are smuggled, so everything that RFC 9112 lets a recipient
//! repair is refused here: folded lines, bare line feeds, blanks around names, a second framing field.

use std::ops::Range;

use memchr::memchr;
use smallvec::SmallVec;

use super::{Malformed, is_length};

/// Limits of a head, and what may be lenient about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadRules {
    /// `max_request_headers_kb`.
    pub max_bytes: usize,
    /// `common_http_protocol_options.max_headers_count`.
    pub max_fields: usize,
    /// `http_protocol_options.allow_chunked_length`: `Transfer-Encoding: chunked` wins over a `Content-Length` beside it.
    pub allow_chunked_length: bool,
}

/// How the body behind a head is delimited (RFC 9112 section 6.3; a request's never by the end of the connection).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
}

/// A head that may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ScannedHead {
    /// With the empty line.
    pub len: usize,
    pub is_http_10: bool,
    pub framing: Framing,
    /// CONNECT or `Upgrade`: what follows is HTTP only if the answer says so.
    pub asks_tunnel: bool,
}

/// Where a field stands in its head: two lengths of a line.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    colon: u32,
    end: u32,
}

/// Fields whose places are kept without an allocation.
const INLINE_FIELDS: usize = 16;

/// Reads one head, however it is cut.
#[derive(Debug, Default)]
pub struct HeadScanner {
    /// Where the line begins that is being read.
    line: usize,
    /// Up to where there is no line feed.
    searched: usize,
    has_request_line: bool,
    has_blank_line: bool,
    is_http_10: bool,
    is_connect: bool,
    has_upgrade: bool,
    is_chunked: bool,
    length: Option<u64>,
    method: Range<usize>,
    target: Range<usize>,
    fields: SmallVec<[Span; INLINE_FIELDS]>,
}

/// Bytes of a token (RFC 9110 section 5.6.2).
const TOKEN: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'!' | b'#'
                    | b'$'
                    | b'%'
                    | b'&'
                    | b'\''
                    | b'*'
                    | b'+'
                    | b'-'
                    | b'.'
                    | b'^'
                    | b'_'
                    | b'`'
                    | b'|'
                    | b'~'
            );
        byte += 1;
    }
    table
};

pub(super) fn is_token_byte(byte: u8) -> bool {
    TOKEN[usize::from(byte)]
}

fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_token_byte(*byte))
}

/// Whether a field value holds control characters other than a tab. Written without a branch, so that it is done 16 bytes
/// at a time.
fn has_control(value: &[u8]) -> bool {
    value.iter().fold(false, |found, byte| {
        found | ((*byte < b' ') & (*byte != b'\t')) | (*byte == 0x7f)
    })
}

fn trim(value: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_blank(byte));
    let end = value.iter().rposition(|byte| !is_blank(byte));
    match (start, end) {
        (Some(start), Some(end)) => &value[start..=end],
        _ => &[],
    }
}

impl HeadScanner {
    /// Whether nothing of a head was seen yet.
    pub fn is_empty(&self) -> bool {
        self.searched == 0
    }

    /// Reads on. `bytes` are all bytes since the head began; `None` asks for more.
    ///
    /// # Errors
    /// See [`Malformed`]. The connection has no next request then: where one would begin is unknown.
    pub fn scan(
        &mut self,
        bytes: &[u8],
        rules: &HeadRules,
    ) -> Result<Option<ScannedHead>, Malformed> {
        while let Some(found) = memchr(b'\n', &bytes[self.searched..]) {
            let end = self.searched + found;
            if end >= rules.max_bytes {
                return Err(Malformed::HeadTooLarge);
            }
            let line = bytes[self.line..end]
                .strip_suffix(b"\r")
                .ok_or(Malformed::BareLineFeed)?;
            let start = std::mem::replace(&mut self.line, end + 1);
            self.searched = end + 1;
            if !self.has_request_line {
                self.first_line(start, line)?;
            } else if line.is_empty() {
                return self.finish(rules).map(Some);
            } else {
                self.field(start, line, rules)?;
            }
        }
        self.searched = bytes.len();
        if bytes.len() >= rules.max_bytes {
            return Err(Malformed::HeadTooLarge);
        }
        if !self.has_request_line {
            expect_method(&bytes[self.line..])?;
        }
        Ok(None)
    }

    /// The method of a head that was read whole, which is `head`.
    pub fn method<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.method.clone()).unwrap_or_default()
    }

    /// Its request target.
    pub fn target<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        head.get(self.target.clone()).unwrap_or_default()
    }

    /// Its fields: names, and values without the blanks around them.
    pub fn fields<'a>(
        &self,
        head: &'a [u8],
    ) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> {
        self.fields.iter().map(|span| {
            let (start, colon) = (span.start as usize, span.colon as usize);
            let name = head.get(start..colon).unwrap_or_default();
            let value = head.get(colon + 1..span.end as usize).unwrap_or_default();
            (name, trim(value))
        })
    }

    /// The request line, or the one empty line that may stand before it (RFC 9112 section 2.2).
    fn first_line(&mut self, start: usize, line: &[u8]) -> Result<(), Malformed> {
        if line.is_empty() && !self.has_blank_line {
            self.has_blank_line = true;
            return Ok(());
        }
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let (Some(method), Some(target), Some(version)) =
            (words.next(), words.next(), words.next())
        else {
            return Err(Malformed::RequestLine);
        };
        if !is_token(method) {
            return Err(Malformed::RequestLine);
        }
        self.is_http_10 = match version {
            b"HTTP/1.1" => false,
            b"HTTP/1.0" => true,
            [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
                if major.is_ascii_digit() && minor.is_ascii_digit() =>
            {
                return Err(Malformed::Version);
            }
            _ => return Err(Malformed::RequestLine),
        };
        self.is_connect = method == b"CONNECT";
        self.has_request_line = true;
        self.method = start..start + method.len();
        let target_at = self.method.end + 1;
        self.target = target_at..target_at + target.len();
        check_target(method, target)
    }

    fn field(&mut self, start: usize, line: &[u8], rules: &HeadRules) -> Result<(), Malformed> {
        if self.fields.len() >= rules.max_fields {
            return Err(Malformed::HeadTooLarge);
        }
        if matches!(line[0], b' ' | b'\t') {
            return Err(Malformed::FoldedLine);
        }
        let colon = line.iter().position(|byte| !is_token_byte(*byte));
        let (name, value) = match colon {
            Some(at) if at > 0 && line[at] == b':' => (&line[..at], &line[at + 1..]),
            _ => return Err(Malformed::HeaderName),
        };
        if has_control(value) {
            return Err(Malformed::HeaderValue);
        }
        self.fields.push(span(start, name.len(), line.len())?);
        match name.len() {
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.has_upgrade = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.content_length(trim(value))?
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.transfer_encoding(trim(value))?
            }
            _ => {}
        }
        Ok(())
    }

    /// Digits alone, once: also two lines that agree are two lines.
    fn content_length(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.length.is_some() || !is_length(value) {
            return Err(Malformed::ContentLength);
        }
        let text = std::str::from_utf8(value).map_err(|_| Malformed::ContentLength)?;
        self.length = Some(text.parse().map_err(|_| Malformed::ContentLength)?);
        Ok(())
    }

    /// `chunked` alone. A list that ends in it names a coding we do not know (501), any other has no end (400; RFC 9112
    /// section 6.3).
    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Malformed> {
        if self.is_chunked {
            return Err(Malformed::DuplicateTransferEncoding);
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            let last = value
                .rsplit(|byte| *byte == b',')
                .next()
                .unwrap_or_default();
            let ends_chunked = value.contains(&b',') && trim(last).eq_ignore_ascii_case(b"chunked");
            return Err(if ends_chunked {
                Malformed::UnknownTransferCoding
            } else {
                Malformed::TransferEncoding
            });
        }
        self.is_chunked = true;
        Ok(())
    }

    fn finish(&self, rules: &HeadRules) -> Result<ScannedHead, Malformed> {
        let framing = match (self.is_chunked, self.length) {
            (true, _) if self.is_http_10 => return Err(Malformed::TransferEncoding),
            (true, Some(_)) if !rules.allow_chunked_length => {
                return Err(Malformed::LengthAndChunked);
            }
            (true, _) => Framing::Chunked,
            (false, length) => Framing::Length(length.unwrap_or(0)),
        };
        // RFC 9110 section 9.3.6: CONNECT has no content; what looks like it is the tunnel's, or smuggled.
        if self.is_connect && framing != Framing::Length(0) {
            return Err(Malformed::ConnectWithBody);
        }
        Ok(ScannedHead {
            len: self.line,
            is_http_10: self.is_http_10,
            framing,
            asks_tunnel: self.is_connect || (self.has_upgrade && !self.is_http_10),
        })
    }
}

fn span(start: usize, name: usize, line: usize) -> Result<Span, Malformed> {
    let place = |at: usize| u32::try_from(at).map_err(|_| Malformed::HeadTooLarge);
    Ok(Span {
        start: place(start)?,
        colon: place(start + name)?,
        end: place(start + line)?,
    })
}

/// Refuses what can no longer become a method, so that a client of another protocol is told at once.
fn expect_method(line: &[u8]) -> Result<(), Malformed> {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let method = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    if method.iter().all(|byte| is_token_byte(*byte)) && (!method.is_empty() || line.is_empty()) {
        Ok(())
    } else {
        Err(Malformed::RequestLine)
    }
}

/// RFC 9112 section 3.2: origin-form, absolute-form, authority-form of CONNECT, asterisk-form of OPTIONS. No fragment
/// (CVE-2021-39156), and no byte that ends a word elsewhere.
fn check_target(method: &[u8], target: &[u8]) -> Result<(), Malformed> {
    if target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f) {
        return Err(Malformed::Path);
    }
    if target.contains(&b'#') {
        return Err(Malformed::Fragment);
    }
    let is_absolute = || {
        [&b"http://"[..], b"https://"].iter().any(|scheme| {
            target
                .get(..scheme.len())
                .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
        })
    };
    let is_valid = match (method, target) {
        (b"CONNECT", target) => !target.is_empty() && !target.contains(&b'/'),
        (b"OPTIONS", b"*") | (_, [b'/', ..]) => true,
        _ => is_absolute(),
    };
    if is_valid {
        Ok(())
    } else {
        Err(Malformed::Path)
    }
}

#[cfg(test)]
mod tests;
