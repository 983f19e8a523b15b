//! ConfigMap `istio-sidecar-injector`: the injector's configuration and Istio's Helm values, as far as our settings have
//! what they say. Whatever else they hold is named.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::{InjectionPolicy, InjectionSettings};

/// How many parts of a field's name are told.
const TOLD_DEPTH: usize = 3;

/// Takes over `config` of the ConfigMap `istio-sidecar-injector`; answers the fields that are not used.
pub fn take_inject_config(settings: &mut InjectionSettings, mut config: Value) -> Vec<String> {
    match take_text(&mut config, &["policy"]).as_deref() {
        Some("disabled") => settings.policy = InjectionPolicy::Disabled,
        Some("enabled") => settings.policy = InjectionPolicy::Enabled,
        _ => {}
    }
    take_selectors(
        &mut settings.never_inject,
        &mut config,
        &["neverInjectSelector"],
    );
    take_selectors(
        &mut settings.always_inject,
        &mut config,
        &["alwaysInjectSelector"],
    );
    left(&config)
}

/// Takes over Istio's Helm values (`values` of that ConfigMap); answers the fields that are not used.
pub fn take_values(settings: &mut InjectionSettings, mut values: Value) -> Vec<String> {
    let hub = take_text(&mut values, &["global", "hub"]);
    let tag = take(&mut values, &["global", "tag"]).map(|tag| plain(&tag));
    let image = |name: String| match (&hub, &tag) {
        // A whole name stays; a bare one is completed (Istio, `global.proxy.image`).
        _ if name.contains('/') => name,
        (Some(hub), Some(tag)) => format!("{hub}/{name}:{tag}"),
        (Some(hub), None) => format!("{hub}/{name}"),
        _ => name,
    };
    for (target, path) in [
        (&mut settings.proxy_image, &["global", "proxy", "image"][..]),
        (
            &mut settings.init_image,
            &["global", "proxy_init", "image"][..],
        ),
    ] {
        if let Some(name) = take_text(&mut values, path) {
            *target = image(name);
        }
    }
    let texts: [(&mut String, &[&str]); 8] = [
        (&mut settings.revision, &["revision"]),
        (&mut settings.log_level, &["global", "proxy", "logLevel"]),
        (
            &mut settings.component_log_level,
            &["global", "proxy", "componentLogLevel"],
        ),
        (
            &mut settings.agent_log_level,
            &["global", "logging", "level"],
        ),
        (&mut settings.mesh_id, &["global", "meshID"]),
        (&mut settings.network, &["global", "network"]),
        (&mut settings.ca_address, &["global", "caAddress"]),
        (
            &mut settings.cluster_id,
            &["global", "multiCluster", "clusterName"],
        ),
    ];
    for (target, path) in texts {
        if let Some(text) = take_text(&mut values, path) {
            *target = text;
        }
    }
    if let Some(domain) = take_text(&mut values, &["global", "proxy", "clusterDomain"]) {
        settings.cluster_domain = domain;
    }
    if let Some(policy) = take_text(&mut values, &["global", "imagePullPolicy"]) {
        settings.image_pull_policy = Some(policy);
    }
    let resources = &mut settings.resources;
    let amounts: [(&mut Option<String>, [&str; 2]); 4] = [
        (&mut resources.cpu, ["requests", "cpu"]),
        (&mut resources.memory, ["requests", "memory"]),
        (&mut resources.cpu_limit, ["limits", "cpu"]),
        (&mut resources.memory_limit, ["limits", "memory"]),
    ];
    for (target, [list, name]) in amounts {
        let amount = take(&mut values, &["global", "proxy", "resources", list, name]);
        if let Some(amount) = amount {
            *target = Some(plain(&amount));
        }
    }
    let rewrite = ["sidecarInjectorWebhook", "rewriteAppHTTPProbe"];
    if let Some(Value::Bool(rewrite)) = take(&mut values, &rewrite) {
        settings.rewrite_app_http_probers = rewrite;
    }
    for (target, name) in [
        (&mut settings.never_inject, "neverInjectSelector"),
        (&mut settings.always_inject, "alwaysInjectSelector"),
    ] {
        take_selectors(target, &mut values, &["sidecarInjectorWebhook", name]);
    }
    left(&values)
}

