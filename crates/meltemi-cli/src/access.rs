use std::collections::BTreeMap;

use futures_util::future::BoxFuture;
use meltemi_inject::InjectionSettings;

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

    /// A request to the control plane's monitoring port.
    fn istiod_http<'a>(
        &'a self,
        method: Method,
        path: &'a str,
    ) -> BoxFuture<'a, Result<Response, AccessError>>;

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

    /// What this mesh's injector is set to; `None` where it cannot be asked, and `kube-inject` uses the defaults.
    fn injection_settings(&self) -> BoxFuture<'_, Option<InjectionSettings>> {
        Box::pin(std::future::ready(None))
    }
}

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
