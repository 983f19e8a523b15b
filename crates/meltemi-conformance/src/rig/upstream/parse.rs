//! The strictest reading of RFC 9112: anything else in what a proxy sends is an oddity.

/// How a request's body ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
}

/// The length of the head with its empty line, once that is there.
pub(super) fn head_length(bytes: &[u8]) -> Option<usize> {
    bytes
        .windows(4)
        .position(|w| w == b"\r\n\r\n")
        .map(|at| at + 4)
}

/// The framing of a head, and what is wrong with the head.
pub(super) fn examine(head: &[u8]) -> (Framing, Option<String>) {
    let mut oddity = None;
    let mut odd = |what: &str| {
        oddity.get_or_insert_with(|| what.to_owned());
    };
    if head.contains(&0) {
        odd("NUL in the head");
    }
    let is_bare = |at: usize| match head.get(at) {
        Some(b'\n') => at == 0 || head.get(at - 1) != Some(&b'\r'),
        Some(b'\r') => head.get(at + 1) != Some(&b'\n'),
        _ => false,
    };
    if (0..head.len()).any(is_bare) {
        odd("bare CR or LF in the head");
    }
    let mut lines = head
        .split(|c| *c == b'\n')
        .map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let request_line = lines.next().unwrap_or_default();
    if request_line.split(|c| *c == b' ').count() != 3
        || request_line.iter().any(|c| *c < b' ' || *c == 0x7f)
    {
        odd("the request line has not three words");
    }
    if request_line.contains(&b'#') {
        odd("fragment in the target");
    }
    let (mut lengths, mut encodings, mut hosts) = (Vec::new(), Vec::new(), 0);
    for line in lines.filter(|line| !line.is_empty()) {
        let Some(at) = line.iter().position(|c| *c == b':') else {
            odd("a line without a colon");
            continue;
        };
        let (name, value) = line.split_at(at);
        if name.is_empty() || !name.iter().all(|c| is_token(*c)) {
            odd("a header name that is no token");
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii().to_vec();
        match name.to_ascii_lowercase().as_slice() {
            b"content-length" => lengths.push(value),
            b"transfer-encoding" => encodings.push(value),
            b"host" => hosts += 1,
            _ => {}
        }
    }
    if hosts != 1 {
        odd("not exactly one Host");
    }
    if lengths.len() + encodings.len() > 1 {
        odd("more than one statement of the length");
    }
    if let Some(encoding) = encodings.first() {
        if !encoding.eq_ignore_ascii_case(b"chunked") {
            odd("a Transfer-Encoding other than chunked");
        }
        return (Framing::Chunked, oddity);
    }
    let Some(length) = lengths.first() else {
        return (Framing::Length(0), oddity);
    };
    let number = std::str::from_utf8(length)
        .ok()
        .filter(|text| text.bytes().all(|c| c.is_ascii_digit()))
        .and_then(|text| text.parse().ok());
    if number.is_none() {
        odd("a Content-Length that is no number");
    }
    (Framing::Length(number.unwrap_or(0)), oddity)
}

/// RFC 9110 section 5.6.2.
fn is_token(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

/// What is at the front of a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunk<'a> {
    More,
    /// Content, and how many bytes it took on the wire.
    Content(&'a [u8], usize),
    /// The last chunk with its trailers took so many bytes.
    Last(usize),
    Bad(&'static str),
}

/// Reads the first chunk of `bytes`.
pub(super) fn chunk(bytes: &[u8]) -> Chunk<'_> {
    let Some(end) = bytes.windows(2).position(|w| w == b"\r\n") else {
        return Chunk::More;
    };
    let line = bytes.get(..end).unwrap_or_default();
    let digits = std::str::from_utf8(line)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|c| c.is_ascii_hexdigit()));
    let Some(size) = digits.and_then(|text| usize::from_str_radix(text, 16).ok()) else {
        return Chunk::Bad("a chunk size that is not hexadecimal digits alone");
    };
    let begin = end + 2;
    if size == 0 {
        return trailers(bytes, begin).map_or(Chunk::More, Chunk::Last);
    }
    let end = begin.saturating_add(size);
    let (Some(content), Some(behind)) =
        (bytes.get(begin..end), bytes.get(end..end.saturating_add(2)))
    else {
        return Chunk::More;
    };
    if behind == b"\r\n" {
        Chunk::Content(content, end + 2)
    } else {
        Chunk::Bad("a chunk that does not end where its size says")
    }
}

/// The end of the trailer section that begins at `at`.
fn trailers(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        let rest = bytes.get(at..)?;
        let end = rest.windows(2).position(|w| w == b"\r\n")?;
        at += end + 2;
        if end == 0 {
            return Some(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_is_ambiguous() {
        let check = |head: &str, expected: Option<&str>| {
            assert_eq!(examine(head.as_bytes()).1.as_deref(), expected, "{head:?}");
        };
        check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", None);
        check(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
            Some("more than one statement of the length"),
        );
        check(
            "GET / HTTP/1.1\r\nhost: a\nx: y\r\n\r\n",
            Some("bare CR or LF in the head"),
        );
        check(
            "GET / HTTP/1.1\r\nx y: z\r\nhost: a\r\n\r\n",
            Some("a header name that is no token"),
        );
        check("GET / HTTP/1.1\r\n\r\n", Some("not exactly one Host"));
    }

    #[test]
    fn reads_chunks() {
        let body = b"5\r\nhello\r\n0\r\nx: y\r\n\r\nGET";
        assert_eq!(chunk(body), Chunk::Content(b"hello", 10));
        assert_eq!(chunk(&body[10..]), Chunk::Last(body.len() - 13));
        assert_eq!(chunk(b"5\r\nhel"), Chunk::More);
        assert!(matches!(chunk(b"5;x\r\nhello\r\n"), Chunk::Bad(_)));
        assert!(matches!(chunk(b"5\r\nhelloo\r\n"), Chunk::Bad(_)));
    }
}
