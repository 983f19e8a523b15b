//! Resolves the host names of STRICT_DNS and LOGICAL_DNS clusters, and keeps their endpoints up to date.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
    let upstreams = store.upstreams.load();
    let by_name = upstreams
        .values()
        .filter(|upstream| source(upstream).is_some());
    by_name
        .map(|upstream| (Arc::as_ptr(upstream) as usize, upstream.clone()))
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
    let mut last: Option<Vec<SocketAddr>> = None;
    loop {
        let wait = match resolve(endpoints, dns, all).await {
            Ok(resolved) => {
                let addresses: Vec<SocketAddr> = resolved
                    .endpoints()
                    .filter_map(|e| e.socket_addr())
                    .collect();
                if last.as_ref() != Some(&addresses) {
                    last = Some(addresses);
                    upstream.set_endpoints(Arc::new(resolved));
                }
                dns.refresh.min(REFRESH_LIMIT).max(Duration::from_secs(1))
            }
            Err(error) => {
                // What was resolved before stays: a resolver's failure is no reason to stop serving.
                tracing::debug!(cluster = %upstream.config.name, %error, "cannot resolve");
                RETRY
            }
        };
        if upstream.initialised() {
            shared.store.initialised();
        }
        tokio::time::sleep(wait).await;
    }
}

async fn resolve(
    endpoints: &ClusterLoadAssignment,
    dns: DnsSettings,
    all: bool,
) -> std::io::Result<ClusterLoadAssignment> {
    let mut localities = Vec::new();
    for locality in &endpoints.localities {
        let mut resolved = Vec::new();
        for endpoint in &locality.endpoints {
            match &endpoint.address {
                EndpointAddress::Socket(_) => resolved.push(endpoint.clone()),
                EndpointAddress::Dns { host, port } => {
                    let found = tokio::net::lookup_host((&**host, *port)).await?;
                    let chosen = choose(found.collect(), dns);
                    let count = if all { chosen.len() } else { 1 };
                    resolved.extend(
                        chosen
                            .into_iter()
                            .take(count)
                            .map(|address| at(endpoint, host, address)),
                    );
                }
            }
        }
        localities.push(LocalityEndpoints {
            endpoints: resolved,
            ..locality.clone()
        });
    }
    Ok(ClusterLoadAssignment {
        localities,
        ..endpoints.clone()
    })
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

    #[test]
    fn prefers_the_wanted_family() {
        let found: Vec<SocketAddr> = ["[::1]:1", "127.0.0.2:1", "127.0.0.1:1", "127.0.0.1:1"]
            .map(|a| a.parse().unwrap())
            .into();
        let mut dns = DnsSettings {
            refresh: RETRY,
            respect_ttl: false,
            ipv4: true,
            ipv6: true,
            prefer_ipv4: true,
            use_all: false,
        };
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
