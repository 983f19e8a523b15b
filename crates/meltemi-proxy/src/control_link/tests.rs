//! A proxy's configuration under a control plane that goes away and comes back, over memory pipes on a paused clock.

use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meltemi_process::Readiness;
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::json::json_to_any;
use meltemi_proto::type_url;
use meltemi_proxy_core::runtime::Terminal;
use meltemi_xds::client::{Transport, TransportError};
use meltemi_xds::{AdsServer, Connection, Connector, Event, Peer, Resource, Snapshot, StatusSink};
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::DuplexStream;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Server;

use super::Link;
use crate::config::Configurator;
use crate::config::dump::Retention;
use crate::tests::configuration::{cluster, nowhere};
use crate::tests::mesh::{Authority, Sidecar};
use crate::worker::Shared;

const PIPE_BYTES: usize = 64 << 10;

/// A control plane that says what it is told to.
struct Plane {
    publisher: watch::Sender<Option<Arc<Snapshot>>>,
    nacks: Arc<Mutex<Vec<String>>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
    believe: Arc<Notify>,
    shared: Arc<Shared>,
    _sidecar: Sidecar,
}

struct Scripted {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    nacks: Arc<Mutex<Vec<String>>>,
}

struct Nacks(Arc<Mutex<Vec<String>>>);

impl StatusSink for Nacks {
    fn record(&self, event: Event) {
        if let Event::Nacked { detail, .. } = event {
            self.0.lock().push(detail);
        }
    }
}

impl Connector for Scripted {
    async fn connect(&self, _: Node, _: Peer) -> Result<Connection, Status> {
        Ok(Connection {
            snapshots: self.snapshots.clone(),
            status: Box::new(Nacks(self.nacks.clone())),
        })
    }
}

impl Plane {
    /// A proxy with its link to a control plane that says nothing yet.
    fn start() -> Self {
        let (publisher, snapshots) = watch::channel(None);
        let (nacks, connections) = (Arc::default(), Arc::default());
        let connect = {
            let (nacks, connections) = (Arc::clone(&nacks), Arc::clone(&connections));
            move || {
                let scripted = Scripted {
                    snapshots: snapshots.clone(),
                    nacks: Arc::clone(&nacks),
                };
                let (ours, near) = tokio::io::duplex(PIPE_BYTES);
                let (far, theirs) = tokio::io::duplex(PIPE_BYTES);
                tokio::spawn(serve(scripted, theirs));
                let wires: &Mutex<Vec<JoinHandle<()>>> = &connections;
                wires.lock().push(tokio::spawn(wire(near, far)));
                transport(ours)
            }
        };
        let sidecar = Sidecar::start(&Authority::new(), "client");
        let shared = sidecar.shared.clone();
        let (subscriptions, updates, worker) = meltemi_xds::client::new(Node::default(), connect);
        let believe = Arc::new(Notify::new());
        let mut link = Link::new(
            Configurator::new(shared.clone(), Arc::new(Retention::default())),
            subscriptions,
            Readiness::new().gate("configuration"),
            believe.clone(),
        );
        link.subscribe();
        tokio::spawn(worker);
        tokio::spawn(async move { link.run(updates).await });
        Self {
            publisher,
            nacks,
            connections,
            believe,
            shared,
            _sidecar: sidecar,
        }
    }

    fn publish(&self, clusters: &[&str], listeners: &[(&str, &str)]) {
        let cluster = |name: &&str| resource(type_url::CLUSTER, &cluster(name, &[nowhere()]));
        let listener =
            |(name, to): &(&str, &str)| resource(type_url::LISTENER, &listener(name, to));
        let snapshot = Snapshot::new("test")
            .with_resources(type_url::CLUSTER, clusters.iter().map(cluster))
            .with_resources(type_url::LISTENER, listeners.iter().map(listener));
        self.publisher.send_replace(Some(Arc::new(snapshot)));
    }

