//! The way from the commands to a mesh.

mod kubernetes;
mod lab;

use std::collections::BTreeMap;

use clap::ArgMatches;
use http::Method as HttpMethod;
use meltemi_api::istio::MeshConfig;
use meltemi_api::{Kind, parse_message};
use meltemi_cli::{Access, Method, Pod};
use meltemi_inject::InjectionSettings;
use meltemi_kube::ClusterOptions;
use serde_json::{Value, json};

use kubernetes::Kubernetes;
use lab::Lab;

/// The mesh that a command line means: the cluster of its flags, the lab of `MELTEMI_LAB`, the cluster of `KUBECONFIG`, a
/// lab that runs, the cluster of `~/.kube/config`; a lab where there is none of them. To install means a cluster always.
pub(crate) async fn of_command_line(matches: &ArgMatches) -> Box<dyn Access> {
    let cluster = meltemi_cli::cluster_flags(matches);
    let is_asked =
        cluster.kubeconfig.is_some() || cluster.context.is_some() || is_of_clusters(matches);
    let kubernetes = |flags: meltemi_cli::ClusterFlags| {
        let options = ClusterOptions {
            kubeconfig: flags.kubeconfig,
            context: flags.context,
        };
        let (namespace, revision) = (flags.istio_namespace, flags.revision);
        Box::new(Kubernetes::new(options, namespace, revision)) as Box<dyn Access>
    };
    if is_asked {
        return kubernetes(cluster);
    }
    if lab::is_named() {
        return Box::new(Lab::from_env());
    }
    if is_set("KUBECONFIG") {
        return kubernetes(cluster);
    }
    let lab = Lab::from_env();
    if !lab.is_up().await && has_kubeconfig() {
        return kubernetes(cluster);
    }
    Box::new(lab)
}

/// Whether only a cluster can be meant.
fn is_of_clusters(matches: &ArgMatches) -> bool {
    match matches.subcommand() {
        Some(("install" | "upgrade" | "uninstall" | "tag" | "check", _)) => true,
        Some(("experimental", inner)) => inner.subcommand_name() == Some("precheck"),
        _ => false,
    }
}

fn is_set(variable: &str) -> bool {
    std::env::var_os(variable).is_some_and(|value| !value.is_empty())
}

fn has_kubeconfig() -> bool {
    let home = std::env::home_dir();
    home.is_some_and(|home| home.join(".kube/config").is_file())
}

fn http_method(method: Method) -> HttpMethod {
    match method {
        Method::Get => HttpMethod::GET,
        Method::Post => HttpMethod::POST,
    }
}

/// The entries of a map of texts; `None` for no map and an empty one.
fn texts(map: &Value) -> Option<BTreeMap<String, String>> {
    let fields = map.as_object()?.iter();
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let texts: BTreeMap<_, _> = fields.filter_map(text).collect();
    (!texts.is_empty()).then_some(texts)
}

/// The labels by which one of the Services selects its pods.
fn selector(services: &[Value], name: &str) -> Option<BTreeMap<String, String>> {
    let mut services = services.iter();
    let found = services.find(|found| found["metadata"]["name"] == *name);
    texts(&found?["spec"]["selector"])
}

/// What `analyze` judges. A Secret is nothing to judge, and nothing to carry about.
fn judged_kinds() -> impl Iterator<Item = Kind> {
    Kind::ALL
        .iter()
        .copied()
        .filter(|kind| *kind != Kind::Secret)
}

fn list(items: Vec<Value>) -> String {
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// What the commands need of a pod's JSON.
fn pod(pod: &Value) -> Pod {
    let text = |path: &str| {
        pod.pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let list = |path: &str| {
        pod.pointer(path)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
    };
    let sidecars =
        list("/spec/initContainers").filter(|container| container["restartPolicy"] == "Always");
    let name = |container: &Value| container["name"].as_str().unwrap_or_default().to_owned();
    let labels = pod
        .pointer("/metadata/labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten();
    Pod {
        name: text("/metadata/name"),
        namespace: text("/metadata/namespace"),
        labels: labels
            .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
            .collect(),
        address: text("/status/podIP"),
        containers: list("/spec/containers").chain(sidecars).map(name).collect(),
        ready: list("/status/conditions")
            .any(|condition| condition["type"] == "Ready" && condition["status"] == "True"),
        is_ending: !text("/metadata/deletionTimestamp").is_empty(),
    }
}

/// What a lab injects pods with, by the ConfigMaps of its root namespace.
fn injection_settings(maps: &[Value]) -> InjectionSettings {
    let mesh = maps.iter().find(|map| map["metadata"]["name"] == "istio");
    let mesh = mesh
        .and_then(|map| map["data"]["mesh"].as_str())
        .unwrap_or_default();
    let (mesh, _) = parse_message::<MeshConfig>("ConfigMap istio-system/istio", mesh);
    InjectionSettings::of_mesh(&mesh.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sidecars_count_as_containers() {
        let found = pod(&json!({
            "metadata": {"name": "a", "namespace": "b", "labels": {"app": "a"}},
            "spec": {
                "containers": [{"name": "a"}],
                "initContainers": [{"name": "istio-init"}, {"name": "istio-proxy", "restartPolicy": "Always"}],
            },
            "status": {"podIP": "10.244.0.2", "conditions": [{"type": "Ready", "status": "True"}]},
        }));
        assert_eq!(found.containers, ["a", "istio-proxy"]);
        assert_eq!(
            (
                found.ready,
                found.address.as_str(),
                found.labels["app"].as_str()
            ),
            (true, "10.244.0.2", "a")
        );
    }
}
