//! A tree whose kind and name are known, as an [`Object`].

use std::sync::Arc;

use k8s_openapi::Metadata;
use meltemi_core::{FieldPath, Severity};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Report;
use crate::decode::{Problem, decode};
use crate::object::{Kind, Meta, Object, ObjectKey, Resource};
use crate::pod::{self, Pod};
use crate::source::Source;
use crate::tree::{Node, Value};
use crate::{istio, k8s, support, validate};

/// `None` if it has errors, which are reported.
pub(super) fn read(key: &ObjectKey, tree: Node, report: &mut Report) -> Option<Object> {
    let (meta, resource) = match key.kind {
        Kind::Namespace => kubernetes::<k8s::Namespace>(key, &tree, report),
        Kind::ServiceAccount => kubernetes::<k8s::ServiceAccount>(key, &tree, report),
        Kind::ConfigMap => kubernetes::<k8s::ConfigMap>(key, &tree, report),
        Kind::Secret => kubernetes::<k8s::Secret>(key, &tree, report),
        Kind::Service => kubernetes::<k8s::Service>(key, &tree, report),
        Kind::Pod => pod(key, &tree, report),
        Kind::Node => {
            let (meta, _) = content::<k8s::Node>(key, &tree, report)?;
            Some((meta, pod::Node.into()))
        }
        Kind::EndpointSlice => kubernetes::<k8s::EndpointSlice>(key, &tree, report),
        Kind::Deployment => kubernetes::<k8s::Deployment>(key, &tree, report),
        Kind::StatefulSet => kubernetes::<k8s::StatefulSet>(key, &tree, report),
        Kind::ReplicaSet => kubernetes::<k8s::ReplicaSet>(key, &tree, report),
        Kind::Job => kubernetes::<k8s::Job>(key, &tree, report),
        Kind::PeerAuthentication => istio::<istio::PeerAuthentication>(key, &tree, report),
        Kind::AuthorizationPolicy => istio::<istio::AuthorizationPolicy>(key, &tree, report),
        Kind::RequestAuthentication => istio::<istio::RequestAuthentication>(key, &tree, report),
        Kind::DestinationRule => istio::<istio::DestinationRule>(key, &tree, report),
        Kind::VirtualService => istio::<istio::VirtualService>(key, &tree, report),
        Kind::Gateway => istio::<istio::Gateway>(key, &tree, report),
        Kind::Sidecar => istio::<istio::Sidecar>(key, &tree, report),
        Kind::ServiceEntry => istio::<istio::ServiceEntry>(key, &tree, report),
        Kind::WorkloadEntry => istio::<istio::WorkloadEntry>(key, &tree, report),
    }?;
    validate::object(&tree, &resource, report);
    if report.has_errors() {
        return None;
    }
    let source = is_written_by_people(&resource)
        .then(|| Arc::new(Source::new(Arc::clone(&report.text), tree, report.quotable)));
    Some(Object {
        meta,
        resource,
        source,
    })
}

/// What counts of a refused object for those who have no earlier version of it: one that nobody understands must not leave open
/// what it was written to close.
pub(super) fn stand_in(key: &ObjectKey, tree: &Node) -> Option<Object> {
    let resource = match key.kind {
        Kind::AuthorizationPolicy => closed_policy(tree)?.into(),
        Kind::Sidecar => narrow_sidecar(tree)?.into(),
        _ => return None,
    };
    let meta = Meta {
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        ..Meta::default()
    };
    Some(Object {
        meta,
        resource,
        source: None,
    })
}

