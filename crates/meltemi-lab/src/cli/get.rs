//! `get`: kubectl's columns for each kind.

use std::io::Write;
use std::process::ExitCode;
use std::str::FromStr;

use clap::Args;
use jiff::Timestamp;
use serde_json::{Value, json};

use super::endpoints;
use super::jsonpath::Template;
use super::kinds::{self, Kind};
use super::selector::Selector;
use super::table::{Table, age};
use crate::client::LabClient;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab get pods\n  meltemi lab get pods -A -o wide\n  meltemi lab get deploy -o yaml\n  \
                        meltemi lab get vs,dr\n  meltemi lab get svc/reviews -o json\n  \
                        meltemi lab get pod -l app=ratings -o jsonpath='{.items[0].metadata.name}'\n  meltemi lab get pods -w"
)]
pub(super) struct Options {
    /// KIND[,KIND...] [NAME...] or KIND/NAME...
    #[arg(required = true)]
    words: Vec<String>,
    /// The namespace of the objects.
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// Objects of all namespaces.
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Only objects with these labels: K=V,K2!=V2,K3 in (A,B).
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: Selector,
    /// wide, json, yaml, name or jsonpath=TEMPLATE; a table otherwise.
    #[arg(short, long, default_value = "table", hide_default_value = true)]
    output: Output,
    /// Go on and show what changes.
    #[arg(short, long)]
    watch: bool,
    /// A column with all labels.
    #[arg(long)]
    show_labels: bool,
    /// A column with the value of this label; may be given again.
    #[arg(short = 'L', long, value_delimiter = ',')]
    label_columns: Vec<String>,
    /// Leave out the header line.
    #[arg(long)]
    no_headers: bool,
    /// Do not fail when an object is not there.
    #[arg(long)]
    ignore_not_found: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Output {
    Table,
    Wide,
    Json,
    Yaml,
    Name,
    JsonPath(Template),
}

impl FromStr for Output {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "table" => Self::Table,
            "wide" => Self::Wide,
            "json" => Self::Json,
            "yaml" => Self::Yaml,
            "name" => Self::Name,
            _ => match text.strip_prefix("jsonpath=") {
                Some(template) => Self::JsonPath(template.parse()?),
                None => return Err("one of wide, json, yaml, name, jsonpath=TEMPLATE".to_owned()),
            },
        })
    }
}

/// The objects that one kind of the command line stands for.
struct Found {
    kind: &'static Kind,
    objects: Vec<Value>,
    /// Names that were asked for and are not there.
    missing: Vec<String>,
}

pub(super) async fn get(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    let (mut found, mut revision) = find_all(client, options).await?;
    let errors = not_found(&found, &options.namespace);
    // What is there is shown all the same; where nothing is, the errors alone speak.
    if errors.is_empty() || found.iter().any(|found| !found.objects.is_empty()) {
        found.retain(|found| found.missing.is_empty() || !found.objects.is_empty());
        show(options, found, true)?;
    }
    if !errors.is_empty() && !options.ignore_not_found {
        for error in errors {
            anstream::eprintln!("Error: {error}");
        }
        return Ok(ExitCode::FAILURE);
    }
    if !options.watch {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        let seen = revision;
        client.changed(seen).await?;
        let (mut found, now) = find_all(client, options).await?;
        revision = now;
        for Found { objects, .. } in &mut found {
            objects.retain(|object| version(object) > seen);
        }
        found.retain(|found| !found.objects.is_empty());
        if !found.is_empty() {
            show(options, found, false)?;
        }
    }
}

fn not_found(found: &[Found], namespace: &str) -> Vec<String> {
    let of_kind = |found: &Found| {
        let resource = found.kind.resource;
        let missing = found.missing.iter();
        missing
            .map(|name| format!("{resource} \"{name}\" not found in namespace \"{namespace}\""))
            .collect::<Vec<_>>()
    };
    found.iter().flat_map(of_kind).collect()
}

fn version(object: &Value) -> u64 {
    text(object, "/metadata/resourceVersion")
        .parse()
        .unwrap_or(0)
}

async fn find_all(client: &LabClient, options: &Options) -> anyhow::Result<(Vec<Found>, u64)> {
    let mut found = Vec::new();
    let mut revision = u64::MAX;
    for (kind, names) in wanted(&options.words)? {
        let (kind, at) = find(client, options, kind, &names).await?;
        found.push(kind);
        revision = revision.min(at);
    }
    Ok((found, revision))
}

