//! Pods and their sidecars.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_core::names::{INJECTOR, ISTIOD, PROXY_CONTAINER, label};
use meltemi_inject::{
    Decision, InjectionSettings, PodContext, annotation, decide, take_inject_config, take_values,
};
use serde::Deserialize as _;
use serde_json::Value;

use super::facts::{Facts, Plane};
use super::objects::{id, label as labelled, list, name, namespace, sidecar, text};
use super::{Check, Finding, Section};

pub(super) const SECTION: Section = Section {
    title: "Workloads",
    checks: &[
        Check {
            id: "pods-injected",
            what: "every pod that is to have a sidecar has one",
            is_fatal: false,
            judge: injected,
        },
        Check {
            id: "sidecars-wanted",
            what: "no pod has a sidecar of a revision that is gone",
            is_fatal: false,
            judge: orphaned,
        },
        Check {
            id: "sidecars-current",
            what: "sidecars are of the image that their revision injects",
            is_fatal: false,
            judge: images,
        },
        Check {
            id: "sidecars-ready",
            what: "every sidecar is ready",
            is_fatal: false,
            judge: ready,
        },
        Check {
            id: "sidecars-stable",
            what: "no sidecar ran out of memory",
            is_fatal: false,
            judge: killed,
        },
        Check {
            id: "proxies-connected",
            what: "every sidecar is connected to the control plane",
            is_fatal: false,
            judge: connected,
        },
        Check {
            id: "proxies-accept",
            what: "no proxy has rejected its configuration",
            is_fatal: false,
            judge: accepting,
        },
    ],
};

/// What a control plane injects by.
fn settings(facts: &Facts, plane: Plane<'_>) -> InjectionSettings {
    let tags = facts.tags().into_iter();
    let tags = tags.filter(|tag| tag.revision == plane.revision);
    let mut settings = InjectionSettings {
        revision: plane.revision.to_owned(),
        tags: tags.map(|tag| tag.tag).collect(),
        ..InjectionSettings::default()
    };
    let key = |key: &str| -> Value {
        let map = facts.map(plane, INJECTOR);
        let written = map.map_or("", |map| text(map, key));
        serde_saphyr::from_str(written).unwrap_or_default()
    };
    // What is not used there is said elsewhere.
    drop(take_inject_config(&mut settings, key("/data/config")));
    drop(take_values(&mut settings, key("/data/values")));
    settings
}

fn all_settings(facts: &Facts) -> Vec<InjectionSettings> {
    let planes = facts.planes().into_iter();
    planes.map(|plane| settings(facts, plane)).collect()
}

fn injected(facts: &Facts) -> Vec<Finding> {
    let all = all_settings(facts);
    let labels: BTreeMap<&str, BTreeMap<String, String>> = facts
        .namespaces
        .iter()
        .map(|found| {
            let labels = found["metadata"]["labels"].clone();
            (
                name(found),
                serde_json::from_value(labels).unwrap_or_default(),
            )
        })
        .collect();
    let lacking = facts.running().filter(|pod| {
        let no_labels = BTreeMap::new();
        let labels = labels.get(namespace(pod)).unwrap_or(&no_labels);
        sidecar(pod).is_none() && all.iter().any(|settings| is_wanted(pod, labels, settings))
    });
    lacking
        .map(|pod| {
            Finding::error(
                format!(
                    "pod {} has none: it is older than its namespace's label",
                    id(pod)
                ),
                restart(pod),
            )
        })
        .collect()
}

fn is_wanted(pod: &Value, labels: &BTreeMap<String, String>, settings: &InjectionSettings) -> bool {
    let metadata = ObjectMeta::deserialize(&pod["metadata"]);
    let spec = PodSpec::deserialize(&pod["spec"]);
    let (Ok(metadata), Ok(spec)) = (metadata, spec) else {
        return false;
    };
    let context = PodContext {
        namespace: namespace(pod),
        namespace_labels: Some(labels),
        metadata: &metadata,
        spec: &spec,
    };
    decide(&context, settings) == Decision::Inject
}

/// The command that makes a pod anew.
fn restart(pod: &Value) -> String {
    let place = namespace(pod);
    let owner = list(pod, "/metadata/ownerReferences").next();
    let (kind, owner) = owner.map_or(("", ""), |owner| {
        (text(owner, "/kind"), text(owner, "/name"))
    });
    match (kind, owner.rsplit_once('-')) {
        ("ReplicaSet", Some((deployment, _))) => {
            format!("kubectl -n {place} rollout restart deployment/{deployment}")
        }
        ("StatefulSet" | "DaemonSet", _) => {
            let kind = kind.to_lowercase();
            format!("kubectl -n {place} rollout restart {kind}/{owner}")
        }
        _ => format!(
            "kubectl -n {place} delete pod {}, and make it anew",
            name(pod)
        ),
    }
}

