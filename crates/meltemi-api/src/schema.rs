//! The form of a kind's content, asked of the decoder itself: each place of a type is deserialised from a probe that notes
//! what the type asks for there. So a schema cannot say anything else than what is read.
//!
//! ```text
//! path -> T::deserialize(Probe) -> Shape of the place at its end -> the places below it -> ...
//! ```

mod probe;
mod unread;

use serde::de::DeserializeOwned;

use crate::object::Kind;
use crate::tree::camel_case;
use crate::{istio, support};
use probe::{Shape, Step};

/// A type that takes texts, numbers and truth values alike deserialises as a newtype of this name.
pub const SCALAR: &str = "meltemi.io/scalar";

/// No type of ours is as deep; it ends a type that holds itself.
const DEPTH_LIMIT: usize = 32;

/// Fields that Istio's own schema has under a second name.
const SECOND_NAMES: &[(Kind, &str)] = &[
    (Kind::VirtualService, "http[].mirror_percent"),
    (Kind::RequestAuthentication, "jwtRules[].jwks_uri"),
];

/// What may stand at one place of an object.
#[derive(Clone, Debug, PartialEq)]
pub enum Schema {
    Message(Message),
    Map(Box<Self>),
    List(Box<Self>),
    /// One of these words.
    Enum(&'static [&'static str]),
    String,
    /// A duration as proto JSON and Go write it.
    Duration,
    Bool,
    /// The least and the largest value, where JSON numbers can say it.
    Integer {
        minimum: Option<i64>,
        maximum: Option<i64>,
    },
    Number,
    /// A text, a number or a truth value.
    Scalar,
    /// Anything.
    Any,
    /// The content of a word.
    Nothing,
}

/// A mapping with known fields.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The name of the type that is decoded.
    pub name: &'static str,
    pub fields: Vec<(String, Schema)>,
    /// Whether at most one field can be set, because the type has one variant for each.
    pub is_choice: bool,
}

/// The schema of the `spec` of one of Istio's kinds; `None` for other kinds. Fields that are known and not
/// acted on have their form too.
pub fn schema(kind: Kind) -> Option<Schema> {
    let mut schema = match kind {
        Kind::PeerAuthentication => of::<istio::PeerAuthentication>(),
        Kind::AuthorizationPolicy => of::<istio::AuthorizationPolicy>(),
        Kind::RequestAuthentication => of::<istio::RequestAuthentication>(),
        Kind::DestinationRule => of::<istio::DestinationRule>(),
        Kind::VirtualService => of::<istio::VirtualService>(),
        Kind::Gateway => of::<istio::Gateway>(),
        Kind::Sidecar => of::<istio::Sidecar>(),
        Kind::ServiceEntry => of::<istio::ServiceEntry>(),
        Kind::WorkloadEntry => of::<istio::WorkloadEntry>(),
        _ => return None,
    };
    for path in support::unsupported_fields(kind) {
        add(&mut schema, &path);
    }
    for (_, path) in SECOND_NAMES.iter().filter(|(of, _)| *of == kind) {
        add(&mut schema, path);
    }
    Some(schema)
}

/// The schema of a MeshConfig, with the fields that are known and not acted on.
pub fn mesh_config() -> Schema {
    let mut schema = of::<istio::MeshConfig>();
    for path in support::unsupported_mesh_config() {
        add(&mut schema, path);
    }
    schema
}

/// The schema of any type that is decoded.
pub fn of<T: DeserializeOwned>() -> Schema {
    below(probe::shape::<T>, &mut Vec::new())
}

