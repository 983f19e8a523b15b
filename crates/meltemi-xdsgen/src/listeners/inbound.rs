//! The inbound capture listener: chains per port by mutual TLS mode and protocol.

use std::collections::BTreeMap;

use meltemi_api::istio::{IngressListener, TlsMode};
use meltemi_core::names::{BLACKHOLE_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER, alpn, port as ports};
use meltemi_core::{ClusterName, Direction};
use meltemi_model::{Protocol, Service};
use meltemi_proto::envoy::config::core::v3::TrafficDirection;
use meltemi_proto::envoy::config::listener::v3::{
    FilterChain, FilterChainMatch, Listener, ListenerFilter,
};
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;

use super::{
    RAW, TLS, chain_match, cleartext_http, detection_timeout, http_inspector, on_ports,
    original_dst, tls_inspector,
};
use crate::authorization::Authorization;
use crate::inputs::Inputs;
use crate::{access_log, filters, routes, tls, wire};

/// The ALPN of HTTP over mutual TLS, as clients in the mesh offer it.
const MESH_HTTP: [&str; 3] = [alpn::ISTIO_HTTP10, alpn::ISTIO_HTTP11, alpn::ISTIO_H2];
/// The ALPN of other bytes over mutual TLS.
const MESH_TCP: [&str; 2] = [alpn::ISTIO_PEER_EXCHANGE, alpn::ISTIO];
/// Any of them: a mesh client, whatever it speaks.
const MESH: [&str; 5] = [
    alpn::ISTIO_PEER_EXCHANGE,
    alpn::ISTIO,
    alpn::ISTIO_HTTP10,
    alpn::ISTIO_HTTP11,
    alpn::ISTIO_H2,
];

/// What the server offers.
const OFFER_HTTP: [&str; 2] = [alpn::H2, alpn::HTTP11];
const OFFER_TCP: [&str; 3] = [alpn::ISTIO_PEER_EXCHANGE, alpn::H2, alpn::HTTP11];

/// A port of the workload that services point at.
pub(crate) struct InboundPort<'a> {
    pub(crate) target_port: u16,
    /// Of the first service by name; services that disagree share its chains.
    pub(crate) service_port: u16,
    pub(crate) protocol: Protocol,
    pub(crate) services: Vec<&'a Service>,
    /// What the workload's Sidecar says of the port.
    pub(crate) ingress: Option<&'a IngressListener>,
}

/// The workload's ports, by number: those that its Sidecar lists, else those behind services.
pub(crate) fn inbound_ports<'a>(inputs: &Inputs<'a>) -> Vec<InboundPort<'a>> {
    let mut served = served_ports(inputs);
    let captured = inputs.ingress().iter().filter_map(|listener| {
        let port = listener.port.as_ref()?;
        let protocol = Protocol::from_word(&port.protocol).unwrap_or(Protocol::Auto);
        let number = u16::try_from(port.number).ok()?;
        (protocol != Protocol::Udp).then_some((number, protocol, listener))
    });
    let mut captured = captured.peekable();
    if captured.peek().is_none() {
        return served.into_values().collect();
    }
    let listed = captured.map(|(number, protocol, listener)| {
        let own = served.remove(&number);
        InboundPort {
            target_port: number,
            service_port: own.as_ref().map_or(number, |own| own.service_port),
            protocol,
            services: own.map(|own| own.services).unwrap_or_default(),
            ingress: Some(listener),
        }
    });
    let mut listed: Vec<_> = listed.collect();
    listed.sort_by_key(|port| port.target_port);
    listed
}

