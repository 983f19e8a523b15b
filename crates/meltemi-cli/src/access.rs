use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::BoxFuture;
use meltemi_inject::InjectionSettings;
use meltemi_install::{Awaited, Name};
use serde_json::Value;

/// The way to a mesh: who runs in it, and HTTP to any of them.
pub trait Access: Send + Sync {
    /// Every pod of every namespace.
    fn pods(&self) -> BoxFuture<'_, Result<Vec<Pod>, AccessError>>;

    /// A request to `port` on the loopback of a pod (the proxy's admin interface listens nowhere else).
    fn pod_http<'a>(
        &'a self,
        pod: &'a str,
        namespace: &'a str,
        port: u16,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>>;

    /// A request to the monitoring port of every instance of the control plane that is ready: their names, of which there
    /// is one at least, and what they answered.
    fn istiods_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Answer>, AccessError>>;

    /// The labels by which a Service selects its pods; `None` where there is no such Service or it selects none.
    fn service_selector<'a>(
        &'a self,
        _service: &'a str,
        _namespace: &'a str,
    ) -> BoxFuture<'a, Result<Option<BTreeMap<String, String>>, AccessError>> {
        Box::pin(std::future::ready(Ok(None)))
    }

    /// The objects that the mesh's configuration is made of, as one manifest of kind List; empty where none can be listed.
    fn objects(&self) -> BoxFuture<'_, Result<String, AccessError>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }

    /// The cluster to install into; `None` where the mesh is in none.
    fn cluster_objects(&self) -> Option<&dyn ClusterObjects> {
        None
    }

    /// What the injector of a revision is set to; `None` where it cannot be asked, and `kube-inject` uses the defaults.
    fn injection_settings<'a>(
        &'a self,
        _revision: &'a str,
    ) -> BoxFuture<'a, Option<InjectionSettings>> {
        Box::pin(std::future::ready(None))
    }
}

/// The objects of a cluster, as an installation needs them. Every wait has a bound.
pub trait ClusterObjects: Send + Sync {
    /// Where the command line says that the control plane is.
    fn control_plane_namespace(&self) -> &str;

    fn get<'a>(&'a self, name: &'a Name) -> BoxFuture<'a, Result<Option<Value>, AccessError>>;

    /// The API server's own: `v1.36.3`.
    fn server_version(&self) -> BoxFuture<'_, Result<String, AccessError>>;

    /// Makes an object, or asks a question that has the form of one. In a dry run it is answered as it would be made.
    fn create<'a>(
        &'a self,
        object: &'a Value,
        is_dry_run: bool,
    ) -> BoxFuture<'a, Result<Value, AccessError>>;

    /// The objects of a kind that carry all of `labels` (`a=b,c`; nothing: any), in every namespace.
    fn labelled<'a>(
        &'a self,
        api_version: &'static str,
        kind: &'static str,
        labels: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Value>, AccessError>>;

    /// Makes an object say what `content` says, and returns it; in a dry run, as it would be.
    fn apply<'a>(
        &'a self,
        name: &'a Name,
        content: &'a Value,
        is_dry_run: bool,
    ) -> BoxFuture<'a, Result<Value, AccessError>>;

    /// Returns when the object and all that it owns are gone.
    fn delete<'a>(
        &'a self,
        name: &'a Name,
        timeout: Duration,
    ) -> BoxFuture<'a, Result<(), AccessError>>;

    /// Waits until all are as wished for, one has failed, or `timeout` is over: those that are not, and why.
    fn wait<'a>(
        &'a self,
        objects: &'a [(Name, Awaited)],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Vec<(Name, String)>, AccessError>>;
}

/// The name of an instance, and what it answered.
pub type Answer = (String, Result<Response, AccessError>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Method {
    Get,
    Post,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    pub body: Vec<u8>,
}

/// What a command needs to know of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pod {
    pub name: String,
    pub namespace: String,
    pub labels: BTreeMap<String, String>,
    /// Empty while the pod has none.
    pub address: String,
    /// Names of all containers that run beside each other, native sidecars included.
    pub containers: Vec<String>,
    pub ready: bool,
    /// Told to end; it may still be ready for a while.
    pub is_ending: bool,
}

impl Pod {
    pub(crate) fn has_sidecar(&self) -> bool {
        let proxy = meltemi_core::names::PROXY_CONTAINER;
        self.containers.iter().any(|container| container == proxy)
    }

    /// `name.namespace`, as istioctl and node ids write it.
    pub(crate) fn id(&self) -> String {
        format!("{}.{}", self.name, self.namespace)
    }
}

/// Why there is no way. Messages say what was tried.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// There is no mesh, or it cannot be reached; `hint` says what to do.
    #[error("{message}")]
    Unreachable { message: String, hint: String },
    #[error("{message}")]
    Failed { message: String },
}
