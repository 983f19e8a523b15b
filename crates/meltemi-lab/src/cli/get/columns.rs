//! kubectl's columns for each kind.

use jiff::Timestamp;
use serde_json::Value;

use super::cells::{
    containers, entries, labels, list, number, object_age, or, or_none, ratio, since, text,
};
use super::pods;
use crate::cli::endpoints;
use crate::cli::kinds::EVENT;
use crate::cli::table::age;

pub(super) struct Column {
    pub(super) title: &'static str,
    /// Only with `-o wide`.
    pub(super) wide: bool,
    pub(super) cell: fn(&Value) -> String,
}

const fn column(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column {
        title,
        wide: false,
        cell,
    }
}

const fn wide(title: &'static str, cell: fn(&Value) -> String) -> Column {
    Column {
        title,
        wide: true,
        cell,
    }
}

const AGE: Column = column("AGE", object_age);
const CONTAINERS: Column = wide("CONTAINERS", |workload| containers(workload, "name"));
const IMAGES: Column = wide("IMAGES", |workload| containers(workload, "image"));
const SELECTOR: Column = wide("SELECTOR", |workload| {
    labels(&workload["spec"]["selector"]["matchLabels"])
});

/// Whether the table of a kind begins with NAME; that of events does not.
pub(super) fn is_named(kind: &str) -> bool {
    kind != EVENT
}