/// Pods with a sidecar, and the revision that injected it.
fn meshed(facts: &Facts) -> impl Iterator<Item = (&Value, &Value, &str)> {
    facts.running().filter_map(|pod| {
        let annotations = &pod["metadata"]["annotations"];
        let revision = annotations[annotation::REVISION].as_str();
        Some((pod, sidecar(pod)?, revision.unwrap_or_default()))
    })
}

fn orphaned(facts: &Facts) -> Vec<Finding> {
    let is_there = |revision: &str| {
        let mut deployments = facts.deployments.iter();
        deployments.any(|found| labelled(found, label::ISTIO_REV) == revision)
    };
    let lost = meshed(facts).filter(|(.., revision)| !is_there(revision));
    lost.map(|(pod, _, revision)| {
        Finding::error(
            format!("pod {} has one of revision \"{revision}\"", id(pod)),
            restart(pod),
        )
    })
    .collect()
}

fn images(facts: &Facts) -> Vec<Finding> {
    let all = all_settings(facts);
    meshed(facts)
        .filter_map(|(pod, sidecar, revision)| {
            let meant = all.iter().find(|settings| settings.revision == revision)?;
            let is_own_choice = pod["metadata"]["annotations"]
                .get("sidecar.istio.io/proxyImage")
                .is_some();
            let image = text(sidecar, "/image");
            (image != meant.proxy_image && !is_own_choice).then(|| {
                Finding::warning(
                    format!("pod {} has {image}, not {}", id(pod), meant.proxy_image),
                    restart(pod),
                )
            })
        })
        .collect()
}

/// What the kubelet says of a pod's sidecar.
fn status(pod: &Value) -> Option<&Value> {
    let statuses = list(pod, "/status/containerStatuses");
    let mut all = statuses.chain(list(pod, "/status/initContainerStatuses"));
    all.find(|status| status["name"] == PROXY_CONTAINER)
}

fn ready(facts: &Facts) -> Vec<Finding> {
    let waiting = meshed(facts).filter(|(pod, ..)| {
        let status = status(pod);
        status.is_some_and(|status| status["ready"] != true)
    });
    waiting
        .map(|(pod, ..)| {
            Finding::error(
                format!("that of pod {} is not", id(pod)),
                format!(
                    "kubectl -n {} logs {} -c {PROXY_CONTAINER}",
                    namespace(pod),
                    name(pod)
                ),
            )
        })
        .collect()
}

fn killed(facts: &Facts) -> Vec<Finding> {
    let killed = meshed(facts).filter(|(pod, ..)| {
        status(pod).is_some_and(|status| {
            let last = &status["lastState"]["terminated"];
            last["reason"] == "OOMKilled"
        })
    });
    killed
        .map(|(pod, ..)| {
            Finding::warning(
                format!("that of pod {} did", id(pod)),
                "raise it with the annotation sidecar.istio.io/proxyMemoryLimit, or global.proxy.resources.limits.memory",
            )
        })
        .collect()
}

fn connected(facts: &Facts) -> Vec<Finding> {
    let Some(proxies) = &facts.proxies else {
        return vec![Finding::error(
            "no control plane says who is",
            format!("kubectl -n {} logs -l app={ISTIOD}", facts.place),
        )];
    };
    let planes = facts.planes();
    let is_asked = |revision: &str| planes.iter().any(|plane| plane.revision == revision);
    let absent = meshed(facts).filter(|(pod, _, revision)| {
        let proxy = format!("{}.{}", name(pod), namespace(pod));
        let mut proxies = proxies.iter();
        is_asked(revision) && !proxies.any(|known| known["proxy"] == *proxy)
    });
    absent
        .map(|(pod, ..)| {
            Finding::error(
                format!("that of pod {} is not", id(pod)),
                format!(
                    "kubectl -n {} logs {} -c {PROXY_CONTAINER}",
                    namespace(pod),
                    name(pod)
                ),
            )
        })
        .collect()
}

fn accepting(facts: &Facts) -> Vec<Finding> {
    let proxies = facts.proxies.iter().flatten();
    let mut findings = Vec::new();
    for proxy in proxies {
        let errors = proxy.as_object().into_iter().flatten();
        let errors = errors.filter(|(field, error)| {
            field.ends_with("_error") && error.as_str().is_some_and(|error| !error.is_empty())
        });
        for (_, error) in errors {
            let pod = text(proxy, "/proxy");
            findings.push(Finding::error(
                format!("{pod}: {}", error.as_str().unwrap_or_default()),
                format!("meltemi proxy-status {pod} -v 1, and meltemi analyze -A"),
            ));
        }
    }
    findings
}
