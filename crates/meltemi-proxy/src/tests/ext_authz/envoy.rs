//! The same filter, the same requests, the same authorizers: a stock Envoy answers the same, asks the same, and logs the same.

use std::time::Duration;

use meltemi_proto::envoy::service::auth::v3::{AttributeContext, CheckRequest};

use super::super::stock::{self, Envoy};
use super::*;

/// What is shown of the request that is left.
const TOLD: [&str; 10] = [
    "x-set",
    "x-add",
    "x-absent",
    "x-exists",
    "x-remove",
    "x-user",
    "x-role",
    "x-route",
    ":path",
    "x-envoy-auth-failure-mode-allowed",
];
const LOG: &str = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\n";

/// Routes that answer by themselves, and tell in the answer what is left of the request.
fn manager(filter: &Value, log: &str) -> Value {
    let told = TOLD.map(|name| {
        let header = format!("told-{}", name.trim_start_matches(':'));
        json!({"header": {"key": header, "value": format!("%REQ({name})%")}, "keepEmptyValue": true})
    });
    let other =
        json!({"prefix": "/", "headers": [{"name": "x-route", "stringMatch": {"exact": "other"}}]});
    let route = |matches: Value, body: &str| json!({"match": matches, "directResponse": {"status": 200, "body": {"inlineString": body}}, "responseHeadersToAdd": told});
    json!({
        "@type": type_url::HTTP_CONNECTION_MANAGER,
        "statPrefix": "test",
        "routeConfig": {"name": "local", "virtualHosts": [{"name": "all", "domains": ["*"],
            "routes": [route(other, "other"), route(json!({"prefix": "/"}), "usual")]}]},
        "httpFilters": [
            {"name": FILTER, "typedConfig": filter},
            {"name": "envoy.filters.http.router", "typedConfig": {"@type": type_url::ROUTER}}],
        "accessLog": [{"name": "envoy.access_loggers.file", "typedConfig": {"@type": type_url::FILE_ACCESS_LOG, "path": log,
            "logFormat": {"textFormatSource": {"inlineString": LOG}}}}],
    })
}

fn configurations() -> Vec<Value> {
    let open = json!({"failureModeAllow": true, "failureModeAllowHeaderAdd": true, "validateMutations": true});
    let body = |partial: bool, raw: bool| {
        json!({"withRequestBody": {"maxRequestBytes": 4, "allowPartialMessage": partial, "packAsBytes": raw},
        "validateMutations": true, "statusOnError": {"code": "ServiceUnavailable"}, "clearRouteCache": true})
    };
    let nowhere =
        json!({"grpcService": {"envoyGrpc": {"clusterName": "nowhere"}, "timeout": "1s"}});
    vec![
        by_grpc(&body(false, false)),
        by_grpc(&body(true, true)),
        by_grpc(&open),
        by_grpc(&with(nowhere.clone(), &open)),
        by_grpc(&nowhere),
        by_http(&body(true, false)),
        by_http(&open),
    ]
}

fn requests() -> Vec<Request<Full<Bytes>>> {
    let lines = [
        ("x-set", "client"),
        ("x-add", "client"),
        ("x-absent", "client"),
        ("x-remove", "client"),
        ("x-user", "mallory"),
        ("x-role", "writer"),
        ("x-told", "1"),
        ("x-told", "2"),
        ("authorization", "t"),
    ];
    let mut all = Vec::new();
    for path in [
        "/",
        "/change",
        "/query?b=2&a=1&c=3",
        "/append",
        "/path",
        "/bad-response",
        "/bad-query",
        "/cookies",
        "/elsewhere",
        "/bad",
        "/401",
        "/302",
        "/204",
        "/denied",
        "/error",
        "/broken",
        "/500",
    ] {
        for body in [&b""[..], b"abc", b"abcdefgh"] {
            for with_headers in [false, true] {
                let mut request = match body {
                    b"" => get(path),
                    body => post(path, body),
                };
                for (name, value) in lines.iter().filter(|_| with_headers) {
                    request.headers_mut().append(*name, value.parse().unwrap());
                }
                all.push(request);
            }
        }
        let mut grpc = get(path);
        let kind = "application/grpc".parse().unwrap();
        grpc.headers_mut().insert("content-type", kind);
        all.push(grpc);
    }
    all
}

fn sorted(headers: &http::HeaderMap, but: &[&str]) -> Vec<String> {
    let headers = headers.iter();
    let headers = headers.filter(|(name, _)| !but.contains(&name.as_str()));
    let headers = headers.map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        // What is absent is a dash in our headers, as in logs.
        format!("{name}: {}", if value == "-" { "".into() } else { value })
    });
    let mut headers: Vec<String> = headers.collect();
    headers.sort();
    headers
}

