//! Connects to a host: socket, TLS in the host's context, and for HTTP a lease from the worker's pools.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use meltemi_pki::HandshakeInfo;
use meltemi_proxy_core::alpn;
use meltemi_proxy_core::error::ResetReason;
use meltemi_proxy_core::runtime::{AlpnOverrides, AlpnProtocol, CertificateSource};
use rustls_pki_types::ServerName;
use tokio::sync::Notify;
use tokio_rustls::TlsConnector;

use super::cluster::{Slot, Upstream};
use super::connection::{self, ConnectionFacts};
use super::host::{ActiveConnection, Host, HostTls};
use super::pool::{Admission, Lease, Place, Pool, PoolKey, PoolProtocol, Turn};
use crate::http::wire::Wire;
use crate::http1::{Client, ClientOptions};
use crate::io::{ReadAhead, Replay, Socket, Transport};
use crate::listener::socket::{self, UpstreamSocketOptions};
use crate::telemetry::tls::Row;
use crate::worker::{Shared, Worker};

/// Why there is no connection.
#[derive(Debug, Clone)]
pub(crate) struct ConnectError {
    pub(crate) reason: ResetReason,
    /// For people: what the transport said.
    pub(crate) failure: Option<String>,
}

impl ConnectError {
    fn new(reason: ResetReason, failure: impl ToString) -> Self {
        Self {
            reason,
            failure: Some(failure.to_string()),
        }
    }

    /// A circuit breaker is open.
    fn overflow() -> Self {
        Self {
            reason: ResetReason::Overflow,
            failure: None,
        }
    }
}

/// What a TLS handshake offers.
#[derive(Clone, Default)]
pub(crate) enum Alpn {
    #[default]
    OfTheCluster,
    These(Arc<[Arc<str>]>),
    /// As the request's filter says (`istio.alpn`).
    Overridden(Arc<AlpnOverrides>, AlpnProtocol),
}

/// What a connection is asked to be.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    pub(crate) alpn: Alpn,
    /// The server name of clusters with `auto_sni`.
    pub(crate) server_name: Option<Arc<str>>,
}

/// A connection with what keeps it counted.
pub(crate) struct Connected {
    pub(crate) transport: Transport,
    pub(crate) facts: Arc<ConnectionFacts>,
    pub(crate) guard: ConnectedGuard,
}

/// Lives as long as the connection.
pub(crate) struct ConnectedGuard {
    _connection: ActiveConnection,
    _slot: Slot,
    _row: Row,
}

/// Opens a connection to `host`, within the cluster's connect timeout, TLS included. At `max_connections` there is none:
/// nothing comes back for which it could wait.
pub(crate) async fn connect(
    shared: &Shared,
    upstream: &Upstream,
    host: &Host,
    wish: &Wish,
) -> Result<Connected, ConnectError> {
    let limit = upstream.thresholds(false).max_connections;
    let slot =
        Slot::for_connection(&upstream.stats, limit, false).ok_or_else(ConnectError::overflow)?;
    connect_in(shared, upstream, host, wish, None, slot).await
}

async fn connect_in(
    shared: &Shared,
    upstream: &Upstream,
    host: &Host,
    wish: &Wish,
    protocol: Option<PoolProtocol>,
    slot: Slot,
) -> Result<Connected, ConnectError> {
    let timeout = upstream.config.connect_timeout;
    let result = match tokio::time::timeout(
        timeout,
        connect_unbounded(shared, upstream, host, wish),
    )
    .await
    {
        Ok(result) => result,
        Err(_) => Err(ConnectError {
            reason: ResetReason::ConnectionTimeout,
            failure: None,
        }),
    };
    match result {
        Ok((transport, mut facts)) => {
            facts.is_http2 = protocol == Some(PoolProtocol::Http2);
            facts.principals = host.state.principals(facts.handshake.as_ref());
            let row = evidence(shared, upstream, host, facts.handshake.as_ref());
            upstream.stats.connections.add(1);
            let guard = ConnectedGuard {
                _connection: ActiveConnection::new(&host.state),
                _slot: slot,
                _row: row,
            };
            Ok(Connected {
                transport,
                facts: Arc::new(facts),
                guard,
            })
        }
        Err(error) => {
            host.state.connect_failures.add(1);
            upstream.stats.connect_failures.add(1);
            let text = error
                .failure
                .clone()
                .unwrap_or_else(|| error.reason.as_str().to_owned());
            let mode = host
                .tls
                .as_ref()
                .map_or("plaintext", |tls| wanted_mode(tls));
            shared.telemetry.tls.upstream_failed(
                &upstream.config.name,
                &host.address.to_string(),
                mode,
                text,
            );
            Err(error)
        }
    }
}

fn wanted_mode(tls: &HostTls) -> &'static str {
    if matches!(tls.context.certificate, Some(CertificateSource::Sds(_))) {
        "mtls"
    } else {
        "tls"
    }
}

