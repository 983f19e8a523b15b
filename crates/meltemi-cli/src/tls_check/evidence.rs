//! What is: handshakes of the source's proxy, modes of the destinations' proxies.

use std::collections::{BTreeMap, HashMap};

use meltemi_core::ClusterName;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::Finding;
use super::rows::Row;
use super::stock::Stock;
use super::verdict::{Client, Endpoint, Server};
use crate::proxy_config::admin_json;
use crate::proxy_config::dump::{Dump, camel, list};
use crate::{Access, CliError, Method, Pod};

/// One endpoint of one port: what the source's proxy tells of it, and its own proxy's mode.
#[derive(Clone, Debug)]
pub(super) struct Evidence {
    /// A row of `/tls` or `/tls/probe`.
    pub(super) seen: Value,
    pub(super) pod: Option<String>,
    pub(super) server: Server,
}

impl Evidence {
    pub(super) fn text(&self, field: &str) -> &str {
        text(&self.seen, field)
    }

    pub(super) fn endpoint(&self) -> Endpoint {
        Endpoint {
            address: self.text("endpoint").to_owned(),
            client: client(&self.seen),
            server: self.server.clone(),
        }
    }

    pub(super) fn to_json(&self) -> Value {
        let mut json = self.seen.clone();
        json["pod"] = json!(self.pod);
        json["server_mode"] = json!(server_text(&self.server));
        json
    }
}

pub(super) fn server_text(server: &Server) -> &str {
    match server {
        Server::Strict => "STRICT",
        Server::Permissive => "PERMISSIVE",
        Server::Disable => "DISABLE",
        Server::NoSidecar => "NONE",
        Server::Unknown(_) => "UNKNOWN",
    }
}

/// Gathers the evidence for each row: handshakes made now where `probe` says so, those of traffic otherwise.
pub(super) async fn collect(
    rows: Vec<Row>,
    source: &Pod,
    pods: &[Pod],
    probe: bool,
    access: &dyn Access,
) -> Result<Vec<Finding>, CliError> {
    let known = match admin_json(source, Method::Get, "/tls", access).await {
        Err(CliError::Answer { .. }) => Known::Stock(Stock::ask(source, access).await?),
        answer => Known::Ours(answer?),
    };
    let clusters = rows.iter();
    let clusters: Vec<ClusterName> = clusters
        .map(|row| ClusterName::outbound(row.port, row.subset(), row.fqdn()))
        .collect();
    let mut handshakes = Vec::new();
    for cluster in &clusters {
        handshakes.push(match &known {
            Known::Stock(_) => Vec::new(),
            Known::Ours(known) => {
                let history = of_traffic(known, cluster);
                if probe {
                    fresh(cluster, &history, source, access).await?
                } else {
                    history
                }
            }
        });
    }
    // After the probes: a proxy on demand holds a service that was never called only since it was probed.
    let statuses = admin_json(source, Method::Get, "/clusters?format=json", access).await?;
    let statuses = camel(statuses);
    let mut destinations = Destinations::new(pods, access);
    let mut findings = Vec::new();
    for ((row, cluster), handshakes) in rows.into_iter().zip(clusters).zip(handshakes) {
        let seen = match &known {
            Known::Stock(stock) => stock.rows(&cluster, &statuses),
            Known::Ours(_) => handshakes,
        };
        let mut evidence = Vec::new();
        for (endpoint, _) in hosts(&statuses, &cluster.to_string()) {
            let row = seen.iter().find(|row| text(row, "endpoint") == endpoint);
            let seen = match row {
                Some(row) => without_past(row.clone()),
                None if probe => json!({"endpoint": endpoint, "mode": "unknown"}),
                // Nothing was sent there.
                None => continue,
            };
            let (pod, server) = destinations.ask(&endpoint).await;
            evidence.push(Evidence { seen, pod, server });
        }
        findings.push(Finding { row, evidence });
    }
    Ok(findings)
}

/// What the source's proxy tells of its connections.
enum Known {
    /// The answer of `/tls`.
    Ours(Value),
    Stock(Stock),
}

