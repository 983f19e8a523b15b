//! The proxy's process, from its start to its end.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use anyhow::Context as _;
use meltemi_core::names::port;
use meltemi_process::logging::LogControl;
use meltemi_process::{CancellationToken, Readiness};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admin::{self, Admin};
use crate::bootstrap::{Bootstrap, peer_metadata};
use crate::certificates::{Authority, CredentialStore, keep_fresh};
use crate::config::dump::Retention;
use crate::config::{Configurator, Store};
use crate::control_channel::Endpoint;
use crate::drain::{Drain, Phase};
use crate::http::faults::ActiveFaults;
use crate::http::rate_limit::RateLimits;
use crate::jwks::KeyCache;
use crate::secrets::SecretStore;
use crate::telemetry::Telemetry;
use crate::telemetry::access_log::LogSink;
use crate::telemetry::peer::Own;
use crate::upstream::dns;
use crate::upstream::tls::TlsConfigs;
use crate::worker::{self, Shared};
use crate::{control_link, status};

/// With `EXIT_ON_ZERO_ACTIVE_CONNECTIONS`, the shortest drain (Istio `MINIMUM_DRAIN_DURATION`).
const MINIMUM_DRAIN: Duration = Duration::from_secs(5);
/// What is left of the drain for closing idle connections, and for the last lines of the access log.
const CLOSING: Duration = Duration::from_millis(200);
const READMIT_INTERVAL: Duration = Duration::from_secs(1);

/// Runs a proxy until it is told to end.
///
/// # Errors
/// The process cannot start: a port is taken, a variable is wrong, a thread cannot be made.
pub async fn run(
    bootstrap: Bootstrap,
    log: Option<LogControl>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    let started = Instant::now();
    let bootstrap = Arc::new(bootstrap);
    let readiness = Readiness::new();
    let (config_gate, certificate_gate) = (
        readiness.gate("configuration"),
        readiness.gate("certificate"),
    );
    let (log_sink, log_written) = LogSink::start().context("starting the access log")?;
    let shared = Arc::new(shared(&bootstrap, log_sink.clone()));
    let retention = Arc::new(Retention::default());
    let believe = Arc::new(Notify::new());

    let identity = bootstrap.identity()?;
    tracing::info!(version = meltemi_process::VERSION, node = bootstrap.node_id(), %identity, "starting");
    let authority = authority(&bootstrap)?;
    let mut vital = JoinSet::new();
    vital.spawn({
        let (shared, bootstrap) = (shared.clone(), bootstrap.clone());
        async move {
            let store = &shared.credentials;
            let received = |certificate, bundle, _: &_| store.replace(certificate, bundle);
            keep_fresh(
                &authority,
                &bootstrap.trust_domain,
                &bootstrap.paths.root_cert,
                received,
            )
            .await;
            "certificate renewal"
        }
    });
    vital.spawn({
        let mut generation = shared.credentials.watch();
        let shared = shared.clone();
        async move {
            while generation
                .wait_for(|generation| *generation > 0)
                .await
                .is_ok()
            {
                shared.telemetry.counters.certificates.add(1);
                certificate_gate.open();
                if generation.changed().await.is_err() {
                    break;
                }
            }
            "counting certificates"
        }
    });
    vital.spawn({
        let (shared, retention, bootstrap) = (shared.clone(), retention.clone(), bootstrap.clone());
        let believe = believe.clone();
        async move {
            let endpoint = endpoint(&bootstrap, &bootstrap.discovery_address);
            control_link::run(
                &bootstrap,
                endpoint,
                Configurator::new(shared, retention),
                config_gate,
                believe,
            )
            .await;
            "the xDS client"
        }
    });
    vital.spawn({
        let shared = shared.clone();
        async move {
            dns::run(shared).await;
            "name resolution"
        }
    });
    vital.spawn({
        let shared = shared.clone();
        async move {
            readmit(shared).await;
            "taking hosts back"
        }
    });

    let (stop, stopped) = watch::channel(false);
    let mut workers = Vec::new();
    let mut tunnels = Vec::new();
    for index in 0..bootstrap.workers {
        let (tunnel, thread) =
            worker::start(shared.clone(), index, stopped.clone()).context("starting a worker")?;
        workers.push(thread);
        tunnels.push(tunnel);
    }
    let quit = CancellationToken::new();
    let admin = Arc::new(Admin {
        shared: shared.clone(),
        bootstrap: bootstrap.clone(),
        retention,
        readiness,
        started,
        tunnels,
        next_tunnel: AtomicUsize::new(0),
        log,
        quit: quit.clone(),
        believe,
    });
    serve_ports(&admin).await?;
    tokio::spawn(note_startup(admin.clone()));

    tokio::select! {
        () = shutdown.cancelled() => drain(&shared, &bootstrap, &quit).await,
        () = quit.cancelled() => {}
        // Without one of them the process would go on as if nothing were, and grow stale.
        Some(ended) = vital.join_next() => {
            let task = ended.context("a task that the sidecar lives by")?;
            anyhow::bail!("{task} ended");
        }
    }
    stop.send_replace(true);
    for worker in workers {
        let joined = tokio::task::spawn_blocking(move || worker.join()).await;
        anyhow::ensure!(matches!(joined, Ok(Ok(()))), "a worker panicked");
    }
    drop((admin, shared));
    // Lines of the last connections are written before the process ends, unless nobody reads them.
    log_sink.close();
    if tokio::time::timeout(CLOSING, log_written).await.is_err() {
        tracing::warn!("the last lines of the access log were not taken");
    }
    tracing::info!("ended");
    Ok(())
}

