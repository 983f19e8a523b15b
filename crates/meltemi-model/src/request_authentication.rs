//! Which tokens a workload's clients may show, and where the keys that check them come from.
//!
//! All objects that are for a workload count together: those of the root namespace, and those of its own (Istio reference,
//! RequestAuthentication).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use meltemi_api::istio::{JwtRule, RequestAuthentication};
use meltemi_api::{Object, Resource};
use meltemi_core::{Hostname, Labels};

/// Istio's default `timeout`.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);

/// Where an issuer's keys are published.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum JwksSource {
    /// At this URL.
    Url(String),
    /// Where the discovery document of the issuer says (OpenID Connect Discovery 1.0, section 4).
    Issuer(String),
}

impl JwksSource {
    /// The host of a URL.
    pub fn host(&self) -> Option<Hostname> {
        KeyServer::of(self).map(|server| server.host)
    }

    /// Of a rule that does not bring its keys along.
    pub fn of(rule: &JwtRule) -> Option<Self> {
        match (rule.jwks.as_str(), rule.jwks_uri.as_str()) {
            ("", "") => Some(Self::Issuer(rule.issuer.clone())),
            ("", url) => Some(Self::Url(url.to_owned())),
            _ => None,
        }
    }
}

/// Who fetches keys that are published at a URL (Istio, `PILOT_JWT_ENABLE_REMOTE_JWKS`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KeyFetching {
    #[default]
    ControlPlane,
    /// The proxies, where the URL is of a service of the mesh; else the control plane.
    Hybrid,
    /// The proxies, whether they know the URL's host or not.
    Proxies,
}

/// Where a proxy fetches keys: the cluster of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyServer {
    pub host: Hostname,
    pub port: u16,
}

impl KeyServer {
    /// What a URL names.
    pub(crate) fn of(source: &JwksSource) -> Option<Self> {
        let JwksSource::Url(url) = source else {
            return None;
        };
        let (scheme, rest) = url.split_once("://")?;
        let default = match scheme {
            "https" => 443,
            "http" => 80,
            _ => return None,
        };
        let authority = rest.split(['/', '?', '#']).next()?;
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, default),
        };
        let host = Hostname::new(host).ok()?;
        Some(Self { host, port })
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => f.write_str(url),
            Self::Issuer(issuer) => write!(f, "the discovery document of {issuer}"),
        }
    }
}

/// All RequestAuthentications by namespace, the oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestAuthentications {
    pub(crate) by_namespace: BTreeMap<String, Vec<Arc<Object>>>,
}

impl RequestAuthentications {
    /// Those of the root namespace first.
    pub(crate) fn of_workload<'a>(
        &'a self,
        namespace: &'a str,
        labels: &'a Labels,
        root: &'a str,
    ) -> impl Iterator<Item = (&'a Arc<Object>, &'a RequestAuthentication)> {
        let own = (namespace != root).then_some(namespace);
        std::iter::once(root)
            .chain(own)
            .flat_map(|namespace| self.of_namespace(namespace))
            .filter(|(_, policy)| policy.selects(labels))
    }

    pub(crate) fn of_namespace(
        &self,
        namespace: &str,
    ) -> impl Iterator<Item = (&Arc<Object>, &RequestAuthentication)> {
        let objects = self.by_namespace.get(namespace).into_iter().flatten();
        objects.filter_map(|object| match &object.resource {
            Resource::RequestAuthentication(policy) => Some((object, policy.as_ref())),
            _ => None,
        })
    }

    /// Where keys have to be fetched from, and the longest that any rule waits for them.
    pub(crate) fn sources(&self) -> BTreeMap<JwksSource, Duration> {
        let namespaces = self.by_namespace.keys();
        let policies = namespaces.flat_map(|namespace| self.of_namespace(namespace));
        let rules = policies.flat_map(|(_, policy)| &policy.jwt_rules);
        let mut sources = BTreeMap::new();
        for rule in rules {
            if let Some(source) = JwksSource::of(rule) {
                let timeout = sources.entry(source).or_insert(Duration::ZERO);
                *timeout = rule.timeout.unwrap_or(FETCH_TIMEOUT).max(*timeout);
            }
        }
        sources
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_a_host_and_a_port() {
        let check = |url: &str, expected: Option<(&str, u16)>| {
            let found = KeyServer::of(&JwksSource::Url(url.to_owned()));
            let found = found
                .as_ref()
                .map(|server| (server.host.as_str(), server.port));
            assert_eq!(found, expected, "{url}");
        };
        check("http://a.b:8000/keys", Some(("a.b", 8000)));
        check("https://a.b?x=/y:z", Some(("a.b", 443)));
        check("http://a.b", Some(("a.b", 80)));
        check("http://a.b:x/", None);
        check("http://[::1]/", None);
        check("ftp://a.b/", None);
    }
}
