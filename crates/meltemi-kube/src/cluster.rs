//! A cluster as commands need it: objects, and HTTP to the inside of pods.

use std::collections::BTreeSet;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper::{Method, Request};
use hyper_util::rt::TokioIo;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DynamicObject, ListParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use meltemi_api::{Kind, Scope};
use meltemi_core::names::{ISTIO_SYSTEM, label};
use serde_json::Value;

use crate::bounded;
use crate::resources::{json, served};

/// The longest that one request may take.
const TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer read: the configuration of a proxy that knows a large mesh.
const ANSWER_LIMIT_BYTES: usize = 512 << 20;
/// The label of the control plane's pods.
const CONTROL_PLANE: &str = "app=istiod";

/// Which cluster, as kubectl's flags say it.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions {
    /// Instead of KUBECONFIG and `~/.kube/config`.
    pub kubeconfig: Option<String>,
    /// Instead of the file's current one.
    pub context: Option<String>,
}

#[derive(Clone)]
pub struct Cluster(pub(crate) Client);

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("the kubeconfig cannot be used: {0}")]
    Config(String),
    #[error("the API server does not answer: {0}")]
    Unreachable(String),
    #[error("{0}")]
    Refused(String),
    #[error("pod {pod} does not answer on port {port}: {reason}")]
    Pod {
        pod: String,
        port: u16,
        reason: String,
    },
    #[error("no pod of a control plane{revision} is ready{place}")]
    NoControlPlane { place: String, revision: String },
    #[error("there are control planes in several namespaces: {0}")]
    ManyMeshes(String),
    #[error("{name} is still there {seconds} s after it was deleted{reason}")]
    Lasting {
        name: String,
        seconds: u64,
        reason: String,
    },
}

