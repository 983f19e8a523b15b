//! Classifies a connection by its first bytes.
//!
//! Only the kind of protocol is decided here. What a ClientHello says (SNI, ALPN) is read by the TLS library, so that there
//! is one parser of TLS; a connection that starts like TLS never falls through to cleartext (CVE-2020-8660).

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// More bytes could still change the answer.
    NeedMore,
    /// A TLS handshake record.
    Tls,
    Http1(Http1Version),
    /// The HTTP/2 connection preface (RFC 9113 section 3.4).
    Http2,
    Other,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Http1Version {
    Http10,
    Http11,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// A request line longer than this is no HTTP to us (Envoy's inspector reads at most 64 KiB).
pub const SNIFF_LIMIT_BYTES: usize = 64 * 1024;
/// The longest method of the IANA registry has 18 letters.
const METHOD_LIMIT_BYTES: usize = 32;

/// Classifies everything read so far. The answer for a prefix is `NeedMore` or the final answer.
pub fn sniff(bytes: &[u8]) -> Sniffed {
    match bytes {
        [] | [0x16] => Sniffed::NeedMore,
        [0x16, 0x03, ..] => Sniffed::Tls,
        _ if bytes.starts_with(PREFACE) => Sniffed::Http2,
        _ if PREFACE.starts_with(bytes) => Sniffed::NeedMore,
        _ => sniff_http1(bytes),
    }
}

/// By the request line: nothing but its end says which version, or that it is HTTP at all.
fn sniff_http1(bytes: &[u8]) -> Sniffed {
    let line = match bytes.iter().position(|c| *c == b'\n') {
        Some(end) => &bytes[..end],
        None if !is_possible_request_line(bytes) || bytes.len() > SNIFF_LIMIT_BYTES => {
            return Sniffed::Other;
        }
        None => return Sniffed::NeedMore,
    };
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if !is_possible_request_line(line) {
        return Sniffed::Other;
    }
    if line.ends_with(b" HTTP/1.1") {
        Sniffed::Http1(Http1Version::Http11)
    } else if line.ends_with(b" HTTP/1.0") {
        Sniffed::Http1(Http1Version::Http10)
    } else {
        Sniffed::Other
    }
}

/// A method token, a blank, then anything printable (RFC 9112 section 3).
fn is_possible_request_line(line: &[u8]) -> bool {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let method = line.split(|c| *c == b' ').next().unwrap_or(line);
    !method.is_empty()
        && method.len() <= METHOD_LIMIT_BYTES
        && method.iter().all(|c| is_token(*c))
        && line.iter().all(|c| *c >= b' ' && *c != 0x7f)
}

/// RFC 9110 section 5.6.2.
pub(crate) fn is_token(c: u8) -> bool {
    c.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tells_protocols_apart() {
        for (bytes, expected) in [
            (&b""[..], Sniffed::NeedMore),
            (b"\x16", Sniffed::NeedMore),
            (b"\x16\x03", Sniffed::Tls),
            (b"\x16\x03\x01\x02\x00\x01", Sniffed::Tls),
            (b"\x16\x05", Sniffed::Other),
            (b"G", Sniffed::NeedMore),
            (b"GET / HTTP/1.1\r", Sniffed::NeedMore),
            (b"GET / HTTP/1.1\r\n", Sniffed::Http1(Http1Version::Http11)),
            (
                b"GET / HTTP/1.0\nHost: a\n",
                Sniffed::Http1(Http1Version::Http10),
            ),
            (
                b"BREW /pot HTTP/1.1\r\n",
                Sniffed::Http1(Http1Version::Http11),
            ),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r", Sniffed::NeedMore),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Sniffed::Http2),
            (b"PRI * HTTP/2.0\r\n\r\nXX", Sniffed::Other),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Sniffed::Other),
            (b"\x00\x01", Sniffed::Other),
            (b"*3\r\n$3\r\nSET\r\n", Sniffed::Other),
        ] {
            assert_eq!(
                sniff(bytes),
                expected,
                "{:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn an_answer_for_a_prefix_is_final() {
        for whole in [
            &b"\x16\x03\x01abc"[..],
            b"GET /a HTTP/1.1\r\nx",
            PREFACE,
            b"hello there\n",
        ] {
            let last = sniff(whole);
            for end in 0..whole.len() {
                let early = sniff(&whole[..end]);
                assert!(
                    early == Sniffed::NeedMore || early == last,
                    "{early:?} at {end}, {last:?}"
                );
            }
        }
    }

    #[test]
    fn an_endless_line_is_given_up() {
        let mut long = b"GET /".to_vec();
        long.resize(SNIFF_LIMIT_BYTES + 1, b'a');
        assert_eq!(sniff(&long), Sniffed::Other);
    }
}
