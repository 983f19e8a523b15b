//! A control plane, a client and an application in one test.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::google::protobuf::Any;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tonic::Status;
use tonic::transport::{Endpoint, Server};

use crate::client::{self, Transport};
use crate::{
    AdsServer, Connection, Connector, Event, Peer, Rejection, Resource, Snapshot, StatusSink,
    Subscriptions, Update, Updates,
};

/// On the paused clock; longer than any backoff.
const PATIENCE: Duration = Duration::from_secs(120);

const PIPE_BYTES: usize = 64 << 10;

/// Type, name and generation of a resource.
pub(super) type Spec<'a> = (&'a str, &'a str, u32);
pub(super) type Contents = BTreeMap<(String, String), u32>;

pub(super) fn snapshot(specs: &[Spec<'_>]) -> Snapshot {
    let types: BTreeSet<&str> = specs.iter().map(|(type_url, ..)| *type_url).collect();
    types
        .into_iter()
        .fold(Snapshot::new("test"), |made, type_url| {
            let of_type = specs.iter().filter(|(t, ..)| *t == type_url);
            made.with_resources(type_url, of_type.map(|spec| Arc::new(resource(*spec))))
        })
}

fn resource((type_url, name, generation): Spec<'_>) -> Resource {
    let body = Any {
        type_url: type_url.to_owned(),
        value: generation.to_be_bytes().to_vec(),
    };
    Resource::new(name, body)
}

pub(super) fn contents(specs: &[Spec<'_>]) -> Contents {
    let entry = |(t, n, g): &Spec<'_>| (((*t).to_owned(), (*n).to_owned()), *g);
    specs.iter().map(entry).collect()
}

#[derive(Clone, Debug, Default)]
pub(super) struct Events(Arc<Mutex<Vec<Event>>>);

impl Events {
    pub(super) fn take(&self) -> Vec<Event> {
        std::mem::take(&mut self.0.lock())
    }
}

impl StatusSink for Events {
    fn record(&self, event: Event) {
        self.0.lock().push(event);
    }
}

struct TestConnector {
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    events: Events,
    refusal: Arc<Mutex<Option<String>>>,
}

impl Connector for TestConnector {
    async fn connect(&self, node: Node, _peer: Peer) -> Result<Connection, Status> {
        assert_eq!(
            node.id,
            "sidecar~10.0.0.1~a.default~default.svc.cluster.local"
        );
        if let Some(reason) = self.refusal.lock().clone() {
            return Err(Status::permission_denied(reason));
        }
        Ok(Connection {
            snapshots: self.snapshots.clone(),
            status: Box::new(self.events.clone()),
        })
    }
}

/// Applies updates, refuses some, and remembers what it was given.
#[derive(Debug, Default)]
pub(super) struct App {
    pub(super) applied: Contents,
    absent: BTreeSet<(String, String)>,
    /// Names and generations to reject.
    pub(super) reject: BTreeSet<(String, u32)>,
    /// `+added` and `-removed` in order.
    pub(super) log: Vec<String>,
}

impl App {
    pub(super) fn absent(&self, type_url: &str) -> Vec<&str> {
        let of_type = self.absent.iter().filter(|(t, _)| t == type_url);
        of_type.map(|(_, name)| name.as_str()).collect()
    }

    /// Forgets what it no longer subscribes to, as an application does.
    pub(super) fn forget(&mut self, type_url: &str, name: &str) {
        self.applied.remove(&(type_url.to_owned(), name.to_owned()));
    }

    fn apply(&mut self, update: Update) {
        let mut rejected = Vec::new();
        for resource in &update.added {
            let generation = u32::from_be_bytes(resource.body.value[..].try_into().unwrap());
            if self
                .reject
                .contains(&(resource.name.to_string(), generation))
            {
                rejected.push(Rejection {
                    name: resource.name.to_string(),
                    reason: "generation: rejected".to_owned(),
                });
                continue;
            }
            self.log.push(format!("+{}", resource.name));
            let key = (update.type_url.clone(), resource.name.to_string());
            self.absent.remove(&key);
            self.applied.insert(key, generation);
        }
        for name in &update.removed {
            self.log.push(format!("-{name}"));
            let key = (update.type_url.clone(), name.clone());
            self.applied.remove(&key);
            self.absent.insert(key);
        }
        update.reject(rejected);
    }
}

pub(super) struct Mesh {
    pub(super) client: Subscriptions,
    pub(super) updates: Updates,
    pub(super) app: App,
    pub(super) events: Events,
    publisher: watch::Sender<Option<Arc<Snapshot>>>,
    refusal: Arc<Mutex<Option<String>>>,
    connections: Arc<Mutex<Vec<JoinHandle<()>>>>,
}

impl Mesh {
    pub(super) fn start() -> Self {
        Self::with_refusal(None)
    }

    pub(super) fn refusing(reason: &str) -> Self {
        Self::with_refusal(Some(reason.to_owned()))
    }

    fn with_refusal(refusal: Option<String>) -> Self {
        let (publisher, snapshots) = watch::channel(None);
        let events = Events::default();
        let refusal = Arc::new(Mutex::new(refusal));
        let connections: Arc<Mutex<Vec<JoinHandle<()>>>> = Arc::default();
        let connect = {
            let (events, refusal) = (events.clone(), Arc::clone(&refusal));
            let connections = Arc::clone(&connections);
            move || {
                let connector = TestConnector {
                    snapshots: snapshots.clone(),
                    events: events.clone(),
                    refusal: Arc::clone(&refusal),
                };
                let (ours, near) = tokio::io::duplex(PIPE_BYTES);
                let (far, theirs) = tokio::io::duplex(PIPE_BYTES);
                tokio::spawn(serve(connector, theirs));
                connections.lock().push(tokio::spawn(wire(near, far)));
                transport(ours)
            }
        };
        let node = Node {
            id: "sidecar~10.0.0.1~a.default~default.svc.cluster.local".into(),
            ..Default::default()
        };
        let (client, updates, worker) = client::new(node, connect);
        tokio::spawn(worker);
        Self {
            client,
            updates,
            app: App::default(),
            events,
            publisher,
            refusal,
            connections,
        }
    }

    pub(super) fn publish(&self, snapshot: Snapshot) {
        self.publisher.send_replace(Some(Arc::new(snapshot)));
    }

    pub(super) fn admit(&self) {
        *self.refusal.lock() = None;
    }

    /// Ends every connection as a crash does, without a goodbye.
    pub(super) fn drop_connections(&self) {
        for connection in self.connections.lock().drain(..) {
            connection.abort();
        }
    }

    /// Applies one update.
    pub(super) async fn step(&mut self) {
        let update = timeout(PATIENCE, self.updates.next()).await;
        self.app
            .apply(update.expect("an update comes").expect("the worker lives"));
    }

    pub(super) async fn until_applied(&mut self, expected: &Contents) {
        while self.app.applied != *expected {
            let update = timeout(PATIENCE, self.updates.next()).await;
            let Ok(update) = update else {
                panic!("stuck at {:?}, expected {expected:?}", self.app.applied);
            };
            self.app.apply(update.expect("the worker lives"));
        }
    }

    pub(super) async fn until_connected(&mut self, connections: u64) {
        let mut state = self.updates.state();
        let connected = state.wait_for(|state| state.connections >= connections);
        timeout(PATIENCE, connected).await.unwrap().unwrap();
    }

    /// Waits for a NACK to reach the server, and gives its text.
    pub(super) async fn until_nacked(&self) -> String {
        let nacked = async {
            loop {
                for event in self.events.take() {
                    if let Event::Nacked { detail, .. } = event {
                        return detail;
                    }
                }
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(PATIENCE, nacked).await.unwrap()
    }

    /// Whether no update comes in this time.
    pub(super) async fn quiet_for(&mut self, time: Duration) -> bool {
        timeout(time, self.updates.next()).await.is_err()
    }

    /// Applies whatever comes in this time.
    pub(super) async fn apply_for(&mut self, time: Duration) {
        let deadline = tokio::time::Instant::now() + time;
        while let Ok(Some(update)) = tokio::time::timeout_at(deadline, self.updates.next()).await {
            self.app.apply(update);
        }
    }
}

/// What lies between the two ends; aborting it cuts both off.
async fn wire(mut near: DuplexStream, mut far: DuplexStream) {
    // Either end may go first, and how it went is no matter here.
    let _ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

async fn serve(connector: TestConnector, stream: DuplexStream) {
    let service = AdsServer::new(connector);
    // The pending tail keeps the server accepting: its end would drain the connection.
    let incoming = tokio_stream::StreamExt::chain(
        tokio_stream::once(Ok::<_, std::io::Error>(stream)),
        tokio_stream::pending(),
    );
    let server = Server::builder().add_service(service);
    server.serve_with_incoming(incoming).await.unwrap();
}

async fn transport(stream: DuplexStream) -> Result<Transport, client::TransportError> {
    let mut stream = Some(TokioIo::new(stream));
    let connector = tower::service_fn(move |_uri: http::Uri| {
        let stream = stream.take();
        async move { stream.ok_or_else(|| std::io::Error::other("the pipe is used up")) }
    });
    let endpoint = Endpoint::from_static("http://control-plane");
    let channel = endpoint.connect_with_connector(connector).await?;
    Ok(Transport::new(channel))
}
