//! What selectors find: pods that are there, and pods that workloads will make.

use meltemi_api::{Object, Resource, did_you_mean};
use meltemi_core::{Diagnostic, FieldPath, Labels, Severity};

use super::{pairs, report};
use crate::{Mesh, service_entry};

/// Labels by namespace: of pods, of the templates of workloads, and of WorkloadEntries.
pub(super) struct Pods(Vec<(String, Labels)>);

impl Pods {
    pub(super) fn of(mesh: &Mesh) -> Self {
        let labelled = |object: &std::sync::Arc<Object>| {
            let labels = labels(object)?;
            Some((object.meta.namespace.clone(), labels))
        };
        Self(mesh.objects().filter_map(labelled).collect())
    }

    /// All, each with its namespace.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &Labels)> {
        self.0
            .iter()
            .map(|(namespace, labels)| (namespace.as_str(), labels))
    }

    /// Whether one of a namespace has the labels of every selector.
    pub(super) fn has(&self, namespace: &str, selectors: &[&Labels]) -> bool {
        self.selected(namespace, selectors).next().is_some()
    }

    /// The labels of those of a namespace that have the labels of every selector.
    pub(super) fn selected(
        &self,
        namespace: &str,
        selectors: &[&Labels],
    ) -> impl Iterator<Item = &Labels> {
        let in_namespace = move |(own, _): &&(String, Labels)| own == namespace;
        self.0
            .iter()
            .filter(in_namespace)
            .map(|(_, labels)| labels)
            .filter(move |labels| selectors.iter().all(|selector| selector.selects(labels)))
    }

    /// Those of any namespace that have the labels of a selector, each with its namespace.
    pub(super) fn with(&self, selector: &Labels) -> impl Iterator<Item = (&str, &Labels)> {
        let selected = self.0.iter().filter(|(_, labels)| selector.selects(labels));
        selected.map(|(namespace, labels)| (namespace.as_str(), labels))
    }

    /// The namespaces of those, of any namespace, that have the labels of a selector.
    pub(super) fn namespaces_with(&self, selector: &Labels) -> impl Iterator<Item = &str> {
        let selected = self.0.iter().filter(|(_, labels)| selector.selects(labels));
        selected.map(|(namespace, _)| namespace.as_str())
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &Labels> {
        self.0.iter().map(|(_, labels)| labels)
    }

    fn values<'a>(&'a self, namespace: &'a str, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0
            .iter()
            .filter(move |(own, _)| own == namespace)
            .filter_map(move |(_, labels)| labels.get(key))
    }
}

/// The labels of the pods that an object is or makes.
fn labels(object: &Object) -> Option<Labels> {
    let template = match &object.resource {
        Resource::Pod(_) => return Some(object.meta.labels.clone()),
        Resource::WorkloadEntry(entry) => {
            return Some(service_entry::workload_entry_labels(object, entry));
        }
        Resource::Deployment(own) => Some(own.spec.as_ref()?.template.clone()),
        Resource::StatefulSet(own) => Some(own.spec.as_ref()?.template.clone()),
        Resource::ReplicaSet(own) => own.spec.as_ref()?.template.clone(),
        Resource::Job(own) => Some(own.spec.as_ref()?.template.clone()),
        _ => None,
    };
    let labels = template?.metadata?.labels.unwrap_or_default();
    Some(labels.into_iter().collect())
}

/// A Service whose selector finds nothing answers nobody.
pub(super) fn service(pods: &Pods, object: &Object, found: &mut Vec<Diagnostic>) {
    let Resource::Service(service) = &object.resource else {
        return;
    };
    let selector = service.spec.as_ref().and_then(|spec| spec.selector.clone());
    let selector = Labels::from(selector.unwrap_or_default());
    let namespace = &object.meta.namespace;
    if selector.is_empty() || pods.has(namespace, &[&selector]) {
        return;
    }
    let near = selector.iter().find_map(|(key, value)| {
        let near = did_you_mean(value, pods.values(namespace, key))?;
        (near != value).then(|| format!("did you mean {key}={near}?"))
    });
    let hint = near.unwrap_or_else(|| {
        format!(
            "give the pods of {namespace} the labels {}, or change the selector",
            pairs(&selector)
        )
    });
    found.push(report(
        object,
        Severity::Warning,
        "MEL0204",
        FieldPath::new("spec").field("selector"),
        "the selector finds no pod, and no workload that makes one".to_owned(),
        hint,
    ));
}
