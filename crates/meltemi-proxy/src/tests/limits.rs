//! Circuit breakers of connections, and requests that wait for one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use meltemi_proto::type_url;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use super::configuration::{cluster, forward, outbound_http, with_http2};
use super::mesh::{App, Authority, Client, Sidecar, get};
use crate::upstream::Upstream;

/// An application that answers when it is let.
struct Gated {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    arrived: watch::Sender<usize>,
    answers: Arc<Semaphore>,
}

impl Gated {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let gated = Self {
            address: listener.local_addr().unwrap(),
            connections: Arc::default(),
            arrived: watch::Sender::new(0),
            answers: Arc::new(Semaphore::new(0)),
        };
        let (connections, answers) = (gated.connections.clone(), gated.answers.clone());
        let arrived = gated.arrived.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                connections.fetch_add(1, Ordering::SeqCst);
                let (arrived, answers) = (arrived.clone(), answers.clone());
                let service = hyper::service::service_fn(move |_: Request<Incoming>| {
                    let answers = answers.clone();
                    arrived.send_modify(|arrived| *arrived += 1);
                    async move {
                        answers.acquire().await.unwrap().forget();
                        Ok::<_, hyper::Error>(Response::new(Full::<Bytes>::default()))
                    }
                });
                tokio::spawn(async move {
                    let builder =
                        hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    let _ended = builder
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        gated
    }

    async fn arrived(&self, count: usize) {
        let mut arrived = self.arrived.subscribe();
        arrived.wait_for(|arrived| *arrived == count).await.unwrap();
    }
}

fn limited(mut cluster: Value, connections: u32, pending: u32) -> Value {
    cluster["circuitBreakers"] =
        json!({"thresholds": [{"maxConnections": connections, "maxPendingRequests": pending}]});
    cluster
}

async fn client(cluster: Value) -> (Sidecar, SocketAddr, Arc<Upstream>) {
    let sidecar = Sidecar::start(&Authority::new(), "client");
    sidecar.apply(type_url::CLUSTER, &[cluster]);
    sidecar.apply(type_url::LISTENER, &[outbound_http(forward("c"))]);
    let address = sidecar.address("outbound").await;
    let upstream = sidecar.shared.store.upstream("c").unwrap();
    (sidecar, address, upstream)
}

async fn until_pending(upstream: &Upstream, count: u32) {
    while upstream.stats.pending_requests.load(Ordering::Relaxed) != count {
        tokio::task::yield_now().await;
    }
}

/// A request of a connection of its own.
fn request(address: SocketAddr) -> tokio::task::JoinHandle<StatusCode> {
    tokio::spawn(async move { Client::connect(address).await.get("/").await.status() })
}

/// The idle connection of one endpoint is of no use to another's requests, nor does it stand against them.
#[tokio::test]
async fn one_request_after_the_other_never_overflows() {
    let apps = [App::echo().await, App::echo().await, App::echo().await];
    let addresses = apps.each_ref().map(|app| app.address);
    let (_sidecar, address, upstream) = client(limited(cluster("c", &addresses), 1, 1)).await;
    let mut client = Client::connect(address).await;
    for _ in 0..30 {
        assert_eq!(client.get("/").await.status(), StatusCode::OK);
    }
    assert_eq!(apps.each_ref().map(App::connections), [1, 1, 1]);
    assert_eq!(upstream.stats.overflows.get(), 0);
    assert_eq!(upstream.stats.connection_overflows.get(), 2);
}

/// DestinationRule `maxConnections` and `http1MaxPendingRequests`.
#[tokio::test]
async fn requests_wait_for_a_connection_up_to_their_number() {
    let app = Gated::start().await;
    let (sidecar, address, upstream) = client(limited(cluster("c", &[app.address]), 1, 1)).await;
    let first = request(address);
    app.arrived(1).await;
    let second = request(address);
    until_pending(&upstream, 1).await;
    let third = request(address).await.unwrap();
    assert_eq!(third, StatusCode::SERVICE_UNAVAILABLE);
    let line = &sidecar.lines(1).await[0];
    assert!(line.starts_with("GET / 503 UO "), "{line}");
    assert_eq!(upstream.stats.overflows.get(), 1);
    app.answers.add_permits(2);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(second.await.unwrap(), StatusCode::OK);
    assert_eq!(app.connections.load(Ordering::SeqCst), 1);
    assert_eq!(upstream.stats.pending_requests.load(Ordering::Relaxed), 0);
}

/// Also one that was given up on before its turn came.
#[tokio::test]
async fn who_no_longer_waits_holds_nobody_up() {
    let app = Gated::start().await;
    let (_sidecar, address, upstream) = client(limited(cluster("c", &[app.address]), 1, 9)).await;
    let first = request(address);
    app.arrived(1).await;
    let gone = request(address);
    until_pending(&upstream, 1).await;
    let third = request(address);
    until_pending(&upstream, 2).await;
    gone.abort();
    until_pending(&upstream, 1).await;
    app.answers.add_permits(2);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(third.await.unwrap(), StatusCode::OK);
}

/// A connection that ends makes room for the next.
#[tokio::test]
async fn an_upstream_that_closes_after_each_answer_is_connected_to_again() {
    let app = App::start(|_, _| {
        Response::builder()
            .header("connection", "close")
            .body(Full::default())
            .unwrap()
    })
    .await;
    let (_sidecar, address, upstream) = client(limited(cluster("c", &[app.address]), 1, 1)).await;
    let mut client = Client::connect(address).await;
    for _ in 0..5 {
        let response = client.send(get("/")).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
    }
    assert_eq!(app.connections(), 5);
    assert_eq!(upstream.stats.overflows.get(), 0);
}

#[tokio::test]
async fn http2_requests_wait_for_a_stream() {
    let app = Gated::start().await;
    let mut config = with_http2(limited(cluster("c", &[app.address]), 1, 1));
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    config["typedExtensionProtocolOptions"][options]["explicitHttpConfig"]["http2ProtocolOptions"] =
        json!({"maxConcurrentStreams": 1});
    let (_sidecar, address, upstream) = client(config).await;
    let first = request(address);
    app.arrived(1).await;
    let second = request(address);
    until_pending(&upstream, 1).await;
    assert_eq!(
        request(address).await.unwrap(),
        StatusCode::SERVICE_UNAVAILABLE
    );
    app.answers.add_permits(2);
    assert_eq!(first.await.unwrap(), StatusCode::OK);
    assert_eq!(second.await.unwrap(), StatusCode::OK);
    assert_eq!(app.connections.load(Ordering::SeqCst), 1);
}
