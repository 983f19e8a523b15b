//! Admits proxies: who they are must be proven, and be who they say.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use meltemi_ca::{Authenticators, Credentials, PeerInfo};
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_xds::{Connection, Connector, Peer};
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::hub::Command;
use crate::metrics::PushMetrics;
use crate::node::ProxyNode;

/// Hands authenticated proxies to the hub.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) authenticators: Authenticators,
    pub(crate) hub: mpsc::Sender<Command>,
    pub(crate) metrics: PushMetrics,
    pub(crate) cluster_id: Arc<str>,
    /// Nobody is answered while the configuration seems to be lost.
    pub(crate) is_held: Arc<AtomicBool>,
}

impl Connector for Admission {
    async fn connect(&self, node: Node, peer: Peer) -> Result<Connection, Status> {
        let node = self.admit(&node, &peer).await.inspect_err(|status| {
            self.metrics.refused();
            let address = peer
                .extensions
                .get::<PeerInfo>()
                .and_then(|peer| peer.address);
            tracing::warn!(
                ?address,
                node = node.id,
                reason = status.message(),
                "proxy denied"
            );
        })?;
        if self.is_held.load(Ordering::Acquire) {
            let text = "the configuration is empty and was not before: it is not served yet";
            return Err(Status::unavailable(text));
        }
        let stopping = || Status::unavailable("the control plane is shutting down");
        let (reply, connection) = oneshot::channel();
        let node = Box::new(node);
        let command = Command::Connect { node, reply };
        self.hub.send(command).await.map_err(|_| stopping())?;
        connection.await.map_err(|_| stopping())
    }
}

impl Admission {
    async fn admit(&self, node: &Node, peer: &Peer) -> Result<ProxyNode, Status> {
        let info = peer.extensions.get::<PeerInfo>();
        let credentials = Credentials::of(&peer.metadata, info);
        let workload = self
            .authenticators
            .authenticate(&credentials)
            .await
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        ProxyNode::new(node, &workload.identity, &self.cluster_id)
            .map_err(|error| Status::permission_denied(error.to_string()))
    }
}