    /// Ends every connection as a crash does.
    fn crash(&self) {
        for connection in self.connections.lock().drain(..) {
            connection.abort();
        }
    }

    /// Comes back with another store.
    fn come_back(&self, clusters: &[&str], listeners: &[(&str, &str)]) {
        self.crash();
        self.publish(clusters, listeners);
    }

    /// What is in force: clusters, and listeners with where they lead.
    fn in_force(&self) -> (Vec<String>, Vec<String>) {
        let store = &self.shared.store;
        let clusters = store.clusters.load();
        let mut clusters: Vec<String> = clusters.keys().map(ToString::to_string).collect();
        let listeners = store.listeners.load();
        let mut listeners: Vec<String> = listeners
            .iter()
            .map(|listener| {
                let leads_to: Vec<String> = listener
                    .chains()
                    .flat_map(|chain| match &chain.terminal {
                        Terminal::Tcp(tcp) => tcp.target.clusters(),
                        _ => Vec::new(),
                    })
                    .map(ToString::to_string)
                    .collect();
                format!("{} {}", listener.name, leads_to.join(","))
            })
            .collect();
        clusters.sort();
        listeners.sort();
        (clusters, listeners)
    }

    /// Waits for this to be in force, and then to stay so for `time`.
    async fn holds(&self, clusters: &[&str], listeners: &[&str], time: Duration) {
        let mut changes = self.shared.store.watch();
        let expected = || (clusters.to_vec(), listeners.to_vec());
        let is_so = || {
            let (clusters, listeners) = self.in_force();
            expected().0 == clusters && expected().1 == listeners
        };
        let reached = async {
            while !is_so() {
                changes.changed().await.unwrap();
            }
        };
        let reached = tokio::time::timeout(Duration::from_secs(300), reached).await;
        assert!(
            reached.is_ok(),
            "{:?}, not {:?}",
            self.in_force(),
            expected()
        );
        let until = tokio::time::Instant::now() + time;
        while tokio::time::timeout_at(until, changes.changed())
            .await
            .is_ok()
        {
            assert!(is_so(), "{:?}, not {:?}", self.in_force(), expected());
        }
    }
}

/// What lies between the two ends; aborting it cuts both off.
async fn wire(mut near: DuplexStream, mut far: DuplexStream) {
    // Either end may go first, and how it went is no matter here.
    let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

async fn serve(scripted: Scripted, stream: DuplexStream) {
    let incoming = tokio_stream::StreamExt::chain(
        tokio_stream::once(Ok::<_, std::io::Error>(stream)),
        tokio_stream::pending(),
    );
    let service = AdsServer::new(scripted);
    let server = Server::builder().add_service(service);
    server.serve_with_incoming(incoming).await.unwrap();
}

async fn transport(stream: DuplexStream) -> Result<Transport, TransportError> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_: http::Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("the pipe is used up")) }
    });
    let endpoint = tonic::transport::Endpoint::from_static("http://control-plane");
    Ok(Transport::new(
        endpoint.connect_with_connector(connector).await?,
    ))
}

fn resource(type_url: &str, json: &Value) -> Arc<Resource> {
    let name = json["name"].as_str().unwrap();
    Arc::new(Resource::new(name, json_to_any(type_url, json).unwrap()))
}

fn listener(name: &str, to: &str) -> Value {
    json!({"name": name, "bindToPort": false, "trafficDirection": "OUTBOUND",
        "address": {"socketAddress": {"address": "10.0.0.1", "portValue": 80}},
        "filterChains": [{"filters": [{"name": "tcp", "typedConfig": {
            "@type": type_url::TCP_PROXY, "statPrefix": "x", "cluster": to}}]}]})
}