/// An AuthorizationPolicy that selects the same workloads, as far as that can be read, and allows nothing. None for those that
/// would decide nothing, and for those of targets, which are no workloads of ours.
fn closed_policy(tree: &Node) -> Option<istio::AuthorizationPolicy> {
    let spec = FieldPath::new("spec");
    let says = |path: &FieldPath, wanted: &str, means: &dyn Fn(&str) -> bool| {
        let mut texts = tree.texts(path).into_iter();
        texts.any(|(name, value)| name == wanted && means(&value))
    };
    let annotations = FieldPath::new("metadata").field("annotations");
    let is_dry_run = |text: &str| istio::AuthorizationPolicy::parse_dry_run(text) == Some(true);
    if ["targetRef", "targetRefs"]
        .iter()
        .any(|name| tree.has(&spec.field(name)))
        || says(&spec, "action", &|action| action == "AUDIT")
        || says(&annotations, "istio.io/dry-run", &is_dry_run)
    {
        return None;
    }
    let labels = tree.texts(&spec.field("selector").field("matchLabels"));
    Some(istio::AuthorizationPolicy {
        selector: Some(istio::LabelSelector {
            match_labels: labels.into_iter().collect(),
        }),
        ..istio::AuthorizationPolicy::default()
    })
}

/// A Sidecar with the readable part of what its workloads may call, and nothing in the place of the rest. What it says of their
/// own ports is left out: they are served as their services say. None for one that narrows nothing.
fn narrow_sidecar(tree: &Node) -> Option<istio::Sidecar> {
    let spec = tree.get("spec")?;
    let written = |name: &str| spec.get(name).filter(|node| !node.is_null());
    let selector = FieldPath::new("spec").field("workloadSelector");
    let workload_selector = tree.has(&selector).then(|| {
        let labels = tree.texts(&selector.field("labels"));
        istio::WorkloadSelector {
            labels: labels.into_iter().collect(),
        }
    });
    let outbound_traffic_policy = written("outboundTrafficPolicy").map(readable_policy);
    let egress = written("egress").map(readable_egress).unwrap_or_default();
    if egress.is_empty() && outbound_traffic_policy.is_none() {
        return None;
    }
    Some(istio::Sidecar {
        workload_selector,
        egress,
        outbound_traffic_policy,
        ..istio::Sidecar::default()
    })
}

/// REGISTRY_ONLY, if it cannot be read.
fn readable_policy(node: &Node) -> istio::SidecarOutboundPolicy {
    let (policy, problems) =
        decode::<istio::SidecarOutboundPolicy>(node, &FieldPath::default(), &|_| false);
    let is_whole = |policy: &istio::SidecarOutboundPolicy| {
        let proxy = policy.egress_proxy.as_ref();
        problems.is_empty() && proxy.is_none_or(|proxy| proxy.port.is_some())
    };
    policy.filter(is_whole).unwrap_or_default()
}

fn readable_egress(node: &Node) -> Vec<istio::EgressListener> {
    if !matches!(node.value, Value::List(_)) {
        return vec![importing_nothing(None)];
    }
    let mut listeners: Vec<_> = node.items().iter().map(readable_listener).collect();
    let number = |one: &istio::EgressListener| one.port.as_ref().map(|port| port.number);
    let numbers: Vec<_> = listeners.iter().map(number).collect();
    // Of two for the same port nobody can tell which was meant.
    for listener in &mut listeners {
        let own = number(listener);
        if numbers.iter().filter(|other| **other == own).count() > 1 {
            *listener = importing_nothing(listener.port.take());
        }
    }
    listeners
}

fn readable_listener(node: &Node) -> istio::EgressListener {
    let is_aside = |field: &FieldPath| matches!(field.as_str(), "captureMode" | "bind");
    let (listener, _) = decode::<istio::EgressListener>(node, &FieldPath::default(), &is_aside);
    let Some(mut listener) = listener else {
        return importing_nothing(None);
    };
    let port = listener.port.as_ref();
    if port.is_some_and(|port| !(1..=0xffff).contains(&port.number)) {
        return importing_nothing(None);
    }
    let is_read = |host: &String| validate::is_egress_host(host);
    let leaves_out = |host: &&String| host.starts_with('~');
    if !listener.hosts.iter().filter(leaves_out).all(is_read) {
        return importing_nothing(listener.port);
    }
    listener.hosts.retain(is_read);
    match listener.hosts.is_empty() {
        true => importing_nothing(listener.port),
        false => listener,
    }
}

fn importing_nothing(port: Option<istio::SidecarPort>) -> istio::EgressListener {
    istio::EgressListener {
        port,
        hosts: vec!["~/*".to_owned()],
        ..istio::EgressListener::default()
    }
}

