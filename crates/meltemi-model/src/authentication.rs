//! What server and client would agree on for every service: the data of `authn tls-check`.

use std::collections::BTreeSet;

use meltemi_api::istio::{ClientTlsMode, TlsMode};
use meltemi_core::{Labels, ObjectRef};
use serde::Serialize;

use crate::{Endpoint, HostRule, MeshSnapshot, Protocol, ServerTls, Service, ServicePort};

/// Written where no object decides.
const NONE: &str = "-";

/// One service port, whole or by subset, as a client sees it. Field names are those of Istio's `/debug/authenticationz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct AuthenticationRow {
    /// `fqdn`, or `fqdn|subset`.
    pub host: String,
    pub port: u16,
    /// `namespace/name` of the deciding PeerAuthentications, `-` for Istio's default.
    pub authentication_policy_name: String,
    /// `namespace/name` of the DestinationRule, `-` for none.
    pub destination_rule_name: String,
    /// The mode of the endpoints; several where they differ, joined by `/`.
    pub server_protocol: String,
    /// The DestinationRule's mode, `-` where it sets none.
    pub client_protocol: String,
    /// OK, CONFLICT or AUTO.
    #[serde(rename = "TLS_conflict_status")]
    pub tls_conflict_status: &'static str,
    /// What holds for each endpoint.
    pub endpoints: Vec<EndpointAuthentication>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct EndpointAuthentication {
    pub address: String,
    pub workload: String,
    /// What it enforces; `NONE` without a sidecar.
    pub mode: &'static str,
    pub policy: String,
    /// Whether this client would use mutual TLS to it.
    pub mtls: bool,
    pub status: &'static str,
}

/// The rows for a client of this namespace and labels, by host then port. External services are left out.
pub fn authentication_rows(
    mesh: &MeshSnapshot,
    client_namespace: &str,
    client_labels: &Labels,
) -> Vec<AuthenticationRow> {
    let mut rows = Vec::new();
    for service in mesh.services() {
        if service.mesh_external || !service.visible_to(client_namespace) {
            continue;
        }
        let rule = mesh.destination_rule(client_namespace, client_labels, &service.hostname);
        let rule = rule.map(AsRef::as_ref);
        let subsets = rule.into_iter().flat_map(|rule| &rule.rule.subsets);
        let names: Vec<&str> = std::iter::once("")
            .chain(subsets.map(|subset| subset.name.as_str()))
            .collect();
        for port in &service.ports {
            if port.protocol != Protocol::Udp {
                let row = |subset: &&str| row(mesh, service, port, rule, subset);
                rows.extend(names.iter().map(row));
            }
        }
    }
    rows.sort_by(|a, b| (&a.host, a.port).cmp(&(&b.host, b.port)));
    rows
}

fn row(
    mesh: &MeshSnapshot,
    service: &Service,
    port: &ServicePort,
    rule: Option<&HostRule>,
    subset: &str,
) -> AuthenticationRow {
    let selected = rule.and_then(|rule| rule.subset(subset));
    let client = rule
        .and_then(|rule| rule.policy(port.number, selected).tls)
        .map(|tls| tls.mode);
    let namespace = mesh.namespace_tls(&service.namespace);
    let auto = mesh.config().enable_auto_mtls && namespace.mode != TlsMode::Disable;
    let all = mesh.endpoints(&service.hostname);
    let judged: Vec<(ServerTls, EndpointAuthentication)> = all
        .into_iter()
        .flat_map(|all| all.of_port(&port.name))
        .filter(|endpoint| selected.is_none_or(|subset| subset.labels.selects(&endpoint.labels)))
        .map(|endpoint| judge(mesh, endpoint, client, auto))
        .collect();
    let servers: Vec<&ServerTls> = match judged.is_empty() {
        true => vec![&namespace],
        false => judged.iter().map(|(server, _)| server).collect(),
    };
    AuthenticationRow {
        host: match subset {
            "" => service.hostname.to_string(),
            subset => format!("{}|{subset}", service.hostname),
        },
        port: port.number,
        authentication_policy_name: join(servers.iter().map(|server| policy_name(server)), ","),
        destination_rule_name: object_name(rule.and_then(HostRule::origin)),
        server_protocol: join(
            servers.iter().map(|server| server.mode.as_str().to_owned()),
            "/",
        ),
        client_protocol: client.map_or(NONE, ClientTlsMode::as_str).to_owned(),
        tls_conflict_status: match judged.is_empty() {
            true => status(namespace.mode, client, mesh.config().enable_auto_mtls),
            false => worst(judged.iter().map(|(_, endpoint)| endpoint.status)),
        },
        endpoints: judged.into_iter().map(|(_, endpoint)| endpoint).collect(),
    }
}

fn judge(
    mesh: &MeshSnapshot,
    endpoint: &Endpoint,
    client: Option<ClientTlsMode>,
    auto: bool,
) -> (ServerTls, EndpointAuthentication) {
    let modes = mesh.workload_tls(&endpoint.namespace, &endpoint.labels);
    let server = modes.of_port(endpoint.port).clone();
    // Without a sidecar nothing is enforced, and nothing but plain text is understood.
    let effective = if endpoint.accepts_mtls {
        server.mode
    } else {
        TlsMode::Disable
    };
    let mtls = match client {
        Some(mode) => mode == ClientTlsMode::IstioMutual,
        None => auto && effective != TlsMode::Disable,
    };
    let workload = endpoint.workload.as_ref();
    let row = EndpointAuthentication {
        address: format!("{}:{}", endpoint.address, endpoint.port),
        workload: workload.map_or_else(String::new, |workload| {
            format!("{}.{}", workload.name, workload.namespace)
        }),
        mode: if endpoint.accepts_mtls {
            server.mode.as_str()
        } else {
            "NONE"
        },
        policy: policy_name(&server),
        mtls,
        status: status(effective, client, mesh.config().enable_auto_mtls),
    };
    (server, row)
}

/// The rule of `istioctl authn tls-check` since 1.4.
fn status(server: TlsMode, client: Option<ClientTlsMode>, auto_mtls: bool) -> &'static str {
    let Some(client) = client else {
        return if auto_mtls { "AUTO" } else { "OK" };
    };
    match (server, client) {
        (TlsMode::Disable, ClientTlsMode::Disable)
        | (TlsMode::Strict, ClientTlsMode::IstioMutual)
        | (
            TlsMode::Permissive | TlsMode::Unset,
            ClientTlsMode::IstioMutual | ClientTlsMode::Disable,
        ) => "OK",
        _ => "CONFLICT",
    }
}

fn worst(statuses: impl Iterator<Item = &'static str>) -> &'static str {
    statuses
        .reduce(|a, b| if a == "CONFLICT" { a } else { b })
        .unwrap_or("OK")
}

fn policy_name(server: &ServerTls) -> String {
    object_name(server.decided_by.as_ref())
}

fn object_name(object: Option<&ObjectRef>) -> String {
    object.map_or_else(
        || NONE.to_owned(),
        |object| format!("{}/{}", object.namespace, object.name),
    )
}

fn join(values: impl Iterator<Item = String>, separator: &str) -> String {
    let distinct: BTreeSet<String> = values.collect();
    distinct.into_iter().collect::<Vec<_>>().join(separator)
}
