//! What a proxy is to have, in the shape of Envoy's `/config_dump` (`envoy.admin.v3.ConfigDump`).

use meltemi_proto::json::{self as proto_json, FieldNames};
use meltemi_proto::type_url;
use meltemi_xds::Snapshot;
use serde_json::{Value, json};

use crate::hub::ProxyDetail;

pub(super) fn config_dump(proxy: &ProxyDetail) -> Value {
    let snapshot = &proxy.snapshot;
    let version = snapshot.version();
    let clusters = resources(
        snapshot,
        type_url::CLUSTER,
        |cluster| json!({ "version_info": version, "cluster": cluster }),
    );
    let listeners = resources(snapshot, type_url::LISTENER, |listener| {
        let name = listener.get("name").cloned().unwrap_or_default();
        json!({ "name": name, "active_state": { "version_info": version, "listener": listener } })
    });
    let mut routes = resources(
        snapshot,
        type_url::ROUTE,
        |routes| json!({ "version_info": version, "route_config": routes }),
    );
    put_hosts(snapshot, &mut routes);
    let endpoints = resources(
        snapshot,
        type_url::ENDPOINT,
        |endpoints| json!({ "version_info": version, "endpoint_config": endpoints }),
    );
    json!({ "configs": [
        {
            "@type": type_url::CLUSTERS_CONFIG_DUMP,
            "version_info": version,
            "dynamic_active_clusters": clusters,
        },
        {
            "@type": type_url::LISTENERS_CONFIG_DUMP,
            "version_info": version,
            "dynamic_listeners": listeners,
        },
        { "@type": type_url::ROUTES_CONFIG_DUMP, "dynamic_route_configs": routes },
        { "@type": type_url::ENDPOINTS_CONFIG_DUMP, "dynamic_endpoint_configs": endpoints },
    ]})
}

/// Shows the virtual hosts that a proxy asked for in their route configurations, as the proxy's own dump does.
fn put_hosts(snapshot: &Snapshot, routes: &mut Value) {
    let hosts = snapshot.resources(type_url::VIRTUAL_HOST).into_iter();
    for (name, host) in hosts.flat_map(|map| map.iter()) {
        let of = name.split_once('/').map(|(routes, _)| routes);
        let config = routes
            .as_array_mut()
            .into_iter()
            .flatten()
            .find_map(|entry| {
                let config = entry.get_mut("route_config")?.as_object_mut()?;
                (config.get("name")?.as_str() == of).then_some(config)
            });
        let Some(config) = config else { continue };
        let list = config.entry("virtual_hosts").or_insert_with(|| json!([]));
        let body = proto_json::any_to_json_with(&host.body, FieldNames::Proto);
        if let (Some(list), Ok(mut body)) = (list.as_array_mut(), body) {
            if let Some(fields) = body.as_object_mut() {
                fields.remove("@type");
            }
            list.push(body);
        }
    }
}

/// A resource that cannot be written as JSON shows why instead.
fn resources(snapshot: &Snapshot, url: &str, wrap: impl Fn(Value) -> Value) -> Value {
    let all = snapshot.resources(url).into_iter();
    all.flat_map(|map| map.values())
        .map(
            |resource| match proto_json::any_to_json_with(&resource.body, FieldNames::Proto) {
                Ok(body) => wrap(body),
                Err(error) => wrap(json!({ "name": resource.name, "error": error.to_string() })),
            },
        )
        .collect()
}
