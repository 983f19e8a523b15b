//! `/config_dump` and `/certs`, from the bytes of accepted resources.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::SystemTime;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use meltemi_core::names::{SDS_ROOT_CA, SDS_WORKLOAD, port};
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::json::{FieldNames, any_to_json_with};
use meltemi_proto::type_url;
use serde_json::{Value, json};

use super::Admin;
use crate::config::dump::{Rejected, Retained, Type};
use crate::secrets::{Content, Held, is_own};
use crate::telemetry::tls::rfc3339;

const SECRET: &str = type_url::SECRET;

/// The dump, or the part of it that `resource` names.
pub(super) fn dump(admin: &Admin, include_eds: bool, resource: Option<&str>) -> Value {
    let mut configs = vec![
        bootstrap(admin),
        clusters(&admin.retention.of(type_url::CLUSTER)),
        listeners(&admin.retention.of(type_url::LISTENER)),
        json!({ "@type": type_url::SCOPED_ROUTES_CONFIG_DUMP }),
        routes(
            &admin.retention.of(type_url::ROUTE),
            &admin.retention.of(type_url::VIRTUAL_HOST),
        ),
        secrets(admin),
    ];
    if include_eds {
        configs.insert(2, endpoints(&admin.retention.of(type_url::ENDPOINT)));
    }
    if let Some(resource) = resource {
        configs = configs
            .into_iter()
            .filter_map(|mut config| config.get_mut(resource).map(Value::take))
            .collect();
        configs = configs
            .into_iter()
            .flat_map(|list| list.as_array().cloned().unwrap_or_default())
            .collect();
    }
    json!({ "configs": configs })
}

fn bootstrap(admin: &Admin) -> Value {
    let node = crate::bootstrap::node(&admin.bootstrap);
    let bootstrap = meltemi_proto::envoy::config::bootstrap::v3::Bootstrap {
        node: Some(node),
        ..Default::default()
    };
    let any = meltemi_proto::any::pack(
        "type.googleapis.com/envoy.config.bootstrap.v3.Bootstrap",
        &bootstrap,
    );
    let mut value = any_to_json_with(&any, FieldNames::Proto)
        .unwrap_or_else(|error| json!({ "error": error.to_string() }));
    if let Some(fields) = value.as_object_mut() {
        fields.remove("@type");
    }
    json!({ "@type": type_url::BOOTSTRAP_CONFIG_DUMP, "bootstrap": value })
}

fn print(type_url: &str, retained: &Retained) -> Value {
    let body = Any {
        type_url: type_url.to_owned(),
        value: retained.body.to_vec(),
    };
    any_to_json_with(&body, FieldNames::Proto)
        .unwrap_or_else(|error| json!({ "@type": type_url, "error": error.to_string() }))
}

fn error_state(rejected: &Rejected) -> Value {
    json!({
        "last_update_attempt": rfc3339(rejected.at),
        "details": rejected.reason,
        "version_info": rejected.version,
    })
}

fn entries(type_url: &str, key: &str, resources: &Type) -> Vec<Value> {
    let mut all: Vec<Value> = resources
        .accepted
        .iter()
        .map(|(name, retained)| {
            let mut entry = json!({
                "version_info": retained.version,
                key: print(type_url, retained),
                "last_updated": rfc3339(retained.at),
            });
            if let Some(rejected) = resources.rejected.get(&**name) {
                entry["error_state"] = error_state(rejected);
            }
            entry
        })
        .collect();
    let never_accepted = resources
        .rejected
        .iter()
        .filter(|(name, _)| !resources.accepted.contains_key(name.as_str()));
    all.extend(
        never_accepted
            .map(|(name, rejected)| json!({ "name": name, "error_state": error_state(rejected) })),
    );
    all.extend(others(resources));
    all
}

/// Subscriptions without a resource: the name, and why there is none.
fn others(resources: &Type) -> impl Iterator<Item = Value> {
    let others = resources.others.iter();
    others.map(|(name, state)| json!({ "name": name, "client_status": state }))
}

fn version(resources: &Type) -> String {
    resources
        .accepted
        .values()
        .max_by_key(|retained| retained.at)
        .map(|retained| retained.version.to_string())
        .unwrap_or_default()
}

