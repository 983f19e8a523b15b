//! ServiceEntries and WorkloadEntries as services, workloads and endpoints.

use std::net::IpAddr;

use meltemi_api::istio::{self, MeshConfig};
use meltemi_api::{Meta, Object};
use meltemi_core::names::label;
use meltemi_core::{Hostname, Identity, Labels, Locality, TrustDomain};

use crate::{
    Endpoint, EndpointAddress, ExportTo, Health, Protocol, Resolution, Service, ServiceAddress,
    ServicePort, TargetPort, Workload, WorkloadPort,
};

/// One service per host of the entry.
pub(crate) fn services(
    object: &Object,
    entry: &istio::ServiceEntry,
    config: &MeshConfig,
) -> Vec<Service> {
    let Meta {
        name, namespace, ..
    } = &object.meta;
    let ports: Vec<_> = entry.ports.iter().filter_map(service_port).collect();
    let addresses: Vec<_> = entry
        .addresses
        .iter()
        .filter_map(|address| ServiceAddress::parse(address))
        .collect();
    entry
        .hosts
        .iter()
        .filter_map(|host| Hostname::new(host).ok())
        .map(|hostname| Service {
            hostname,
            name: name.clone(),
            namespace: namespace.clone(),
            origin: object.reference(),
            addresses: addresses.clone(),
            ports: ports.clone(),
            resolution: resolution(entry.resolution),
            mesh_external: entry.location == istio::Location::MeshExternal,
            export_to: ExportTo::new(
                &entry.export_to,
                &config.default_service_export_to,
                namespace,
            ),
            selector: Labels::default(),
            aliases: Vec::new(),
            subject_alt_names: entry.subject_alt_names.clone(),
        })
        .collect()
}

/// `DYNAMIC_DNS` is refused by validation; until it is supported it resolves nothing by itself.
fn resolution(resolution: istio::Resolution) -> Resolution {
    match resolution {
        istio::Resolution::None | istio::Resolution::DynamicDns => Resolution::Passthrough,
        istio::Resolution::Static => Resolution::Endpoints,
        istio::Resolution::Dns => Resolution::StrictDns,
        istio::Resolution::DnsRoundRobin => Resolution::LogicalDns,
    }
}

fn service_port(port: &istio::ServicePort) -> Option<ServicePort> {
    let number = u16::try_from(port.number).ok()?;
    let target = port.target_port.map_or(Ok(number), u16::try_from).ok()?;
    let protocol = Protocol::from_word(&port.protocol)
        .unwrap_or_else(|| Protocol::of_port(None, &port.name, "TCP", number));
    Some(ServicePort {
        name: port.name.clone(),
        number,
        target_port: TargetPort::Number(target),
        protocol,
    })
}

/// A WorkloadEntry of its own, if it has an IP; names are only reached through a ServiceEntry.
pub(crate) fn workload(
    object: &Object,
    entry: &istio::WorkloadEntry,
    trust_domain: &TrustDomain,
) -> Option<Workload> {
    let address: IpAddr = entry.address.parse().ok()?;
    let namespace = &object.meta.namespace;
    Some(Workload {
        name: object.meta.name.clone(),
        namespace: namespace.clone(),
        origin: object.reference(),
        addresses: vec![address],
        labels: workload_entry_labels(object, entry),
        service_account: entry.service_account.clone(),
        identity: identity(entry, namespace, trust_domain),
        locality: Locality::from(entry.locality.as_str()),
        node: String::new(),
        ready: true,
        workload_name: object.meta.name.clone(),
        ports: entry
            .ports
            .iter()
            .filter_map(|(name, number)| {
                Some(WorkloadPort {
                    name: name.clone(),
                    number: u16::try_from(*number).ok()?,
                    transport: "TCP".to_owned(),
                })
            })
            .collect(),
    })
}

fn identity(
    entry: &istio::WorkloadEntry,
    namespace: &str,
    trust_domain: &TrustDomain,
) -> Option<Identity> {
    Identity::new(trust_domain.clone(), namespace, &entry.service_account).ok()
}

