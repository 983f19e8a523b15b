//! Selects the virtual host of an authority.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::request::{lower, without_port};
use crate::runtime::{LazyVirtualHost, RouteConfiguration, VirtualHost};

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
    let position = config.index.find(&host, &config.virtual_hosts)?;
    config.virtual_hosts.get(position)?.get()
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

/// Which virtual host owns a domain, by the position of the host in its route configuration.
#[derive(Clone, Default)]
pub struct DomainIndex {
    /// Half of a domain's hash above the position, sorted. The names themselves stay with their hosts, which are asked:
    /// thousands of services have tens of thousands of them.
    exact: Box<[u64]>,
    hasher: RandomState,
    /// `*.foo.com` and `*-bar.com` without the star, longest first.
    suffixes: Vec<(Box<str>, usize)>,
    /// `foo.*` without the star, longest first.
    prefixes: Vec<(Box<str>, usize)>,
    /// `*`.
    catch_all: Option<usize>,
}

/// The bits of an entry that hold the position.
const POSITION_BITS: u32 = 32;
const POSITION: u64 = (1 << POSITION_BITS) - 1;

impl fmt::Debug for DomainIndex {
    /// Nothing that the domains do not say, and nothing that differs from run to run.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainIndex").finish_non_exhaustive()
    }
}

/// Collects the domains of each virtual host in turn.
#[derive(Default)]
pub(crate) struct DomainIndexBuilder {
    index: DomainIndex,
    exact: Vec<u64>,
    /// The first wildcard that was there already, with its virtual host's position.
    repeated: Option<(usize, String)>,
}

impl DomainIndexBuilder {
    pub(crate) fn add(&mut self, position: usize, domain: &str) {
        let lowered = lower(domain);
        let is_wildcard = lowered.starts_with('*') || lowered.ends_with('*');
        if !is_wildcard {
            let entry = self.index.half_hash(&lowered) | position as u64;
            self.exact.push(entry);
        } else if !self.index.insert_wildcard(position, &lowered) {
            self.repeated
                .get_or_insert_with(|| (position, lowered.into_owned()));
        }
    }

    /// # Errors
    /// A domain that is there twice, with its virtual host's position.
    pub(crate) fn finish(
        mut self,
        hosts: &[LazyVirtualHost],
    ) -> Result<DomainIndex, (usize, String)> {
        let by_length = |a: &(Box<str>, usize), b: &(Box<str>, usize)| b.0.len().cmp(&a.0.len());
        self.index.suffixes.sort_by(by_length);
        self.index.prefixes.sort_by(by_length);
        self.exact.sort_unstable();
        self.index.exact = self.exact.into();
        let index = self.index;
        let alike = index.exact.chunk_by(|a, b| half_of(*a) == half_of(*b));
        let alike = alike.filter(|entries| entries.len() > 1);
        let repeated = alike.filter_map(|entries| index.repeated(entries, hosts));
        match self.repeated.into_iter().chain(repeated).next() {
            Some(repeated) => Err(repeated),
            None => Ok(index),
        }
    }
}

fn half_of(entry: u64) -> u64 {
    entry & !POSITION
}

fn position_of(entry: u64) -> usize {
    usize::try_from(entry & POSITION).unwrap_or(usize::MAX)
}

impl DomainIndex {
    fn half_hash(&self, domain: &str) -> u64 {
        half_of(self.hasher.hash_one(domain))
    }

    /// The domain that entries of one half hash have in common, if it is not the hash alone.
    fn repeated(&self, entries: &[u64], hosts: &[LazyVirtualHost]) -> Option<(usize, String)> {
        let wanted = half_of(*entries.first()?);
        let mut positions: Vec<usize> = entries.iter().copied().map(position_of).collect();
        positions.dedup();
        let mut seen = HashSet::new();
        for position in positions {
            let host = hosts.get(position)?.get()?;
            for domain in host.domains.iter().map(|domain| lower(domain)) {
                if self.half_hash(&domain) == wanted && !seen.insert(domain.clone()) {
                    return Some((position, domain.into_owned()));
                }
            }
        }
        None
    }

    fn insert_wildcard(&mut self, position: usize, domain: &str) -> bool {
        let insert_into = |list: &mut Vec<(Box<str>, usize)>, part: &str| {
            let is_new = list.iter().all(|(known, _)| &**known != part);
            list.push((part.into(), position));
            is_new
        };
        if domain == "*" {
            self.catch_all.replace(position).is_none()
        } else if let Some(suffix) = domain.strip_prefix('*') {
            insert_into(&mut self.suffixes, suffix)
        } else {
            insert_into(
                &mut self.prefixes,
                domain.strip_suffix('*').unwrap_or(domain),
            )
        }
    }

    fn find_exact(&self, host: &str, hosts: &[LazyVirtualHost]) -> Option<usize> {
        let half = self.half_hash(host);
        let first = self.exact.partition_point(|entry| half_of(*entry) < half);
        let alike = self.exact.iter().skip(first);
        alike
            .take_while(|entry| half_of(**entry) == half)
            .map(|entry| position_of(*entry))
            .find(|position| {
                let named = hosts.get(*position);
                named.is_some_and(|named| named.has_domain(host))
            })
    }

    fn find(&self, host: &str, hosts: &[LazyVirtualHost]) -> Option<usize> {
        let undotted = host.strip_suffix('.').unwrap_or(host);
        let exact = || {
            let found = self.find_exact(host, hosts);
            let is_dotted = found.is_none() && undotted.len() < host.len();
            found.or_else(|| is_dotted.then(|| self.find_exact(undotted, hosts))?)
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
    use meltemi_proto::envoy::config::route::v3 as proto;

    use super::*;

    /// A virtual host for each domain.
    fn configuration(domains: &[&str]) -> Result<RouteConfiguration, String> {
        let host = |domain: &&str| proto::VirtualHost {
            name: (*domain).to_owned(),
            domains: vec![(*domain).to_owned()],
            ..Default::default()
        };
        let config = proto::RouteConfiguration {
            virtual_hosts: domains.iter().map(host).collect(),
            ..Default::default()
        };
        crate::compile::route_configuration(config).map_err(|errors| errors.to_string())
    }

    fn found(config: &RouteConfiguration, host: &str) -> Option<String> {
        select(config, host).map(|host| host.name.to_string())
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
        let config = configuration(&domains).unwrap();
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
            assert_eq!(found(&config, host).as_deref(), Some(expected), "{host}");
        }
    }

    #[test]
    fn no_host_without_catch_all() {
        assert_eq!(found(&configuration(&["a"]).unwrap(), "b"), None);
    }

    #[test]
    fn duplicates_are_refused() {
        for domains in [["a", "A"], ["*", "*"], ["*.a", "*.a"], ["a.*", "a.*"]] {
            let error = configuration(&domains).unwrap_err();
            assert!(error.starts_with(": virtual_hosts[1].domains"), "{error}");
        }
    }

    /// Some of them share half a hash.
    #[test]
    fn each_of_very_many_domains_has_its_own_host() {
        let domains: Vec<String> = (0..100_000).map(|i| format!("host-{i}.mesh")).collect();
        let names: Vec<&str> = domains.iter().map(String::as_str).collect();
        let config = configuration(&names).unwrap();
        for domain in names {
            assert_eq!(found(&config, domain).as_deref(), Some(domain));
        }
        assert_eq!(found(&config, "host-100000.mesh"), None);
    }
}