fn evidence(
    shared: &Shared,
    upstream: &Upstream,
    host: &Host,
    handshake: Option<&HandshakeInfo>,
) -> Row {
    shared
        .telemetry
        .tls
        .upstream(&upstream.config.name, &host.address.to_string(), handshake)
}

async fn connect_unbounded(
    shared: &Shared,
    upstream: &Upstream,
    host: &Host,
    wish: &Wish,
) -> Result<(Transport, ConnectionFacts), ConnectError> {
    if is_own(shared, host.address) {
        return Err(ConnectError::new(
            ResetReason::LocalConnectionFailure,
            "the destination is this proxy itself",
        ));
    }
    let options = UpstreamSocketOptions {
        mark: shared.socket_mark,
        source: source_for(upstream),
        keepalive: upstream.config.tcp_keepalive,
    };
    let stream = socket::connect(host.address, options)
        .await
        .map_err(|error| ConnectError::new(ResetReason::RemoteConnectionFailure, error))?;
    let local = stream.local_addr().ok();
    let replay = Replay::from(Socket::Tcp(stream));
    let Some(tls) = &host.tls else {
        return Ok((
            Transport::Plain(replay),
            ConnectionFacts {
                local,
                handshake: None,
                ..ConnectionFacts::default()
            },
        ));
    };
    let (transport, handshake) = secure(shared, host, tls, wish, replay)
        .await
        .map_err(|error| ConnectError::new(ResetReason::RemoteConnectionFailure, error))?;
    Ok((
        transport,
        ConnectionFacts {
            local,
            handshake: Some(handshake),
            ..ConnectionFacts::default()
        },
    ))
}

async fn secure(
    shared: &Shared,
    host: &Host,
    tls: &HostTls,
    wish: &Wish,
    replay: Replay,
) -> Result<(Transport, HandshakeInfo), String> {
    let failed = |error: &dyn std::fmt::Display| format!("TLS_error:|{error}");
    let alpn = match &wish.alpn {
        Alpn::OfTheCluster => None,
        Alpn::These(protocols) => Some(protocols),
        Alpn::Overridden(overrides, protocol) => {
            Some(alpn::for_upstream(Some(overrides), *protocol, &tls.context))
        }
    };
    let name = server_name(host, tls, wish);
    let setup = shared
        .tls
        .client(&tls.context, tls.fingerprint, alpn, name.is_some())
        .map_err(|error| {
            let error = anyhow::Error::new(error);
            failed(&format!("{error:#}"))
        })?;
    let name = match name {
        Some(name) => meltemi_pki::server_name(name).map_err(|error| failed(&error))?,
        None => ServerName::from(host.address.ip()),
    };
    let stream = TlsConnector::from(setup.config)
        .connect(name, ReadAhead::new(replay))
        .await
        .map_err(|error| {
            let cause = error
                .get_ref()
                .and_then(|inner| inner.downcast_ref::<rustls::Error>());
            match cause {
                Some(cause) => failed(&meltemi_pki::explain(cause)),
                None => failed(&error),
            }
        })?;
    let state = stream.get_ref().1;
    let now = SystemTime::now();
    let handshake = if setup.mesh {
        HandshakeInfo::new(state, setup.local.as_ref(), now)
    } else {
        HandshakeInfo::without_peer(state, setup.local.as_ref(), now)
    };
    let handshake = handshake.map_err(|error| failed(&error))?;
    Ok((Transport::tls(stream), handshake))
}

/// The server name to ask for and to verify, if there is one: the configured one, the request's, or the endpoint's.
///
/// Differs from Envoy: an endpoint outside the mesh that is configured by its host name is asked for by it without
/// `auto_host_sni`, too. With neither, Envoy sends no name and verifies the chain alone, and so do we.
fn server_name<'a>(host: &'a Host, tls: &'a HostTls, wish: &'a Wish) -> Option<&'a str> {
    let context = &tls.context;
    if let Some(name) = context.sni.as_deref().or(wish.server_name.as_deref()) {
        return Some(name);
    }
    let uses_host = context.auto_host_sni || !super::tls::is_mesh(context);
    Some(&*host.endpoint.hostname).filter(|hostname| uses_host && !hostname.is_empty())
}

/// Inbound passthrough comes from 127.0.0.6, which the capture rules let through. Elsewhere the kernel chooses.
fn source_for(upstream: &Upstream) -> Option<std::net::IpAddr> {
    upstream
        .config
        .source_address
        .filter(|source| !source.is_unspecified())
}

/// Whether the address is one of the ports that captured connections are redirected to: a loop.
fn is_own(shared: &Shared, address: SocketAddr) -> bool {
    let own = socket::is_loopback(address.ip()) || shared.own_ips.contains(&address.ip());
    own && shared.own_ports.contains(&address.port())
}

