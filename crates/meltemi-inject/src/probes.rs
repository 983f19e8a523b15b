//! Probes and lifecycle hooks by way of the sidecar.
//!
//! The kubelet speaks plaintext and knows no mesh identity, so under STRICT its probes would fail. They are pointed at the
//! sidecar's status port, which asks the application on the pod's loopback; what to ask travels in `ISTIO_KUBE_APP_PROBERS`.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    Container, ContainerPort, GRPCAction, HTTPGetAction, LifecycleHandler, PodSpec, Probe,
    TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use meltemi_core::names::{INIT_CONTAINER, PROXY_CONTAINER};
use meltemi_core::{Diagnostic, FieldPath};
use serde::{Deserialize, Serialize};

pub(crate) const ENV: &str = "ISTIO_KUBE_APP_PROBERS";

/// What the sidecar asks when the kubelet asks it; keyed by the path the kubelet uses.
pub(crate) type Probers = BTreeMap<String, Prober>;

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Prober {
    #[serde(skip_serializing_if = "Option::is_none")]
    http_get: Option<HTTPGetAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tcp_socket: Option<TCPSocketAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    grpc: Option<GRPCAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    timeout_seconds: Option<i32>,
}

/// Points the application's probes at `status_port` and returns what they asked for.
pub(crate) fn rewrite(
    spec: &mut PodSpec,
    status_port: u16,
    warnings: &mut Vec<Diagnostic>,
) -> Probers {
    let mut rewriter = Rewriter {
        status_port,
        probers: Probers::new(),
        warnings,
    };
    for_each_app_container(spec, |path, container| rewriter.container(&path, container));
    rewriter.probers
}

/// Gives every probe its own target back.
pub(crate) fn restore(spec: &mut PodSpec, probers: &Probers) {
    for_each_app_container(spec, |_, container| {
        let name = container.name.clone();
        for (kind, probe) in probes(container) {
            let key = app_health(&name, kind);
            if let (Some(probe), Some(prober)) = (probe, probers.get(&key)) {
                probe.http_get = prober.http_get.clone();
                probe.tcp_socket = prober.tcp_socket.clone();
                probe.grpc = prober.grpc.clone();
            }
        }
        for (kind, hook) in hooks(container) {
            let key = app_lifecycle(&name, kind);
            if let (Some(hook), Some(prober)) = (hook, probers.get(&key)) {
                hook.http_get = prober.http_get.clone();
            }
        }
    });
}

struct Rewriter<'a> {
    status_port: u16,
    probers: Probers,
    warnings: &'a mut Vec<Diagnostic>,
}

