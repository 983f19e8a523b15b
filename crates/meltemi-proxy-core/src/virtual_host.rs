//! Selects the virtual host of an authority.

use std::borrow::Cow;
use std::sync::Arc;

use crate::request::{lower, without_port};
use crate::runtime::{DomainIndex, RouteConfiguration, VirtualHost};

/// Selects the virtual host for an authority: exact domain, then the longest `*suffix`, then the longest `prefix*`, then `*`
/// (Envoy `VirtualHost.domains`). Letters are compared without case.
///
/// Differs from Envoy: a trailing dot is ignored when nothing is configured for the name with it, so that `a.b.` cannot
/// dodge what was written for `a.b`.
pub fn select<'c>(config: &'c RouteConfiguration, authority: &str) -> Option<&'c Arc<VirtualHost>> {
    let host = if config.ignore_port_in_host_matching {
        without_port(authority)
    } else {
        authority
    };
    let host = lower(host);
    let position = config.index.find(&host)?;
    config.virtual_hosts.get(position)
}

/// The longest name that a host can have (RFC 1035 section 2.3.4).
const HOST_LIMIT_BYTES: usize = 253;

/// How a virtual host is asked for: the authority as [`select`] compares it. What is no host's name is whatever `*` is.
pub fn asked_as<'a>(config: &RouteConfiguration, authority: &'a str) -> Cow<'a, str> {
    let host = if config.ignore_port_in_host_matching {
        without_port(authority)
    } else {
        authority
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if host.is_empty() || host.len() > HOST_LIMIT_BYTES || host.contains('/') {
        return Cow::Borrowed("*");
    }
    lower(host)
}

impl DomainIndex {
    /// Builds the index from the domains of each virtual host in turn.
    ///
    /// # Errors
    /// A domain that is there twice, with its virtual host's position.
    pub fn new<'d>(
        domains: impl Iterator<Item = (usize, &'d str)>,
    ) -> Result<Self, (usize, String)> {
        let mut index = Self::default();
        for (position, domain) in domains {
            let lowered = domain.to_ascii_lowercase();
            let is_new = index.insert(position, &lowered);
            if !is_new {
                return Err((position, lowered));
            }
        }
        let by_length = |a: &(Box<str>, usize), b: &(Box<str>, usize)| b.0.len().cmp(&a.0.len());
        index.suffixes.sort_by(by_length);
        index.prefixes.sort_by(by_length);
        Ok(index)
    }

    fn insert(&mut self, position: usize, domain: &str) -> bool {
        let insert_into = |list: &mut Vec<(Box<str>, usize)>, part: &str| {
            let is_new = list.iter().all(|(known, _)| &**known != part);
            list.push((part.into(), position));
            is_new
        };
        if domain == "*" {
            self.catch_all.replace(position).is_none()
        } else if let Some(suffix) = domain.strip_prefix('*') {
            insert_into(&mut self.suffixes, suffix)
        } else if let Some(prefix) = domain.strip_suffix('*') {
            insert_into(&mut self.prefixes, prefix)
        } else {
            self.exact.insert(domain.into(), position).is_none()
        }
    }

    fn find(&self, host: &str) -> Option<usize> {
        let undotted = host.strip_suffix('.').unwrap_or(host);
        let exact = || {
            self.exact
                .get(host)
                .or_else(|| self.exact.get(undotted))
                .copied()
        };
        let longer = |part: &str| undotted.len() > part.len();
        let suffix = || {
            let found = |(s, _): &&(Box<str>, usize)| longer(s) && undotted.ends_with(&**s);
            self.suffixes
                .iter()
                .find(found)
                .map(|(_, position)| *position)
        };
        let prefix = || {
            let found = |(p, _): &&(Box<str>, usize)| longer(p) && undotted.starts_with(&**p);
            self.prefixes
                .iter()
                .find(found)
                .map(|(_, position)| *position)
        };
        exact().or_else(suffix).or_else(prefix).or(self.catch_all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(domains: &[&str]) -> DomainIndex {
        DomainIndex::new(domains.iter().copied().enumerate()).unwrap()
    }

    /// The precedence table of Envoy's `VirtualHost.domains`.
    #[test]
    fn precedence() {
        let domains = [
            "*",
            "www.foo.com",
            "*.foo.com",
            "*-bar.foo.com",
            "foo.*",
            "foo.b*",
            "a:80",
        ];
        let index = index(&domains);
        for (host, expected) in [
            ("www.foo.com", "www.foo.com"),
            ("www.foo.com.", "www.foo.com"),
            ("baz.foo.com", "*.foo.com"),
            ("baz-bar.foo.com", "*-bar.foo.com"),
            ("-bar.foo.com", "*.foo.com"),
            ("foo.org", "foo.*"),
            ("foo.bar", "foo.b*"),
            ("a:80", "a:80"),
            ("a", "*"),
            ("", "*"),
        ] {
            assert_eq!(domains[index.find(host).unwrap()], expected, "{host}");
        }
    }

    #[test]
    fn no_host_without_catch_all() {
        assert_eq!(index(&["a"]).find("b"), None);
    }

    #[test]
    fn duplicates_are_refused() {
        for domains in [["a", "A"], ["*", "*"], ["*.a", "*.a"], ["a.*", "a.*"]] {
            let error = DomainIndex::new(domains.into_iter().enumerate()).unwrap_err();
            assert_eq!(error.0, 1);
        }
    }
}
