//! Starts and stops the parts, in order.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use axum::Router;
use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Kind, ObjectKey};
use meltemi_ca::Authenticators;
use meltemi_core::{IdentityError, TrustDomain};
use meltemi_model::Mesh;
use meltemi_process::admin::AdminServer;
use meltemi_process::readiness::Gate;
use meltemi_process::{CancellationToken, Metrics, Readiness};
use meltemi_xds::AdsServer;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::service::Routes;

use crate::authority::{Authority, AuthorityError};
use crate::connector::Admission;
use crate::debug::Debug;
use crate::environment::{MakeAuthenticators, TakeStandings};
use crate::hub::{self, Command, Hub};
use crate::keys::Keeper;
use crate::memory::{Memory, PATIENCE};
use crate::metrics::PushMetrics;
use crate::source::{SourceError, SourceOptions, SourceUpdate};
use crate::{Environment, Options, StandingReader, debug, listener, replicas, source, webhooks};

/// Open connections keep the process no longer than this once it shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);
/// Shown to whoever asks why the process is not ready.
const OBJECTS_GATE: &str = "Services or Pods, of which there were some at the last start";
/// Connections between their handshake and the gRPC server.
const CONNECTION_QUEUE_LIMIT: usize = 64;

#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    #[error("listening on {address}")]
    Listen {
        address: SocketAddr,
        #[source]
        source: io::Error,
    },
    #[error("reading configuration")]
    Source(#[source] Box<dyn std::error::Error + Send + Sync>),
    #[error("the configuration was never read")]
    NoConfiguration,
    #[error("the configuration is no longer read: {0}")]
    ConfigurationLost(String),
    #[error("the trust domain of the mesh configuration")]
    TrustDomain(#[from] IdentityError),
    #[error("certificates")]
    Authority(#[from] AuthorityError),
    #[error("serving xDS")]
    Serve(#[source] tonic::transport::Error),
    #[error("serving webhooks")]
    Webhooks(#[source] io::Error),
    #[error("serving debug endpoints")]
    Monitoring(#[source] io::Error),
}

impl From<SourceError> for ControlError {
    fn from(error: SourceError) -> Self {
        Self::Source(Box::new(error))
    }
}

/// Runs a control plane until it is told to stop.
///
/// # Errors
/// It cannot start, or one of its servers fails.
pub async fn run(options: Options, shutdown: CancellationToken) -> Result<(), ControlError> {
    let plane = ControlPlane::bind(options).await?;
    Box::pin(plane.serve(shutdown)).await
}

/// As [`run`], with the configuration of an environment.
///
/// # Errors
/// As [`run`].
pub async fn run_in(
    environment: Environment,
    options: Options,
    shutdown: CancellationToken,
) -> Result<(), ControlError> {
    let mut plane = ControlPlane::bind(options).await?;
    plane.environment = Some(environment);
    Box::pin(plane.serve(shutdown)).await
}

/// A control plane with its ports bound, which serves nothing yet.
#[derive(Debug)]
pub struct ControlPlane {
    options: Options,
    /// Without one it reads files.
    environment: Option<Environment>,
    monitoring: AdminServer,
    xds: TcpListener,
    xds_addr: SocketAddr,
}

impl ControlPlane {
    /// # Errors
    /// A port is taken.
    pub async fn bind(options: Options) -> Result<Self, ControlError> {
        let failed = |address| move |source| ControlError::Listen { address, source };
        let monitoring = AdminServer::bind(options.monitoring_addr)
            .await
            .map_err(failed(options.monitoring_addr))?;
        let xds = TcpListener::bind(options.xds_addr)
            .await
            .map_err(failed(options.xds_addr))?;
        let xds_addr = xds.local_addr().map_err(failed(options.xds_addr))?;
        Ok(Self {
            options,
            environment: None,
            monitoring,
            xds,
            xds_addr,
        })
    }

    pub fn xds_addr(&self) -> SocketAddr {
        self.xds_addr
    }

    pub fn monitoring_addr(&self) -> SocketAddr {
        self.monitoring.local_addr()
    }

    /// Reads the configuration, then serves until `shutdown` is cancelled.
    ///
    /// # Errors
    /// The configuration or the authority's state cannot be used, or a server fails.
    pub async fn serve(self, shutdown: CancellationToken) -> Result<(), ControlError> {
        let metrics = Metrics::new();
        let readiness = Readiness::new();
        let gate = readiness.gate("config");
        let objects_gate = readiness.gate(OBJECTS_GATE);
        let authenticators = Arc::default();
        let (commands, command_queue) = mpsc::channel(hub::COMMAND_LIMIT);
        let keeper = Keeper::new(&self.options, &metrics);
        let router = debug::router(Debug {
            hub: commands.clone(),
            metrics: metrics.clone(),
            readiness,
            authenticators: Arc::clone(&authenticators),
            namespace: self.options.namespace.as_str().into(),
            keys: keeper.board(),
        });
        let monitoring = self.monitoring.serve(router, shutdown.clone());
        let control = Control {
            options: self.options,
            metrics,
            gate,
            objects_gate,
            authenticators,
            commands,
            command_queue,
            keeper,
            shutdown: shutdown.clone(),
        };
        let control = Box::pin(control.run(self.xds, self.environment));
        let control = control_or_cancel(control, &shutdown);
        let (controlled, monitored) = tokio::join!(control, monitoring);
        controlled?;
        monitored.map_err(ControlError::Monitoring)
    }
}

/// Everything but the debug endpoints.
struct Control {
    options: Options,
    metrics: Metrics,
    gate: Gate,
    objects_gate: Gate,
    /// For the debug endpoints, which are there before the authority.
    authenticators: Arc<OnceLock<Authenticators>>,
    commands: mpsc::Sender<Command>,
    command_queue: mpsc::Receiver<Command>,
    keeper: Keeper,
    shutdown: CancellationToken,
}

impl Control {
    async fn run(
        self,
        listener: TcpListener,
        environment: Option<Environment>,
    ) -> Result<(), ControlError> {
        if let Some(environment) = environment {
            let address = self.options.webhook_addr;
            let bound = TcpListener::bind(address).await;
            let webhooks = bound.map_err(|source| ControlError::Listen { address, source })?;
            let outside = Outside {
                authenticators: Some(environment.authenticators),
                webhooks: Some((webhooks, environment.webhooks)),
                standings: Some(environment.standings),
                replica: Some(environment.replica),
            };
            let lost = async { ControlError::ConfigurationLost("its watch has ended".to_owned()) };
            return Box::pin(self.run_from(listener, environment.updates, lost, outside)).await;
        }
        let (updates, update_queue) = source::channel();
        let source_options = SourceOptions {
            directories: self.options.config_directories.clone(),
            mesh_config: self.options.mesh_config.clone(),
        };
        // The thread ends when nobody receives its updates.
        let reader = source::spawn(source_options, updates)?;
        let outside = Outside::default();
        Box::pin(self.run_from(listener, update_queue, lost(reader), outside)).await
    }

    /// `lost` says why there are no more updates.
    async fn run_from(
        mut self,
        listener: TcpListener,
        mut update_queue: mpsc::Receiver<SourceUpdate>,
        lost: impl Future<Output = ControlError>,
        outside: Outside,
    ) -> Result<(), ControlError> {
        let first = update_queue.recv().await;
        let first = first.ok_or(ControlError::NoConfiguration)?;
        let trust_domain = trust_domain(&self.options, &first)?;
        let outside_authenticators = outside.authenticators.map(|make| make(&trust_domain));
        let authority = Authority::open(
            &self.options,
            &trust_domain,
            outside_authenticators.unwrap_or_default(),
            SystemTime::now(),
        )?;
        self.authenticators
            .get_or_init(|| authority.authenticators());
        let memory = Arc::new(Memory::new(&self.options.state_dir));
        let misses = memory.misses(&first.changes);
        if misses && self.options.accept_empty_config {
            memory.forget();
        }
        let is_held = misses && !self.options.accept_empty_config;
        let push_metrics = PushMetrics::new(&self.metrics);
        let has_mesh_file = self.options.mesh_config.is_some();
        let mesh_map = (!has_mesh_file).then(|| self.options.mesh_map());
        let cluster_id = &self.options.cluster_id;
        let metrics = push_metrics.clone();
        let remembering = Arc::clone(&memory);
        let namespace = &self.options.namespace;
        let own = outside
            .replica
            .map(|name| ObjectKey::new(Kind::Pod, namespace, &name));
        let mesh = Mesh::default()
            .in_cluster(cluster_id)
            .with_key_fetching(self.options.jwks_fetch);
        let mut hub = Hub::new(
            mesh,
            own,
            trust_domain,
            mesh_map,
            first,
            metrics,
            remembering,
        );
        let wanted = hub.follow_keys(self.keeper.board());
        let first = wanted.borrow().clone();
        hub.take_keys(self.keeper.first(&first).await);
        if let Some(take) = outside.standings {
            let options = &self.options;
            let asking = authority.asking(&options.namespace, options.xds_addr.port());
            take(StandingReader::new(
                self.commands.clone(),
                hub.standing(),
                asking,
            ));
        }
        let hold = Hold {
            is_held: Arc::new(AtomicBool::new(is_held)),
            metrics: push_metrics.clone(),
            memory,
        };
        let serving = self.serve(listener, &authority, push_metrics, &hold)?;
        let webhooks = self.serve_webhooks(&authority, outside.webhooks)?;
        tracing::info!("the configuration is read, serving");
        self.gate.open();

        let keeping = self.keeper.run(wanted, self.commands.clone());
        let hub = async {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => Ok(()),
                () = hub.run(update_queue, self.command_queue) => Err(lost.await),
            }
        };
        let deadline = async {
            self.shutdown.cancelled().await;
            tokio::time::sleep(DRAIN_TIMEOUT).await;
        };
        // Streams end when the hub is gone, and with them the server. A hub that ends by itself ends all: a process
        // that is ready and serves nobody is worse than one that starts again.
        tokio::select! {
            served = async { tokio::try_join!(serving, webhooks, hub) } => served.map(|_| ()),
            () = keeping => Ok(()),
            () = authority.keep() => Ok(()),
            () = hold.end(&self.objects_gate) => Ok(()),
            () = deadline => Ok(()),
        }
    }

    /// The future of 15017; where there are no webhooks it waits until the process shuts down.
    fn serve_webhooks(
        &self,
        authority: &Authority,
        webhooks: Option<(TcpListener, Router)>,
    ) -> Result<impl Future<Output = Result<(), ControlError>> + use<>, ControlError> {
        let tls = authority.webhook_tls()?;
        let shutdown = self.shutdown.clone();
        Ok(async move {
            match webhooks {
                Some((listener, router)) => webhooks::serve(listener, tls, router, shutdown)
                    .await
                    .map_err(ControlError::Webhooks),
                None => {
                    shutdown.cancelled().await;
                    Ok(())
                }
            }
        })
    }

    /// The future of 15012: xDS and certificates.
    fn serve(
        &self,
        listener: TcpListener,
        authority: &Authority,
        push_metrics: PushMetrics,
        hold: &Hold,
    ) -> Result<impl Future<Output = Result<(), ControlError>> + use<>, ControlError> {
        self.metrics
            .register(|registry| authority.metrics().register(registry));
        let admission = Admission {
            authenticators: authority.authenticators(),
            hub: self.commands.clone(),
            metrics: push_metrics,
            cluster_id: self.options.cluster_id.as_str().into(),
            is_held: Arc::clone(&hold.is_held),
        };
        let certificates = authority.certificate_service();
        let router = meltemi_xds::limits::server_builder()
            .add_routes(Routes::from(replicas::router(
                self.commands.clone(),
                &self.options.namespace,
            )))
            .add_service(AdsServer::new(admission))
            .add_service(certificates.into_server());
        let (connections, incoming) = mpsc::channel(CONNECTION_QUEUE_LIMIT);
        let served = router.serve_with_incoming_shutdown(
            ReceiverStream::new(incoming),
            self.shutdown.clone().cancelled_owned(),
        );
        let accepting = listener::accept(listener, authority.tls()?, connections);
        Ok(async move {
            tokio::select! {
                served = served => served.map_err(ControlError::Serve),
                () = accepting => Ok(()),
            }
        })
    }
}

/// What comes from outside of files.
#[derive(Default)]
struct Outside {
    authenticators: Option<MakeAuthenticators>,
    webhooks: Option<(TcpListener, Router)>,
    standings: Option<TakeStandings>,
    replica: Option<String>,
}

/// Proxies are not answered while the configuration seems to be lost; certificates are issued all the same.
struct Hold {
    is_held: Arc<AtomicBool>,
    metrics: PushMetrics,
    memory: Arc<Memory>,
}

impl Hold {
    /// Ends the hold when there is no reason for one any more, and then waits for ever.
    async fn end(&self, gate: &Gate) {
        if self.is_held.load(Ordering::Acquire) {
            self.metrics.set_held(true);
            tracing::error!(
                "all Services and Pods are gone since the last start: proxies keep what they have for {} s, or until there \
                 are some; --accept-empty-config serves an empty configuration at once",
                PATIENCE.as_secs()
            );
            match tokio::time::timeout(PATIENCE, self.memory.noted()).await {
                Ok(()) => tracing::info!("there are Services or Pods again, serving"),
                Err(_) => {
                    self.memory.forget();
                    tracing::error!("the configuration stayed empty, and is served");
                }
            }
            self.metrics.set_held(false);
            self.is_held.store(false, Ordering::Release);
        }
        gate.open();
        std::future::pending().await
    }
}

/// Why the thread that reads configuration is gone. Its sender is, so it is past its last wait.
async fn lost(reader: JoinHandle<()>) -> ControlError {
    let joined = tokio::task::spawn_blocking(move || reader.join()).await;
    let cause = match &joined {
        Ok(Err(panic)) => panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied()),
        _ => None,
    };
    ControlError::ConfigurationLost(cause.unwrap_or("its thread has ended").to_owned())
}

/// A failure of one server ends the others.
async fn control_or_cancel(
    control: impl Future<Output = Result<(), ControlError>>,
    shutdown: &CancellationToken,
) -> Result<(), ControlError> {
    let result = control.await;
    shutdown.cancel();
    result
}

/// The command line's, else that of the first mesh configuration read, else Istio's default.
fn trust_domain(options: &Options, first: &SourceUpdate) -> Result<TrustDomain, ControlError> {
    if let Some(trust_domain) = &options.trust_domain {
        return Ok(trust_domain.clone());
    }
    let key = options.mesh_map();
    let from_map = || {
        first.changes.iter().find_map(|change| match change {
            Change::Upsert(object) if object.key() == key => hub::from_config_map(object).0,
            _ => None,
        })
    };
    let config = match &options.mesh_config {
        Some(_) => first.mesh_config.clone(),
        None => from_map(),
    };
    let config = config.unwrap_or_else(MeshConfig::default);
    Ok(TrustDomain::new(&config.trust_domain)?)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use meltemi_model::SecretsOf;

    use super::*;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    /// Nothing here takes longer unless it is broken.
    const PATIENCE: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn without_its_reader_of_configuration_it_ends() {
        let folder = tempfile::tempdir().unwrap();
        let state = folder.path().display().to_string();
        let arguments =
            Arguments::try_parse_from(["x", "--config-dir", &state, "--state-dir", &state]);
        let readiness = Readiness::new();
        let (commands, command_queue) = mpsc::channel(1);
        let options = arguments.unwrap().options;
        let control = Control {
            keeper: Keeper::new(&options, &Metrics::new()),
            options,
            metrics: Metrics::new(),
            gate: readiness.gate("config"),
            objects_gate: readiness.gate(OBJECTS_GATE),
            authenticators: Arc::default(),
            commands,
            command_queue,
            shutdown: CancellationToken::new(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (updates, update_queue) = source::channel();
        let reader = std::thread::spawn(move || {
            let first = SourceUpdate {
                changes: Vec::new(),
                mesh_config: None,
                secrets_of: SecretsOf::All,
                diagnostics: Arc::default(),
                noticed_at: tokio::time::Instant::now(),
            };
            updates.blocking_send(first).unwrap();
            panic!("a file broke me");
        });
        let ended = control.run_from(listener, update_queue, lost(reader), Outside::default());
        let ended = tokio::time::timeout(PATIENCE, Box::pin(ended)).await;
        assert_eq!(
            ended.unwrap().unwrap_err().to_string(),
            "the configuration is no longer read: a file broke me"
        );
    }
}
