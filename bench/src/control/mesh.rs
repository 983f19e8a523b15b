//! Services with pods behind them, as files that the control plane reads.

use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

const PORT: u16 = 80;
const TARGET: u16 = 8080;

#[derive(Debug)]
pub(super) struct Mesh {
    folder: PathBuf,
    services: usize,
    endpoints: usize,
    namespaces: usize,
}

/// The namespace of the service, or proxy, of that number.
pub(super) fn namespace(index: usize, namespaces: usize) -> String {
    format!("bench-{}", index % namespaces.max(1))
}

impl Mesh {
    /// Writes a file for each service, with its pods, and one for its endpoints.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn write(
        folder: &Path,
        services: usize,
        endpoints: usize,
        namespaces: usize,
    ) -> anyhow::Result<Self> {
        anyhow::ensure!(services > 0 && endpoints > 0, "there is nothing to serve");
        std::fs::create_dir_all(folder)?;
        let mesh = Self {
            folder: folder.to_owned(),
            services,
            endpoints,
            namespaces,
        };
        for index in 0..services {
            mesh.put(&format!("service-{index}"), &mesh.service(index)?)?;
            mesh.put(&format!("slice-{index}"), &mesh.slice(index, endpoints)?)?;
        }
        Ok(mesh)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Takes an endpoint from a service, or gives it back; the name of its load assignment.
    ///
    /// # Errors
    /// The file cannot be written.
    pub(super) fn change_endpoints(&self, change: usize) -> anyhow::Result<String> {
        let index = change % self.services;
        let is_back = (change / self.services) % 2 == 1;
        let kept = self.endpoints - usize::from(!is_back);
        self.put(&format!("slice-{index}"), &self.slice(index, kept)?)?;
        let namespace = namespace(index, self.namespaces);
        Ok(format!(
            "outbound|{PORT}||service-{index}.{namespace}.svc.cluster.local"
        ))
    }

    fn put(&self, name: &str, text: &str) -> std::io::Result<()> {
        let part = self.folder.join(format!(".{name}.part"));
        std::fs::write(&part, text)?;
        std::fs::rename(part, self.folder.join(format!("{name}.yaml")))
    }

    fn service(&self, index: usize) -> anyhow::Result<String> {
        let namespace = namespace(index, self.namespaces);
        let vip = numbered(96, index)?;
        let mut yaml = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: service-{index}, namespace: {namespace}}}\n\
             spec:\n  clusterIP: {vip}\n  selector: {{app: service-{index}}}\n  ports: [{{name: http, port: {PORT}, targetPort: {TARGET}, protocol: TCP}}]\n"
        );
        for endpoint in 0..self.endpoints {
            let ip = self.address(index, endpoint)?;
            write!(
                yaml,
                "---\napiVersion: v1\nkind: Pod\nmetadata:\n  name: service-{index}-{endpoint}\n  namespace: {namespace}\n  \
                 labels: {{app: service-{index}, version: v1, security.istio.io/tlsMode: istio}}\n\
                 spec: {{serviceAccountName: service-{index}, containers: [{{name: app, image: none}}]}}\n\
                 status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n"
            )?;
        }
        Ok(yaml)
    }

    fn slice(&self, index: usize, endpoints: usize) -> anyhow::Result<String> {
        let namespace = namespace(index, self.namespaces);
        let mut yaml = format!(
            "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
             metadata: {{name: service-{index}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: service-{index}}}}}\n\
             addressType: IPv4\nports: [{{name: http, port: {TARGET}, protocol: TCP}}]\nendpoints:\n"
        );
        for endpoint in 0..endpoints {
            let ip = self.address(index, endpoint)?;
            writeln!(
                yaml,
                "- {{addresses: [{ip}], conditions: {{ready: true}}, targetRef: {{kind: Pod, name: service-{index}-{endpoint}, namespace: {namespace}}}}}"
            )?;
        }
        Ok(yaml)
    }

    fn address(&self, index: usize, endpoint: usize) -> anyhow::Result<Ipv4Addr> {
        numbered(244, index * self.endpoints + endpoint)
    }
}

/// `10.<net>.0.0` and the following.
fn numbered(net: u8, index: usize) -> anyhow::Result<Ipv4Addr> {
    let base = u32::from(Ipv4Addr::new(10, net, 0, 1));
    Ok(Ipv4Addr::from(base + u32::try_from(index)?))
}