/// Rows of handshakes that the source's proxy makes now.
async fn fresh(
    cluster: &ClusterName,
    history: &[Value],
    source: &Pod,
    access: &dyn Access,
) -> Result<Vec<Value>, CliError> {
    let name = cluster.to_string();
    let name = utf8_percent_encode(&name, NON_ALPHANUMERIC);
    let path = format!("/tls/probe?cluster={name}");
    let answer = match admin_json(source, Method::Post, &path, access).await {
        // A proxy that does not know the cluster sends nothing to it.
        Err(CliError::Answer { .. }) => Value::Null,
        answer => answer?,
    };
    let rows = upstream(&answer).map(|fresh| with_history(fresh, history));
    Ok(rows.collect())
}

/// The endpoints that the source's proxy knows now: rows of others are of pods that are gone.
pub(super) fn hosts<'a>(
    statuses: &'a Value,
    cluster: &'a str,
) -> impl Iterator<Item = (String, &'a Value)> {
    let of_name = move |status: &&Value| text(status, "name") == cluster;
    let clusters = list(statuses, "/clusterStatuses").filter(of_name);
    let hosts = clusters.flat_map(|status| list(status, "/hostStatuses"));
    hosts.filter_map(|host| {
        let socket = host.pointer("/address/socketAddress")?;
        let address = text(socket, "address");
        let port = socket.get("portValue")?;
        let endpoint = if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        };
        Some((endpoint, host))
    })
}

/// A row whose connections are plaintext now may still hold an earlier handshake, which proves nothing any more.
fn without_past(mut row: Value) -> Value {
    if text(&row, "mode") == "plaintext"
        && let Some(fields) = row.as_object_mut()
    {
        for field in [
            "local_identity",
            "peer_identity",
            "tls_version",
            "cipher",
            "key_exchange",
            "alpn",
            "last_handshake",
        ] {
            fields.remove(field);
        }
    }
    row
}

/// Rows of a service port; its subsets count for the whole service.
fn of_traffic(answer: &Value, wanted: &ClusterName) -> Vec<Value> {
    let is_wanted = |row: &&Value| {
        text(row, "cluster")
            .parse::<ClusterName>()
            .is_ok_and(|cluster| {
                let same = (cluster.direction, cluster.port, &cluster.host)
                    == (wanted.direction, wanted.port, &wanted.host);
                same && (wanted.subset.is_empty() || cluster.subset == wanted.subset)
            })
    };
    let mut rows: Vec<Value> = upstream(answer).filter(is_wanted).cloned().collect();
    rows.sort_by_key(|row| {
        (
            text(row, "endpoint").to_owned(),
            text(row, "last_handshake").to_owned(),
        )
    });
    // The latest of each endpoint.
    rows.reverse();
    rows.dedup_by_key(|row| text(row, "endpoint").to_owned());
    rows.reverse();
    rows
}

fn upstream(answer: &Value) -> impl Iterator<Item = &Value> {
    answer
        .get("upstream")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
}

/// A fresh row with the counts that traffic made.
fn with_history(fresh: &Value, history: &[Value]) -> Value {
    let mut row = fresh.clone();
    let before = history
        .iter()
        .find(|before| text(before, "endpoint") == text(fresh, "endpoint"));
    for field in ["handshakes", "connections"] {
        let count = |row: &Value| row.get(field).and_then(Value::as_u64).unwrap_or_default();
        row[field] = json!(count(fresh).max(before.map_or(0, count)));
    }
    row
}

/// What a row proves. A claim of TLS without a completed handshake proves nothing.
fn client(seen: &Value) -> Client {
    let error = text(seen, "last_error");
    let unseen = text(seen, "unseen");
    let handshaken = !text(seen, "last_handshake").is_empty() || !text(seen, "proof").is_empty();
    match text(seen, "mode") {
        _ if !error.is_empty() => Client::Failed(error.to_owned()),
        _ if !unseen.is_empty() => Client::Unproven(unseen.to_owned()),
        "plaintext" => Client::Plaintext,
        mode @ ("mtls" | "tls") if !handshaken => {
            Client::Unproven(format!("{mode} is configured, no handshake has been made"))
        }
        "mtls" => Client::MutualTls {
            peer_identity: text(seen, "peer_identity").to_owned(),
        },
        "tls" => Client::Tls,
        _ => Client::Unproven("no connection was made to this endpoint".to_owned()),
    }
}