impl Cluster {
    /// Reads the kubeconfig, or what a pod is given; nothing is asked yet.
    ///
    /// # Errors
    /// There is none, or it cannot be used.
    pub async fn find(options: &ClusterOptions) -> Result<Self, ClusterError> {
        let failed = |error: &dyn std::fmt::Display| ClusterError::Config(error.to_string());
        let chosen = KubeConfigOptions {
            context: options.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &options.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| failed(&error))?;
                let config = Config::from_custom_kubeconfig(file, &chosen).await;
                config.map_err(|error| failed(&error))?
            }
            None if options.context.is_some() => {
                let config = Config::from_kubeconfig(&chosen).await;
                config.map_err(|error| failed(&error))?
            }
            None => Config::infer().await.map_err(|error| failed(&error))?,
        };
        Client::try_from(config)
            .map(Self)
            .map_err(|error| failed(&error))
    }

    /// The objects of a kind, of one namespace or all; none of a kind that the cluster does not serve.
    ///
    /// # Errors
    /// The API server does not answer, or refuses.
    pub async fn objects(
        &self,
        kind: Kind,
        namespace: Option<&str>,
    ) -> Result<Vec<Value>, ClusterError> {
        let Some(resource) = served(&self.0, kind).await.map_err(told)? else {
            return Ok(Vec::new());
        };
        let namespace = namespace.filter(|_| kind.scope() == Scope::Namespaced);
        let api: Api<DynamicObject> = match namespace {
            Some(namespace) => Api::namespaced_with(self.0.clone(), namespace, &resource),
            None => Api::all_with(self.0.clone(), &resource),
        };
        let list = bounded(api.list(&ListParams::default()))
            .await
            .map_err(told)?;
        let items = list.items.into_iter();
        Ok(items.map(|object| json(&resource, object)).collect())
    }

    /// A request to a port on the loopback of a pod: status and body.
    ///
    /// # Errors
    /// The way to the pod cannot be made, or nobody answers there.
    pub async fn pod_http(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        method: Method,
        path: &str,
    ) -> Result<(u16, Bytes), ClusterError> {
        let failed = |reason: String| ClusterError::Pod {
            pod: pod.to_owned(),
            port,
            reason,
        };
        let asked = tokio::time::timeout(TIMEOUT, self.ask(namespace, pod, port, method, path));
        match asked.await {
            Ok(answer) => answer.map_err(|error| failed(error.to_string())),
            Err(_late) => Err(failed(format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    async fn ask(
        &self,
        namespace: &str,
        pod: &str,
        port: u16,
        method: Method,
        path: &str,
    ) -> Result<(u16, Bytes), Box<dyn std::error::Error + Send + Sync>> {
        let pods: Api<Pod> = Api::namespaced(self.0.clone(), namespace);
        let mut forward = pods.portforward(pod, &[port]).await?;
        let stream = forward
            .take_stream(port)
            .ok_or("the port was not forwarded")?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Dropped with this future, and both tasks with it.
        let _driver = AbortOnDrop(tokio::spawn(connection));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .body(Full::<Bytes>::default())?;
        let answer = async {
            let response = sender.send_request(request).await?;
            let status = response.status().as_u16();
            let body = Limited::new(response.into_body(), ANSWER_LIMIT_BYTES);
            Ok((status, body.collect().await?.to_bytes()))
        };
        let answer = answer.await;
        forward.abort();
        answer
    }

    /// The ready pods of the control plane: of one namespace, or of the one mesh that there is; of one revision or all.
    ///
    /// # Errors
    /// There is none, there are several meshes, or the API server does not answer.
    pub async fn control_planes(
        &self,
        namespace: Option<&str>,
        revision: Option<&str>,
    ) -> Result<Vec<ControlPlanePod>, ClusterError> {
        let labels = match revision {
            Some(revision) => format!("{CONTROL_PLANE},{}={revision}", label::ISTIO_REV),
            None => CONTROL_PLANE.to_owned(),
        };
        let running = ListParams::default()
            .labels(&labels)
            .fields("status.phase=Running");
        let in_one = Api::<Pod>::namespaced(self.0.clone(), namespace.unwrap_or(ISTIO_SYSTEM));
        let in_all = Api::<Pod>::all(self.0.clone());
        let api = if namespace.is_some() {
            &in_one
        } else {
            &in_all
        };
        let pods = match bounded(api.list(&running)).await {
            // Who may not look everywhere may look in the usual namespace.
            Err(kube::Error::Api(status)) if status.code == 403 && namespace.is_none() => {
                bounded(in_one.list(&running)).await
            }
            listed => listed,
        };
        let pods = pods.map_err(told)?.items;
        let ready = pods
            .into_iter()
            .filter(is_ready)
            .map(|pod| ControlPlanePod {
                namespace: pod.metadata.namespace.unwrap_or_default(),
                name: pod.metadata.name.unwrap_or_default(),
            });
        let pods = one_mesh(ready.collect())?;
        if pods.is_empty() {
            let of = |what: &str, name: Option<&str>| {
                name.map(|name| format!(" {what} {name}"))
                    .unwrap_or_default()
            };
            return Err(ClusterError::NoControlPlane {
                place: of("in namespace", namespace),
                revision: of("of revision", revision),
            });
        }
        Ok(pods)
    }
}

/// One instance of the control plane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPlanePod {
    pub namespace: String,
    pub name: String,
}

/// Of several meshes in a cluster, that in the usual namespace.
fn one_mesh(pods: Vec<ControlPlanePod>) -> Result<Vec<ControlPlanePod>, ClusterError> {
    let namespaces = pods.iter().map(|pod| pod.namespace.clone());
    let namespaces: BTreeSet<String> = namespaces.collect();
    if namespaces.len() < 2 {
        return Ok(pods);
    }
    if !namespaces.contains(ISTIO_SYSTEM) {
        let names: Vec<String> = namespaces.into_iter().collect();
        return Err(ClusterError::ManyMeshes(names.join(", ")));
    }
    let usual = pods.into_iter().filter(|pod| pod.namespace == ISTIO_SYSTEM);
    Ok(usual.collect())
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Cluster")
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| &status.conditions);
    let mut conditions = conditions.flatten();
    pod.metadata.deletion_timestamp.is_none()
        && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
}

pub(crate) fn told(error: kube::Error) -> ClusterError {
    match error {
        kube::Error::Api(status) => ClusterError::Refused(status.message),
        error => ClusterError::Unreachable(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_meshes_the_usual_one_is_meant() {
        let pods = |namespaces: &[&str]| -> Vec<ControlPlanePod> {
            let pods = namespaces.iter().map(|namespace| ControlPlanePod {
                namespace: (*namespace).to_owned(),
                name: "istiod-1".to_owned(),
            });
            pods.collect()
        };
        let mesh = pods(&["mesh", "mesh"]);
        assert_eq!(one_mesh(mesh.clone()).unwrap(), mesh);
        let both = pods(&["mesh", "istio-system"]);
        assert_eq!(one_mesh(both).unwrap(), pods(&["istio-system"]));
        let error = one_mesh(pods(&["b", "a"])).unwrap_err();
        assert!(error.to_string().ends_with("several namespaces: a, b"));
    }
}
