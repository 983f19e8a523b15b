//! A mesh of many services, of which proxy A's workload calls the first few.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::pki::NAMESPACE;
use crate::rig::{BACK, Port};

/// The services that are called: proxy B's pod is behind them.
pub(crate) const CALLED: usize = 5;
/// The services of a small mesh.
pub(crate) const FEW: usize = 10;

/// How a service is called.
pub(crate) fn host(index: usize) -> String {
    format!("member-{index}.{NAMESPACE}.svc.cluster.local")
}

/// The Service address.
pub(crate) fn address(index: usize) -> Ipv4Addr {
    numbered(97, index)
}

/// `10.<net>.x.y`
fn numbered(net: u8, index: usize) -> Ipv4Addr {
    let part = |number: usize| u8::try_from(number).unwrap_or(u8::MAX);
    Ipv4Addr::new(10, net, part(index / 250), part(index % 250 + 1))
}

/// Services beside the one that is measured otherwise; they are gone when this is dropped.
#[derive(Debug)]
pub(crate) struct Mesh(PathBuf);

impl Mesh {
    pub(super) fn new(file: PathBuf) -> Self {
        Self(file)
    }

    /// Makes them so many.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(crate) fn resize(&self, services: usize) -> std::io::Result<()> {
        let whole: String = (0..services).map(service).collect();
        // The control plane reads *.yaml: it never sees a part.
        let written = self.0.with_extension("part");
        std::fs::write(&written, whole)?;
        std::fs::rename(written, &self.0)
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        std::fs::remove_file(&self.0).ok();
    }
}

/// What a cluster would hold of one service: itself, its slice and its pod, in the mesh.
fn service(index: usize) -> String {
    let (name, vip) = (format!("member-{index}"), address(index));
    let (port, target) = (Port::Http1.service(), Port::Http1.target());
    let mut yaml = String::new();
    let (pod, ip) = if index < CALLED {
        ("server-1".to_owned(), BACK)
    } else {
        (format!("{name}-1"), numbered(98, index))
    };
    if index >= CALLED {
        let written = write!(
            yaml,
            "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: {pod}\n  namespace: {NAMESPACE}\n  labels: {{app: {name}, version: v1, security.istio.io/tlsMode: istio}}\n\
             spec: {{serviceAccountName: {name}, containers: [{{name: app, image: none}}]}}\n\
             status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
        );
        debug_assert!(written.is_ok(), "a String takes every write");
    }
    let written = write!(
        yaml,
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {NAMESPACE}}}\n\
         spec:\n  clusterIP: {vip}\n  selector: {{app: {name}}}\n  ports: [{{name: http, port: {port}, targetPort: {target}, protocol: TCP}}]\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}-1, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: http, port: {target}, protocol: TCP}}]\n\
         endpoints:\n- addresses: [{ip}]\n  conditions: {{ready: true}}\n  targetRef: {{kind: Pod, name: {pod}, namespace: {NAMESPACE}}}\n"
    );
    debug_assert!(written.is_ok(), "a String takes every write");
    yaml
}
