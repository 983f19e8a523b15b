//! The way to a mesh in a Kubernetes cluster: the API server, and through it the pods.

use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use meltemi_api::{Change, Kind};
use meltemi_cli::{Access, AccessError, Method, Pod, Response};
use meltemi_core::names::port;
use meltemi_inject::InjectionSettings;
use meltemi_kube::{Cluster, ClusterError, ClusterOptions, Injector};
use serde_json::json;
use tokio::sync::OnceCell;

use super::{http_method, pod, texts};

pub(super) struct Kubernetes {
    options: ClusterOptions,
    /// Where the control plane runs.
    namespace: String,
    cluster: OnceCell<Cluster>,
}

impl Kubernetes {
    pub(super) fn new(options: ClusterOptions, namespace: String) -> Self {
        Self {
            options,
            namespace,
            cluster: OnceCell::new(),
        }
    }

    async fn cluster(&self) -> Result<&Cluster, AccessError> {
        let find = || Cluster::find(&self.options);
        self.cluster.get_or_try_init(find).await.map_err(failure)
    }
}

impl Access for Kubernetes {
    fn pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, AccessError>> {
        Box::pin(async {
            let pods = self.cluster().await?.objects(Kind::Pod, None).await;
            Ok(pods.map_err(failure)?.iter().map(pod).collect())
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
            let cluster = self.cluster().await?;
            let method = http_method(method);
            let answered = cluster.pod_http(namespace, pod, port, method, path).await;
            let (status, body) = answered.map_err(failure)?;
            Ok(Response {
                status,
                body: body.to_vec(),
            })
        })
    }

    fn istiod_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>> {
        Box::pin(async move {
            let cluster = self.cluster().await?;
            let (namespace, method) = (&self.namespace, http_method(method));
            let answered = cluster.control_plane_http(namespace, port::MONITORING, method, path);
            let (status, body) = answered.await.map_err(failure)?;
            Ok(Response {
                status,
                body: body.to_vec(),
            })
        })
    }

    fn service_selector<'a>(
        &'a self,
        service: &'a str,
        namespace: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, String>>, AccessError>> {
        Box::pin(async move {
            let cluster = self.cluster().await?;
            let services = cluster.objects(Kind::Service, Some(namespace)).await;
            let services = services.map_err(failure)?;
            let mut services = services.iter();
            let found = services.find(|found| found["metadata"]["name"] == *service);
            Ok(found.and_then(|found| texts(&found["spec"]["selector"])))
        })
    }

    fn objects(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(async {
            let cluster = self.cluster().await?;
            let mut items = Vec::new();
            let kinds = Kind::ALL.iter().filter(|kind| **kind != Kind::Secret);
            for kind in kinds {
                items.extend(cluster.objects(*kind, None).await.map_err(failure)?);
            }
            Ok(json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string())
        })
    }

    fn injection_settings(&self) -> BoxFuture<'_, Option<InjectionSettings>> {
        Box::pin(async {
            let cluster = self.cluster().await.ok()?;
            let maps = cluster.objects(Kind::ConfigMap, Some(&self.namespace));
            let injector = Injector::new(InjectionSettings::default());
            let maps = maps.await.ok()?.into_iter();
            let objects = maps.flat_map(|map| meltemi_api::parse_json(map).objects);
            injector.note(&objects.map(Change::Upsert).collect::<Vec<_>>());
            Some(injector.settings())
        })
    }
}

fn failure(error: ClusterError) -> AccessError {
    let hint = match &error {
        ClusterError::Unreachable(_) => {
            "is it the cluster you mean? `kubectl config current-context` says"
        }
        ClusterError::NoControlPlane(_) => {
            "name its namespace with --istioNamespace; `kubectl get pods -A -l app=istiod` finds it"
        }
        ClusterError::Config(_) | ClusterError::Refused(_) | ClusterError::Pod { .. } => {
            return AccessError::Failed {
                message: error.to_string(),
            };
        }
    };
    AccessError::Unreachable {
        message: error.to_string(),
        hint: hint.to_owned(),
    }
}
