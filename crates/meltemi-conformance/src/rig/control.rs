//! A control plane that has one answer.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Result;
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::{json::json_to_any, type_url};
use meltemi_xds::{
    AdsServer, Connection, Connector, Event, Peer, Resource, Snapshot, StatusSink, limits,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Identity, ServerTlsConfig};

use super::configuration::Line;

struct OneAnswer {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    rejected: mpsc::Sender<String>,
}

impl Connector for OneAnswer {
    async fn connect(&self, _node: Node, _peer: Peer) -> Result<Connection, Status> {
        Ok(Connection {
            snapshots: self.snapshots.clone(),
            status: Box::new(Rejections(self.rejected.clone())),
        })
    }
}

struct Rejections(mpsc::Sender<String>);

impl StatusSink for Rejections {
    fn record(&self, event: Event) {
        if let Event::Nacked { detail, .. } = event {
            // One is enough to end the run.
            let _first_only = self.0.try_send(detail);
        }
    }
}

/// Runs until it is dropped.
pub(super) struct ControlPlane {
    pub(super) address: SocketAddr,
    /// What the proxy did not take.
    pub(super) rejected: mpsc::Receiver<String>,
    _snapshots: watch::Sender<Option<Arc<Snapshot>>>,
    server: tokio::task::JoinHandle<()>,
}

impl ControlPlane {
    /// Serves `lines`, and writes its own root and a token below `root` where an injected pod has them.
    pub(super) async fn start(lines: &[(Line, SocketAddr)], root: &Path) -> Result<Self> {
        let (root_pem, identity) = certificates()?;
        let secrets = root.join("var/run/secrets");
        for (file, text) in [
            ("istio/root-cert.pem", root_pem),
            ("tokens/istio-token", "none".to_owned()),
        ] {
            let path = secrets.join(file);
            std::fs::create_dir_all(path.parent().unwrap_or(&secrets))?;
            std::fs::write(path, text)?;
        }
        let (snapshots, receiver) = watch::channel(Some(Arc::new(snapshot(lines)?)));
        let (rejected, rejections) = mpsc::channel(1);
        let connector = OneAnswer {
            snapshots: receiver,
            rejected,
        };
        let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))
            .map_err(|error| anyhow::anyhow!("cannot listen for the proxy: {error}"))?;
        let address = incoming.local_addr()?;
        let router = limits::server_builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .add_service(AdsServer::new(connector));
        let server = tokio::spawn(async move {
            // Ends with the task.
            let _ended = router.serve_with_incoming(incoming).await;
        });
        Ok(Self {
            address,
            rejected: rejections,
            _snapshots: snapshots,
            server,
        })
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// A root, and what it says of this control plane.
fn certificates() -> Result<(String, Identity)> {
    let root_key = KeyPair::generate()?;
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let root_pem = root.self_signed(&root_key)?.pem();
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(["127.0.0.1".to_owned()])?;
    let signed = leaf.signed_by(&key, &Issuer::new(root, root_key))?;
    Ok((
        root_pem,
        Identity::from_pem(signed.pem(), key.serialize_pem()),
    ))
}

fn snapshot(lines: &[(Line, SocketAddr)]) -> Result<Snapshot> {
    let mut listeners = Vec::new();
    let mut clusters = Vec::new();
    for (line, address) in lines {
        let listener = json_to_any(type_url::LISTENER, &line.listener(*address))?;
        listeners.push(Arc::new(Resource::new(&line.name, listener)));
        let cluster = json_to_any(type_url::CLUSTER, &line.cluster())?;
        clusters.push(Arc::new(Resource::new(&line.name, cluster)));
    }
    Ok(Snapshot::new("1")
        .with_resources(type_url::LISTENER, listeners)
        .with_resources(type_url::CLUSTER, clusters)
        .with_resources(type_url::ROUTE, [])
        .with_resources(type_url::ENDPOINT, []))
}