const STANDING: [&str; 3] = [
    "BlackHoleCluster",
    "InboundPassthroughCluster",
    "PassthroughCluster",
];
const CLUSTERS: [&str; 5] = [
    "BlackHoleCluster",
    "InboundPassthroughCluster",
    "PassthroughCluster",
    "a",
    "b",
];
const LISTENERS: [(&str, &str); 3] = [
    ("10.0.0.1_80", "a"),
    ("virtualInbound", "strict"),
    ("virtualOutbound", "PassthroughCluster"),
];
const IN_FORCE: [&str; 3] = [
    "10.0.0.1_80 a",
    "virtualInbound strict",
    "virtualOutbound PassthroughCluster",
];
/// What a control plane without its store says of the listeners that stand: no policy, no service.
const EMPTIED: [(&str, &str); 2] = [
    ("virtualInbound", "permissive"),
    ("virtualOutbound", "PassthroughCluster"),
];

/// Two clusters and a listener of the mesh beside as many that stand: a proxy of a small mesh.
async fn started() -> Plane {
    let plane = Plane::start();
    plane.publish(&CLUSTERS, &LISTENERS);
    plane.holds(&CLUSTERS, &IN_FORCE, Duration::ZERO).await;
    plane
}

/// F03, and what an emptied store would do to STRICT.
#[tokio::test(start_paused = true)]
async fn a_control_plane_without_its_store_changes_nothing_for_a_minute() {
    let plane = started().await;
    plane.come_back(&STANDING, &EMPTIED);
    let kept = Duration::from_secs(59);
    plane.holds(&CLUSTERS, &IN_FORCE, kept).await;
    let nacks = plane.nacks.lock().join("\n");
    for expected in [
        "10.0.0.1_80: not removed yet: 1 of 1 at once",
        "virtualInbound: not changed yet",
    ] {
        assert!(nacks.contains(expected), "{nacks}");
    }
    let emptied = [
        "virtualInbound permissive",
        "virtualOutbound PassthroughCluster",
    ];
    plane.holds(&STANDING, &emptied, Duration::ZERO).await;
}

/// Where no listener of the mesh is held, the listeners' update alone tells nothing: removals of clusters follow it.
#[tokio::test(start_paused = true)]
async fn strict_waits_for_the_removals_that_follow() {
    let plane = Plane::start();
    let standing = &LISTENERS[1..];
    plane.publish(&CLUSTERS, standing);
    plane.holds(&CLUSTERS, &IN_FORCE[1..], Duration::ZERO).await;
    plane.come_back(&STANDING, &EMPTIED);
    let kept = Duration::from_secs(59);
    plane.holds(&CLUSTERS, &IN_FORCE[1..], kept).await;
    plane.believe.notify_one();
    let emptied = [
        "virtualInbound permissive",
        "virtualOutbound PassthroughCluster",
    ];
    plane.holds(&STANDING, &emptied, Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_found_again_is_followed_at_once() {
    let plane = started().await;
    plane.come_back(&STANDING, &EMPTIED);
    plane
        .holds(&CLUSTERS, &IN_FORCE, Duration::from_secs(10))
        .await;
    let mut found = CLUSTERS;
    found[4] = "c";
    let came_back = tokio::time::Instant::now();
    plane.come_back(&found, &LISTENERS);
    plane.holds(&found, &IN_FORCE, Duration::ZERO).await;
    // A reconnection, and nothing to wait for.
    assert!(came_back.elapsed() < Duration::from_secs(35));
    plane
        .holds(&found, &IN_FORCE, Duration::from_secs(120))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_change_made_while_the_control_plane_was_away_is_taken_shortly() {
    let plane = started().await;
    let mut changed = LISTENERS;
    changed[1].1 = "other";
    let crashed = tokio::time::Instant::now();
    plane.come_back(&CLUSTERS, &changed);
    let mut in_force = IN_FORCE;
    in_force[1] = "virtualInbound other";
    plane.holds(&CLUSTERS, &in_force, Duration::ZERO).await;
    // A reconnection, and two seconds to hear the control plane out.
    assert!(crashed.elapsed() < Duration::from_secs(10));
    assert_eq!(plane.nacks.lock().len(), 0);
}
