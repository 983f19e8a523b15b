use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use meltemi_proxy_core::access_log;
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::filter_chain::{ConnectionFacts, match_filter_chain};
use meltemi_proxy_core::record::{ConnectionRecord, Protocol, RequestRecord};
use meltemi_proxy_core::runtime::{InspectorKind, Listener, TransportProtocol};
use tokio::net::{TcpListener, TcpStream};

use super::inspect::Spoken;
use super::sniff::{Inspection, SniffError, sniff};
use super::socket::{original_dst, unmapped};
use crate::config::demand::{Hold, Unanswered};
use crate::downstream::{self, Arrival};
use crate::io::Socket;
use crate::worker::Worker;

/// Pause after a failed `accept` (no file descriptor left), instead of spinning.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// A connection as it was handed over by the kernel, or by the admin port's tunnel.
pub(crate) struct Accepted {
    pub(crate) socket: Socket,
    pub(crate) peer: SocketAddr,
    /// Where the client wanted to go: the address before redirection, or the local one.
    pub(crate) destination: SocketAddr,
}

/// Accepts for one bound listener until it is cancelled. The listener's current configuration is looked up for every
/// connection, so an update needs no new socket.
pub(crate) async fn accept_loop(worker: Arc<Worker>, name: Arc<str>, socket: TcpListener) {
    loop {
        match socket.accept().await {
            Ok((stream, peer)) => {
                let worker = worker.clone();
                let name = name.clone();
                tokio::spawn(async move {
                    if let Some(listener) = worker.shared.store.listener(&name) {
                        let accepted = describe(stream, peer);
                        serve(&worker, listener, accepted).await;
                    }
                });
            }
            Err(error) => {
                tracing::warn!(listener = %name, %error, "cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn describe(stream: TcpStream, peer: SocketAddr) -> Accepted {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
    let local = || {
        stream
            .local_addr()
            .unwrap_or_else(|_| SocketAddr::from(([0, 0, 0, 0], 0)))
    };
    let destination = original_dst(&stream).unwrap_or_else(local);
    Accepted {
        socket: Socket::Tcp(stream),
        peer: unmapped(peer),
        destination: unmapped(destination),
    }
}

/// Serves one connection to its end.
pub(crate) async fn serve(worker: &Arc<Worker>, bound: Arc<Listener>, mut accepted: Accepted) {
    let (listener, _in_use) = match hand_over(worker, &bound, accepted.destination).await {
        Ok(found) => found,
        Err(Unanswered) => {
            tracing::warn!(destination = %accepted.destination, "no configuration for a connection came in time, reset");
            accepted.socket.reset_on_close();
            log_unserved(worker, &bound, &accepted, None, ErrorKind::NotDiscovered);
            return;
        }
    };
    let inspection = inspection(&listener, accepted.destination.port());
    let (spoken, prefix) = match sniff(&mut accepted.socket, inspection).await {
        Ok(sniffed) => sniffed,
        Err(SniffError::Silent) => return,
        Err(error) => {
            tracing::debug!(listener = %listener.name, peer = %accepted.peer, %error, "refused a connection");
            accepted.socket.reset_on_close();
            return;
        }
    };
    let (server_name, protocols) = names(&spoken);
    let facts = ConnectionFacts {
        destination: accepted.destination,
        source: accepted.peer,
        direct_source: accepted.peer.ip(),
        server_name,
        transport: transport(&spoken),
        application_protocols: &protocols,
    };
    let Some(chain) = match_filter_chain(&listener, &facts).cloned() else {
        // STRICT mutual TLS: plain text finds no chain and is reset before a byte of it goes on.
        worker.shared.telemetry.counters.no_filter_chain.add(1);
        tracing::debug!(listener = %listener.name, peer = %accepted.peer, "no filter chain matches, reset");
        accepted.socket.reset_on_close();
        let kind = ErrorKind::FilterChainNotFound;
        log_unserved(worker, &listener, &accepted, server_name, kind);
        return;
    };
    let arrival = Arrival {
        peer: accepted.peer,
        destination: accepted.destination,
        server_name: server_name.map(Arc::from),
        spoken: spoken.clone(),
    };
    downstream::serve(worker, listener, chain, arrival, accepted.socket, prefix).await;
}

/// The listener's access log tells of connections that no chain wanted (flag `NR`), or that nobody knew in time (`NC`).
fn log_unserved(
    worker: &Worker,
    listener: &Listener,
    accepted: &Accepted,
    server_name: Option<&str>,
    kind: ErrorKind,
) {
    if listener.access_log.is_empty() {
        return;
    }
    let connection = ConnectionRecord {
        id: 0,
        direction: listener.traffic_direction,
        listener: listener.name.clone(),
        filter_chain: Arc::from(""),
        local_address: accepted.destination,
        remote_address: accepted.peer,
        direct_remote_address: accepted.peer,
        requested_server_name: server_name.map(Arc::from),
        tls: None,
        transport_failure: None,
    };
    let mut record = RequestRecord::new(Arc::new(connection), Protocol::Tcp, SystemTime::now());
    record.fail(kind.into());
    record.status = None;
    for log in &listener.access_log {
        let admitted = log
            .filter
            .as_ref()
            .is_none_or(|filter| access_log::admits(filter, &record, rand::random()));
        if admitted {
            let line = access_log::render(&log.format, &record).into_bytes();
            worker.shared.telemetry.log.put(log.sink.clone(), line);
        }
    }
}

/// `use_original_dst`: the listener of the original destination serves, or else the accepting one.
async fn hand_over(
    worker: &Worker,
    bound: &Arc<Listener>,
    destination: SocketAddr,
) -> Result<(Arc<Listener>, Vec<Hold>), Unanswered> {
    let store = &worker.shared.store;
    if !bound.use_original_dst {
        return Ok((bound.clone(), Vec::new()));
    }
    let (found, holds) = match &store.demand {
        Some(demand) => demand.listener(&store.listeners, destination).await?,
        None => (
            store.listeners.load().find(destination).cloned(),
            Vec::new(),
        ),
    };
    Ok((found.unwrap_or_else(|| bound.clone()), holds))
}

fn inspection(listener: &Listener, port: u16) -> Inspection {
    let has = |kind| {
        listener
            .listener_filters
            .iter()
            .any(|f| f.kind == kind && f.is_enabled_for(port))
    };
    Inspection {
        tls: has(InspectorKind::Tls),
        http: has(InspectorKind::Http),
        timeout: listener.listener_filters_timeout,
        continue_on_timeout: listener.continue_on_listener_filters_timeout,
    }
}

pub(crate) fn transport(spoken: &Spoken) -> TransportProtocol {
    match spoken {
        Spoken::Tls(_) => TransportProtocol::Tls,
        _ => TransportProtocol::RawBuffer,
    }
}

/// SNI and protocols as filter chains match them: ALPN, or what the HTTP inspector calls the versions.
pub(crate) fn names(spoken: &Spoken) -> (Option<&str>, Vec<&str>) {
    match spoken {
        Spoken::Tls(hello) => (
            hello.server_name.as_deref(),
            hello.alpn.iter().map(String::as_str).collect(),
        ),
        Spoken::Http10 => (None, vec!["http/1.0"]),
        Spoken::Http11 => (None, vec!["http/1.1"]),
        Spoken::Http2 => (None, vec!["h2c"]),
        Spoken::Opaque => (None, Vec::new()),
    }
}
