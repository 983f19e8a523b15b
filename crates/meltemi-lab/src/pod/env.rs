//! A container's environment: values, references, and `$(NAME)` expansion (Kubernetes, "Define dependent environment
//! variables").

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvFromSource, EnvVarSource, Pod, ResourceFieldSelector, Secret,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// The objects that a pod may refer to, by name in its namespace.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct References {
    pub(crate) config_maps: BTreeMap<String, Arc<ConfigMap>>,
    pub(crate) secrets: BTreeMap<String, Arc<Secret>>,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReferenceError {
    #[error("configmap {0:?} not found")]
    ConfigMap(String),
    #[error("secret {0:?} not found")]
    Secret(String),
    #[error("couldn't find key {key} in {kind} {name}")]
    Key {
        kind: &'static str,
        name: String,
        key: String,
    },
    #[error("unsupported field reference {0:?}")]
    Field(String),
    #[error("resourceFieldRef: there is no container {0:?}")]
    Container(String),
}

impl References {
    pub(crate) fn config_map(&self, name: &str) -> Result<&ConfigMap, ReferenceError> {
        self.config_maps
            .get(name)
            .map(Arc::as_ref)
            .ok_or_else(|| ReferenceError::ConfigMap(name.to_owned()))
    }

    pub(crate) fn secret(&self, name: &str) -> Result<&Secret, ReferenceError> {
        self.secrets
            .get(name)
            .map(Arc::as_ref)
            .ok_or_else(|| ReferenceError::Secret(name.to_owned()))
    }
}

/// All entries of a ConfigMap as files would hold them.
pub(crate) fn config_map_data(map: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = map
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    let binary = map
        .binary_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.0.clone()));
    text.chain(binary).collect()
}

/// All entries of a Secret, decoded.
pub(crate) fn secret_data(secret: &Secret) -> BTreeMap<String, Vec<u8>> {
    let data = secret
        .data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.0.clone()));
    let text = secret
        .string_data
        .iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.clone().into_bytes()));
    data.chain(text).collect()
}

/// The environment of one container, in order; later entries of one name have replaced earlier ones.
pub(crate) fn environment(
    pod: &Pod,
    container: &Container,
    host: Ipv4Addr,
    references: &References,
) -> Result<Vec<(String, String)>, ReferenceError> {
    let mut env: Vec<(String, String)> = Vec::new();
    for source in container.env_from.iter().flatten() {
        for (name, value) in all_of(source, references)? {
            set(&mut env, name, value);
        }
    }
    for variable in container.env.iter().flatten() {
        let value = match (&variable.value, &variable.value_from) {
            (Some(value), _) => expand(value, &env),
            (None, Some(source)) => match one_of(source, pod, container, host, references)? {
                Some(value) => value,
                None => continue,
            },
            (None, None) => String::new(),
        };
        set(&mut env, variable.name.clone(), value);
    }
    Ok(env)
}

/// Replaces `$(NAME)` for known names; `$$` is a dollar sign, unknown names stay as they are.
pub(crate) fn expand(text: &str, env: &[(String, String)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        rest = after;
        if let Some(after) = rest.strip_prefix('$') {
            out.push('$');
            rest = after;
            continue;
        }
        let reference = rest
            .strip_prefix('(')
            .and_then(|inner| inner.split_once(')'));
        let value = reference.and_then(|(name, after)| Some((lookup(env, name)?, after)));
        match value {
            Some((value, after)) => {
                out.push_str(value);
                rest = after;
            }
            None => out.push('$'),
        }
    }
    out.push_str(rest);
    out
}

fn lookup<'a>(env: &'a [(String, String)], name: &str) -> Option<&'a str> {
    env.iter()
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

fn set(env: &mut Vec<(String, String)>, name: String, value: String) {
    match env.iter_mut().find(|(known, _)| *known == name) {
        Some(entry) => entry.1 = value,
        None => env.push((name, value)),
    }
}

fn all_of(
    source: &EnvFromSource,
    references: &References,
) -> Result<Vec<(String, String)>, ReferenceError> {
    let prefix = source.prefix.clone().unwrap_or_default();
    let mut entries = BTreeMap::new();
    if let Some(reference) = &source.config_map_ref {
        match references.config_map(&reference.name) {
            Ok(map) => entries.extend(config_map_data(map)),
            Err(_) if reference.optional == Some(true) => {}
            Err(error) => return Err(error),
        }
    }
    if let Some(reference) = &source.secret_ref {
        match references.secret(&reference.name) {
            Ok(secret) => entries.extend(secret_data(secret)),
            Err(_) if reference.optional == Some(true) => {}
            Err(error) => return Err(error),
        }
    }
    let text = |(name, value): (String, Vec<u8>)| {
        (
            format!("{prefix}{name}"),
            String::from_utf8_lossy(&value).into_owned(),
        )
    };
    Ok(entries.into_iter().map(text).collect())
}

