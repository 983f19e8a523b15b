//! Sidecars among themselves, and what they name.

use std::collections::BTreeMap;
use std::sync::Arc;

use meltemi_core::{FieldPath, Hostname, Severity};

use super::{Pods, known_service, pairs, port_list, report, short};
use crate::{MeshSidecar, MeshSnapshot, Protocol};
use meltemi_core::Diagnostic;

/// Of two that are for the same workloads only the older is obeyed.
pub(super) fn conflicts(mesh: &MeshSnapshot, pods: &Pods, found: &mut Vec<Diagnostic>) {
    for (namespace, sidecars) in &mesh.sidecars.by_namespace {
        let for_all = |one: &&Arc<MeshSidecar>| one.selector().is_none();
        let without: Vec<_> = sidecars.iter().filter(for_all).collect();
        if without.len() > 1 {
            let names = names(&without);
            for one in &without {
                found.push(report(
                    &one.object,
                    Severity::Error,
                    "IST0111",
                    FieldPath::new("spec"),
                    format!(
                        "the Sidecars {names} in namespace {namespace} have no workload selector"
                    ),
                    remedy(one, &without),
                ));
            }
        }
        overlapping(namespace, sidecars, pods, found);
    }
}

fn overlapping(
    namespace: &str,
    sidecars: &[Arc<MeshSidecar>],
    pods: &Pods,
    found: &mut Vec<Diagnostic>,
) {
    let mut told: BTreeMap<String, Vec<&Arc<MeshSidecar>>> = BTreeMap::new();
    for labels in pods.selected(namespace, &[]) {
        let selecting = sidecars.iter().filter(|one| {
            let selector = one.selector();
            selector.is_some_and(|selector| selector.selects(labels))
        });
        let selecting: Vec<_> = selecting.collect();
        if selecting.len() > 1 {
            told.entry(names(&selecting)).or_insert(selecting);
        }
    }
    for (names, selecting) in told {
        for one in &selecting {
            found.push(report(
                &one.object,
                Severity::Error,
                "IST0110",
                FieldPath::new("spec").field("workloadSelector"),
                format!(
                    "the Sidecars {names} in namespace {namespace} select the same workload pods"
                ),
                remedy(one, &selecting),
            ));
        }
    }
}

fn names(sidecars: &[&Arc<MeshSidecar>]) -> String {
    let names = sidecars.iter().map(|one| one.object.meta.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

fn remedy(one: &MeshSidecar, all: &[&Arc<MeshSidecar>]) -> String {
    match all.first() {
        Some(oldest) if oldest.origin != one.origin => format!(
            "only the oldest, {}, counts: merge them into one",
            short(&oldest.origin)
        ),
        _ => "this one, the oldest, counts".to_owned(),
    }
}

/// What one of them says in vain.
pub(super) fn sidecar(
    mesh: &MeshSnapshot,
    pods: &Pods,
    sidecar: &MeshSidecar,
    found: &mut Vec<Diagnostic>,
) {
    let namespace = sidecar.namespace();
    let spec = FieldPath::new("spec");
    if let Some(selector) = sidecar.selector()
        && !pods.has(namespace, &[selector])
    {
        found.push(report(
            &sidecar.object,
            Severity::Error,
            "IST0101",
            spec.field("workloadSelector"),
            format!("referenced selector not found: \"{}\"", pairs(selector)),
            format!("no pod of {namespace} has these labels"),
        ));
    }
    for (i, egress) in sidecar.spec.egress.iter().enumerate() {
        let path = spec.field("egress").index(i);
        for (j, host) in egress.hosts.iter().enumerate() {
            let parts = host.split_once('/');
            let Some((of, name)) = parts.filter(|(of, _)| !of.starts_with('~')) else {
                continue;
            };
            let name = Hostname::new(name).ok();
            let named = name.filter(|name| !name.is_wildcard() && name.as_str().contains('.'));
            let Some(name) = named else { continue };
            let is_meant = |namespace_of_it: &str| match of {
                "*" => true,
                // In the root namespace it is every client's own.
                "." => [mesh.config.root_namespace.as_str(), namespace_of_it].contains(&namespace),
                of => namespace_of_it == of,
            };
            let is_routed = || {
                let routed = mesh.virtual_services.by_age.iter();
                let mut routed = routed.filter(|routed| is_meant(routed.namespace()));
                routed.any(|routed| routed.hosts.iter().any(|own| own.covers(&name)))
            };
            let Some(service) = mesh.service(&name).filter(|one| is_meant(&one.namespace)) else {
                if !is_routed() {
                    found.push(report(
                        &sidecar.object,
                        Severity::Warning,
                        "MEL0220",
                        path.field("hosts").index(j),
                        match of {
                            "*" => format!("no service is called {name}: the host imports nothing"),
                            "." => format!("no service of the workload's namespace is called {name}: the host imports nothing"),
                            of => format!("no service of {of} is called {name}: the host imports nothing"),
                        },
                        match known_service(mesh, &name) {
                            Some(near) => format!("write {}/{}", near.namespace, near.hostname),
                            None => super::near_hosts(mesh, name.as_str(), &name, namespace),
                        },
                    ));
                }
                continue;
            };
            let Some(port) = &egress.port else { continue };
            let of_number = |own: &&crate::ServicePort| u32::from(own.number) == port.number;
            let declared = Protocol::from_word(&port.protocol);
            match service.ports.iter().find(of_number) {
                None => found.push(report(
                    &sidecar.object,
                    Severity::Warning,
                    "MEL0220",
                    path.field("port").field("number"),
                    format!(
                        "{name} has no port {}: the host imports nothing",
                        port.number
                    ),
                    format!("its ports: {}", port_list(service)),
                )),
                Some(own) if declared.is_some_and(|declared| declared != own.protocol) => {
                    found.push(report(
                        &sidecar.object,
                        Severity::Warning,
                        "MEL0221",
                        path.field("port").field("protocol"),
                        format!(
                            "{} is not what port {} of {name} is declared to speak, which counts",
                            port.protocol, port.number
                        ),
                        "change the port's name or appProtocol in the Service, or leave the protocol out"
                            .to_owned(),
                    ));
                }
                Some(_) => {}
            }
        }
    }
}
