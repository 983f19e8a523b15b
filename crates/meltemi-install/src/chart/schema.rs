//! What a chart's values may be, as Helm judges them before it renders: from the types that read them.

use meltemi_api::schema::{self, Schema};
use meltemi_core::FieldPath;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::gateway;
use crate::Values;
use crate::values::{UNREAD, needed};

/// What types do not say, by path; `judge` of the values says it, too.
const FURTHER: &[(&str, &str)] = &[
    (
        "revision",
        r#"{"pattern": "^([a-z0-9]([a-z0-9-]*[a-z0-9])?)?$"}"#,
    ),
    (
        "global.imagePullPolicy",
        r#"{"enum": ["", "Always", "IfNotPresent", "Never"]}"#,
    ),
    (
        "sidecarInjectorWebhook.reinvocationPolicy",
        r#"{"enum": ["", "Never", "IfNeeded"]}"#,
    ),
];

pub(super) fn istiod() -> String {
    pretty(&of_installation(&needed()))
}

/// One file of values may serve both charts.
pub(super) fn base() -> String {
    let mut root = of_installation(&[]);
    root["properties"]["defaultRevision"] = json!({"enum": ["", "default"]});
    pretty(&root)
}

fn pretty(schema: &Value) -> String {
    serde_json::to_string_pretty(schema).unwrap() + "\n"
}

pub(super) fn gateway() -> String {
    pretty(&root::<gateway::Values>(gateway::FURTHER))
}

fn root<T: DeserializeOwned>(further: &[(&str, &str)]) -> Value {
    let mut root = json(&schema::of::<T>());
    root["$schema"] = "http://json-schema.org/draft-07/schema#".into();
    for (path, further) in further {
        let further: Map<String, Value> = serde_json::from_str(further).unwrap();
        place(&mut root, path)
            .as_object_mut()
            .unwrap()
            .extend(further);
    }
    root
}

/// `needed` are mappings that must be there, as they are among the defaults.
fn of_installation(needed: &[FieldPath]) -> Value {
    let mut root = root::<Values>(FURTHER);
    root["properties"]["meshConfig"] = json(&schema::mesh_config());
    for path in UNREAD {
        let note = "Istio's; nothing reads it yet";
        *place(&mut root, path) = json!({"description": note});
    }
    for path in needed {
        let (above, name) = match path.as_str().rsplit_once('.') {
            Some((above, name)) => (place(&mut root, above), name),
            None => (&mut root, path.as_str()),
        };
        let required = above.as_object_mut().unwrap().entry("required");
        let required = required.or_insert_with(|| json!([]));
        required.as_array_mut().unwrap().push(name.into());
    }
    root
}

fn place<'a>(root: &'a mut Value, path: &str) -> &'a mut Value {
    let steps = path.split('.');
    steps.fold(root, |at, step| {
        assert!(at["properties"].is_object(), "{path} is below no mapping");
        &mut at["properties"][step]
    })
}

fn json(schema: &Schema) -> Value {
    match schema {
        Schema::Message(message) => {
            let fields = message.fields.iter();
            let fields: Map<String, Value> = fields
                .map(|(name, schema)| (name.clone(), json(schema)))
                .collect();
            json!({"type": "object", "additionalProperties": false, "properties": fields})
        }
        Schema::Map(value) => json!({"type": "object", "additionalProperties": json(value)}),
        Schema::List(item) => json!({"type": "array", "items": json(item)}),
        Schema::Enum(words) => json!({"enum": words}),
        Schema::String | Schema::Duration => json!({"type": "string"}),
        Schema::Bool => json!({"type": "boolean"}),
        Schema::Integer { minimum, maximum } => {
            let mut integer = json!({"type": "integer"});
            for (name, bound) in [("minimum", minimum), ("maximum", maximum)] {
                if let Some(bound) = bound {
                    integer[name] = (*bound).into();
                }
            }
            integer
        }
        Schema::Number => json!({"type": "number"}),
        Schema::Scalar => json!({"type": ["string", "number", "boolean"]}),
        Schema::Any | Schema::Nothing => json!({}),
    }
}
