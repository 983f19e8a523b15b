//! The environment through which the proxy learns about its pod.

use k8s_openapi::api::core::v1::{
    EnvVar, EnvVarSource, ObjectFieldSelector, PodSpec, ResourceFieldSelector,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meltemi_core::names::PROXY_CONTAINER;
use serde_json::Value;

use crate::options::Options;
use crate::{InjectionSettings, Workload};

pub(crate) const SOCKET_MARK: &str = "MELTEMI_SOCKET_MARK";

/// Differs from Istio: no `GOMEMLIMIT` and `GOMAXPROCS`, which steer a runtime this proxy does not have.
pub(crate) fn proxy(
    spec: &PodSpec,
    workload: &Workload,
    options: &Options,
    settings: &InjectionSettings,
) -> Vec<EnvVar> {
    let mut env = vec![
        value("PILOT_CERT_PROVIDER", "istiod"),
        value("CA_ADDR", &settings.ca_address),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        cpu_limit("ISTIO_CPU_LIMIT"),
        value("PROXY_CONFIG", &json(&options.proxy_config)),
        value("ISTIO_META_POD_PORTS", &pod_ports(spec)),
        value("ISTIO_META_APP_CONTAINERS", &app_containers(spec).join(",")),
        value("ISTIO_META_CLUSTER_ID", &settings.cluster_id),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        value(
            "ISTIO_META_INTERCEPTION_MODE",
            options.interception.as_str(),
        ),
        value("ISTIO_META_WORKLOAD_NAME", &workload.name),
        value("ISTIO_META_OWNER", &workload.owner()),
        value("ISTIO_META_MESH_ID", settings.mesh_id()),
        value("TRUST_DOMAIN", &settings.trust_domain),
    ];
    if !settings.network.is_empty() {
        env.push(value("ISTIO_META_NETWORK", &settings.network));
    }
    env.extend(mark(settings));
    env.extend(metadata(options));
    for (name, text) in &settings.proxy_env {
        set(&mut env, value(name, text));
    }
    env
}

pub(crate) fn init(options: &Options, settings: &InjectionSettings) -> Vec<EnvVar> {
    metadata(options).chain(mark(settings)).collect()
}

/// Puts a variable in, or in place of the one with its name.
pub(crate) fn set(env: &mut Vec<EnvVar>, variable: EnvVar) {
    match env.iter_mut().find(|known| known.name == variable.name) {
        Some(known) => *known = variable,
        None => env.push(variable),
    }
}

pub(crate) fn value(name: &str, text: &str) -> EnvVar {
    EnvVar {
        name: name.to_owned(),
        value: Some(text.to_owned()),
        value_from: None,
    }
}

/// Names of the application's containers.
pub(crate) fn app_containers(spec: &PodSpec) -> Vec<&str> {
    spec.containers
        .iter()
        .map(|container| container.name.as_str())
        .filter(|name| *name != PROXY_CONTAINER)
        .collect()
}

fn mark(settings: &InjectionSettings) -> Option<EnvVar> {
    Some(value(SOCKET_MARK, &settings.proxy_mark?.to_string()))
}

fn metadata(options: &Options) -> impl Iterator<Item = EnvVar> {
    let metadata = &options.proxy_config.proxy_metadata;
    metadata.iter().map(|(name, text)| value(name, text))
}

fn pod_ports(spec: &PodSpec) -> String {
    let ports: Vec<_> = spec
        .containers
        .iter()
        .filter(|container| container.name != PROXY_CONTAINER)
        .flat_map(|container| container.ports.iter().flatten())
        .collect();
    json(&ports)
}

/// JSON of plain data, which always has one.
fn json<T: serde::Serialize>(data: &T) -> String {
    serde_json::to_value(data)
        .unwrap_or(Value::Null)
        .to_string()
}

fn field(name: &str, path: &str) -> EnvVar {
    let field_ref = ObjectFieldSelector {
        api_version: None,
        field_path: path.to_owned(),
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(field_ref),
            ..EnvVarSource::default()
        }),
    }
}

fn cpu_limit(name: &str) -> EnvVar {
    let resource = ResourceFieldSelector {
        container_name: None,
        divisor: Some(Quantity("1".to_owned())),
        resource: "limits.cpu".to_owned(),
    };
    EnvVar {
        name: name.to_owned(),
        value: None,
        value_from: Some(EnvVarSource {
            resource_field_ref: Some(resource),
            ..EnvVarSource::default()
        }),
    }
}
