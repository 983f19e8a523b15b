//! The supervisor's end of `lab.sock`: HTTP with JSON, as [`crate::wire`] lists it.

mod capture;
mod dropped;
mod faults;
mod handover;
mod pipes;
mod watch;

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{HeaderMap, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, delete, get, post};
use axum::{Json, Router};
use meltemi_api::{Kind, ObjectKey, Scope};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixListener;
use tokio::sync::watch as signal;

use crate::cluster::{Cluster, EVENT, Handle, NotFound, commands};
use crate::machine_pids::MachinePids;
use crate::network::PodNetwork;
use crate::wire::{
    Failure, Kill, Mark, Progress, Report, Restart, Revision, Scale, Status, Validation, Watch,
};

pub(crate) use watch::Watcher;

/// Manifests larger than this are refused.
const BODY_LIMIT_BYTES: usize = 16 * 1024 * 1024;
/// How long a question for changes may stay open.
const CHANGES_TIMEOUT: Duration = Duration::from_secs(30);
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
const MONITORING: u16 = meltemi_core::names::port::MONITORING;

/// What the handlers share.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) name: String,
    pub(crate) cluster: Handle,
    pub(crate) pids: MachinePids,
    pub(crate) rootless: bool,
    pub(crate) config_dir: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) started: tokio::time::Instant,
    pub(crate) watcher: Watcher,
    /// Turned to true when the lab is to end.
    pub(crate) down: signal::Sender<bool>,
}

type Shared = State<Arc<Daemon>>;

/// Serves both sockets of a run folder until the process ends.
pub(crate) fn serve(daemon: Arc<Daemon>, run_dir: &std::path::Path) -> anyhow::Result<()> {
    let lab = UnixListener::bind(run_dir.join("lab.sock")).context("cannot listen on lab.sock")?;
    let fds = UnixListener::bind(run_dir.join("fds.sock")).context("cannot listen on fds.sock")?;
    tokio::spawn(handover::serve(fds, Arc::clone(&daemon)));
    let router = Router::new()
        .route("/status", get(status))
        .route("/progress", get(progress))
        .route("/changes", get(changes))
        .route("/containers", get(containers))
        .route("/forward", get(forwardable))
        .route("/apply", post(apply))
        .route("/delete", post(delete_file))
        .route("/objects/{kind}", get(objects))
        .route("/objects/{kind}/{name}", delete(delete_object))
        .route("/mark", post(mark))
        .route("/restart", post(restart))
        .route("/scale", post(scale))
        .route("/kill", post(kill))
        .route("/watch", post(watch_files))
        .route("/logs", get(pipes::logs))
        .route("/capture", get(capture::capture))
        .route(
            "/pods/{namespace}/{pod}/proxy/{port}/{*path}",
            any(pod_proxy),
        )
        .route("/istiod/{*path}", any(istiod))
        .route("/down", post(down))
        .layer(DefaultBodyLimit::max(BODY_LIMIT_BYTES))
        .with_state(daemon);
    tokio::spawn(async move {
        if let Err(error) = axum::serve(lab, router).await {
            tracing::error!(%error, "the lab's socket ended");
        }
    });
    Ok(())
}

/// An error answer.
#[derive(Debug)]
struct Refusal(StatusCode, String);

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.0, Json(Failure { error: self.1 })).into_response()
    }
}

impl From<NotFound> for Refusal {
    fn from(error: NotFound) -> Self {
        let status = match error {
            NotFound::Failed(_) => StatusCode::CONFLICT,
            _ => StatusCode::NOT_FOUND,
        };
        Self(status, error.to_string())
    }
}

impl From<anyhow::Error> for Refusal {
    fn from(error: anyhow::Error) -> Self {
        Self(StatusCode::BAD_GATEWAY, format!("{error:#}"))
    }
}

type Answer<T> = Result<T, Refusal>;

impl Daemon {
    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Cluster) -> T + Send + 'static,
    ) -> Answer<T> {
        let ending = || {
            Refusal(
                StatusCode::SERVICE_UNAVAILABLE,
                "the lab is ending".to_owned(),
            )
        };
        self.cluster.call(work).await.ok_or_else(ending)
    }

    async fn target(
        &self,
        namespace: String,
        target: String,
        container: Option<String>,
    ) -> Answer<commands::Target> {
        Ok(self
            .call(move |cluster| cluster.target(&namespace, &target, container.as_deref()))
            .await??)
    }
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(default = "default_namespace")]
    namespace: String,
    #[serde(default)]
    file: String,
    #[serde(default)]
    dry_run: bool,
    #[serde(default)]
    create: bool,
    #[serde(default)]
    validate: Validation,
    /// Seconds that deleted pods have to end in, instead of their own.
    grace: Option<u64>,
}

fn default_namespace() -> String {
    "default".to_owned()
}

