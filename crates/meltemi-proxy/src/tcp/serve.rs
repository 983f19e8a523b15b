use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use meltemi_proxy_core::error::{ErrorKind, ProxyError, ResetReason};
use meltemi_proxy_core::flags::ResponseFlags;
use meltemi_proxy_core::record::AuthorizationRecord;
use meltemi_proxy_core::runtime::{NetworkFilter, TcpProxy};
use tokio::io::AsyncWriteExt as _;
use tokio::time::Instant;

use super::copy::{Copied, CopyError, copy_bidirectional};
use super::metadata_exchange::{self, Received};
use super::record;
use crate::downstream::Downstream;
use crate::io::Transport;
use crate::telemetry::peer::Workload;
use crate::telemetry::series::TcpSeries;
use crate::upstream::cluster::PickFor;
use crate::upstream::connect::{self, Connected, Wish};
use crate::upstream::{ConnectionFacts, Host, Outcome, Picked, Upstream};
use crate::worker::Worker;

/// What is learnt of a TCP connection, told once at its end.
pub(crate) struct Session {
    pub(crate) worker: Arc<Worker>,
    pub(crate) downstream: Arc<Downstream>,
    pub(crate) proxy: Arc<TcpProxy>,
    pub(crate) started: Instant,
    pub(crate) started_at: SystemTime,
    pub(crate) downstream_peer: Option<Arc<Workload>>,
    pub(crate) upstream_peer: Option<Arc<Workload>>,
    pub(crate) cluster_name: Option<Arc<str>>,
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) host: Option<Arc<Host>>,
    pub(crate) facts: Option<Arc<ConnectionFacts>>,
    pub(crate) attempts: u32,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: String,
    pub(crate) authorization: AuthorizationRecord,
    pub(crate) transport_failure: Option<Arc<str>>,
    pub(crate) copied: Copied,
    /// Its series has it.
    is_counted: bool,
}

impl Session {
    fn failed(&mut self, error: &ProxyError) {
        self.flags.insert(error.flag());
        self.details = error.details();
        if let Some(failure) = &error.transport_failure {
            self.transport_failure = Some(failure.clone());
        }
    }
}

/// Serves a TCP connection to its end.
pub(crate) async fn serve(
    worker: &Arc<Worker>,
    downstream: Arc<Downstream>,
    proxy: Arc<TcpProxy>,
    mut transport: Transport,
) {
    let mut session = Session {
        worker: worker.clone(),
        downstream,
        proxy,
        started: Instant::now(),
        started_at: SystemTime::now(),
        downstream_peer: None,
        upstream_peer: None,
        cluster_name: None,
        upstream: None,
        host: None,
        facts: None,
        attempts: 0,
        flags: ResponseFlags::NONE,
        details: String::new(),
        authorization: AuthorizationRecord::default(),
        transport_failure: None,
        copied: Copied::default(),
        is_counted: false,
    };
    let verdict = session
        .downstream
        .authorise(worker, &mut session.authorization)
        .await;
    if let Err(error) = verdict {
        session.failed(&error);
        transport.socket().reset_on_close();
    } else {
        let first = introduce(&mut session, &mut transport).await;
        match first {
            Ok(first) => proxy_bytes(&mut session, transport, &first).await,
            Err(error) => {
                tracing::debug!(%error, "no metadata of the downstream");
                session.failed(&ErrorKind::DownstreamDisconnect.into());
            }
        }
    }
    if !session.is_counted {
        record::count_failed(&session);
    }
    record::tell(&session);
}

fn exchanges_metadata(session: &Session) -> bool {
    session
        .downstream
        .chain
        .filters
        .iter()
        .any(|filter| matches!(filter, NetworkFilter::MetadataExchange(_)))
}

/// Exchanges metadata with the downstream, if both agreed to. Gives back bytes that were the application's.
async fn introduce(session: &mut Session, transport: &mut Transport) -> std::io::Result<Vec<u8>> {
    let agreed = metadata_exchange::is_agreed(session.downstream.handshake.as_ref());
    if !agreed || !session.downstream.is_inbound() || !exchanges_metadata(session) {
        return Ok(Vec::new());
    }
    let first = match metadata_exchange::receive(transport).await? {
        Received::Peer(peer) => {
            session.downstream_peer = peer;
            Vec::new()
        }
        Received::Application(bytes) => bytes.to_vec(),
    };
    metadata_exchange::send(transport, &session.worker.shared.telemetry.own.metadata).await?;
    Ok(first)
}

async fn proxy_bytes(session: &mut Session, mut transport: Transport, first: &[u8]) {
    // Boxed, so that an idle connection does not keep the room of a TLS handshake.
    let mut connected = match Box::pin(open(session)).await {
        Ok(connected) => connected,
        Err(error) => {
            session.failed(&error);
            transport.socket().reset_on_close();
            return;
        }
    };
    session.facts = Some(connected.facts.clone());
    let agreed = metadata_exchange::is_agreed(connected.facts.handshake.as_ref());
    let mut early = Vec::new();
    if agreed {
        match exchange_upstream(session, &mut connected.transport).await {
            Ok(bytes) => early = bytes,
            Err(error) => {
                tracing::debug!(%error, "no metadata of the upstream");
                session.failed(&terminated(&error));
                transport.socket().reset_on_close();
                return;
            }
        }
    }
    let series = record::series(session);
    series.opened.add(1);
    session.is_counted = true;
    if let Err(error) = connected.transport.write_all(first).await {
        session.failed(&terminated(&error));
    } else if transport.write_all(&early).await.is_err() {
        session.failed(&ErrorKind::DownstreamDisconnect.into());
    } else {
        copy(session, &mut transport, &mut connected, &series).await;
    }
    series.closed.add(1);
}

