use serde_json::{Map, Value};

use crate::CliError;

/// A `config_dump`, field names in lowerCamelCase whatever the proxy wrote (Envoy prints proto names, istioctl camel case).
#[derive(Clone, Debug)]
pub(crate) struct Dump(Value);

impl Dump {
    pub(crate) fn new(json: Value) -> Result<Self, CliError> {
        if json.get("configs").and_then(Value::as_array).is_none() {
            return Err(CliError::data(
                "this is no config_dump: it has no list \"configs\"",
                "A dump comes from GET /config_dump of a proxy's port 15000.",
            ));
        }
        Ok(Self(camel(json)))
    }

    pub(crate) fn value(&self) -> &Value {
        &self.0
    }

    pub(crate) fn clusters(&self) -> Vec<&Value> {
        let lists = [
            "staticClusters",
            "dynamicActiveClusters",
            "dynamicWarmingClusters",
        ];
        self.resources("ClustersConfigDump", &lists, &["/cluster"])
    }

    pub(crate) fn listeners(&self) -> Vec<&Value> {
        let places = ["/listener", "/activeState/listener"];
        self.resources(
            "ListenersConfigDump",
            &["staticListeners", "dynamicListeners"],
            &places,
        )
    }

    pub(crate) fn routes(&self) -> Vec<&Value> {
        let lists = ["staticRouteConfigs", "dynamicRouteConfigs"];
        self.resources("RoutesConfigDump", &lists, &["/routeConfig"])
    }

    pub(crate) fn endpoints(&self) -> Vec<&Value> {
        let lists = ["staticEndpointConfigs", "dynamicEndpointConfigs"];
        self.resources("EndpointsConfigDump", &lists, &["/endpointConfig"])
    }

    /// Secrets with their state: the entries of the dump themselves.
    pub(crate) fn secrets(&self) -> Vec<&Value> {
        let lists = [
            "staticSecrets",
            "dynamicActiveSecrets",
            "dynamicWarmingSecrets",
        ];
        self.resources("SecretsConfigDump", &lists, &[""])
    }

    /// The whole `SecretsConfigDump`, as istioctl prints it: without its type.
    pub(crate) fn secrets_section(&self) -> Value {
        let mut section = self.section("SecretsConfigDump").next().cloned();
        if let Some(fields) = section.as_mut().and_then(Value::as_object_mut) {
            fields.remove("@type");
        }
        section.unwrap_or_else(|| Value::Object(Map::new()))
    }

    /// Filters that came by themselves (ECDS).
    pub(crate) fn extension_configs(&self) -> Vec<&Value> {
        self.resources("EcdsConfigDump", &["ecdsFilters"], &["/ecdsFilter"])
    }

    pub(crate) fn bootstrap(&self) -> Option<&Value> {
        self.section("BootstrapConfigDump").next()
    }

    fn resources(&self, section: &'static str, lists: &[&str], places: &[&str]) -> Vec<&Value> {
        self.section(section)
            .flat_map(|section| {
                lists
                    .iter()
                    .filter_map(|list| section.get(*list)?.as_array())
            })
            .flatten()
            .filter_map(|entry| places.iter().find_map(|place| entry.pointer(place)))
            .collect()
    }

    /// The configs whose type ends in that name.
    fn section<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        list(&self.0, "/configs").filter(move |config| {
            let kind = text(config, "/@type");
            kind.rsplit('.').next() == Some(name)
        })
    }
}

/// The string at a pointer, or nothing.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value
        .pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

/// The items of the list at a pointer.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> std::slice::Iter<'a, Value> {
    let items = value.pointer(pointer).and_then(Value::as_array);
    items.map_or(&[][..], Vec::as_slice).iter()
}

/// The object that Istio notes in `metadata.filter_metadata.istio.config`, as `name.namespace`:
/// `/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews`.
pub(crate) fn istio_config(resource: &Value) -> String {
    let path = text(resource, "/metadata/filterMetadata/istio/config");
    let mut parts = path.rsplit('/');
    match (parts.next(), parts.next(), parts.next()) {
        (Some(name), Some(_), Some(namespace)) => format!("{name}.{namespace}"),
        _ => String::new(),
    }
}

/// Camel-cases proto field names and leaves the keys of maps and free-form structures alone.
pub(crate) fn camel(value: Value) -> Value {
    match value {
        Value::Object(fields) => Value::Object(camel_fields(fields)),
        Value::Array(items) => Value::Array(items.into_iter().map(camel).collect()),
        other => other,
    }
}

fn camel_fields(fields: Map<String, Value>) -> Map<String, Value> {
    let free_form = fields
        .get("@type")
        .and_then(Value::as_str)
        .is_some_and(|kind| kind.ends_with("TypedStruct"));
    let convert = |(key, value): (String, Value)| {
        let key = camel_key(&key);
        let value = match key.as_str() {
            "filterMetadata" | "match" if !is_route_match(&value) => value,
            "value" | "staticLayer" | "runtime" if free_form || key == "staticLayer" => value,
            "typedPerFilterConfig" | "typedExtensionProtocolOptions" | "typedFilterMetadata" => {
                values(value)
            }
            "node" => node(value),
            _ => camel(value),
        };
        (key, value)
    };
    fields.into_iter().map(convert).collect()
}

/// `match` is a message in a route and a free-form structure in `transport_socket_matches`.
fn is_route_match(value: &Value) -> bool {
    [
        "prefix",
        "path",
        "safe_regex",
        "safeRegex",
        "path_separated_prefix",
        "connect_matcher",
        "headers",
    ]
    .iter()
    .any(|field| value.get(field).is_some())
}

/// Keys kept, values converted.
fn values(map: Value) -> Value {
    match map {
        Value::Object(map) => Value::Object(
            map.into_iter()
                .map(|(key, value)| (key, camel(value)))
                .collect(),
        ),
        other => camel(other),
    }
}

/// A node's metadata is the user's.
fn node(mut node: Value) -> Value {
    let metadata = node.get_mut("metadata").map(Value::take);
    let mut node = camel(node);
    if let Some(metadata) = metadata {
        node["metadata"] = metadata;
    }
    node
}

fn camel_key(key: &str) -> String {
    if !key
        .bytes()
        .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == b'_')
    {
        return key.to_owned();
    }
    let mut words = key.split('_');
    let mut name = words.next().unwrap_or_default().to_owned();
    for word in words {
        let mut letters = word.chars();
        name.extend(letters.next().map(|first| first.to_ascii_uppercase()));
        name.push_str(letters.as_str());
    }
    name
}
