//! What is: handshakes of the source's proxy, modes of the destinations' proxies.

use std::collections::HashMap;

use meltemi_core::ClusterName;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::Finding;
use super::rows::Row;
use super::verdict::{Client, Endpoint, Server};
use crate::proxy_config::admin_json;
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
    let known = admin_json(source, Method::Get, "/tls", access).await?;
    let mut destinations = Destinations::new(pods, access);
    let mut findings = Vec::new();
    for row in rows {
        let cluster = ClusterName::outbound(row.port, row.subset(), row.fqdn());
        let mut seen = of_traffic(&known, &cluster);
        if probe {
            let name = cluster.to_string();
            let path = format!(
                "/tls/probe?cluster={}",
                utf8_percent_encode(&name, NON_ALPHANUMERIC)
            );
            let answer = admin_json(source, Method::Post, &path, access).await?;
            seen = upstream(&answer)
                .map(|fresh| with_history(fresh, &seen))
                .collect();
        }
        let mut evidence = Vec::new();
        for seen in seen {
            let (pod, server) = destinations.ask(text(&seen, "endpoint")).await;
            evidence.push(Evidence { seen, pod, server });
        }
        findings.push(Finding { row, evidence });
    }
    Ok(findings)
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
    let handshaken = !text(seen, "last_handshake").is_empty();
    match text(seen, "mode") {
        _ if !error.is_empty() => Client::Failed(error.to_owned()),
        "plaintext" => Client::Plaintext,
        mode @ ("mtls" | "tls") if !handshaken => {
            Client::Unproven(format!("{mode} is configured, no handshake has been made"))
        }
        "mtls" => Client::MutualTls {
            peer_identity: text(seen, "peer_identity").to_owned(),
        },
        "tls" => Client::Tls,
        other => Client::Unproven(format!("the proxy tells of mode {other:?}")),
    }
}

/// Asks each destination's proxy once.
struct Destinations<'a> {
    pods: &'a [Pod],
    access: &'a dyn Access,
    answers: HashMap<String, Result<Value, String>>,
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
            let answer = admin_json(pod, Method::Get, "/tls", self.access).await;
            self.answers
                .insert(pod.id(), answer.map_err(|error| error.to_string()));
        }
        let server = match self.answers.get(&pod.id()) {
            Some(Ok(answer)) => inbound(answer, port),
            Some(Err(error)) => Server::Unknown(error.clone()),
            None => Server::Unknown("not asked".to_owned()),
        };
        (Some(pod.id()), server)
    }
}

fn inbound(answer: &Value, port: &str) -> Server {
    let ports = answer
        .get("inbound")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    let found = ports
        .into_iter()
        .find(|entry| entry.get("port").map(Value::to_string).as_deref() == Some(port));
    match found.map(|entry| text(entry, "mode")) {
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
