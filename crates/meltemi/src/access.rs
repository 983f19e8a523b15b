//! The way from the commands to a mesh in a lab.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use http::{Method as HttpMethod, StatusCode};
use meltemi_api::istio::MeshConfig;
use meltemi_api::{Kind, parse_message};
use meltemi_cli::{Access, AccessError, Method, Pod, Response};
use meltemi_core::names;
use meltemi_inject::InjectionSettings;
use meltemi_lab::client::{ClientError, LabClient};
use meltemi_lab::wire::Failure;
use serde_json::{Value, json};

/// The environment variable that names the lab, as `--name` of `meltemi lab` does.
const LAB_NAME: &str = "MELTEMI_LAB";

pub(crate) struct Lab(LabClient);

impl Lab {
    pub(crate) fn from_env() -> Self {
        let name = std::env::var(LAB_NAME).ok().filter(|name| !name.is_empty());
        Self(LabClient::new(name.as_deref().unwrap_or("default")))
    }
}

impl Lab {
    /// What this lab injects pods with: its mesh configuration, and the socket mark where it has a single uid.
    async fn settings(&self) -> Option<InjectionSettings> {
        let rootless = self.0.status().await.ok()?.rootless;
        let maps = self
            .0
            .objects("ConfigMap", Some(names::ISTIO_SYSTEM))
            .await
            .ok()?;
        let mesh = maps.iter().find(|map| map["metadata"]["name"] == "istio");
        let mesh = mesh
            .and_then(|map| map["data"]["mesh"].as_str())
            .unwrap_or_default();
        let (mesh, _) = parse_message::<MeshConfig>("ConfigMap istio-system/istio", mesh);
        let settings = InjectionSettings::of_mesh(&mesh.unwrap_or_default());
        Some(InjectionSettings {
            proxy_mark: rootless.then_some(names::PROXY_MARK),
            ..settings
        })
    }
}

impl Access for Lab {
    fn pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, AccessError>> {
        Box::pin(async {
            let pods = self.0.objects("Pod", None).await.map_err(failure)?;
            Ok(pods.iter().map(pod).collect())
        })
    }

    fn pod_http<'a>(
        &'a self,
        pod: &'a str,
        namespace: &'a str,
        port: u16,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>> {
        Box::pin(async move {
            let answered = self
                .0
                .pod_http(namespace, pod, port, http_method(method), path)
                .await;
            let what = format!("pod {pod} does not answer on port {port}");
            answer(answered, &what, "is it ready? See `meltemi lab status`")
        })
    }

    fn istiod_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>> {
        Box::pin(async move {
            let answered = self.0.istiod_http(http_method(method), path).await;
            let hint = "`meltemi lab status` says how it is; the lab restarts it by itself";
            answer(answered, "the control plane does not answer", hint)
        })
    }

    fn service_selector<'a>(
        &'a self,
        service: &'a str,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, String>>, AccessError>> {
        Box::pin(async move {
            let services = self.0.objects("Service", Some(namespace)).await;
            let services = services.map_err(failure)?;
            let mut services = services.iter();
            let found = services.find(|found| found["metadata"]["name"] == *service);
            Ok(found.and_then(|found| texts(&found["spec"]["selector"])))
        })
    }

    fn objects(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(async {
            let mut items = Vec::new();
            // A Secret is nothing to judge, and nothing to carry about.
            let kinds = Kind::ALL.iter().filter(|kind| **kind != Kind::Secret);
            for kind in kinds {
                let found = self.0.objects(kind.as_str(), None).await;
                items.extend(found.map_err(failure)?);
            }
            Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        })
    }

    fn injection_settings(&self) -> BoxFuture<'_, Option<InjectionSettings>> {
        Box::pin(self.settings())
    }
}

fn http_method(method: Method) -> HttpMethod {
    match method {
        Method::Get => HttpMethod::GET,
        Method::Post => HttpMethod::POST,
    }
}

/// What was answered. Where nobody did the lab says so in the form of its own errors.
fn answer(
    answer: Result<(StatusCode, bytes::Bytes), ClientError>,
    nobody: &str,
    hint: &str,
) -> Result<Response, AccessError> {
    let (status, body) = answer.map_err(failure)?;
    if status == StatusCode::BAD_GATEWAY
        && let Ok(failure) = serde_json::from_slice::<Failure>(&body)
    {
        return Err(AccessError::Unreachable {
            message: format!("{nobody} ({})", failure.error),
            hint: hint.to_owned(),
        });
    }
    Ok(Response {
        status: status.as_u16(),
        body: body.to_vec(),
    })
}

fn failure(error: ClientError) -> AccessError {
    match error {
        ClientError::NotUp(name) => AccessError::Unreachable {
            message: format!("no lab \"{name}\" runs on this machine"),
            hint: "start one with `meltemi lab up`, or name another with MELTEMI_LAB".to_owned(),
        },
        error => AccessError::Failed {
            message: error.to_string(),
        },
    }
}

/// The entries of a map of texts; `None` for no map and an empty one.
fn texts(map: &Value) -> Option<BTreeMap<String, String>> {
    let fields = map.as_object()?.iter();
    let text = |(name, value): (&String, &Value)| Some((name.clone(), value.as_str()?.to_owned()));
    let texts: BTreeMap<_, _> = fields.filter_map(text).collect();
    (!texts.is_empty()).then_some(texts)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_there_is_told_apart_from_an_answer() {
        let check = |status: StatusCode, body: &'static str| {
            answer(Ok((status, body.into())), "nobody", "wait").map(|response| response.status)
        };
        assert_eq!(check(StatusCode::OK, "{}").unwrap(), 200);
        assert_eq!(
            check(StatusCode::BAD_GATEWAY, "a proxy's own").unwrap(),
            502
        );
        let error = check(StatusCode::BAD_GATEWAY, "{\"error\": \"refused\"}").unwrap_err();
        assert_eq!(error.to_string(), "nobody (refused)");
    }

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
