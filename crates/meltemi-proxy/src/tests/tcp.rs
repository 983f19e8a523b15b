use meltemi_proto::type_url;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::configuration::{cluster, inbound_tcp, mesh_cluster, nowhere, outbound_tcp};
use super::mesh::{Authority, Sidecar};

#[tokio::test]
async fn bytes_travel_in_mutual_tls_and_peers_know_each_other() {
    let authority = Authority::new();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Sidecar::start(&authority, "server");
    server.apply(
        type_url::CLUSTER,
        &[cluster("inbound|7||", &[app.local_addr().unwrap()])],
    );
    server.apply(type_url::LISTENER, &[inbound_tcp("inbound|7||")]);
    let client = Sidecar::start(&authority, "client");
    let upstream = mesh_cluster(
        "outbound|7||echo",
        &[server.address("inbound").await],
        "server",
        &["istio-peer-exchange", "istio"],
    );
    client.apply(type_url::CLUSTER, &[upstream]);
    client.apply(type_url::LISTENER, &[outbound_tcp("outbound|7||echo")]);

    let mut stream = TcpStream::connect(client.address("outbound").await)
        .await
        .unwrap();
    // The server speaks first.
    let (mut far, _) = app.accept().await.unwrap();
    far.write_all(b"220 ready\n").await.unwrap();
    let mut greeting = [0; 10];
    stream.read_exact(&mut greeting).await.unwrap();
    assert_eq!(&greeting, b"220 ready\n");
    stream.write_all(b"quit").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut said = String::new();
    far.read_to_string(&mut said).await.unwrap();
    assert_eq!(said, "quit");
    drop(far);
    assert_eq!(stream.read(&mut [0; 1]).await.unwrap(), 0);

    let closed = |sidecar: &Sidecar, workload: &str| {
        let found = sidecar.metric(&[
            "istio_tcp_connections_closed_total{",
            workload,
            "request_protocol=\"tcp\"",
        ]);
        found.first().is_some_and(|line| line.ends_with(" 1"))
    };
    while !(closed(&client, "destination_workload=\"server\"")
        && closed(&server, "source_workload=\"client\""))
    {
        tokio::task::yield_now().await;
    }
    let sent = client.metric(&["istio_tcp_sent_bytes_total{"]);
    assert!(sent[0].ends_with(" 10"), "{sent:?}");
    let received = client.metric(&["istio_tcp_received_bytes_total{"]);
    assert!(received[0].ends_with(" 4"), "{received:?}");
}

#[tokio::test]
async fn without_an_upstream_the_client_is_reset() {
    let client = Sidecar::start(&Authority::new(), "client");
    client.apply(type_url::CLUSTER, &[cluster("c", &[nowhere()])]);
    client.apply(type_url::LISTENER, &[outbound_tcp("c")]);
    let mut stream = TcpStream::connect(client.address("outbound").await)
        .await
        .unwrap();
    let error = stream.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_full_pool_refuses_a_connection_and_blames_no_host() {
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = Sidecar::start(&Authority::new(), "client");
    let mut limited = cluster("c", &[app.local_addr().unwrap()]);
    limited["circuitBreakers"] = json!({"thresholds": [{"maxConnections": 1}]});
    limited["outlierDetection"] = json!({
        "consecutive5xx": 1, "consecutiveGatewayFailure": 1,
        "enforcingConsecutiveGatewayFailure": 100, "maxEjectionPercent": 100});
    client.apply(type_url::CLUSTER, &[limited]);
    client.apply(type_url::LISTENER, &[outbound_tcp("c")]);
    let address = client.address("outbound").await;
    let mut first = TcpStream::connect(address).await.unwrap();
    let (mut far, _) = app.accept().await.unwrap();

    let mut second = TcpStream::connect(address).await.unwrap();
    let error = second.read_to_end(&mut Vec::new()).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let hosts = client.shared.store.upstream("c").unwrap().hosts();
    assert!(!hosts[0].state.outlier.is_ejected());

    first.write_all(b"on").await.unwrap();
    let mut heard = [0; 2];
    far.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"on");
}

#[tokio::test]
async fn bulk_travels_both_ways_at_once_and_unchanged() {
    let authority = Authority::new();
    let app = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Sidecar::start(&authority, "server");
    let target = cluster("inbound|7||", &[app.local_addr().unwrap()]);
    server.apply(type_url::CLUSTER, &[target]);
    server.apply(type_url::LISTENER, &[inbound_tcp("inbound|7||")]);
    let client = Sidecar::start(&authority, "client");
    let address = server.address("inbound").await;
    let upstream = mesh_cluster("c", &[address], "server", &["istio"]);
    client.apply(type_url::CLUSTER, &[upstream]);
    client.apply(type_url::LISTENER, &[outbound_tcp("c")]);

    let near = TcpStream::connect(client.address("outbound").await)
        .await
        .unwrap();
    let (far, _) = app.accept().await.unwrap();
    let pattern = |salt: u8| -> Vec<u8> {
        let counting = (0..=u8::MAX).cycle().map(|byte| byte ^ salt);
        counting.take(3_000_001).collect()
    };
    let exchange = async |stream: TcpStream, sent: Vec<u8>| {
        let (mut read, mut write) = stream.into_split();
        let mut received = Vec::new();
        let send = async {
            write.write_all(&sent).await?;
            write.shutdown().await
        };
        let (sending, receiving) = tokio::join!(send, read.read_to_end(&mut received));
        sending.unwrap();
        receiving.unwrap();
        received
    };
    let (at_near, at_far) = tokio::join!(exchange(near, pattern(1)), exchange(far, pattern(2)));
    assert!(at_near == pattern(2) && at_far == pattern(1));
}
