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
    let routes = resources(
        snapshot,
        type_url::ROUTE,
        |routes| json!({ "version_info": version, "route_config": routes }),
    );
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
