//! Problems that show only between objects, with Istio's codes where it has them.
//!
//! | code | what |
//! |---|---|
//! | IST0101 | a referenced host, host and subset, gateway, selector, namespace or Secret does not exist |
//! | IST0127 | a policy's selector selects no workloads |
//! | IST0132 | no server of a gateway has the host of a VirtualService that is bound to it |
//! | IST0145 | an older Gateway has the port or the server name of a Gateway's server |
//! | IST0149 | a VirtualService routes by claims where no token is verified |
//! | IST0161 | a Secret that a Gateway names lacks a certificate |
//! | IST0162 | no port of a gateway's Service leads to a Gateway's server |
//! | IST0109 | several VirtualServices route one host for the mesh |
//! | IST0110 | several Sidecars select the same workload |
//! | IST0111 | several Sidecars of a namespace have no selector |
//! | IST0112 | a destination without a port names a service with several |
//! | IST0173 | a subset selects no workloads |
//! | IST0174 | a DestinationRule's host is no service |
//! | MEL0201 | several PeerAuthentications with the same selector, or none, in one namespace |
//! | MEL0202 | a ServiceEntry's host is already taken |
//! | MEL0203 | an older DestinationRule for the host says the same thing differently |
//! | MEL0204 | a Service's selector finds no pod |
//! | MEL0205 | the externalName of a Service is no service |
//! | MEL0206 | a destination's port is none of its service's |
//! | MEL0207 | a DestinationRule's TLS mode is refused by the workloads that it is for |
//! | MEL0208 | an AuthorizationPolicy asks who calls where callers may have no identity |
//! | MEL0209 | an AuthorizationPolicy asks for tokens that nobody verifies |
//! | MEL0210 | an AuthorizationPolicy names a Service's port where the workload's is meant |
//! | MEL0211 | a Gateway names a Secret in a namespace where the control plane may read none |
//! | MEL0212 | the provider of a CUSTOM policy cannot be asked |
//! | MEL0213 | the CUSTOM policies of a workload name several providers |
//! | MEL0214 | a CUSTOM policy selects connections that its provider cannot be asked about |
//! | MEL0220 | an egress host of a Sidecar imports nothing |
//! | MEL0221 | an egress port of a Sidecar names another protocol than its service |
//! | MEL0222 | a VirtualService has no hosts, and none leads to it |

mod authorization;
mod authorizers;
mod gateways;
mod mutual_tls;
mod selection;
mod sidecars;
mod tokens;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use meltemi_api::istio::{Destination, DestinationRule, VirtualService};
use meltemi_api::{Kind, Object, Resource, did_you_mean, k8s};
use meltemi_core::names::CLUSTER_DOMAIN;
use meltemi_core::{Diagnostic, FieldPath, Hostname, Labels, ObjectRef, Severity};

use crate::virtual_service::Delegates;
use crate::{HostRule, Mesh, MeshSnapshot, Service, kubernetes};
use selection::Pods;

/// Judges all objects together. Each diagnostic points at the object and line to change.
pub fn analyze(mesh: &Mesh) -> Vec<Diagnostic> {
    let snapshot = mesh.snapshot();
    let mut found = Vec::new();
    let pods = Pods::of(mesh);
    for object in mesh.objects() {
        match &object.resource {
            Resource::VirtualService(spec) => {
                destinations(mesh, &snapshot, object, spec, &mut found);
                gateways::references(&snapshot, object, spec, &mut found);
                tokens::claims(&snapshot, &pods, object, spec, &mut found);
            }
            Resource::DestinationRule(_) => destination_rule(&snapshot, &pods, object, &mut found),
            Resource::Service(service) => {
                selection::service(&pods, object, &mut found);
                external_name(&snapshot, object, service, &mut found);
                traffic_distribution(object, service, &mut found);
            }
            Resource::ServiceEntry(_) => shadowed_entry(&snapshot, object, &mut found),
            Resource::AuthorizationPolicy(_) => {
                authorization::policy(mesh, &snapshot, &pods, object, &mut found);
            }
            Resource::Gateway(_) => gateways::gateway(mesh, &pods, object, &mut found),
            _ => {}
        }
    }
    unused_delegates(mesh, &snapshot, &mut found);
    conflicting_hosts(&snapshot, &mut found);
    competing_policies(&snapshot, &mut found);
    competing_rules(mesh, &snapshot, &mut found);
    gateways::conflicts(&snapshot, &pods, &mut found);
    sidecars::conflicts(&snapshot, &pods, &mut found);
    for sidecar in snapshot.sidecars.by_namespace.values().flatten() {
        sidecars::sidecar(&snapshot, &pods, sidecar, &mut found);
    }
    mutual_tls::conflicts(mesh, &snapshot, &pods, &mut found);
    found
}

