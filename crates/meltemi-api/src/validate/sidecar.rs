use std::net::{IpAddr, SocketAddr};

use meltemi_core::names::port;
use meltemi_core::{Diagnostic, FieldPath, Hostname};

use super::destination_rule::check_pool;
use super::service_entry::PROTOCOLS;
use super::{Check, is_dns_label, repeated};
use crate::istio::{
    CaptureMode, EgressListener, IngressListener, Sidecar, SidecarOutboundPolicy, SidecarPort,
};

/// Where the proxy listens: its administration, both directions, statistics, readiness and names.
const PROXY_PORTS: [u16; 7] = [
    port::ADMIN,
    port::OUTBOUND,
    port::INBOUND,
    port::MERGED_STATS,
    port::READINESS,
    port::DNS,
    port::ENVOY_STATS,
];

pub(super) fn check(sidecar: &Sidecar, spec: &FieldPath, check: &mut Check<'_>) {
    if let Some(selector) = &sidecar.workload_selector {
        let field = spec.field("workloadSelector").field("labels");
        check.selector(&field, &selector.labels);
    }
    let says_nothing = Sidecar {
        workload_selector: sidecar.workload_selector.clone(),
        ..Sidecar::default()
    };
    if *sidecar == says_nothing {
        check.error_hint(
            spec,
            "the Sidecar says nothing",
            "name the hosts that its workloads call, such as egress: [{hosts: [\"./*\"]}]",
        );
    }
    let ingress = spec.field("ingress");
    for (index, listener) in sidecar.ingress.iter().enumerate() {
        check_ingress(listener, &ingress.index(index), check);
    }
    let numbers = |port: &Option<SidecarPort>| port.as_ref().map(|port| port.number);
    for index in repeated(sidecar.ingress.iter().map(|one| numbers(&one.port))) {
        let field = ingress.index(index).field("port");
        check.error(&field, "the port has a listener already");
    }
    if let Some(pool) = &sidecar.inbound_connection_pool {
        check_pool(pool, &spec.field("inboundConnectionPool"), check);
    }
    let egress = spec.field("egress");
    for (index, listener) in sidecar.egress.iter().enumerate() {
        let path = egress.index(index);
        check_egress(listener, &path, check);
        if listener.port.is_none() && index + 1 != sidecar.egress.len() {
            check.error_hint(
                &path.field("port"),
                "only the last egress listener can be without a port",
                "join the hosts of the listeners without a port, or give this one a port",
            );
        }
    }
    for index in repeated(sidecar.egress.iter().map(|one| numbers(&one.port))) {
        // Several without a port have been told of.
        if sidecar.egress[index].port.is_some() {
            let field = egress.index(index).field("port");
            check.error(&field, "the port has a listener already");
        }
    }
    if let Some(policy) = &sidecar.outbound_traffic_policy {
        check_outbound(policy, &spec.field("outboundTrafficPolicy"), check);
    }
}

fn check_port(port: &SidecarPort, path: &FieldPath, check: &mut Check<'_>) {
    check.port(&path.field("number"), port.number);
    let protocol = port.protocol.to_ascii_lowercase();
    let field = path.field("protocol");
    if protocol == "http_proxy" {
        let message =
            "HTTP_PROXY is not served yet: applications cannot use the sidecar as a proxy";
        let warning = Diagnostic::warning("MEL0005", message)
            .hint("let applications call services by name; their connections are captured");
        check.add(&field, warning);
    } else if !protocol.is_empty() && !PROTOCOLS.contains(&protocol.as_str()) {
        let message = format!("unknown protocol \"{}\"", port.protocol);
        let hint = crate::suggest::hint(&protocol, PROTOCOLS);
        check.error_hint(&field, message, hint);
    }
}

fn check_capture(mode: CaptureMode, path: &FieldPath, check: &mut Check<'_>) {
    if mode == CaptureMode::None {
        let message = "NONE is not supported yet: the listener serves captured connections only";
        let warning = Diagnostic::warning("MEL0005", message)
            .hint("leave the pod's traffic captured, which is the default");
        check.add(&path.field("captureMode"), warning);
    }
}

fn check_ingress(listener: &IngressListener, path: &FieldPath, check: &mut Check<'_>) {
    match &listener.port {
        Some(port) => check_ingress_port(port, &path.field("port"), check),
        None => check.error(&path.field("port"), "an ingress listener needs a port"),
    }
    check_capture(listener.capture_mode, path, check);
    check_endpoint(&listener.default_endpoint, path, check);
    if let Some(pool) = &listener.connection_pool {
        check_pool(pool, &path.field("connectionPool"), check);
    }
    if listener.tls.is_some() {
        // Whoever asks for TLS relies on nothing else being taken.
        let message = "TLS for clients outside the mesh is not ended at sidecars yet";
        let error = Diagnostic::error("MEL0005", message)
            .hint("end it at a gateway: a Gateway with a server of protocol HTTPS");
        check.add(&path.field("tls"), error);
    }
}