fn clusters(resources: &Type) -> Value {
    json!({
        "@type": type_url::CLUSTERS_CONFIG_DUMP,
        "version_info": version(resources),
        "static_clusters": [],
        "dynamic_active_clusters": entries(type_url::CLUSTER, "cluster", resources),
    })
}

fn listeners(resources: &Type) -> Value {
    let mut all = Vec::new();
    for (name, retained) in &resources.accepted {
        let mut entry = json!({
            "name": name,
            "active_state": {
                "version_info": retained.version,
                "listener": print(type_url::LISTENER, retained),
                "last_updated": rfc3339(retained.at),
            },
        });
        if let Some(rejected) = resources.rejected.get(&**name) {
            entry["error_state"] = error_state(rejected);
        }
        all.push(entry);
    }
    let never_accepted = resources
        .rejected
        .iter()
        .filter(|(name, _)| !resources.accepted.contains_key(name.as_str()));
    all.extend(
        never_accepted
            .map(|(name, rejected)| json!({ "name": name, "error_state": error_state(rejected) })),
    );
    all.extend(others(resources));
    json!({
        "@type": type_url::LISTENERS_CONFIG_DUMP,
        "version_info": version(resources),
        "static_listeners": own_listeners(),
        "dynamic_listeners": all,
    })
}

/// What the proxy answers itself, in the form that Istio's bootstrap has for it: people look for these two among the
/// listeners.
fn own_listeners() -> Vec<Value> {
    let listener = |port: u16, path: &str, cluster: &str| {
        let route = json!({ "match": { "prefix": path }, "route": { "cluster": cluster } });
        let manager = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "agent",
            "route_config": { "virtual_hosts": [{ "name": "backend", "domains": ["*"], "routes": [route] }] },
        });
        let address = json!({ "socket_address": { "address": "0.0.0.0", "port_value": port } });
        json!({
            "listener": {
                "@type": type_url::LISTENER,
                "address": address,
                "filter_chains": [{ "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }] }],
            },
        })
    };
    vec![
        listener(port::READINESS, "/healthz/ready", "agent"),
        listener(port::ENVOY_STATS, "/stats/prometheus", "prometheus_stats"),
    ]
}

/// Route configurations. Virtual hosts that came by themselves are shown in theirs, as Envoy does.
fn routes(resources: &Type, hosts: &Type) -> Value {
    let mut configurations = entries(type_url::ROUTE, "route_config", resources);
    for (name, host) in &hosts.accepted {
        let routes = name.split_once('/').map(|(routes, _)| routes);
        let of = configurations.iter_mut().find_map(|entry| {
            let config = entry.get_mut("route_config")?.as_object_mut()?;
            (config.get("name")?.as_str() == routes).then_some(config)
        });
        let list = of.map(|config| config.entry("virtual_hosts").or_insert_with(|| json!([])));
        if let Some(list) = list.and_then(Value::as_array_mut) {
            let mut host = print(type_url::VIRTUAL_HOST, host);
            if let Some(fields) = host.as_object_mut() {
                fields.remove("@type");
            }
            list.push(host);
        }
    }
    configurations.extend(others(hosts));
    json!({ "@type": type_url::ROUTES_CONFIG_DUMP, "dynamic_route_configs": configurations })
}

fn endpoints(resources: &Type) -> Value {
    json!({
        "@type": type_url::ENDPOINTS_CONFIG_DUMP,
        "dynamic_endpoint_configs": entries(type_url::ENDPOINT, "endpoint_config", resources),
    })
}