impl Rewriter<'_> {
    fn container(&mut self, path: &FieldPath, container: &mut Container) {
        let name = container.name.clone();
        let ports = container.ports.clone().unwrap_or_default();
        for (kind, probe) in probes(container) {
            let Some(probe) = probe else { continue };
            let key = app_health(&name, kind);
            if let Some(prober) = self.prober(&path.field(kind.field), probe, &ports) {
                probe.tcp_socket = None;
                probe.grpc = None;
                probe.http_get = Some(self.target(&key));
                self.probers.insert(key, prober);
            }
        }
        for (kind, hook) in hooks(container) {
            let Some(hook) = hook else { continue };
            let key = app_lifecycle(&name, kind);
            let field = path.field("lifecycle").field(kind.field);
            let Some(original) = &hook.http_get else {
                continue;
            };
            if let Some(http_get) = self.http_get(&field, original, &ports) {
                hook.http_get = Some(self.target(&key));
                let prober = Prober {
                    http_get: Some(http_get),
                    ..Prober::default()
                };
                self.probers.insert(key, prober);
            }
        }
    }

    /// What a probe asks for; `None` for `exec`, which runs inside the container and needs no network.
    fn prober(
        &mut self,
        path: &FieldPath,
        probe: &Probe,
        ports: &[ContainerPort],
    ) -> Option<Prober> {
        let mut prober = Prober {
            timeout_seconds: probe.timeout_seconds,
            ..Prober::default()
        };
        if let Some(http_get) = &probe.http_get {
            prober.http_get = Some(self.http_get(path, http_get, ports)?);
        } else if let Some(tcp_socket) = &probe.tcp_socket {
            prober.tcp_socket = Some(TCPSocketAction {
                host: tcp_socket.host.clone(),
                port: self.port(path, &tcp_socket.port, ports)?,
            });
        } else {
            prober.grpc = Some(probe.grpc.clone()?);
        }
        Some(prober)
    }

    fn http_get(
        &mut self,
        path: &FieldPath,
        http_get: &HTTPGetAction,
        ports: &[ContainerPort],
    ) -> Option<HTTPGetAction> {
        Some(HTTPGetAction {
            port: self.port(&path.field("httpGet"), &http_get.port, ports)?,
            ..http_get.clone()
        })
    }

    /// The sidecar knows no port names, so they are looked up here.
    fn port(
        &mut self,
        path: &FieldPath,
        port: &IntOrString,
        ports: &[ContainerPort],
    ) -> Option<IntOrString> {
        let IntOrString::String(name) = port else {
            return Some(port.clone());
        };
        let found = ports.iter().find(|port| port.name.as_ref() == Some(name));
        if found.is_none() {
            let message =
                format!("the container has no port named {name:?}; the probe stays as it is");
            self.warnings.push(
                Diagnostic::warning("MEL0402", message)
                    .field(path.field("port"))
                    .hint("name the port under ports, or use its number"),
            );
        }
        Some(IntOrString::Int(found?.container_port))
    }

    fn target(&self, path: &str) -> HTTPGetAction {
        HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::Int(i32::from(self.status_port)),
            ..HTTPGetAction::default()
        }
    }
}

#[derive(Clone, Copy)]
struct ProbeKind {
    field: &'static str,
    path: &'static str,
}

fn probes(container: &mut Container) -> [(ProbeKind, Option<&mut Probe>); 3] {
    let kind = |field, path| ProbeKind { field, path };
    [
        (
            kind("readinessProbe", "readyz"),
            container.readiness_probe.as_mut(),
        ),
        (
            kind("livenessProbe", "livez"),
            container.liveness_probe.as_mut(),
        ),
        (
            kind("startupProbe", "startupz"),
            container.startup_probe.as_mut(),
        ),
    ]
}

fn hooks(container: &mut Container) -> [(ProbeKind, Option<&mut LifecycleHandler>); 2] {
    let kind = |field, path| ProbeKind { field, path };
    let (post_start, pre_stop) = match &mut container.lifecycle {
        Some(lifecycle) => (lifecycle.post_start.as_mut(), lifecycle.pre_stop.as_mut()),
        None => (None, None),
    };
    [
        (kind("postStart", "poststartz"), post_start),
        (kind("preStop", "prestopz"), pre_stop),
    ]
}

fn app_health(container: &str, kind: ProbeKind) -> String {
    format!("/app-health/{container}/{}", kind.path)
}

fn app_lifecycle(container: &str, kind: ProbeKind) -> String {
    format!("/app-lifecycle/{container}/{}", kind.path)
}

/// Containers, and init containers because native sidecars may have probes too.
fn for_each_app_container(spec: &mut PodSpec, mut apply: impl FnMut(FieldPath, &mut Container)) {
    let lists = [
        ("containers", spec.containers.as_mut_slice()),
        (
            "initContainers",
            spec.init_containers
                .as_mut()
                .map_or(&mut [][..], |list| list.as_mut_slice()),
        ),
    ];
    for (field, containers) in lists {
        let path = FieldPath::new("spec").field(field);
        let app = containers.iter_mut().enumerate().filter(|(_, container)| {
            ![PROXY_CONTAINER, INIT_CONTAINER].contains(&container.name.as_str())
        });
        for (index, container) in app {
            apply(path.index(index), container);
        }
    }
}

#[cfg(test)]
mod tests;
