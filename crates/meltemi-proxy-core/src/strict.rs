//! Refuses ambiguous requests before anything is decided about them (security catalogue C01-C15, C34).
//!
//! The HTTP library frames messages; what it lets through and two servers could read differently ends here.

use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Method, Uri, Version};

/// Why a request is refused, with 400; the text is `%RESPONSE_CODE_DETAILS%`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    #[error("http1.duplicate_transfer_encoding")]
    DuplicateTransferEncoding,
    #[error("http1.invalid_transfer_encoding")]
    TransferEncoding,
    #[error("http1.content_length_and_chunked_not_allowed")]
    LengthAndChunked,
    #[error("http1.content_length_not_allowed")]
    ContentLength,
    #[error("duplicate_host")]
    DuplicateHost,
    #[error("missing_host_header")]
    MissingHost,
    #[error("invalid_authority")]
    Authority,
    #[error("fragment_in_path")]
    Fragment,
    #[error("invalid_path")]
    Path,
    #[error("invalid_header_value")]
    HeaderValue,
    #[error("host_and_authority_differ")]
    HostDiffers,
}

impl Malformed {
    /// The text as a static string, for [`crate::error::ErrorKind::Malformed`].
    pub fn details(self) -> &'static str {
        match self {
            Self::DuplicateTransferEncoding => "http1.duplicate_transfer_encoding",
            Self::TransferEncoding => "http1.invalid_transfer_encoding",
            Self::LengthAndChunked => "http1.content_length_and_chunked_not_allowed",
            Self::ContentLength => "http1.content_length_not_allowed",
            Self::DuplicateHost => "duplicate_host",
            Self::MissingHost => "missing_host_header",
            Self::Authority => "invalid_authority",
            Self::Fragment => "fragment_in_path",
            Self::Path => "invalid_path",
            Self::HeaderValue => "invalid_header_value",
            Self::HostDiffers => "host_and_authority_differ",
        }
    }
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
    check_framing(version, headers)?;
    check_host(method, uri, version, headers, default_host)?;
    check_path(method, uri)?;
    let is_bad = |value: &http::HeaderValue| {
        value
            .as_bytes()
            .iter()
            .any(|c| matches!(c, 0 | b'\r' | b'\n'))
    };
    if headers.values().any(is_bad) {
        return Err(Malformed::HeaderValue);
    }
    Ok(())
}

/// RFC 9112 section 6: one `Transfer-Encoding: chunked` or one decimal `Content-Length`, never both.
fn check_framing(version: Version, headers: &HeaderMap) -> Result<(), Malformed> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).into_iter();
    if let Some(encoding) = encodings.next() {
        if encodings.next().is_some() {
            return Err(Malformed::DuplicateTransferEncoding);
        }
        if version != Version::HTTP_11
            || !encoding
                .as_bytes()
                .trim_ascii()
                .eq_ignore_ascii_case(b"chunked")
        {
            return Err(Malformed::TransferEncoding);
        }
        if headers.contains_key(CONTENT_LENGTH) {
            return Err(Malformed::LengthAndChunked);
        }
    }
    let mut lengths = headers.get_all(CONTENT_LENGTH).into_iter();
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(()),
        (Some(length), None) if is_length(length.as_bytes().trim_ascii()) => Ok(()),
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

/// `uri-host [":" port]`: a registered name, IPv4 or bracketed IPv6; no user, path, list or blank.
fn is_authority(authority: &[u8]) -> bool {
    let (host, port) = match authority.iter().rposition(|c| *c == b':') {
        Some(at) if !authority[at..].contains(&b']') => (&authority[..at], &authority[at + 1..]),
        _ => (authority, &b""[..]),
    };
    let is_name = |host: &[u8]| {
        host.iter()
            .all(|c| c.is_ascii_alphanumeric() || b"-._~%!$&'()*+".contains(c))
    };
    let is_host = match host {
        [b'[', inner @ .., b']'] => {
            inner
                .iter()
                .all(|c| c.is_ascii_hexdigit() || b":.".contains(c))
                && !inner.is_empty()
        }
        name => !name.is_empty() && is_name(name),
    };
    is_host && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

fn check_path(method: &Method, uri: &Uri) -> Result<(), Malformed> {
    let Some(path) = uri.path_and_query().map(http::uri::PathAndQuery::as_str) else {
        return if method == Method::CONNECT {
            Ok(())
        } else {
            Err(Malformed::Path)
        };
    };
    if path.contains('#') {
        return Err(Malformed::Fragment);
    }
    let is_valid = path.starts_with('/')
        || (path == "*" && method == Method::OPTIONS)
        || (path.is_empty() && method == Method::CONNECT);
    if !is_valid || path.bytes().any(|c| c <= b' ' || c == 0x7f) {
        return Err(Malformed::Path);
    }
    Ok(())
}

/// Whether a request target as it stood on the wire holds a fragment, which URI libraries drop (CVE-2021-39156).
pub fn has_fragment(target: &[u8]) -> bool {
    target.contains(&b'#')
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
            Version::HTTP_11,
            &headers,
            None,
        );
        assert_eq!(found, expected, "{target} {lines:?}");
        if let Err(malformed) = found {
            assert_eq!(malformed.to_string(), malformed.details());
        }
    }

    #[test]
    fn framing() {
        let host = ("host", "a");
        check("/", &[host], Ok(()));
        check("/", &[host, ("content-length", "5")], Ok(()));
        check("/", &[host, ("transfer-encoding", "Chunked")], Ok(()));
        check(
            "/",
            &[
                host,
                ("transfer-encoding", "chunked"),
                ("transfer-encoding", "chunked"),
            ],
            Err(Malformed::DuplicateTransferEncoding),
        );
        for encoding in ["gzip, chunked", "chunked, identity", "xchunked", ""] {
            check(
                "/",
                &[host, ("transfer-encoding", encoding)],
                Err(Malformed::TransferEncoding),
            );
        }
        check(
            "/",
            &[
                host,
                ("transfer-encoding", "chunked"),
                ("content-length", "5"),
            ],
            Err(Malformed::LengthAndChunked),
        );
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
    }

    #[test]
    fn http10_has_no_chunks_and_may_lack_a_host() {
        let uri: Uri = "/".parse().unwrap();
        let mut headers = HeaderMap::new();
        let get = |headers: &HeaderMap, default| {
            check_head(&Method::GET, &uri, Version::HTTP_10, headers, default)
        };
        assert_eq!(get(&headers, None), Err(Malformed::MissingHost));
        assert_eq!(get(&headers, Some("a")), Ok(()));
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        assert_eq!(get(&headers, Some("a")), Err(Malformed::TransferEncoding));
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
        assert!(has_fragment(b"/admin#x") && !has_fragment(b"/admin?x"));
    }
}
