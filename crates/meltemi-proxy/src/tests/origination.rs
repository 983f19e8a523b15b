//! TLS to servers outside the mesh: which name they are asked for, and what they must prove.

use std::net::SocketAddr;
use std::sync::Arc;

use http::StatusCode;
use meltemi_pki::{CertificateSlot, ServingTls};
use meltemi_proto::type_url;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::configuration::{cluster, outbound_http, outbound_tcp};
use super::mesh::{Authority, Client, Sidecar};

/// A server that greets, in HTTP, and remembers the names it was asked for.
struct Outside {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Option<String>>>>,
}

impl Outside {
    async fn start(authority: &Authority, name: &str) -> Self {
        let slot = Arc::new(CertificateSlot::new(&authority.serve(name)));
        let tls = TlsAcceptor::from(ServingTls::new(slot).build().unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let noted = asked.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok(mut stream) = tls.accept(stream).await else {
                    continue;
                };
                let name = stream.get_ref().1.server_name().map(str::to_owned);
                noted.lock().push(name);
                let greeting = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                // A client that asks for nothing is greeted all the same.
                let _read = stream.read(&mut [0; 4096]).await;
                stream.write_all(greeting).await.unwrap();
                stream.shutdown().await.unwrap();
            }
        });
        Self { address, asked }
    }
}

/// A cluster with TLS, verified as `validation` says.
fn tls_cluster(address: SocketAddr, sni: &str, validation: Value) -> Value {
    let mut cluster = cluster("c", &[address]);
    cluster["transportSocket"] = json!({"name": "envoy.transport_sockets.tls", "typedConfig": {
        "@type": type_url::UPSTREAM_TLS, "sni": sni,
        "commonTlsContext": {"validationContext": validation}}});
    cluster
}

fn trusting(authority: &Authority) -> Value {
    json!({"trustedCa": {"inlineString": authority.pem()}})
}

/// Whether a TCP connection through the cluster is answered.
async fn is_answered(cluster: Value) -> bool {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster]);
    sidecar.apply(type_url::LISTENER, &[outbound_tcp("c")]);
    let address = sidecar.address("outbound").await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(b"hello").await.unwrap();
    let mut greeting = String::new();
    let read = stream.read_to_string(&mut greeting).await;
    read.is_ok() && greeting.starts_with("HTTP/1.1 200")
}

/// Envoy without SNI and without name matchers verifies the chain alone.
#[tokio::test]
async fn without_a_name_the_chain_alone_is_verified() {
    let authority = Authority::new();
    let outside = Outside::start(&authority, "db.example").await;
    let trusted = tls_cluster(outside.address, "", trusting(&authority));
    assert!(is_answered(trusted).await);
    assert_eq!(*outside.asked.lock(), [None]);
    let stranger = tls_cluster(outside.address, "", trusting(&Authority::new()));
    assert!(!is_answered(stranger).await);
}

#[tokio::test]
async fn an_endpoint_with_a_host_name_is_asked_for_it() {
    let authority = Authority::new();
    let outside = Outside::start(&authority, "db.example").await;
    let called = |name: &str| {
        let mut cluster = tls_cluster(outside.address, "", trusting(&authority));
        let endpoint = &mut cluster["loadAssignment"]["endpoints"][0]["lbEndpoints"][0];
        endpoint["endpoint"]["hostname"] = name.into();
        cluster
    };
    assert!(is_answered(called("db.example")).await);
    assert_eq!(*outside.asked.lock(), [Some("db.example".to_owned())]);
    assert!(!is_answered(called("other.example")).await);
}

/// DestinationRule `insecureSkipVerify`: a validation context that is empty.
#[tokio::test]
async fn an_empty_validation_context_verifies_nothing() {
    let outside = Outside::start(&Authority::new(), "db.example").await;
    let unverified = tls_cluster(outside.address, "other.example", json!({}));
    assert!(is_answered(unverified).await);
    assert_eq!(*outside.asked.lock(), [Some("other.example".to_owned())]);
}

#[tokio::test]
async fn the_server_name_is_the_authority_that_is_sent() {
    let authority = Authority::new();
    let outside = Outside::start(&authority, "real.example").await;
    let mut cluster = tls_cluster(outside.address, "", trusting(&authority));
    cluster["typedExtensionProtocolOptions"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": type_url::HTTP_PROTOCOL_OPTIONS,
            "explicitHttpConfig": {"httpProtocolOptions": {}},
            "upstreamHttpProtocolOptions": {"autoSni": true, "autoSanValidation": true}}});
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster]);
    let route = json!({"name": "default", "match": {"prefix": "/"},
        "route": {"cluster": "c", "hostRewriteLiteral": "real.example:443"}});
    sidecar.apply(type_url::LISTENER, &[outbound_http(route)]);
    let mut client = Client::connect(sidecar.address("outbound").await).await;
    assert_eq!(client.get("/").await.status(), StatusCode::OK);
    assert_eq!(*outside.asked.lock(), [Some("real.example".to_owned())]);
}
