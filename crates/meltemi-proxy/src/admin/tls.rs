//! `/tls`: evidence of live handshakes, and probes that make fresh ones.

use http::StatusCode;
use meltemi_core::ClusterName;
use meltemi_proxy_core::runtime::{FilterChain, TrafficDirection, TransportProtocol};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

use super::Admin;
use super::server::{Answer, Asked, json as answer, text};
use crate::upstream::connect::{self, Wish};
use crate::worker::Shared;

/// Hosts probed by one request at most.
const PROBE_LIMIT: usize = 64;
/// How long the address of a service to probe may be looked up.
const RESOLVE_LIMIT: Duration = Duration::from_secs(5);

pub(super) fn rows(shared: &Shared) -> Value {
    json!({
        "inbound": inbound(shared),
        "upstream": shared.telemetry.tls.upstream_rows(),
        "downstream": shared.telemetry.tls.downstream_rows(),
    })
}

/// What each inbound port admits, read from the filter chains that decide it.
fn inbound(shared: &Shared) -> Vec<Value> {
    let mut ports: BTreeMap<u16, (bool, bool)> = BTreeMap::new();
    for listener in shared
        .store
        .listeners
        .load()
        .iter()
        .filter(|l| l.traffic_direction == TrafficDirection::Inbound)
    {
        for chain in listener.chains() {
            let Some(port) = chain.matches.destination_port else {
                continue;
            };
            if shared.own_ports.contains(&port) {
                continue;
            }
            let (tls, plain) = ports.entry(port).or_default();
            *tls |= chain.tls.is_some();
            *plain |= admits_plaintext(chain);
        }
    }
    let mode = |admits| match admits {
        (true, false) => "STRICT",
        (true, true) => "PERMISSIVE",
        (false, _) => "DISABLE",
    };
    ports
        .into_iter()
        .map(|(port, admits)| json!({ "port": port, "mode": mode(admits) }))
        .collect()
}

fn admits_plaintext(chain: &FilterChain) -> bool {
    chain.tls.is_none() && chain.matches.transport_protocol != Some(TransportProtocol::Tls)
}

/// Has the configuration of a service asked for that the workload has not called yet, the way a call of it would: by the
/// listener of its address, then by its virtual host. What comes of it is seen in the store.
async fn demand(shared: &Shared, cluster: &str) {
    let Some(demand) = &shared.store.demand else {
        return;
    };
    let Ok(cluster) = cluster.parse::<ClusterName>() else {
        return;
    };
    let host = cluster.host.to_string();
    let resolved = tokio::net::lookup_host((host.as_str(), cluster.port));
    let Ok(Ok(mut addresses)) = tokio::time::timeout(RESOLVE_LIMIT, resolved).await else {
        return;
    };
    let Some(destination) = addresses.next() else {
        return;
    };
    let found = demand.listener(&shared.store.listeners, destination).await;
    let Ok((Some(listener), _holds)) = found else {
        return;
    };
    let routes = shared.store.routes.load_full();
    let authority = format!("{host}:{}", cluster.port);
    for config in listener.route_names().filter_map(|name| routes.get(name)) {
        if config.asks_for_hosts && demand.host(config, &authority).await.is_err() {
            tracing::debug!(authority, "no answer about a virtual host to probe");
        }
    }
}

/// Shakes hands with every host of a cluster, as configured, without an application byte.
pub(super) async fn probe(admin: &Admin, asked: &Asked) -> Answer {
    let Some(name) = asked.query("cluster") else {
        return text(
            StatusCode::BAD_REQUEST,
            "usage: POST /tls/probe?cluster=NAME\n",
        );
    };
    let shared = &admin.shared;
    if shared.store.upstream(&name).is_none() {
        demand(shared, &name).await;
    }
    let Some(upstream) = shared.store.upstream(&name) else {
        return text(StatusCode::NOT_FOUND, format!("no cluster \"{name}\"\n"));
    };
    let hosts = upstream.hosts();
    let probes = hosts.iter().take(PROBE_LIMIT).map(|host| async {
        if let Err(error) = connect::connect(shared, &upstream, host, &Wish::default()).await {
            tracing::debug!(cluster = name, host = %host.address, ?error, "probe failed");
        }
    });
    futures_util::future::join_all(probes).await;
    let rows: Vec<_> = shared
        .telemetry
        .tls
        .upstream_rows()
        .into_iter()
        .filter(|row| row.cluster == name)
        .collect();
    answer(&json!({ "upstream": rows }))
}
