use serde_json::{Value, json};

use crate::fake::{Fake, Output};

fn sleep() -> Value {
    json!({
        "inbound": [],
        "downstream": [{"port": 80, "source": "10.0.0.2", "mode": "plaintext", "connections": 1}],
        "upstream": [
            {"cluster": "outbound|80||web.default.svc.cluster.local", "endpoint": "10.0.0.1:8080", "mode": "mtls", "connections": 1},
            {"cluster": "outbound|80||old.default.svc.cluster.local", "endpoint": "10.0.0.3:80", "mode": "plaintext", "connections": 2},
            {"cluster": "outbound|443||api.example.com", "endpoint": "192.0.2.1:443", "mode": "tls", "connections": 0},
            {"cluster": "inbound|8080||", "endpoint": "10.0.0.2:8080", "mode": "plaintext", "connections": 1},
        ],
    })
}

fn web() -> Value {
    json!({
        "inbound": [{"port": 8080, "mode": "PERMISSIVE"}],
        "downstream": [
            {"port": 8080, "source": "10.0.0.2", "mode": "mtls", "connections": 1, "last_handshake": "2026-06-01T11:59:00Z",
             "peer_identity": "spiffe://cluster.local/ns/default/sa/sleep", "local_identity": "spiffe://cluster.local/ns/default/sa/web"},
            {"port": 8080, "source": "10.0.0.3", "mode": "plaintext", "connections": 0},
            {"port": 15090, "source": "10.0.0.3", "mode": "plaintext", "connections": 1},
        ],
        "upstream": [],
    })
}

fn status(line: &[&str]) -> Output {
    let fake = Fake::default()
        .pod("web", "10.0.0.1", &["app", "istio-proxy"])
        .pod("sleep", "10.0.0.2", &["app", "istio-proxy"])
        .pod("old", "10.0.0.3", &["app"])
        .pod("envoy", "10.0.0.4", &["app", "istio-proxy"])
        .answer("sleep GET /tls", &sleep())
        .answer("web GET /tls", &web());
    fake.run(&[&["mtls", "status"], line].concat())
}

#[test]
fn edges_are_shown_with_what_strict_would_do_to_them() {
    let output = status(&["-A"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    let rows: Vec<Vec<&str>> = output
        .stdout
        .lines()
        .map(|line| {
            line.split("     ")
                .map(str::trim)
                .filter(|cell| !cell.is_empty())
                .collect()
        })
        .collect();
    let (caller, called) = (
        "spiffe://cluster.local/ns/default/sa/sleep",
        "spiffe://cluster.local/ns/default/sa/web",
    );
    let untouched = "not touched: no sidecar there";
    assert_eq!(
        rows[1..5],
        [
            vec![
                "old.default",
                "web.default:8080",
                "plaintext",
                "-",
                "-",
                "0",
                "BREAKS"
            ],
            vec![
                "sleep.default",
                "192.0.2.1:443",
                "TLS",
                "-",
                "-",
                "0",
                untouched
            ],
            vec![
                "sleep.default",
                "old.default:80",
                "plaintext",
                "-",
                "-",
                "2",
                untouched
            ],
            vec![
                "sleep.default",
                "web.default:8080",
                "mTLS",
                caller,
                called,
                "1",
                "works"
            ],
        ]
    );
    let summary = "4 edges seen: 1 with mutual TLS, 3 without. STRICT would break 1 of them.\n";
    assert!(output.stdout.ends_with(summary), "{}", output.stdout);
    assert!(
        output.stderr.starts_with("Not asked: envoy.default: "),
        "{}",
        output.stderr
    );
}

#[test]
fn a_pod_and_a_namespace_narrow_it() {
    let output = status(&["web", "-o", "json"]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    let edges = answer["edges"].as_array().unwrap();
    assert_eq!(edges.len(), 2);
    assert_eq!(edges[0]["underStrict"], "breaks");
    assert_eq!(
        edges[1]["callerIdentity"],
        "spiffe://cluster.local/ns/default/sa/sleep"
    );
    assert_eq!(edges[1]["lastHandshake"], "2026-06-01T11:59:00Z");
    let none = status(&["-n", "shop"]);
    assert_eq!((none.status, none.stdout.as_str()), (0, ""));
    assert!(
        none.stderr.contains("No connection was seen"),
        "{}",
        none.stderr
    );
}
