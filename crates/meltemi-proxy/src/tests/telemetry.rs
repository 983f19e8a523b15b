//! What metrics say of destinations that nobody knows, and of traffic that came to nothing.

use http::{Request, StatusCode};
use http_body_util::Full;
use meltemi_proto::type_url;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpStream;

use super::configuration::{cluster, forward, nowhere, outbound_http, outbound_tcp};
use super::mesh::{App, Authority, Client, Sidecar};

fn named(name: &str, mut route: Value) -> Value {
    route["name"] = name.into();
    route
}

async fn ask(client: &mut Client, host: &str) -> StatusCode {
    let request = Request::get("/").header("host", host);
    let request = request.body(Full::default()).unwrap();
    client.send(request).await.unwrap().status()
}

async fn requests(sidecar: &Sidecar, parts: &[&str]) -> Vec<String> {
    let mut all = vec!["istio_requests_total{"];
    all.extend(parts);
    loop {
        let found = sidecar.metric(&all);
        if !found.is_empty() {
            return found;
        }
        tokio::task::yield_now().await;
    }
}

/// Istio's `ALLOW_ANY`.
#[tokio::test]
async fn what_is_let_through_is_called_passthrough_and_by_its_host() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    let passthrough = cluster("PassthroughCluster", &[app.address]);
    sidecar.apply(type_url::CLUSTER, &[passthrough]);
    let route = named("allow_any", forward("PassthroughCluster"));
    sidecar.apply(type_url::LISTENER, &[outbound_http(route)]);
    let mut client = Client::connect(sidecar.address("outbound").await).await;
    // One connection, two destinations.
    for host in ["a.example", "b.example:8080", "a.example"] {
        assert_eq!(ask(&mut client, host).await, StatusCode::OK);
    }
    let name = "destination_service_name=\"PassthroughCluster\"";
    let of = |host: &'static str| [name, host];
    let a = requests(&sidecar, &of("destination_service=\"a.example\"")).await;
    assert!(a.len() == 1 && a[0].ends_with(" 2"), "{a:?}");
    let b = requests(&sidecar, &of("destination_service=\"b.example:8080\"")).await;
    assert!(b.len() == 1 && b[0].ends_with(" 1"), "{b:?}");
}

/// Istio's `REGISTRY_ONLY`.
#[tokio::test]
async fn what_is_refused_is_called_a_black_hole() {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    let route =
        json!({"name": "block_all", "match": {"prefix": "/"}, "directResponse": {"status": 502}});
    sidecar.apply(type_url::LISTENER, &[outbound_http(route)]);
    let mut client = Client::connect(sidecar.address("outbound").await).await;
    assert_eq!(ask(&mut client, "a.example").await, StatusCode::BAD_GATEWAY);
    let found = requests(&sidecar, &["destination_service_name=\"BlackHoleCluster\""]).await;
    for part in [
        "destination_service=\"a.example\"",
        "response_code=\"502\"",
        "destination_service_namespace=\"unknown\"",
    ] {
        assert!(found[0].contains(part), "{found:?}");
    }
}

#[tokio::test]
async fn a_connection_without_an_upstream_is_counted_with_its_flag() {
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("c", &[nowhere()])]);
    client.apply(type_url::LISTENER, &[outbound_tcp("c")]);
    let mut stream = TcpStream::connect(client.address("outbound").await)
        .await
        .unwrap();
    assert!(stream.read_to_end(&mut Vec::new()).await.is_err());
    for name in ["opened", "closed"] {
        let name = format!("istio_tcp_connections_{name}_total{{");
        let found = loop {
            let found = client.metric(&[&name, "response_flags=\"UF"]);
            if !found.is_empty() {
                break found;
            }
            tokio::task::yield_now().await;
        };
        assert!(found.len() == 1 && found[0].ends_with(" 1"), "{found:?}");
    }
}

#[tokio::test]
async fn what_a_cluster_has_done_is_not_forgotten_with_its_endpoints() {
    let app = App::echo().await;
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[app.address])]);
    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let mut client = Client::connect(sidecar.address("outbound").await).await;
    assert_eq!(ask(&mut client, "a.example").await, StatusCode::OK);
    sidecar.apply(type_url::CLUSTER, &[cluster("c", &[nowhere()])]);
    let stats = sidecar.shared.store.upstream("c").unwrap().stats.clone();
    assert_eq!((stats.requests.get(), stats.connections.get()), (1, 1));
    assert_eq!(
        ask(&mut client, "a.example").await,
        StatusCode::SERVICE_UNAVAILABLE
    );
    assert_eq!((stats.requests.get(), stats.connect_failures.get()), (2, 1));
}
