//! One canonical path for route, policy, log and backend (CVE-2019-9901, CVE-2021-29492).

use crate::runtime::{EscapedSlashes, PathNormalisation};

/// What became of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PathOutcome {
    Unchanged,
    Changed(String),
    /// The client is sent to the unescaped path (307).
    Redirect(String),
}

/// The path cannot be made canonical; answered with 400 and `path_normalization_failed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("path_normalization_failed")]
pub struct PathRejected;

/// Applies the connection manager's normalisation, in Envoy's order: escaped slashes, dot segments and escapes of unreserved
/// characters (RFC 3986 section 6.2.2), then runs of slashes. The query stays as it is.
///
/// # Errors
/// Escaped slashes where they are refused; when normalising: a broken escape, an escaped NUL, a dot segment with path
/// parameters, or a path that does not start with a slash.
pub fn normalise(
    path_and_query: &str,
    rules: PathNormalisation,
) -> Result<PathOutcome, PathRejected> {
    let (path, query) = match path_and_query.find('?') {
        Some(at) => path_and_query.split_at(at),
        None => (path_and_query, ""),
    };
    if path.is_empty() || path == "*" || is_canonical(path) {
        return Ok(PathOutcome::Unchanged);
    }
    let has_escaped_slash = has_escaped_slash(path);
    let mut current = path.to_owned();
    if has_escaped_slash {
        match rules.escaped_slashes {
            EscapedSlashes::Keep => {}
            EscapedSlashes::Reject => return Err(PathRejected),
            EscapedSlashes::UnescapeAndRedirect | EscapedSlashes::UnescapeAndForward => {
                current = unescape_slashes(path)
            }
        }
    }
    if rules.normalize {
        current = remove_dot_segments(&decode_unreserved(&current)?)?;
    }
    if rules.merge_slashes {
        current = merge_slashes(&current);
    }
    if current == path {
        return Ok(PathOutcome::Unchanged);
    }
    let whole = current + query;
    Ok(
        if has_escaped_slash && rules.escaped_slashes == EscapedSlashes::UnescapeAndRedirect {
            PathOutcome::Redirect(whole)
        } else {
            PathOutcome::Changed(whole)
        },
    )
}

/// Whether no rule would touch the path, as is so of nearly all: it holds no escape, no backslash, no run of slashes and no
/// segment that begins with a dot.
fn is_canonical(path: &str) -> bool {
    let bytes = path.as_bytes();
    path.starts_with('/')
        && !bytes.iter().any(|byte| matches!(byte, b'%' | b'\\'))
        && !bytes
            .windows(2)
            .any(|pair| pair[0] == b'/' && matches!(pair[1], b'/' | b'.'))
}

fn has_escaped_slash(path: &str) -> bool {
    path.as_bytes().windows(3).any(is_escaped_slash)
}

fn is_escaped_slash(window: &[u8]) -> bool {
    window.eq_ignore_ascii_case(b"%2f") || window.eq_ignore_ascii_case(b"%5c")
}

fn unescape_slashes(path: &str) -> String {
    let replaced = path.replace("%2F", "/").replace("%2f", "/");
    replaced.replace("%5C", "\\").replace("%5c", "\\")
}

/// Decodes escapes of unreserved characters, checks the others and upper-cases them; a backslash becomes a slash, as
/// Chromium's URL library (Envoy's normaliser) does.
fn decode_unreserved(path: &str) -> Result<String, PathRejected> {
    let mut out = String::with_capacity(path.len());
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '\\' => out.push('/'),
            '%' => {
                let mut digit = || {
                    chars
                        .next()
                        .and_then(|c| c.to_digit(16))
                        .ok_or(PathRejected)
                };
                let (high, low) = (digit()?, digit()?);
                let byte = u8::try_from(high * 16 + low).map_err(|_| PathRejected)?;
                match byte {
                    0 => return Err(PathRejected),
                    b if b.is_ascii_alphanumeric() || b"-._~".contains(&b) => {
                        out.push(char::from(b))
                    }
                    b => out.push_str(&format!("%{b:02X}")),
                }
            }
            c => out.push(c),
        }
    }
    Ok(out)
}

