//! `describe`: kubectl's page about an object, which ends with what happened to it.

mod pod;
mod service;
mod workload;

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::kinds::{EVENT, Kind};
use super::selector::Selector;
use super::table::{Table, age};
use super::{Namespace, get};
use crate::client::LabClient;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab describe pod ratings-v1-6f8b9c-x2k4p\n  meltemi lab describe pod/ratings-v1   # the beginning of a name\n  \
                        meltemi lab describe pods -l app=ratings -n shop\n  meltemi lab describe svc reviews\n  \
                        meltemi lab describe deployment reviews-v1"
)]
pub(super) struct Options {
    /// KIND NAME..., KIND/NAME, or KIND for all; the beginning of a name will do.
    #[arg(required = true)]
    words: Vec<String>,
    /// Only objects with these labels: K=V,K2!=V2,K3 in (A,B).
    #[arg(short = 'l', long, default_value = "", hide_default_value = true)]
    selector: Selector,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn describe(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    let namespace = &options.namespace.namespace;
    let wanted = get::wanted(&options.words)?;
    let events = client.objects(EVENT, None).await?;
    let mut pages = Vec::new();
    for (kind, names) in wanted {
        let mut objects = client
            .objects(kind.kind, kind.namespaced.then_some(namespace.as_str()))
            .await?;
        objects.retain(|object| options.selector.matches(object));
        for object in named(kind, &names, objects, namespace)? {
            let mut lines = match kind.kind {
                "Pod" => pod::page(&object),
                "Service" => {
                    let slices = client.objects("EndpointSlice", Some(namespace)).await?;
                    service::page(&object, &slices)
                }
                "Deployment" | "ReplicaSet" | "StatefulSet" | "Job" => workload::page(&object),
                _ => any(&object)?,
            };
            lines.push(events_table(&events_of(&object, &events), Timestamp::now()));
            pages.push(lines.join("\n"));
        }
    }
    if pages.is_empty() {
        anstream::eprintln!("No resources found in {namespace} namespace.");
    }
    let mut out = anstream::stdout().lock();
    write!(out, "{}", pages.join("\n\n"))?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The objects with one of the names, else those whose names begin so; all without a name.
fn named(
    kind: &Kind,
    names: &[String],
    objects: Vec<Value>,
    namespace: &str,
) -> anyhow::Result<Vec<Value>> {
    if names.is_empty() {
        return Ok(objects);
    }
    let mut found = Vec::new();
    for name in names {
        let with = |is: &dyn Fn(&str) -> bool| {
            let objects = objects.iter();
            let named = objects.filter(|object| is(&text(object, "/metadata/name")));
            named.cloned().collect::<Vec<_>>()
        };
        let mut these = with(&|other| other == name);
        if these.is_empty() {
            these = with(&|other| other.starts_with(name.as_str()));
        }
        anyhow::ensure!(
            !these.is_empty(),
            "{} \"{name}\" not found in namespace \"{namespace}\"",
            kind.resource
        );
        found.append(&mut these);
    }
    Ok(found)
}

fn events_of<'a>(object: &Value, events: &'a [Value]) -> Vec<&'a Value> {
    let about = |event: &&Value| event["involvedObject"]["uid"] == object["metadata"]["uid"];
    events.iter().filter(about).collect()
}

/// What is known of a kind without a page of its own: its metadata, and the rest as it is written.
fn any(object: &Value) -> anyhow::Result<Vec<String>> {
    const WIDTH: usize = 14;
    let mut lines = vec![
        line(WIDTH, "Name", &text(object, "/metadata/name")),
        line(WIDTH, "Namespace", &text(object, "/metadata/namespace")),
    ];
    lines.extend(pairs(WIDTH, "Labels", &object["metadata"]["labels"]));
    lines.extend(pairs(
        WIDTH,
        "Annotations",
        &object["metadata"]["annotations"],
    ));
    lines.push(line(WIDTH, "API Version", &text(object, "/apiVersion")));
    lines.push(line(WIDTH, "Kind", &text(object, "/kind")));
    for (title, field) in [("Spec", "spec"), ("Data", "data")] {
        if object[field].is_null() {
            continue;
        }
        // The values of a Secret are not shown, as by kubectl.
        if object["kind"] == "Secret" {
            let names = object[field].as_object().into_iter().flatten();
            lines.push(format!("{title}:"));
            lines.extend(names.map(|(name, _)| format!("  {name}")));
            continue;
        }
        lines.push(format!("{title}:"));
        let written = serde_saphyr::to_string(&object[field])?;
        lines.extend(written.lines().map(|line| format!("  {line}")));
    }
    Ok(lines)
}

