//! What a stock Envoy proves of the connections it makes.
//!
//! Its admin interface shows no single handshake: it counts them, and connections, for each cluster since the start. So
//! what can be said is about all connections of a cluster at once - every one was a handshake, or none was - and the
//! peer is the identity that the configuration demands, because Envoy completes no handshake with another.

use std::collections::{BTreeMap, BTreeSet};

use meltemi_core::ClusterName;
use serde_json::{Value, json};

use super::evidence::hosts;
use crate::proxy_config::admin_json;
use crate::proxy_config::dump::{Dump, camel, list, text};
use crate::{Access, CliError, Method, Pod};

/// Counters of connections and of TLS, and no others.
const STATS: &str =
    "/stats?usedonly&format=json&filter=upstream_cx_(total|connect_fail)$|%5C.ssl%5C.";

pub(super) struct Stock {
    dump: Dump,
    counters: BTreeMap<String, u64>,
    own_identity: String,
}

impl Stock {
    pub(super) async fn ask(source: &Pod, access: &dyn Access) -> Result<Self, CliError> {
        let dump = admin_json(source, Method::Get, "/config_dump", access).await?;
        let stats = admin_json(source, Method::Get, STATS, access).await?;
        let certs = camel(admin_json(source, Method::Get, "/certs", access).await?);
        let counter = |stat: &Value| {
            let name = stat.get("name")?.as_str()?;
            Some((name.to_owned(), stat.get("value")?.as_u64()?))
        };
        let names = list(&certs, "/certificates")
            .flat_map(|certificate| list(certificate, "/certChain"))
            .flat_map(|certificate| list(certificate, "/subjectAltNames"));
        let mut identities = names.map(|name| text(name, "/uri"));
        Ok(Self {
            dump: Dump::new(dump)?,
            counters: list(&stats, "/stats").filter_map(counter).collect(),
            own_identity: identities
                .find(|name| name.starts_with("spiffe://"))
                .unwrap_or_default()
                .to_owned(),
        })
    }

    /// A row as of `/tls` for every endpoint of a cluster that connections were made to.
    pub(super) fn rows(&self, name: &ClusterName, statuses: &Value) -> Vec<Value> {
        let name = name.to_string();
        let clusters = self.dump.clusters();
        let cluster = clusters
            .into_iter()
            .find(|cluster| text(cluster, "/name") == name);
        let Some(cluster) = cluster else {
            return Vec::new();
        };
        let row = self.row(&name, cluster);
        let of_endpoint = |(endpoint, connections): (String, u64)| {
            let mut row = row.clone();
            row["endpoint"] = json!(endpoint);
            row["connections"] = json!(connections);
            row
        };
        connected(statuses, &name).map(of_endpoint).collect()
    }

    /// What holds for every connection of the cluster.
    fn row(&self, name: &str, cluster: &Value) -> Value {
        let stat_name = Some(text(cluster, "/altStatName")).filter(|name| !name.is_empty());
        let prefix = format!("cluster.{}.", stat_name.unwrap_or(name));
        let count = |counter: &str| {
            let value = self.counters.get(&format!("{prefix}{counter}"));
            value.copied().unwrap_or_default()
        };
        let made = count("upstream_cx_total").saturating_sub(count("upstream_cx_connect_fail"));
        let handshakes = count("ssl.handshake");
        let proof = format!(
            "{handshakes} handshakes in the {made} connections of the cluster, as Envoy counts them"
        );
        let mut row = json!({"cluster": name, "handshakes": handshakes, "proof": proof});
        if handshakes == 0 {
            row["mode"] = json!("plaintext");
        } else if handshakes < made {
            row["mode"] = json!("unknown");
            row["unseen"] = json!(format!(
                "{handshakes} of {made} connections of the source's Envoy were encrypted; it does not tell which"
            ));
        } else {
            let presents = !found(cluster, "tlsCertificateSdsSecretConfigs").is_empty()
                || !found(cluster, "tlsCertificates").is_empty();
            row["mode"] = json!(if presents { "mtls" } else { "tls" });
            row["local_identity"] = json!(self.own_identity);
            row["peer_identity"] = json!(demanded(cluster).join(" or "));
            for (field, kind) in [
                ("tls_version", "ssl.versions."),
                ("cipher", "ssl.ciphers."),
                ("key_exchange", "ssl.curves."),
            ] {
                row[field] = json!(self.used(&format!("{prefix}{kind}")).join(" or "));
            }
        }
        row
    }

    /// The last parts of the counters that begin so and have counted.
    fn used(&self, prefix: &str) -> Vec<&str> {
        let counted = self.counters.iter().filter(|(_, count)| **count > 0);
        counted
            .filter_map(|(name, _)| name.strip_prefix(prefix))
            .collect()
    }
}

/// The endpoints of a cluster that were connected to, with how often.
fn connected<'a>(statuses: &'a Value, name: &'a str) -> impl Iterator<Item = (String, u64)> + 'a {
    let counted = |host: &Value| -> Option<u64> {
        let total = list(host, "/stats").find(|stat| text(stat, "/name") == "cx_total")?;
        // Proto's JSON writes 64-bit numbers as text.
        text(total, "/value").parse().ok()
    };
    hosts(statuses, name)
        .filter_map(move |(endpoint, host)| Some((endpoint, counted(host)?)))
        .filter(|(_, connections)| *connections > 0)
}

/// The identities of which the peer must show one.
fn demanded(cluster: &Value) -> Vec<String> {
    let lists = [
        found(cluster, "matchTypedSubjectAltNames"),
        found(cluster, "matchSubjectAltNames"),
    ];
    let exact = lists.iter().flatten().flat_map(|list| found(list, "exact"));
    let names: BTreeSet<String> = exact
        .filter_map(|name| name.as_str().map(str::to_owned))
        .collect();
    names.into_iter().collect()
}

/// Every value of a field, however deep.
fn found<'a>(value: &'a Value, field: &str) -> Vec<&'a Value> {
    match value {
        Value::Object(fields) => fields
            .iter()
            .flat_map(|(name, value)| {
                if name == field {
                    vec![value]
                } else {
                    found(value, field)
                }
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(|item| found(item, field)).collect(),
        _ => Vec::new(),
    }
}
