use meltemi_proto::type_url;
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
