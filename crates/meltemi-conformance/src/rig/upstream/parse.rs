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

/// What reading a chunked body has come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Chunked {
    More,
    /// The content, and how many bytes it took on the wire.
    Done(Vec<u8>, usize),
    Bad(&'static str),
}

/// Reads a chunked body from its first byte on.
pub(super) fn chunked(bytes: &[u8]) -> Chunked {
    let mut content = Vec::new();
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let Some(end) = rest.windows(2).position(|w| w == b"\r\n") else {
            return Chunked::More;
        };
        let line = rest.get(..end).unwrap_or_default();
        let digits = std::str::from_utf8(line)
            .ok()
            .filter(|text| !text.is_empty() && text.bytes().all(|c| c.is_ascii_hexdigit()));
        let Some(size) = digits.and_then(|text| usize::from_str_radix(text, 16).ok()) else {
            return Chunked::Bad("a chunk size that is not hexadecimal digits alone");
        };
        at += end + 2;
        if size == 0 {
            return trailers(bytes, at).map_or(Chunked::More, |end| Chunked::Done(content, end));
        }
        let Some(chunk) = bytes.get(at..at + size) else {
            return Chunked::More;
        };
        content.extend_from_slice(chunk);
        at += size;
        match bytes.get(at..at + 2) {
            None => return Chunked::More,
            Some(b"\r\n") => at += 2,
            Some(_) => return Chunked::Bad("a chunk that does not end where its size says"),
        }
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
        assert_eq!(
            chunked(body),
            Chunked::Done(b"hello".to_vec(), body.len() - 3)
        );
        assert_eq!(chunked(b"5\r\nhel"), Chunked::More);
        assert!(matches!(chunked(b"5;x\r\nhello\r\n"), Chunked::Bad(_)));
        assert!(matches!(chunked(b"5\r\nhelloo\r\n"), Chunked::Bad(_)));
    }
}