/// The workload's ports behind all services, by target port.
fn served_ports<'a>(inputs: &Inputs<'a>) -> BTreeMap<u16, InboundPort<'a>> {
    let mut by_port: BTreeMap<u16, InboundPort<'a>> = BTreeMap::new();
    for (service, served) in inputs.own_services() {
        for (target_port, name) in served {
            let Some(port) = service.port_named(name) else {
                continue;
            };
            if port.protocol == Protocol::Udp {
                continue;
            }
            by_port
                .entry(target_port)
                .or_insert_with(|| InboundPort {
                    target_port,
                    service_port: port.number,
                    protocol: port.protocol,
                    services: Vec::new(),
                    ingress: None,
                })
                .services
                .push(service);
        }
    }
    by_port
}

/// One filter chain in the abstract.
struct Shape {
    transport: &'static str,
    application: Vec<&'static str>,
    /// Terminates mutual TLS.
    mutual: bool,
    http: bool,
}

/// The chains of a port, most specific first.
///
/// | mode       | sniffed | HTTP | TCP |
/// |------------|---------|------|-----|
/// | PERMISSIVE | 5       | 2    | 3   |
/// | STRICT     | 2       | 1    | 1   |
/// | DISABLE    | 3       | 1    | 1   |
fn shapes(inputs: &Inputs<'_>, mode: TlsMode, protocol: Protocol) -> Vec<Shape> {
    let shape = |transport, application: &[&'static str], mutual, http| Shape {
        transport,
        application: application.to_vec(),
        mutual,
        http,
    };
    let cleartext = cleartext_http(inputs);
    let (http, auto) = (protocol.is_http(), protocol.is_auto());
    match mode {
        TlsMode::Disable if auto => vec![
            shape(RAW, &cleartext, false, true),
            // Matching never goes back a stage, so each transport needs its own.
            shape(RAW, &[], false, false),
            shape(TLS, &[], false, false),
        ],
        TlsMode::Disable => vec![shape("", &[], false, http)],
        TlsMode::Strict if auto => vec![
            shape(TLS, &MESH_HTTP, true, true),
            shape(TLS, &[], true, false),
        ],
        TlsMode::Strict => vec![shape(TLS, &[], true, http)],
        TlsMode::Permissive | TlsMode::Unset if auto => vec![
            shape(TLS, &MESH_HTTP, true, true),
            shape(RAW, &cleartext, false, true),
            shape(TLS, &MESH_TCP, true, false),
            shape(RAW, &[], false, false),
            shape(TLS, &[], false, false),
        ],
        TlsMode::Permissive | TlsMode::Unset if http => {
            vec![shape(TLS, &MESH, true, true), shape(RAW, &[], false, true)]
        }
        TlsMode::Permissive | TlsMode::Unset => vec![
            shape(TLS, &MESH, true, false),
            shape(RAW, &[], false, false),
            shape(TLS, &[], false, false),
        ],
    }
}

/// Where the chains of one port, or of all others, lead.
struct Place<'a> {
    /// None: any port that has no chains of its own.
    port: Option<u16>,
    http_name: String,
    tcp_name: String,
    stat_prefix: String,
    cluster: String,
    served: Option<&'a InboundPort<'a>>,
}

impl<'a> Place<'a> {
    fn of_service(port: &'a InboundPort<'a>) -> Self {
        let name = format!("0.0.0.0_{}", port.target_port);
        Self {
            port: Some(port.target_port),
            http_name: name.clone(),
            tcp_name: name.clone(),
            stat_prefix: format!("inbound_{name};"),
            cluster: ClusterName::inbound(port.target_port).to_string(),
            served: Some(port),
        }
    }

    fn unlisted(port: Option<u16>) -> Self {
        Self {
            port,
            http_name: "virtualInbound-catchall-http".to_owned(),
            tcp_name: "virtualInbound".to_owned(),
            stat_prefix: INBOUND_PASSTHROUGH_CLUSTER.to_owned(),
            cluster: INBOUND_PASSTHROUGH_CLUSTER.to_owned(),
            served: None,
        }
    }