fn show(options: &Options, found: Vec<Found>, first: bool) -> anyhow::Result<()> {
    let mut out = anstream::stdout().lock();
    match &options.output {
        Output::Table | Output::Wide => tables(&mut out, options, &found, first)?,
        Output::Name => {
            for Found { kind, objects, .. } in &found {
                for object in objects {
                    writeln!(out, "{}/{}", kind.resource, text(object, "/metadata/name"))?;
                }
            }
        }
        Output::Json => writeln!(
            out,
            "{}",
            serde_json::to_string_pretty(&document(options, found))?
        )?,
        Output::Yaml => write!(
            out,
            "{}",
            serde_saphyr::to_string(&document(options, found))?
        )?,
        Output::JsonPath(template) => {
            write!(out, "{}", template.render(&document(options, found)))?
        }
    }
    out.flush()?;
    Ok(())
}

/// Kinds, each with the names asked for; none stands for all.
pub(super) fn wanted(words: &[String]) -> anyhow::Result<Vec<(&'static Kind, Vec<String>)>> {
    let Some((first, names)) = words.split_first() else {
        return Ok(Vec::new());
    };
    if first.contains('/') {
        let pair = |word: &String| {
            let (kind, name) = word
                .split_once('/')
                .ok_or_else(|| anyhow::anyhow!("\"{word}\" is not KIND/NAME"))?;
            Ok((kinds::find(kind)?, vec![name.to_owned()]))
        };
        return words.iter().map(pair).collect();
    }
    if first == "all" {
        return kinds::ALL
            .iter()
            .map(|kind| Ok((kinds::find(kind)?, names.to_vec())))
            .collect();
    }
    first
        .split(',')
        .map(|kind| Ok((kinds::find(kind)?, names.to_vec())))
        .collect()
}

async fn find(
    client: &LabClient,
    options: &Options,
    kind: &'static Kind,
    names: &[String],
) -> anyhow::Result<(Found, u64)> {
    let namespace =
        (kind.namespaced && !options.all_namespaces).then_some(options.namespace.as_str());
    let (mut objects, revision) = if kind.kind == endpoints::KIND {
        let (slices, revision) = client.objects_at("EndpointSlice", namespace).await?;
        (endpoints::of_slices(&slices), revision)
    } else {
        client.objects_at(kind.kind, namespace).await?
    };
    objects.retain(|object| options.selector.matches(object));
    let is_there = |name: &String| {
        let mut objects = objects.iter();
        objects.any(|object| object["metadata"]["name"] == **name)
    };
    let missing = names.iter().filter(|name| !is_there(name)).cloned();
    let missing = missing.collect();
    if !names.is_empty() {
        objects.retain(|object| names.iter().any(|name| object["metadata"]["name"] == *name));
    }
    objects.sort_by_key(|object| {
        (
            text(object, "/metadata/namespace"),
            text(object, "/metadata/name"),
        )
    });
    let found = Found {
        kind,
        objects,
        missing,
    };
    Ok((found, revision))
}

/// One object by itself when one was named, else a List as kubectl writes it.
fn document(options: &Options, found: Vec<Found>) -> Value {
    let by_name =
        options.words.len() > 1 || options.words.first().is_some_and(|word| word.contains('/'));
    let mut items: Vec<Value> = found.into_iter().flat_map(|found| found.objects).collect();
    if by_name && items.len() == 1 {
        return sorted(items.remove(0));
    }
    let items: Vec<Value> = items.into_iter().map(sorted).collect();
    json!({"apiVersion": "v1", "items": items, "kind": "List", "metadata": {"resourceVersion": ""}})
}

/// Fields in the order of their names, as kubectl prints them.
fn sorted(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<(String, Value)> = fields.into_iter().collect();
            fields.sort_by(|(a, _), (b, _)| a.cmp(b));
            let sorted = fields
                .into_iter()
                .map(|(name, value)| (name, sorted(value)));
            Value::Object(sorted.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        other => other,
    }
}

fn tables(
    out: &mut impl Write,
    options: &Options,
    found: &[Found],
    with_header: bool,
) -> anyhow::Result<()> {
    let mut is_first = true;
    for Found { kind, objects, .. } in found {
        if objects.is_empty() {
            continue;
        }
        if !is_first && with_header {
            writeln!(out)?;
        }
        is_first = false;
        let mut buffer = Vec::new();
        table(kind, objects, options, found.len() > 1).print(&mut buffer)?;
        let text = String::from_utf8_lossy(&buffer);
        let shown = if options.no_headers || !with_header {
            text.split_once('\n').map_or("", |(_, rest)| rest)
        } else {
            &text
        };
        write!(out, "{shown}")?;
    }
    if is_first {
        match options.all_namespaces {
            true => anstream::eprintln!("No resources found"),
            false => anstream::eprintln!("No resources found in {} namespace.", options.namespace),
        }
    }
    Ok(())
}

