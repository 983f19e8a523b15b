//! What cells of any kind of object are made of.

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::table::age;

pub(super) fn text(object: &Value, path: &str) -> String {
    match object.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

pub(super) fn number(object: &Value, path: &str) -> u64 {
    object.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

pub(super) fn or(text: String, default: &str) -> String {
    if text.is_empty() {
        default.to_owned()
    } else {
        text
    }
}

pub(super) fn or_none(text: String) -> String {
    or(text, "<none>")
}

pub(super) fn ratio(object: &Value, part: &str, whole: &str) -> String {
    let whole = object.pointer(whole).and_then(Value::as_u64).unwrap_or(1);
    format!("{}/{whole}", number(object, part))
}

pub(super) fn list(values: &Value) -> String {
    values
        .as_array()
        .filter(|values| !values.is_empty())
        .map_or_else(String::new, |values| {
            Value::from(values.clone()).to_string()
        })
}

pub(super) fn labels(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let text =
        |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    or_none(pairs.map(text).collect::<Vec<_>>().join(","))
}

pub(super) fn entries(map: &Value) -> String {
    map.as_object().map_or(0, serde_json::Map::len).to_string()
}

pub(super) fn containers(workload: &Value, field: &str) -> String {
    let containers = workload["spec"]["template"]["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten();
    containers
        .filter_map(|container| container[field].as_str())
        .collect::<Vec<_>>()
        .join(",")
}

pub(super) fn object_age(object: &Value) -> String {
    since(object, "/metadata/creationTimestamp")
}

/// How long ago the time at the path is.
pub(super) fn since(object: &Value, path: &str) -> String {
    let time: Option<Timestamp> = text(object, path).parse().ok();
    time.map_or_else(
        || "<unknown>".to_owned(),
        |time| age(Timestamp::now().as_second() - time.as_second()),
    )
}
