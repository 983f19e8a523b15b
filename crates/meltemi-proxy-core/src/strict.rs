//! Refuses ambiguous requests before anything is decided about them (security catalogue C01-C15, C34).
//!
//! HTTP/1 is checked twice: its bytes by [`HeadScanner`] and [`ChunkScanner`], before the HTTP library resolves in silence
//! what it could; then, like HTTP/2, the meaning of the parsed head by [`check_head`].

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, StatusCode, Uri, Version};

mod chunked;
mod head;

pub use chunked::ChunkScanner;
pub use head::{Framing, HeadRules, HeadScanner, ScannedHead};

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident => $status:ident, $details:literal;)*) => {
        /// Why a request is refused.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
        pub enum Malformed {
            $($(#[$doc])* #[error($details)] $reason,)*
        }

        impl Malformed {
            /// `%RESPONSE_CODE_DETAILS%`.
            pub fn details(self) -> &'static str {
                match self { $(Self::$reason => $details,)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$reason => StatusCode::$status,)* }
            }
        }
    };
}

reasons! {
    RequestLine => BAD_REQUEST, "http1.invalid_request_line";
    Version => HTTP_VERSION_NOT_SUPPORTED, "http1.invalid_version";
    BareLineFeed => BAD_REQUEST, "http1.bare_line_feed";
    FoldedLine => BAD_REQUEST, "http1.folded_header";
    HeaderName => BAD_REQUEST, "http1.invalid_header_name";
    HeaderValue => BAD_REQUEST, "http1.invalid_characters";
    HeadTooLarge => REQUEST_HEADER_FIELDS_TOO_LARGE, "request_headers_too_large";
    DuplicateTransferEncoding => BAD_REQUEST, "http1.duplicate_transfer_encoding";
    TransferEncoding => BAD_REQUEST, "http1.invalid_transfer_encoding";
    UnknownTransferCoding => NOT_IMPLEMENTED, "http1.unknown_transfer_coding";
    LengthAndChunked => BAD_REQUEST, "http1.content_length_and_chunked_not_allowed";
    ContentLength => BAD_REQUEST, "http1.content_length_not_allowed";
    ConnectWithBody => BAD_REQUEST, "http1.connect_with_body";
    ChunkSize => BAD_REQUEST, "http1.invalid_chunk_size";
    ChunkEnd => BAD_REQUEST, "http1.chunk_without_end";
    Trailer => BAD_REQUEST, "http1.invalid_trailer";
    /// The HTTP library found fault with it.
    Codec => BAD_REQUEST, "http1.codec_error";
    DuplicateHost => BAD_REQUEST, "duplicate_host";
    MissingHost => BAD_REQUEST, "missing_host_header";
    Authority => BAD_REQUEST, "invalid_authority";
    HostDiffers => BAD_REQUEST, "host_and_authority_differ";
    Fragment => BAD_REQUEST, "fragment_in_path";
    Path => BAD_REQUEST, "invalid_path";
    PathNormalisation => BAD_REQUEST, "path_normalization_failed";
    Underscore => BAD_REQUEST, "http1.unexpected_underscore";
}

/// Checks a parsed head. `default_host` is what HTTP/1.0 requests without Host get.
///
/// # Errors
/// See [`Malformed`].
pub fn check_head(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    default_host: Option<&str>,
) -> Result<(), Malformed> {
    if version == Version::HTTP_2 {
        check_length(headers)?;
    }
    check_host(method, uri, version, headers, default_host)?;
    check_path(method, uri)
}

/// RFC 9113 section 8.1.1: at most one decimal length; HTTP/2 has no other framing.
fn check_length(headers: &HeaderMap) -> Result<(), Malformed> {
    if headers.contains_key(TRANSFER_ENCODING) {
        return Err(Malformed::TransferEncoding);
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).into_iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(length), None) if is_length(length.as_bytes()) => Ok(()),
        _ => Err(Malformed::ContentLength),
    }
}

/// Digits alone, within u64: `+5`, `0x5`, `5, 5` and the empty value are not.
fn is_length(value: &[u8]) -> bool {
    !value.is_empty()
        && value.iter().all(u8::is_ascii_digit)
        && std::str::from_utf8(value).is_ok_and(|text| text.parse::<u64>().is_ok())
}

