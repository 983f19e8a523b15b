//! A cluster as commands need it: objects, and HTTP to the inside of pods.

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
    #[error("no pod of the control plane is ready in namespace {0}")]
    NoControlPlane(String),
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

    /// A request to the monitoring port of the control plane.
    ///
    /// # Errors
    /// It does not run, or does not answer.
    pub async fn control_plane_http(
        &self,
        namespace: &str,
        port: u16,
        method: Method,
        path: &str,
    ) -> Result<(u16, Bytes), ClusterError> {
        let pods: Api<Pod> = Api::namespaced(self.0.clone(), namespace);
        let running = ListParams::default()
            .labels(CONTROL_PLANE)
            .fields("status.phase=Running");
        let pods = bounded(pods.list(&running)).await.map_err(told)?;
        let mut ready = pods.items.iter().filter(|pod| is_ready(pod));
        let pod = ready.find_map(|pod| pod.metadata.name.clone());
        let pod = pod.ok_or_else(|| ClusterError::NoControlPlane(namespace.to_owned()))?;
        self.pod_http(namespace, &pod, port, method, path).await
    }
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