/// The upstream ended a connection that had been made.
fn terminated(error: &std::io::Error) -> ProxyError {
    ProxyError::reset(ResetReason::ConnectionTermination, Some(&error.to_string()))
}

async fn exchange_upstream(
    session: &mut Session,
    transport: &mut Transport,
) -> std::io::Result<Vec<u8>> {
    metadata_exchange::send(transport, &session.worker.shared.telemetry.own.metadata).await?;
    match metadata_exchange::receive(transport).await? {
        Received::Peer(peer) => {
            session.upstream_peer = peer;
            Ok(Vec::new())
        }
        Received::Application(bytes) => Ok(bytes.to_vec()),
    }
}

async fn copy(
    session: &mut Session,
    transport: &mut Transport,
    connected: &mut Connected,
    series: &TcpSeries,
) {
    let idle = session.proxy.idle_timeout;
    let reported = &mut session.copied;
    let report = |now: Copied| {
        series
            .received_bytes
            .add(now.to_upstream - reported.to_upstream);
        series
            .sent_bytes
            .add(now.to_downstream - reported.to_downstream);
        *reported = now;
    };
    let (downstream, worker) = (session.downstream.clone(), session.worker.clone());
    let copying = copy_bidirectional(transport, &mut connected.transport, idle, report);
    let limit = session.proxy.max_downstream_connection_duration;
    let copying = async {
        match limit {
            None => Some(copying.await),
            Some(limit) => tokio::time::timeout(limit, copying).await.ok(),
        }
    };
    let ended = tokio::select! {
        biased;
        ended = copying => Ok(ended),
        denied = downstream.denied_later(&worker) => Err(denied),
    };
    let result = match ended {
        Ok(Some((_, result))) => result,
        Ok(None) => {
            session.flags.insert(ResponseFlags::DURATION_TIMEOUT);
            return;
        }
        Err(denied) => {
            session.failed(&denied);
            transport.socket().reset_on_close();
            connected.transport.socket().reset_on_close();
            return;
        }
    };
    match result {
        Ok(()) => {}
        Err(CopyError::Downstream(_)) => {
            session
                .flags
                .insert(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            connected.transport.socket().reset_on_close();
        }
        Err(CopyError::Upstream(error)) => {
            session
                .flags
                .insert(ResponseFlags::UPSTREAM_CONNECTION_TERMINATION);
            tracing::debug!(%error, "upstream failed");
            transport.socket().reset_on_close();
        }
        Err(CopyError::Idle(_)) => session.flags.insert(ResponseFlags::STREAM_IDLE_TIMEOUT),
    }
}

/// How often the balancer chooses again when it chose a host that did not answer before.
const CHOOSE_AGAIN: u32 = 5;

/// Connects to a host of the chain's cluster, trying others as often as the configuration says.
async fn open(session: &mut Session) -> Result<Connected, ProxyError> {
    let shared = session.worker.shared.clone();
    let name = session.proxy.target.pick(rand::random()).clone();
    session.cluster_name = Some(name.clone());
    let cluster_not_found = ErrorKind::ClusterNotFound(http::StatusCode::SERVICE_UNAVAILABLE);
    let upstream = shared.store.upstream(&name).ok_or(cluster_not_found)?;
    session.upstream = Some(upstream.clone());
    let mut tried: Vec<SocketAddr> = Vec::new();
    loop {
        let pick = PickFor {
            hash: session
                .proxy
                .hash_source_ip
                .then(|| source_hash(&session.downstream)),
            attempts: CHOOSE_AGAIN,
            original_dst: Some(session.downstream.arrival.destination),
            tried: &tried,
        };
        let host = match upstream.pick(&pick) {
            Picked::Host(host) => host,
            Picked::NoHealthyHost => return Err(ErrorKind::NoHealthyUpstream.into()),
            Picked::Dropped => return Err(ErrorKind::DropOverload.into()),
        };
        session.attempts += 1;
        session.host = Some(host.clone());
        session.upstream_peer = host.workload.clone();
        host.state.requests.add(1);
        upstream.stats.requests.add(1);
        match connect::connect(&shared, &upstream, &host, &Wish::default()).await {
            Ok(connected) => {
                host.state.successes.add(1);
                upstream.observe(&host, Outcome::Status(200));
                return Ok(connected);
            }
            Err(error) => {
                host.state.errors.add(1);
                // Our own limit says nothing of the host, and no other host would be let through.
                let is_ours = error.reason == ResetReason::Overflow;
                if !is_ours {
                    upstream.observe(&host, Outcome::LocalOrigin);
                }
                tried.push(host.address);
                let attempts = session.proxy.max_connect_attempts.max(1);
                if is_ours || session.attempts >= attempts {
                    return Err(ProxyError::reset(error.reason, error.failure.as_deref()));
                }
            }
        }
    }
}

fn source_hash(downstream: &Downstream) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    BuildHasherDefault::<DefaultHasher>::default().hash_one(downstream.arrival.peer.ip())
}