/// What a client sees of an answer.
fn shown(response: &Response<Bytes>) -> String {
    let but = [
        "date",
        "server",
        "connection",
        "x-envoy-upstream-service-time",
    ];
    let mut lines = vec![response.status().as_u16().to_string()];
    lines.push(String::from_utf8_lossy(response.body()).into_owned());
    lines.extend(sorted(response.headers(), &but));
    lines.join("\n")
}

/// What an authorizer is asked, but for what differs from question to question.
fn question(asked: &CheckRequest) -> String {
    let mut attributes: AttributeContext = asked.attributes.clone().unwrap();
    let peers = [&mut attributes.source, &mut attributes.destination];
    for peer in peers.into_iter().flatten() {
        assert!(peer.address.take().is_some());
    }
    let request = attributes.request.as_mut().unwrap();
    assert!(request.time.take().is_some());
    let http = request.http.as_mut().unwrap();
    assert!(!http.id.is_empty());
    http.id.clear();
    // How much of a body was read by then is a matter of chance.
    http.size = 0;
    assert!(http.headers.remove("x-request-id").is_some());
    let mut headers: Vec<(String, String)> = http.headers.drain().collect();
    headers.sort();
    format!("{headers:?} {attributes:?}")
}

/// The whole lines that there are by now.
fn lines(log: &tempfile::NamedTempFile) -> Vec<String> {
    let text = std::fs::read_to_string(log.path()).unwrap();
    let lines = text.split_inclusive('\n');
    let whole = lines.filter(|line| line.ends_with('\n'));
    whole.map(str::to_owned).collect()
}

#[tokio::test]
async fn a_stock_envoy_does_the_same() {
    let Some(binary) = stock::binary() else {
        return;
    };
    let (grpc, asked) = grpc_authorizer().await;
    let http = http_authorizer().await;
    let clusters = [
        with_http2(cluster("authorizer", &[grpc])),
        cluster("http-authorizer", &[http.address]),
        with_http2(cluster("nowhere", &[nowhere()])),
    ];
    let log = tempfile::NamedTempFile::new().unwrap();
    let configurations = configurations();
    let managers: Vec<Value> = configurations
        .iter()
        .map(|filter| manager(filter, log.path().to_str().unwrap()))
        .collect();
    let envoy = Envoy::start(&binary, &managers, &clusters).await;
    let mut differing = Vec::new();
    let mut count = 0;
    for (configuration, theirs) in configurations.iter().zip(&envoy.addresses) {
        let sidecar = Sidecar::start(&Authority::new(), "client");
        sidecar.apply(type_url::CLUSTER, &clusters);
        let mut listener = outbound_http(forward("c"));
        listener["filterChains"][0]["filters"][0]["typedConfig"] =
            manager(configuration, "/dev/stdout");
        sidecar.apply(type_url::LISTENER, &[listener]);
        let ours = sidecar.address("outbound").await;
        for request in requests() {
            count += 1;
            let mut answers = Vec::new();
            for address in [ours, *theirs] {
                asked.lock().clear();
                http.seen.lock().clear();
                let before = lines(&log).len();
                let mut client = Client::connect(address).await;
                let answer = client.send(request.clone()).await.unwrap();
                let mut told = shown(&answer);
                for check in asked.lock().iter() {
                    told.push_str(&format!("\nasked {}", question(check)));
                }
                for (uri, headers) in http.seen.lock().iter() {
                    let headers = sorted(headers, &["x-request-id", "x-forwarded-for"]);
                    told.push_str(&format!("\nasked {uri} {headers:?}"));
                }
                let line = match address == ours {
                    true => sidecar.lines(1).await.remove(0),
                    false => loop {
                        if let Some(line) = lines(&log).get(before) {
                            break line.clone();
                        }
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    },
                };
                told.push_str(&format!("\nlogged {}", line.trim()));
                answers.push(told);
            }
            // What Envoy's direct responses are to gRPC has nothing to do with authorizers.
            let is_grpc = request.headers().contains_key("content-type");
            let is_passed = is_grpc && answers[1].ends_with("direct_response");
            if !is_passed && answers[0] != answers[1] {
                let (head, _) = request.into_parts();
                differing.push(format!(
                    "{configuration}\n{} {} {:?}\n--- ours\n{}\n--- Envoy's\n{}",
                    head.method, head.uri, head.headers, answers[0], answers[1]
                ));
            }
        }
    }
    assert!(count > 200, "{count} requests");
    assert!(
        differing.is_empty(),
        "{} of {count} differ:\n{}",
        differing.len(),
        differing.join("\n\n")
    );
}