fn line(width: usize, title: &str, value: &str) -> String {
    let value = if value.is_empty() { "<none>" } else { value };
    format!("{:<width$}{value}", format!("{title}:"))
}

/// `K=V` each on a line of its own, the first beside the title.
fn pairs(width: usize, title: &str, map: &Value) -> Vec<String> {
    let pairs = each_pair(map);
    let Some((first, rest)) = pairs.split_first() else {
        return vec![line(width, title, "")];
    };
    let mut lines = vec![line(width, title, first)];
    lines.extend(rest.iter().map(|pair| format!("{:width$}{pair}", "")));
    lines
}

/// `K=V,K=V`
fn joined(map: &Value) -> String {
    each_pair(map).join(",")
}

fn each_pair(map: &Value) -> Vec<String> {
    let pairs = map.as_object().into_iter().flatten();
    pairs
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect()
}

fn events_table(events: &[&Value], now: Timestamp) -> String {
    if events.is_empty() {
        return line(18, "Events", "") + "\n";
    }
    let since = |time: String| {
        let time = time.parse::<Timestamp>();
        time.map_or_else(
            |_unreadable| "<unknown>".to_owned(),
            |time| age(now.as_second() - time.as_second()),
        )
    };
    let mut table = Table::with_gap(&["  Type", "Reason", "Age", "From", "Message"], 2);
    table.row(
        ["  ----", "------", "----", "----", "-------"]
            .map(str::to_owned)
            .to_vec(),
    );
    for event in events {
        let of = |path| text(event, path);
        let mut happened = since(of("/lastTimestamp"));
        if let Some(count @ 2..) = event["count"].as_u64() {
            happened += &format!(" (x{count} over {})", since(of("/firstTimestamp")));
        }
        let kind = format!("  {}", of("/type"));
        let from = of("/source/component");
        table.row(vec![kind, of("/reason"), happened, from, of("/message")]);
    }
    let mut text = Vec::new();
    // Writing to memory does not fail.
    table.print(&mut text).ok();
    format!("Events:\n{}", String::from_utf8_lossy(&text))
}

fn text(object: &Value, path: &str) -> String {
    let value = object.pointer(path).and_then(Value::as_str);
    value.unwrap_or_default().to_owned()
}

fn list(value: &Value) -> Vec<&Value> {
    value.as_array().into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn events_have_kubectls_columns() {
        let event = json!({
            "type": "Warning", "reason": "BackOff", "message": "Back-off restarting failed container c", "count": 2,
            "firstTimestamp": "2026-01-01T00:00:10Z", "lastTimestamp": "2026-01-01T00:00:50Z",
            "source": {"component": "kubelet"},
        });
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        assert_eq!(
            events_table(&[&event], now),
            "Events:\n  Type     Reason   Age                From     Message\n  \
             ----     ------   ----               ----     -------\n  \
             Warning  BackOff  10s (x2 over 50s)  kubelet  Back-off restarting failed container c\n"
        );
        assert_eq!(events_table(&[], now), "Events:           <none>\n");
    }

    #[test]
    fn a_name_or_its_beginning() {
        let objects: Vec<Value> = ["web", "web-1", "db"]
            .map(|name| json!({"metadata": {"name": name}}))
            .to_vec();
        let kind = super::super::kinds::find("pod").unwrap();
        let names = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| (*name).to_owned()).collect();
            let found = named(kind, &asked, objects.clone(), "default");
            found.map(|found| {
                found
                    .iter()
                    .map(|one| text(one, "/metadata/name"))
                    .collect::<Vec<_>>()
            })
        };
        assert_eq!(names(&["web"]).unwrap(), ["web"]);
        assert_eq!(names(&["we"]).unwrap(), ["web", "web-1"]);
        assert_eq!(names(&[]).unwrap().len(), 3);
        let missing = names(&["db", "x"]).unwrap_err().to_string();
        assert!(missing.contains("pod \"x\" not found"), "{missing}");
    }

    #[test]
    fn a_kind_without_a_page_shows_what_is_written_and_no_secrets() {
        let rule = json!({"apiVersion": "v1", "kind": "DestinationRule", "metadata": {"name": "r"}, "spec": {"host": "reviews"}});
        let page = any(&rule).unwrap().join("\n");
        assert!(page.ends_with("Spec:\n  host: reviews"), "{page}");
        let secret =
            json!({"kind": "Secret", "metadata": {"name": "s"}, "data": {"key": "c2VjcmV0"}});
        let page = any(&secret).unwrap().join("\n");
        assert!(page.ends_with("Data:\n  key"), "{page}");
    }
}
