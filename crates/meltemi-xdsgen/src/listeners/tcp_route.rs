//! Routing of whole connections: VirtualService `tcp` and `tls` routes, SNI, and the plain case of one cluster.

use meltemi_api::istio::{RouteDestination, TlsMatch};
use meltemi_core::{ClusterName, Direction, Labels};
use meltemi_model::{MeshVirtualService, Service, ServiceAddress, ServicePort};
use meltemi_proto::envoy::config::core::v3::CidrRange;
use meltemi_proto::envoy::config::listener::v3::{FilterChain, FilterChainMatch};
use meltemi_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    self, ClusterSpecifier,
};

use super::TLS;
use crate::authorization::Authorization;
use crate::gateways::At;
use crate::inputs::Inputs;
use crate::{filters, routes, wire};

/// The chains for a port that relays bytes. `ranges` are the service's addresses where the listener is shared.
pub(super) fn chains(
    inputs: &Inputs<'_>,
    service: &Service,
    port: &ServicePort,
    ranges: &[ServiceAddress],
) -> Vec<FilterChain> {
    let prefix_ranges: Vec<_> = ranges
        .iter()
        .map(|range| wire::cidr(range.ip, range.prefix_len))
        .collect();
    let routed = inputs.virtual_service(&service.hostname, port.number);
    if port.protocol.is_tls() {
        let by_sni = routed.map(|routed| tls_chains(inputs, routed, service, port));
        if let Some(chains) = by_sni.filter(|chains| !chains.is_empty()) {
            return chains;
        }
        // Without an address, the name in the ClientHello is all that tells services apart.
        if !ranges.is_empty() || service.addresses.is_empty() && !service.is_headless() {
            let matches = FilterChainMatch {
                prefix_ranges,
                ..sni_match(&[service.hostname.to_string()])
            };
            let target = whole_service(service, port);
            return vec![chain(inputs, service, port, Some(matches), target)];
        }
    }
    let routes = routed.map(|routed| tcp_targets(inputs, routed, port.number, At::Mesh));
    let routes = routes
        .filter(|routes| !routes.is_empty())
        .unwrap_or_else(|| {
            vec![TcpTarget {
                prefix_ranges: Vec::new(),
                target: whole_service(service, port),
            }]
        });
    routes
        .into_iter()
        .map(|route| {
            let ranges = if route.prefix_ranges.is_empty() {
                prefix_ranges.clone()
            } else {
                route.prefix_ranges
            };
            let matches = (!ranges.is_empty()).then(|| FilterChainMatch {
                prefix_ranges: ranges,
                ..FilterChainMatch::default()
            });
            chain(inputs, service, port, matches, route.target)
        })
        .collect()
}

fn chain(
    inputs: &Inputs<'_>,
    service: &Service,
    port: &ServicePort,
    filter_chain_match: Option<FilterChainMatch>,
    target: ClusterSpecifier,
) -> FilterChain {
    let stat_prefix = match &target {
        ClusterSpecifier::Cluster(name) => name.clone(),
        ClusterSpecifier::WeightedClusters(_) => format!("{}.{}", service.hostname, port.number),
    };
    FilterChain {
        filter_chain_match,
        filters: filters::tcp_chain(
            inputs,
            Direction::Outbound,
            Authorization::NONE,
            &stat_prefix,
            target,
        ),
        ..FilterChain::default()
    }
}

fn whole_service(service: &Service, port: &ServicePort) -> ClusterSpecifier {
    let name = ClusterName::outbound(port.number, "", service.hostname.as_str());
    filters::to_cluster(&name.to_string())
}

/// `*` as a server name means any name, which Envoy writes as none.
pub(crate) fn sni_match(names: &[String]) -> FilterChainMatch {
    let any = names.iter().any(|name| name == "*");
    FilterChainMatch {
        transport_protocol: TLS.to_owned(),
        server_names: if any { Vec::new() } else { names.to_vec() },
        ..FilterChainMatch::default()
    }
}

