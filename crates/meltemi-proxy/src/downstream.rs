//! A downstream connection after its filter chain is known: TLS, network filters, then HTTP or TCP.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use meltemi_pki::HandshakeInfo;
use meltemi_proxy_core::error::{ErrorKind, ProxyError};
use meltemi_proxy_core::filter_chain::{ConnectionFacts, match_filter_chain};
use meltemi_proxy_core::rbac;
use meltemi_proxy_core::record::{AuthorizationRecord, ConnectionRecord, TlsRecord};
use meltemi_proxy_core::runtime::{
    DownstreamTls, FilterChain, Listener, NetworkFilter, Terminal, TrafficDirection,
};
use meltemi_proxy_core::xfcc::{self, PeerCertificate};
use tokio_rustls::TlsAcceptor;

use crate::drain::{ConnectionGuard, Phase};
use crate::io::{ReadAhead, Replay, Socket, Transport};
use crate::listener::inspect::Spoken;
use crate::listener::{names, transport};
use crate::tcp::ext_authz;
use crate::worker::{Shared, Worker};

/// Bound of a TLS handshake when the chain sets none.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(15);

static CONNECTION_IDS: AtomicU64 = AtomicU64::new(1);

/// What was learnt of a connection before its chain was chosen.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) peer: SocketAddr,
    pub(crate) destination: SocketAddr,
    pub(crate) server_name: Option<Arc<str>>,
    pub(crate) spoken: Spoken,
}

/// A downstream connection: what every request or byte stream on it has in common.
pub(crate) struct Downstream {
    pub(crate) id: u64,
    pub(crate) listener: Arc<Listener>,
    pub(crate) chain: Arc<FilterChain>,
    pub(crate) arrival: Arrival,
    pub(crate) handshake: Option<HandshakeInfo>,
    pub(crate) record: Arc<ConnectionRecord>,
    /// The verified peer, as XFCC tells of it.
    pub(crate) certificate: Option<PeerCertificate>,
    /// Of the chain, to see whether it is still in force after an update.
    pub(crate) chain_fingerprint: u64,
    _guard: ConnectionGuard,
    _row: Option<crate::telemetry::tls::Row>,
}

/// What a handshake proved, as logs print it.
pub(crate) fn tls_record(handshake: &HandshakeInfo) -> TlsRecord {
    let peer = handshake.peer.as_ref();
    TlsRecord {
        version: handshake.tls_version,
        cipher: handshake.cipher.into(),
        alpn: Some(handshake.alpn_str())
            .filter(|alpn| !alpn.is_empty())
            .map(Arc::from),
        peer_uri_san: peer.map(|peer| peer.identity.to_string().into()),
        local_uri_san: handshake
            .local
            .as_ref()
            .map(|local| local.to_string().into()),
        peer_fingerprint: match (peer, &handshake.stranger) {
            (Some(peer), _) => Some(peer.sha256_hex().into()),
            (None, stranger) => stranger
                .as_ref()
                .map(|stranger| stranger.sha256_hex.as_str().into()),
        },
    }
}

fn connection_record(
    id: u64,
    listener: &Listener,
    chain: &FilterChain,
    arrival: &Arrival,
    handshake: Option<&HandshakeInfo>,
) -> ConnectionRecord {
    ConnectionRecord {
        id,
        direction: listener.traffic_direction,
        listener: listener.name.clone(),
        filter_chain: chain.name.clone(),
        local_address: arrival.destination,
        remote_address: arrival.peer,
        direct_remote_address: arrival.peer,
        requested_server_name: arrival.server_name.clone(),
        tls: handshake.map(tls_record),
        transport_failure: None,
    }
}

impl Downstream {
    /// The verified peer, as `spiffe://...`.
    pub(crate) fn principal(&self) -> Option<&str> {
        self.record.tls.as_ref()?.peer_uri_san.as_deref()
    }

    /// Returns when the connection's filter chain was replaced, or the process began to drain, and the drain time is over:
    /// what the old chain allowed must not live on in a connection that never ends.
    pub(crate) async fn outlived(&self, shared: &Shared) {
        let mut config = shared.store.watch();
        let mut phase = shared.drain.watch();
        loop {
            let is_serving = *phase.borrow_and_update() == Phase::Serving;
            config.mark_unchanged();
            let in_force = shared
                .store
                .is_in_force(&self.listener.name, self.chain_fingerprint);
            if !is_serving || !in_force {
                break;
            }
            tokio::select! {
                Ok(()) = config.changed() => {}
                Ok(()) = phase.changed() => {}
                else => return std::future::pending().await,
            }
        }
        tokio::time::sleep(shared.drain_time).await;
    }

