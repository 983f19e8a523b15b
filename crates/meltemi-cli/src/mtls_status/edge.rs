//! One edge of the mesh, as a proxy saw it.

use std::net::{IpAddr, SocketAddr};

use meltemi_core::{ClusterName, Direction};
use serde_json::{Value, json};

use crate::Pod;
use crate::proxy_config::dump::list;

/// What becomes of an edge when its server's side refuses plain text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnderStrict {
    Works,
    Breaks,
    /// Nothing at the server's side could refuse it.
    Untouched,
}

impl UnderStrict {
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Breaks => "BREAKS",
            Self::Untouched => "not touched: no sidecar there",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Works => "works",
            Self::Breaks => "breaks",
            Self::Untouched => "untouched",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Edge {
    /// A pod, or the address of what is none.
    pub(super) source: String,
    pub(super) destination: String,
    pub(super) port: u16,
    /// `mtls`, `tls` or `plaintext`.
    mode: String,
    pub(super) caller: Option<String>,
    pub(super) called: Option<String>,
    /// Open now.
    pub(super) connections: u64,
    last_handshake: Option<String>,
    pub(super) under_strict: UnderStrict,
}

/// The edges that a sidecar tells of in its answer to `/tls`: those that end at it, and those that leave it for where no
/// sidecar is.
pub(super) fn of_proxy(pod: &Pod, answer: &Value, pods: &[Pod]) -> Vec<Edge> {
    let ports: Vec<u64> = list(answer, "/inbound")
        .filter_map(|port| port.get("port")?.as_u64())
        .collect();
    let arrived = list(answer, "/downstream").filter_map(|row| {
        let source = row.get("source")?.as_str()?;
        let port = row.get("port")?.as_u64()?;
        // What its own application sends comes in, too, on its way out.
        if source == pod.address || !ports.contains(&port) {
            return None;
        }
        let under_strict = match text(row, "mode")? {
            "mtls" => UnderStrict::Works,
            _ => UnderStrict::Breaks,
        };
        let ends = (name(source.parse().ok()?, pods), pod.id());
        Edge::new(ends, u16::try_from(port).ok()?, row, under_strict)
    });
    let left = list(answer, "/upstream").filter_map(|row| {
        let cluster: ClusterName = text(row, "cluster")?.parse().ok()?;
        let endpoint: SocketAddr = text(row, "endpoint")?.parse().ok()?;
        let address = endpoint.ip().to_string();
        let at = pods.iter().find(|pod| pod.address == address);
        if cluster.direction != Direction::Outbound || at.is_some_and(Pod::has_sidecar) {
            return None;
        }
        let ends = (pod.id(), name(endpoint.ip(), pods));
        Edge::new(ends, endpoint.port(), row, UnderStrict::Untouched)
    });
    arrived.chain(left).collect()
}

impl Edge {
    fn new(
        (source, destination): (String, String),
        port: u16,
        row: &Value,
        under_strict: UnderStrict,
    ) -> Option<Self> {
        let owned = |field| text(row, field).map(ToOwned::to_owned);
        let (local, peer) = (owned("local_identity"), owned("peer_identity"));
        let (caller, called) = match under_strict {
            UnderStrict::Untouched => (local, peer),
            UnderStrict::Works | UnderStrict::Breaks => (peer, local),
        };
        Some(Self {
            source,
            destination,
            port,
            mode: owned("mode")?,
            caller,
            called,
            connections: row.get("connections").and_then(Value::as_u64).unwrap_or(0),
            last_handshake: owned("last_handshake"),
            under_strict,
        })
    }

    pub(super) fn is_mtls(&self) -> bool {
        self.mode == "mtls"
    }

    pub(super) fn traffic(&self) -> &str {
        match self.mode.as_str() {
            "mtls" => "mTLS",
            "tls" => "TLS",
            other => other,
        }
    }

    pub(super) fn touches(&self, pod: &str) -> bool {
        self.source == pod || self.destination == pod
    }

    pub(super) fn is_in(&self, namespace: &str) -> bool {
        let is_in = |end: &str| {
            end.rsplit_once('.')
                .is_some_and(|(_, own)| own == namespace)
        };
        is_in(&self.source) || is_in(&self.destination)
    }

    /// What needs somebody's attention comes first.
    pub(super) fn order(&self) -> (bool, String, String, u16) {
        (
            self.under_strict != UnderStrict::Breaks,
            self.destination.clone(),
            self.source.clone(),
            self.port,
        )
    }

    pub(super) fn to_json(&self) -> Value {
        json!({
            "source": self.source,
            "destination": self.destination,
            "port": self.port,
            "mode": self.mode,
            "callerIdentity": self.caller,
            "calledIdentity": self.called,
            "connections": self.connections,
            "lastHandshake": self.last_handshake,
            "underStrict": self.under_strict.word(),
        })
    }
}

/// `name.namespace` of the pod at an address, or the address.
fn name(address: IpAddr, pods: &[Pod]) -> String {
    let text = address.to_string();
    let at = pods.iter().find(|pod| pod.address == text);
    at.map_or(text, Pod::id)
}

fn text<'a>(row: &'a Value, field: &str) -> Option<&'a str> {
    row.get(field)?.as_str()
}