pub(super) fn columns(kind: &str) -> &'static [Column] {
    match kind {
        "Pod" => {
            const {
                &[
                    column("READY", pods::ready),
                    column("STATUS", pods::status),
                    column("RESTARTS", pods::restarts),
                    AGE,
                    wide("IP", |pod| or_none(text(pod, "/status/podIP"))),
                    wide("NODE", |pod| or_none(text(pod, "/spec/nodeName"))),
                    wide("NOMINATED NODE", |_| "<none>".to_owned()),
                    wide("READINESS GATES", |_| "<none>".to_owned()),
                ]
            }
        }
        "Service" => {
            const {
                &[
                    column("TYPE", |service| {
                        or(text(service, "/spec/type"), "ClusterIP")
                    }),
                    column("CLUSTER-IP", |service| {
                        or_none(text(service, "/spec/clusterIP"))
                    }),
                    column("EXTERNAL-IP", |service| {
                        or_none(text(service, "/spec/externalName"))
                    }),
                    column("PORT(S)", service_ports),
                    AGE,
                    wide("SELECTOR", |service| labels(&service["spec"]["selector"])),
                ]
            }
        }
        "Deployment" => {
            const {
                &[
                    column("READY", |deployment| {
                        ratio(deployment, "/status/readyReplicas", "/spec/replicas")
                    }),
                    column("UP-TO-DATE", |deployment| {
                        number(deployment, "/status/updatedReplicas").to_string()
                    }),
                    column("AVAILABLE", |deployment| {
                        number(deployment, "/status/availableReplicas").to_string()
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            }
        }
        "ReplicaSet" => {
            const {
                &[
                    column("DESIRED", |set| number(set, "/spec/replicas").to_string()),
                    column("CURRENT", |set| number(set, "/status/replicas").to_string()),
                    column("READY", |set| {
                        number(set, "/status/readyReplicas").to_string()
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            }
        }
        "StatefulSet" => {
            const {
                &[
                    column("READY", |set| {
                        ratio(set, "/status/readyReplicas", "/spec/replicas")
                    }),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                ]
            }
        }
        "Job" => {
            const {
                &[
                    column("STATUS", job_status),
                    column("COMPLETIONS", |job| {
                        ratio(job, "/status/succeeded", "/spec/completions")
                    }),
                    column("DURATION", job_duration),
                    AGE,
                    CONTAINERS,
                    IMAGES,
                    SELECTOR,
                ]
            }
        }
        "Namespace" => {
            const {
                &[
                    column("STATUS", |namespace| {
                        or(text(namespace, "/status/phase"), "Active")
                    }),
                    AGE,
                ]
            }
        }
        "ServiceAccount" => {
            const {
                &[
                    column("SECRETS", |account| {
                        account["secrets"]
                            .as_array()
                            .map_or(0, Vec::len)
                            .to_string()
                    }),
                    AGE,
                ]
            }
        }
        "ConfigMap" => const { &[column("DATA", |map| entries(&map["data"])), AGE] },
        "Secret" => {
            const {
                &[
                    column("TYPE", |secret| or(text(secret, "/type"), "Opaque")),
                    column("DATA", |secret| entries(&secret["data"])),
                    AGE,
                ]
            }
        }
        endpoints::KIND => {
            const {
                &[
                    column("ENDPOINTS", |object| or_none(endpoints::shown(object))),
                    AGE,
                ]
            }
        }
        "EndpointSlice" => {
            const {
                &[
                    column("ADDRESSTYPE", |slice| text(slice, "/addressType")),
                    column("PORTS", slice_ports),
                    column("ENDPOINTS", slice_endpoints),
                    AGE,
                ]
            }
        }
        EVENT => {
            const {
                &[
                    column("LAST SEEN", event_age),
                    column("TYPE", |event| text(event, "/type")),
                    column("REASON", |event| text(event, "/reason")),
                    column("OBJECT", event_object),
                    wide("SUBOBJECT", |event| {
                        text(event, "/involvedObject/fieldPath")
                    }),
                    wide("SOURCE", event_source),
                    column("MESSAGE", |event| text(event, "/message").trim().to_owned()),
                    wide("FIRST SEEN", |event| since(event, "/firstTimestamp")),
                    wide("COUNT", |event| number(event, "/count").to_string()),
                    wide("NAME", |event| text(event, "/metadata/name")),
                ]
            }
        }
        "VirtualService" => {
            const {
                &[
                    column("GATEWAYS", |service| list(&service["spec"]["gateways"])),
                    column("HOSTS", |service| list(&service["spec"]["hosts"])),
                    AGE,
                ]
            }
        }
        "DestinationRule" => const { &[column("HOST", |rule| text(rule, "/spec/host")), AGE] },
        "ServiceEntry" => {
            const {
                &[
                    column("HOSTS", |entry| list(&entry["spec"]["hosts"])),
                    column("LOCATION", |entry| text(entry, "/spec/location")),
                    column("RESOLUTION", |entry| text(entry, "/spec/resolution")),
                    AGE,
                ]
            }
        }
        "WorkloadEntry" => {
            const { &[AGE, column("ADDRESS", |entry| text(entry, "/spec/address"))] }
        }
        "AuthorizationPolicy" => {
            const { &[column("ACTION", |policy| text(policy, "/spec/action")), AGE] }
        }
        "PeerAuthentication" => {
            const {
                &[
                    column("MODE", |policy| text(policy, "/spec/mtls/mode")),
                    AGE,
                ]
            }
        }
        _ => const { &[AGE] },
    }
}

fn event_age(event: &Value) -> String {
    since(event, "/lastTimestamp")
}

fn event_object(event: &Value) -> String {
    let kind = text(event, "/involvedObject/kind").to_ascii_lowercase();
    format!("{kind}/{}", text(event, "/involvedObject/name"))
}

fn event_source(event: &Value) -> String {
    let parts = ["/source/component", "/source/host"].map(|path| text(event, path));
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

fn service_ports(service: &Value) -> String {
    let ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let port = |port: &Value| {
        format!(
            "{}/{}",
            port["port"],
            port["protocol"].as_str().unwrap_or("TCP")
        )
    };
    ports.map(port).collect::<Vec<_>>().join(",")
}

fn slice_ports(slice: &Value) -> String {
    let ports = slice["ports"].as_array().into_iter().flatten();
    or(
        ports
            .map(|port| port["port"].to_string())
            .collect::<Vec<_>>()
            .join(","),
        "<unset>",
    )
}

fn slice_endpoints(slice: &Value) -> String {
    let endpoints = slice["endpoints"].as_array().into_iter().flatten();
    let addresses = endpoints.filter_map(|endpoint| endpoint["addresses"][0].as_str());
    or(addresses.collect::<Vec<_>>().join(","), "<unset>")
}

fn job_status(job: &Value) -> String {
    let conditions = job["status"]["conditions"].as_array();
    let holds = |condition: &&Value| condition["status"] == "True";
    let ended = conditions.into_iter().flatten().find(holds);
    let ended = ended.and_then(|condition| condition["type"].as_str());
    ended.unwrap_or("Running").to_owned()
}

/// From the start to the end, or until now.
fn job_duration(job: &Value) -> String {
    let time = |path: &str| text(job, path).parse::<Timestamp>().ok();
    let Some(start) = time("/status/startTime") else {
        return String::new();
    };
    let end = time("/status/completionTime").unwrap_or_else(Timestamp::now);
    age(end.as_second() - start.as_second())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_job_took_from_its_start_to_its_end() {
        let job = |status: Value| job_duration(&json!({"status": status}));
        let times =
            json!({"startTime": "2026-01-01T10:00:00Z", "completionTime": "2026-01-01T10:02:30Z"});
        assert_eq!(job(times), "2m30s");
        assert_eq!(job(json!({})), "");
    }
}
