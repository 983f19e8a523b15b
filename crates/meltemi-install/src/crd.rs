//! CustomResourceDefinitions of Istio's kinds, as far as `meltemi-api` decodes them.
//!
//! The form of an object comes from the decoder's types ([`meltemi_api::schema`]); [`rules`] adds what Istio's definitions
//! demand beyond it. All versions of a kind have one schema.

mod descriptions;
mod names;
mod rules;

use std::collections::BTreeMap;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceDefinition, CustomResourceDefinitionNames, CustomResourceDefinitionSpec,
    CustomResourceDefinitionVersion, CustomResourceSubresourceStatus, CustomResourceSubresources,
    CustomResourceValidation, JSON, JSONSchemaProps, JSONSchemaPropsOrArray, JSONSchemaPropsOrBool,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_api::Kind;
use meltemi_api::schema::{Schema, schema};
use serde_json::Value;

use names::{Names, names};

/// The plural of one of Istio's kinds.
pub(crate) fn plural(kind: Kind) -> Option<&'static str> {
    names(kind).map(|names| names.plural)
}

/// The definitions of every kind of Istio's that is decoded.
pub fn definitions() -> Vec<CustomResourceDefinition> {
    let kinds = Kind::ALL.iter();
    kinds
        .filter_map(|kind| Some(definition(*kind, &names(*kind)?, &schema(*kind)?)))
        .collect()
}

/// Labels of everything that an installation makes.
pub(crate) fn shared_labels() -> BTreeMap<String, String> {
    [
        ("app.kubernetes.io/name", "istiod"),
        ("app.kubernetes.io/part-of", "istio"),
        ("app.kubernetes.io/managed-by", "meltemi"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect()
}

fn definition(kind: Kind, names: &Names, spec: &Schema) -> CustomResourceDefinition {
    let versions = kind.versions().iter();
    CustomResourceDefinition {
        metadata: ObjectMeta {
            name: Some(format!("{}.{}", names.plural, kind.group())),
            labels: Some(shared_labels()),
            // Deleting a definition deletes every object of its kind.
            annotations: Some(BTreeMap::from([(
                "helm.sh/resource-policy".to_owned(),
                "keep".to_owned(),
            )])),
            ..ObjectMeta::default()
        },
        spec: CustomResourceDefinitionSpec {
            group: kind.group().to_owned(),
            scope: "Namespaced".to_owned(),
            names: CustomResourceDefinitionNames {
                kind: kind.as_str().to_owned(),
                list_kind: Some(format!("{kind}List")),
                plural: names.plural.to_owned(),
                singular: Some(kind.as_str().to_lowercase()),
                short_names: (!names.short.is_empty())
                    .then(|| names.short.iter().map(ToString::to_string).collect()),
                categories: Some(vec!["istio-io".to_owned(), kind.group().replace('.', "-")]),
            },
            versions: versions
                .map(|version| CustomResourceDefinitionVersion {
                    name: (*version).to_owned(),
                    served: true,
                    storage: *version == "v1",
                    subresources: Some(CustomResourceSubresources {
                        status: Some(CustomResourceSubresourceStatus(Value::Object(
                            serde_json::Map::new(),
                        ))),
                        scale: None,
                    }),
                    additional_printer_columns: Some(names::columns(names)),
                    schema: Some(CustomResourceValidation {
                        open_api_v3_schema: Some(root(kind, spec)),
                    }),
                    ..CustomResourceDefinitionVersion::default()
                })
                .collect(),
            ..CustomResourceDefinitionSpec::default()
        },
        status: None,
    }
}

/// `status` is open: what writes it is not bound to one version of this program.
fn root(kind: Kind, spec: &Schema) -> JSONSchemaProps {
    let status = JSONSchemaProps {
        type_: Some("object".to_owned()),
        x_kubernetes_preserve_unknown_fields: Some(true),
        ..JSONSchemaProps::default()
    };
    JSONSchemaProps {
        type_: Some("object".to_owned()),
        required: rules::requires_spec(kind).then(|| vec!["spec".to_owned()]),
        properties: Some(BTreeMap::from([
            ("spec".to_owned(), properties(spec)),
            ("status".to_owned(), status),
        ])),
        ..JSONSchemaProps::default()
    }
}

/// A structural schema (Kubernetes, "Specifying a structural schema").
fn properties(schema: &Schema) -> JSONSchemaProps {
    let of = |name: &str| JSONSchemaProps {
        type_: Some(name.to_owned()),
        ..JSONSchemaProps::default()
    };
    match schema {
        Schema::Message(message) => {
            let fields = message.fields.iter();
            let described = |(name, schema): &(String, Schema)| {
                let mut field = properties(schema);
                field.description = descriptions::description(message.name, name);
                (name.clone(), field)
            };
            let fields: BTreeMap<String, JSONSchemaProps> = fields.map(described).collect();
            let mut object = JSONSchemaProps {
                properties: Some(fields),
                ..of("object")
            };
            if message.is_choice {
                let names: Vec<&str> = message.fields.iter().map(|(name, _)| &**name).collect();
                rules::at_most_one(&mut object, &names);
            }
            rules::apply(message.name, &mut object);
            object
        }
        Schema::Map(value) => JSONSchemaProps {
            additional_properties: Some(JSONSchemaPropsOrBool::Schema(Box::new(properties(value)))),
            ..of("object")
        },
        Schema::List(item) => JSONSchemaProps {
            items: Some(JSONSchemaPropsOrArray::Schema(Box::new(properties(item)))),
            ..of("array")
        },
        Schema::Enum(words) => JSONSchemaProps {
            enum_: Some(words.iter().map(|word| JSON(Value::from(*word))).collect()),
            ..of("string")
        },
        Schema::String => of("string"),
        Schema::Duration => JSONSchemaProps {
            x_kubernetes_validations: Some(vec![rules::duration()]),
            ..of("string")
        },
        Schema::Bool => of("boolean"),
        Schema::Integer { minimum, maximum } => JSONSchemaProps {
            #[expect(clippy::cast_precision_loss, reason = "bounds of 32 bits are exact")]
            minimum: minimum.map(|minimum| minimum as f64),
            #[expect(clippy::cast_precision_loss, reason = "bounds of 32 bits are exact")]
            maximum: maximum.map(|maximum| maximum as f64),
            ..of("integer")
        },
        Schema::Number => JSONSchemaProps {
            format: Some("double".to_owned()),
            ..of("number")
        },
        // No kind of Istio's has a place that takes whatever scalar.
        Schema::Scalar | Schema::Any | Schema::Nothing => JSONSchemaProps {
            x_kubernetes_preserve_unknown_fields: Some(true),
            ..JSONSchemaProps::default()
        },
    }
}

#[cfg(test)]
mod tests;
