//! Evidence of what connections really do: who shook hands with whom, with what, when. The admin port's `/tls` reads it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use meltemi_pki::HandshakeInfo;
use parking_lot::Mutex;
use serde::Serialize;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::downstream::Arrival;

/// Rows kept of each side; rows without connections make room first.
const ROW_LIMIT: usize = 4096;

/// One pair of ends, as `/tls` prints it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Evident {
    pub(crate) mode: &'static str,
    pub(crate) local_identity: Option<String>,
    pub(crate) peer_identity: Option<String>,
    pub(crate) tls_version: Option<&'static str>,
    pub(crate) cipher: Option<&'static str>,
    pub(crate) key_exchange: Option<String>,
    pub(crate) alpn: Option<String>,
    pub(crate) handshakes: u64,
    pub(crate) connections: u64,
    pub(crate) last_handshake: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_error: Option<String>,
}

impl Evident {
    fn connected(&mut self, mode: &'static str, handshake: Option<&HandshakeInfo>) {
        self.mode = mode;
        self.connections += 1;
        self.last_error = None;
        let Some(handshake) = handshake else { return };
        self.handshakes += 1;
        self.local_identity = handshake.local.as_ref().map(ToString::to_string);
        self.peer_identity = handshake
            .peer
            .as_ref()
            .map(|peer| peer.identity.to_string());
        self.tls_version = Some(handshake.tls_version);
        self.cipher = Some(handshake.cipher);
        if !handshake.key_exchange.is_empty() {
            self.key_exchange = Some(handshake.key_exchange.to_owned());
        }
        self.alpn = Some(handshake.alpn_str().to_owned()).filter(|alpn| !alpn.is_empty());
        self.last_handshake = rfc3339(handshake.at);
    }
}

pub(crate) fn rfc3339(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).format(&Rfc3339).ok()
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct UpstreamRow {
    pub(crate) cluster: String,
    pub(crate) endpoint: String,
    #[serde(flatten)]
    pub(crate) evident: Evident,
}

#[derive(Clone, Debug, Serialize)]
pub(crate) struct DownstreamRow {
    pub(crate) port: u16,
    pub(crate) source: String,
    #[serde(flatten)]
    pub(crate) evident: Evident,
}

type Rows = Mutex<BTreeMap<(String, String), Evident>>;

/// All evidence of the process.
#[derive(Debug, Default)]
pub(crate) struct Evidence {
    upstream: Arc<Rows>,
    downstream: Arc<Rows>,
}

/// Counts a connection in its row for as long as it lives.
#[derive(Debug)]
pub(crate) struct Row {
    rows: Arc<Rows>,
    key: (String, String),
}

impl Drop for Row {
    fn drop(&mut self) {
        if let Some(row) = self.rows.lock().get_mut(&self.key) {
            row.connections = row.connections.saturating_sub(1);
        }
    }
}

impl Evidence {
    pub(crate) fn upstream(
        &self,
        cluster: &str,
        endpoint: &str,
        handshake: Option<&HandshakeInfo>,
    ) -> Row {
        note(
            &self.upstream,
            (cluster.to_owned(), endpoint.to_owned()),
            mode(handshake),
            handshake,
        )
    }

    pub(crate) fn upstream_failed(
        &self,
        cluster: &str,
        endpoint: &str,
        mode: &'static str,
        error: String,
    ) {
        let mut rows = self.upstream.lock();
        make_room(&mut rows);
        let row = rows
            .entry((cluster.to_owned(), endpoint.to_owned()))
            .or_default();
        row.mode = mode;
        row.last_error = Some(error);
    }

    pub(crate) fn downstream(&self, arrival: &Arrival, handshake: Option<&HandshakeInfo>) -> Row {
        let key = (
            arrival.destination.port().to_string(),
            arrival.peer.ip().to_string(),
        );
        note(&self.downstream, key, mode(handshake), handshake)
    }

    pub(crate) fn upstream_rows(&self) -> Vec<UpstreamRow> {
        let rows = self.upstream.lock();
        let row = |((cluster, endpoint), evident): (&(String, String), &Evident)| UpstreamRow {
            cluster: cluster.clone(),
            endpoint: endpoint.clone(),
            evident: evident.clone(),
        };
        rows.iter().map(row).collect()
    }

    pub(crate) fn downstream_rows(&self) -> Vec<DownstreamRow> {
        let rows = self.downstream.lock();
        let row = |((port, source), evident): (&(String, String), &Evident)| DownstreamRow {
            port: port.parse().unwrap_or_default(),
            source: source.clone(),
            evident: evident.clone(),
        };
        rows.iter().map(row).collect()
    }
}

/// `mtls` when both ends proved who they are.
pub(crate) fn mode(handshake: Option<&HandshakeInfo>) -> &'static str {
    match handshake {
        None => "plaintext",
        Some(HandshakeInfo {
            stranger: None,
            local: Some(_),
            peer: Some(_),
            ..
        }) => "mtls",
        Some(_) => "tls",
    }
}

fn note(
    rows: &Arc<Rows>,
    key: (String, String),
    mode: &'static str,
    handshake: Option<&HandshakeInfo>,
) -> Row {
    let mut all = rows.lock();
    make_room(&mut all);
    all.entry(key.clone())
        .or_default()
        .connected(mode, handshake);
    Row {
        rows: rows.clone(),
        key,
    }
}

fn make_room(rows: &mut BTreeMap<(String, String), Evident>) {
    if rows.len() >= ROW_LIMIT {
        rows.retain(|_, row| row.connections > 0);
    }
}
