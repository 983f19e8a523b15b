//! What a proxy holds against what the control plane means it to hold.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Value, json};

use crate::proxy_config::dump::{Dump, text};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Report([Section; 3]);

#[derive(Clone, Debug, PartialEq)]
struct Section {
    title: &'static str,
    differences: Vec<Difference>,
}

#[derive(Clone, Debug, PartialEq)]
struct Difference {
    resource: String,
    what: What,
}

#[derive(Clone, Debug, PartialEq)]
enum What {
    /// The control plane would send it; the proxy does not hold it.
    Missing,
    /// The proxy holds it; the control plane would not send it.
    Surplus,
    /// The pointer of the first field that differs.
    Field(String),
}

pub(super) fn compare(meant: &Dump, held: &Dump) -> Report {
    let section = |title, meant: Vec<&Value>, held: Vec<&Value>| Section {
        title,
        differences: differences(&by_name(meant), &by_name(held)),
    };
    Report([
        section("Clusters", meant.clusters(), held.clusters()),
        section("Listeners", meant.listeners(), held.listeners()),
        section("Routes", meant.routes(), held.routes()),
    ])
}

fn by_name(resources: Vec<&Value>) -> BTreeMap<&str, &Value> {
    resources
        .into_iter()
        .map(|resource| (text(resource, "/name"), resource))
        .collect()
}

/// A proxy's own static resources (its admin and statistics clusters) are in its bootstrap and never sent, so what is surplus
/// counts only where the control plane would make such a name.
fn differences(meant: &BTreeMap<&str, &Value>, held: &BTreeMap<&str, &Value>) -> Vec<Difference> {
    let difference = |name: &str, what| Difference {
        resource: name.to_owned(),
        what,
    };
    let of_meant = meant
        .iter()
        .filter_map(|(name, meant)| match held.get(name) {
            None => Some(difference(name, What::Missing)),
            Some(held) => {
                first_difference("", meant, held).map(|path| difference(name, What::Field(path)))
            }
        });
    let surplus = held
        .keys()
        .filter(|name| !meant.contains_key(*name) && name.contains('|'))
        .map(|name| difference(name, What::Surplus));
    of_meant.chain(surplus).collect()
}

/// Absent, null, empty and false are one value in proto3 JSON.
fn first_difference(path: &str, meant: &Value, held: &Value) -> Option<String> {
    if meant == held || (is_default(meant) && is_default(held)) {
        return None;
    }
    let here = || {
        Some(if path.is_empty() {
            "/".to_owned()
        } else {
            path.to_owned()
        })
    };
    match (meant, held) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            let mut fields = keys.filter(|key| !key.starts_with('@'));
            fields.find_map(|key| {
                let get = |map: &serde_json::Map<String, Value>| {
                    map.get(key).cloned().unwrap_or(Value::Null)
                };
                first_difference(&format!("{path}/{key}"), &get(a), &get(b))
            })
        }
        (Value::Array(a), Value::Array(b)) if a.len() == b.len() => {
            let mut pairs = a.iter().zip(b).enumerate();
            pairs.find_map(|(index, (a, b))| first_difference(&format!("{path}/{index}"), a, b))
        }
        _ => here(),
    }
}

fn is_default(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) => false,
    }
}

impl Report {
    pub(super) fn to_json(&self) -> Value {
        let section = |section: &Section| {
            let differences = section.differences.iter().map(|difference| {
                json!({"resource": difference.resource, "difference": difference.what.to_string()})
            });
            let differences: Vec<Value> = differences.collect();
            (
                section.title.to_lowercase(),
                json!({"match": differences.is_empty(), "differences": differences}),
            )
        };
        Value::Object(self.0.iter().map(section).collect())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Section { title, differences } in &self.0 {
            if differences.is_empty() {
                writeln!(f, "{title} Match")?;
                continue;
            }
            writeln!(f, "{title} Don't Match")?;
            for Difference { resource, what } in differences {
                writeln!(f, "  {resource}: {what}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the proxy does not hold it"),
            Self::Surplus => {
                f.write_str("the proxy holds it, the control plane no longer sends it")
            }
            Self::Field(path) => write!(f, "differs at {path}"),
        }
    }
}