/// RFC 3986 section 5.2.4. A dot segment that carries path parameters (`/..;/admin`) is refused: backends disagree on it.
fn remove_dot_segments(path: &str) -> Result<String, PathRejected> {
    let rest = path.strip_prefix('/').ok_or(PathRejected)?;
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = rest.split('/').peekable();
    while let Some(segment) = segments.next() {
        let is_last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop();
                }
                if is_last {
                    kept.push("");
                }
            }
            other if other.starts_with(".;") || other.starts_with("..;") => {
                return Err(PathRejected);
            }
            other => kept.push(other),
        }
    }
    Ok(format!("/{}", kept.join("/")))
}

fn merge_slashes(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: PathNormalisation = PathNormalisation {
        normalize: true,
        merge_slashes: false,
        escaped_slashes: EscapedSlashes::Keep,
    };

    fn check(rules: PathNormalisation, path: &str, expected: Result<&str, PathRejected>) {
        let outcome = normalise(path, rules).map(|outcome| match outcome {
            PathOutcome::Unchanged => path.to_owned(),
            PathOutcome::Changed(path) | PathOutcome::Redirect(path) => path,
        });
        assert_eq!(outcome.as_deref(), expected.as_ref().copied(), "{path}");
    }

    #[test]
    fn base() {
        for (path, expected) in [
            ("/a/../admin", "/admin"),
            ("/a/%2e%2E/admin", "/admin"),
            ("/a/./b/.", "/a/b/"),
            ("/../..", "/"),
            ("/a\\..\\admin", "/admin"),
            ("//admin", "//admin"),
            ("/%61dmin?x=/../y%2e", "/admin?x=/../y%2e"),
            ("/a%2fb", "/a%2Fb"),
            ("/a%c3%a9", "/a%C3%A9"),
            ("*", "*"),
            ("", ""),
        ] {
            check(BASE, path, Ok(expected));
        }
        for path in [
            "/a%",
            "/a%2",
            "/a%zz",
            "/a%00",
            "a/b",
            "/pub/..;/admin",
            "/.;x/admin",
        ] {
            check(BASE, path, Err(PathRejected));
        }
    }

    #[test]
    fn slashes() {
        let merge = PathNormalisation {
            merge_slashes: true,
            ..BASE
        };
        check(merge, "//a///b//?c//d", Ok("/a/b/?c//d"));
        check(
            PathNormalisation {
                escaped_slashes: EscapedSlashes::UnescapeAndForward,
                ..merge
            },
            "/a%2f%2Fadmin",
            Ok("/a/admin"),
        );
        check(
            PathNormalisation {
                escaped_slashes: EscapedSlashes::UnescapeAndForward,
                ..merge
            },
            "/a/..%5Cadmin",
            Ok("/admin"),
        );
        check(
            PathNormalisation {
                escaped_slashes: EscapedSlashes::Reject,
                ..BASE
            },
            "/a%2Fb",
            Err(PathRejected),
        );
        let redirect = PathNormalisation {
            escaped_slashes: EscapedSlashes::UnescapeAndRedirect,
            ..BASE
        };
        assert_eq!(
            normalise("/a%2Fb?c", redirect),
            Ok(PathOutcome::Redirect("/a/b?c".to_owned()))
        );
        assert_eq!(
            normalise("/a/./b", redirect),
            Ok(PathOutcome::Changed("/a/b".to_owned()))
        );
    }

    #[test]
    fn off_is_off() {
        let off = PathNormalisation {
            normalize: false,
            ..BASE
        };
        assert_eq!(normalise("/a/../%61", off), Ok(PathOutcome::Unchanged));
    }

    proptest::proptest! {
        #[test]
        fn normalising_twice_changes_nothing(path in "/[a.;%/2ef5c\\\\]{0,12}") {
            let rules = PathNormalisation { merge_slashes: true, ..BASE };
            if let Ok(PathOutcome::Changed(once)) = normalise(&path, rules) {
                proptest::prop_assert_eq!(normalise(&once, rules), Ok(PathOutcome::Unchanged));
            }
        }
    }
}
