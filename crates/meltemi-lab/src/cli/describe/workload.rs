//! kubectl's page about what makes pods: Deployments, ReplicaSets, StatefulSets and Jobs.

use serde_json::Value;

use super::{joined, line, list, pairs, pod, text};

/// How wide its titles are.
const WIDTH: usize = 24;

pub(super) fn page(workload: &Value) -> Vec<String> {
    let mut lines = vec![
        line(WIDTH, "Name", &text(workload, "/metadata/name")),
        line(WIDTH, "Namespace", &text(workload, "/metadata/namespace")),
        line(
            WIDTH,
            "CreationTimestamp",
            &text(workload, "/metadata/creationTimestamp"),
        ),
    ];
    lines.extend(pairs(WIDTH, "Labels", &workload["metadata"]["labels"]));
    lines.extend(pairs(
        WIDTH,
        "Annotations",
        &workload["metadata"]["annotations"],
    ));
    let selector = &workload["spec"]["selector"]["matchLabels"];
    lines.push(line(WIDTH, "Selector", &joined(selector)));
    lines.push(line(WIDTH, "Replicas", &replicas(workload)));
    let strategy = text(workload, "/spec/strategy/type");
    if !strategy.is_empty() {
        lines.push(line(WIDTH, "StrategyType", &strategy));
    }
    lines.extend(template(&workload["spec"]["template"]));
    let conditions = list(&workload["status"]["conditions"]);
    if !conditions.is_empty() {
        lines.push("Conditions:".to_owned());
        lines.push(format!("  {:<14} {:<7} Message", "Type", "Status"));
    }
    for condition in conditions {
        let of = |path| text(condition, path);
        let row = format!(
            "  {:<14} {:<7} {}",
            of("/type"),
            of("/status"),
            of("/message")
        );
        lines.push(row.trim_end().to_owned());
    }
    lines
}

fn replicas(workload: &Value) -> String {
    let of = |path: &str| workload.pointer(path).and_then(Value::as_u64).unwrap_or(0);
    let desired = workload["spec"]["replicas"].as_u64().unwrap_or(1);
    if workload["kind"] == "Job" {
        return format!(
            "{} active | {} succeeded | {} failed",
            of("/status/active"),
            of("/status/succeeded"),
            of("/status/failed")
        );
    }
    format!(
        "{desired} desired | {} updated | {} total | {} available | {} unavailable",
        of("/status/updatedReplicas"),
        of("/status/replicas"),
        of("/status/availableReplicas"),
        of("/status/unavailableReplicas")
    )
}

fn template(template: &Value) -> Vec<String> {
    // As far in as everything of the template is.
    const INNER: usize = 18;
    let mut lines = vec!["Pod Template:".to_owned()];
    let labels = pairs(INNER, "Labels", &template["metadata"]["labels"]);
    lines.extend(labels.iter().map(|line| format!("  {line}")));
    let account = text(template, "/spec/serviceAccountName");
    if !account.is_empty() {
        lines.push(format!("  {}", line(INNER, "Service Account", &account)));
    }
    for (title, field) in [
        ("Init Containers", "initContainers"),
        ("Containers", "containers"),
    ] {
        let containers = list(&template["spec"][field]);
        if !containers.is_empty() {
            lines.push(format!("  {title}:"));
        }
        let inside = containers
            .iter()
            .flat_map(|container| pod::template(INNER, container));
        lines.extend(inside.map(|line| format!("  {line}")));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_deployment_tells_its_replicas_and_template() {
        let deployment = json!({
            "kind": "Deployment", "metadata": {"name": "web", "namespace": "default"},
            "spec": {
                "replicas": 2, "selector": {"matchLabels": {"app": "web"}},
                "template": {
                    "metadata": {"labels": {"app": "web"}},
                    "spec": {"containers": [{"name": "c", "image": "i", "ports": [{"containerPort": 80}]}]},
                },
            },
            "status": {
                "replicas": 2, "updatedReplicas": 2, "availableReplicas": 1, "unavailableReplicas": 1,
                "conditions": [{"type": "Available", "status": "False"}],
            },
        });
        let page = page(&deployment).join("\n");
        for expected in [
            "Selector:               app=web\n",
            "Replicas:               2 desired | 2 updated | 2 total | 1 available | 1 unavailable\n",
            "Pod Template:\n  Labels:           app=web\n  Containers:\n    c:\n      Image:            i\n      Port:             80/TCP\n",
            "  Available      False",
        ] {
            assert!(page.contains(expected), "{expected:?} is not in\n{page}");
        }
    }
}
