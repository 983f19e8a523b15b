use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A DNS name, lower-cased, without a trailing dot; possibly a wildcard (`*` or `*.suffix`). Clones share the text.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// # Errors
    /// The name is empty, longer than 253 bytes, has an empty or overlong label, or a character outside `[a-z0-9._-]`
    /// besides a leading `*` label.
    pub fn new(name: &str) -> Result<Self, HostnameError> {
        let lower = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let plain = match lower.strip_prefix("*.") {
            Some(rest) => rest,
            None if lower == "*" => return Ok(Self(lower.into())),
            None => &lower,
        };
        let label_ok = |label: &str| {
            !label.is_empty()
                && label.len() <= 63
                && label
                    .bytes()
                    .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'-' || c == b'_')
        };
        if lower.len() > 253 || !plain.split('.').all(label_ok) {
            return Err(HostnameError(name.to_owned()));
        }
        Ok(Self(lower.into()))
    }

    /// Resolves a host of a configuration object: a name without dots is a Service in the object's namespace
    /// (Istio reference, Destination.host). Wildcards and dotted names stay as they are.
    ///
    /// # Errors
    /// As [`Hostname::new`].
    pub fn resolve(
        name: &str,
        namespace: &str,
        domain_suffix: &str,
    ) -> Result<Self, HostnameError> {
        if name.contains('.') || name.starts_with('*') {
            Self::new(name)
        } else {
            Self::new(&format!("{name}.{namespace}.svc.{domain_suffix}"))
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// Whether this name, possibly a wildcard, covers `other` (which may be a wildcard too). `*.a` does not cover `a`.
    pub fn covers(&self, other: &Self) -> bool {
        match self.0.strip_prefix('*') {
            Some(suffix) => {
                let name = other.0.strip_prefix('*').unwrap_or(&other.0);
                name.len() >= suffix.len()
                    && name.ends_with(suffix)
                    && (other.is_wildcard() || name.len() > suffix.len() || suffix.is_empty())
            }
            None => self == other,
        }
    }

    /// Orders hosts from the most to the least specific: exact before wildcard, longer wildcard before shorter, then by
    /// name, so that the first covering host of a sorted list is the one that counts.
    pub fn by_specificity(a: &Self, b: &Self) -> std::cmp::Ordering {
        (a.is_wildcard(), std::cmp::Reverse(a.0.len()), &a.0).cmp(&(
            b.is_wildcard(),
            std::cmp::Reverse(b.0.len()),
            &b.0,
        ))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AsRef<str> for Hostname {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a DNS name")]
pub struct HostnameError(String);

#[cfg(test)]
mod tests {
    use super::*;

    fn host(name: &str) -> Hostname {
        Hostname::new(name).unwrap()
    }

    #[test]
    fn folds_case_and_trailing_dot() {
        assert_eq!(host("Reviews.Default."), host("reviews.default"));
        for bad in ["", ".", "a..b", "a b", "a.*.b", "*a.b", "-\u{e9}"] {
            assert!(Hostname::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn short_names_resolve_in_the_namespace_of_their_object() {
        let resolve = |name| Hostname::resolve(name, "shop", "cluster.local").unwrap();
        assert_eq!(
            resolve("reviews").as_str(),
            "reviews.shop.svc.cluster.local"
        );
        assert_eq!(resolve("reviews.other").as_str(), "reviews.other");
        assert_eq!(resolve("*.com").as_str(), "*.com");
    }

    #[test]
    fn wildcards_cover() {
        assert!(host("*").covers(&host("a.b")));
        assert!(host("*").covers(&host("*.b")));
        assert!(host("*.b").covers(&host("a.b")));
        assert!(host("*.b").covers(&host("*.a.b")));
        assert!(!host("*.b").covers(&host("b")));
        assert!(!host("*.a.b").covers(&host("*.b")));
        assert!(!host("a.b").covers(&host("*.b")));
    }

    #[test]
    fn most_specific_first() {
        let mut hosts = ["*", "*.b", "*.a.b", "z.a.b", "a.b"].map(host);
        hosts.sort_by(Hostname::by_specificity);
        assert_eq!(
            hosts.map(|h| h.to_string()),
            ["z.a.b", "a.b", "*.a.b", "*.b", "*"]
        );
    }
}
