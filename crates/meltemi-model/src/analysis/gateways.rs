//! Gateways and what is bound to them.

use std::collections::BTreeSet;

use meltemi_api::istio::{ServerTlsSettings, VirtualService};
use meltemi_api::{Kind, Object, ObjectKey, Resource, did_you_mean};
use meltemi_core::names::CLUSTER_DOMAIN;
use meltemi_core::{Diagnostic, FieldPath, Hostname, Labels, Severity};

use super::selection::Pods;
use super::{pairs, report};
use crate::{
    AUTHORITY_SUFFIX, Credential, MESH, Mesh, MeshGateway, MeshSnapshot, SecretsOf, TargetPort,
    Why, common_hosts, gateway_name, merge,
};

/// The gateways that a VirtualService names, and its hosts that they do not serve.
pub(super) fn references(
    mesh: &MeshSnapshot,
    object: &Object,
    spec: &VirtualService,
    found: &mut Vec<Diagnostic>,
) {
    let path = FieldPath::new("spec").field("gateways");
    let namespace = &object.meta.namespace;
    let named = spec.gateways.iter().enumerate();
    for (i, written) in named.filter(|(_, gateway)| *gateway != MESH) {
        let name = gateway_name(written, namespace);
        let known = mesh.gateways().find(|gateway| gateway.name == name);
        let Some(gateway) = known else {
            let all = mesh.gateways().map(|gateway| gateway.name.as_str());
            let hint = match did_you_mean(&name, all) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!(
                    "create the Gateway {name}; the gateway \"mesh\" stands for calls between pods"
                ),
            };
            found.push(report(
                object,
                Severity::Error,
                "IST0101",
                path.index(i),
                format!("referenced gateway not found: \"{written}\""),
                hint,
            ));
            continue;
        };
        unserved_hosts(object, spec, gateway, found);
    }
}

fn unserved_hosts(
    object: &Object,
    spec: &VirtualService,
    gateway: &MeshGateway,
    found: &mut Vec<Diagnostic>,
) {
    let namespace = &object.meta.namespace;
    for (i, written) in spec.hosts.iter().enumerate() {
        let Ok(host) = Hostname::resolve(written, namespace, CLUSTER_DOMAIN) else {
            continue;
        };
        let host = [host];
        let is_served = |server| {
            let hosts = gateway.hosts(server);
            !common_hosts(&hosts, &host, namespace).is_empty()
        };
        if !gateway.spec.servers.iter().any(is_served) {
            let message = format!(
                "one or more host \"{written}\" defined in VirtualService {namespace}/{} not found in Gateway {}",
                object.meta.name, gateway.name
            );
            found.push(report(
                object,
                Severity::Warning,
                "IST0132",
                FieldPath::new("spec").field("hosts").index(i),
                message,
                format!("add the host to a server of the Gateway {}", gateway.name),
            ));
        }
    }
}

/// Whether pods serve a Gateway, and with what it needs.
pub(super) fn gateway(mesh: &Mesh, pods: &Pods, object: &Object, found: &mut Vec<Diagnostic>) {
    let Resource::Gateway(spec) = &object.resource else {
        return;
    };
    let path = FieldPath::new("spec");
    let serving: BTreeSet<&str> = pods.namespaces_with(&spec.selector).collect();
    if !spec.selector.is_empty() && serving.is_empty() {
        let selector = pairs(&spec.selector);
        found.push(report(
            object,
            Severity::Error,
            "IST0101",
            path.field("selector"),
            format!("referenced selector not found: \"{selector}\""),
            format!(
                "start a gateway whose pods have the labels {selector}, or change the selector"
            ),
        ));
        return;
    }
    let snapshot = mesh.snapshot();
    for (i, server) in spec.servers.iter().enumerate() {
        let server_path = path.field("servers").index(i);
        let number = u16::try_from(server.port.number).unwrap_or_default();
        if !spec.selector.is_empty() && !is_reached(&snapshot, pods, &spec.selector, number) {
            let selector = pairs(&spec.selector);
            found.push(report(
                object,
                Severity::Warning,
                "IST0162",
                server_path.field("port").field("number"),
                format!(
                    "the gateway is listening on a target port (port {number}) that is not defined in the Service associated \
                     with its workload instances (Pod selector {selector})"
                ),
                format!("add port {number} to the Service of the gateway's pods"),
            ));
        }
        if let Some(tls) = &server.tls {
            let tls_path = server_path.field("tls");
            credentials(mesh, object, tls, &serving, &tls_path, found);
        }
    }
}

/// Whether a Service leads to the pods from this port, or to this port of theirs.
fn is_reached(mesh: &MeshSnapshot, pods: &Pods, selector: &Labels, number: u16) -> bool {
    let leads = |service: &crate::Service| {
        !service.selector.is_empty() && pods.has(&service.namespace, &[&service.selector, selector])
    };
    let mut leading = mesh.services().filter(|service| leads(service)).peekable();
    if leading.peek().is_none() {
        // Reached by its pods' addresses, or by what nobody told us of.
        return true;
    }
    leading.flat_map(|service| &service.ports).any(|port| {
        port.number == number
            || matches!(port.target_port, TargetPort::Number(own) if own == number)
            || matches!(port.target_port, TargetPort::Name(_))
    })
}

