use serde_json::{Value, json};

use super::dump::{Dump, camel, list, text};
use crate::command::{EndpointArgs, PodArgs};
use crate::output::structured;
use crate::table::Table;
use crate::{Access, CliError, Io};

/// One endpoint of one cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    address: String,
    port: u64,
    status: String,
    outlier_check: &'static str,
    cluster: String,
}

/// The answer to `/clusters?format=json`, or a file with that or with a config_dump.
pub(super) async fn load(
    args: &PodArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<Vec<Row>, CliError> {
    let json = super::fetch(args, "/clusters?format=json", access, io).await?;
    if json.get("configs").is_some() {
        return Ok(of_dump(&Dump::new(json)?));
    }
    let json = camel(json);
    if json.get("clusterStatuses").is_none() && args.file.is_some() {
        let hint = "Give the answer to /clusters?format=json or to /config_dump?include_eds.";
        return Err(CliError::data("the file holds no endpoints", hint));
    }
    Ok(of_statuses(&json))
}

pub(super) fn run(rows: &[Row], args: &EndpointArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let is_wanted = |row: &&Row| {
        args.address
            .as_ref()
            .is_none_or(|address| row.address == *address)
            && args.port.is_none_or(|port| row.port == u64::from(port))
            && args
                .cluster
                .as_ref()
                .is_none_or(|cluster| row.cluster == *cluster)
            && args
                .status
                .as_ref()
                .is_none_or(|status| row.status.eq_ignore_ascii_case(status))
    };
    let rows: Vec<Row> = rows.iter().filter(is_wanted).cloned().collect();
    let json = rows.iter().map(|row| {
        json!({
            "address": row.address, "port": row.port, "status": row.status,
            "outlierCheck": row.outlier_check, "cluster": row.cluster,
        })
    });
    match structured(&Value::Array(json.collect()), args.pod.output)? {
        Some(text) => io.print(&text),
        None => io.print(&table(&rows)),
    }
}

pub(super) fn table(rows: &[Row]) -> String {
    let mut table = Table::new(["ENDPOINT", "STATUS", "OUTLIER CHECK", "CLUSTER"]);
    let mut rows = rows.to_vec();
    rows.sort();
    for row in rows {
        let address = if row.port == 0 {
            row.address
        } else {
            format!("{}:{}", row.address, row.port)
        };
        table.row([
            address.as_str(),
            &row.status,
            row.outlier_check,
            &row.cluster,
        ]);
    }
    table.render()
}

fn of_statuses(json: &Value) -> Vec<Row> {
    let clusters = list(json, "/clusterStatuses");
    let hosts = clusters.flat_map(|cluster| {
        let name = text(cluster, "/name");
        list(cluster, "/hostStatuses").map(move |host| (name, host))
    });
    let row = |(cluster, host): (&str, &Value)| {
        let (address, port) = address(&host["address"]);
        let failed = host.pointer("/healthStatus/failedOutlierCheck") == Some(&Value::Bool(true));
        Row {
            address,
            port,
            status: or(text(host, "/healthStatus/edsHealthStatus"), "HEALTHY"),
            outlier_check: if failed { "FAILED" } else { "OK" },
            cluster: cluster.to_owned(),
        }
    };
    hosts.map(row).collect()
}

pub(super) fn of_dump(dump: &Dump) -> Vec<Row> {
    let assignments = dump.endpoints();
    let endpoints = assignments.into_iter().flat_map(|assignment| {
        let cluster = text(assignment, "/clusterName");
        let localities = list(assignment, "/endpoints");
        let endpoints = localities.flat_map(|locality| list(locality, "/lbEndpoints"));
        endpoints.map(move |endpoint| (cluster, endpoint))
    });
    let row = |(cluster, endpoint): (&str, &Value)| {
        let (address, port) = address(&endpoint["endpoint"]["address"]);
        Row {
            address,
            port,
            status: or(text(endpoint, "/healthStatus"), "HEALTHY"),
            outlier_check: "OK",
            cluster: cluster.to_owned(),
        }
    };
    endpoints.map(row).collect()
}

fn address(address: &Value) -> (String, u64) {
    let socket = &address["socketAddress"];
    let pipe = text(address, "/pipe/path");
    if pipe.is_empty() {
        let port = socket["portValue"].as_u64().unwrap_or_default();
        (text(socket, "/address").to_owned(), port)
    } else {
        (format!("unix://{pipe}"), 0)
    }
}

fn or(text: &str, default: &str) -> String {
    if text.is_empty() || text == "UNKNOWN" {
        default
    } else {
        text
    }
    .to_owned()
}
