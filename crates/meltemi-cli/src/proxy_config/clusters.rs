use meltemi_core::{ClusterName, Direction};
use serde_json::Value;

use super::dump::{Dump, istio_config, list, text};
use crate::command::ClusterArgs;
use crate::table::Table;

pub(super) fn select<'a>(dump: &'a Dump, args: &ClusterArgs) -> Vec<&'a Value> {
    let mut clusters = dump.clusters();
    clusters.retain(|cluster| is_wanted(text(cluster, "/name"), args));
    clusters
}

fn is_wanted(name: &str, args: &ClusterArgs) -> bool {
    let parsed: Option<ClusterName> = name.parse().ok();
    let part = |matches: &dyn Fn(&ClusterName) -> bool| parsed.as_ref().is_some_and(matches);
    let host = |fqdn: &String| part(&|cluster| cluster.host == *fqdn) || name == fqdn;
    args.fqdn.as_ref().is_none_or(host)
        && args
            .port
            .is_none_or(|port| part(&|cluster| cluster.port == port))
        && args
            .subset
            .as_ref()
            .is_none_or(|subset| part(&|cluster| cluster.subset == *subset))
        && args
            .direction
            .as_ref()
            .is_none_or(|direction| part(&|cluster| cluster.direction.as_str() == direction))
}

pub(super) fn table(clusters: &[&Value]) -> String {
    let mut table = Table::new([
        "SERVICE FQDN",
        "PORT",
        "SUBSET",
        "DIRECTION",
        "TYPE",
        "DESTINATION RULE",
        "TLS",
    ]);
    let mut rows: Vec<[String; 7]> = clusters.iter().map(|cluster| row(cluster)).collect();
    rows.sort();
    for row in rows {
        table.row(row);
    }
    table.render()
}

fn row(cluster: &Value) -> [String; 7] {
    let name = text(cluster, "/name");
    let dash = || "-".to_owned();
    let [fqdn, port, subset, direction] = match name.parse::<ClusterName>() {
        Ok(parsed) => {
            let or_dash = |text: String| {
                if text.is_empty() {
                    "-".to_owned()
                } else {
                    text
                }
            };
            let host = if parsed.direction == Direction::Inbound {
                String::new()
            } else {
                parsed.host
            };
            [
                host,
                parsed.port.to_string(),
                or_dash(parsed.subset),
                parsed.direction.to_string(),
            ]
        }
        Err(_) => [name.to_owned(), dash(), dash(), dash()],
    };
    [
        fqdn,
        port,
        subset,
        direction,
        discovery_type(cluster),
        istio_config(cluster),
        tls(cluster),
    ]
}

fn discovery_type(cluster: &Value) -> String {
    match text(cluster, "/type") {
        "" if cluster.get("clusterType").is_some() => text(cluster, "/clusterType/name").to_owned(),
        "" => "STATIC".to_owned(),
        kind => kind.to_owned(),
    }
}

/// How connections of the cluster are secured: `mTLS (auto)` where each endpoint decides, `mTLS`, `TLS`, or `-`.
fn tls(cluster: &Value) -> String {
    let auto = list(cluster, "/transportSocketMatches")
        .any(|entry| of_socket(&entry["transportSocket"]) == "mTLS");
    if auto {
        return "mTLS (auto)".to_owned();
    }
    of_socket(&cluster["transportSocket"]).to_owned()
}

fn of_socket(socket: &Value) -> &'static str {
    let context = &socket["typedConfig"];
    let is_tls = text(context, "/@type").ends_with("UpstreamTlsContext")
        || text(socket, "/name").ends_with(".tls");
    let common = &context["commonTlsContext"];
    let has_certificate = list(common, "/tlsCertificateSdsSecretConfigs").len()
        + list(common, "/tlsCertificates").len()
        > 0;
    match (is_tls, has_certificate) {
        (true, true) => "mTLS",
        (true, false) => "TLS",
        (false, _) => "-",
    }
}