fn check_ingress_port(port: &SidecarPort, path: &FieldPath, check: &mut Check<'_>) {
    check_port(port, path, check);
    if PROXY_PORTS.map(u32::from).contains(&port.number) {
        check.error_hint(
            &path.field("number"),
            format!("the proxy itself listens on port {}", port.number),
            "let the workload serve another port",
        );
    }
    if port.protocol.eq_ignore_ascii_case("udp") {
        let message = "UDP is not captured: the listener has no effect";
        let warning = Diagnostic::warning("MEL0005", message)
            .hint("remove the listener; datagrams reach the application without it");
        check.add(&path.field("protocol"), warning);
    }
}

fn check_endpoint(endpoint: &str, path: &FieldPath, check: &mut Check<'_>) {
    let field = path.field("defaultEndpoint");
    if endpoint.starts_with("unix://") {
        let error = Diagnostic::error("MEL0005", "Unix sockets are not connected to yet")
            .hint("let the application listen on a port of 127.0.0.1");
        check.add(&field, error);
        return;
    }
    let is_own = |address: SocketAddr| {
        let ip = address.ip();
        let own = [
            IpAddr::from([127, 0, 0, 1]),
            std::net::Ipv6Addr::LOCALHOST.into(),
        ];
        (own.contains(&ip) || ip.is_unspecified()) && address.port() != 0
    };
    if !endpoint.is_empty() && !endpoint.parse().is_ok_and(is_own) {
        check.error_hint(
            &field,
            format!("\"{endpoint}\" is no address of the application"),
            "write 127.0.0.1:PORT or [::1]:PORT, or 0.0.0.0:PORT or [::]:PORT for the pod's own address",
        );
    }
}

fn check_egress(listener: &EgressListener, path: &FieldPath, check: &mut Check<'_>) {
    if let Some(port) = &listener.port {
        check_port(port, &path.field("port"), check);
    }
    check_capture(listener.capture_mode, path, check);
    let hosts = path.field("hosts");
    if listener.hosts.is_empty() {
        check.error_hint(
            &hosts,
            "an egress listener has at least one host",
            "write for instance ./* for the services of the workload's own namespace",
        );
    }
    for (index, host) in listener.hosts.iter().enumerate() {
        check_egress_host(host, &hosts.index(index), check);
    }
    for index in repeated(listener.hosts.iter()) {
        let message = format!("\"{}\" is there before", listener.hosts[index]);
        check.error(&hosts.index(index), message);
    }
}

/// Whether an entry of `hosts` can be read.
pub(crate) fn is_egress_host(host: &str) -> bool {
    host.split_once('/').is_some_and(|(namespace, name)| {
        is_egress_namespace(namespace) && Hostname::new(name).is_ok()
    })
}

fn is_egress_namespace(namespace: &str) -> bool {
    let known = namespace.strip_prefix('~').unwrap_or(namespace);
    namespace == "~" || matches!(known, "." | "*") || is_dns_label(known)
}

/// `namespace/dns`, `./dns`, `*/dns`, `~/*`, and `~namespace/dns` for what is left out.
fn check_egress_host(host: &str, field: &FieldPath, check: &mut Check<'_>) {
    let form = "write namespace/name, ./name or */name, with the full name of a service or *";
    let Some((namespace, name)) = host.split_once('/') else {
        let message = format!("\"{host}\" does not say of which namespace");
        check.error_hint(field, message, form);
        return;
    };
    if !is_egress_namespace(namespace) {
        let message =
            format!("\"{namespace}\" before the slash is no namespace, \".\", \"*\" or \"~\"");
        check.error_hint(field, message, form);
    }
    match Hostname::new(name) {
        Err(error) => check.error_hint(field, error.to_string(), form),
        Ok(name) if namespace != "~" && !name.is_wildcard() && !name.as_str().contains('.') => {
            let message = format!("\"{name}\" is a short name, which no service has here");
            let warning = Diagnostic::warning("MEL0012", message).hint(format!(
                "write its full name: {namespace}/{name}.NAMESPACE.svc.cluster.local"
            ));
            check.add(field, warning);
        }
        Ok(_) => {}
    }
}

fn check_outbound(policy: &SidecarOutboundPolicy, path: &FieldPath, check: &mut Check<'_>) {
    let Some(proxy) = &policy.egress_proxy else {
        return;
    };
    let path = path.field("egressProxy");
    check.host(&path.field("host"), &proxy.host);
    match proxy.port {
        Some(port) => check.port(&path.field("port").field("number"), port.number),
        None => check.error(
            &path.field("port"),
            "the port of the egress proxy is required",
        ),
    }
    if policy.mode() != crate::istio::OutboundTrafficPolicyMode::AllowAny {
        check.error_hint(
            &path,
            "only mode ALLOW_ANY has an egress proxy",
            "set mode: ALLOW_ANY",
        );
    }
}