/// Gets a connection for one HTTP request: an idle or shared one, or a new one.
pub(crate) async fn lease(
    worker: &Worker,
    upstream: &Upstream,
    host: &Host,
    protocol: PoolProtocol,
    wish: &Wish,
    fresh: bool,
) -> Result<Lease, ConnectError> {
    let key = PoolKey {
        cluster: upstream.config.name.clone(),
        address: host.address,
        tls: host.fingerprint(),
        protocol,
        source: upstream.config.source_address,
        server_name: wish.server_name.clone(),
    };
    let pool = worker.pools.get(&key, upstream.limits);
    let at_hand = match protocol {
        PoolProtocol::Http11 if fresh => None,
        PoolProtocol::Http11 => pool.take_idle(),
        PoolProtocol::Http2 => pool.take_stream(),
    };
    if let Some(lease) = at_hand {
        return Ok(lease);
    }
    let limit = upstream.thresholds(false).max_pending_requests;
    let _pending = Slot::take(&upstream.stats, |stats| &stats.pending_requests, limit)
        .ok_or_else(ConnectError::overflow)?;
    // Boxed, here and below: a handshake's state is large, and most requests need none.
    match protocol {
        PoolProtocol::Http11 => {
            Box::pin(lease_own(worker, upstream, host, wish, &pool, fresh)).await
        }
        PoolProtocol::Http2 => Box::pin(lease_stream(worker, upstream, host, wish, &pool)).await,
    }
}

/// Waits for an HTTP/1 connection, one that comes back or a new one.
async fn lease_own(
    worker: &Worker,
    upstream: &Upstream,
    host: &Host,
    wish: &Wish,
    pool: &Arc<Pool>,
    fresh: bool,
) -> Result<Lease, ConnectError> {
    let limit = upstream.thresholds(false).max_connections;
    loop {
        let waiting = match pool.admit(&upstream.stats, limit, fresh) {
            Admission::Lease(lease) => return Ok(lease),
            Admission::Connect(slot, place) => {
                return make_own(worker, upstream, host, wish, pool, (slot, place)).await;
            }
            Admission::Wait(waiting) => waiting,
        };
        match waiting.turn().await {
            Turn::Connection(connection) => return Ok(pool.lease(connection)),
            Turn::Failed(error) => return Err(error),
            Turn::Ask => {}
        }
    }
}

async fn make_own(
    worker: &Worker,
    upstream: &Upstream,
    host: &Host,
    wish: &Wish,
    pool: &Arc<Pool>,
    (slot, mut place): (Slot, Place),
) -> Result<Lease, ConnectError> {
    let protocol = Some(PoolProtocol::Http11);
    let connected = connect_in(&worker.shared, upstream, host, wish, protocol, slot).await;
    let connected = connected.inspect_err(|error| place.failure = Some(error.clone()))?;
    let http1 = &upstream.config.http.http1;
    let options = ClientOptions {
        preserve_header_case: http1.preserve_header_case,
        enable_trailers: http1.enable_trailers,
    };
    let client = Client::new(Wire::upstream(connected.transport), options);
    // In this order they end: who is told of the place finds the slot free.
    let guard = (connected.guard, place);
    Ok(pool.lease_new_own(client, connected.facts, guard))
}

/// Waits for a stream of an HTTP/2 connection, one that is there or a new one.
async fn lease_stream(
    worker: &Worker,
    upstream: &Upstream,
    host: &Host,
    wish: &Wish,
    pool: &Arc<Pool>,
) -> Result<Lease, ConnectError> {
    let waiting = pool.dial.join();
    let _turn = match waiting.turn().await {
        Ok(turn) => turn,
        // It may have failed before a connection was there for all.
        Err(error) => return pool.take_stream().ok_or(error),
    };
    let limit = upstream.thresholds(false).max_connections;
    loop {
        if let Some(lease) = pool.take_stream() {
            return Ok(lease);
        }
        match Slot::for_connection(&upstream.stats, limit, pool.has_no_shared()) {
            Some(slot) => {
                let dialled = dial(worker, upstream, host, wish, pool, slot).await;
                if let Err(error) = &dialled {
                    pool.dial.failed(error);
                }
                return dialled;
            }
            None => pool.freed.notified().await,
        }
    }
}

/// Tells a pool that a connection has ended.
struct Freed(Arc<Notify>);

impl Drop for Freed {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Makes an HTTP/2 connection and takes its first stream.
async fn dial(
    worker: &Worker,
    upstream: &Upstream,
    host: &Host,
    wish: &Wish,
    pool: &Pool,
    slot: Slot,
) -> Result<Lease, ConnectError> {
    let protocol = Some(PoolProtocol::Http2);
    let connected = connect_in(&worker.shared, upstream, host, wish, protocol, slot).await?;
    let guard = (connected.guard, Freed(pool.freed.clone()));
    let (sender, streams) = tokio::time::timeout(
        HTTP2_HANDSHAKE_LIMIT,
        connection::http2(connected.transport, guard),
    )
    .await
    .map_err(|_| ConnectError {
        reason: ResetReason::ConnectionTimeout,
        failure: None,
    })?
    .map_err(|error| ConnectError::new(ResetReason::ConnectionTermination, error))?;
    Ok(pool.lease_new_stream(sender, connected.facts, streams))
}

const HTTP2_HANDSHAKE_LIMIT: Duration = Duration::from_secs(10);