/// Notes how long it took until the readiness probe was answered with yes.
async fn note_startup(admin: Arc<Admin>) {
    let mut changes = admin.shared.store.watch();
    admin.readiness.ready().await;
    while !admin.shared.store.is_open() {
        if changes.changed().await.is_err() {
            return;
        }
    }
    let startup = admin.started.elapsed();
    admin.shared.telemetry.started_within(startup);
}

fn shared(bootstrap: &Bootstrap, log: LogSink) -> Shared {
    let credentials = Arc::new(CredentialStore::new());
    let secrets = Arc::new(SecretStore::default());
    Shared {
        store: if bootstrap.is_on_demand() {
            Store::on_demand()
        } else {
            Store::default()
        },
        tls: TlsConfigs::new(credentials.clone(), secrets.clone()),
        secrets,
        credentials,
        telemetry: Telemetry::new(
            Own::new(peer_metadata(bootstrap), &bootstrap.node_id()),
            log,
        ),
        drain: Drain::new(),
        rate_limits: RateLimits::default(),
        keys: KeyCache::default(),
        active_faults: ActiveFaults::default(),
        socket_mark: bootstrap.socket_mark,
        drain_time: bootstrap.proxy_config.drain(),
        own_ips: vec![bootstrap.instance_ip],
        own_ports: vec![port::OUTBOUND, port::INBOUND],
    }
}

/// The certificate authority, asked as this workload.
pub(crate) fn authority(bootstrap: &Bootstrap) -> anyhow::Result<Authority> {
    Ok(Authority {
        endpoint: endpoint(bootstrap, &bootstrap.ca_address),
        identity: bootstrap.identity()?,
        ttl: bootstrap.secret_ttl,
        cluster_id: bootstrap.cluster_id.clone(),
    })
}

pub(crate) fn endpoint(bootstrap: &Bootstrap, address: &str) -> Endpoint {
    Endpoint {
        address: address.to_owned(),
        root_cert: bootstrap.paths.root_cert.clone(),
        token: bootstrap.paths.token.clone(),
        socket_mark: bootstrap.socket_mark,
    }
}

/// Opens the ports that are not configured over xDS. Admin is on loopback; the others are for kubelet and Prometheus.
async fn serve_ports(admin: &Arc<Admin>) -> anyhow::Result<()> {
    let local = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let any = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
    let config = &admin.bootstrap.proxy_config;
    let bind = async |ip: IpAddr, port: u16| {
        let address = SocketAddr::new(ip, port);
        TcpListener::bind(address)
            .await
            .with_context(|| format!("listening on {address}"))
    };
    macro_rules! serve {
        ($ip:expr, $port:expr, $handler:path) => {{
            let socket = bind($ip, $port).await?;
            let admin = admin.clone();
            tokio::spawn(admin::listen(socket, move |asked| {
                $handler(admin.clone(), asked)
            }));
        }};
    }
    serve!(local, config.admin_port(), admin::serve);
    serve!(any, config.status_port(), status::agent);
    serve!(any, port::READINESS, status::readiness);
    serve!(any, port::ENVOY_STATS, status::own_metrics);
    Ok(())
}

/// Serves on for the drain time, or until nobody is connected, while peers are told to go elsewhere.
async fn drain(shared: &Shared, bootstrap: &Bootstrap, quit: &CancellationToken) {
    let time = bootstrap.proxy_config.termination_drain();
    let exit_when_idle = bootstrap
        .metadata
        .get("EXIT_ON_ZERO_ACTIVE_CONNECTIONS")
        .is_some_and(|value| value == "true");
    tracing::info!(
        seconds = time.as_secs(),
        connections = shared.drain.connections(),
        "draining"
    );
    shared.drain.enter(Phase::Draining);
    let wait = async {
        if exit_when_idle {
            tokio::time::sleep(MINIMUM_DRAIN).await;
            shared.drain.idle().await;
        } else {
            tokio::time::sleep(time).await;
        }
    };
    tokio::select! {
        () = wait => {}
        () = quit.cancelled() => return,
    }
    shared.drain.enter(Phase::Closing);
    // Idle connections close at once; what is still busy has had its time.
    let result = tokio::time::timeout(CLOSING, shared.drain.idle()).await;
    if result.is_err() {
        tracing::info!(
            connections = shared.drain.connections(),
            "ending with open connections"
        );
    }
}

/// Takes ejected hosts back when their time is over.
async fn readmit(shared: Arc<Shared>) {
    let mut tick = tokio::time::interval(READMIT_INTERVAL);
    loop {
        tick.tick().await;
        let upstreams = shared.store.upstreams_in_use().into_iter();
        upstreams
            .filter(|upstream| upstream.config.outlier_detection.is_some())
            .for_each(|upstream| upstream.readmit());
    }
}
