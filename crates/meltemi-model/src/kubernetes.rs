//! Kubernetes objects as services, workloads and endpoints.

use std::net::IpAddr;

use meltemi_api::istio::MeshConfig;
use meltemi_api::k8s::{self, IntOrString};
use meltemi_api::pod::Pod;
use meltemi_api::{Meta, Object};
use meltemi_core::names::label;
use meltemi_core::{Hostname, Identity, Labels, Locality, TrustDomain};

use crate::{
    ExportTo, Health, Protocol, Resolution, Service, ServiceAddress, ServiceAlias, ServicePort,
    TargetPort, Workload, WorkloadPort,
};

/// Istio's per-service visibility annotation.
const EXPORT_TO: &str = "networking.istio.io/exportTo";
/// Istio's locality override on pods, dots for slashes.
const LOCALITY: &str = "istio-locality";
/// Istio's third part of a place.
pub const TOPOLOGY_SUBZONE: &str = "topology.istio.io/subzone";

/// A Service of type `ExternalName`, with the host that it stands for.
pub(crate) fn alias(
    object: &Object,
    service: &k8s::Service,
    domain: &str,
) -> Option<(ServiceAlias, Hostname)> {
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() != Some("ExternalName") {
        return None;
    }
    let target = spec.external_name.as_deref()?.trim_end_matches('.');
    let Meta {
        name, namespace, ..
    } = &object.meta;
    let alias = ServiceAlias {
        hostname: Hostname::new(&format!("{name}.{namespace}.svc.{domain}")).ok()?,
        name: name.clone(),
        namespace: namespace.clone(),
    };
    Some((alias, Hostname::new(target).ok()?))
}

/// The mesh's view of a Service; none for `ExternalName`, which is an [`alias`].
pub(crate) fn service(
    object: &Object,
    service: &k8s::Service,
    config: &MeshConfig,
    domain: &str,
) -> Option<Service> {
    let Meta {
        name, namespace, ..
    } = &object.meta;
    let spec = service.spec.as_ref()?;
    if spec.type_.as_deref() == Some("ExternalName") {
        return None;
    }
    let hostname = Hostname::new(&format!("{name}.{namespace}.svc.{domain}")).ok()?;
    let addresses: Vec<_> = spec
        .cluster_ips
        .iter()
        .flatten()
        .chain(
            spec.cluster_ip
                .iter()
                .filter(|_| spec.cluster_ips.is_none()),
        )
        .filter_map(|ip| ip.parse().ok().map(ServiceAddress::single))
        .collect();
    let headless = spec.cluster_ip.as_deref() == Some("None");
    let export_to: Vec<String> = object
        .meta
        .annotation(EXPORT_TO)
        .unwrap_or_default()
        .split(',')
        .map(|value| value.trim().to_owned())
        .filter(|value| !value.is_empty())
        .collect();
    Some(Service {
        hostname,
        name: name.clone(),
        namespace: namespace.clone(),
        origin: object.reference(),
        addresses,
        ports: service_ports(service),
        resolution: if headless {
            Resolution::Passthrough
        } else {
            Resolution::Endpoints
        },
        mesh_external: false,
        export_to: ExportTo::new(&export_to, &config.default_service_export_to, namespace),
        selector: spec.selector.clone().unwrap_or_default().into(),
        aliases: Vec::new(),
        subject_alt_names: Vec::new(),
    })
}

fn service_ports(service: &k8s::Service) -> Vec<ServicePort> {
    let ports = service
        .spec
        .iter()
        .flat_map(|spec| spec.ports.iter().flatten());
    ports
        .filter_map(|port| {
            let number = u16::try_from(port.port).ok()?;
            let name = port.name.clone().unwrap_or_default();
            let protocol = Protocol::of_port(
                port.app_protocol.as_deref(),
                &name,
                port.protocol.as_deref().unwrap_or("TCP"),
                number,
            );
            Some(ServicePort {
                name,
                number,
                target_port: target_port(port.target_port.as_ref(), number)?,
                protocol,
            })
        })
        .collect()
}

/// A number, a number written as text, or the name of a container port; absent, the service port itself.
fn target_port(written: Option<&IntOrString>, service_port: u16) -> Option<TargetPort> {
    Some(match written {
        None => TargetPort::Number(service_port),
        Some(IntOrString::Int(number)) => TargetPort::Number(u16::try_from(*number).ok()?),
        Some(IntOrString::String(text)) => match text.parse() {
            Ok(number) => TargetPort::Number(number),
            Err(_) => TargetPort::Name(text.clone()),
        },
    })
}

