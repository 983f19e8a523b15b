use std::collections::BTreeMap;

use meltemi_core::Labels;
use serde::{Deserialize, Serialize};

/// Selects workloads by equality of labels (`type.v1beta1.WorkloadSelector`, written `matchLabels`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    pub match_labels: Labels,
}

/// How a string is matched. Regular expressions are RE2 and match the whole value.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "StringMatchFields")]
pub enum StringMatch {
    Exact(String),
    Prefix(String),
    Regex(String),
    /// `{}`: the value only has to be there (headers, query parameters).
    Present,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StringMatchFields {
    exact: Option<String>,
    prefix: Option<String>,
    regex: Option<String>,
}

impl TryFrom<StringMatchFields> for StringMatch {
    type Error = &'static str;

    fn try_from(fields: StringMatchFields) -> Result<Self, Self::Error> {
        match (fields.exact, fields.prefix, fields.regex) {
            (Some(exact), None, None) => Ok(Self::Exact(exact)),
            (None, Some(prefix), None) => Ok(Self::Prefix(prefix)),
            (None, None, Some(regex)) => Ok(Self::Regex(regex)),
            (None, None, None) => Ok(Self::Present),
            _ => Err("only one of exact, prefix and regex can be set"),
        }
    }
}

/// Where a route sends requests (`networking.v1alpha3.Destination`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Destination {
    /// As written; short names are resolved in the namespace of the object.
    pub host: String,
    pub subset: String,
    pub port: Option<PortSelector>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortSelector {
    pub number: u32,
}

/// 0.0 to 100.0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct Percent {
    pub value: f64,
}

/// A message of one field `map`, flattened out by Istio's API.
pub(super) type StringMap = BTreeMap<String, String>;

/// Proto JSON durations: seconds with a unit, `1.5s`, and Go's other units as Istio's parser takes them.
pub(crate) mod duration {
    use std::time::Duration;

    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// The name by which a schema knows a text as a duration.
    pub(crate) const TYPE: &str = "google.protobuf.Duration";

    #[derive(Deserialize)]
    #[serde(rename = "google.protobuf.Duration")]
    struct Text(String);

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Duration>, D::Error> {
        let Some(Text(text)) = Option::<Text>::deserialize(deserializer)? else {
            return Ok(None);
        };
        meltemi_core::duration::parse(&text)
            .map(Some)
            .ok_or_else(|| {
                D::Error::custom(format!(
                    "\"{text}\" is not a duration such as \"1.5s\", \"200ms\" or \"1h\""
                ))
            })
    }

    #[expect(clippy::ref_option, reason = "the shape that serde's `with` asks for")]
    pub(crate) fn serialize<S: Serializer>(
        duration: &Option<Duration>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match duration {
            Some(duration) => serializer.serialize_str(&format!("{}s", duration.as_secs_f64())),
            None => serializer.serialize_none(),
        }
    }
}