fn report(
    object: &Object,
    severity: Severity,
    code: &str,
    field: FieldPath,
    message: String,
    hint: String,
) -> Diagnostic {
    let location = object.locate(&field);
    let diagnostic = Diagnostic::new(code, severity, message)
        .object(object.reference())
        .field(field)
        .hint(hint);
    match location {
        Some(location) => diagnostic.at(location),
        None => diagnostic,
    }
}

fn destinations(
    all: &Mesh,
    mesh: &MeshSnapshot,
    object: &Object,
    spec: &VirtualService,
    found: &mut Vec<Diagnostic>,
) {
    let path = FieldPath::new("spec");
    let check = |destination: &Destination, field: FieldPath, found: &mut Vec<Diagnostic>| {
        found.extend(destination_problem(mesh, object, destination, &field));
    };
    let delegates = Delegates::of(all.objects_of(Kind::VirtualService));
    for (i, http) in spec.http.iter().enumerate() {
        let http_path = path.field("http").index(i);
        if let Some(named) = &http.delegate
            && delegates
                .find(http, &object.meta.namespace, mesh.config())
                .is_none()
        {
            let namespace = match named.namespace.as_str() {
                "" => &object.meta.namespace,
                given => given,
            };
            found.push(report(
                object,
                Severity::Error,
                "IST0101",
                http_path.field("delegate"),
                format!(
                    "referenced delegate not found: \"{namespace}/{}\"",
                    named.name
                ),
                "name a VirtualService without hosts that is exported to this namespace".to_owned(),
            ));
        }
        for (j, route) in http.route.iter().enumerate() {
            let field = http_path.field("route").index(j).field("destination");
            check(&route.destination, field, found);
        }
        if let Some(mirror) = &http.mirror {
            check(mirror, http_path.field("mirror"), found);
        }
        for (j, mirror) in http.mirrors.iter().enumerate() {
            let field = http_path.field("mirrors").index(j).field("destination");
            check(&mirror.destination, field, found);
        }
    }
    let layer4 = [
        (
            "tls",
            spec.tls.iter().map(|tls| &tls.route).collect::<Vec<_>>(),
        ),
        ("tcp", spec.tcp.iter().map(|tcp| &tcp.route).collect()),
    ];
    for (section, all) in layer4 {
        for (i, routes) in all.into_iter().enumerate() {
            for (j, route) in routes.iter().enumerate() {
                let entry = path.field(section).index(i).field("route").index(j);
                check(&route.destination, entry.field("destination"), found);
            }
        }
    }
}

fn traffic_distribution(object: &Object, service: &k8s::Service, found: &mut Vec<Diagnostic>) {
    let spec = service.spec.as_ref();
    if spec.is_some_and(|spec| spec.traffic_distribution.is_some()) {
        found.push(report(
            object,
            Severity::Warning,
            "MEL0005",
            FieldPath::new("spec").field("trafficDistribution"),
            "not supported yet, ignored: calls from the mesh go to all endpoints alike".to_owned(),
            "set outlierDetection in a DestinationRule of the host: near endpoints then come first"
                .to_owned(),
        ));
    }
}

/// A VirtualService without hosts acts by those that lead to it.
fn unused_delegates(mesh: &Mesh, snapshot: &MeshSnapshot, found: &mut Vec<Diagnostic>) {
    let used = |object: &Object| {
        let mut all = snapshot.virtual_services.all();
        all.any(|routed| routed.from.contains(&object.reference()))
    };
    for object in mesh.objects_of(Kind::VirtualService) {
        if matches!(&object.resource, Resource::VirtualService(spec) if spec.hosts.is_empty())
            && !used(object)
        {
            found.push(report(
                object,
                Severity::Warning,
                "MEL0222",
                FieldPath::new("spec").field("hosts"),
                "has no hosts, and no VirtualService leads to it: it has no effect".to_owned(),
                "name its hosts, or let another VirtualService delegate to it".to_owned(),
            ));
        }
    }
}

