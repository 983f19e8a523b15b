//! Short names for the protobuf forms that generation writes again and again.

use std::net::IpAddr;
use std::time::Duration;

use meltemi_proto::envoy::config::core::v3::{
    Address, CidrRange, Metadata, RuntimeFractionalPercent, SocketAddress, TransportSocket,
    address, socket_address, transport_socket,
};
use meltemi_proto::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher, string_matcher};
use meltemi_proto::envoy::r#type::v3::{FractionalPercent, Percent, fractional_percent};
use meltemi_proto::google::protobuf;
use prost::{Message, Name};
use protobuf::value::Kind as ValueKind;

pub(crate) fn any<M: Message + Name>(message: &M) -> protobuf::Any {
    protobuf::Any {
        type_url: M::type_url(),
        value: message.encode_to_vec(),
    }
}

/// An `Any` of a message without fields, or with none set.
pub(crate) fn empty_any(type_url: &str) -> protobuf::Any {
    protobuf::Any {
        type_url: type_url.to_owned(),
        value: Vec::new(),
    }
}

pub(crate) fn u32_value(value: u32) -> Option<protobuf::UInt32Value> {
    Some(protobuf::UInt32Value { value })
}

pub(crate) fn bool_value(value: bool) -> Option<protobuf::BoolValue> {
    Some(protobuf::BoolValue { value })
}

pub(crate) fn duration(duration: Duration) -> protobuf::Duration {
    protobuf::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or_default(),
    }
}

pub(crate) fn socket_address(ip: &str, port: u16) -> SocketAddress {
    SocketAddress {
        address: ip.to_owned(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(port.into())),
        ..SocketAddress::default()
    }
}

pub(crate) fn address(ip: &str, port: u16) -> Address {
    Address {
        address: Some(address::Address::SocketAddress(socket_address(ip, port))),
    }
}

pub(crate) fn cidr(ip: IpAddr, prefix_len: u8) -> CidrRange {
    CidrRange {
        address_prefix: ip.to_string(),
        prefix_len: u32_value(prefix_len.into()),
    }
}

pub(crate) fn text(value: &str) -> protobuf::Value {
    protobuf::Value {
        kind: Some(ValueKind::StringValue(value.to_owned())),
    }
}

pub(crate) fn boolean(value: bool) -> protobuf::Value {
    protobuf::Value {
        kind: Some(ValueKind::BoolValue(value)),
    }
}

pub(crate) fn value(fields: protobuf::Struct) -> protobuf::Value {
    protobuf::Value {
        kind: Some(ValueKind::StructValue(fields)),
    }
}

/// Any JSON; numbers become doubles, as protobuf has no others here.
pub(crate) fn json(json: serde_json::Value) -> protobuf::Value {
    use serde_json::Value as Json;
    match json {
        Json::Null => protobuf::Value {
            kind: Some(ValueKind::NullValue(0)),
        },
        Json::Bool(value) => boolean(value),
        Json::Number(number) => protobuf::Value {
            kind: Some(ValueKind::NumberValue(number.as_f64().unwrap_or_default())),
        },
        Json::String(value) => text(&value),
        Json::Array(items) => list(items.into_iter().map(self::json).collect()),
        Json::Object(fields) => value(strukt(
            fields.into_iter().map(|(key, of)| (key, self::json(of))),
        )),
    }
}

pub(crate) fn list(values: Vec<protobuf::Value>) -> protobuf::Value {
    protobuf::Value {
        kind: Some(ValueKind::ListValue(protobuf::ListValue { values })),
    }
}

pub(crate) fn strukt<K: Into<String>>(
    fields: impl IntoIterator<Item = (K, protobuf::Value)>,
) -> protobuf::Struct {
    protobuf::Struct {
        fields: fields
            .into_iter()
            .map(|(key, value)| (key.into(), value))
            .collect(),
    }
}

pub(crate) fn metadata<'a>(
    parts: impl IntoIterator<Item = (&'a str, protobuf::Struct)>,
) -> Metadata {
    Metadata {
        filter_metadata: parts
            .into_iter()
            .map(|(key, fields)| (key.to_owned(), fields))
            .collect(),
        ..Metadata::default()
    }
}

pub(crate) fn transport_socket(name: &str, config: protobuf::Any) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

pub(crate) fn exact(value: &str) -> StringMatcher {
    pattern(string_matcher::MatchPattern::Exact(value.to_owned()))
}

pub(crate) fn pattern(match_pattern: string_matcher::MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(match_pattern),
        ..StringMatcher::default()
    }
}

pub(crate) fn regex(regex: &str) -> RegexMatcher {
    RegexMatcher {
        regex: regex.to_owned(),
        ..RegexMatcher::default()
    }
}

pub(crate) fn percent(value: f64) -> Option<Percent> {
    Some(Percent { value })
}

/// A percentage in millionths, as Istio writes fractions, so that 0.01 % is not lost.
pub(crate) fn fraction(percent: f64) -> FractionalPercent {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=1,000,000"
    )]
    let numerator = (percent * 10_000.0).round().clamp(0.0, 1_000_000.0) as u32;
    FractionalPercent {
        numerator,
        denominator: fractional_percent::DenominatorType::Million.into(),
    }
}

pub(crate) fn runtime_fraction(percent: f64) -> RuntimeFractionalPercent {
    RuntimeFractionalPercent {
        default_value: Some(fraction(percent)),
        runtime_key: String::new(),
    }
}