async fn status(State(daemon): Shared) -> Answer<Json<Status>> {
    let (progress, control_plane) = daemon
        .call(|cluster| {
            let control_plane = cluster.control_plane().map(|(_, handle)| {
                let runtime = handle.runtime.borrow();
                let container = runtime.containers.first();
                (
                    container.and_then(|container| container.pid),
                    runtime.is_ready(),
                    container.map_or(0, |c| c.restarts),
                )
            });
            (
                cluster.progress(),
                control_plane.unwrap_or((None, false, 0)),
            )
        })
        .await?;
    let (pid, ready, restarts) = control_plane;
    let mut faults = daemon.watcher.faults().await;
    faults.extend(dropped::faults(&daemon.cluster, &daemon.config_dir).await);
    Ok(Json(Status {
        name: daemon.name.clone(),
        supervisor_pid: daemon.pids.own(),
        control_plane_pid: pid.and_then(|pid| daemon.pids.find(pid)),
        control_plane_ready: ready,
        control_plane_restarts: restarts,
        config_dir: daemon.config_dir.clone(),
        state_dir: daemon.state_dir.clone(),
        rootless: daemon.rootless,
        pods_ready: progress.pods_ready,
        pods_total: progress.pods_total,
        watched: daemon.watcher.paths(),
        faults,
        waiting: progress.waiting,
        age_seconds: daemon.started.elapsed().as_secs(),
    }))
}

async fn progress(State(daemon): Shared) -> Answer<Json<Progress>> {
    Ok(Json(daemon.call(|cluster| cluster.progress()).await?))
}

#[derive(Debug, Deserialize)]
struct After {
    after: u64,
}

/// Answers when the objects are newer than the caller has seen them, at the latest after a while.
async fn changes(State(daemon): Shared, Query(After { after }): Query<After>) -> Json<Revision> {
    let newer = tokio::time::timeout(CHANGES_TIMEOUT, daemon.cluster.changed_since(after)).await;
    let revision = newer.ok().flatten().unwrap_or(after);
    Json(Revision { revision })
}

async fn apply(
    State(daemon): Shared,
    Query(query): Query<File>,
    text: String,
) -> Answer<Json<Report>> {
    let File {
        namespace,
        file,
        dry_run,
        create,
        validate,
        grace: _,
    } = query;
    let report = daemon.call(move |cluster| {
        if dry_run {
            cluster.judge(&namespace, &file, &text, validate)
        } else if create {
            cluster.create(&namespace, &file, &text, validate)
        } else {
            cluster.apply(&namespace, &file, &text, validate)
        }
    });
    Ok(Json(report.await?))
}

async fn delete_file(
    State(daemon): Shared,
    Query(query): Query<File>,
    text: String,
) -> Answer<Json<Report>> {
    Ok(Json(
        daemon
            .call(move |cluster| cluster.delete(&query.namespace, &query.file, &text, query.grace))
            .await?,
    ))
}

async fn delete_object(
    State(daemon): Shared,
    Path((kind, name)): Path<(String, String)>,
    Query(query): Query<File>,
) -> Answer<Json<Report>> {
    let key = key_of(&kind, &query.namespace, &name)?;
    let change = daemon
        .call(move |cluster| cluster.delete_one(&key, query.grace))
        .await??;
    Ok(Json(Report {
        results: vec![change],
        ..Report::default()
    }))
}

fn key_of(kind: &str, namespace: &str, name: &str) -> Result<ObjectKey, NotFound> {
    let kind: Kind = commands::kind(kind)?;
    let namespace = if kind.scope() == Scope::Cluster {
        ""
    } else {
        namespace
    };
    Ok(ObjectKey::new(kind, namespace, name))
}

#[derive(Debug, Deserialize)]
struct InNamespace {
    namespace: Option<String>,
}

async fn objects(
    State(daemon): Shared,
    Path(kind): Path<String>,
    Query(query): Query<InNamespace>,
) -> Answer<Json<Value>> {
    let (items, revision) = if kind == EVENT {
        let events = daemon.call(move |cluster| {
            let items = cluster.event_objects(query.namespace.as_deref());
            (items, cluster.store.revision())
        });
        events.await?
    } else {
        let kind = commands::kind(&kind)?;
        let namespace = query
            .namespace
            .filter(|_| kind.scope() == Scope::Namespaced);
        let objects = daemon.call(move |cluster| {
            let items = cluster.objects(kind, namespace.as_deref());
            (items, cluster.store.revision())
        });
        objects.await?
    };
    Ok(Json(json!({
        "apiVersion": "v1", "kind": "List", "metadata": {"resourceVersion": revision.to_string()}, "items": items
    })))
}

#[derive(Debug, Deserialize)]
struct OfPod {
    namespace: String,
    pod: String,
}

async fn containers(
    State(daemon): Shared,
    Query(OfPod { namespace, pod }): Query<OfPod>,
) -> Answer<Json<Vec<String>>> {
    let names = daemon.call(move |cluster| cluster.containers(&namespace, &pod));
    Ok(Json(names.await??))
}

