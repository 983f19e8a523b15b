//! Resolves the host names of STRICT_DNS and LOGICAL_DNS clusters, and keeps their endpoints up to date.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt as _};
use meltemi_proxy_core::runtime::{
    ClusterLoadAssignment, Discovery, DnsSettings, Endpoint, EndpointAddress, LocalityEndpoints,
};
use tokio::task::JoinHandle;

use super::Upstream;
use crate::config::Store;
use crate::worker::Shared;

/// Pause after a name that could not be resolved.
const RETRY: Duration = Duration::from_secs(5);
/// The system's resolver tells no TTL: what it says is asked again after this time, or the cluster's own if shorter.
const REFRESH_LIMIT: Duration = Duration::from_secs(30);

/// A name that takes longer has failed; the system's resolver gives up after 10 s by default.
const LOOKUP_LIMIT: Duration = Duration::from_secs(10);
/// Names of one cluster that are asked for at the same time: each holds a thread.
const LOOKUPS_AT_ONCE: usize = 8;

/// Runs a resolver for every cluster that needs one, for as long as the cluster is configured.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut running: HashMap<usize, (Arc<Upstream>, JoinHandle<()>)> = HashMap::new();
    let mut changes = shared.store.watch();
    loop {
        changes.mark_unchanged();
        let wanted = wanted(&shared.store);
        running.retain(|key, (_, task)| {
            let keep = wanted.contains_key(key);
            if !keep {
                task.abort();
            }
            keep
        });
        for (key, upstream) in wanted {
            running.entry(key).or_insert_with(|| {
                let task = tokio::spawn(keep_resolved(shared.clone(), upstream.clone()));
                (upstream, task)
            });
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}

fn wanted(store: &Store) -> HashMap<usize, Arc<Upstream>> {
    let upstreams = store.upstreams_in_use().into_iter();
    let by_name = upstreams.filter(|upstream| source(upstream).is_some());
    by_name
        .map(|upstream| (Arc::as_ptr(&upstream) as usize, upstream))
        .collect()
}

fn source(upstream: &Upstream) -> Option<(&Arc<ClusterLoadAssignment>, DnsSettings, bool)> {
    match &upstream.config.discovery {
        Discovery::StrictDns { endpoints, dns } => Some((endpoints, *dns, true)),
        Discovery::LogicalDns { endpoints, dns } => Some((endpoints, *dns, false)),
        Discovery::Static(_) | Discovery::Eds { .. } | Discovery::OriginalDst { .. } => None,
    }
}

async fn keep_resolved(shared: Arc<Shared>, upstream: Arc<Upstream>) {
    let Some((endpoints, dns, all)) = source(&upstream) else {
        return;
    };
    let mut answers = Answers::default();
    let mut last: Option<Vec<SocketAddr>> = None;
    loop {
        let is_complete = answers.refresh(endpoints, lookup).await;
        let resolved = answers.fill_in(endpoints, dns, all);
        let addresses: Vec<SocketAddr> = resolved
            .endpoints()
            .filter_map(|endpoint| endpoint.socket_addr())
            .collect();
        // As long as no name has an answer, "none" is not one.
        let is_known = is_complete || !addresses.is_empty();
        if is_known && last.as_ref() != Some(&addresses) {
            last = Some(addresses);
            upstream.set_endpoints(Arc::new(resolved));
        }
        if upstream.initialised() {
            shared.store.initialised();
        }
        let wait = if is_complete {
            dns.refresh.min(REFRESH_LIMIT).max(Duration::from_secs(1))
        } else {
            RETRY
        };
        tokio::time::sleep(wait).await;
    }
}

async fn lookup(name: Name) -> io::Result<Vec<SocketAddr>> {
    let (host, port) = name;
    let found = tokio::net::lookup_host((&*host, port)).await?;
    Ok(found.collect())
}

type Name = (Arc<str>, u16);

/// What each name of a cluster resolved to when it last did. Each counts for itself: a name that fails keeps its
/// addresses, and takes nothing from the others (Envoy's STRICT_DNS resolves every target on its own, too).
#[derive(Debug, Default)]
struct Answers(HashMap<Name, Vec<SocketAddr>>);

impl Answers {
    /// Asks for all names of `endpoints`, some at a time; says whether all were answered.
    async fn refresh<F>(
        &mut self,
        endpoints: &ClusterLoadAssignment,
        lookup: impl Fn(Name) -> F,
    ) -> bool
    where
        F: Future<Output = io::Result<Vec<SocketAddr>>>,
    {
        let names: BTreeSet<Name> = endpoints
            .endpoints()
            .filter_map(|endpoint| match &endpoint.address {
                EndpointAddress::Dns { host, port } => Some((host.clone(), *port)),
                EndpointAddress::Socket(_) => None,
            })
            .collect();
        let asked = names.into_iter().map(|name| {
            let looking = tokio::time::timeout(LOOKUP_LIMIT, lookup(name.clone()));
            async move {
                let found = looking.await.unwrap_or_else(|late| Err(late.into()));
                (name, found)
            }
        });
        let mut told = stream::iter(asked).buffer_unordered(LOOKUPS_AT_ONCE);
        let mut is_complete = true;
        while let Some((name, found)) = told.next().await {
            match found {
                Ok(found) => {
                    self.0.insert(name, found);
                }
                Err(error) => {
                    is_complete = false;
                    tracing::debug!(name = %name.0, %error, "cannot resolve");
                }
            }
        }
        is_complete
    }

    /// The endpoints with the addresses of their names; those of names without an answer are left out.
    fn fill_in(
        &self,
        endpoints: &ClusterLoadAssignment,
        dns: DnsSettings,
        all: bool,
    ) -> ClusterLoadAssignment {
        let localities = endpoints.localities.iter().map(|locality| {
            let resolved = locality
                .endpoints
                .iter()
                .flat_map(|endpoint| self.of(endpoint, dns, all));
            LocalityEndpoints {
                endpoints: resolved.collect(),
                ..locality.clone()
            }
        });
        ClusterLoadAssignment {
            localities: localities.collect(),
            ..endpoints.clone()
        }
    }

    fn of(&self, endpoint: &Arc<Endpoint>, dns: DnsSettings, all: bool) -> Vec<Arc<Endpoint>> {
        let EndpointAddress::Dns { host, port } = &endpoint.address else {
            return vec![endpoint.clone()];
        };
        let Some(found) = self.0.get(&(host.clone(), *port)) else {
            return Vec::new();
        };
        let mut chosen = choose(found.clone(), dns);
        chosen.truncate(if all { usize::MAX } else { 1 });
        let chosen = chosen.into_iter();
        chosen.map(|address| at(endpoint, host, address)).collect()
    }
}

fn at(endpoint: &Endpoint, host: &Arc<str>, address: SocketAddr) -> Arc<Endpoint> {
    let hostname = if endpoint.hostname.is_empty() {
        host.clone()
    } else {
        endpoint.hostname.clone()
    };
    Arc::new(Endpoint {
        address: EndpointAddress::Socket(address),
        hostname,
        ..endpoint.clone()
    })
}

/// The addresses of the wanted families, in a stable order (Envoy `dns_lookup_family`).
fn choose(mut found: Vec<SocketAddr>, dns: DnsSettings) -> Vec<SocketAddr> {
    found.retain(|address| {
        if address.is_ipv4() {
            dns.ipv4
        } else {
            dns.ipv6
        }
    });
    found.sort_unstable();
    found.dedup();
    if dns.use_all {
        return found;
    }
    let preferred: Vec<SocketAddr> = found
        .iter()
        .copied()
        .filter(|a| a.is_ipv4() == dns.prefer_ipv4)
        .collect();
    if preferred.is_empty() {
        found
    } else {
        preferred
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    const V4: DnsSettings = DnsSettings {
        refresh: RETRY,
        respect_ttl: false,
        ipv4: true,
        ipv6: true,
        prefer_ipv4: true,
        use_all: false,
    };

    fn named(hosts: &[&str]) -> ClusterLoadAssignment {
        let endpoint = |host: &&str| {
            Arc::new(Endpoint::at(EndpointAddress::Dns {
                host: Arc::from(*host),
                port: 80,
            }))
        };
        ClusterLoadAssignment {
            cluster_name: "c".into(),
            localities: vec![LocalityEndpoints {
                locality: Arc::default(),
                weight: None,
                priority: 0,
                endpoints: hosts.iter().map(endpoint).collect(),
            }],
            overprovisioning_factor_percent: 140,
            drop_overloads: Vec::new(),
        }
    }

    /// A resolver that knows what it is given; "late" it never answers.
    fn scripted(
        known: &[(&'static str, &'static str)],
        name: Name,
    ) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + use<> {
        let known = known.to_vec();
        async move {
            if &*name.0 == "late" {
                std::future::pending::<()>().await;
            }
            let found = known.iter().find(|(host, _)| *host == &*name.0);
            let found = found.ok_or(io::ErrorKind::NotFound)?;
            Ok(vec![found.1.parse().unwrap()])
        }
    }

    fn addresses(answers: &Answers, endpoints: &ClusterLoadAssignment) -> Vec<String> {
        let resolved = answers.fill_in(endpoints, V4, true);
        let all = resolved.endpoints().filter_map(|e| e.socket_addr());
        all.map(|address| address.to_string()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_that_fails_takes_nothing_from_the_others_and_keeps_its_own() {
        let endpoints = named(&["a", "late", "b"]);
        let mut answers = Answers::default();
        let (a, b) = (("a", "10.0.0.1:80"), ("b", "10.0.0.2:80"));
        let only_b = answers.refresh(&endpoints, |name| scripted(&[b], name));
        assert!(!only_b.await);
        assert_eq!(addresses(&answers, &endpoints), ["10.0.0.2:80"]);
        let both = answers.refresh(&endpoints, |name| scripted(&[a, b], name));
        assert!(!both.await);
        let only_moved_a =
            answers.refresh(&endpoints, |name| scripted(&[("a", "10.0.0.9:80")], name));
        assert!(!only_moved_a.await);
        assert_eq!(
            addresses(&answers, &endpoints),
            ["10.0.0.9:80", "10.0.0.2:80"]
        );

        let endpoints = named(&["a", "b"]);
        let both = answers.refresh(&endpoints, |name| scripted(&[a, b], name));
        assert!(both.await);
        assert_eq!(
            addresses(&answers, &endpoints),
            ["10.0.0.1:80", "10.0.0.2:80"]
        );
    }

    #[test]
    fn prefers_the_wanted_family() {
        let found: Vec<SocketAddr> = ["[::1]:1", "127.0.0.2:1", "127.0.0.1:1", "127.0.0.1:1"]
            .map(|a| a.parse().unwrap())
            .into();
        let mut dns = V4;
        let addresses = |dns| {
            choose(found.clone(), dns)
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
        };
        assert_eq!(addresses(dns), ["127.0.0.1:1", "127.0.0.2:1"]);
        dns.prefer_ipv4 = false;
        assert_eq!(addresses(dns), ["[::1]:1"]);
        dns.use_all = true;
        assert_eq!(addresses(dns).len(), 3);
    }
}
