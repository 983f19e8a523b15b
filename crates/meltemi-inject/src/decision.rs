use std::collections::BTreeMap;
use std::fmt;

use k8s_openapi::api::core::v1::PodSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_core::names::label;

use crate::{InjectionPolicy, InjectionSettings};

/// Namespaces in which nothing is ever injected (Istio `pkg/kube/inject`, ignored namespaces).
const SYSTEM_NAMESPACES: [&str; 4] = [
    "kube-system",
    "kube-public",
    "kube-node-lease",
    "local-path-storage",
];

/// What the decision looks at.
#[derive(Clone, Copy, Debug)]
pub struct PodContext<'a> {
    pub namespace: &'a str,
    /// Labels of the namespace; `None` when the user asked for this very object (`kube-inject`), and labels of the namespace
    /// have no say.
    pub namespace_labels: Option<&'a BTreeMap<String, String>>,
    pub metadata: &'a ObjectMeta,
    pub spec: &'a PodSpec,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    Inject,
    Skip(SkipReason),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SkipReason {
    HostNetwork,
    SystemNamespace(String),
    NamespaceNotLabelled,
    NamespaceDisabled,
    /// The namespace or the pod belongs to the control plane of this revision.
    OtherRevision(String),
    /// The pod's own label or annotation says no.
    OptedOut {
        by: &'static str,
        value: String,
    },
    NeverInjectSelector,
    PolicyDisabled,
}

impl fmt::Display for SkipReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => {
                f.write_str("the pod uses the node's network (spec.hostNetwork), which must not be redirected")
            }
            Self::SystemNamespace(namespace) => {
                write!(f, "namespace {namespace} belongs to the cluster and is never injected")
            }
            Self::NamespaceNotLabelled => f.write_str(
                "neither the namespace (istio-injection=enabled or istio.io/rev) nor the pod (sidecar.istio.io/inject=true) asks for it",
            ),
            Self::NamespaceDisabled => {
                f.write_str("the namespace is labelled istio-injection=disabled")
            }
            Self::OtherRevision(revision) => {
                write!(f, "it belongs to the control plane of revision {revision}")
            }
            Self::OptedOut { by, value } => {
                write!(f, "the pod's {by} sidecar.istio.io/inject is {value:?}")
            }
            Self::NeverInjectSelector => {
                f.write_str("the pod's labels match neverInjectSelector")
            }
            Self::PolicyDisabled => {
                f.write_str("the injection policy is disabled and the pod does not ask for it")
            }
        }
    }
}

/// Decides whether a pod gets a sidecar: first whether a webhook of this control plane would see it (namespace and object
/// selectors), then Istio's `injectRequired` in its order.
pub fn decide(pod: &PodContext<'_>, settings: &InjectionSettings) -> Decision {
    let skipped = never(pod)
        .or_else(|| unselected(pod, settings))
        .or_else(|| refused(pod, settings));
    skipped.map_or(Decision::Inject, Decision::Skip)
}

fn never(pod: &PodContext<'_>) -> Option<SkipReason> {
    if pod.spec.host_network == Some(true) {
        return Some(SkipReason::HostNetwork);
    }
    SYSTEM_NAMESPACES
        .contains(&pod.namespace)
        .then(|| SkipReason::SystemNamespace(pod.namespace.to_owned()))
}

/// The selectors of the webhooks `rev.namespace.`, `rev.object.`, `namespace.` and `object.`: a label on the namespace
/// decides before one on the pod, and `istio-injection` before `istio.io/rev`.
fn unselected(pod: &PodContext<'_>, settings: &InjectionSettings) -> Option<SkipReason> {
    let namespace = pod.namespace_labels?;
    let by_default = |owns: bool| (!owns).then(|| SkipReason::OtherRevision("default".to_owned()));
    let by_revision = |revision: &String| {
        (!settings.owns(revision)).then(|| SkipReason::OtherRevision(revision.clone()))
    };
    match namespace.get(label::ISTIO_INJECTION).map(String::as_str) {
        Some("enabled") => return by_default(settings.owns("default")),
        Some(_) => return Some(SkipReason::NamespaceDisabled),
        None => {}
    }
    if let Some(revision) = namespace.get(label::ISTIO_REV) {
        return by_revision(revision);
    }
    if let Some(revision) = pod_label(pod, label::ISTIO_REV) {
        return by_revision(revision);
    }
    match pod_label(pod, label::SIDECAR_INJECT) {
        Some(value) if is_yes(value) => by_default(settings.owns("default")),
        Some(value) => Some(opted_out("label", value)),
        None => Some(SkipReason::NamespaceNotLabelled),
    }
}

fn refused(pod: &PodContext<'_>, settings: &InjectionSettings) -> Option<SkipReason> {
    let annotations = pod.metadata.annotations.as_ref();
    let said = pod_label(pod, label::SIDECAR_INJECT)
        .map(|value| ("label", value))
        .or_else(|| Some(("annotation", annotations?.get(label::SIDECAR_INJECT)?)))
        .filter(|(_, value)| !value.is_empty());
    if let Some((by, value)) = said {
        return (!is_yes(value)).then(|| opted_out(by, value));
    }
    if selected(&settings.never_inject, pod) {
        return Some(SkipReason::NeverInjectSelector);
    }
    let enabled =
        settings.policy == InjectionPolicy::Enabled || selected(&settings.always_inject, pod);
    (!enabled).then_some(SkipReason::PolicyDisabled)
}

fn opted_out(by: &'static str, value: &str) -> SkipReason {
    SkipReason::OptedOut {
        by,
        value: value.to_owned(),
    }
}

/// Istio reads the YAML 1.1 words for true; anything else says no.
fn is_yes(value: &str) -> bool {
    ["y", "yes", "true", "on"].contains(&value.to_ascii_lowercase().as_str())
}

fn pod_label<'a>(pod: &PodContext<'a>, key: &str) -> Option<&'a String> {
    pod.metadata.labels.as_ref()?.get(key)
}

/// Whether one of the selectors, none of them empty, has all its labels on the pod.
fn selected(selectors: &[BTreeMap<String, String>], pod: &PodContext<'_>) -> bool {
    selectors.iter().any(|selector| {
        !selector.is_empty()
            && selector
                .iter()
                .all(|(key, value)| pod_label(pod, key) == Some(value))
    })
}

#[cfg(test)]
mod tests;
