use serde_json::{Value, json};

use super::*;

fn spec(container: Value) -> PodSpec {
    serde_json::from_value(json!({"containers": [container]})).unwrap()
}

#[test]
fn every_network_probe_goes_through_the_sidecar_and_back() {
    let mut pod = spec(json!({
        "name": "app",
        "ports": [{"name": "http", "containerPort": 8080}],
        "readinessProbe": {
            "httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTPS", "httpHeaders": [{"name": "a", "value": "b"}]},
            "timeoutSeconds": 3, "periodSeconds": 7
        },
        "livenessProbe": {"tcpSocket": {"port": "http"}},
        "startupProbe": {"grpc": {"port": 9000, "service": "s"}},
        "lifecycle": {"preStop": {"httpGet": {"path": "/bye", "port": 8080}}}
    }));
    let mut warnings = Vec::new();
    let probers = rewrite(&mut pod, 15020, &mut warnings);
    assert_eq!(warnings, []);
    let through = |path: &str| json!({"path": path, "port": 15020});
    assert_eq!(
        serde_json::to_value(&pod.containers[0]).unwrap(),
        json!({
            "name": "app",
            "ports": [{"name": "http", "containerPort": 8080}],
            "readinessProbe": {"httpGet": through("/app-health/app/readyz"), "timeoutSeconds": 3, "periodSeconds": 7},
            "livenessProbe": {"httpGet": through("/app-health/app/livez")},
            "startupProbe": {"httpGet": through("/app-health/app/startupz")},
            "lifecycle": {"preStop": {"httpGet": through("/app-lifecycle/app/prestopz")}}
        })
    );
    assert_eq!(
        serde_json::to_value(&probers).unwrap(),
        json!({
            "/app-health/app/livez": {"tcpSocket": {"port": 8080}},
            "/app-health/app/readyz": {
                "httpGet": {"path": "/ready", "port": 8080, "scheme": "HTTPS", "httpHeaders": [{"name": "a", "value": "b"}]},
                "timeoutSeconds": 3
            },
            "/app-health/app/startupz": {"grpc": {"port": 9000, "service": "s"}},
            "/app-lifecycle/app/prestopz": {"httpGet": {"path": "/bye", "port": 8080}}
        })
    );
    restore(&mut pod, &probers);
    let again = rewrite(&mut pod.clone(), 15020, &mut warnings);
    assert_eq!(again, probers);
    assert_eq!(
        pod.containers[0].liveness_probe.as_ref().unwrap().http_get,
        None
    );
}

#[test]
fn exec_probes_and_our_containers_stay() {
    for container in [
        json!({"name": "app", "livenessProbe": {"exec": {"command": ["true"]}}}),
        json!({"name": "istio-proxy", "readinessProbe": {"httpGet": {"path": "/healthz/ready", "port": 15021}}}),
    ] {
        let before = spec(container);
        let mut after = before.clone();
        assert!(rewrite(&mut after, 15020, &mut Vec::new()).is_empty());
        assert_eq!(after, before);
    }
}

#[test]
fn a_port_name_that_nobody_has_is_reported() {
    let before = spec(json!({"name": "app", "livenessProbe": {"httpGet": {"port": "web"}}}));
    let mut after = before.clone();
    let mut warnings = Vec::new();
    assert!(rewrite(&mut after, 15020, &mut warnings).is_empty());
    assert_eq!(after, before);
    assert_eq!(
        warnings[0].to_string(),
        "warning MEL0402: spec.containers[0].livenessProbe.httpGet.port: the container has no port named \"web\"; \
         the probe stays as it is (hint: name the port under ports, or use its number)"
    );
}