/// A Pod that runs or will run; none once it has ended or before it has an address.
pub(crate) fn workload(
    object: &Object,
    pod: &Pod,
    node: Option<&Labels>,
    trust_domain: &TrustDomain,
) -> Option<Workload> {
    let status = pod.status.as_ref()?;
    if status.is_over || status.addresses.is_empty() {
        return None;
    }
    let Meta {
        name,
        namespace,
        labels,
        ..
    } = &object.meta;
    let service_account = pod.service_account.as_deref().unwrap_or("default");
    let ports = pod.ports.iter().map(|port| WorkloadPort {
        name: port.name.clone(),
        number: port.number,
        transport: port.protocol.clone(),
    });
    Some(Workload {
        name: name.clone(),
        namespace: namespace.clone(),
        origin: object.reference(),
        addresses: status.addresses.to_vec(),
        labels: labels.clone(),
        identity: Identity::new(trust_domain.clone(), namespace, service_account).ok(),
        service_account: service_account.to_owned(),
        locality: pod_locality(labels, node),
        node: pod.node.clone().unwrap_or_default(),
        ready: status.is_ready,
        workload_name: owner_name(object, pod),
        ports: ports.collect(),
    })
}

/// `istio-locality`, else the topology labels of the pod, which newer Kubernetes copies from its node, else the node's.
fn pod_locality(labels: &Labels, node: Option<&Labels>) -> Locality {
    if let Some(locality) = labels.get(LOCALITY) {
        return Locality::from(locality.replace('.', "/").as_str());
    }
    let part = |key| {
        let of_pod = labels.get(key);
        let part = of_pod.or_else(|| node.and_then(|node| node.get(key)));
        part.unwrap_or_default().to_owned()
    };
    Locality {
        region: part(label::TOPOLOGY_REGION),
        zone: part(label::TOPOLOGY_ZONE),
        sub_zone: part(TOPOLOGY_SUBZONE),
    }
}

/// The controller's name; a ReplicaSet's stands for its Deployment's, without the template hash.
fn owner_name(object: &Object, pod: &Pod) -> String {
    let Some(owner) = &pod.controller else {
        return object.meta.name.clone();
    };
    let hash = object.meta.labels.get("pod-template-hash");
    match (owner.kind.as_str(), hash) {
        ("ReplicaSet", Some(hash)) => owner
            .name
            .strip_suffix(hash)
            .and_then(|name| name.strip_suffix('-'))
            .unwrap_or(&owner.name)
            .to_owned(),
        _ => owner.name.clone(),
    }
}

/// One address and port of an EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SliceEndpoint {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) port_name: String,
    pub(crate) health: Health,
    pub(crate) zone: Option<String>,
    /// The pod's name, in the slice's namespace.
    pub(crate) pod: Option<String>,
}

pub(crate) fn slice_endpoints(slice: &k8s::EndpointSlice) -> Vec<SliceEndpoint> {
    let mut out = Vec::new();
    for endpoint in slice.endpoints.iter().flatten() {
        let conditions = endpoint.conditions.as_ref();
        let terminating = conditions.and_then(|c| c.terminating).unwrap_or(false);
        let ready = conditions.and_then(|c| c.ready).unwrap_or(true);
        let health = match (ready, terminating) {
            (true, _) => Health::Ready,
            (false, true) => Health::Terminating,
            (false, false) => Health::NotReady,
        };
        let pod = endpoint
            .target_ref
            .as_ref()
            .filter(|target| target.kind.as_deref() == Some("Pod"))
            .and_then(|target| target.name.clone());
        // A slice's address list holds one address in practice; the others are alternatives for the same endpoint.
        let address = endpoint.addresses.first().and_then(|ip| ip.parse().ok());
        let Some(address) = address else { continue };
        for port in slice.ports.iter().flatten() {
            let number = port.port.and_then(|number| u16::try_from(number).ok());
            let Some(number) = number else { continue };
            out.push(SliceEndpoint {
                address,
                port: number,
                port_name: port.name.clone().unwrap_or_default(),
                health,
                zone: endpoint.zone.clone(),
                pod: pod.clone(),
            });
        }
    }
    out
}
