//! `describe pod`: kubectl's page about a pod, which ends with what happened to it.

use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use serde_json::Value;

use super::table::{Table, age};
use super::{Namespace, kinds};
use crate::client::LabClient;
use crate::wire::Event;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab describe pod ratings-v1-6f8b9c-x2k4p\n  meltemi lab describe pod/ratings-v1   # the beginning of a name\n  \
                        meltemi lab describe pods -n shop"
)]
pub(super) struct Options {
    /// pod NAME..., pod/NAME, or pods for all; the beginning of a name will do.
    #[arg(required = true)]
    words: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn describe(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    let namespace = &options.namespace.namespace;
    let names = pods_named(&options.words)?;
    let mut pods = client.objects("Pod", Some(namespace)).await?;
    let is_asked = |pod: &Value| names.is_empty() || names.iter().any(|name| begins(pod, name));
    pods.retain(is_asked);
    if let Some(name) = names
        .iter()
        .find(|name| !pods.iter().any(|pod| begins(pod, name)))
    {
        anyhow::bail!("pods \"{name}\" not found in namespace \"{namespace}\"");
    }
    let mut out = anstream::stdout().lock();
    for (index, pod) in pods.iter().enumerate() {
        let name = text(pod, "/metadata/name");
        // One that has gone meanwhile has no events.
        let events = client.events(namespace, &name).await.unwrap_or_default();
        if index > 0 {
            writeln!(out, "\n")?;
        }
        write!(out, "{}", page(pod, &events, Timestamp::now()))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The names of the pods that the words mean; none for all.
fn pods_named(words: &[String]) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let (kind, name) = match word.split_once('/') {
            Some((kind, name)) => (Some(kind), Some(name)),
            None if index == 0 => (Some(word.as_str()), None),
            None => (None, Some(word.as_str())),
        };
        if let Some(kind) = kind {
            let kind = kinds::find(kind)?;
            anyhow::ensure!(
                kind.kind == "Pod",
                "only pods are described; `meltemi lab get {} -o yaml` shows the rest",
                kind.resource
            );
        }
        names.extend(name.map(str::to_owned));
    }
    Ok(names)
}

fn begins(pod: &Value, name: &str) -> bool {
    text(pod, "/metadata/name").starts_with(name)
}

fn page(pod: &Value, events: &[Event], now: Timestamp) -> String {
    let owner = pod.pointer("/metadata/ownerReferences/0");
    let owner = owner.map(|owner| format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    let mut lines = vec![
        line("Name", &text(pod, "/metadata/name")),
        line("Namespace", &text(pod, "/metadata/namespace")),
        line("Service Account", &text(pod, "/spec/serviceAccountName")),
        line("Node", &text(pod, "/spec/nodeName")),
        line("Start Time", &text(pod, "/metadata/creationTimestamp")),
    ];
    lines.extend(pairs("Labels", &pod["metadata"]["labels"]));
    lines.extend(pairs("Annotations", &pod["metadata"]["annotations"]));
    lines.push(line("Status", &text(pod, "/status/phase")));
    lines.push(line("IP", &text(pod, "/status/podIP")));
    lines.extend(owner.map(|owner| line("Controlled By", &owner)));
    for (title, specs, statuses) in [
        ("Init Containers", "initContainers", "initContainerStatuses"),
        ("Containers", "containers", "containerStatuses"),
    ] {
        let specs = list(&pod["spec"][specs]);
        if specs.is_empty() {
            continue;
        }
        lines.push(format!("{title}:"));
        for spec in specs {
            let named = |status: &&&Value| status["name"] == spec["name"];
            let all = list(&pod["status"][statuses]);
            let status = all.iter().find(named).copied();
            lines.extend(container(spec, status.unwrap_or(&Value::Null)));
        }
    }
    lines.push("Conditions:".to_owned());
    lines.push(format!("  {:<18}{}", "Type", "Status"));
    for condition in list(&pod["status"]["conditions"]) {
        let kind = text(condition, "/type");
        lines.push(format!("  {kind:<18}{}", text(condition, "/status")));
    }
    let mut page = lines.join("\n") + "\n";
    page += &events_table(events, now);
    page
}

fn line(title: &str, value: &str) -> String {
    let value = if value.is_empty() { "<none>" } else { value };
    format!("{:<18}{value}", format!("{title}:"))
}

/// `K=V` each on a line of its own, the first beside the title.
fn pairs(title: &str, map: &Value) -> Vec<String> {
    let pairs = map.as_object().into_iter().flatten();
    let pairs: Vec<String> = pairs
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let Some((first, rest)) = pairs.split_first() else {
        return vec![line(title, "")];
    };
    let mut lines = vec![line(title, first)];
    lines.extend(rest.iter().map(|pair| format!("{:18}{pair}", "")));
    lines
}

fn container(spec: &Value, status: &Value) -> Vec<String> {
    let inner = |title: &str, value: &str| format!("    {}", line(title, value));
    let words = |field: &str| {
        let words = list(&spec[field]).into_iter().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![format!("  {}:", text(spec, "/name"))];
    lines.push(inner("Image", &text(spec, "/image")));
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        let words = words(field);
        if !words.is_empty() {
            lines.push(inner(title, &words));
        }
    }
    lines.extend(state("State", &status["state"]));
    lines.extend(state("Last State", &status["lastState"]));
    lines.push(inner(
        "Ready",
        if status["ready"] == true {
            "True"
        } else {
            "False"
        },
    ));
    let restarts = status["restartCount"].as_u64().unwrap_or(0);
    lines.push(inner("Restart Count", &restarts.to_string()));
    lines
}

/// One of waiting, running and terminated, with what is known of it.
fn state(title: &str, state: &Value) -> Vec<String> {
    let Some((name, of)) = state.as_object().and_then(|state| state.iter().next()) else {
        return Vec::new();
    };
    let mut word = name.clone();
    if let Some(first) = word.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    let mut lines = vec![format!("    {}", line(title, &word))];
    for (title, field) in [
        ("Reason", "reason"),
        ("Message", "message"),
        ("Exit Code", "exitCode"),
        ("Started", "startedAt"),
        ("Finished", "finishedAt"),
    ] {
        let value = match &of[field] {
            Value::Null => continue,
            Value::String(value) => value.clone(),
            other => other.to_string(),
        };
        if !value.is_empty() {
            lines.push(format!("      {}", line(title, &value)));
        }
    }
    lines
}

fn events_table(events: &[Event], now: Timestamp) -> String {
    if events.is_empty() {
        return line("Events", "") + "\n";
    }
    let since = |time: &str| {
        let time = time.parse::<Timestamp>();
        time.map_or_else(
            |_unreadable| "<unknown>".to_owned(),
            |time| age(now.as_second() - time.as_second()),
        )
    };
    let mut table = Table::new(&["  Type", "Reason", "Age", "Message"]);
    for event in events {
        let mut happened = since(&event.last);
        if event.count > 1 {
            happened += &format!(" (x{} over {})", event.count, since(&event.first));
        }
        let kind = if event.is_warning {
            "  Warning"
        } else {
            "  Normal"
        };
        let cells = [kind, &event.reason, &happened, &event.message];
        table.row(cells.map(str::to_owned).to_vec());
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
    fn a_page_has_state_and_events() {
        let pod = json!({
            "metadata": {"name": "crash", "namespace": "default", "labels": {"app": "a", "version": "v1"}, "creationTimestamp": "2026-01-01T00:00:00Z"},
            "spec": {"nodeName": "lab", "containers": [{"name": "c", "image": "busybox", "command": ["sh", "-c", "exit 3"]}]},
            "status": {
                "phase": "Running", "podIP": "10.244.0.5", "conditions": [{"type": "Ready", "status": "False"}],
                "containerStatuses": [{
                    "name": "c", "ready": false, "restartCount": 2,
                    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                    "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}
                }]
            }
        });
        let event = Event {
            is_warning: true,
            reason: "BackOff".to_owned(),
            message: "c: restarting after a pause".to_owned(),
            count: 2,
            first: "2026-01-01T00:00:10Z".to_owned(),
            last: "2026-01-01T00:00:50Z".to_owned(),
        };
        let page = page(&pod, &[event], "2026-01-01T00:01:00Z".parse().unwrap());
        for expected in [
            "Name:             crash\n",
            "Labels:           app=a\n                  version=v1\n",
            "Annotations:      <none>\n",
            "  c:\n    Image:            busybox\n    Command:          sh -c exit 3\n    State:            Waiting\n      Reason:           CrashLoopBackOff\n",
            "    Last State:       Terminated\n      Reason:           Error\n      Exit Code:        3\n",
            "    Restart Count:    2\n",
            "  Warning   BackOff   10s (x2 over 50s)   c: restarting after a pause\n",
        ] {
            assert!(page.contains(expected), "{expected:?} is not in\n{page}");
        }
    }

    #[test]
    fn pods_are_named_as_kubectl_has_it() {
        let named = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            pods_named(&words).ok()
        };
        assert_eq!(named("pods"), Some(vec![]));
        assert_eq!(named("po a b"), Some(vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!(named("pod/a"), Some(vec!["a".to_owned()]));
        assert_eq!(named("deploy a"), None);
    }
}
