use std::collections::BTreeSet;

use meltemi_api::istio::OutboundTrafficPolicyMode;
use meltemi_core::Direction;
use meltemi_core::names::{BLACKHOLE_CLUSTER, port as ports};
use meltemi_model::{EndpointAddress, Service, ServiceAddress, ServicePort};
use meltemi_proto::envoy::config::core::v3::TrafficDirection;
use meltemi_proto::envoy::config::listener::v3::{FilterChain, FilterChainMatch, Listener};
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    Rds, http_connection_manager::RouteSpecifier,
};

use super::{
    RAW, chain_match, cleartext_http, detection_timeout, http_inspector, tcp_route, tls_inspector,
    unbound,
};
use crate::authorization::Authorization;
use crate::inputs::Inputs;
use crate::{access_log, clusters, filters, routes, wire};

const WILDCARD: &str = "0.0.0.0";

/// The capture port: hands connections to the listener of their original destination; what has none passes through, or
/// is dropped under REGISTRY_ONLY.
pub(crate) fn virtual_outbound(inputs: &Inputs<'_>) -> Listener {
    let chain = |name: &str, filter_chain_match, cluster: &str| FilterChain {
        name: name.to_owned(),
        filter_chain_match,
        filters: filters::tcp_chain(
            inputs,
            Direction::Outbound,
            Authorization::NONE,
            cluster,
            filters::to_cluster(cluster),
        ),
        ..FilterChain::default()
    };
    let to_itself = FilterChainMatch {
        destination_port: wire::u32_value(ports::OUTBOUND.into()),
        ..FilterChainMatch::default()
    };
    Listener {
        name: "virtualOutbound".to_owned(),
        address: Some(wire::address(WILDCARD, ports::OUTBOUND)),
        use_original_dst: wire::bool_value(true),
        filter_chains: vec![
            chain(
                "virtualOutbound-blackhole",
                Some(to_itself),
                BLACKHOLE_CLUSTER,
            ),
            chain(
                "virtualOutbound-catchall-tcp",
                None,
                &unknown_destination(inputs),
            ),
        ],
        traffic_direction: TrafficDirection::Outbound.into(),
        access_log: access_log::of_listener(inputs),
        ..Listener::default()
    }
}

/// Where connections to addresses outside the registry go.
fn unknown_destination(inputs: &Inputs<'_>) -> String {
    match inputs.unknown_destinations() {
        OutboundTrafficPolicyMode::AllowAny => routes::unknown_cluster(inputs),
        OutboundTrafficPolicyMode::RegistryOnly => BLACKHOLE_CLUSTER.to_owned(),
    }
}

/// How the connections to one service port find their listener.
enum Place {
    /// The shared `0.0.0.0_<port>` listener.
    Shared,
    /// A listener per address: the service's VIPs, or the pods of a headless service.
    Addresses(BTreeSet<String>),
}

fn place(inputs: &Inputs<'_>, service: &Service, port: &ServicePort) -> Place {
    if port.protocol.is_http() {
        return Place::Shared;
    }
    let addresses: BTreeSet<_> = if service.is_headless() {
        let endpoints = inputs.endpoints(&service.hostname);
        endpoints
            .into_iter()
            .flat_map(|all| all.of_port(&port.name))
            .filter_map(|endpoint| match endpoint.address {
                EndpointAddress::Ip(ip) => Some(ip.to_string()),
                EndpointAddress::Name(_) => None,
            })
            .collect()
    } else {
        single_addresses(service).map(|ip| ip.to_string()).collect()
    };
    if addresses.is_empty() && !service.is_headless() {
        Place::Shared
    } else {
        Place::Addresses(addresses)
    }
}

fn single_addresses(service: &Service) -> impl Iterator<Item = std::net::IpAddr> + '_ {
    let single = service
        .addresses
        .iter()
        .filter(|address| address.is_single());
    single.map(|address| address.ip)
}

/// Whether requests to this service port are routed by the shared route configuration of the port number.
pub(crate) fn serves_http(service: &Service, port: &ServicePort) -> bool {
    port.protocol.is_http()
        || (port.protocol.is_auto()
            && !service.is_headless()
            && single_addresses(service).next().is_none())
}

/// The outbound listeners of a port number, of those that are wanted by name.
pub(crate) fn on_port(
    inputs: &Inputs<'_>,
    port: u16,
    is_wanted: &dyn Fn(&str) -> bool,
) -> Vec<Listener> {
    let wants_shared = is_wanted(&format!("{WILDCARD}_{port}"));
    let mut shared = Shared::default();
    let mut listeners: Vec<Listener> = Vec::new();
    let mut taken = BTreeSet::new();
    for service in inputs.services_on_port(port) {
        let of_number = service.ports.iter().filter(|own| own.number == port);
        for own in of_number.filter(|own| own.protocol != meltemi_model::Protocol::Udp) {
            match place(inputs, service, own) {
                Place::Shared if wants_shared => shared.add(inputs, service, own),
                Place::Shared => {}
                Place::Addresses(addresses) => {
                    let wanted = |ip: &String| is_wanted(&format!("{ip}_{port}"));
                    // The first service to claim an address keeps it.
                    for ip in addresses
                        .into_iter()
                        .filter(wanted)
                        .filter(|ip| taken.insert(ip.clone()))
                    {
                        listeners.push(of_address(inputs, service, own, &ip));
                    }
                }
            }
        }
    }
    listeners.extend(shared.into_listener(inputs, port));
    listeners
}

