//! kubectl's page about a Service.

use serde_json::Value;

use super::{joined, line, list, pairs, text};

/// How wide its titles are.
const WIDTH: usize = 26;
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `slices` are those of the namespace.
pub(super) fn page(service: &Value, slices: &[Value]) -> Vec<String> {
    let own: Vec<&Value> = slices
        .iter()
        .filter(|slice| slice["metadata"]["labels"][SERVICE_NAME] == service["metadata"]["name"])
        .collect();
    let mut lines = vec![
        line(WIDTH, "Name", &text(service, "/metadata/name")),
        line(WIDTH, "Namespace", &text(service, "/metadata/namespace")),
    ];
    lines.extend(pairs(WIDTH, "Labels", &service["metadata"]["labels"]));
    lines.extend(pairs(
        WIDTH,
        "Annotations",
        &service["metadata"]["annotations"],
    ));
    let kind = service["spec"]["type"].as_str().unwrap_or("ClusterIP");
    lines.push(line(
        WIDTH,
        "Selector",
        &joined(&service["spec"]["selector"]),
    ));
    lines.push(line(WIDTH, "Type", kind));
    lines.push(line(WIDTH, "IP", &text(service, "/spec/clusterIP")));
    let external = text(service, "/spec/externalName");
    if !external.is_empty() {
        lines.push(line(WIDTH, "External Name", &external));
    }
    for port in list(&service["spec"]["ports"]) {
        let protocol = port["protocol"].as_str().unwrap_or("TCP");
        let name = port["name"].as_str().filter(|name| !name.is_empty());
        let target = match &port["targetPort"] {
            Value::Null => port["port"].to_string(),
            Value::String(name) => name.clone(),
            number => number.to_string(),
        };
        let shown = format!("{}  {}/{protocol}", name.unwrap_or("<unset>"), port["port"]);
        lines.push(line(WIDTH, "Port", &shown));
        lines.push(line(WIDTH, "TargetPort", &format!("{target}/{protocol}")));
        lines.push(line(
            WIDTH,
            "Endpoints",
            &endpoints(&own, name.unwrap_or_default()),
        ));
    }
    lines
}

/// The ready endpoints of the port with that name.
fn endpoints(slices: &[&Value], port_name: &str) -> String {
    let of_slice = |slice: &&Value| {
        let ports = list(&slice["ports"]).into_iter();
        let mut ports = ports.filter(|port| port["name"].as_str().unwrap_or_default() == port_name);
        let number = ports.next().map(|port| port["port"].to_string());
        let endpoints = list(&slice["endpoints"]).into_iter();
        let ready = endpoints.filter(|endpoint| endpoint["conditions"]["ready"] != false);
        let addresses = ready.filter_map(|endpoint| endpoint["addresses"][0].as_str());
        addresses
            .filter_map(|address| Some(format!("{address}:{}", number.as_ref()?)))
            .collect::<Vec<_>>()
    };
    slices
        .iter()
        .flat_map(of_slice)
        .collect::<Vec<_>>()
        .join(",")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_service_tells_its_ports_and_who_is_ready_behind_them() {
        let service = json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": "10.96.0.7", "selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]},
        });
        let slice = |service: &str, address: &str, ready: bool| {
            json!({
                "metadata": {"labels": {SERVICE_NAME: service}}, "ports": [{"name": "http", "port": 8080}],
                "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
            })
        };
        let slices = [
            slice("web", "10.244.0.5", true),
            slice("web", "10.244.0.6", false),
            slice("other", "10.244.0.7", true),
        ];
        let page = page(&service, &slices).join("\n") + "\n";
        for expected in [
            "Type:                     ClusterIP\n",
            "Port:                     http  80/TCP\nTargetPort:               8080/TCP\nEndpoints:                10.244.0.5:8080\n",
        ] {
            assert!(page.contains(expected), "{expected:?} is not in\n{page}");
        }
    }
}