/// The endpoints written into a ServiceEntry. `DNS` without any resolves the host itself.
pub(crate) fn inline_endpoints(
    service: &Service,
    entry: &istio::ServiceEntry,
    trust_domain: &TrustDomain,
) -> Vec<Endpoint> {
    let dns = matches!(
        service.resolution,
        Resolution::StrictDns | Resolution::LogicalDns
    );
    let own_name;
    let entries = if entry.endpoints.is_empty() && dns && entry.workload_selector.is_none() {
        own_name = [istio::WorkloadEntry {
            address: service.hostname.to_string(),
            ..istio::WorkloadEntry::default()
        }];
        &own_name[..]
    } else {
        &entry.endpoints[..]
    };
    let mut out = Vec::new();
    for given in entries {
        let Some(address) = endpoint_address(&given.address) else {
            continue;
        };
        for port in &service.ports {
            out.push(Endpoint {
                address: address.clone(),
                port: entry_port(given, port),
                service_port: port.name.clone(),
                namespace: service.namespace.clone(),
                labels: given.labels.clone(),
                identity: identity(given, &service.namespace, trust_domain),
                accepts_mtls: accepts_mtls(&given.labels, &given.service_account),
                locality: Locality::from(given.locality.as_str()),
                weight: given.weight.unwrap_or_default(),
                health: Health::Ready,
                workload: None,
            });
        }
    }
    out
}

fn endpoint_address(text: &str) -> Option<EndpointAddress> {
    match text.parse() {
        Ok(ip) => Some(EndpointAddress::Ip(ip)),
        Err(_) => Hostname::new(text).ok().map(EndpointAddress::Name),
    }
}

/// Whether a sidecar terminates mTLS at a WorkloadEntry: as its label says, else where it has a service account, which
/// only somebody with a certificate needs (Istio, `getTLSModeFromWorkloadEntry`).
pub(crate) fn accepts_mtls(labels: &Labels, service_account: &str) -> bool {
    match labels.get(label::TLS_MODE) {
        Some(mode) => mode == "istio",
        None => !service_account.is_empty(),
    }
}

/// The labels of a WorkloadEntry: those of its spec and of its metadata, which win (Istio, `convertWorkloadEntry`).
pub(crate) fn workload_entry_labels(object: &Object, entry: &istio::WorkloadEntry) -> Labels {
    let of_metadata = object.meta.labels.iter();
    entry.labels.iter().chain(of_metadata).collect()
}

/// The entry's own port of that name, else the target port.
fn entry_port(entry: &istio::WorkloadEntry, port: &ServicePort) -> u16 {
    let own = entry.ports.get(&port.name).copied();
    own.and_then(|number| u16::try_from(number).ok())
        .unwrap_or(match port.target_port {
            TargetPort::Number(number) => number,
            TargetPort::Name(_) => port.number,
        })
}

/// The endpoints that a workload gives to a service that selects it.
pub(crate) fn selected_endpoints(
    service: &Service,
    workload: &std::sync::Arc<Workload>,
) -> Vec<Endpoint> {
    let Some(address) = workload.addresses.first() else {
        return Vec::new();
    };
    service
        .ports
        .iter()
        .filter_map(|port| {
            let number = match &port.target_port {
                // A WorkloadEntry may give the port of that name another number.
                TargetPort::Number(number) => workload
                    .port_named(&port.name)
                    .filter(|_| workload.origin.kind == "WorkloadEntry" && !port.name.is_empty())
                    .unwrap_or(*number),
                TargetPort::Name(name) => workload.port_named(name)?,
            };
            Some(of_workload(workload, *address, number, &port.name))
        })
        .collect()
}

pub(crate) fn of_workload(
    workload: &std::sync::Arc<Workload>,
    address: IpAddr,
    port: u16,
    service_port: &str,
) -> Endpoint {
    Endpoint {
        address: EndpointAddress::Ip(address),
        port,
        service_port: service_port.to_owned(),
        namespace: workload.namespace.clone(),
        labels: workload.labels.clone(),
        identity: workload.identity.clone(),
        accepts_mtls: workload.accepts_mtls(),
        locality: workload.locality.clone(),
        weight: 0,
        health: if workload.ready {
            Health::Ready
        } else {
            Health::NotReady
        },
        workload: Some(std::sync::Arc::clone(workload)),
    }
}