fn of_address(inputs: &Inputs<'_>, service: &Service, port: &ServicePort, ip: &str) -> Listener {
    let name = format!("{ip}_{}", port.number);
    let tcp = tcp_route::chains(inputs, service, port, &[]);
    if !port.protocol.is_auto() {
        let sni = tcp.iter().any(|chain| {
            chain
                .filter_chain_match
                .as_ref()
                .is_some_and(|m| !m.server_names.is_empty())
        });
        let mut listener = unbound(&name, ip, port.number, tcp);
        if sni {
            listener.listener_filters = vec![tls_inspector()];
            listener.listener_filters_timeout = Some(detection_timeout(inputs));
        }
        return listener;
    }
    let rds = routes::sniffed_name(service, port.number);
    let http = http_chain(inputs, &format!("outbound_{name};"), &rds);
    let (catch_all, specific): (Vec<_>, Vec<_>) = tcp
        .into_iter()
        .partition(|chain| chain.filter_chain_match.is_none());
    let chains = std::iter::once(http).chain(specific).collect();
    let listener = Listener {
        // Not a chain without a match: matching by transport protocol would not come back to it.
        default_filter_chain: catch_all.into_iter().next(),
        ..unbound(&name, ip, port.number, chains)
    };
    sniffing(inputs, listener)
}

/// Adds the inspectors that tell TLS and HTTP apart.
fn sniffing(inputs: &Inputs<'_>, listener: Listener) -> Listener {
    Listener {
        listener_filters: vec![tls_inspector(), http_inspector()],
        listener_filters_timeout: Some(detection_timeout(inputs)),
        ..listener
    }
}

fn http_chain(inputs: &Inputs<'_>, stat_prefix: &str, route_config_name: &str) -> FilterChain {
    let routes = RouteSpecifier::Rds(Rds {
        config_source: Some(clusters::ads()),
        route_config_name: route_config_name.to_owned(),
    });
    FilterChain {
        filter_chain_match: Some(chain_match(RAW, &cleartext_http(inputs))),
        filters: filters::http_chain(
            inputs,
            Direction::Outbound,
            Authorization::NONE,
            stat_prefix,
            routes,
        ),
        ..FilterChain::default()
    }
}

/// The parts of the one listener on all addresses of a port number.
#[derive(Default)]
struct Shared {
    http: bool,
    /// Chains for TCP and TLS services without an address of their own.
    chains: Vec<FilterChain>,
    /// The first of those that matches everything.
    default: Option<FilterChain>,
}

impl Shared {
    fn add(&mut self, inputs: &Inputs<'_>, service: &Service, port: &ServicePort) {
        self.http |= serves_http(service, port);
        if port.protocol.is_http() {
            return;
        }
        let ranges: Vec<ServiceAddress> = service.addresses.clone();
        for chain in tcp_route::chains(inputs, service, port, &ranges) {
            match &chain.filter_chain_match {
                Some(_) => self.chains.push(chain),
                // Two services that both take everything: the first counts, as in Istio.
                None => {
                    self.default.get_or_insert(chain);
                }
            }
        }
    }

    fn into_listener(self, inputs: &Inputs<'_>, port: u16) -> Option<Listener> {
        if !self.http && self.chains.is_empty() && self.default.is_none() {
            return None;
        }
        let name = format!("{WILDCARD}_{port}");
        let inspect = self.http || !self.chains.is_empty();
        let mut chains = Vec::new();
        if self.http {
            chains.push(http_chain(
                inputs,
                &format!("outbound_{name};"),
                &port.to_string(),
            ));
        }
        chains.extend(distinct(self.chains));
        let default = self.default.unwrap_or_else(|| passthrough(inputs));
        let listener = Listener {
            default_filter_chain: Some(default),
            ..unbound(&name, WILDCARD, port, chains)
        };
        Some(if inspect {
            sniffing(inputs, listener)
        } else {
            listener
        })
    }
}

/// Envoy refuses two chains with one match: the first is kept.
fn distinct(chains: Vec<FilterChain>) -> Vec<FilterChain> {
    let mut kept: Vec<FilterChain> = Vec::new();
    for chain in chains {
        if kept
            .iter()
            .all(|other| other.filter_chain_match != chain.filter_chain_match)
        {
            kept.push(chain);
        }
    }
    kept
}

/// What is not HTTP on an HTTP port goes where the application wanted.
fn passthrough(inputs: &Inputs<'_>) -> FilterChain {
    let cluster = &unknown_destination(inputs);
    FilterChain {
        name: "PassthroughFilterChain".to_owned(),
        filters: filters::tcp_chain(
            inputs,
            Direction::Outbound,
            Authorization::NONE,
            cluster,
            filters::to_cluster(cluster),
        ),
        ..FilterChain::default()
    }
}