fn destination_problem(
    mesh: &MeshSnapshot,
    object: &Object,
    destination: &Destination,
    field: &FieldPath,
) -> Option<Diagnostic> {
    let namespace = &object.meta.namespace;
    let host = Hostname::resolve(&destination.host, namespace, CLUSTER_DOMAIN).ok()?;
    let Some(service) = known_service(mesh, &host) else {
        let mut hint = near_hosts(mesh, &destination.host, &host, namespace);
        if hint.is_empty() {
            hint =
                "create the Service, or a ServiceEntry for what lies outside the mesh".to_owned();
        }
        return Some(report(
            object,
            Severity::Error,
            "IST0101",
            field.field("host"),
            format!("referenced host not found: \"{}\"", destination.host),
            hint,
        ));
    };
    if destination.port.is_none() && service.ports.len() > 1 {
        return Some(report(
            object,
            Severity::Error,
            "IST0112",
            field.field("port"),
            format!(
                "the destination \"{}\" has several ports and none is chosen",
                destination.host
            ),
            format!("set port.number to one of {}", port_list(service)),
        ));
    }
    let chosen = destination.port.as_ref().map(|port| port.number);
    if let Some(number) = chosen
        && !service.ports.is_empty()
        && !service
            .ports
            .iter()
            .any(|port| u32::from(port.number) == number)
    {
        return Some(report(
            object,
            Severity::Error,
            "MEL0206",
            field.field("port").field("number"),
            format!(
                "the destination \"{}\" has no port {number}: requests that are routed there fail",
                destination.host
            ),
            format!("its ports: {}", port_list(service)),
        ));
    }
    subset_problem(mesh, object, destination, &host, service, field)
}

fn subset_problem(
    mesh: &MeshSnapshot,
    object: &Object,
    destination: &Destination,
    host: &Hostname,
    service: &Service,
    field: &FieldPath,
) -> Option<Diagnostic> {
    if destination.subset.is_empty() {
        return None;
    }
    let rules = rules_for(mesh, host, &object.meta.namespace, &service.namespace);
    let names: Vec<&str> = rules
        .iter()
        .flat_map(|rule| &rule.rule.subsets)
        .map(|subset| subset.name.as_str())
        .collect();
    if names.contains(&destination.subset.as_str()) {
        return None;
    }
    let hint = if names.is_empty() {
        format!("no DestinationRule defines subsets of {}", destination.host)
    } else {
        format!("subsets of {}: {}", destination.host, names.join(", "))
    };
    Some(report(
        object,
        Severity::Error,
        "IST0101",
        field.field("subset"),
        format!(
            "referenced host+subset in destinationrule not found: \"{}+{}\"",
            destination.host, destination.subset
        ),
        hint,
    ))
}

/// The rules that some client of the two namespaces might obey for the host.
fn rules_for<'a>(
    mesh: &'a MeshSnapshot,
    host: &Hostname,
    client_namespace: &str,
    service_namespace: &str,
) -> Vec<&'a Arc<HostRule>> {
    let root = mesh.config.root_namespace.as_str();
    let namespaces = BTreeSet::from([client_namespace, service_namespace, root]);
    let rules = namespaces
        .into_iter()
        .filter_map(|namespace| mesh.destination_rules.by_namespace.get(namespace));
    rules
        .flat_map(|rules| rules.iter())
        .filter(|rule| rule.host.covers(host))
        .collect()
}

/// The service of a host, of the host that it stands for, or the wildcard service that covers it.
fn known_service<'a>(mesh: &'a MeshSnapshot, host: &Hostname) -> Option<&'a Arc<Service>> {
    let host = mesh.alias(host).unwrap_or(host);
    mesh.service(host).or_else(|| {
        let mut services = mesh.services();
        services.find(|service| service.hostname.is_wildcard() && service.hostname.covers(host))
    })
}

fn near_hosts(mesh: &MeshSnapshot, written: &str, host: &Hostname, namespace: &str) -> String {
    // A dotted name may be short for a service of another namespace, which Istio does not expand.
    let expanded = format!("{written}.svc.{CLUSTER_DOMAIN}");
    let is_service =
        |name: &str| Hostname::new(name).is_ok_and(|name| mesh.service(&name).is_some());
    if written.contains('.') && is_service(&expanded) {
        return format!("write the full name, \"{expanded}\"");
    }
    let of_namespace = mesh
        .services()
        .filter(|service| service.is_kubernetes() && service.namespace == namespace)
        .map(|service| service.name.as_str());
    let near = did_you_mean(written, of_namespace).or_else(|| {
        did_you_mean(
            host.as_str(),
            mesh.services().map(|service| service.hostname.as_str()),
        )
    });
    if let Some(near) = near {
        return format!("did you mean \"{near}\"?");
    }
    let elsewhere = mesh
        .services()
        .find(|service| service.is_kubernetes() && service.name == written);
    elsewhere.map_or_else(String::new, |service| {
        format!(
            "short names are looked up in the object's namespace; \"{}\" exists",
            service.hostname
        )
    })
}