fn tls_chains(
    inputs: &Inputs<'_>,
    routed: &MeshVirtualService,
    service: &Service,
    port: &ServicePort,
) -> Vec<FilterChain> {
    let mut chains = Vec::new();
    for route in &routed.spec.tls {
        let applying = route.matches.iter().filter(|m| {
            m.port.is_none_or(|number| number == u32::from(port.number))
                && Client::of_tls(m).is(inputs, At::Mesh, routed.namespace())
        });
        for matches in applying {
            let target = destinations(inputs, routed, &route.route, port.number);
            let filter_chain_match = Some(FilterChainMatch {
                prefix_ranges: subnets(&matches.destination_subnets),
                ..sni_match(&matches.sni_hosts)
            });
            chains.push(chain(inputs, service, port, filter_chain_match, target));
        }
    }
    chains
}

pub(crate) fn subnets(subnets: &[String]) -> Vec<CidrRange> {
    subnets
        .iter()
        .filter_map(|subnet| ServiceAddress::parse(subnet))
        .map(|range| wire::cidr(range.ip, range.prefix_len))
        .collect()
}

/// Where connections of a `tcp` route go, and which destinations it is for; none means all.
pub(crate) struct TcpTarget {
    pub(crate) prefix_ranges: Vec<CidrRange>,
    pub(crate) target: ClusterSpecifier,
}

/// The `tcp` routes for this port, place and client, up to the first that takes every connection. Of several by subnet, the
/// longest prefix counts rather than the first.
pub(crate) fn tcp_targets(
    inputs: &Inputs<'_>,
    routed: &MeshVirtualService,
    port: u16,
    at: At<'_>,
) -> Vec<TcpTarget> {
    let mut targets = Vec::new();
    for route in &routed.spec.tcp {
        let to = |prefix_ranges| TcpTarget {
            prefix_ranges,
            target: destinations(inputs, routed, &route.route, port),
        };
        if route.matches.is_empty() {
            targets.push(to(Vec::new()));
            return targets;
        }
        for matches in &route.matches {
            let client = Client::new(
                &matches.source_labels,
                &matches.source_namespace,
                &matches.gateways,
            );
            let of_port = matches.port.is_none_or(|number| number == u32::from(port));
            if of_port && client.is(inputs, at, routed.namespace()) {
                targets.push(to(subnets(&matches.destination_subnets)));
                if matches.destination_subnets.is_empty() {
                    return targets;
                }
            }
        }
    }
    targets
}

/// The conditions of a match that are known when it is generated.
pub(crate) struct Client<'a> {
    labels: &'a Labels,
    namespace: &'a str,
    gateways: &'a [String],
}

impl<'a> Client<'a> {
    pub(crate) fn new(labels: &'a Labels, namespace: &'a str, gateways: &'a [String]) -> Self {
        Self {
            labels,
            namespace,
            gateways,
        }
    }

    pub(crate) fn of_tls(matches: &'a TlsMatch) -> Self {
        Self::new(
            &matches.source_labels,
            &matches.source_namespace,
            &matches.gateways,
        )
    }

    /// Whether the proxy is such a client, at a place for which the object of `namespace` has its routes.
    pub(crate) fn is(&self, inputs: &Inputs<'_>, at: At<'_>, namespace: &str) -> bool {
        (self.labels.is_empty() || self.labels.selects(inputs.labels()))
            && (self.namespace.is_empty() || self.namespace == inputs.namespace())
            && at.is_among(self.gateways, namespace)
    }
}

pub(crate) fn destinations(
    inputs: &Inputs<'_>,
    routed: &MeshVirtualService,
    route: &[RouteDestination],
    port: u16,
) -> ClusterSpecifier {
    let name = |to: &RouteDestination| {
        routes::cluster_of(inputs, &to.destination, routed.namespace(), port)
    };
    match route {
        [only] => filters::to_cluster(&name(only)),
        many => ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: many
                .iter()
                .filter_map(|to| {
                    let weight = u32::try_from(to.weight).ok().filter(|weight| *weight > 0)?;
                    Some(tcp_proxy::weighted_cluster::ClusterWeight {
                        name: name(to),
                        weight,
                        metadata_match: None,
                    })
                })
                .collect(),
        }),
    }
}