fn table(kind: &Kind, objects: &[Value], options: &Options, with_kind: bool) -> Table {
    let columns = columns(kind.kind);
    let wide = options.output == Output::Wide;
    let shown: Vec<&Column> = columns
        .iter()
        .filter(|column| wide || !column.wide)
        .collect();
    let namespaced = options.all_namespaces && kind.namespaced;
    let mut header: Vec<&str> = if namespaced {
        vec!["NAMESPACE", "NAME"]
    } else {
        vec!["NAME"]
    };
    header.extend(shown.iter().map(|column| column.title));
    let titles: Vec<String> = options
        .label_columns
        .iter()
        .map(|label| title(label))
        .collect();
    header.extend(titles.iter().map(String::as_str));
    header.extend(options.show_labels.then_some("LABELS"));
    let mut table = Table::new(&header);
    for object in objects {
        let name = text(object, "/metadata/name");
        let name = if with_kind {
            format!("{}/{name}", kind.resource)
        } else {
            name
        };
        let mut row = if namespaced {
            vec![text(object, "/metadata/namespace"), name]
        } else {
            vec![name]
        };
        row.extend(shown.iter().map(|column| (column.cell)(object)));
        let own = &object["metadata"]["labels"];
        let value = |label: &String| own[label].as_str().unwrap_or_default().to_owned();
        row.extend(options.label_columns.iter().map(value));
        row.extend(options.show_labels.then(|| labels(own)));
        table.row(row);
    }
    debug_assert!(!table.is_empty(), "a table is made of at least one object");
    table
}

/// `istio-injection` as kubectl heads its column: the last part, in capitals.
fn title(label: &str) -> String {
    let name = label.rsplit('/').next().unwrap_or(label);
    name.to_ascii_uppercase()
}

