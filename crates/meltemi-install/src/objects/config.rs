//! The two ConfigMaps that a control plane reads.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use meltemi_core::names::{ISTIOD, port};
use serde_json::{Map, Value, json};

use super::metadata;
use crate::values::Amounts;
use crate::{InstallError, Values};

/// ConfigMap `istio`: the MeshConfig, with what follows from the values where the user has not said otherwise.
pub(super) fn mesh(values: &Values) -> Result<ConfigMap, InstallError> {
    let mut mesh = values.mesh_config.clone();
    let namespace = values.namespace();
    let address = format!("{}.{namespace}.svc:{}", values.named(ISTIOD), port::XDS_TLS);
    let defaults = mesh
        .entry("defaultConfig")
        .or_insert_with(|| Value::Object(Map::new()));
    if let Some(defaults) = defaults.as_object_mut() {
        defaults
            .entry("discoveryAddress")
            .or_insert(Value::String(address));
    }
    let domain = &values.global.proxy.cluster_domain;
    mesh.entry("trustDomain")
        .or_insert_with(|| Value::String(domain.clone()));
    mesh.entry("rootNamespace")
        .or_insert_with(|| Value::String(namespace.to_owned()));
    let text = serde_saphyr::to_string(&Value::Object(mesh)).map_err(serde::ser::Error::custom);
    let text = text.map_err(InstallError::Serialise)?;
    Ok(ConfigMap {
        metadata: metadata(values, "istio"),
        data: Some(BTreeMap::from([("mesh".to_owned(), text)])),
        ..ConfigMap::default()
    })
}

/// ConfigMap `istio-sidecar-injector`: what pods are injected with, in the words of Istio's charts. Our template is a part
/// of the program, so there is none in it.
pub(super) fn injector(values: &Values) -> Result<ConfigMap, InstallError> {
    let global = &values.global;
    let webhook = &values.sidecar_injector_webhook;
    let amounts = |amounts: &Amounts| {
        let map = |amounts: &BTreeMap<String, crate::values::Text>| -> Map<String, Value> {
            let pairs = amounts.iter();
            pairs
                .map(|(name, amount)| (name.clone(), Value::String(amount.to_string())))
                .collect()
        };
        json!({"requests": map(&amounts.requests), "limits": map(&amounts.limits)})
    };
    let nothing = crate::values::Text::default();
    let image = |name: &str| values.image(name, &nothing, &nothing);
    let chart = json!({
        "global": {
            "caAddress": format!("{}.{}.svc:{}", values.named(ISTIOD), values.namespace(), port::XDS_TLS),
            "imagePullPolicy": global.image_pull_policy,
            "logging": {"level": global.logging.level},
            "meshID": global.mesh_id.as_str(),
            "multiCluster": {"clusterName": global.multi_cluster.cluster_name.as_str()},
            "network": global.network.as_str(),
            "proxy": {
                "clusterDomain": global.proxy.cluster_domain,
                "componentLogLevel": global.proxy.component_log_level,
                "image": image(&global.proxy.image),
                "logLevel": global.proxy.log_level,
                "resources": amounts(&global.proxy.resources),
            },
            "proxy_init": {"image": image(&global.proxy_init.image)},
        },
        "revision": values.revision(),
        "sidecarInjectorWebhook": {
            "rewriteAppHTTPProbe": webhook.rewrite_app_http_probe,
        },
    });
    let config = json!({
        "policy": "enabled",
        "neverInjectSelector": webhook.never_inject_selector,
        "alwaysInjectSelector": webhook.always_inject_selector,
    });
    let config = serde_saphyr::to_string(&config).map_err(serde::ser::Error::custom);
    Ok(ConfigMap {
        metadata: metadata(values, "istio-sidecar-injector"),
        data: Some(BTreeMap::from([
            (
                "config".to_owned(),
                config.map_err(InstallError::Serialise)?,
            ),
            ("values".to_owned(), serde_json::to_string_pretty(&chart)?),
        ])),
        ..ConfigMap::default()
    })
}
