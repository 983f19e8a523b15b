//! The view of a request that deciders read.

use std::borrow::Cow;
use std::net::IpAddr;

use http::HeaderMap;

use crate::runtime::{HeaderMatch, HeaderMatcher, HeaderSource, QueryMatch, QueryMatcher};

/// The head of a request after [`crate::strict`] and [`crate::path`], as routing, RBAC, hashing and logs see it.
#[derive(Debug, Clone, Copy)]
pub struct RequestHead<'a> {
    pub method: &'a str,
    /// With query; empty for CONNECT.
    pub path: &'a str,
    /// Host, with port if the client gave one.
    pub authority: &'a str,
    /// Lower-case.
    pub scheme: &'a str,
    /// Without pseudo-headers and without Host.
    pub headers: &'a HeaderMap,
}

impl<'a> RequestHead<'a> {
    pub fn path_without_query(&self) -> &'a str {
        split_path(self.path).0
    }

    /// Without the question mark; empty if there is none.
    pub fn query(&self) -> &'a str {
        split_path(self.path).1
    }

    /// The first value of a query parameter, as it was sent (not decoded).
    pub fn query_parameter(&self, name: &str) -> Option<&'a str> {
        self.query().split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (key == name).then_some(value)
        })
    }

    /// `content-type: application/grpc` alone or followed by `+` or `;` (Envoy `Grpc::Common::hasGrpcContentType`).
    pub fn is_grpc(&self) -> bool {
        is_grpc(self.headers)
    }

    /// Every value of a header or pseudo-header, line by line.
    pub fn values(&self, source: &HeaderSource) -> Values<'a> {
        match source {
            HeaderSource::Method => Values::One(Some(self.method.as_bytes())),
            HeaderSource::Path => Values::One(non_empty(self.path)),
            HeaderSource::Authority => Values::One(non_empty(self.authority)),
            HeaderSource::Scheme => Values::One(non_empty(self.scheme)),
            HeaderSource::Header(name) => Values::Lines(self.headers.get_all(name).into_iter()),
        }
    }
}

fn non_empty(text: &str) -> Option<&[u8]> {
    (!text.is_empty()).then_some(text.as_bytes())
}

/// Splits `/path?query#fragment` into path and query.
pub fn split_path(path: &str) -> (&str, &str) {
    let path = path.split_once('#').map_or(path, |(head, _)| head);
    path.split_once('?').unwrap_or((path, ""))
}

pub fn is_grpc(headers: &HeaderMap) -> bool {
    headers
        .get(http::header::CONTENT_TYPE)
        .and_then(|value| value.as_bytes().strip_prefix(b"application/grpc"))
        .is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// The client's address by `x-forwarded-for`: behind the last `skip` addresses, which trusted proxies added (Envoy
/// `xff_num_trusted_hops`). `None` where there are fewer, or what stands there is no address.
pub fn forwarded_for(headers: &HeaderMap, skip: usize) -> Option<IpAddr> {
    let lines = headers.get_all("x-forwarded-for").into_iter();
    // The last line was added last, too: read from the end.
    let lines: Vec<&str> = lines
        .map(|line| line.to_str())
        .collect::<Result<_, _>>()
        .ok()?;
    let mut addresses = lines.iter().rev().flat_map(|line| line.rsplit(','));
    addresses.nth(skip)?.trim().parse().ok()
}

/// Values of a header; see [`RequestHead::values`].
#[derive(Debug)]
pub enum Values<'a> {
    One(Option<&'a [u8]>),
    Lines(http::header::ValueIter<'a, http::HeaderValue>),
}

impl<'a> Iterator for Values<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        match self {
            Self::One(value) => value.take(),
            // Trimming keeps `admin ` from dodging an exact match (CVE-2019-18802).
            Self::Lines(lines) => lines.next().map(|value| value.as_bytes().trim_ascii()),
        }
    }
}

impl HeaderMatcher {
    /// Envoy `HeaderUtility::matchHeaders`: an absent header fails a value test, inverted or not, unless it is to be taken
    /// as empty.
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        self.matches_values(head.values(&self.source))
    }

    /// The same over response headers, which have no pseudo-headers.
    pub fn matches_headers(&self, headers: &HeaderMap) -> bool {
        match &self.source {
            HeaderSource::Header(name) => {
                self.matches_values(Values::Lines(headers.get_all(name).into_iter()))
            }
            _ => self.matches_values(Values::One(None)),
        }
    }

    fn matches_values(&self, values: Values<'_>) -> bool {
        let mut values = values.peekable();
        let is_present = values.peek().is_some();
        if let HeaderMatch::Present(wanted) = self.test {
            let present = is_present || self.treat_missing_as_empty;
            return (present == wanted) != self.invert;
        }
        if !is_present {
            return self.treat_missing_as_empty && (self.test.matches(b"") != self.invert);
        }
        values.any(|value| self.test.matches(value)) != self.invert
    }
}

