//! Where requests go by generated priorities and shares: a stock Envoy and our own balancer say the same.

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use meltemi_core::Locality;
use meltemi_proxy_core::balance::{LoadBalancer, Pick};
use meltemi_proxy_core::compile;
use serde_json::json;

use super::super::support::{World, to_json};
use crate::{Flavour, Generated, ProxyView, generate};

const REQUESTS: u32 = 2000;
/// Of all requests; four standard deviations of a share of one half.
const TOLERANCE: f64 = 0.045;
const CLUSTER: &str = "outbound|80||api.example.com";
const CLIENT: &str = "
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: default}
spec: {selector: {matchLabels: {app: client}}, template: {metadata: {labels: {app: client}}, spec: {containers: [{name: a, image: a}]}}}
---
";
/// The last byte of the address, and the place.
const ENDPOINTS: [(u8, &str); 6] = [
    (11, "r1/z1/a"),
    (12, "r1/z1/a"),
    (13, "r1/z2"),
    (14, "r2/z1"),
    (15, "r2/z1"),
    (16, "r3"),
];

/// What ends with the test.
struct Envoy {
    process: Child,
    _config: tempfile::NamedTempFile,
}

impl Drop for Envoy {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

/// Answers every request of a connection with its own address, until the test ends.
fn serve(ip: IpAddr, port: u16) -> u16 {
    let listener = TcpListener::bind((ip, port)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || answer(stream, ip));
        }
    });
    port
}

fn answer(mut stream: TcpStream, ip: IpAddr) {
    let body = ip.to_string();
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    let mut seen = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut buffer) {
        seen.extend_from_slice(&buffer[..count]);
        if seen.ends_with(b"\r\n\r\n") {
            seen.clear();
            if stream.write_all(response.as_bytes()).is_err() {
                return;
            }
        }
    }
}

fn world(port: u16, policy: &str) -> World {
    let endpoints = ENDPOINTS.map(|(last, place)| {
        format!("{{address: 127.0.1.{last}, locality: {place}, ports: {{http: {port}}}}}")
    });
    World::new(&format!(
        "{CLIENT}apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: api, namespace: default}}\n\
         spec: {{hosts: [api.example.com], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], endpoints: [{}]}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: api, namespace: default}}\n\
         spec: {{host: api.example.com, trafficPolicy: {{loadBalancer: {{simple: RANDOM{policy}}}, outlierDetection: {{}}}}}}\n",
        endpoints.join(", ")
    ))
}

fn resources(world: &World) -> Generated {
    let view = ProxyView {
        locality: Locality::from("r1/z1/a"),
        ..world.view("client", Flavour::Envoy)
    };
    generate(&view, &world.mesh.snapshot())
}

/// The share of each endpoint by our own balancer, with some of them down.
fn ours(generated: &Generated, down: &[u8]) -> BTreeMap<String, f64> {
    let cluster = &generated.clusters[CLUSTER].body.value;
    let cluster = compile::cluster(prost_message(cluster)).unwrap();
    let assignment = &generated.endpoints[CLUSTER].body.value;
    let assignment = compile::cluster_load_assignment(prost_message(assignment)).unwrap();
    let is_down = |endpoint: &meltemi_proxy_core::runtime::Endpoint| {
        let ip = endpoint.socket_addr().unwrap().ip();
        down.iter()
            .any(|last| ip == IpAddr::from([127, 0, 1, *last]))
    };
    let balancer = LoadBalancer::new(&cluster, &assignment, &is_down);
    let mut state = 1_u64;
    let mut random = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        state ^ state >> 29
    };
    let mut counts = BTreeMap::new();
    for turn in 0..REQUESTS {
        let picked = balancer.pick(&mut Pick {
            random: &mut random,
            turn: turn.into(),
            hash: None,
            active: &|_| 0,
            avoid: &|_| false,
            attempts: 0,
        });
        let ip = picked.unwrap().socket_addr().unwrap().ip().to_string();
        *counts.entry(ip).or_insert(0.0) += 1.0 / f64::from(REQUESTS);
    }
    counts
}

fn prost_message<M: prost::Message + Default>(bytes: &[u8]) -> M {
    M::decode(bytes).unwrap()
}