#[derive(Debug, Deserialize)]
struct Forwarded {
    namespace: String,
    target: String,
    port: u16,
}

/// Whether a connection could be forwarded.
async fn forwardable(
    State(daemon): Shared,
    Query(Forwarded {
        namespace,
        target,
        port,
    }): Query<Forwarded>,
) -> Answer<Json<Value>> {
    daemon
        .call(move |cluster| cluster.forward_target(&namespace, &target, port).map(drop))
        .await??;
    Ok(Json(json!({})))
}

async fn mark(State(daemon): Shared, body: Bytes) -> Answer<Json<Report>> {
    let mark: Mark = read(&body)?;
    Ok(Json(
        daemon.call(move |cluster| cluster.mark(&mark)).await??,
    ))
}

async fn restart(State(daemon): Shared, body: Bytes) -> Answer<Json<Report>> {
    let restart: Restart = read(&body)?;
    Ok(Json(
        daemon
            .call(move |cluster| cluster.restart(&restart))
            .await??,
    ))
}

async fn scale(State(daemon): Shared, body: Bytes) -> Answer<Json<Report>> {
    let scale: Scale = read(&body)?;
    Ok(Json(
        daemon.call(move |cluster| cluster.scale(&scale)).await??,
    ))
}

async fn kill(State(daemon): Shared, body: Bytes) -> Answer<Json<Value>> {
    let kill: Kill = read(&body)?;
    daemon.call(move |cluster| cluster.kill(&kill)).await??;
    Ok(Json(json!({})))
}

async fn watch_files(State(daemon): Shared, body: Bytes) -> Answer<Json<Value>> {
    let watch: Watch = read(&body)?;
    daemon.watcher.add(&watch).await?;
    Ok(Json(json!({})))
}

/// Reads a JSON body whatever its content type says.
fn read<T: serde::de::DeserializeOwned>(body: &[u8]) -> Answer<T> {
    serde_json::from_slice(body)
        .map_err(|error| Refusal(StatusCode::BAD_REQUEST, error.to_string()))
}

async fn down(State(daemon): Shared) -> Json<Value> {
    daemon.down.send_replace(true);
    Json(json!({}))
}

async fn pod_proxy(
    State(daemon): Shared,
    Path((namespace, pod, port, _)): Path<(String, String, u16, String)>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let target = daemon.target(namespace, pod, None).await?;
    let path = uri
        .path_and_query()
        .map(|path| path.as_str())
        .unwrap_or_default()
        .to_owned();
    // `/pods/NS/POD/proxy/PORT/` comes before the path that is asked for.
    let path = path
        .splitn(7, '/')
        .nth(6)
        .map(|path| format!("/{path}"))
        .unwrap_or_default();
    forward(target.network, port, method, &path, &headers, body).await
}

async fn istiod(
    State(daemon): Shared,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let network = daemon
        .call(|cluster| {
            cluster
                .control_plane()
                .and_then(|(_, handle)| handle.network())
        })
        .await?;
    let path = uri
        .path_and_query()
        .map(|path| path.as_str())
        .unwrap_or_default();
    let path = path.strip_prefix("/istiod").unwrap_or(path).to_owned();
    forward(network, MONITORING, method, &path, &headers, body).await
}

/// Passes one request to a port on a pod's loopback.
async fn forward(
    network: Option<Arc<PodNetwork>>,
    port: u16,
    method: Method,
    path: &str,
    headers: &HeaderMap,
    body: Bytes,
) -> Answer<Response> {
    let network = network.context("the pod has no network yet")?;
    let to = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
    let stream = dial(network, to)
        .await
        .with_context(|| format!("port {port} of the pod"))?;
    let stream = hyper_util::rt::TokioIo::new(stream);
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream)
        .await
        .context("the pod speaks no HTTP there")?;
    tokio::spawn(connection);
    let mut request = http::Request::builder()
        .method(method)
        .uri(path)
        .header(http::header::HOST, to.to_string());
    for name in [http::header::CONTENT_TYPE, http::header::ACCEPT] {
        if let Some(value) = headers.get(&name) {
            request = request.header(name, value);
        }
    }
    let request = request
        .body(http_body_util::Full::new(body))
        .context("invalid request")?;
    let response = sender
        .send_request(request)
        .await
        .context("the pod gave no answer")?;
    Ok(response.map(Body::new))
}

/// Connects from inside a pod.
async fn dial(network: Arc<PodNetwork>, to: SocketAddr) -> anyhow::Result<tokio::net::TcpStream> {
    let stream = tokio::task::spawn_blocking(move || network.dial(to, DIAL_TIMEOUT)).await??;
    stream.set_nonblocking(true)?;
    Ok(tokio::net::TcpStream::from_std(stream)?)
}
