//! Whether a control plane can be installed, or upgraded.

use meltemi_core::names::{DEFAULT_REVISION, label};
use meltemi_install::TAG;

use super::facts::Facts;
use super::objects::{id, is_ending, label as labelled, list, name, namespace, text};
use super::{Check, Finding, Section};

pub(super) const SECTION: Section = Section {
    title: "Before an installation",
    checks: &[
        Check {
            id: "may-install",
            what: "you may make every object of an installation",
            is_fatal: false,
            judge: rights,
        },
        Check {
            id: "namespace-lives",
            what: "the control plane's namespace is not about to go",
            is_fatal: false,
            judge: ending,
        },
        Check {
            id: "no-other-owner",
            what: "no other program looks after this control plane",
            is_fatal: false,
            judge: owner,
        },
        Check {
            id: "definitions-free",
            what: "the definitions of Istio's kinds are not in the way",
            is_fatal: false,
            judge: definitions,
        },
        Check {
            id: "one-injector",
            what: "no other control plane injects by istio-injection=enabled",
            is_fatal: false,
            judge: injectors,
        },
        Check {
            id: "pod-security",
            what: "namespaces with injection let sidecars set up redirection",
            is_fatal: false,
            judge: pod_security,
        },
        Check {
            id: "pods-can-be-injected",
            what: "no pod of an injected namespace has the proxy's uid or a host network",
            is_fatal: false,
            judge: pods,
        },
    ],
};

fn rights(facts: &Facts) -> Vec<Finding> {
    let denied = facts.denied.iter();
    denied
        .map(|what| {
            let fix =
                "kubectl create clusterrolebinding NAME --clusterrole=cluster-admin --user=YOU";
            Finding::error(format!("you may not {what}"), fix)
        })
        .collect()
}

fn ending(facts: &Facts) -> Vec<Finding> {
    let mut namespaces = facts.namespaces.iter();
    let own = namespaces.find(|found| name(found) == facts.place);
    let ending = own.filter(|own| is_ending(own)).into_iter();
    ending
        .map(|own| {
            let name = name(own);
            Finding::error(
                format!("namespace {name} is being deleted"),
                format!("kubectl wait --for=delete namespace/{name} --timeout=5m"),
            )
        })
        .collect()
}

fn owner(facts: &Facts) -> Vec<Finding> {
    let revision = facts.revision.as_deref().unwrap_or(DEFAULT_REVISION);
    let deployments = facts.deployments.iter();
    let own = deployments.filter(|found| {
        let of = labelled(found, label::ISTIO_REV);
        namespace(found) == facts.place && (of == revision || of.is_empty())
    });
    own.filter_map(
        |found| match labelled(found, "app.kubernetes.io/managed-by") {
            "meltemi" => None,
            "Helm" => Some(Finding::warning(
                format!("Deployment {} is Helm's", id(found)),
                "helm upgrade, with the chart of this version",
            )),
            _ => Some(Finding::error(
                format!(
                    "Deployment {} is one that meltemi has not installed",
                    id(found)
                ),
                "meltemi install --revision NAME, which installs beside it",
            )),
        },
    )
    .collect()
}

fn definitions(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let wanted = facts.wanted.iter();
    for wanted in wanted.filter(|object| object.kind == "CustomResourceDefinition") {
        let mut live = facts.definitions.iter();
        let Some(live) = live.find(|live| name(live) == wanted.name) else {
            continue;
        };
        if is_ending(live) {
            findings.push(Finding::error(
                format!("definition {} is being deleted", wanted.name),
                format!("kubectl wait --for=delete crd/{} --timeout=5m", wanted.name),
            ));
        }
        let new: Vec<&str> = list(&wanted.content, "/spec/versions")
            .map(|version| text(version, "/name"))
            .collect();
        let stored = list(live, "/status/storedVersions").filter_map(|version| version.as_str());
        for version in stored.filter(|version| !new.contains(version)) {
            findings.push(Finding::error(
                format!(
                    "objects of {} are stored in version {version}, which this program has not",
                    wanted.name
                ),
                format!("write them again in version {}, then take {version} out of the definition's status.storedVersions", new.first().unwrap_or(&"v1")),
            ));
        }
    }
    findings
}

fn injectors(facts: &Facts) -> Vec<Finding> {
    let revision = facts.revision.as_deref().unwrap_or(DEFAULT_REVISION);
    if revision != DEFAULT_REVISION {
        return Vec::new();
    }
    let injectors = facts.injectors.iter();
    let others = injectors.filter(|webhooks| {
        let is_unmarked = list(webhooks, "/webhooks").any(|webhook| {
            let mut selected = list(webhook, "/namespaceSelector/matchExpressions");
            selected.any(|one| one["key"] == label::ISTIO_INJECTION && one["operator"] == "In")
        });
        let is_tag = !labelled(webhooks, TAG).is_empty();
        let service = text(webhooks, "/webhooks/0/clientConfig/service/namespace");
        is_unmarked && !is_tag && service != facts.place
    });
    others
        .map(|webhooks| {
            Finding::error(
                format!("{} does", name(webhooks)),
                "meltemi install --revision NAME, and label namespaces with istio.io/rev=NAME",
            )
        })
        .collect()
}

/// The first container of an injected pod sets up redirection, for which it needs NET_ADMIN.
fn pod_security(facts: &Facts) -> Vec<Finding> {
    let namespaces = facts.namespaces.iter();
    let injected = namespaces.filter(|found| {
        labelled(found, label::ISTIO_INJECTION) == "enabled"
            || !labelled(found, label::ISTIO_REV).is_empty()
    });
    injected
        .filter_map(|found| {
            let enforced = labelled(found, "pod-security.kubernetes.io/enforce");
            let name = name(found);
            ["baseline", "restricted"].contains(&enforced).then(|| {
                Finding::error(
                    format!("namespace {name} enforces \"{enforced}\", which forbids NET_ADMIN"),
                    format!("kubectl label --overwrite namespace {name} pod-security.kubernetes.io/enforce=privileged"),
                )
            })
        })
        .collect()
}

fn pods(facts: &Facts) -> Vec<Finding> {
    let is_injected = |pod: &&serde_json::Value| {
        let mut namespaces = facts.namespaces.iter();
        let own = namespaces.find(|found| name(found) == namespace(pod));
        own.is_some_and(|own| {
            labelled(own, label::ISTIO_INJECTION) == "enabled"
                || !labelled(own, label::ISTIO_REV).is_empty()
        })
    };
    let mut findings = Vec::new();
    for pod in facts.running().filter(is_injected) {
        let proxy_uid = u64::from(meltemi_core::names::PROXY_UID);
        let mut containers = list(pod, "/spec/containers");
        let own = containers.find(|container| {
            container["name"] != meltemi_core::names::PROXY_CONTAINER
                && container["securityContext"]["runAsUser"] == proxy_uid
        });
        if let Some(own) = own {
            findings.push(Finding::error(
                format!(
                    "container {} of pod {} runs as uid {proxy_uid}: its traffic goes past the sidecar",
                    text(own, "/name"),
                    id(pod)
                ),
                "give it another securityContext.runAsUser",
            ));
        }
        if pod["spec"]["hostNetwork"] == true {
            findings.push(Finding::warning(
                format!(
                    "pod {} uses the node's network and gets no sidecar",
                    id(pod)
                ),
                "take spec.hostNetwork out, or leave it outside of the mesh",
            ));
        }
    }
    findings
}
