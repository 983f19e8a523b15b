use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use meltemi_core::Locality;
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::config::endpoint::v3 as proto;

use super::Scope;
use super::common::{fraction, host_and_port, metadata_text, number, struct_to_json};
use crate::runtime::{
    ClusterLoadAssignment, DropOverload, Endpoint, EndpointAddress, Health, LocalityEndpoints,
    WorkloadMetadata,
};

/// Envoy's default: 140 percent.
const OVERPROVISIONING_PERCENT: u32 = 140;

pub(super) fn cluster_load_assignment(
    scope: &Scope<'_>,
    mut assignment: proto::ClusterLoadAssignment,
) -> Option<ClusterLoadAssignment> {
    let cluster_name: Arc<str> = take(&mut assignment.cluster_name).into();
    let mut policy = assignment.policy.take().unwrap_or_default();
    let drop_overloads = scope.at("policy").each(
        "drop_overloads",
        take(&mut policy.drop_overloads),
        drop_overload,
    );
    let overprovisioning_factor_percent =
        number(policy.overprovisioning_factor.take()).unwrap_or(OVERPROVISIONING_PERCENT);
    scope.at("policy").rest(&policy);
    let localities = scope.each(
        "endpoints",
        take(&mut assignment.endpoints),
        locality_endpoints,
    );
    scope.rest(&assignment);
    Some(ClusterLoadAssignment {
        cluster_name,
        localities,
        overprovisioning_factor_percent,
        drop_overloads,
    })
}

fn drop_overload(
    scope: &Scope<'_>,
    value: proto::cluster_load_assignment::policy::DropOverload,
) -> Option<DropOverload> {
    let Some(share) = value.drop_percentage else {
        return scope.at("drop_percentage").refuse("is required");
    };
    Some(DropOverload {
        category: value.category.into(),
        share: fraction(&scope.at("drop_percentage"), share)?,
    })
}

fn locality_endpoints(
    scope: &Scope<'_>,
    mut group: proto::LocalityLbEndpoints,
) -> Option<LocalityEndpoints> {
    let locality = group.locality.take().unwrap_or_default();
    let locality = Arc::new(Locality {
        region: locality.region,
        zone: locality.zone,
        sub_zone: locality.sub_zone,
    });
    let weight = number(group.load_balancing_weight.take());
    let priority = take(&mut group.priority);
    let endpoints = scope.each(
        "lb_endpoints",
        take(&mut group.lb_endpoints),
        |scope, endpoint| self::endpoint(scope, endpoint, &locality, priority).map(Arc::new),
    );
    scope.rest(&group);
    Some(LocalityEndpoints {
        locality,
        weight,
        priority,
        endpoints,
    })
}

fn endpoint(
    scope: &Scope<'_>,
    mut value: proto::LbEndpoint,
    locality: &Arc<Locality>,
    priority: u32,
) -> Option<Endpoint> {
    let health = match core::HealthStatus::try_from(take(&mut value.health_status)) {
        Ok(core::HealthStatus::Unknown | core::HealthStatus::Healthy) => Health::Healthy,
        Ok(core::HealthStatus::Degraded) => Health::Degraded,
        Ok(core::HealthStatus::Unhealthy | core::HealthStatus::Timeout) => Health::Unhealthy,
        Ok(core::HealthStatus::Draining) => Health::Draining,
        Err(_) => return scope.at("health_status").refuse("is unknown"),
    };
    let metadata = value.metadata.take().unwrap_or_default();
    let weight = number(value.load_balancing_weight.take())
        .unwrap_or(1)
        .max(1);
    let Some(proto::lb_endpoint::HostIdentifier::Endpoint(mut endpoint)) =
        value.host_identifier.take()
    else {
        return scope.at("endpoint").refuse("is required");
    };
    scope.rest(&value);
    let scope = scope.at("endpoint");
    let address = endpoint_address(&scope.at("address"), endpoint.address.take())?;
    let hostname = take(&mut endpoint.hostname).into();
    // Health checks are not ours to make when the control plane tells health; the port for them is of no use then.
    endpoint.health_check_config = None;
    scope.rest(&endpoint);
    Some(Endpoint {
        address,
        hostname,
        health,
        weight,
        transport_socket_match: transport_socket_match(&metadata),
        workload: workload(&metadata).map(Arc::new),
        hash_key: metadata_text(&metadata, "envoy.lb", "hash_key").map(Into::into),
        locality: Arc::clone(locality),
        priority,
    })
}

fn endpoint_address(scope: &Scope<'_>, address: Option<core::Address>) -> Option<EndpointAddress> {
    let Some(core::address::Address::SocketAddress(address)) = address.and_then(|a| a.address)
    else {
        return scope.refuse("only socket addresses are supported");
    };
    let (host, port) = host_and_port(&scope.at("socket_address"), address)?;
    Some(match host.parse::<IpAddr>() {
        Ok(ip) => EndpointAddress::Socket(SocketAddr::new(ip, port)),
        Err(_) => EndpointAddress::Dns {
            host: host.into(),
            port,
        },
    })
}

fn transport_socket_match(metadata: &core::Metadata) -> Arc<[(Arc<str>, Arc<str>)]> {
    let Some(fields) = metadata.filter_metadata.get("envoy.transport_socket_match") else {
        return Arc::new([]);
    };
    string_pairs(struct_to_json(fields.clone())).into()
}

/// The fields of a struct that are strings, by key.
pub(super) fn string_pairs(value: serde_json::Value) -> Vec<(Arc<str>, Arc<str>)> {
    let serde_json::Value::Object(fields) = value else {
        return Vec::new();
    };
    let pairs = fields
        .iter()
        .filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into())));
    pairs.collect()
}

/// Istio's `istio.workload`: `name;namespace;canonical name;canonical revision;cluster`.
fn workload(metadata: &core::Metadata) -> Option<WorkloadMetadata> {
    let text = metadata_text(metadata, "istio", "workload")?;
    let mut parts = text.split(';').map(Arc::from);
    let mut next = || parts.next().unwrap_or_default();
    Some(WorkloadMetadata {
        workload: next(),
        namespace: next(),
        canonical_name: next(),
        canonical_revision: next(),
        cluster_id: next(),
    })
}
