//! Proto3 JSON of any message we know, by reflection.
//!
//! The descriptors are decoded on first use: a proxy that nobody inspects never pays for them.

use std::sync::LazyLock;

use prost_reflect::{
    DescriptorPool, DeserializeOptions, DynamicMessage, MessageDescriptor, ReflectMessage,
    SerializeOptions, Value as FieldValue,
};
use serde_json::Value;

use crate::google::protobuf::Any;
use crate::type_url;

const ANY: &str = "google.protobuf.Any";

/// Why a message has no JSON form, or JSON no message.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    #[error("unknown message type {0:?}")]
    UnknownType(String),
    #[error("decoding {type_url:?}")]
    Decode {
        type_url: String,
        #[source]
        source: prost::DecodeError,
    },
    #[error("converting {type_url:?} between protobuf and JSON")]
    Convert {
        type_url: String,
        #[source]
        source: serde_json::Error,
    },
}

/// How field names are spelled in JSON.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldNames {
    /// `lowerCamelCase`, the default of proto3 JSON and of `istioctl`.
    #[default]
    Camel,
    /// As in the `.proto` file, as Envoy's admin interface prints.
    Proto,
}

/// Descriptors of everything that a config dump can hold.
pub fn descriptors() -> &'static DescriptorPool {
    static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
        let bytes: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
        DescriptorPool::decode(bytes).expect("the build wrote a complete descriptor set")
    });
    &POOL
}

/// Prints a message with camel-case names, its type under `@type`.
///
/// # Errors
/// See [`any_to_json_with`].
pub fn any_to_json(any: &Any) -> Result<Value, JsonError> {
    any_to_json_with(any, FieldNames::Camel)
}

/// Prints a message, its type under `@type` and every nested `Any` expanded. A nested message that is unknown or
/// does not decode is shown as a `TypedStruct` that names its type and size, so that one foreign extension does
/// not hide the rest of a dump.
///
/// # Errors
/// The outermost type is unknown or its bytes do not decode.
pub fn any_to_json_with(any: &Any, names: FieldNames) -> Result<Value, JsonError> {
    let mut json = message_to_json(&any.type_url, &any.value, names)?;
    if let Value::Object(fields) = &mut json {
        fields.shift_insert(0, "@type".to_owned(), Value::from(any.type_url.as_str()));
        return Ok(json);
    }
    // Well-known types that are not objects in JSON go under `value` (proto3 JSON, `Any`).
    Ok(serde_json::json!({ "@type": any.type_url, "value": json }))
}

/// Prints encoded bytes of a type, without `@type`.
///
/// # Errors
/// See [`any_to_json_with`].
pub fn message_to_json(
    type_url: &str,
    bytes: &[u8],
    names: FieldNames,
) -> Result<Value, JsonError> {
    let mut message = DynamicMessage::decode(descriptor(type_url)?, bytes).map_err(|source| {
        JsonError::Decode {
            type_url: type_url.to_owned(),
            source,
        }
    })?;
    replace_unknown(&mut message);
    let options = SerializeOptions::new().use_proto_field_name(names == FieldNames::Proto);
    message
        .serialize_with_options(serde_json::value::Serializer, &options)
        .map_err(|source| convert_error(type_url, source))
}

/// Reads proto3 JSON (either spelling of field names) as a message of the type; `@type` inside is not needed.
///
/// # Errors
/// The type is unknown, a field is unknown or has the wrong shape.
pub fn json_to_any(type_url: &str, json: &Value) -> Result<Any, JsonError> {
    let descriptor = descriptor(type_url)?;
    let mut json = json.clone();
    if let Value::Object(fields) = &mut json {
        fields.shift_remove("@type");
    }
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message = DynamicMessage::deserialize_with_options(descriptor, json, &options)
        .map_err(|source| convert_error(type_url, source))?;
    Ok(Any {
        type_url: type_url.to_owned(),
        value: prost::Message::encode_to_vec(&message),
    })
}

fn convert_error(type_url: &str, source: serde_json::Error) -> JsonError {
    JsonError::Convert {
        type_url: type_url.to_owned(),
        source,
    }
}

/// The message's full name is what follows the last slash (`google.protobuf.Any.type_url`).
fn descriptor(type_url: &str) -> Result<MessageDescriptor, JsonError> {
    let name = type_url.rsplit_once('/').map_or(type_url, |(_, name)| name);
    descriptors()
        .get_message_by_name(name)
        .ok_or_else(|| JsonError::UnknownType(type_url.to_owned()))
}

fn replace_unknown(message: &mut DynamicMessage) {
    if message.descriptor().full_name() == ANY {
        replace_unknown_any(message);
        return;
    }
    for (_, value) in message.fields_mut() {
        replace_unknown_in_value(value);
    }
}

fn replace_unknown_in_value(value: &mut FieldValue) {
    match value {
        FieldValue::Message(message) => replace_unknown(message),
        FieldValue::List(values) => values.iter_mut().for_each(replace_unknown_in_value),
        FieldValue::Map(entries) => entries.values_mut().for_each(replace_unknown_in_value),
        _ => {}
    }
}

fn replace_unknown_any(any: &mut DynamicMessage) {
    let (Some(type_url), Some(bytes)) = (any_type_url(any), any_bytes(any)) else {
        return;
    };
    let decoded = descriptor(&type_url)
        .ok()
        .and_then(|descriptor| DynamicMessage::decode(descriptor, bytes.as_slice()).ok());
    let (type_url, bytes) = match decoded {
        Some(mut inner) => {
            replace_unknown(&mut inner);
            (type_url, prost::Message::encode_to_vec(&inner))
        }
        None => undecodable(&type_url, bytes.len()),
    };
    any.set_field_by_number(1, FieldValue::String(type_url));
    any.set_field_by_number(2, FieldValue::Bytes(bytes.into()));
}

fn any_type_url(any: &DynamicMessage) -> Option<String> {
    Some(any.get_field_by_number(1)?.as_str()?.to_owned())
}

fn any_bytes(any: &DynamicMessage) -> Option<Vec<u8>> {
    Some(any.get_field_by_number(2)?.as_bytes()?.to_vec())
}

fn undecodable(type_url: &str, size_bytes: usize) -> (String, Vec<u8>) {
    use crate::google::protobuf::{Struct, Value as ProtoValue, value::Kind};
    let text = format!("{size_bytes} bytes of an unknown type");
    let kind = Kind::StringValue(text);
    let shown = crate::typed_struct::xds::TypedStruct {
        type_url: type_url.to_owned(),
        value: Some(Struct {
            fields: [("undecoded".to_owned(), ProtoValue { kind: Some(kind) })].into(),
        }),
    };
    (
        type_url::XDS_TYPED_STRUCT.to_owned(),
        prost::Message::encode_to_vec(&shown),
    )
}
