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

/// What is known of endpoints.
pub(super) enum Known {
    /// The answer to `/clusters?format=json`.
    Statuses(Value),
    /// A config_dump.
    Dump(Dump),
}

/// The answer to `/clusters?format=json`, or a file with that or with a config_dump.
pub(super) async fn load(
    args: &PodArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<Known, CliError> {
    let json = super::fetch(args, "/clusters?format=json", access, io).await?;
    if json.get("configs").is_some() {
        return Ok(Known::Dump(Dump::new(json)?));
    }
    let json = camel(json);
    if json.get("clusterStatuses").is_none() && args.file.is_some() {
        let hint = "Give the answer to /clusters?format=json or to /config_dump?include_eds.";
        return Err(CliError::data("the file holds no endpoints", hint));
    }
    Ok(Known::Statuses(json))
}

pub(super) fn run(known: &Known, args: &EndpointArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let rows = match known {
        Known::Statuses(statuses) => of_statuses(statuses),
        Known::Dump(dump) => of_dump(dump),
    };
    let rows: Vec<Row> = rows
        .into_iter()
        .filter(|row| is_wanted(row, args))
        .collect();
    let json = match known {
        // As istioctl: the clusters, whole, of which an endpoint is wanted.
        Known::Statuses(statuses) => list(statuses, "/clusterStatuses")
            .filter(|cluster| of_cluster(cluster).any(|row| is_wanted(&row, args)))
            .cloned()
            .collect(),
        Known::Dump(_) => rows.iter().map(Row::to_json).collect(),
    };
    match structured(&Value::Array(json), args.pod.output)? {
        Some(text) => io.print(&text),
        None => io.print(&table(&rows)),
    }
}

fn is_wanted(row: &Row, args: &EndpointArgs) -> bool {
    let is = |wanted: &Option<String>, value: &str| {
        wanted
            .as_ref()
            .is_none_or(|wanted| value.eq_ignore_ascii_case(wanted))
    };
    is(&args.address, &row.address)
        && args.port.is_none_or(|port| row.port == u64::from(port))
        && is(&args.cluster, &row.cluster)
        && is(&args.status, &row.status)
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "address": self.address, "port": self.port, "status": self.status,
            "outlierCheck": self.outlier_check, "cluster": self.cluster,
        })
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
    clusters.flat_map(of_cluster).collect()
}

fn of_cluster(cluster: &Value) -> impl Iterator<Item = Row> {
    let name = text(cluster, "/name");
    list(cluster, "/hostStatuses").map(move |host| {
        let (address, port) = address(&host["address"]);
        let failed = host.pointer("/healthStatus/failedOutlierCheck") == Some(&Value::Bool(true));
        Row {
            address,
            port,
            status: or(text(host, "/healthStatus/edsHealthStatus"), "HEALTHY"),
            outlier_check: if failed { "FAILED" } else { "OK" },
            cluster: name.to_owned(),
        }
    })
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
