//! Follows a chunked body on the wire (RFC 9112 section 7.1) to where the next request begins.

use super::Malformed;
use super::head::is_token_byte;

/// Bytes of chunk extensions of one body; nobody reads them, so more is an attack (CVE-2023-39326).
const EXTENSION_LIMIT_BYTES: u32 = 16 * 1024;
/// Digits of a chunk size: more would not fit 64 bits, or are zeros that only fill.
const SIZE_DIGITS: u8 = 16;

/// Where in a body the scanner is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Size {
        value: u64,
        digits: u8,
    },
    /// Blanks before an extension.
    Blank {
        value: u64,
    },
    Extension {
        value: u64,
    },
    SizeLf {
        value: u64,
    },
    Data {
        left: u64,
    },
    DataCr,
    DataLf,
    FieldStart,
    FieldName,
    FieldValue,
    FieldLf,
    EndLf,
    End,
}

/// Reads one chunked body, however it is cut.
#[derive(Debug, Clone)]
pub struct ChunkScanner {
    state: State,
    extension_bytes: u32,
    /// The lines behind the last chunk, as they stand.
    trailers: Vec<u8>,
    max_trailer_bytes: usize,
}

const SIZE: State = State::Size {
    value: 0,
    digits: 0,
};

impl ChunkScanner {
    pub fn new(max_trailer_bytes: usize) -> Self {
        Self {
            state: SIZE,
            extension_bytes: 0,
            trailers: Vec::new(),
            max_trailer_bytes,
        }
    }

    /// Whether the body has ended.
    pub fn is_done(&self) -> bool {
        self.state == State::End
    }

    /// Content that comes next. With none, framing does.
    pub fn content(&self) -> u64 {
        match self.state {
            State::Data { left } => left,
            _ => 0,
        }
    }

    /// Content was taken, of which [`Self::content`] told.
    pub fn took(&mut self, bytes: u64) {
        if let State::Data { left } = self.state {
            self.state = match left.saturating_sub(bytes) {
                0 => State::DataCr,
                left => State::Data { left },
            };
        }
    }

    /// The trailer section, up to its empty line, once the body has ended.
    pub fn trailers(&self) -> &[u8] {
        self.trailers.strip_suffix(b"\r\n").unwrap_or_default()
    }

    /// Reads framing, up to the next content or to the end of the body, and says how many bytes it is.
    ///
    /// # Errors
    /// With the number of bytes before the one that is wrong.
    pub fn framing(&mut self, bytes: &[u8]) -> Result<usize, (usize, Malformed)> {
        let mut at = 0;
        while at < bytes.len() && self.content() == 0 && !self.is_done() {
            self.state = self.step(bytes[at]).map_err(|malformed| (at, malformed))?;
            at += 1;
        }
        Ok(at)
    }

