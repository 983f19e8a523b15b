//! The Deployment of each control plane, and what it reads.

use std::collections::BTreeSet;

use meltemi_api::istio::MeshConfig;
use meltemi_api::parse_message;
use meltemi_core::Severity;
use meltemi_core::names::{INJECTOR, ISTIOD, MESH_CONFIG_MAP, label, of_revision};
use meltemi_install::{Awaited, Waiting};
use serde_json::Value;

use super::facts::{Facts, Plane};
use super::objects::{condition, id, label as labelled, list, name, namespace, text};
use super::{Check, Finding, Section};

pub(super) const SECTION: Section = Section {
    title: "Control plane",
    checks: &[
        Check {
            id: "installed",
            what: "a control plane is installed",
            is_fatal: true,
            judge: installed,
        },
        Check {
            id: "definitions",
            what: "the definitions of Istio's kinds are there, and served",
            is_fatal: false,
            judge: definitions,
        },
        Check {
            id: "rolled-out",
            what: "its pods are up, and no old ones are left",
            is_fatal: false,
            judge: rolled_out,
        },
        Check {
            id: "pods-stable",
            what: "its pods have not been restarted",
            is_fatal: false,
            judge: stable,
        },
        Check {
            id: "one-version",
            what: "its instances answer, and are of this program's version",
            is_fatal: false,
            judge: versions,
        },
        Check {
            id: "service",
            what: "its Service has the ports of Istio's, and endpoints",
            is_fatal: false,
            judge: service,
        },
        Check {
            id: "mesh-config",
            what: "the mesh configuration is understood",
            is_fatal: false,
            judge: mesh_config,
        },
        Check {
            id: "injection-config",
            what: "the configuration of injection is understood",
            is_fatal: false,
            judge: injection_config,
        },
        Check {
            id: "autoscaler",
            what: "its autoscaler sees how busy it is",
            is_fatal: false,
            judge: autoscaler,
        },
    ],
};

fn installed(facts: &Facts) -> Vec<Finding> {
    if !facts.planes().is_empty() {
        return Vec::new();
    }
    let which = match &facts.revision {
        Some(revision) => format!("none of revision {revision}"),
        None => format!("no Deployment with app={ISTIOD}"),
    };
    let flag = facts.revision.iter();
    let flag: String = flag
        .map(|revision| format!(" --revision {revision}"))
        .collect();
    vec![Finding::error(
        format!("{which} is in the cluster"),
        format!("meltemi install --wait{flag}"),
    )]
}

fn definitions(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for wanted in meltemi_install::definitions() {
        let wanted_name = wanted.metadata.name.unwrap_or_default();
        let mut live = facts.definitions.iter();
        let Some(live) = live.find(|live| name(live) == wanted_name) else {
            findings.push(Finding::error(
                format!("{wanted_name} is not there"),
                "meltemi install",
            ));
            continue;
        };
        if condition(live, "Established") != Some(true) {
            findings.push(Finding::error(
                format!("{wanted_name} is not served"),
                format!("kubectl describe crd {wanted_name}"),
            ));
        }
        let served: BTreeSet<&str> = list(live, "/spec/versions")
            .filter(|version| version["served"] == true)
            .map(|version| text(version, "/name"))
            .collect();
        for version in &wanted.spec.versions {
            if !served.contains(version.name.as_str()) {
                findings.push(Finding::error(
                    format!("{wanted_name} has no version {}", version.name),
                    "meltemi install",
                ));
            }
        }
    }
    findings
}

fn rolled_out(facts: &Facts) -> Vec<Finding> {
    let planes = facts.planes().into_iter();
    planes
        .filter_map(|plane| {
            let reason = match Awaited::RolledOut.judge(plane.deployment) {
                Waiting::Done => return None,
                Waiting::For(reason) => format!("waits for {reason}"),
                Waiting::Failed(reason) => reason,
            };
            Some(Finding::error(
                format!("Deployment {} {reason}", id(plane.deployment)),
                format!(
                    "kubectl -n {} describe pods -l app={ISTIOD},{}={}",
                    plane.namespace,
                    label::ISTIO_REV,
                    plane.revision
                ),
            ))
        })
        .collect()
}

/// More than a node that was restarted explains.
const RESTART_LIMIT: u64 = 3;

fn stable(facts: &Facts) -> Vec<Finding> {
    let pods = facts.pods.iter();
    let pods = pods.filter(|pod| labelled(pod, "app") == ISTIOD);
    pods.filter_map(|pod| {
        let restarts = list(pod, "/status/containerStatuses");
        let restarts = restarts.filter_map(|status| status["restartCount"].as_u64());
        let restarts: u64 = restarts.sum();
        (restarts > RESTART_LIMIT).then(|| {
            Finding::warning(
                format!("pod {} has been, {restarts} times", id(pod)),
                format!(
                    "kubectl -n {} logs --previous {}",
                    namespace(pod),
                    name(pod)
                ),
            )
        })
    })
    .collect()
}