    /// Asks the filters of the chain that guard it, which stand before HTTP as before TCP.
    pub(crate) async fn authorise(
        &self,
        worker: &Worker,
        record: &mut AuthorizationRecord,
    ) -> Result<(), ProxyError> {
        let judged = self.judge(worker, &self.chain, record, true).await;
        judged.map_err(ProxyError::from)
    }

    /// `counts` unless the connection is one that was judged before.
    async fn judge(
        &self,
        worker: &Worker,
        chain: &FilterChain,
        record: &mut AuthorizationRecord,
        counts: bool,
    ) -> Result<(), ErrorKind> {
        let request = self.rbac_request();
        for filter in &chain.filters {
            match filter {
                NetworkFilter::Rbac(config) => {
                    let (verdict, shadow) = rbac::evaluate(config, &request);
                    if counts {
                        let series = worker.shared.telemetry.rbac.of_connections(config);
                        series.tell(config, verdict, shadow);
                    }
                    record.note(config, verdict, shadow);
                    if !verdict.is_allowed {
                        let policy = verdict.policy.cloned();
                        return Err(ErrorKind::RbacDenied { policy });
                    }
                }
                NetworkFilter::ExtAuthz(config) => {
                    // Boxed, so that connections that nobody is asked about do not keep its room.
                    Box::pin(ext_authz::judge(self, worker, config, record)).await?;
                }
                NetworkFilter::MetadataExchange(_) | NetworkFilter::Stats(_) => {}
            }
        }
        Ok(())
    }

