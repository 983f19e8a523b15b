//! The way to a mesh in a Kubernetes cluster: the API server, and through it the pods.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use meltemi_api::{Change, Kind};
use meltemi_cli::{Access, AccessError, Answer, ClusterObjects, Method, Pod, Response};
use meltemi_core::names::{ISTIO_SYSTEM, port};
use meltemi_inject::InjectionSettings;
use meltemi_install::{Awaited, Name};
use meltemi_kube::{Cluster, ClusterError, ClusterOptions, Injector};
use serde_json::Value;
use tokio::sync::OnceCell;

use super::{http_method, judged_kinds, list, pod, selector};

pub(super) struct Kubernetes {
    options: ClusterOptions,
    /// Where the control plane runs, if the command line says it.
    asked_namespace: Option<String>,
    /// Of the control planes that are asked, if the command line says it.
    revision: Option<String>,
    cluster: OnceCell<Cluster>,
}

impl Kubernetes {
    pub(super) fn new(
        options: ClusterOptions,
        asked_namespace: Option<String>,
        revision: Option<String>,
    ) -> Self {
        Self {
            options,
            asked_namespace,
            revision,
            cluster: OnceCell::new(),
        }
    }

    fn namespace(&self) -> &str {
        self.asked_namespace.as_deref().unwrap_or(ISTIO_SYSTEM)
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

    fn istiods_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Answer>, AccessError>> {
        Box::pin(async move {
            let cluster = self.cluster().await?;
            let wanted = (self.asked_namespace.as_deref(), self.revision.as_deref());
            let pods = cluster.control_planes(wanted.0, wanted.1).await;
            let asked = pods.map_err(failure)?.into_iter().map(|pod| async move {
                let (namespace, port) = (&pod.namespace, port::MONITORING);
                let method = http_method(method);
                let answered = cluster.pod_http(namespace, &pod.name, port, method, path);
                let answer = answered.await.map_err(failure);
                let response = answer.map(|(status, body)| Response {
                    status,
                    body: body.to_vec(),
                });
                (pod.name, response)
            });
            Ok(futures_util::future::join_all(asked).await)
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
            Ok(selector(&services.map_err(failure)?, service))
        })
    }

    fn objects(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(async {
            let cluster = self.cluster().await?;
            let mut items = Vec::new();
            for kind in judged_kinds() {
                items.extend(cluster.objects(kind, None).await.map_err(failure)?);
            }
            Ok(list(items))
        })
    }

    fn cluster_objects(&self) -> Option<&dyn ClusterObjects> {
        Some(self)
    }

    fn injection_settings<'a>(
        &'a self,
        revision: &'a str,
    ) -> BoxFuture<'a, Option<InjectionSettings>> {
        Box::pin(async move {
            let cluster = self.cluster().await.ok()?;
            let pods = cluster.control_planes(self.asked_namespace.as_deref(), Some(revision));
            let found = pods.await.ok().and_then(|pods| pods.into_iter().next());
            let namespace = found.map_or_else(|| self.namespace().to_owned(), |pod| pod.namespace);
            let maps = cluster.objects(Kind::ConfigMap, Some(&namespace));
            let base = InjectionSettings {
                revision: revision.to_owned(),
                ..InjectionSettings::default()
            };
            let injector = Injector::new(base, &namespace);
            let maps = maps.await.ok()?.into_iter();
            let objects = maps.flat_map(|map| meltemi_api::parse_json(map).objects);
            injector.note(&objects.map(Change::Upsert).collect::<Vec<_>>());
            Some(injector.settings())
        })
    }
}

impl ClusterObjects for Kubernetes {
    fn control_plane_namespace(&self) -> &str {
        self.namespace()
    }

    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Value>, AccessError>> {
        Box::pin(async move { self.cluster().await?.get(name).await.map_err(failure) })
    }

    fn server_version(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(async { self.cluster().await?.version().await.map_err(failure) })
    }

    fn create<'a>(
        &'a self,
        object: &'a Value,
        is_dry_run: bool,
    ) -> BoxFuture<'a, Result<Value, AccessError>> {
        Box::pin(async move {
            let created = self.cluster().await?.create(object, is_dry_run);
            created.await.map_err(failure)
        })
    }

    fn labelled<'a>(
        &'a self,
        api_version: &'static str,
        kind: &'static str,
        labels: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, AccessError>> {
        Box::pin(async move {
            let cluster = self.cluster().await?;
            let listed = cluster.labelled(api_version, kind, labels).await;
            listed.map_err(failure)
        })
    }

    fn apply<'a>(
        &'a self,
        name: &'a Name,
        content: &'a Value,
        is_dry_run: bool,
    ) -> BoxFuture<'a, Result<Value, AccessError>> {
        Box::pin(async move {
            let applied = self.cluster().await?.apply(name, content, is_dry_run);
            applied.await.map_err(failure)
        })
    }

    fn delete<'a>(
        &'a self,
        name: &'a Name,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<(), AccessError>> {
        Box::pin(async move {
            let deleted = self.cluster().await?.delete(name, timeout);
            deleted.await.map_err(failure)
        })
    }

    fn wait<'a>(
        &'a self,
        objects: &'a [(Name, Awaited)],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<(Name, String)>, AccessError>> {
        Box::pin(async move { Ok(self.cluster().await?.wait(objects, timeout).await) })
    }
}

fn failure(error: ClusterError) -> AccessError {
    let hint = match &error {
        ClusterError::Unreachable(_) => {
            "is it the cluster you mean? `kubectl config current-context` says"
        }
        ClusterError::NoControlPlane { .. } => {
            "`kubectl get pods -A -l app=istiod -L istio.io/rev` shows all of them; `meltemi check` says what they lack"
        }
        ClusterError::ManyMeshes(_) => "name one with --istioNamespace",
        ClusterError::Config(_) => "name a cluster with --kubeconfig, --context or KUBECONFIG",
        ClusterError::Refused(_) | ClusterError::Pod { .. } | ClusterError::Lasting { .. } => {
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
