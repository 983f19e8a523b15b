//! Where a DestinationRule sends what its workloads refuse: mutual TLS to a port that takes plain text only, or anything
//! else to one that is STRICT.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_api::istio::{ClientTlsMode, TlsMode, TrafficPolicy};
use meltemi_api::{Kind, Object, Resource};
use meltemi_core::{Diagnostic, FieldPath, Labels, ObjectRef, Severity};

use super::selection::Pods;
use super::{report, short};
use crate::{HostRule, Mesh, MeshSnapshot, ServerTls, Service, ServicePort, TargetPort};

/// Each conflict once for both objects: whoever looks at one of them sees it.
pub(super) fn conflicts(
    mesh: &Mesh,
    snapshot: &MeshSnapshot,
    pods: &Pods,
    found: &mut Vec<Diagnostic>,
) {
    let mut told: BTreeMap<(ObjectRef, String), Diagnostic> = BTreeMap::new();
    let merged = snapshot.destination_rules.by_namespace.values();
    for rule in merged.flat_map(|rules| rules.iter()) {
        let objects: Vec<&Arc<Object>> = rule
            .from
            .iter()
            .filter_map(|origin| object(mesh, Kind::DestinationRule, origin))
            .collect();
        let covered = snapshot
            .services()
            .filter(|service| !service.mesh_external && rule.host.covers(&service.hostname));
        for service in covered {
            for conflict in of_service(snapshot, pods, rule, &objects, service) {
                for diagnostic in tell(mesh, &conflict) {
                    let of = diagnostic.object.clone().expect("both name their object");
                    told.entry((of, diagnostic.field.to_string()))
                        .or_insert(diagnostic);
                }
            }
        }
    }
    found.extend(told.into_values());
}

struct Conflict<'a> {
    rule: &'a Object,
    field: FieldPath,
    client: ClientTlsMode,
    service: &'a Service,
    port: &'a ServicePort,
    server: Refusal,
}

enum Refusal {
    NoSidecar,
    Policy {
        decided: ServerTls,
        target_port: u16,
    },
}

fn of_service<'a>(
    mesh: &MeshSnapshot,
    pods: &Pods,
    rule: &HostRule,
    objects: &[&'a Arc<Object>],
    service: &'a Service,
) -> Vec<Conflict<'a>> {
    let subsets = rule.rule.subsets.iter().map(|subset| subset.name.as_str());
    let names: Vec<&str> = std::iter::once("").chain(subsets).collect();
    let mut found = Vec::new();
    for port in &service.ports {
        for name in &names {
            let subset = rule.subset(name);
            let Some(client) = rule.policy(port.number, subset).tls.map(|tls| tls.mode) else {
                continue;
            };
            let labels = subset.map(|subset| &subset.labels);
            let Some(server) = refusal(mesh, pods, service, port, labels, client) else {
                continue;
            };
            if let Some((rule, field)) = deciding(objects, port.number, name) {
                found.push(Conflict {
                    rule,
                    field,
                    client,
                    service,
                    port,
                    server,
                });
            }
        }
    }
    found
}

/// The first endpoint that refuses what the client sends. Before there are endpoints, the pods that workloads will make
/// stand for them; whether those will have a sidecar is not known.
fn refusal(
    mesh: &MeshSnapshot,
    pods: &Pods,
    service: &Service,
    port: &ServicePort,
    subset: Option<&Labels>,
    client: ClientTlsMode,
) -> Option<Refusal> {
    let by_policy = |namespace: &str, labels: &Labels, target_port: u16| {
        let decided = mesh
            .workload_tls(namespace, labels)
            .of_port(target_port)
            .clone();
        let refused = match decided.mode {
            TlsMode::Disable => client == ClientTlsMode::IstioMutual,
            TlsMode::Strict => matches!(client, ClientTlsMode::Disable | ClientTlsMode::Simple),
            TlsMode::Permissive | TlsMode::Unset => false,
        };
        refused.then_some(Refusal::Policy {
            decided,
            target_port,
        })
    };
    let endpoints = mesh.endpoints(&service.hostname);
    let mut endpoints = endpoints
        .into_iter()
        .flat_map(|all| all.of_port(&port.name))
        .filter(|endpoint| subset.is_none_or(|subset| subset.selects(&endpoint.labels)))
        .peekable();
    if endpoints.peek().is_some() {
        return endpoints.find_map(|endpoint| {
            if endpoint.accepts_mtls {
                by_policy(&endpoint.namespace, &endpoint.labels, endpoint.port)
            } else {
                (client == ClientTlsMode::IstioMutual).then_some(Refusal::NoSidecar)
            }
        });
    }
    // A name means another port in each pod: until there are any, nothing is claimed.
    let TargetPort::Number(target_port) = port.target_port else {
        return None;
    };
    let selectors: Vec<&Labels> = std::iter::once(&service.selector).chain(subset).collect();
    if service.selector.is_empty() {
        return None;
    }
    pods.selected(&service.namespace, &selectors)
        .find_map(|labels| by_policy(&service.namespace, labels, target_port))
}