/// `None` for an optional reference to what is not there.
fn one_of(
    source: &EnvVarSource,
    pod: &Pod,
    container: &Container,
    host: Ipv4Addr,
    references: &References,
) -> Result<Option<String>, ReferenceError> {
    if let Some(field) = &source.field_ref {
        return pod_field(pod, &field.field_path, host).map(Some);
    }
    if let Some(resource) = &source.resource_field_ref {
        return resource_field(container, resource).map(Some);
    }
    let (found, optional) = if let Some(reference) = &source.config_map_key_ref {
        let missing = || ReferenceError::Key {
            kind: "ConfigMap",
            name: reference.name.clone(),
            key: reference.key.clone(),
        };
        let value = references.config_map(&reference.name).and_then(|map| {
            config_map_data(map)
                .remove(&reference.key)
                .ok_or_else(missing)
        });
        (value, reference.optional)
    } else if let Some(reference) = &source.secret_key_ref {
        let missing = || ReferenceError::Key {
            kind: "Secret",
            name: reference.name.clone(),
            key: reference.key.clone(),
        };
        let value = references.secret(&reference.name).and_then(|secret| {
            secret_data(secret)
                .remove(&reference.key)
                .ok_or_else(missing)
        });
        (value, reference.optional)
    } else {
        return Err(ReferenceError::Field("valueFrom".to_owned()));
    };
    match found {
        Ok(value) => Ok(Some(String::from_utf8_lossy(&value).into_owned())),
        Err(_) if optional == Some(true) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What `hostname` says in the pod: `spec.hostname`, else its name (Kubernetes, "Pod's hostname and subdomain fields").
pub(crate) fn hostname(pod: &Pod) -> String {
    let given = pod.spec.as_ref().and_then(|spec| spec.hostname.clone());
    let given = given.filter(|name| !name.is_empty());
    given
        .or_else(|| pod.metadata.name.clone())
        .unwrap_or_default()
}

/// An amount of a container that a volume of the downward API names.
pub(crate) fn container_resource(
    pod: &Pod,
    selector: &ResourceFieldSelector,
) -> Result<String, ReferenceError> {
    let name = selector.container_name.as_deref().unwrap_or_default();
    let spec = pod.spec.iter();
    let mut containers = spec.flat_map(|spec| {
        let init = spec.init_containers.iter().flatten();
        spec.containers.iter().chain(init)
    });
    let container = containers
        .find(|container| container.name == name)
        .ok_or_else(|| ReferenceError::Container(name.to_owned()))?;
    resource_field(container, selector)
}

/// A field of the pod, as the downward API names it.
pub(crate) fn pod_field(pod: &Pod, path: &str, host: Ipv4Addr) -> Result<String, ReferenceError> {
    let meta = &pod.metadata;
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let entry = |map: &Option<BTreeMap<String, String>>, key: &str| {
        map.as_ref()
            .and_then(|map| map.get(key))
            .cloned()
            .unwrap_or_default()
    };
    let status = pod.status.clone().unwrap_or_default();
    let spec = pod.spec.clone().unwrap_or_default();
    if let Some((map, key)) = path
        .strip_suffix("']")
        .and_then(|path| path.split_once("['"))
    {
        return match map {
            "metadata.labels" => Ok(entry(&meta.labels, key)),
            "metadata.annotations" => Ok(entry(&meta.annotations, key)),
            _ => Err(ReferenceError::Field(path.to_owned())),
        };
    }
    Ok(match path {
        "metadata.name" => text(&meta.name),
        "metadata.namespace" => text(&meta.namespace),
        "metadata.uid" => text(&meta.uid),
        "metadata.labels" => lines(meta.labels.as_ref()),
        "metadata.annotations" => lines(meta.annotations.as_ref()),
        "spec.nodeName" => text(&spec.node_name),
        "spec.serviceAccountName" => text(&spec.service_account_name),
        "status.podIP" | "status.podIPs" => text(&status.pod_ip),
        "status.hostIP" | "status.hostIPs" => host.to_string(),
        _ => return Err(ReferenceError::Field(path.to_owned())),
    })
}

/// `key="value"` lines, the value escaped as Go's `%q` does for ASCII.
fn lines(map: Option<&BTreeMap<String, String>>) -> String {
    map.into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// `limits.cpu` and its like, divided and rounded up. Without a limit the node's allocatable amount counts.
fn resource_field(
    container: &Container,
    selector: &ResourceFieldSelector,
) -> Result<String, ReferenceError> {
    let unknown = || ReferenceError::Field(selector.resource.clone());
    let (list, resource) = selector.resource.split_once('.').ok_or_else(unknown)?;
    let resources = container.resources.clone().unwrap_or_default();
    let amounts = match list {
        "limits" => resources.limits,
        "requests" => resources.requests,
        _ => return Err(unknown()),
    };
    let allocatable = match resource {
        "cpu" => std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64),
        "memory" | "ephemeral-storage" => 0.0,
        _ => return Err(unknown()),
    };
    let amount = amounts
        .and_then(|amounts| quantity(amounts.get(resource)?))
        .unwrap_or(allocatable);
    let divisor = selector
        .divisor
        .as_ref()
        .and_then(quantity)
        .filter(|divisor| *divisor > 0.0)
        .unwrap_or(1.0);
    Ok(format!("{:.0}", (amount / divisor).ceil()))
}

/// Reads a quantity: a number with an SI or binary suffix.
fn quantity(quantity: &Quantity) -> Option<f64> {
    let text = quantity.0.trim();
    let split = text
        .find(|c: char| c.is_ascii_alphabetic())
        .unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let factor = match suffix {
        "" => 1.0,
        "m" => 0.001,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(10, 244, 0, 1);

    fn pod() -> Pod {
        serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "labels": {"app": "a", "b": "say \"x\""}},
            "spec": {"serviceAccountName": "sa", "containers": []},
            "status": {"podIP": "10.244.0.9"}
        }))
        .unwrap()
    }

    fn references() -> References {
        let map =
            serde_json::from_value(json!({"metadata": {"name": "m"}, "data": {"k": "v"}})).unwrap();
        let secret =
            serde_json::from_value(json!({"metadata": {"name": "s"}, "data": {"k": "c2VjcmV0"}}))
                .unwrap();
        References {
            config_maps: BTreeMap::from([("m".to_owned(), Arc::new(map))]),
            secrets: BTreeMap::from([("s".to_owned(), Arc::new(secret))]),
        }
    }

    fn check(container: serde_json::Value, expected: Result<&[(&str, &str)], &str>) {
        let container = serde_json::from_value(container).unwrap();
        let actual =
            environment(&pod(), &container, HOST, &references()).map_err(|error| error.to_string());
        let expected = expected.map_err(str::to_owned);
        let owned = |list: &[(&str, &str)]| {
            list.iter()
                .map(|(n, v)| (n.to_string(), v.to_string()))
                .collect()
        };
        assert_eq!(actual, expected.map(owned));
    }

    #[test]
    fn references_are_resolved() {
        check(
            json!({"name": "c", "envFrom": [{"prefix": "P_", "configMapRef": {"name": "m"}}], "env": [
                {"name": "A", "value": "1"},
                {"name": "B", "value": "$(A)-$(P_k)-$(NONE)-$$(A)"},
                {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
                {"name": "NODE", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}},
                {"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
                {"name": "O", "valueFrom": {"configMapKeyRef": {"name": "none", "key": "k", "optional": true}}},
                {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}},
                {"name": "MEM", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}}
            ], "resources": {"limits": {"cpu": "1500m", "memory": "1Gi"}}}),
            Ok(&[
                ("P_k", "v"),
                ("A", "1"),
                ("B", "1-v-$(NONE)-$(A)"),
                ("NAME", "p"),
                ("APP", "a"),
                ("IP", "10.244.0.9"),
                ("NODE", "10.244.0.1"),
                ("S", "secret"),
                ("CPU", "2"),
                ("MEM", "1024"),
            ]),
        );
    }

    #[test]
    fn what_is_missing_is_named() {
        let key = json!({"name": "c", "env": [{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "m", "key": "z"}}}]});
        check(key, Err("couldn't find key z in ConfigMap m"));
        check(
            json!({"name": "c", "envFrom": [{"secretRef": {"name": "z"}}]}),
            Err("secret \"z\" not found"),
        );
    }

    #[test]
    fn labels_are_written_as_the_downward_api_does() {
        assert_eq!(
            pod_field(&pod(), "metadata.labels", HOST).unwrap(),
            "app=\"a\"\nb=\"say \\\"x\\\"\""
        );
    }
}