/// Asks each destination's proxy once.
struct Destinations<'a> {
    pods: &'a [Pod],
    access: &'a dyn Access,
    answers: HashMap<String, Result<BTreeMap<u64, String>, String>>,
}

impl<'a> Destinations<'a> {
    fn new(pods: &'a [Pod], access: &'a dyn Access) -> Self {
        Self {
            pods,
            access,
            answers: HashMap::new(),
        }
    }

    /// The pod at an endpoint and what its proxy does on that port.
    async fn ask(&mut self, endpoint: &str) -> (Option<String>, Server) {
        let Some((address, port)) = endpoint.rsplit_once(':') else {
            return (None, Server::Unknown(format!("{endpoint:?} is no address")));
        };
        let address = address.trim_start_matches('[').trim_end_matches(']');
        let Some(pod) = self.pods.iter().find(|pod| pod.address == address) else {
            return (None, Server::NoSidecar);
        };
        if !pod.has_sidecar() {
            return (Some(pod.id()), Server::NoSidecar);
        }
        if !self.answers.contains_key(&pod.id()) {
            let modes = modes(pod, self.access).await;
            self.answers
                .insert(pod.id(), modes.map_err(|error| error.to_string()));
        }
        let server = match self.answers.get(&pod.id()) {
            Some(Ok(modes)) => server(modes, port),
            Some(Err(error)) => Server::Unknown(error.clone()),
            None => Server::Unknown("not asked".to_owned()),
        };
        (Some(pod.id()), server)
    }
}

/// What a proxy does on each inbound port. A stock Envoy has no `/tls`; its listeners say it.
async fn modes(pod: &Pod, access: &dyn Access) -> Result<BTreeMap<u64, String>, CliError> {
    let answer = match admin_json(pod, Method::Get, "/tls", access).await {
        Err(CliError::Answer { .. }) => {
            let dump = admin_json(pod, Method::Get, "/config_dump", access).await?;
            return Ok(of_listeners(&Dump::new(dump)?));
        }
        answer => answer?,
    };
    let port = |entry: &Value| {
        let port = entry.get("port").and_then(Value::as_u64)?;
        Some((port, text(entry, "mode").to_owned()))
    };
    Ok(list(&answer, "/inbound").filter_map(port).collect())
}

/// A port that a chain admits with TLS alone is STRICT, one with both kinds PERMISSIVE.
fn of_listeners(dump: &Dump) -> BTreeMap<u64, String> {
    let mut ports: BTreeMap<u64, (bool, bool)> = BTreeMap::new();
    let listeners = dump.listeners();
    let inbound = listeners
        .iter()
        .filter(|listener| text(listener, "trafficDirection") == "INBOUND");
    for chain in inbound.flat_map(|listener| list(listener, "/filterChains")) {
        let criteria = &chain["filterChainMatch"];
        let Some(port) = criteria.get("destinationPort").and_then(Value::as_u64) else {
            continue;
        };
        let has_tls = chain.get("transportSocket").is_some();
        let (tls, plain) = ports.entry(port).or_default();
        *tls |= has_tls;
        *plain |= !has_tls && text(criteria, "transportProtocol") != "tls";
    }
    let mode = |admits| match admits {
        (true, false) => "STRICT",
        (true, true) => "PERMISSIVE",
        (false, _) => "DISABLE",
    };
    let named = |(port, admits)| (port, mode(admits).to_owned());
    ports.into_iter().map(named).collect()
}

fn server(modes: &BTreeMap<u64, String>, port: &str) -> Server {
    let mode = port.parse().ok().and_then(|port: u64| modes.get(&port));
    match mode.map(String::as_str) {
        Some("STRICT") => Server::Strict,
        Some("PERMISSIVE") => Server::Permissive,
        Some("DISABLE") => Server::Disable,
        Some(other) => Server::Unknown(format!("the destination's proxy tells of mode {other:?}")),
        None => Server::Unknown(format!(
            "the destination's proxy has no listener for port {port}"
        )),
    }
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
