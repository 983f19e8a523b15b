//! Injection of whole documents, as `kube-inject` reads them: only the pod template changes, every other byte of meaning
//! stays, fields this version does not know included.

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use meltemi_core::{Diagnostic, ObjectRef};
use serde_json::Value;

use crate::workload::Workload;
use crate::{
    Decision, InjectionSettings, PodContext, Rejection, SkipReason, decide, inject, inject_template,
};

/// What became of one object of a document.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    pub object: ObjectRef,
    pub outcome: Outcome,
    pub warnings: Vec<Diagnostic>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Outcome {
    Injected,
    Skipped(SkipReason),
    /// The object is as it was; at least one error says why.
    Rejected(Vec<Diagnostic>),
    /// Its kind has no pods.
    NoPods,
}

/// Injects every workload of a document (a workload, a Pod, or a List of such) in place. Objects without a namespace belong to
/// `namespace`. Labels of namespaces have no say, as the user names the objects.
pub fn inject_document(
    document: &mut Value,
    namespace: &str,
    settings: &InjectionSettings,
) -> Vec<Report> {
    let kind = text(document, "/kind").to_owned();
    if let Some(items) = list_items(document, &kind) {
        let item_kind = kind.strip_suffix("List").unwrap_or_default().to_owned();
        let inject = |item: &mut Value| inject_item(item, &item_kind, namespace, settings);
        return items.iter_mut().flat_map(inject).collect();
    }
    vec![inject_object(document, &kind, namespace, settings)]
}

/// An item of a typed list (`DeploymentList`) may leave its kind out.
fn inject_item(
    item: &mut Value,
    kind: &str,
    namespace: &str,
    settings: &InjectionSettings,
) -> Vec<Report> {
    if item.get("kind").is_some() {
        inject_document(item, namespace, settings)
    } else {
        vec![inject_object(item, kind, namespace, settings)]
    }
}

fn list_items<'a>(document: &'a mut Value, kind: &str) -> Option<&'a mut Vec<Value>> {
    if !kind.ends_with("List") {
        return None;
    }
    document.get_mut("items")?.as_array_mut()
}

fn inject_object(
    document: &mut Value,
    kind: &str,
    default_namespace: &str,
    settings: &InjectionSettings,
) -> Report {
    let namespace = match text(document, "/metadata/namespace") {
        "" => default_namespace.to_owned(),
        namespace => namespace.to_owned(),
    };
    let name = text(document, "/metadata/name").to_owned();
    let object = ObjectRef::new(kind, &namespace, &name);
    let workload = Workload::new(text(document, "/apiVersion"), kind, &namespace, &name);
    let pointer = match kind {
        "Pod" => "",
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "Job"
        | "ReplicationController" => "/spec/template",
        "CronJob" => "/spec/jobTemplate/spec/template",
        _ => "-",
    };
    let (outcome, warnings) = match document.pointer_mut(pointer) {
        Some(part) if kind == "Pod" => inject_part(part, &namespace, settings, |pod: &Pod| {
            inject(pod, &namespace, settings).map(|done| (done.object, done.warnings))
        }),
        Some(part) => inject_part(part, &namespace, settings, |template: &PodTemplateSpec| {
            inject_template(template, &workload, settings).map(|done| (done.object, done.warnings))
        }),
        None => (Outcome::NoPods, Vec::new()),
    };
    Report {
        object,
        outcome,
        warnings,
    }
}

/// The two shapes that hold a pod.
trait HasPod: serde::Serialize + serde::de::DeserializeOwned {
    fn context<'a>(&'a self, namespace: &'a str) -> Option<PodContext<'a>>;
}

impl HasPod for Pod {
    fn context<'a>(&'a self, namespace: &'a str) -> Option<PodContext<'a>> {
        Some(PodContext {
            namespace,
            namespace_labels: None,
            metadata: &self.metadata,
            spec: self.spec.as_ref()?,
        })
    }
}

impl HasPod for PodTemplateSpec {
    fn context<'a>(&'a self, namespace: &'a str) -> Option<PodContext<'a>> {
        Some(PodContext {
            namespace,
            namespace_labels: None,
            metadata: self.metadata.as_ref().unwrap_or(&EMPTY),
            spec: self.spec.as_ref()?,
        })
    }
}

static EMPTY: std::sync::LazyLock<k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta> =
    std::sync::LazyLock::new(Default::default);

fn inject_part<T: HasPod>(
    part: &mut Value,
    namespace: &str,
    settings: &InjectionSettings,
    inject: impl FnOnce(&T) -> Result<(T, Vec<Diagnostic>), Rejection>,
) -> (Outcome, Vec<Diagnostic>) {
    let unreadable = |error: serde_json::Error| {
        let message = format!("the pod cannot be read: {error}");
        (
            Outcome::Rejected(vec![Diagnostic::error("IST0106", message)]),
            Vec::new(),
        )
    };
    let before: T = match serde_json::from_value(part.clone()) {
        Ok(before) => before,
        Err(error) => return unreadable(error),
    };
    if let Some(context) = before.context(namespace)
        && let Decision::Skip(reason) = decide(&context, settings)
    {
        return (Outcome::Skipped(reason), Vec::new());
    }
    let (after, warnings) = match inject(&before) {
        Ok(done) => done,
        Err(Rejection(diagnostics)) => return (Outcome::Rejected(diagnostics), Vec::new()),
    };
    let values = serde_json::to_value(&before).and_then(|b| Ok((b, serde_json::to_value(&after)?)));
    match values {
        Ok((before, after)) => {
            carry_over(part, &before, after);
            (Outcome::Injected, warnings)
        }
        Err(error) => unreadable(error),
    }
}

/// Applies the difference between two typed forms to what the user wrote: fields that the types do not know stay, in the
/// order of writing. Lists of named things are matched by name, other lists are replaced when they differ.
fn carry_over(written: &mut Value, before: &Value, after: Value) {
    if *before == after {
        return;
    }
    match (written, before, after) {
        (Value::Object(written), Value::Object(before), Value::Object(after)) => {
            written.retain(|key, _| after.contains_key(key) || !before.contains_key(key));
            for (key, value) in after {
                let before = before.get(&key).unwrap_or(&Value::Null);
                if *before != value {
                    carry_over(written.entry(key).or_insert(Value::Null), before, value);
                }
            }
        }
        (Value::Array(written), Value::Array(before), Value::Array(after)) => {
            let mut old: Vec<Option<Value>> = written.drain(..).map(Some).collect();
            for item in after {
                let index = before.iter().position(|known| same_name(known, &item));
                let found =
                    index.and_then(|index| Some((old.get_mut(index)?.take()?, before.get(index)?)));
                written.push(match found {
                    Some((mut was, before)) => {
                        carry_over(&mut was, before, item);
                        was
                    }
                    None => item,
                });
            }
        }
        (written, _, after) => *written = after,
    }
}

fn same_name(a: &Value, b: &Value) -> bool {
    let name = |value: &Value| Some(value.get("name")?.as_str()?.to_owned());
    name(a).is_some() && name(a) == name(b)
}

fn text<'a>(document: &'a Value, pointer: &str) -> &'a str {
    document
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[cfg(test)]
mod tests;
