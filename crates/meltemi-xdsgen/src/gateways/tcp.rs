//! Connections that are relayed: `tcp` routes, and `tls` routes by server name.

use std::collections::BTreeSet;

use meltemi_api::istio::TlsMatch;
use meltemi_core::Hostname;
use meltemi_model::{BoundServer, MeshVirtualService};
use meltemi_proto::envoy::config::core::v3::TransportSocket;
use meltemi_proto::envoy::config::listener::v3::{FilterChain, FilterChainMatch};

use super::{At, bound, listeners::relay};
use crate::authorization::Authorization;
use crate::inputs::Inputs;
use crate::listeners::tcp_route::{self, Client, sni_match, subnets};

/// Server names of a port that have a chain: Envoy refuses two chains with one match.
#[derive(Debug, Default)]
pub(super) struct TakenNames(BTreeSet<String>);

impl TakenNames {
    pub(super) fn claim(&mut self, names: &[String]) -> Vec<String> {
        let free = names.iter().filter(|name| self.0.insert((*name).clone()));
        free.cloned().collect()
    }
}

pub(super) fn of_names(names: &[String]) -> FilterChainMatch {
    sni_match(names)
}

fn stat_prefix(server: &BoundServer<'_>) -> String {
    let meta = &server.gateway.object.meta;
    format!("{}.{}.{}", meta.name, meta.namespace, server.number())
}

/// The chains of a server whose connections go where the first VirtualService with a `tcp` route for it says; they match what
/// the server's connections do, and are decrypted if TLS ends here.
pub(super) fn chains(
    inputs: &Inputs<'_>,
    guard: &Authorization,
    server: &BoundServer<'_>,
    matches: Option<&FilterChainMatch>,
    socket: Option<&TransportSocket>,
) -> Vec<FilterChain> {
    let at = At::Gateway(&server.gateway.name);
    let mut found = bound(inputs, server).into_iter().filter_map(|(routed, _)| {
        let targets = tcp_route::tcp_targets(inputs, routed, server.number(), at);
        (!targets.is_empty()).then_some(targets)
    });
    let targets = found.next().unwrap_or_default();
    let targets = targets.into_iter();
    targets
        .map(|route| {
            let matches = FilterChainMatch {
                prefix_ranges: route.prefix_ranges,
                ..matches.cloned().unwrap_or_default()
            };
            FilterChain {
                transport_socket: socket.cloned(),
                ..relay(
                    inputs,
                    guard,
                    Some(matches),
                    &stat_prefix(server),
                    route.target,
                )
            }
        })
        .collect()
}

/// The chains of a server that lets TLS through: one for each `tls` match for its hosts.
pub(super) fn by_server_name(
    inputs: &Inputs<'_>,
    guard: &Authorization,
    server: &BoundServer<'_>,
    taken: &mut TakenNames,
) -> Vec<FilterChain> {
    let at = At::Gateway(&server.gateway.name);
    let number = server.number();
    let mut chains = Vec::new();
    for (routed, _) in bound(inputs, server) {
        for route in &routed.spec.tls {
            for matches in &route.matches {
                let client = Client::of_tls(matches);
                let is_here = matches.port.is_none_or(|port| port == u32::from(number))
                    && client.is(inputs, at, routed.namespace());
                if !is_here {
                    continue;
                }
                let names = taken.claim(&served_names(server, routed, matches));
                if names.is_empty() {
                    continue;
                }
                let target = tcp_route::destinations(inputs, routed, &route.route, number);
                let chain_match = FilterChainMatch {
                    prefix_ranges: subnets(&matches.destination_subnets),
                    ..sni_match(&names)
                };
                chains.push(relay(
                    inputs,
                    guard,
                    Some(chain_match),
                    &stat_prefix(server),
                    target,
                ));
            }
        }
    }
    chains
}

/// Differs from Istio: a name that the server does not have is not let through, whatever the VirtualService says.
fn served_names(
    server: &BoundServer<'_>,
    routed: &MeshVirtualService,
    matches: &TlsMatch,
) -> Vec<String> {
    let names = matches.sni_hosts.iter();
    let names: Vec<Hostname> = names.filter_map(|name| Hostname::new(name).ok()).collect();
    let common = meltemi_model::common_hosts(&server.hosts, &names, routed.namespace());
    common.into_iter().map(Hostname::to_string).collect()
}