/// The certificate chain and the roots; the key is never shown.
fn secrets(admin: &Admin) -> Value {
    let delivered = delivered_secrets(admin);
    let warming = warming_secrets(admin);
    let Some(credentials) = admin.shared.credentials.get() else {
        return json!({
            "@type": type_url::SECRETS_CONFIG_DUMP,
            "dynamic_active_secrets": delivered,
            "dynamic_warming_secrets": warming,
        });
    };
    let updated = rfc3339(SystemTime::now());
    let version = credentials.generation.to_string();
    let chain = STANDARD.encode(credentials.certificate.chain_pem());
    let roots = STANDARD.encode(credentials.bundle.to_pem());
    let own = [
        json!({
            "name": SDS_WORKLOAD,
            "version_info": version,
            "last_updated": updated,
            "secret": {
                "@type": SECRET,
                "name": SDS_WORKLOAD,
                "tls_certificate": {
                    "certificate_chain": { "inline_bytes": chain },
                    "private_key": { "inline_bytes": STANDARD.encode(REDACTED) },
                },
            },
        }),
        json!({
            "name": SDS_ROOT_CA,
            "version_info": version,
            "last_updated": updated,
            "secret": {
                "@type": SECRET,
                "name": SDS_ROOT_CA,
                "validation_context": { "trusted_ca": { "inline_bytes": roots } },
            },
        }),
    ];
    let active: Vec<Value> = own.into_iter().chain(delivered).collect();
    json!({
        "@type": type_url::SECRETS_CONFIG_DUMP,
        "dynamic_active_secrets": active,
        "dynamic_warming_secrets": warming,
    })
}

/// What stands for a key.
const REDACTED: &str = "[redacted]";

/// The secrets that came from the control plane, without their keys.
fn delivered_secrets(admin: &Admin) -> Vec<Value> {
    let all = admin.shared.secrets.all();
    let shown = |name: &str, held: &Held| {
        let mut secret = json!({ "@type": SECRET, "name": name });
        match &held.content {
            Content::Certificate(certificate) => {
                secret["tls_certificate"] = json!({
                    "certificate_chain": { "inline_bytes": STANDARD.encode(certificate.chain_pem()) },
                    "private_key": { "inline_bytes": STANDARD.encode(REDACTED) },
                });
            }
            Content::Roots(pem) => {
                secret["validation_context"] =
                    json!({ "trusted_ca": { "inline_bytes": STANDARD.encode(pem) } });
            }
        }
        json!({
            "name": name,
            "version_info": held.version,
            "last_updated": rfc3339(held.at),
            "secret": secret,
        })
    };
    all.iter().map(|(name, held)| shown(name, held)).collect()
}

/// Secrets that listeners name and that did not come.
fn warming_secrets(admin: &Admin) -> Vec<Value> {
    let listeners = admin.shared.store.listeners.load();
    let names: BTreeSet<&str> = listeners
        .iter()
        .flat_map(|listener| listener.secret_names())
        .map(|name| &**name)
        .filter(|name| !is_own(name) && admin.shared.secrets.get(name).is_none())
        .collect();
    let rejected = admin.retention.of(SECRET).rejected;
    names
        .into_iter()
        .map(|name| {
            let mut entry = json!({
                "name": name,
                "version_info": "uninitialized",
                "secret": { "@type": SECRET, "name": name },
            });
            if let Some(rejected) = rejected.get(name) {
                entry["error_state"] = error_state(rejected);
            }
            entry
        })
        .collect()
}

/// Envoy's `/certs`.
pub(super) fn certificates(admin: &Admin) -> Value {
    let Some(credentials) = admin.shared.credentials.get() else {
        return json!({ "certificates": [] });
    };
    let days = |until: SystemTime| {
        until
            .duration_since(SystemTime::now())
            .map_or(0, |left| left.as_secs() / 86_400)
            .to_string()
    };
    let certificate = &credentials.certificate;
    let validity = certificate.validity();
    let roots: Vec<Value> = credentials
        .bundle
        .roots()
        .iter()
        .map(|(_, validity)| {
            json!({
                "path": "<inline>",
                "days_until_expiration": days(validity.not_after),
                "valid_from": rfc3339(validity.not_before),
                "expiration_time": rfc3339(validity.not_after),
            })
        })
        .collect();
    json!({
        "certificates": [{
            "ca_cert": roots,
            "cert_chain": [{
                "path": "<inline>",
                "serial_number": certificate.serial(),
                "subject_alt_names": [{ "uri": certificate.identity().to_string() }],
                "days_until_expiration": days(validity.not_after),
                "valid_from": rfc3339(validity.not_before),
                "expiration_time": rfc3339(validity.not_after),
            }],
        }],
    })
}

pub(super) fn socket_address(address: SocketAddr) -> Value {
    json!({ "socket_address": { "address": address.ip().to_string(), "port_value": address.port() } })
}