/// The schema of the place that `path` leads to.
fn below(shape: fn(&[Step]) -> Shape, path: &mut Vec<Step>) -> Schema {
    if path.len() > DEPTH_LIMIT {
        return Schema::Any;
    }
    match shape(path) {
        Shape::Message { name, fields } => {
            // A second spelling that the decoder takes as well is nothing to offer.
            let is_second =
                |field: &str| field.contains('_') && fields.contains(&camel_case(field).as_str());
            let fields = fields.iter().filter(|field| !is_second(field));
            Schema::Message(Message {
                name,
                fields: fields
                    .map(|field| ((*field).to_owned(), at(shape, path, Step::Field(field))))
                    .collect(),
                is_choice: false,
            })
        }
        Shape::List => Schema::List(Box::new(at(shape, path, Step::Item))),
        Shape::Map => Schema::Map(Box::new(at(shape, path, Step::Value))),
        Shape::Enum { name, variants } => {
            let contents = variants
                .iter()
                .map(|variant| at(shape, path, Step::Variant(variant)));
            let contents: Vec<Schema> = contents.collect();
            if contents.iter().all(|content| *content == Schema::Nothing) {
                return Schema::Enum(variants);
            }
            let names = variants.iter().map(ToString::to_string);
            Schema::Message(Message {
                name,
                fields: names.zip(contents).collect(),
                is_choice: true,
            })
        }
        Shape::Word => Schema::Nothing,
        Shape::Scalar(scalar) => scalar,
    }
}

fn at(shape: fn(&[Step]) -> Shape, path: &mut Vec<Step>, step: Step) -> Schema {
    path.push(step);
    let schema = below(shape, path);
    path.pop();
    schema
}

/// Adds a known field at a path such as `http[].match[].statPrefix`, unless the types have it.
fn add(schema: &mut Schema, path: &str) {
    let (first, rest) = match path.split_once('.') {
        Some((first, rest)) => (first, Some(rest)),
        None => (path, None),
    };
    let (name, is_list) = match first.strip_suffix("[]") {
        Some(name) => (name, true),
        None => (first, false),
    };
    let Schema::Message(message) = schema else {
        return;
    };
    let known = message.fields.iter().position(|(field, _)| field == name);
    match (known, rest) {
        (None, _) => message.fields.push((name.to_owned(), unread::form(name))),
        (Some(_), None) => {}
        (Some(at), Some(rest)) => match &mut message.fields[at].1 {
            Schema::List(item) if is_list => add(item, rest),
            below => add(below, rest),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(schema: &'a Schema, path: &str) -> Option<&'a Schema> {
        path.split('.')
            .filter(|step| !step.is_empty())
            .try_fold(schema, |schema, step| match (schema, step) {
                (Schema::List(item) | Schema::Map(item), "*") => Some(&**item),
                (Schema::Message(message), name) => {
                    let mut fields = message.fields.iter();
                    fields.find(|(field, _)| field == name).map(|(_, at)| at)
                }
                _ => None,
            })
    }

    #[test]
    fn every_istio_kind_has_a_schema() {
        for kind in Kind::ALL {
            assert_eq!(schema(*kind).is_some(), kind.is_istio(), "{kind}");
        }
    }

    #[test]
    fn a_schema_says_what_the_decoder_reads() {
        let check = |kind, path: &str, expected: Schema| {
            let schema = schema(kind).unwrap();
            assert_eq!(find(&schema, path), Some(&expected), "{kind} {path}");
        };
        let vs = Kind::VirtualService;
        check(vs, "http.*.timeout", Schema::Duration);
        check(vs, "http.*.match.*.headers.*.exact", Schema::String);
        check(vs, "http.*.directResponse.body.bytes", Schema::String);
        check(vs, "http.*.match.*.queryParams.*.regex", Schema::String);
        check(vs, "http.*.mirrorPercentage.value", Schema::Number);
        let modes = Schema::Enum(&["UNSET", "DISABLE", "PERMISSIVE", "STRICT"]);
        let pa = Kind::PeerAuthentication;
        check(pa, "portLevelMtls.*.mode", modes);
        let dr = Kind::DestinationRule;
        check(dr, "subsets.*.labels.*", Schema::String);
        let crl = "subsets.*.trafficPolicy.portLevelSettings.*.tls.caCrl";
        check(dr, crl, Schema::String);
        let errors = "trafficPolicy.outlierDetection.consecutive5xxErrors";
        let unsigned = Schema::Integer {
            minimum: Some(0),
            maximum: Some(u32::MAX.into()),
        };
        check(dr, errors, unsigned);
        let alias = "trafficPolicy.outlierDetection.consecutive_5xx_errors";
        assert_eq!(find(&schema(dr).unwrap(), alias), None);
    }
}