/// The same by a stock Envoy that is told the same, its endpoints marked as down.
fn envoys(binary: &std::ffi::OsStr, generated: &Generated, down: &[u8]) -> BTreeMap<String, f64> {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let mut assignment = to_json(&generated.endpoints[CLUSTER]);
    assignment.as_object_mut().unwrap().remove("@type");
    for endpoint in assignment["endpoints"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .flat_map(|locality| locality["lbEndpoints"].as_array_mut().unwrap())
    {
        let ip = &endpoint["endpoint"]["address"]["socketAddress"]["address"];
        if down
            .iter()
            .any(|last| *ip == json!(format!("127.0.1.{last}")))
        {
            endpoint["healthStatus"] = json!("UNHEALTHY");
        }
    }
    let mut cluster = to_json(&generated.clusters[CLUSTER]);
    let fields = cluster.as_object_mut().unwrap();
    // Given at once instead of asked for, and in plain text.
    for name in [
        "@type",
        "edsClusterConfig",
        "transportSocketMatches",
        "outlierDetection",
    ] {
        fields.remove(name);
    }
    fields.insert("type".to_owned(), json!("STATIC"));
    fields.insert("loadAssignment".to_owned(), assignment);
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "statPrefix": "test",
        "routeConfig": {"name": "local", "virtualHosts": [{"name": "all", "domains": ["*"], "routes": [{"match": {"prefix": "/"}, "route": {"cluster": CLUSTER}}]}]},
        "httpFilters": [{"name": "envoy.filters.http.router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}],
    });
    let listener = json!({"name": "l",
        "address": {"socketAddress": {"address": "127.0.0.1", "portValue": address.port()}},
        "filterChains": [{"filters": [{"name": "hcm", "typedConfig": manager}]}]});
    let config = json!({"staticResources": {"clusters": [cluster], "listeners": [listener]}});
    let mut file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
    write!(file, "{config}").unwrap();
    let process = Command::new(binary)
        .args([
            "--use-dynamic-base-id",
            "--concurrency",
            "1",
            "-l",
            "error",
            "-c",
        ])
        .arg(file.path())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let mut envoy = Envoy {
        process,
        _config: file,
    };
    let stream = connect(&mut envoy, address);
    count(stream)
}

fn connect(envoy: &mut Envoy, address: SocketAddr) -> TcpStream {
    for _ in 0..3000 {
        if let Ok(stream) = TcpStream::connect(address) {
            return stream;
        }
        let has_ended = envoy.process.try_wait().unwrap().is_some();
        assert!(!has_ended, "Envoy has ended");
        std::thread::park_timeout(Duration::from_millis(20));
    }
    panic!("Envoy does not listen");
}

/// Who answers, one request after the other.
fn count(mut stream: TcpStream) -> BTreeMap<String, f64> {
    let mut counts = BTreeMap::new();
    let mut buffer = [0; 4096];
    for _ in 0..REQUESTS {
        stream
            .write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .unwrap();
        let mut seen = String::new();
        let body = loop {
            let count = stream.read(&mut buffer).unwrap();
            assert!(count > 0, "Envoy closed: {seen}");
            seen.push_str(std::str::from_utf8(&buffer[..count]).unwrap());
            match seen.split_once("\r\n\r\n") {
                // All addresses are as long as this.
                Some((_, body)) if body.len() == "127.0.1.11".len() => break body.to_owned(),
                _ => {}
            }
        };
        assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
        *counts.entry(body).or_insert(0.0) += 1.0 / f64::from(REQUESTS);
    }
    counts
}

/// A policy, what is down, and the shares that follow from Envoy's rules: a priority carries 1.4 times the part of it that works.
type Case<'a> = (&'a str, &'a [u8], &'a [(u8, f64)]);

#[test]
fn requests_go_where_a_stock_envoy_sends_them() {
    let Some(envoy) = std::env::var_os("ENVOY_BINARY") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "ENVOY_BINARY names no stock Envoy"
        );
        eprintln!("SKIPPED: ENVOY_BINARY names no stock Envoy");
        return;
    };
    let mut port = 0;
    for (last, _) in ENDPOINTS {
        port = serve(IpAddr::from([127, 0, 1, last]), port);
    }
    let shares =
        ", localityLbSetting: {distribute: [{from: 'r1/*', to: {'r1/z1/*': 20, r2: 70, r3: 10}}]}";
    let failover = ", localityLbSetting: {failover: [{from: r1, to: r3}]}";
    let cases: [Case<'_>; 7] = [
        ("", &[], &[(11, 0.5), (12, 0.5)]),
        ("", &[11], &[(12, 0.7), (13, 0.3)]),
        ("", &[11, 12], &[(13, 1.0)]),
        ("", &[11, 12, 13, 14], &[(15, 0.5), (16, 0.5)]),
        (failover, &[11, 12, 13], &[(16, 1.0)]),
        (
            shares,
            &[],
            &[(11, 0.1), (12, 0.1), (14, 0.35), (15, 0.35), (16, 0.1)],
        ),
        (
            shares,
            &[11, 12],
            &[(14, 0.4375), (15, 0.4375), (16, 0.125)],
        ),
    ];
    for (policy, down, expected) in cases {
        let generated = resources(&world(port, policy));
        let by = [ours(&generated, down), envoys(&envoy, &generated, down)];
        for (whose, shares) in ["ours", "Envoy's"].into_iter().zip(&by) {
            let of = |last: &u8| {
                shares
                    .get(&format!("127.0.1.{last}"))
                    .copied()
                    .unwrap_or(0.0)
            };
            let close = expected
                .iter()
                .all(|(last, share)| (of(last) - share).abs() < TOLERANCE);
            let sum: f64 = expected.iter().map(|(last, _)| of(last)).sum();
            assert!(
                close && sum > 0.999,
                "{whose}: {policy} {down:?}: {shares:?}"
            );
        }
    }
}