/// A gateway gets no certificate out of a namespace that is closed to the control plane.
fn unreadable(object: &Object, field: FieldPath, namespace: &str) -> Diagnostic {
    let message = format!(
        "the control plane may not read Secrets in namespace {namespace}, where the gateway runs"
    );
    let hint = "the chart `gateway` makes the Role and RoleBinding for it; docs/gateways.md has the commands";
    report(
        object,
        Severity::Warning,
        "MEL0211",
        field,
        message,
        hint.to_owned(),
    )
}

/// The Secrets that a server names, in every namespace where pods serve it.
fn credentials(
    mesh: &Mesh,
    object: &Object,
    tls: &ServerTlsSettings,
    namespaces: &BTreeSet<&str>,
    path: &FieldPath,
    found: &mut Vec<Diagnostic>,
) {
    let secret =
        |namespace: &str, name: &str| mesh.object(&ObjectKey::new(Kind::Secret, namespace, name));
    let mut check = |field: &str, name: &str, fallback: Option<&str>, what: Needed| {
        for namespace in namespaces {
            match &mesh.secrets_of {
                SecretsOf::Unseen => continue,
                SecretsOf::Only(seen) if !seen.contains(*namespace) => {
                    found.push(unreadable(object, path.field(field), namespace));
                    continue;
                }
                SecretsOf::Only(_) | SecretsOf::All => {}
            }
            let named = secret(namespace, name);
            let named = named.or_else(|| secret(namespace, fallback?));
            let problem = match named {
                None => (
                    "IST0101",
                    format!("referenced {field} not found: \"{namespace}/{name}\""),
                    format!(
                        "create the Secret {name} in namespace {namespace}, where the gateway runs"
                    ),
                ),
                Some(named) => match Credential::new(named) {
                    Some(credential) if what.is_in(&credential) => continue,
                    _ => (
                        "IST0161",
                        format!(
                            "the credential referenced by the Gateway {} in namespace {namespace} is invalid: the Secret {name} has {}",
                            object.meta.name,
                            what.missing()
                        ),
                        what.remedy().to_owned(),
                    ),
                },
            };
            let (code, message, hint) = problem;
            found.push(report(
                object,
                Severity::Error,
                code,
                path.field(field),
                message,
                hint,
            ));
        }
    };
    if !tls.credential_name.is_empty() {
        check("credentialName", &tls.credential_name, None, Needed::Pair);
    }
    if !tls.mode.verifies_clients() {
        return;
    }
    if !tls.ca_cert_credential_name.is_empty() {
        let own = tls.ca_cert_credential_name.as_str();
        let name = format!("{own}{AUTHORITY_SUFFIX}");
        check("caCertCredentialName", &name, Some(own), Needed::Authority);
    } else if !tls.credential_name.is_empty() {
        let name = format!("{}{AUTHORITY_SUFFIX}", tls.credential_name);
        let own = Some(tls.credential_name.as_str());
        check("credentialName", &name, own, Needed::Authority);
    }
}

#[derive(Clone, Copy)]
enum Needed {
    Pair,
    Authority,
}

impl Needed {
    fn is_in(self, credential: &Credential) -> bool {
        match self {
            Self::Pair => credential.pair.is_some(),
            Self::Authority => credential.authority.is_some(),
        }
    }

    fn missing(self) -> &'static str {
        match self {
            Self::Pair => "no certificate with its key",
            Self::Authority => "no authority to verify clients by",
        }
    }

    fn remedy(self) -> &'static str {
        match self {
            Self::Pair => "put tls.crt and tls.key there, or cert and key",
            Self::Authority => "put ca.crt or cacert there",
        }
    }
}

/// Servers that are dropped because an older Gateway of the same proxies has their port or host.
pub(super) fn conflicts(mesh: &MeshSnapshot, pods: &Pods, found: &mut Vec<Diagnostic>) {
    let mut told = BTreeSet::new();
    for labels in pods.all() {
        let gateways = mesh.gateways().map(AsRef::as_ref);
        let selecting = gateways.filter(|gateway: &&MeshGateway| {
            !gateway.spec.selector.is_empty() && gateway.selects(labels)
        });
        for dropped in merge(selecting, |number| number).dropped {
            let (gateway, index) = (dropped.gateway, dropped.index);
            if !told.insert((&gateway.name, index)) {
                continue;
            }
            let server = &gateway.spec.servers[index];
            let (by, selector) = (&dropped.by.name, pairs(&gateway.spec.selector));
            let hosts = server.hosts.join(",");
            let port = server.port.number;
            let why = match dropped.why {
                Why::Port => format!("{by} uses the port for another protocol"),
                Why::Host(host) => format!("{by} has the server name {host} on the port"),
            };
            let path = FieldPath::new("spec").field("servers").index(index);
            found.push(report(
                &gateway.object,
                Severity::Error,
                "IST0145",
                path,
                format!(
                    "conflict with gateways {by} (workload selector {selector}, port {port}, hosts {hosts}): the server is \
                     not served"
                ),
                format!("{why}: give this server another port, or other hosts"),
            ));
        }
    }
}