    fn chain(&self, inputs: &Inputs<'_>, guard: &Authorization, shape: &Shape) -> FilterChain {
        let matches = FilterChainMatch {
            destination_port: self.port.and_then(|port| wire::u32_value(port.into())),
            ..chain_match(shape.transport, &shape.application)
        };
        let offer: &[&str] = if shape.http { &OFFER_HTTP } else { &OFFER_TCP };
        FilterChain {
            name: if shape.http {
                self.http_name.clone()
            } else {
                self.tcp_name.clone()
            },
            filter_chain_match: (matches != FilterChainMatch::default()).then_some(matches),
            filters: self.filters(inputs, guard, shape.http),
            transport_socket: shape.mutual.then(|| tls::downstream_mutual(offer)),
            ..FilterChain::default()
        }
    }

    fn filters(
        &self,
        inputs: &Inputs<'_>,
        guard: &Authorization,
        http: bool,
    ) -> Vec<meltemi_proto::envoy::config::listener::v3::Filter> {
        if http {
            let config = routes::inbound(&self.cluster, self.served);
            let specifier = RouteSpecifier::RouteConfig(config);
            let direction = Direction::Inbound;
            filters::http_chain(inputs, direction, guard, &self.stat_prefix, specifier)
        } else {
            let target = filters::to_cluster(&self.cluster);
            filters::tcp_chain(inputs, Direction::Inbound, guard, &self.cluster, target)
        }
    }
}

pub(crate) fn virtual_inbound(inputs: &Inputs<'_>, served: &[InboundPort<'_>]) -> Listener {
    let modes = inputs.workload_tls(inputs.namespace(), inputs.labels());
    let guard = Authorization::of(inputs);
    let mut chains = vec![blackhole(inputs)];
    let mut add = |place: &Place<'_>, mode, protocol| {
        let shapes = shapes(inputs, mode, protocol);
        chains.extend(
            shapes
                .iter()
                .map(|shape| place.chain(inputs, &guard, shape)),
        );
    };
    add(&Place::unlisted(None), modes.default.mode, Protocol::Auto);
    for port in served {
        let mode = modes.of_port(port.target_port).mode;
        add(&Place::of_service(port), mode, port.protocol);
    }
    // Ports that a policy names although no service does.
    for (port, tls) in &modes.ports {
        if served.iter().all(|own| own.target_port != *port) {
            add(&Place::unlisted(Some(*port)), tls.mode, Protocol::Auto);
        }
    }
    let disabled: Vec<u16> = served
        .iter()
        .map(|port| port.target_port)
        .filter(|port| modes.of_port(*port).mode == TlsMode::Disable)
        .collect();
    let declared: Vec<u16> = served
        .iter()
        .filter(|port| !port.protocol.is_auto())
        .map(|port| port.target_port)
        .collect();
    Listener {
        name: "virtualInbound".to_owned(),
        address: Some(wire::address("0.0.0.0", ports::INBOUND)),
        filter_chains: chains,
        listener_filters: vec![
            original_dst(),
            ListenerFilter {
                filter_disabled: on_ports(&disabled),
                ..tls_inspector()
            },
            ListenerFilter {
                filter_disabled: on_ports(&declared),
                ..http_inspector()
            },
        ],
        listener_filters_timeout: Some(detection_timeout(inputs)),
        continue_on_listener_filters_timeout: true,
        traffic_direction: TrafficDirection::Inbound.into(),
        access_log: access_log::of_listener(inputs),
        ..Listener::default()
    }
}

/// Connections made to the capture port itself would loop.
fn blackhole(inputs: &Inputs<'_>) -> FilterChain {
    FilterChain {
        name: "virtualInbound-blackhole".to_owned(),
        filter_chain_match: Some(FilterChainMatch {
            destination_port: wire::u32_value(ports::INBOUND.into()),
            ..FilterChainMatch::default()
        }),
        filters: filters::tcp_chain(
            inputs,
            Direction::Inbound,
            Authorization::NONE,
            BLACKHOLE_CLUSTER,
            filters::to_cluster(BLACKHOLE_CLUSTER),
        ),
        ..FilterChain::default()
    }
}