/// The object and field that say how a port of a subset is called, narrowest first: as `HostRule::policy` has it.
fn deciding<'a>(
    objects: &[&'a Arc<Object>],
    port: u16,
    subset: &str,
) -> Option<(&'a Object, FieldPath)> {
    let rules = || {
        let objects = objects.iter().copied();
        objects.filter_map(|object: &'a Arc<Object>| match &object.resource {
            Resource::DestinationRule(rule) => Some((object.as_ref(), rule)),
            _ => None,
        })
    };
    let spec = FieldPath::new("spec");
    let of_subset = rules().find_map(|(object, rule)| {
        let index = rule.subsets.iter().position(|own| own.name == subset)?;
        let policy = rule.subsets[index].traffic_policy.as_ref();
        Some((object, policy, spec.field("subsets").index(index)))
    });
    let of_all = rules().find_map(|(object, rule)| {
        Some((object, Some(rule.traffic_policy.as_ref()?), spec.clone()))
    });
    [of_subset, of_all]
        .into_iter()
        .flatten()
        .find_map(|(object, policy, at)| Some((object, tls_field(policy?, port, &at)?)))
}

fn tls_field(policy: &TrafficPolicy, port: u16, at: &FieldPath) -> Option<FieldPath> {
    let at = at.field("trafficPolicy");
    let of_port = policy.port_level_settings.iter().position(|settings| {
        let selector = settings.port.as_ref();
        selector.is_some_and(|selector| selector.number == u32::from(port))
    });
    let at = match of_port {
        Some(index) => at.field("portLevelSettings").index(index),
        None => policy.tls.as_ref().map(|_| at)?,
    };
    Some(at.field("tls").field("mode"))
}

fn tell(mesh: &Mesh, conflict: &Conflict<'_>) -> Vec<Diagnostic> {
    let Conflict {
        rule,
        client,
        service,
        port,
        ..
    } = conflict;
    let calls = format!("calls to {}:{} fail", service.hostname, port.number);
    let client = client.as_str();
    let at_rule = |because: String, hint: &str| {
        let message = format!("{calls}: the rule says {client}, {because}");
        report(
            rule,
            Severity::Error,
            "MEL0207",
            conflict.field.clone(),
            message,
            hint.to_owned(),
        )
    };
    let leave_out =
        "leave out the rule's tls settings: mutual TLS is then used wherever the workload takes it";
    let Refusal::Policy {
        decided,
        target_port,
    } = &conflict.server
    else {
        let hint = format!("give the pods a sidecar, or {leave_out}");
        return vec![at_rule(
            "and a pod behind it has no sidecar".to_owned(),
            &hint,
        )];
    };
    let mode = decided.mode.as_str();
    let Some(policy) = &decided.decided_by else {
        return Vec::new();
    };
    let name = short(policy);
    let because = format!("the PeerAuthentication {name} says {mode}");
    let mut told = vec![at_rule(
        because,
        &format!("{leave_out}; or change the policy"),
    )];
    if let Some(policy) = object(mesh, Kind::PeerAuthentication, policy) {
        told.push(report(
            policy,
            Severity::Error,
            "MEL0207",
            mode_field(policy, *target_port),
            format!(
                "{calls}: the policy says {mode}, the DestinationRule {} says {client}",
                short(&rule.reference())
            ),
            "leave out the rule's tls settings, or change the mode".to_owned(),
        ));
    }
    told
}

fn mode_field(policy: &Object, target_port: u16) -> FieldPath {
    let spec = FieldPath::new("spec");
    let Resource::PeerAuthentication(own) = &policy.resource else {
        return spec;
    };
    let of_port = own.port_level_mtls.get(&target_port);
    let section = match of_port.filter(|mtls| mtls.mode != TlsMode::Unset) {
        Some(_) => spec.field("portLevelMtls").field(&target_port.to_string()),
        None => spec.field("mtls"),
    };
    section.field("mode")
}

fn object<'a>(mesh: &'a Mesh, kind: Kind, reference: &ObjectRef) -> Option<&'a Arc<Object>> {
    mesh.objects_of(kind)
        .find(|object| object.reference() == *reference)
}
