//! What the targets in `fuzz/` do with an input. Every test run does the same with the inputs that are kept there.
//!
//! A target panics where a property does not hold.

mod jwt;
mod naive;
mod resources;
mod route_match;

pub use jwt::jwt;
pub use resources::xds;
pub use route_match::route_match;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, Version};

use crate::path::{PathOutcome, normalise};
use crate::runtime::{EscapedSlashes, PathNormalisation};
use crate::strict;

/// Header lines of a request.
const LINES: usize = 100;

/// A request's head from its bytes: what the strict check lets through has one host, one length and one reading.
///
/// # Panics
/// It has not.
pub fn request_head(bytes: &[u8]) {
    let mut lines = [httparse::EMPTY_HEADER; LINES];
    let mut request = httparse::Request::new(&mut lines);
    if !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let target = request.path.unwrap_or_default();
    let (Ok(method), Ok(uri)) = (
        Method::from_bytes(request.method.unwrap_or_default().as_bytes()),
        target.parse::<Uri>(),
    ) else {
        return;
    };
    let version = match request.version {
        Some(0) => Version::HTTP_10,
        _ => Version::HTTP_11,
    };
    let mut headers = HeaderMap::new();
    for line in request.headers.iter() {
        let (Ok(name), Ok(value)) = (
            HeaderName::from_bytes(line.name.as_bytes()),
            HeaderValue::from_bytes(line.value),
        ) else {
            return;
        };
        headers.append(name, value);
    }
    if strict::check_head(&method, &uri, version, &headers, None).is_err() {
        return;
    }
    let count = |name| headers.get_all(name).iter().count();
    let authorities = count(http::header::HOST) + usize::from(uri.authority().is_some());
    assert!(authorities >= 1, "no host: {uri} {headers:?}");
    assert!(count(http::header::HOST) <= 1, "two hosts: {headers:?}");
    assert!(
        count(http::header::CONTENT_LENGTH) + count(http::header::TRANSFER_ENCODING) <= 1,
        "two lengths: {headers:?}"
    );
    for value in headers.values() {
        let is_break = |c: &u8| matches!(c, 0 | b'\r' | b'\n');
        assert!(!value.as_bytes().iter().any(is_break), "{value:?}");
    }
    if let Some(path) = uri.path_and_query() {
        assert!(!path.as_str().contains(['#', ' ']), "{path}");
        canonical(path.as_str(), BASE);
    }
}

const BASE: PathNormalisation = PathNormalisation {
    normalize: true,
    merge_slashes: false,
    escaped_slashes: EscapedSlashes::Keep,
};

/// A path: what is canonical stays as it is, and has nothing in it that a backend could resolve once more.
///
/// # Panics
/// It does not, or has.
pub fn path(bytes: &[u8]) {
    let Some((rules, path)) = bytes.split_first() else {
        return;
    };
    let Ok(path) = std::str::from_utf8(path) else {
        return;
    };
    let escaped_slashes = match rules >> 1 & 3 {
        0 => EscapedSlashes::Keep,
        1 => EscapedSlashes::Reject,
        2 => EscapedSlashes::UnescapeAndRedirect,
        _ => EscapedSlashes::UnescapeAndForward,
    };
    let rules = PathNormalisation {
        normalize: true,
        merge_slashes: rules & 1 == 1,
        escaped_slashes,
    };
    canonical(path, rules);
}

fn canonical(path: &str, rules: PathNormalisation) {
    let once = match normalise(path, rules) {
        Err(_) => return,
        Ok(PathOutcome::Unchanged) => path.to_owned(),
        Ok(PathOutcome::Changed(path) | PathOutcome::Redirect(path)) => path,
    };
    assert_eq!(
        normalise(&once, rules),
        Ok(PathOutcome::Unchanged),
        "{path:?} became {once:?}"
    );
    let (head, _) = once.split_once('?').unwrap_or((&once, ""));
    if head.is_empty() || head == "*" {
        return;
    }
    assert!(head.starts_with('/'), "{path:?} became {once:?}");
    let is_dot = |segment: &str| matches!(segment, "." | "..");
    assert!(!head.split('/').any(is_dot), "{path:?} became {once:?}");
    assert!(!head.contains('\\'), "{path:?} became {once:?}");
    assert!(
        !(rules.merge_slashes && head.contains("//")),
        "{path:?} became {once:?}"
    );
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../fuzz/corpus")
            .join(target);
        let mut count = 0;
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            let result = std::panic::catch_unwind(|| run(&bytes));
            assert!(result.is_ok(), "{}", path.display());
            count += 1;
        }
        assert!(count > 0, "{} is empty", folder.display());
    }

    #[test]
    fn kept_inputs_of_request_head() {
        replay("request_head", super::request_head);
    }

    #[test]
    fn kept_inputs_of_path() {
        replay("path", super::path);
    }

    #[test]
    fn kept_inputs_of_jwt() {
        replay("jwt", super::jwt);
    }

    #[test]
    fn kept_inputs_of_xds() {
        replay("xds", super::xds);
    }

    #[test]
    fn kept_inputs_of_route_match() {
        replay("route_match", super::route_match);
    }
}
