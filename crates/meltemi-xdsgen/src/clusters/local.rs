//! Clusters that every proxy has: passthrough, black hole, and those of its own workload.

use std::net::SocketAddr;

use meltemi_api::istio::{ConnectionPool, InboundTrafficPolicyMode};
use meltemi_core::ClusterName;
use meltemi_core::names::{
    BLACKHOLE_CLUSTER, INBOUND_PASSTHROUGH_CLUSTER, INBOUND_PASSTHROUGH_SOURCE, PASSTHROUGH_CLUSTER,
};
use meltemi_model::Protocol;
use meltemi_proto::envoy::config::cluster::v3::{Cluster, cluster};
use meltemi_proto::envoy::config::core::v3::BindConfig;
use meltemi_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;

use super::policy::{self, UpstreamHttp};
use super::services_value;
use crate::inputs::Inputs;
use crate::listeners::InboundPort;
use crate::{endpoints, wire};

/// `PassthroughCluster`, `BlackHoleCluster` and `InboundPassthroughCluster`.
pub(crate) fn standing(inputs: &Inputs<'_>) -> Vec<Cluster> {
    let mut passthrough = original_destination(inputs, PASSTHROUGH_CLUSTER, None);
    let sniffed = UpstreamHttp::new(Protocol::Auto, None);
    policy::speak(&sniffed, &mut passthrough);
    let mut inbound = original_destination(inputs, INBOUND_PASSTHROUGH_CLUSTER, None);
    inbound.upstream_bind_config = Some(passthrough_source());
    policy::speak(&sniffed, &mut inbound);
    vec![passthrough, black_hole(inputs), inbound]
}

/// A cluster without hosts, for what must not go anywhere.
pub(crate) fn black_hole(inputs: &Inputs<'_>) -> Cluster {
    let mut cluster = policy::base(inputs, BLACKHOLE_CLUSTER, None);
    cluster.circuit_breakers = None;
    cluster.common_lb_config = None;
    cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(
        cluster::DiscoveryType::Static.into(),
    ));
    cluster
}

fn original_destination(inputs: &Inputs<'_>, name: &str, pool: Option<&ConnectionPool>) -> Cluster {
    let mut cluster = policy::base(inputs, name, pool);
    cluster.common_lb_config = None;
    cluster.lb_policy = cluster::LbPolicy::ClusterProvided.into();
    cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(
        cluster::DiscoveryType::OriginalDst.into(),
    ));
    cluster
}

/// Connections to the own application carry this source, which the capture rules let through.
fn passthrough_source() -> BindConfig {
    BindConfig {
        source_address: Some(wire::socket_address(
            &INBOUND_PASSTHROUGH_SOURCE.to_string(),
            0,
        )),
        ..BindConfig::default()
    }
}

/// `inbound|<target port>||`: the application itself, at the address that a Sidecar says, or the client connected to, or at
/// 127.0.0.1 where the mesh says `inboundTrafficPolicy: LOCALHOST`. A Sidecar's connection pool acts here, the port's before
/// that of all ports. Without one, the pool of the port from the first service's rule does, and nothing else of that rule
/// (Istio, DestinationRule on the inbound path).
pub(crate) fn inbound(inputs: &Inputs<'_>, port: &InboundPort<'_>) -> Cluster {
    let name = ClusterName::inbound(port.target_port).to_string();
    let first = port.services.first();
    let rule = first.and_then(|service| inputs.inbound_rule(&service.hostname));
    let of_port = port.ingress.and_then(|own| own.connection_pool.as_ref());
    let pool = of_port
        .or_else(|| inputs.inbound_pool())
        .or_else(|| rule.and_then(|rule| rule.policy(port.service_port, None).connection_pool));
    let endpoint = port
        .ingress
        .and_then(|own| own.default_endpoint.parse().ok());
    let mut cluster = match inputs.config().inbound_traffic_policy.mode {
        _ if let Some(endpoint) = endpoint => given(inputs, &name, endpoint, pool),
        InboundTrafficPolicyMode::Passthrough => {
            let mut cluster = original_destination(inputs, &name, pool);
            cluster.upstream_bind_config = Some(passthrough_source());
            cluster
        }
        InboundTrafficPolicyMode::Localhost => {
            at(inputs, &name, "127.0.0.1", port.target_port, pool)
        }
    };
    policy::speak(&UpstreamHttp::new(port.protocol, pool), &mut cluster);
    cluster.metadata = Some(wire::metadata([(
        "istio",
        wire::strukt([("services", services_value(&port.services))]),
    )]));
    cluster
}

/// Of `0.0.0.0` or `::` it is the workload's own address, which is connected to as one that is passed through is: over IPv4
/// where it has such an address, for only that way the proxy's own connections are told from captured ones.
fn given(
    inputs: &Inputs<'_>,
    name: &str,
    endpoint: SocketAddr,
    pool: Option<&ConnectionPool>,
) -> Cluster {
    let ip = endpoint.ip();
    if !ip.is_unspecified() {
        return at(inputs, name, &ip.to_string(), endpoint.port(), pool);
    }
    let all = inputs.addresses();
    let own = all.iter().find(|own| own.is_ipv4()).or_else(|| all.first());
    let own = own.unwrap_or(&ip);
    let mut cluster = at(inputs, name, &own.to_string(), endpoint.port(), pool);
    cluster.upstream_bind_config = own.is_ipv4().then(passthrough_source);
    cluster
}

fn at(
    inputs: &Inputs<'_>,
    name: &str,
    host: &str,
    port: u16,
    pool: Option<&ConnectionPool>,
) -> Cluster {
    let mut cluster = policy::base(inputs, name, pool);
    cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(
        cluster::DiscoveryType::Static.into(),
    ));
    cluster.load_assignment = Some(ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: vec![endpoints::single(host, port)],
        ..ClusterLoadAssignment::default()
    });
    cluster
}
