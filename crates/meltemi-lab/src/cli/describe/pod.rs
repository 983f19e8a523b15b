//! kubectl's page about a pod.

use serde_json::Value;

use super::{line, list, pairs, text};

/// How wide its titles are.
const WIDTH: usize = 18;

pub(super) fn page(pod: &Value) -> Vec<String> {
    let owner = pod.pointer("/metadata/ownerReferences/0");
    let owner = owner.map(|owner| format!("{}/{}", text(owner, "/kind"), text(owner, "/name")));
    let mut lines = vec![
        line(WIDTH, "Name", &text(pod, "/metadata/name")),
        line(WIDTH, "Namespace", &text(pod, "/metadata/namespace")),
        line(
            WIDTH,
            "Service Account",
            &text(pod, "/spec/serviceAccountName"),
        ),
        line(WIDTH, "Node", &text(pod, "/spec/nodeName")),
        line(
            WIDTH,
            "Start Time",
            &text(pod, "/metadata/creationTimestamp"),
        ),
    ];
    lines.extend(pairs(WIDTH, "Labels", &pod["metadata"]["labels"]));
    lines.extend(pairs(WIDTH, "Annotations", &pod["metadata"]["annotations"]));
    lines.push(line(WIDTH, "Status", &text(pod, "/status/phase")));
    lines.push(line(WIDTH, "IP", &text(pod, "/status/podIP")));
    lines.extend(owner.map(|owner| line(WIDTH, "Controlled By", &owner)));
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
    lines
}

/// What a manifest says of a container.
pub(super) fn template(width: usize, spec: &Value) -> Vec<String> {
    let inner = |title: &str, value: &str| format!("    {}", line(width, title, value));
    let words = |field: &str| {
        let words = list(&spec[field]).into_iter().filter_map(Value::as_str);
        words.collect::<Vec<_>>().join(" ")
    };
    let mut lines = vec![format!("  {}:", text(spec, "/name"))];
    lines.push(inner("Image", &text(spec, "/image")));
    let ports: Vec<String> = list(&spec["ports"])
        .into_iter()
        .map(|port| {
            let protocol = port["protocol"].as_str().unwrap_or("TCP");
            format!("{}/{protocol}", port["containerPort"])
        })
        .collect();
    if !ports.is_empty() {
        lines.push(inner("Port", &ports.join(", ")));
    }
    for (title, field) in [("Command", "command"), ("Args", "args")] {
        let words = words(field);
        if !words.is_empty() {
            lines.push(inner(title, &words));
        }
    }
    lines
}

fn container(spec: &Value, status: &Value) -> Vec<String> {
    let inner = |title: &str, value: &str| format!("    {}", line(WIDTH, title, value));
    let mut lines = template(WIDTH, spec);
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
    let mut lines = vec![format!("    {}", line(WIDTH, title, &word))];
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
            lines.push(format!("      {}", line(WIDTH, title, &value)));
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_page_has_the_state_of_containers() {
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
        let page = page(&pod).join("\n") + "\n";
        for expected in [
            "Name:             crash\n",
            "Status:           Running\n",
            "Labels:           app=a\n                  version=v1\n",
            "Annotations:      <none>\n",
            "  c:\n    Image:            busybox\n    Command:          sh -c exit 3\n    State:            Waiting\n      Reason:           CrashLoopBackOff\n",
            "    Last State:       Terminated\n      Reason:           Error\n      Exit Code:        3\n",
            "    Restart Count:    2\n",
        ] {
            assert!(page.contains(expected), "{expected:?} is not in\n{page}");
        }
    }
}