/// Removes a field and answers its value.
fn take(value: &mut Value, path: &[&str]) -> Option<Value> {
    let (last, parents) = path.split_last()?;
    let parent = parents
        .iter()
        .try_fold(value, |value, name| value.get_mut(*name))?;
    parent.as_object_mut()?.remove(*last)
}

/// A text that says something; an empty one is Helm's way of saying nothing.
fn take_text(value: &mut Value, path: &[&str]) -> Option<String> {
    let text = take(value, path)?;
    text.as_str()
        .filter(|text| !text.is_empty())
        .map(str::to_owned)
}

/// Helm values hold numbers where texts are meant.
fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Label selectors by equality; one with expressions stays behind, to be told.
fn take_selectors(target: &mut Vec<BTreeMap<String, String>>, value: &mut Value, path: &[&str]) {
    let labels = |selector: &Value| -> Option<BTreeMap<String, String>> {
        let fields = selector.as_object()?;
        let labels = fields.get("matchLabels")?.as_object()?;
        let text =
            |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
        (fields.len() == 1).then(|| labels.iter().filter_map(text).collect())
    };
    let Some(Value::Array(selectors)) = take(value, path) else {
        return;
    };
    let (known, others): (Vec<_>, Vec<_>) = selectors
        .into_iter()
        .partition(|selector| labels(selector).is_some());
    target.extend(known.iter().filter_map(labels));
    if let (false, Some((last, parents))) = (others.is_empty(), path.split_last()) {
        let parent = parents
            .iter()
            .try_fold(value, |value, name| value.get_mut(*name));
        if let Some(fields) = parent.and_then(Value::as_object_mut) {
            fields.insert((*last).to_owned(), Value::Array(others));
        }
    }
}

/// The fields that say something and were not taken.
fn left(value: &Value) -> Vec<String> {
    let mut names = Vec::new();
    collect(value, &mut Vec::new(), &mut names);
    names.sort();
    names
}

fn collect<'a>(value: &'a Value, path: &mut Vec<&'a str>, names: &mut Vec<String>) {
    if says_nothing(value) {
        return;
    }
    match value.as_object() {
        Some(fields) if path.len() < TOLD_DEPTH => {
            for (name, value) in fields {
                path.push(name);
                collect(value, path, names);
                path.pop();
            }
        }
        _ => names.push(path.join(".")),
    }
}

/// Helm's empty values, and what holds nothing else.
fn says_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(says_nothing),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_become_settings_and_the_rest_is_named() {
        let mut settings = InjectionSettings::default();
        let unused = take_values(
            &mut settings,
            json!({
                "revision": "canary",
                "global": {
                    "hub": "registry.example", "tag": 1.5, "network": "", "meshID": "m",
                    "proxy": {
                        "image": "proxyv2", "logLevel": "debug", "privileged": false, "tracer": "zipkin",
                        "resources": {"requests": {"cpu": "10m", "memory": 64}},
                    },
                    "proxy_init": {"image": "elsewhere/init:2"},
                },
                "sidecarInjectorWebhook": {
                    "rewriteAppHTTPProbe": false,
                    "neverInjectSelector": [{"matchLabels": {"a": "b"}}, {"matchExpressions": [{"key": "x"}]}],
                },
                "pilot": {"cni": {"enabled": true}},
            }),
        );
        assert_eq!(settings.proxy_image, "registry.example/proxyv2:1.5");
        assert_eq!(settings.init_image, "elsewhere/init:2");
        assert_eq!(settings.revision, "canary");
        assert_eq!(
            (settings.mesh_id.as_str(), settings.log_level.as_str()),
            ("m", "debug")
        );
        assert_eq!(settings.resources.memory.as_deref(), Some("64"));
        assert!(!settings.rewrite_app_http_probers);
        assert_eq!(settings.never_inject.len(), 1);
        assert_eq!(
            unused,
            [
                "global.proxy.tracer",
                "pilot.cni.enabled",
                "sidecarInjectorWebhook.neverInjectSelector",
            ]
        );
    }

    #[test]
    fn the_injectors_policy_counts_and_its_templates_do_not() {
        let mut settings = InjectionSettings::default();
        let config =
            json!({"policy": "disabled", "templates": {"sidecar": "{{ }}"}, "aliases": {}});
        assert_eq!(
            take_inject_config(&mut settings, config),
            ["templates.sidecar"]
        );
        assert_eq!(settings.policy, InjectionPolicy::Disabled);
    }
}