fn versions(facts: &Facts) -> Vec<Finding> {
    let own = env!("CARGO_PKG_VERSION");
    if facts.instances.is_empty() {
        return vec![Finding::error(
            "no instance answers on its monitoring port",
            format!("kubectl -n {} logs -l app={ISTIOD}", facts.place),
        )];
    }
    let instances = facts.instances.iter();
    let others = instances.filter(|(_, version)| version != own);
    others
        .map(|(pod, version)| {
            Finding::warning(
                format!("{pod} is of version {version}, this program of {own}"),
                "meltemi upgrade, or the meltemi of that version",
            )
        })
        .collect()
}

fn service(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for plane in facts.planes() {
        let wanted = of_revision(ISTIOD, plane.revision);
        let is_own = |object: &&Value| namespace(object) == plane.namespace;
        let mut services = facts.services.iter().filter(is_own);
        let Some(service) = services.find(|service| name(service) == wanted) else {
            findings.push(Finding::error(
                format!("Service {}/{wanted} is not there", plane.namespace),
                install(plane),
            ));
            continue;
        };
        let ports: Vec<u64> = list(service, "/spec/ports")
            .filter_map(|port| port["port"].as_u64())
            .collect();
        for port in [15012, 443, 15014]
            .into_iter()
            .filter(|port| !ports.contains(port))
        {
            findings.push(Finding::error(
                format!("Service {} has no port {port}", id(service)),
                install(plane),
            ));
        }
        let slices = facts.slices.iter().filter(is_own);
        let mut own = slices.filter(|slice| labelled(slice, label::SERVICE_NAME) == wanted);
        let is_ready = |slice: &Value| {
            list(slice, "/endpoints").any(|endpoint| endpoint["conditions"]["ready"] == true)
        };
        if !own.any(is_ready) {
            findings.push(Finding::error(
                format!("Service {} has no endpoint that is ready", id(service)),
                format!("kubectl -n {} get pods -l app={ISTIOD}", plane.namespace),
            ));
        }
    }
    findings
}

/// The command that makes what is missing of a control plane.
pub(super) fn install(plane: Plane<'_>) -> String {
    let mut command = "meltemi install".to_owned();
    if plane.revision != meltemi_core::names::DEFAULT_REVISION {
        command += &format!(" --revision {}", plane.revision);
    }
    if plane.namespace != meltemi_core::names::ISTIO_SYSTEM {
        command += &format!(" -i {}", plane.namespace);
    }
    command
}

fn mesh_config(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for plane in facts.planes() {
        let Some(map) = facts.map(plane, MESH_CONFIG_MAP) else {
            findings.push(missing(plane, MESH_CONFIG_MAP));
            continue;
        };
        let file = format!("ConfigMap {}", id(map));
        let (_, told) = parse_message::<MeshConfig>(&file, text(map, "/data/mesh"));
        findings.extend(told.iter().map(|problem| {
            let fix = format!("kubectl -n {} edit configmap {}", namespace(map), name(map));
            let reason = format!("{file}: {problem}");
            if problem.severity == Severity::Error {
                Finding::error(reason, fix)
            } else {
                Finding::warning(reason, fix)
            }
        }));
    }
    findings
}

fn missing(plane: Plane<'_>, map: &str) -> Finding {
    let name = of_revision(map, plane.revision);
    Finding::error(
        format!("ConfigMap {}/{name} is not there", plane.namespace),
        install(plane),
    )
}

fn injection_config(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for plane in facts.planes() {
        let Some(map) = facts.map(plane, INJECTOR) else {
            findings.push(missing(plane, INJECTOR));
            continue;
        };
        for key in ["config", "values"] {
            let written = text(map, &format!("/data/{key}"));
            if let Err(error) = serde_saphyr::from_str::<Value>(written) {
                findings.push(Finding::error(
                    format!("key {key} of ConfigMap {} is no YAML: {error}", id(map)),
                    install(plane),
                ));
            }
        }
    }
    findings
}

fn autoscaler(facts: &Facts) -> Vec<Finding> {
    let autoscalers = facts.autoscalers.iter();
    let blind = autoscalers.filter(|found| condition(found, "ScalingActive") == Some(false));
    blind
        .map(|found| {
            let fix =
                "install metrics-server, or meltemi install --set pilot.autoscaleEnabled=false";
            Finding::warning(
                format!("HorizontalPodAutoscaler {} does not", id(found)),
                fix,
            )
        })
        .collect()
}