struct Column {
    title: &'static str,
    wide: bool,
    cell: fn(&Value) -> String,
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

fn columns(kind: &str) -> &'static [Column] {
    match kind {
        "Pod" => {
            const {
                &[
                    column("READY", pod_ready),
                    column("STATUS", pod_status),
                    column("RESTARTS", pod_restarts),
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

fn text(object: &Value, path: &str) -> String {
    match object.pointer(path) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => String::new(),
        Some(other) => other.to_string(),
    }
}

fn number(object: &Value, path: &str) -> u64 {
    object.pointer(path).and_then(Value::as_u64).unwrap_or(0)
}

fn or(text: String, default: &str) -> String {
    if text.is_empty() {
        default.to_owned()
    } else {
        text
    }
}

fn or_none(text: String) -> String {
    or(text, "<none>")
}

fn ratio(object: &Value, part: &str, whole: &str) -> String {
    let whole = object.pointer(whole).and_then(Value::as_u64).unwrap_or(1);
    format!("{}/{whole}", number(object, part))
}

fn list(values: &Value) -> String {
    values
        .as_array()
        .filter(|values| !values.is_empty())
        .map_or_else(String::new, |values| {
            Value::from(values.clone()).to_string()
        })
}

fn labels(map: &Value) -> String {
    let pairs = map.as_object().into_iter().flatten();
    let text =
        |(key, value): (&String, &Value)| format!("{key}={}", value.as_str().unwrap_or_default());
    or_none(pairs.map(text).collect::<Vec<_>>().join(","))
}

fn entries(map: &Value) -> String {
    map.as_object().map_or(0, serde_json::Map::len).to_string()
}

fn containers(workload: &Value, field: &str) -> String {
    let containers = workload["spec"]["template"]["spec"]["containers"]
        .as_array()
        .into_iter()
        .flatten();
    containers
        .filter_map(|container| container[field].as_str())
        .collect::<Vec<_>>()
        .join(",")
}

fn object_age(object: &Value) -> String {
    let created: Option<Timestamp> = text(object, "/metadata/creationTimestamp").parse().ok();
    created.map_or_else(
        || "<unknown>".to_owned(),
        |created| age(Timestamp::now().as_second() - created.as_second()),
    )
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

fn statuses<'a>(pod: &'a Value, field: &str) -> impl Iterator<Item = &'a Value> {
    pod["status"][field].as_array().into_iter().flatten()
}

/// Init containers that stay beside the containers (restartPolicy Always).
fn is_sidecar(pod: &Value, name: &Value) -> bool {
    let init = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten();
    init.into_iter()
        .any(|container| container["name"] == *name && container["restartPolicy"] == "Always")
}

/// kubectl counts containers and sidecars.
fn pod_ready(pod: &Value) -> String {
    let sidecars =
        statuses(pod, "initContainerStatuses").filter(|status| is_sidecar(pod, &status["name"]));
    let ready = statuses(pod, "containerStatuses")
        .chain(sidecars)
        .filter(|status| status["ready"] == true)
        .count();
    let init = pod["spec"]["initContainers"]
        .as_array()
        .into_iter()
        .flatten();
    let sidecars = init
        .filter(|container| container["restartPolicy"] == "Always")
        .count();
    let total = pod["spec"]["containers"].as_array().map_or(0, Vec::len) + sidecars;
    format!("{ready}/{total}")
}

fn pod_restarts(pod: &Value) -> String {
    let sidecars =
        statuses(pod, "initContainerStatuses").filter(|status| is_sidecar(pod, &status["name"]));
    let all = statuses(pod, "containerStatuses").chain(sidecars);
    all.filter_map(|status| status["restartCount"].as_u64())
        .sum::<u64>()
        .to_string()
}

/// kubectl's STATUS: Terminating, then the init container that is not done, then a container's reason, then the phase.
fn pod_status(pod: &Value) -> String {
    if !pod["metadata"]["deletionTimestamp"].is_null() {
        return "Terminating".to_owned();
    }
    let init_total = pod["spec"]["initContainers"].as_array().map_or(0, Vec::len);
    for (done, status) in statuses(pod, "initContainerStatuses").enumerate() {
        let finished = status["state"]["terminated"]["exitCode"] == 0;
        let sidecar_started = is_sidecar(pod, &status["name"]) && status["started"] == true;
        if finished || sidecar_started {
            continue;
        }
        let reason = reason(status).filter(|reason| reason != "PodInitializing");
        return reason.map_or_else(
            || format!("Init:{done}/{init_total}"),
            |reason| format!("Init:{reason}"),
        );
    }
    let reasons: Vec<String> = statuses(pod, "containerStatuses")
        .filter_map(reason)
        .collect();
    let serious = reasons
        .iter()
        .find(|reason| *reason != "Completed")
        .or_else(|| reasons.first());
    serious
        .cloned()
        .unwrap_or_else(|| or(text(pod, "/status/phase"), "Pending"))
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

fn reason(status: &Value) -> Option<String> {
    let state = &status["state"];
    let named = |value: &Value| {
        value["reason"]
            .as_str()
            .filter(|reason| !reason.is_empty())
            .map(str::to_owned)
    };
    named(&state["waiting"]).or_else(|| named(&state["terminated"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(init: Value, container: Value) -> Value {
        json!({
            "metadata": {"name": "a"},
            "spec": {
                "initContainers": [{"name": "init"}, {"name": "istio-proxy", "restartPolicy": "Always"}],
                "containers": [{"name": "app"}],
            },
            "status": {"phase": "Running", "initContainerStatuses": init, "containerStatuses": [container]},
        })
    }

    #[test]
    fn pods_show_what_kubectl_shows() {
        let done = json!({"name": "init", "ready": true, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}});
        let sidecar = json!({"name": "istio-proxy", "ready": true, "started": true, "restartCount": 2, "state": {"running": {}}});
        let app =
            json!({"name": "app", "ready": true, "restartCount": 1, "state": {"running": {}}});
        let running = pod(json!([done, sidecar]), app);
        assert_eq!(
            (
                pod_ready(&running),
                pod_status(&running),
                pod_restarts(&running)
            ),
            ("2/2".into(), "Running".into(), "3".into())
        );

        let crashing = json!({"name": "app", "ready": false, "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}});
        let broken = pod(json!([done, sidecar]), crashing);
        assert_eq!(
            (pod_ready(&broken), pod_status(&broken)),
            ("1/2".into(), "CrashLoopBackOff".into())
        );

        let waiting = json!({"name": "app", "ready": false, "state": {"waiting": {"reason": "PodInitializing"}}});
        let starting = pod(json!([{"name": "init", "state": {"running": {}}}]), waiting);
        assert_eq!(pod_status(&starting), "Init:0/2");
    }

    #[test]
    fn a_job_took_from_its_start_to_its_end() {
        let job = |status: Value| job_duration(&json!({"status": status}));
        let times =
            json!({"startTime": "2026-01-01T10:00:00Z", "completionTime": "2026-01-01T10:02:30Z"});
        assert_eq!(job(times), "2m30s");
        assert_eq!(job(json!({})), "");
    }

    #[test]
    fn names_and_lists_of_kinds() {
        let kinds = |text: &str| {
            let words: Vec<String> = text.split(' ').map(str::to_owned).collect();
            wanted(&words)
                .unwrap()
                .into_iter()
                .map(|(kind, names)| format!("{}:{}", kind.kind, names.join(",")))
                .collect::<Vec<_>>()
        };
        assert_eq!(kinds("po,svc"), ["Pod:", "Service:"]);
        assert_eq!(kinds("pod a b"), ["Pod:a,b"]);
        assert_eq!(kinds("deploy/a"), ["Deployment:a"]);
        assert_eq!(kinds("endpoints a"), ["Endpoints:a"]);
        assert!(kinds("all").contains(&"ReplicaSet:".to_owned()));
    }
}
