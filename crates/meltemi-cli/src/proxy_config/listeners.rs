use meltemi_core::names::BLACKHOLE_CLUSTER;
use serde_json::Value;

use super::dump::{Dump, list, text};
use super::routes::path_match;
use crate::command::ListenerArgs;
use crate::table::Table;

const HTTP_MANAGER: &str = "HttpConnectionManager";
const TCP_PROXY: &str = "TcpProxy";

pub(super) fn select<'a>(dump: &'a Dump, args: &ListenerArgs) -> Vec<&'a Value> {
    let mut listeners = dump.listeners();
    listeners.retain(|listener| {
        args.address
            .as_ref()
            .is_none_or(|address| addresses(listener).contains(&address.as_str()))
            && args
                .port
                .is_none_or(|wanted| port(listener) == u64::from(wanted))
            && args
                .kind
                .as_ref()
                .is_none_or(|wanted| kind(listener) == wanted)
    });
    listeners
}

pub(super) fn table(listeners: &[&Value]) -> String {
    let mut table = Table::new(["ADDRESSES", "PORT", "MATCH", "DESTINATION"]);
    let mut sorted = listeners.to_vec();
    sorted.sort_by_key(|listener| (addresses(listener).join(","), port(listener)));
    for listener in sorted {
        let (addresses, port) = (addresses(listener).join(","), port(listener).to_string());
        for chain in chains(listener) {
            let what = chain_match(chain);
            table.row([addresses.as_str(), &port, &what, &destination(chain)]);
        }
    }
    table.render()
}

fn chains(listener: &Value) -> impl Iterator<Item = &Value> {
    list(listener, "/filterChains").chain(listener.get("defaultFilterChain"))
}

fn addresses(listener: &Value) -> Vec<&str> {
    let first = text(listener, "/address/socketAddress/address");
    let more = list(listener, "/additionalAddresses")
        .map(|address| text(address, "/address/socketAddress/address"));
    std::iter::once(first)
        .chain(more)
        .filter(|address| !address.is_empty())
        .collect()
}

fn port(listener: &Value) -> u64 {
    let port = listener.pointer("/address/socketAddress/portValue");
    port.and_then(Value::as_u64).unwrap_or_default()
}

fn kind(listener: &Value) -> &'static str {
    let has = |wanted: &str| chains(listener).any(|chain| filter(chain, wanted).is_some());
    match (has(HTTP_MANAGER), has(TCP_PROXY)) {
        (true, true) => "HTTP+TCP",
        (true, false) => "HTTP",
        (false, true) => "TCP",
        (false, false) => "UNKNOWN",
    }
}

/// The `typedConfig` of the network filter of that type.
fn filter<'a>(chain: &'a Value, kind: &str) -> Option<&'a Value> {
    list(chain, "/filters")
        .map(|filter| &filter["typedConfig"])
        .find(|config| text(config, "/@type").ends_with(kind))
}

fn chain_match(chain: &Value) -> String {
    let criteria = &chain["filterChainMatch"];
    let mut parts = Vec::new();
    let names: Vec<&str> = strings(criteria, "/serverNames").collect();
    if !names.is_empty() {
        parts.push(format!("SNI: {}", names.join(",")));
    }
    let transport = text(criteria, "/transportProtocol");
    if !transport.is_empty() {
        parts.push(format!("Trans: {transport}"));
    }
    let protocols: Vec<&str> = strings(criteria, "/applicationProtocols").collect();
    if !protocols.is_empty() {
        parts.push(format!("App: {}", protocol_name(&protocols)));
    }
    parts.extend(address_match(criteria).map(|address| format!("Addr: {address}")));
    if parts.is_empty() {
        return "ALL".to_owned();
    }
    parts.join("; ")
}

fn strings<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a str> {
    list(value, pointer).filter_map(Value::as_str)
}

/// istioctl names the four lists of protocols that Istio generates; others are shown as they are.
fn protocol_name(protocols: &[&str]) -> String {
    match protocols {
        [
            "http/1.0",
            "http/1.1",
            "h2c",
            "istio-http/1.0",
            "istio-http/1.1",
            "istio-h2",
        ] => "HTTP TLS".to_owned(),
        ["istio", "istio-http/1.0", "istio-http/1.1", "istio-h2"] => "Istio HTTP Plain".to_owned(),
        ["istio-peer-exchange", "istio"] => "TCP TLS".to_owned(),
        ["http/1.0", "http/1.1", "h2c"] => "HTTP".to_owned(),
        other => other.join(","),
    }
}

fn address_match(criteria: &Value) -> Option<String> {
    let port = criteria.get("destinationPort").and_then(Value::as_u64);
    let ranges: Vec<String> = list(criteria, "/prefixRanges")
        .map(|range| format!("{}/{}", text(range, "/addressPrefix"), range["prefixLen"]))
        .collect();
    match (ranges.is_empty(), port) {
        (true, None) => None,
        (true, Some(port)) => Some(format!("*:{port}")),
        (false, None) => Some(ranges.join(",")),
        (false, Some(port)) => Some(format!("{}:{port}", ranges.join(","))),
    }
}

fn destination(chain: &Value) -> String {
    if let Some(manager) = filter(chain, HTTP_MANAGER) {
        let inline = manager.get("routeConfig").map(inline_route);
        let named = text(manager, "/rds/routeConfigName");
        return match inline {
            Some(inline) => inline,
            None if named.is_empty() => "HTTP".to_owned(),
            None => format!("Route: {named}"),
        };
    }
    let Some(proxy) = filter(chain, TCP_PROXY) else {
        return "Non-HTTP/Non-TCP".to_owned();
    };
    let weighted: Vec<&str> = list(proxy, "/weightedClusters/clusters")
        .map(|part| text(part, "/name"))
        .collect();
    match text(proxy, "/cluster") {
        BLACKHOLE_CLUSTER => "Non-HTTP/Non-TCP".to_owned(),
        "" => format!("Cluster: {}", weighted.join(",")),
        cluster => cluster_text(cluster),
    }
}

fn cluster_text(cluster: &str) -> String {
    if cluster.contains("Cluster") {
        cluster.to_owned()
    } else {
        format!("Cluster: {cluster}")
    }
}

/// A configuration that sends everything to one cluster is named by it; any other by what it matches.
fn inline_route(config: &Value) -> String {
    let hosts: Vec<&Value> = list(config, "/virtualHosts").collect();
    let routes = hosts
        .iter()
        .flat_map(|host| list(host, "/routes").map(move |route| (*host, route)));
    let routes: Vec<(&Value, &Value)> = routes.collect();
    if let [(host, route)] = routes[..] {
        let cluster = text(route, "/route/cluster");
        let all = text(route, "/match/prefix") == "/" && strings(host, "/domains").eq(["*"]);
        if all && !cluster.is_empty() {
            return cluster_text(cluster);
        }
    }
    let shown = routes.iter().map(|(host, route)| {
        let domains: Vec<&str> = strings(host, "/domains")
            .filter(|domain| *domain != "*")
            .collect();
        format!("{}{}", domains.join(","), path_match(&route["match"]))
    });
    format!("Inline Route: {}", shown.collect::<Vec<_>>().join(", "))
}