impl HeaderMatch {
    fn matches(&self, value: &[u8]) -> bool {
        match self {
            Self::Present(wanted) => *wanted,
            Self::Value(matcher) => matcher.matches(value),
            Self::Range { start, end } => std::str::from_utf8(value)
                .ok()
                .and_then(|text| text.parse::<i64>().ok())
                .is_some_and(|number| number >= *start && number < *end),
        }
    }
}

impl QueryMatcher {
    pub fn matches(&self, head: &RequestHead<'_>) -> bool {
        let value = head.query_parameter(&self.name);
        match (&self.test, value) {
            (QueryMatch::Present(wanted), value) => value.is_some() == *wanted,
            (QueryMatch::Value(matcher), Some(value)) => matcher.matches(value.as_bytes()),
            (QueryMatch::Value(_), None) => false,
        }
    }
}

/// The authority without its port: `[::1]:80` is `[::1]`, `a.b:80` is `a.b`.
pub fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port))
            if (!host.contains(':') || host.ends_with(']'))
                && port.bytes().all(|c| c.is_ascii_digit()) =>
        {
            host
        }
        _ => authority,
    }
}

/// ASCII lower case, without copying what is already so.
pub(crate) fn lower(text: &str) -> Cow<'_, str> {
    if text.bytes().any(|c| c.is_ascii_uppercase()) {
        Cow::Owned(text.to_ascii_lowercase())
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::StringMatcher;
    use http::{HeaderName, HeaderValue};

    fn matcher(test: HeaderMatch) -> HeaderMatcher {
        HeaderMatcher {
            source: HeaderSource::Header(HeaderName::from_static("x-role")),
            test,
            invert: false,
            treat_missing_as_empty: false,
        }
    }

    fn check(matcher: &HeaderMatcher, values: &[&'static str], expected: bool) {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append("x-role", HeaderValue::from_static(value));
        }
        assert_eq!(
            matcher.matches_headers(&headers),
            expected,
            "{matcher:?} {values:?}"
        );
    }

    #[test]
    fn each_line_is_matched_alone() {
        let exact = matcher(HeaderMatch::Value(StringMatcher::exact("admin")));
        check(&exact, &["user", "admin"], true);
        check(&exact, &["user,admin"], false);
        check(&exact, &["admin "], true);
        let inverted = HeaderMatcher {
            invert: true,
            ..exact
        };
        check(&inverted, &["user", "admin"], false);
        check(&inverted, &["user"], true);
    }

    #[test]
    fn an_absent_header_never_matches_a_value() {
        let mut exact = matcher(HeaderMatch::Value(StringMatcher::exact("")));
        check(&exact, &[], false);
        exact.invert = true;
        check(&exact, &[], false);
        exact.treat_missing_as_empty = true;
        check(&exact, &[], false);
        exact.invert = false;
        check(&exact, &[], true);
    }

    #[test]
    fn presence_and_ranges() {
        check(&matcher(HeaderMatch::Present(true)), &["x"], true);
        check(&matcher(HeaderMatch::Present(true)), &[], false);
        check(&matcher(HeaderMatch::Present(false)), &[], true);
        let range = matcher(HeaderMatch::Range { start: -10, end: 0 });
        for (value, expected) in [
            ("-1", true),
            ("-10", true),
            ("0", false),
            ("somestring", false),
            ("10.9", false),
            ("-1somestring", false),
        ] {
            check(&range, &[value], expected);
        }
    }

    #[test]
    fn clients_behind_proxies() {
        let find = |lines: &[&'static str], skip| {
            let name = || HeaderName::from_static("x-forwarded-for");
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(name(), HeaderValue::from_static(line));
            }
            forwarded_for(&headers, skip).map(|address| address.to_string())
        };
        let some = |text: &str| Some(text.to_owned());
        let lines = ["1.1.1.1, 2.2.2.2", "3.3.3.3,2001:db8::4"];
        assert_eq!(find(&lines, 0), some("2001:db8::4"));
        assert_eq!(find(&lines, 1), some("3.3.3.3"));
        assert_eq!(find(&lines, 3), some("1.1.1.1"));
        assert_eq!(find(&lines, 4), None);
        assert_eq!(find(&[], 0), None);
        assert_eq!(find(&["1.1.1.1, unknown"], 0), None);
        assert_eq!(find(&["1.1.1.1:80"], 0), None);
    }

    #[test]
    fn ports_of_authorities() {
        for (authority, host) in [
            ("a.b:80", "a.b"),
            ("a.b", "a.b"),
            ("[::1]:80", "[::1]"),
            ("[::1]", "[::1]"),
            ("::1", "::1"),
        ] {
            assert_eq!(without_port(authority), host);
        }
    }
}