/// Labels as users write them on a command line.
fn pairs(labels: &Labels) -> String {
    let pairs = labels.iter().map(|(name, value)| format!("{name}={value}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// A name that nobody knows is not routed: rules for the Service would act on nothing.
fn external_name(
    mesh: &MeshSnapshot,
    object: &Object,
    service: &k8s::Service,
    found: &mut Vec<Diagnostic>,
) {
    let Some((_, target)) = kubernetes::alias(object, service, CLUSTER_DOMAIN) else {
        return;
    };
    if known_service(mesh, &target).is_some() {
        return;
    }
    let namespace = &object.meta.namespace;
    let near = near_hosts(mesh, target.as_str(), &target, namespace);
    let hint = match near.as_str() {
        "" => format!("define {target} with a ServiceEntry to route calls to it"),
        near => near.to_owned(),
    };
    found.push(report(
        object,
        Severity::Warning,
        "MEL0205",
        FieldPath::new("spec").field("externalName"),
        format!("\"{target}\" is no service of the mesh: calls are let through as they are, or refused under REGISTRY_ONLY"),
        hint,
    ));
}

fn port_list(service: &Service) -> String {
    let ports = service.ports.iter().map(|port| port.number.to_string());
    ports.collect::<Vec<_>>().join(", ")
}

fn destination_rule(
    mesh: &MeshSnapshot,
    pods: &Pods,
    object: &Object,
    found: &mut Vec<Diagnostic>,
) {
    let Resource::DestinationRule(rule) = &object.resource else {
        return;
    };
    let namespace = &object.meta.namespace;
    let Ok(host) = Hostname::resolve(&rule.host, namespace, CLUSTER_DOMAIN) else {
        return;
    };
    let covered: Vec<&Arc<Service>> = mesh
        .services()
        .filter(|service| host.covers(&service.hostname) || service.hostname.covers(&host))
        .collect();
    let spec = FieldPath::new("spec");
    if covered.is_empty() {
        found.push(report(
            object,
            Severity::Warning,
            "IST0174",
            spec.field("host"),
            format!(
                "the host {} defined in the DestinationRule does not match any services in the mesh",
                rule.host
            ),
            near_hosts(mesh, &rule.host, &host, namespace),
        ));
        return;
    }
    for (i, subset) in rule.subsets.iter().enumerate() {
        let selects = covered.iter().any(|service| {
            mesh.endpoints(&service.hostname).is_some_and(|all| {
                let mut endpoints = all.endpoints.iter();
                endpoints.any(|endpoint| subset.labels.selects(&endpoint.labels))
            }) || pods.has(&service.namespace, &[&service.selector, &subset.labels])
        });
        if !selects {
            found.push(report(
                object,
                Severity::Warning,
                "IST0173",
                spec.field("subsets").index(i),
                format!(
                    "the subset {} defined in the DestinationRule does not select any pods",
                    subset.name
                ),
                format!(
                    "give the pods of {} the labels {}, or remove the subset",
                    rule.host,
                    pairs(&subset.labels)
                ),
            ));
        }
    }
}

fn conflicting_hosts(mesh: &MeshSnapshot, found: &mut Vec<Diagnostic>) {
    let mut by_host: BTreeMap<&Hostname, Vec<&Arc<Object>>> = BTreeMap::new();
    for routed in &mesh.virtual_services.by_age {
        for host in &routed.hosts {
            by_host.entry(host).or_default().push(&routed.object);
        }
    }
    for (host, objects) in by_host {
        let [oldest, .., _] = &objects[..] else {
            continue;
        };
        let names = objects
            .iter()
            .map(|object| format!("{}/{}", object.meta.namespace, object.meta.name));
        let names = names.collect::<Vec<_>>().join(", ");
        for object in &objects {
            let hint = if object.key() == oldest.key() {
                "this one, the oldest, counts".to_owned()
            } else {
                format!(
                    "only the oldest, {}, counts: merge them into one",
                    short(&oldest.reference())
                )
            };
            found.push(report(
                object,
                Severity::Error,
                "IST0109",
                FieldPath::new("spec").field("hosts"),
                format!("the VirtualServices {names} associated with mesh gateway define the same host {host}"),
                hint,
            ));
        }
    }
}

fn short(object: &ObjectRef) -> String {
    format!("{}/{}", object.namespace, object.name)
}

fn competing_policies(mesh: &MeshSnapshot, found: &mut Vec<Diagnostic>) {
    for objects in mesh.peer_authentications.by_namespace.values() {
        let mut oldest: BTreeMap<Labels, &Arc<Object>> = BTreeMap::new();
        for object in objects {
            let Resource::PeerAuthentication(policy) = &object.resource else {
                continue;
            };
            let selector = policy.selector.clone().unwrap_or_default().match_labels;
            if let Some(older) = oldest.get(&selector) {
                found.push(competing_policy(object, older, &selector));
            } else {
                oldest.insert(selector, object);
            }
        }
    }
}

fn competing_policy(object: &Object, older: &Object, selector: &Labels) -> Diagnostic {
    let (workloads, field, remedy) = if selector.is_empty() {
        (
            "all workloads of the namespace".to_owned(),
            FieldPath::new("spec"),
            "delete one of them, or give one a selector",
        )
    } else {
        (
            format!("the workloads {}", pairs(selector)),
            FieldPath::new("spec").field("selector"),
            "delete one of them, or merge the two",
        )
    };
    let by = short(&older.reference());
    report(
        object,
        Severity::Warning,
        "MEL0201",
        field,
        format!("has no effect: {by} also applies to {workloads} and is older"),
        remedy.to_owned(),
    )
}

/// Rules of one namespace for one host merge, and of what two of them say the older counts (Istio's traffic management
/// practices, "Split large virtual services and destination rules").
fn competing_rules(mesh: &Mesh, snapshot: &MeshSnapshot, found: &mut Vec<Diagnostic>) {
    let merged = snapshot.destination_rules.by_namespace.values();
    for rule in merged.flat_map(|rules| rules.iter()) {
        if rule.from.len() < 2 {
            continue;
        }
        let objects: Vec<&Arc<Object>> = rule
            .from
            .iter()
            .filter_map(|origin| {
                mesh.objects_of(Kind::DestinationRule)
                    .find(|object| object.reference() == *origin)
            })
            .collect();
        for (i, object) in objects.iter().enumerate() {
            repeated(object, &objects[..i], found);
        }
    }
}

/// What a rule says in vain, because an older one for the host said it.
fn repeated(object: &Object, older: &[&Arc<Object>], found: &mut Vec<Diagnostic>) {
    let spec_of = |object: &Object| match &object.resource {
        Resource::DestinationRule(rule) => Some(rule.clone()),
        _ => None,
    };
    let Some(rule) = spec_of(object) else { return };
    let said = |by: &dyn Fn(&DestinationRule) -> bool| {
        let mut older = older.iter();
        older.find(|older| spec_of(older).is_some_and(|rule| by(&rule)))
    };
    let mut tell = |field: FieldPath, what: String, by: &Object| {
        found.push(report(
            object,
            Severity::Warning,
            "MEL0203",
            field,
            format!(
                "has no effect: {} is older and has {what} for the host {}",
                short(&by.reference()),
                rule.host
            ),
            "merge the two rules into one".to_owned(),
        ));
    };
    let spec = FieldPath::new("spec");
    for (i, subset) in rule.subsets.iter().enumerate() {
        let has_it = |older: &DestinationRule| {
            let mut subsets = older.subsets.iter();
            subsets.any(|older| older.name == subset.name)
        };
        if let Some(by) = said(&has_it) {
            let field = spec.field("subsets").index(i);
            tell(field, format!("a subset {}", subset.name), by);
        }
    }
    if rule.traffic_policy.is_some()
        && let Some(by) = said(&|older| older.traffic_policy.is_some())
    {
        tell(
            spec.field("trafficPolicy"),
            "a traffic policy".to_owned(),
            by,
        );
    }
}

fn shadowed_entry(mesh: &MeshSnapshot, object: &Object, found: &mut Vec<Diagnostic>) {
    let Resource::ServiceEntry(entry) = &object.resource else {
        return;
    };
    for (i, host) in entry.hosts.iter().enumerate() {
        let Ok(host) = Hostname::new(host) else {
            continue;
        };
        let Some(service) = mesh.service(&host) else {
            continue;
        };
        let same_namespace = service.namespace == object.meta.namespace;
        if service.origin == object.reference()
            || (same_namespace && service.origin.kind == Kind::Service.as_str())
        {
            continue;
        }
        found.push(report(
            object,
            Severity::Warning,
            "MEL0202",
            FieldPath::new("spec").field("hosts").index(i),
            format!(
                "{host} is already defined by {}, which counts",
                service.origin
            ),
            "merge the two, or use another host".to_owned(),
        ));
    }
}