    fn rbac_request(&self) -> rbac::RbacRequest<'_> {
        rbac::RbacRequest {
            head: None,
            destination: self.arrival.destination,
            direct_remote: self.arrival.peer.ip(),
            remote: self.arrival.peer.ip(),
            requested_server_name: self.arrival.server_name.as_deref(),
            peer_uri_san: self.principal(),
            verified: None,
        }
    }

    /// Returns when policies that came later deny the open connection: a new one like it would be closed. What replaces its
    /// chain otherwise leaves it alone.
    pub(crate) async fn denied_later(&self, worker: &Worker) -> ProxyError {
        let store = &worker.shared.store;
        let mut config = store.watch();
        // An authorizer is asked once of every chain, not at every change of anything.
        let mut judged = self.chain_fingerprint;
        loop {
            config.mark_unchanged();
            let in_force = store.is_in_force(&self.listener.name, self.chain_fingerprint);
            if !in_force && let Some(chain) = self.chain_now(&worker.shared) {
                let fingerprint = store.chain_fingerprint(&chain);
                if fingerprint != judged {
                    judged = fingerprint;
                    let mut record = AuthorizationRecord::default();
                    if let Err(kind) = self.judge(worker, &chain, &mut record, false).await {
                        return kind.into();
                    }
                }
            }
            if config.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The chain that a connection like this one would get now.
    fn chain_now(&self, shared: &Shared) -> Option<Arc<FilterChain>> {
        let listeners = shared.store.listeners.load();
        let mut listeners = listeners.iter();
        let listener = listeners.find(|listener| listener.name == self.listener.name)?;
        let (server_name, protocols) = names(&self.arrival.spoken);
        let facts = ConnectionFacts {
            destination: self.arrival.destination,
            source: self.arrival.peer,
            direct_source: self.arrival.peer.ip(),
            server_name,
            transport: transport(&self.arrival.spoken),
            application_protocols: &protocols,
        };
        match_filter_chain(listener, &facts).cloned()
    }

    pub(crate) fn is_inbound(&self) -> bool {
        self.listener.traffic_direction == TrafficDirection::Inbound
    }
}

/// Serves the connection with the chosen chain to its end.
pub(crate) async fn serve(
    worker: &Arc<Worker>,
    listener: Arc<Listener>,
    chain: Arc<FilterChain>,
    arrival: Arrival,
    socket: Socket,
    prefix: Bytes,
) {
    // Each stage in a box of its own: an idle connection keeps the room of the stage it is in, not of its handshake.
    let establishing = Box::pin(establish(worker, listener, chain, arrival, socket, prefix));
    let Some((downstream, transport)) = establishing.await else {
        return;
    };
    let chain = downstream.chain.clone();
    match &chain.terminal {
        Terminal::Http(hcm) => {
            let mut record = AuthorizationRecord::default();
            if let Err(error) = downstream.authorise(worker, &mut record).await {
                tracing::debug!(peer = %downstream.arrival.peer, details = error.details(), "refused a connection");
                transport.socket().reset_on_close();
                return;
            }
            Box::pin(crate::http::serve(
                worker,
                downstream,
                hcm.clone(),
                transport,
            ))
            .await;
        }
        Terminal::Tcp(proxy) => {
            Box::pin(crate::tcp::serve(
                worker,
                downstream,
                proxy.clone(),
                transport,
            ))
            .await;
        }
        Terminal::Close => transport.socket().reset_on_close(),
    }
}

/// The connection after its TLS handshake; `None` if that failed.
async fn establish(
    worker: &Arc<Worker>,
    listener: Arc<Listener>,
    chain: Arc<FilterChain>,
    arrival: Arrival,
    socket: Socket,
    prefix: Bytes,
) -> Option<(Arc<Downstream>, Transport)> {
    let guard = worker.shared.drain.connection();
    let replay = Replay::new(prefix, socket);
    let (transport, handshake) = match &chain.tls {
        None => (Transport::Plain(replay), None),
        Some(tls) => match accept_tls(worker, tls, &chain, &arrival, replay).await {
            Ok((transport, handshake)) => (transport, Some(handshake)),
            Err(error) => {
                worker
                    .shared
                    .telemetry
                    .counters
                    .downstream_handshake_failures
                    .add(1);
                tracing::debug!(
                    chain = %chain.name, peer = %arrival.peer, error = format!("{error:#}"), "TLS handshake failed"
                );
                return None;
            }
        },
    };
    let inbound = listener.traffic_direction == TrafficDirection::Inbound;
    let row = inbound.then(|| {
        worker
            .shared
            .telemetry
            .tls
            .downstream(&arrival, handshake.as_ref())
    });
    let id = CONNECTION_IDS.fetch_add(1, Ordering::Relaxed);
    let certificate = handshake.as_ref().and_then(peer_certificate);
    let record = Arc::new(connection_record(
        id,
        &listener,
        &chain,
        &arrival,
        handshake.as_ref(),
    ));
    let downstream = Arc::new(Downstream {
        id,
        record,
        certificate,
        chain_fingerprint: worker.shared.store.chain_fingerprint(&chain),
        listener,
        chain,
        arrival,
        handshake,
        _guard: guard,
        _row: row,
    });
    Some((downstream, transport))
}

/// The client's certificate, as XFCC tells of it.
fn peer_certificate(handshake: &HandshakeInfo) -> Option<PeerCertificate> {
    if let Some(peer) = &handshake.peer {
        return Some(PeerCertificate {
            hash: peer.sha256_hex(),
            subject: peer.subject.clone(),
            uri_sans: vec![peer.identity.to_string()],
            ..PeerCertificate::default()
        });
    }
    let stranger = handshake.stranger.as_ref()?;
    Some(PeerCertificate {
        hash: stranger.sha256_hex.clone(),
        subject: stranger.subject.clone(),
        uri_sans: stranger.uris.clone(),
        dns_sans: stranger.dns_names.clone(),
        pem: xfcc::url_encoded(&stranger.pem),
        chain_pem: String::new(),
    })
}

async fn accept_tls(
    worker: &Worker,
    tls: &Arc<DownstreamTls>,
    chain: &FilterChain,
    arrival: &Arrival,
    replay: Replay,
) -> anyhow::Result<(Transport, HandshakeInfo)> {
    // RFC 7301 ends a handshake without a common protocol; BoringSSL, and so every stock peer, goes on without one.
    let has_common = match &arrival.spoken {
        Spoken::Tls(hello) if !hello.alpn.is_empty() => tls
            .alpn
            .iter()
            .any(|own| hello.alpn.iter().any(|o| **o == **own)),
        _ => true,
    };
    let setup = worker.shared.tls.server(tls, has_common)?;
    let limit = chain
        .transport_socket_connect_timeout
        .unwrap_or(HANDSHAKE_LIMIT);
    let accepting = TlsAcceptor::from(setup.config).accept(ReadAhead::new(replay));
    let stream = tokio::time::timeout(limit, accepting).await??;
    let (state, now) = (stream.get_ref().1, SystemTime::now());
    let handshake = match &setup.local {
        Some(identity) => HandshakeInfo::new(state, Some(identity), now)?,
        None => HandshakeInfo::at_edge(state, now)?,
    };
    Ok((Transport::tls(stream), handshake))
}