/// What controllers write is looked at nowhere, and there is much of it.
fn is_written_by_people(resource: &Resource) -> bool {
    match resource {
        Resource::Pod(pod) => pod.status.is_none(),
        Resource::EndpointSlice(_) | Resource::Node(_) => false,
        _ => true,
    }
}

/// Kubernetes tolerates unknown fields of its own kinds where the mesh is concerned: a newer API must not stop a Service.
fn kubernetes<T>(key: &ObjectKey, tree: &Node, report: &mut Report) -> Option<(Meta, Resource)>
where
    T: DeserializeOwned + Metadata<Ty = k8s::ObjectMeta> + Into<Resource>,
{
    let (meta, content) = content::<T>(key, tree, report)?;
    let mut resource = content.into();
    if let Resource::Secret(secret) = &mut resource {
        merge_string_data(secret);
    }
    Some((meta, resource))
}

fn pod(key: &ObjectKey, tree: &Node, report: &mut Report) -> Option<(Meta, Resource)> {
    let (meta, pod) = content::<k8s::Pod>(key, tree, report)?;
    validate::pod(tree, &pod, report);
    Some((meta, Pod::from(pod).into()))
}

fn content<T>(key: &ObjectKey, tree: &Node, report: &mut Report) -> Option<(Meta, T)>
where
    T: DeserializeOwned + Metadata<Ty = k8s::ObjectMeta>,
{
    let (content, mut problems) = decode::<T>(tree, &FieldPath::default(), &|_| false);
    problems.iter_mut().for_each(explain_bytes);
    report.problems(tree, problems, Severity::Warning);
    let mut content = content?;
    if !key.namespace.is_empty() {
        content.metadata_mut().namespace = Some(key.namespace.clone());
    }
    Some((meta(key, content.metadata()), content))
}

/// The values of `data` and `binaryData` that are no text are base64 (RFC 4648).
fn explain_bytes(problem: &mut Problem) {
    let path = problem.path.as_str();
    let is_bytes = path.starts_with("data[") || path.starts_with("binaryData[");
    if is_bytes && problem.hint.is_empty() {
        problem.message = "the value is not base64".to_owned();
        problem.hint = "encode it, or write it as plain text (stringData of a Secret)".to_owned();
    }
}

/// As the API server does on writing: `stringData` is the same data in readable form, and wins.
fn merge_string_data(secret: &mut k8s::Secret) {
    let texts = secret.string_data.take().unwrap_or_default();
    let data = secret.data.get_or_insert_default();
    data.extend(
        texts
            .into_iter()
            .map(|(key, text)| (key, k8s_openapi::ByteString(text.into_bytes()))),
    );
}

/// The frame of an Istio object.
#[derive(Deserialize)]
#[serde(bound = "T: DeserializeOwned + Default")]
struct Frame<T> {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    metadata: k8s::ObjectMeta,
    #[serde(default)]
    spec: T,
    /// Written by the control plane only; what a file says here is not looked at.
    #[serde(default, rename = "status")]
    _status: Option<()>,
}

fn istio<T>(key: &ObjectKey, tree: &Node, report: &mut Report) -> Option<(Meta, Resource)>
where
    T: DeserializeOwned + Default + Into<Resource>,
{
    let is_unsupported = |field: &FieldPath| support::is_unsupported(key.kind, field);
    report.unsupported(tree, &is_unsupported);
    let skip = |field: &FieldPath| is_unsupported(field) || field.as_str() == "status";
    let (frame, problems) = decode::<Frame<T>>(tree, &FieldPath::default(), &skip);
    report.problems(tree, problems, Severity::Error);
    let frame = frame?;
    Some((meta(key, &frame.metadata), frame.spec.into()))
}

fn meta(key: &ObjectKey, metadata: &k8s::ObjectMeta) -> Meta {
    Meta {
        name: key.name.clone(),
        namespace: key.namespace.clone(),
        labels: metadata.labels.iter().flatten().collect(),
        annotations: metadata.annotations.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0),
        uid: metadata.uid.clone().unwrap_or_default(),
        generation: metadata.generation.unwrap_or_default(),
    }
}