/// RFC 9112 section 3.2: exactly one valid Host, which agrees with an absolute target.
fn check_host(
    method: &Method,
    uri: &Uri,
    version: Version,
    headers: &HeaderMap,
    default_host: Option<&str>,
) -> Result<(), Malformed> {
    let mut hosts = headers.get_all(HOST).into_iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Malformed::DuplicateHost);
    }
    let target = uri.authority().map(http::uri::Authority::as_str);
    if let Some(target) = target
        && !is_authority(target.as_bytes())
    {
        return Err(Malformed::Authority);
    }
    match (host, target) {
        (Some(host), _) if !is_authority(host.as_bytes()) => Err(Malformed::Authority),
        (Some(host), Some(target))
            if !host.as_bytes().eq_ignore_ascii_case(target.as_bytes())
                && method != Method::CONNECT =>
        {
            Err(Malformed::HostDiffers)
        }
        (None, None) if version == Version::HTTP_10 && default_host.is_some() => Ok(()),
        (None, None) => Err(Malformed::MissingHost),
        _ => Ok(()),
    }
}

/// Bytes of a registered name (RFC 3986 section 3.2.2).
const REGISTERED_NAME: [bool; 256] = {
    let mut table = [false; 256];
    let mut c = b'!';
    while c <= b'~' {
        table[c as usize] = c.is_ascii_alphanumeric()
            || matches!(
                c,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
            );
        c += 1;
    }
    table
};

/// `uri-host [":" port]`: a registered name, IPv4 or bracketed IPv6; no user, path, list or blank.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority.iter().rposition(|c| *c == b':') {
        Some(at) if !authority[at..].contains(&b']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, &b""[..]),
    };
    let is_host = match host {
        [b'[', inner @ .., b']'] => {
            inner
                .iter()
                .all(|c| c.is_ascii_hexdigit() || b":.".contains(c))
                && !inner.is_empty()
        }
        name => !name.is_empty() && name.iter().all(|c| REGISTERED_NAME[usize::from(*c)]),
    };
    is_host && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

/// The form of the path. A parsed one holds neither controls nor blanks nor a fragment.
fn check_path(method: &Method, uri: &Uri) -> Result<(), Malformed> {
    let Some(path) = uri.path_and_query().map(http::uri::PathAndQuery::as_str) else {
        return if method == Method::CONNECT {
            Ok(())
        } else {
            Err(Malformed::Path)
        };
    };
    let is_valid = path.starts_with('/')
        || (path == "*" && method == Method::OPTIONS)
        || (path.is_empty() && method == Method::CONNECT);
    if is_valid {
        Ok(())
    } else {
        Err(Malformed::Path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn check(target: &str, lines: &[(&str, &str)], expected: Result<(), Malformed>) {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                http::HeaderName::try_from(*name).unwrap(),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let found = check_head(
            &Method::POST,
            &target.parse().unwrap(),
            Version::HTTP_2,
            &headers,
            None,
        );
        assert_eq!(found, expected, "{target} {lines:?}");
    }

    #[test]
    fn lengths_of_http2() {
        let host = ("host", "a");
        check("/", &[host], Ok(()));
        check("/", &[host, ("content-length", "5")], Ok(()));
        for length in [
            "+5",
            "-5",
            "0x5",
            "1_0",
            "5, 6",
            "5,5",
            "",
            "18446744073709551616",
        ] {
            check(
                "/",
                &[host, ("content-length", length)],
                Err(Malformed::ContentLength),
            );
        }
        check(
            "/",
            &[host, ("content-length", "5"), ("content-length", "5")],
            Err(Malformed::ContentLength),
        );
        check(
            "/",
            &[host, ("transfer-encoding", "chunked")],
            Err(Malformed::TransferEncoding),
        );
    }

    #[test]
    fn http10_may_lack_a_host() {
        let uri: Uri = "/".parse().unwrap();
        let headers = HeaderMap::new();
        let get = |default| check_head(&Method::GET, &uri, Version::HTTP_10, &headers, default);
        assert_eq!(get(None), Err(Malformed::MissingHost));
        assert_eq!(get(Some("a")), Ok(()));
    }

    #[test]
    fn hosts() {
        for good in ["a", "A.b:80", "[::1]:80", "[::1]", "10.0.0.1:1", "a_b"] {
            check("/", &[("host", good)], Ok(()));
        }
        for bad in [
            "a, b", "a b", "u@a", "a/b", "a:b", "", "a:123456", "[::1", "a#b", "a?b",
        ] {
            check("/", &[("host", bad)], Err(Malformed::Authority));
        }
        check(
            "/",
            &[("host", "a"), ("host", "a")],
            Err(Malformed::DuplicateHost),
        );
        check("/", &[], Err(Malformed::MissingHost));
        check("http://a/", &[("host", "a")], Ok(()));
        check("http://a/", &[("host", "b")], Err(Malformed::HostDiffers));
    }

    #[test]
    fn paths() {
        check("*", &[("host", "a")], Err(Malformed::Path));
    }
}
