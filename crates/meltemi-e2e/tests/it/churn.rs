//! Every protocol at once - HTTP/1.1, HTTP/2, gRPC calls and streams, WebSocket - while the configuration changes 20 times
//! a second, and while the server's pods are told to end: not one request fails.

use std::time::{Duration, Instant};

use meltemi_e2e::{Lab, Load, eventually, sample};

const CLIENT: (&str, &str) = ("deploy/curl", "curl");
/// Requests per second of each protocol: 2,000 in all.
const RATE: u64 = 400;
const PROTOCOLS: [(&str, &str); 5] = [
    ("http1", "http://echo:8080/"),
    ("h2", "http://echo:8080/"),
    ("grpc", "http://echo:7070/"),
    ("grpc-stream", "http://echo:7070/"),
    ("websocket", "http://echo:8080/ws"),
];

fn mesh(name: &str) -> Lab {
    let lab = Lab::up(name, &[]);
    lab.apply_file(&sample("echo/echo.yaml"));
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.wait_ready();
    lab
}

fn mixed(lab: &Lab, seconds: u64) -> Vec<(&'static str, Load)> {
    let (rate, duration) = (RATE.to_string(), format!("{seconds}s"));
    PROTOCOLS
        .map(|(protocol, url)| {
            // Streams and WebSockets last less than a second, so that each is over before a drain is.
            let flags = [
                "--protocol",
                protocol,
                "--rps",
                &rate,
                "--duration",
                &duration,
                "--connections",
                "8",
                "--messages-per-stream",
                "40",
                url,
            ];
            (protocol, lab.load(CLIENT.0, CLIENT.1, &flags))
        })
        .into()
}

fn assert_none_failed(loads: Vec<(&'static str, Load)>, seconds: u64) {
    let summaries: Vec<_> = loads
        .into_iter()
        .map(|(protocol, load)| (protocol, load.finish()))
        .collect();
    for (protocol, summary) in summaries {
        println!("{protocol}");
        summary.assert_none_failed(RATE * seconds - 100);
    }
}

#[test]
fn twenty_changes_per_second_lose_nothing() {
    const SECONDS: u64 = 60;
    let lab = mesh("churn");
    let status = lab.meltemi(&["lab", "status", "-o", "json"]).json();
    let folder = status["config_dir"]
        .as_str()
        .expect("status names the configuration folder")
        .to_owned();
    let loads = mixed(&lab, SECONDS);
    let start = Instant::now();
    let rounds = (SECONDS - 2) * 20;
    for round in 0..rounds {
        let (name, text) = change(round);
        let temporary = format!("{folder}/.{name}.tmp");
        std::fs::write(&temporary, text).expect("the configuration folder is writable");
        std::fs::rename(&temporary, format!("{folder}/{name}.yaml"))
            .expect("a rename inside one folder");
        let next = start + Duration::from_millis(50) * u32::try_from(round + 1).unwrap_or(u32::MAX);
        while let Some(left) = next.checked_duration_since(Instant::now()) {
            std::thread::park_timeout(left);
        }
    }
    assert_none_failed(loads, SECONDS);
    eventually("the last change is in the proxy", || {
        let dump = lab.admin(CLIENT.0, "config_dump").to_string();
        dump.contains(&last_timeout(rounds)).then_some(())
    });
}

/// One of the four kinds of change in turn: a route, a cluster, the inbound listener, another service.
fn change(round: u64) -> (&'static str, String) {
    let turn = round / 4;
    match round % 4 {
        0 => (
            "route",
            format!(
                "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: echo, namespace: default}}\nspec:\n  \
                 hosts: [echo]\n  http:\n  - timeout: {}ms\n    route: [{{destination: {{host: echo}}}}]\n",
                timeout(turn)
            ),
        ),
        1 => (
            "cluster",
            format!(
                "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: echo, namespace: default}}\nspec:\n  \
                 host: echo\n  trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {}}}}}}}\n",
                1000 + turn
            ),
        ),
        2 => (
            "listener",
            format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: default}}\nspec: \
                 {{mtls: {{mode: {}}}}}\n",
                if turn.is_multiple_of(2) {
                    "PERMISSIVE"
                } else {
                    "STRICT"
                }
            ),
        ),
        _ => (
            "service",
            format!(
                "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: other, namespace: default}}\nspec:\n  \
                 hosts: [other-{turn}.example.com]\n  ports: [{{number: 80, name: http, protocol: HTTP}}]\n  resolution: STATIC\n  \
                 endpoints: [{{address: 192.0.2.1}}]\n"
            ),
        ),
    }
}

/// Long enough to fail nobody, and another in each turn.
fn timeout(turn: u64) -> u64 {
    10_000 + turn
}

/// As the proxy's dump writes the timeout of the last turn.
fn last_timeout(rounds: u64) -> String {
    let milliseconds = timeout((rounds - 1) / 4);
    format!("{}.{:03}s", milliseconds / 1000, milliseconds % 1000)
}

#[test]
fn pods_that_are_told_to_end_lose_nothing() {
    const SECONDS: u64 = 40;
    let lab = mesh("sigterm");
    let loads = mixed(&lab, SECONDS);
    for _ in 0..2 {
        let before = names(&lab);
        lab.meltemi(&["lab", "rollout", "restart", "deployment/echo"])
            .ok();
        eventually("the replaced pod has ended", || {
            let now = names(&lab);
            (now.len() == 1 && now != before).then_some(())
        });
    }
    assert_none_failed(loads, SECONDS);
}

fn names(lab: &Lab) -> Vec<String> {
    let path = "jsonpath={.items[*].metadata.name}";
    let names = lab.meltemi(&["lab", "get", "pods", "-l", "app=echo", "-o", path]);
    names.ok().split_whitespace().map(str::to_owned).collect()
}
