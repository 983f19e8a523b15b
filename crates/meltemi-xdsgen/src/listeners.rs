//! Listeners: where captured connections go, by original destination.

mod inbound;
mod outbound;
pub(crate) mod tcp_route;

use std::time::Duration;

use meltemi_proto::envoy::config::listener::v3::{
    FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
    listener_filter, listener_filter_chain_match_predicate as predicate,
};
use meltemi_proto::envoy::r#type::v3::Int32Range;
use meltemi_proto::type_url;

pub(crate) use inbound::{InboundPort, inbound_ports, virtual_inbound};
pub(crate) use outbound::{on_port, serves_http, virtual_outbound};

use crate::inputs::Inputs;
use crate::wire;

const TLS: &str = "tls";
const RAW: &str = "raw_buffer";

/// How long the first bytes of a connection are waited for.
///
/// Differs from Istio: its zero waits for ever, so that a protocol in which the server speaks first hangs on a port that
/// is sniffed. We go on as TCP after this time. `protocolDetectionTimeout` overrides it.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(5);

fn detection_timeout(inputs: &Inputs<'_>) -> meltemi_proto::google::protobuf::Duration {
    let configured = inputs.config().protocol_detection_timeout;
    let timeout = configured.filter(|timeout| !timeout.is_zero());
    wire::duration(timeout.unwrap_or(DETECTION_TIMEOUT))
}

/// What cleartext HTTP is detected as.
fn cleartext_http(inputs: &Inputs<'_>) -> Vec<&'static str> {
    use meltemi_core::names::alpn;
    let mut names = vec![alpn::HTTP11, alpn::H2C];
    if inputs.http10() {
        names.insert(0, alpn::HTTP10);
    }
    names
}

fn chain_match(transport_protocol: &str, application_protocols: &[&str]) -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: transport_protocol.to_owned(),
        application_protocols: application_protocols
            .iter()
            .map(|&name| name.to_owned())
            .collect(),
        ..FilterChainMatch::default()
    }
}

fn listener_filter(name: &str, type_url: &str) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        filter_disabled: None,
        config_type: Some(listener_filter::ConfigType::TypedConfig(wire::empty_any(
            type_url,
        ))),
    }
}

fn original_dst() -> ListenerFilter {
    listener_filter(
        "envoy.filters.listener.original_dst",
        type_url::ORIGINAL_DST,
    )
}

pub(crate) fn tls_inspector() -> ListenerFilter {
    listener_filter(
        "envoy.filters.listener.tls_inspector",
        type_url::TLS_INSPECTOR,
    )
}

fn http_inspector() -> ListenerFilter {
    listener_filter(
        "envoy.filters.listener.http_inspector",
        type_url::HTTP_INSPECTOR,
    )
}

/// A predicate that holds on the given ports; none for no ports.
fn on_ports(ports: &[u16]) -> Option<ListenerFilterChainMatchPredicate> {
    let one = |port: &u16| ListenerFilterChainMatchPredicate {
        rule: Some(predicate::Rule::DestinationPortRange(Int32Range {
            start: i32::from(*port),
            end: i32::from(*port) + 1,
        })),
    };
    match ports {
        [] => None,
        [port] => Some(one(port)),
        many => Some(ListenerFilterChainMatchPredicate {
            rule: Some(predicate::Rule::OrMatch(predicate::MatchSet {
                rules: many.iter().map(one).collect(),
            })),
        }),
    }
}

/// A listener that is found by original destination and binds nothing itself.
fn unbound(name: &str, ip: &str, port: u16, filter_chains: Vec<FilterChain>) -> Listener {
    use meltemi_proto::envoy::config::core::v3::TrafficDirection;
    Listener {
        name: name.to_owned(),
        address: Some(wire::address(ip, port)),
        filter_chains,
        bind_to_port: wire::bool_value(false),
        traffic_direction: TrafficDirection::Outbound.into(),
        continue_on_listener_filters_timeout: true,
        ..Listener::default()
    }
}
