use std::net::IpAddr;

use meltemi_core::{Direction, Hostname};
use meltemi_model::{BoundServer, Merged, MergedPort, PortKind, Protocol};
use meltemi_proto::envoy::config::core::v3::TrafficDirection;
use meltemi_proto::envoy::config::listener::v3::{
    AdditionalAddress, FilterChain, FilterChainMatch, Listener,
};
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    Rds, http_connection_manager::RouteSpecifier,
};

use super::tcp;
use crate::authorization::Authorization;
use crate::inputs::Inputs;
use crate::listeners::tls_inspector;
use crate::{access_log, clusters, filters, tls, wire};

/// One listener for each port; none for a port without routes for its connections.
pub(crate) fn listeners(inputs: &Inputs<'_>, merged: &Merged<'_>) -> Vec<Listener> {
    let guard = Authorization::of(inputs);
    let ports = merged.ports.iter();
    ports
        .filter_map(|port| listener(inputs, &guard, port))
        .collect()
}

fn listener(inputs: &Inputs<'_>, guard: &Authorization, port: &MergedPort<'_>) -> Option<Listener> {
    let (first, others) = addresses(inputs, port.bind);
    let name = format!("{first}_{}", port.port);
    let chains = chains(inputs, guard, port, &format!("outbound_{name};"));
    if chains.is_empty() {
        return None;
    }
    let others = others.map(|address| AdditionalAddress {
        address: Some(wire::address(address, port.port)),
        ..AdditionalAddress::default()
    });
    let inspects = port.kind == PortKind::Tls;
    Some(Listener {
        name,
        address: Some(wire::address(first, port.port)),
        additional_addresses: others.into_iter().collect(),
        filter_chains: chains,
        listener_filters: inspects.then(tls_inspector).into_iter().collect(),
        traffic_direction: TrafficDirection::Outbound.into(),
        access_log: access_log::of_listener(inputs),
        ..Listener::default()
    })
}

/// Where a port is listened on: the address that the Gateway gives, else all of the families that the pod has.
fn addresses<'a>(inputs: &Inputs<'_>, bind: &'a str) -> (&'a str, Option<&'static str>) {
    const V4: &str = "0.0.0.0";
    const V6: &str = "::";
    if !bind.is_empty() {
        return (bind, None);
    }
    let own = inputs.addresses();
    match (
        own.iter().any(IpAddr::is_ipv4),
        own.iter().any(IpAddr::is_ipv6),
    ) {
        (true, true) => (V4, Some(V6)),
        (false, true) => (V6, None),
        _ => (V4, None),
    }
}

fn chains(
    inputs: &Inputs<'_>,
    guard: &Authorization,
    port: &MergedPort<'_>,
    stat_prefix: &str,
) -> Vec<FilterChain> {
    match port.kind {
        PortKind::Http => {
            let first = port.servers.first();
            let routes = first.and_then(BoundServer::route_name);
            let chain = |routes: String| http_chain(inputs, guard, stat_prefix, &routes);
            routes.map(chain).into_iter().collect()
        }
        PortKind::Tcp => {
            let first = port.servers.first();
            let chains = first.map(|server| tcp::chains(inputs, guard, server, None, None));
            chains.unwrap_or_default()
        }
        PortKind::Tls => {
            let mut taken = tcp::TakenNames::default();
            let servers = port.servers.iter();
            servers
                .flat_map(|server| tls_chains(inputs, guard, server, stat_prefix, &mut taken))
                .collect()
        }
    }
}

fn tls_chains(
    inputs: &Inputs<'_>,
    guard: &Authorization,
    server: &BoundServer<'_>,
    stat_prefix: &str,
    taken: &mut tcp::TakenNames,
) -> Vec<FilterChain> {
    let Some(settings) = server.server.tls.as_ref() else {
        return Vec::new();
    };
    if !settings.mode.terminates() {
        return tcp::by_server_name(inputs, guard, server, taken);
    }
    let socket = tls::gateway(settings, server.protocol() == Protocol::Https);
    let names: Vec<String> = server
        .server_names()
        .into_iter()
        .map(Hostname::to_string)
        .collect();
    taken.claim(&names);
    let matches = tcp::of_names(&names);
    match server.route_name() {
        Some(routes) => vec![FilterChain {
            filter_chain_match: Some(matches),
            transport_socket: Some(socket),
            ..http_chain(inputs, guard, stat_prefix, &routes)
        }],
        None => tcp::chains(inputs, guard, server, Some(&matches), Some(&socket)),
    }
}

fn http_chain(
    inputs: &Inputs<'_>,
    guard: &Authorization,
    stat_prefix: &str,
    routes: &str,
) -> FilterChain {
    let specifier = RouteSpecifier::Rds(Rds {
        config_source: Some(clusters::ads()),
        route_config_name: routes.to_owned(),
    });
    FilterChain {
        filters: filters::gateway_chain(inputs, guard, stat_prefix, specifier),
        ..FilterChain::default()
    }
}

/// The filters of a chain that relays bytes to where a route says.
pub(super) fn relay(
    inputs: &Inputs<'_>,
    guard: &Authorization,
    matches: Option<FilterChainMatch>,
    stat_prefix: &str,
    target: meltemi_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier,
) -> FilterChain {
    FilterChain {
        filter_chain_match: matches.filter(|matches| *matches != FilterChainMatch::default()),
        filters: filters::tcp_chain(inputs, Direction::Outbound, guard, stat_prefix, target),
        ..FilterChain::default()
    }
}
