//! Load assignments: the endpoints of a cluster by locality, with their transport socket.

mod locality;

use std::collections::{BTreeMap, BTreeSet};

use meltemi_api::istio::{ClientTlsMode, TlsMode};
use meltemi_core::Locality;
use meltemi_model::{Endpoint, EndpointAddress, Health};
use meltemi_proto::envoy::config::core::v3::{HealthStatus, Locality as WireLocality, Metadata};
use meltemi_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint as WireEndpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};

pub(crate) use locality::Preference;

use crate::clusters::{Target, auto_mtls};
use crate::inputs::Inputs;
use crate::wire;

pub(crate) fn assignment(inputs: &Inputs<'_>, target: &Target<'_>) -> ClusterLoadAssignment {
    let preference = Preference::of(inputs, target);
    let mut groups: BTreeMap<(u32, &Locality), Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in of_target(inputs, target) {
        if let Some(health) = health(target, endpoint) {
            let rank = preference.rank(inputs, endpoint);
            let group = groups.entry((rank, &endpoint.locality)).or_default();
            group.push(lb_endpoint(inputs, target, endpoint, health));
        }
    }
    // Priorities leave out no number (Envoy, "Priority levels").
    let ranks: BTreeSet<u32> = groups.keys().map(|(rank, _)| *rank).collect();
    let priorities: BTreeMap<u32, u32> = ranks.into_iter().zip(0..).collect();
    let mut endpoints: Vec<LocalityLbEndpoints> = groups
        .into_iter()
        .map(|((rank, locality), endpoints)| LocalityLbEndpoints {
            priority: priorities[&rank],
            ..group(locality, endpoints)
        })
        .collect();
    preference.distribute(&mut endpoints);
    ClusterLoadAssignment {
        cluster_name: target.name().to_string(),
        endpoints,
        ..ClusterLoadAssignment::default()
    }
}

/// The endpoints of the target's port and subset.
fn of_target<'a>(
    inputs: &Inputs<'a>,
    target: &'a Target<'_>,
) -> impl Iterator<Item = &'a Endpoint> {
    let subset = target.rule.and_then(|rule| rule.subset(target.subset));
    let all = inputs.endpoints(&target.service.hostname);
    all.into_iter()
        .flat_map(|all| all.of_port(&target.port.name))
        .filter(move |endpoint| subset.is_none_or(|subset| subset.labels.selects(&endpoint.labels)))
}

/// Endpoints that are not ready are told of, as unhealthy, only where the panic threshold is off: elsewhere a cluster
/// whose hosts are all unready would be sent traffic in panic. Those going away are left out.
fn health(target: &Target<'_>, endpoint: &Endpoint) -> Option<HealthStatus> {
    match endpoint.health {
        Health::Ready => Some(HealthStatus::Healthy),
        Health::Terminating => None,
        Health::NotReady => {
            let outlier = target.policy().outlier_detection?;
            (outlier.min_health_percent.unwrap_or_default() == 0).then_some(HealthStatus::Unhealthy)
        }
    }
}

fn group(locality: &Locality, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    let weights = lb_endpoints.iter().map(|endpoint| {
        endpoint
            .load_balancing_weight
            .map_or(1, |weight| weight.value)
    });
    let total = weights.fold(0_u32, u32::saturating_add);
    LocalityLbEndpoints {
        locality: Some(WireLocality {
            region: locality.region.clone(),
            zone: locality.zone.clone(),
            sub_zone: locality.sub_zone.clone(),
        }),
        load_balancing_weight: wire::u32_value(total),
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(
    inputs: &Inputs<'_>,
    target: &Target<'_>,
    endpoint: &Endpoint,
    health: HealthStatus,
) -> LbEndpoint {
    // The name of an endpoint that is resolved is also its host, for whom rewrites to it and checks of it ask.
    let (host, hostname) = match &endpoint.address {
        EndpointAddress::Ip(ip) => (ip.to_string(), String::new()),
        EndpointAddress::Name(name) => (name.to_string(), name.to_string()),
    };
    LbEndpoint {
        health_status: match health {
            // The default, so that healthy endpoints cost no bytes.
            HealthStatus::Healthy => HealthStatus::Unknown.into(),
            other => other.into(),
        },
        metadata: metadata(inputs, endpoint, uses_mtls(inputs, target, endpoint)),
        load_balancing_weight: wire::u32_value(endpoint.weight.max(1)),
        host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(WireEndpoint {
            address: Some(wire::address(&host, endpoint.port)),
            hostname,
            ..WireEndpoint::default()
        })),
    }
}

/// The transport socket match, and who the endpoint is: `name;namespace;canonical name;canonical revision;cluster`.
fn metadata(inputs: &Inputs<'_>, endpoint: &Endpoint, mtls: bool) -> Option<Metadata> {
    let mut parts = Vec::new();
    if mtls {
        parts.push((
            "envoy.transport_socket_match",
            wire::strukt([("tlsMode", wire::text("istio"))]),
        ));
    }
    if let Some(workload) = &endpoint.workload {
        let text = format!(
            "{};{};{};{};{}",
            workload.workload_name,
            workload.namespace,
            workload.canonical_name(),
            workload.canonical_revision(),
            inputs.cluster_id(),
        );
        parts.push(("istio", wire::strukt([("workload", wire::text(&text))])));
    }
    (!parts.is_empty()).then(|| wire::metadata(parts))
}

/// Whether a client uses mutual TLS to an endpoint: as the DestinationRule says; without its word, where a sidecar
/// terminates it and the PeerAuthentication of that workload and port is not DISABLE.
pub(crate) fn uses_mtls(inputs: &Inputs<'_>, target: &Target<'_>, endpoint: &Endpoint) -> bool {
    if let Some(settings) = target.policy().tls {
        return settings.mode == ClientTlsMode::IstioMutual;
    }
    endpoint.accepts_mtls
        && auto_mtls(inputs, target.service)
        && inputs
            .workload_tls(&endpoint.namespace, &endpoint.labels)
            .of_port(endpoint.port)
            .mode
            != TlsMode::Disable
}

/// For clusters whose hosts are not known one by one: mutual TLS for all or for none.
pub(crate) fn all_accept_mtls(inputs: &Inputs<'_>, target: &Target<'_>) -> bool {
    let mut endpoints = of_target(inputs, target).peekable();
    endpoints.peek().is_some() && endpoints.all(|endpoint| uses_mtls(inputs, target, endpoint))
}

/// One address without a locality.
pub(crate) fn single(host: &str, port: u16) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        lb_endpoints: vec![LbEndpoint {
            host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(WireEndpoint {
                address: Some(wire::address(host, port)),
                ..WireEndpoint::default()
            })),
            ..LbEndpoint::default()
        }],
        ..LocalityLbEndpoints::default()
    }
}
