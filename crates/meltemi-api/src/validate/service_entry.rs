use std::net::IpAddr;

use meltemi_core::FieldPath;

use super::{Check, is_dns_label, repeated};
use crate::istio::{Resolution, ServiceEntry, ServicePort, WorkloadEntry};

/// Protocols of Istio's port naming convention, lower-cased.
pub(super) const PROTOCOLS: &[&str] = &[
    "grpc", "grpc-web", "http", "http2", "https", "mongo", "mysql", "redis", "tcp", "tls", "udp",
    "hbone",
];

pub(super) fn check(entry: &ServiceEntry, spec: &FieldPath, check: &mut Check<'_>) {
    let hosts = spec.field("hosts");
    if entry.hosts.is_empty() {
        check.error(&hosts, "at least one host is required");
    }
    for (index, host) in entry.hosts.iter().enumerate() {
        check.host(&hosts.index(index), host);
        if host == "*" {
            check.error(&hosts.index(index), "the host \"*\" is not allowed");
        }
    }
    check.export_to(&spec.field("exportTo"), &entry.export_to);
    check_ports(&entry.ports, &spec.field("ports"), check);
    check_addresses(entry, &spec.field("addresses"), check);
    check_resolution(entry, spec, check);
    for (index, endpoint) in entry.endpoints.iter().enumerate() {
        let path = spec.field("endpoints").index(index);
        check_workload(endpoint, &path, check);
        if entry.resolution == Resolution::Static && !is_ip_or_socket(&endpoint.address) {
            check.error(
                &path.field("address"),
                "with resolution STATIC an address is an IP",
            );
        }
    }
    if let Some(selector) = &entry.workload_selector {
        let field = spec.field("workloadSelector").field("labels");
        check.selector(&field, &selector.labels);
    }
}

fn check_ports(ports: &[ServicePort], path: &FieldPath, check: &mut Check<'_>) {
    for (index, port) in ports.iter().enumerate() {
        let path = path.index(index);
        check.port(&path.field("number"), port.number);
        if let Some(target) = port.target_port {
            check.port(&path.field("targetPort"), target);
        }
        if !is_dns_label(&port.name) {
            check.error(
                &path.field("name"),
                "a port needs a name of lower-case letters, digits and dashes",
            );
        }
        let protocol = port.protocol.to_ascii_lowercase();
        if !protocol.is_empty() && !PROTOCOLS.contains(&protocol.as_str()) {
            let message = format!("unknown protocol \"{}\"", port.protocol);
            let hint = crate::suggest::hint(&protocol, PROTOCOLS);
            check.error_hint(&path.field("protocol"), message, hint);
        }
    }
    for index in repeated(ports.iter().map(|port| port.number)) {
        check.error(
            &path.index(index).field("number"),
            "the port is listed twice",
        );
    }
    for index in repeated(ports.iter().map(|port| &port.name)) {
        check.error(&path.index(index).field("name"), "the name is used twice");
    }
}

fn check_addresses(entry: &ServiceEntry, path: &FieldPath, check: &mut Check<'_>) {
    let allows_ranges = matches!(entry.resolution, Resolution::None | Resolution::Static);
    for (index, address) in entry.addresses.iter().enumerate() {
        let field = path.index(index);
        if !is_ip_or_range(address) {
            check.error(
                &field,
                format!("\"{address}\" is neither an IP nor a CIDR range"),
            );
        } else if address.contains('/') && !allows_ranges {
            check.error(&field, "CIDR ranges need resolution NONE or STATIC");
        }
    }
}

fn check_resolution(entry: &ServiceEntry, spec: &FieldPath, check: &mut Check<'_>) {
    let endpoints = spec.field("endpoints");
    let resolution = spec.field("resolution");
    if entry.workload_selector.is_some() && !entry.endpoints.is_empty() {
        check.error(
            &endpoints,
            "only one of workloadSelector and endpoints can be set",
        );
    }
    match entry.resolution {
        Resolution::None if !entry.endpoints.is_empty() => check.error_hint(
            &endpoints,
            "resolution NONE dials what the application dialled and takes no endpoints",
            "set resolution: STATIC or DNS",
        ),
        Resolution::Static if entry.endpoints.is_empty() && entry.workload_selector.is_none() => {
            check.error(&resolution, "STATIC needs endpoints or a workloadSelector");
        }
        Resolution::Dns | Resolution::DnsRoundRobin
            if entry.endpoints.is_empty()
                && entry.hosts.iter().any(|host| host.starts_with('*')) =>
        {
            check.error(
                &resolution,
                "a wildcard host cannot be resolved: endpoints are required",
            );
        }
        Resolution::DnsRoundRobin if entry.endpoints.len() > 1 => {
            check.error(&endpoints, "DNS_ROUND_ROBIN takes one endpoint at most");
        }
        _ => {}
    }
}

pub(super) fn check_workload(entry: &WorkloadEntry, path: &FieldPath, check: &mut Check<'_>) {
    let address = path.field("address");
    if let Some(socket) = entry.address.strip_prefix("unix://") {
        if !socket.starts_with(['/', '@']) || socket.ends_with('/') {
            check.error(
                &address,
                "a socket is an absolute path or an abstract name (@)",
            );
        }
        if !entry.ports.is_empty() {
            check.error(&path.field("ports"), "a socket has no ports");
        }
    } else if entry.address.is_empty() {
        if entry.network.is_empty() {
            check.error(&address, "an address is required");
        }
    } else if entry.address.parse::<IpAddr>().is_err() {
        check.host(&address, &entry.address);
    }
    for (name, port) in &entry.ports {
        check.port(&path.field("ports").key(name), *port);
    }
}

fn is_ip_or_socket(address: &str) -> bool {
    address.is_empty() || address.starts_with("unix://") || address.parse::<IpAddr>().is_ok()
}

fn is_ip_or_range(address: &str) -> bool {
    let (ip, bits) = address.split_once('/').unwrap_or((address, "0"));
    let limit = match ip.parse() {
        Ok(IpAddr::V4(_)) => 32,
        Ok(IpAddr::V6(_)) => 128,
        Err(_) => return false,
    };
    bits.parse::<u8>().is_ok_and(|bits| bits <= limit)
}