    /// Reads framing and passes over content, to the end of the body at most, and says how many bytes that is.
    ///
    /// # Errors
    /// As [`Self::framing`].
    pub fn scan(&mut self, bytes: &[u8]) -> Result<usize, (usize, Malformed)> {
        let mut at = 0;
        while at < bytes.len() && !self.is_done() {
            let content = usize::try_from(self.content()).unwrap_or(usize::MAX);
            let taken = content.min(bytes.len() - at);
            self.took(taken as u64);
            at += taken;
            let framing = self.framing(&bytes[at..]);
            at += framing.map_err(|(before, malformed)| (at + before, malformed))?;
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, Malformed> {
        let size = Err(Malformed::ChunkSize);
        Ok(match (self.state, byte) {
            (State::Size { value, digits }, byte) if byte.is_ascii_hexdigit() => {
                size_digit(value, digits, byte)?
            }
            (State::Size { digits: 0, .. }, _) => return size,
            (State::Size { value, .. } | State::Extension { value }, b'\r') => {
                State::SizeLf { value }
            }
            (State::Size { value, .. } | State::Blank { value }, b' ' | b'\t') => {
                self.extension(State::Blank { value })?
            }
            (State::Size { value, .. } | State::Blank { value }, b';') => {
                self.extension(State::Extension { value })?
            }
            (State::Extension { value }, byte)
                if byte == b'\t' || (byte >= b' ' && byte != 0x7f) =>
            {
                self.extension(State::Extension { value })?
            }
            (State::SizeLf { value: 0 }, b'\n') => State::FieldStart,
            (State::SizeLf { value }, b'\n') => State::Data { left: value },
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => SIZE,
            (
                State::Size { .. }
                | State::Blank { .. }
                | State::Extension { .. }
                | State::SizeLf { .. },
                _,
            ) => return size,
            (State::DataCr | State::DataLf, _) => return Err(Malformed::ChunkEnd),
            (state, byte) => self.trailer(state, byte)?,
        })
    }

    fn extension(&mut self, next: State) -> Result<State, Malformed> {
        self.extension_bytes += 1;
        if self.extension_bytes > EXTENSION_LIMIT_BYTES {
            return Err(Malformed::ChunkSize);
        }
        Ok(next)
    }

    /// Trailer fields obey the rules of header fields.
    fn trailer(&mut self, state: State, byte: u8) -> Result<State, Malformed> {
        if self.trailers.len() >= self.max_trailer_bytes {
            return Err(Malformed::HeadTooLarge);
        }
        self.trailers.push(byte);
        Ok(match (state, byte) {
            (State::FieldStart, b'\r') => State::EndLf,
            (State::EndLf, b'\n') => State::End,
            (State::FieldStart | State::FieldName, byte) if is_token_byte(byte) => State::FieldName,
            (State::FieldName, b':') => State::FieldValue,
            (State::FieldValue, b'\r') => State::FieldLf,
            (State::FieldValue, byte) if byte == b'\t' || (byte >= b' ' && byte != 0x7f) => {
                State::FieldValue
            }
            (State::FieldLf, b'\n') => State::FieldStart,
            _ => return Err(Malformed::Trailer),
        })
    }
}

fn size_digit(value: u64, digits: u8, byte: u8) -> Result<State, Malformed> {
    if digits == SIZE_DIGITS {
        return Err(Malformed::ChunkSize);
    }
    let digit = char::from(byte).to_digit(16).map_or(0, u64::from);
    Ok(State::Size {
        value: value << 4 | digit,
        digits: digits + 1,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Scans `body` in one piece and byte by byte, followed by the next request.
    fn check(body: &[u8], expected: Result<usize, Malformed>) {
        let next = b"GET / HTTP/1.1\r\n";
        let bytes = [body, next].concat();
        let mut scanner = ChunkScanner::new(1024);
        let whole = scanner.scan(&bytes).map_err(|(_, malformed)| malformed);
        assert_eq!(whole, expected, "{}", body.escape_ascii());
        assert_eq!(scanner.is_done(), expected.is_ok());
        let mut scanner = ChunkScanner::new(1024);
        let mut taken = Ok(0);
        for byte in &bytes {
            match (scanner.scan(std::slice::from_ref(byte)), &mut taken) {
                (Ok(0), _) => break,
                (Ok(n), Ok(total)) => *total += n,
                (Err((_, malformed)), _) => {
                    taken = Err(malformed);
                    break;
                }
                (Ok(_), Err(_)) => unreachable!("it stops at the first fault"),
            }
        }
        assert_eq!(taken, expected, "byte by byte: {}", body.escape_ascii());
    }

    #[test]
    fn bodies_end_where_they_end() {
        for body in [
            &b"0\r\n\r\n"[..],
            b"5\r\nhello\r\n0\r\n\r\n",
            b"5;a=b;c=\"d e\"\r\nhello\r\n0;x\r\n\r\n",
            b"5 ;a=b\r\nhello\r\n0\r\n\r\n",
            b"00000005\r\nhello\r\na\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n",
            b"0\r\nx-checksum: a b\r\nother:\r\n\r\n",
        ] {
            check(body, Ok(body.len()));
        }
    }

    #[test]
    fn broken_chunks_are_refused() {
        use Malformed as M;
        for (body, expected) in [
            // C03: above u64, and what other parsers read as a number.
            (&b"10000000000000000\r\n"[..], M::ChunkSize),
            (b"00000000000000005\r\nhello\r\n", M::ChunkSize),
            (b"0x5\r\nhello\r\n", M::ChunkSize),
            (b"-1\r\n", M::ChunkSize),
            (b"+5\r\nhello\r\n", M::ChunkSize),
            (b" 5\r\nhello\r\n", M::ChunkSize),
            (b"5 \r\nhello\r\n", M::ChunkSize),
            (b"5_0\r\nhello\r\n", M::ChunkSize),
            (b"\r\nhello\r\n", M::ChunkSize),
            (b";a=b\r\nhello\r\n", M::ChunkSize),
            (b"5\nhello\r\n", M::ChunkSize),
            (b"5\rhello\r\n", M::ChunkSize),
            (b"5;a\nhello\r\n", M::ChunkSize),
            (b"5;a\x00\r\nhello\r\n", M::ChunkSize),
            (b"5\r\nhelloX\r\n", M::ChunkEnd),
            (b"5\r\nhello\n0\r\n\r\n", M::ChunkEnd),
            (b"3\r\nhello\r\n", M::ChunkEnd),
            (b"0\r\nnot a field\r\n\r\n", M::Trailer),
            (b"0\r\nx: a\n\r\n", M::Trailer),
            (b"0\r\n x: a\r\n\r\n", M::Trailer),
            (b"0\r\nx : a\r\n\r\n", M::Trailer),
            (b"0\r\n\n", M::Trailer),
            (b"0\r\n\rG", M::Trailer),
        ] {
            check(body, Err(expected));
        }
    }

    #[test]
    fn trailers_are_kept_as_they_stand() {
        let mut scanner = ChunkScanner::new(1024);
        scanner
            .scan(b"2\r\nhi\r\n0\r\nx: a b\r\ny:\r\n\r\n")
            .unwrap();
        assert_eq!(scanner.trailers(), b"x: a b\r\ny:\r\n");
        let mut scanner = ChunkScanner::new(1024);
        scanner.scan(b"0\r\n\r\n").unwrap();
        assert_eq!(scanner.trailers(), b"");
    }

    #[test]
    fn extensions_and_trailers_are_bounded() {
        let mut scanner = ChunkScanner::new(1024);
        assert_eq!(scanner.scan(b"5;"), Ok(2));
        let (at, malformed) = scanner.scan(&vec![b'a'; 20_000]).unwrap_err();
        assert_eq!(
            (at, malformed),
            (EXTENSION_LIMIT_BYTES as usize - 1, Malformed::ChunkSize)
        );
        let mut scanner = ChunkScanner::new(1024);
        assert_eq!(scanner.scan(b"0\r\nx: "), Ok(6));
        let (_, malformed) = scanner.scan(&[b'a'; 2000]).unwrap_err();
        assert_eq!(malformed, Malformed::HeadTooLarge);
    }
}
