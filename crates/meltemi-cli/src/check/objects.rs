//! Reading the JSON of listed objects.

use serde_json::Value;

/// The text at a pointer; empty if there is none.
pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    let found = object.pointer(pointer).and_then(Value::as_str);
    found.unwrap_or_default()
}

pub(super) fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

pub(super) fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

pub(super) fn label<'a>(object: &'a Value, label: &str) -> &'a str {
    let value = object["metadata"]["labels"][label].as_str();
    value.unwrap_or_default()
}

pub(super) fn list<'a>(object: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    let found = object.pointer(pointer).and_then(Value::as_array);
    found.into_iter().flatten()
}

/// Whether a condition of an object's status is `True`; `None` if it says nothing of it.
pub(super) fn condition(object: &Value, wanted: &str) -> Option<bool> {
    let mut conditions = list(object, "/status/conditions");
    let found = conditions.find(|condition| condition["type"] == wanted)?;
    Some(found["status"] == "True")
}

pub(super) fn is_ending(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}

/// `namespace/name`
pub(super) fn id(object: &Value) -> String {
    format!("{}/{}", namespace(object), name(object))
}

/// The sidecar among a pod's containers.
pub(super) fn sidecar(pod: &Value) -> Option<&Value> {
    let mut all = list(pod, "/spec/containers").chain(list(pod, "/spec/initContainers"));
    all.find(|container| container["name"] == meltemi_core::names::PROXY_CONTAINER)
}
