//! The end of a TCP connection: its series and its access-log line.

use std::sync::Arc;

use meltemi_proxy_core::access_log;
use meltemi_proxy_core::record::{Protocol, RequestRecord, UpstreamRecord};
use meltemi_proxy_core::runtime::NetworkFilter;

use super::serve::Session;
use crate::downstream::tls_record;
use crate::telemetry::labels::Attributes;
use crate::telemetry::series::TcpSeries;
use crate::telemetry::{destination_service, security};

/// The series of a connection; without the stats filter one that nobody reads.
pub(crate) fn series(session: &Session) -> Arc<TcpSeries> {
    let telemetry = &session.worker.shared.telemetry;
    let downstream = &session.downstream;
    if !downstream
        .chain
        .filters
        .iter()
        .any(|filter| matches!(filter, NetworkFilter::Stats(_)))
    {
        return Arc::default();
    }
    let inbound = downstream.is_inbound();
    let own = Some(&*telemetry.own.workload);
    let handshake = if inbound {
        downstream.handshake.as_ref()
    } else {
        session
            .facts
            .as_ref()
            .and_then(|facts| facts.handshake.as_ref())
    };
    let local = handshake
        .and_then(|handshake| handshake.local.as_ref())
        .map(ToString::to_string);
    let peer = handshake
        .and_then(|handshake| handshake.peer.as_ref())
        .map(|peer| peer.identity.to_string());
    let (source, destination) = if inbound {
        (session.downstream_peer.as_deref(), own)
    } else {
        (own, session.upstream_peer.as_deref())
    };
    let (source_principal, destination_principal) = if inbound {
        (peer, local)
    } else {
        (local, peer)
    };
    let flags = session.flags.to_string();
    let attributes = Attributes {
        reporter: if inbound { "destination" } else { "source" },
        source,
        source_principal: source_principal.as_deref(),
        destination,
        destination_principal: destination_principal.as_deref(),
        service: destination_service(
            session.upstream.as_ref().map(|upstream| &*upstream.config),
            session.cluster_name.as_deref(),
            inbound.then_some(&*telemetry.own.workload),
        ),
        protocol: "tcp",
        response: None,
        response_flags: &flags,
        security: security(inbound, handshake),
    };
    telemetry.tcp.get(&attributes.render())
}

/// Writes the access log of a connection that has ended.
pub(crate) fn tell(session: &Session) {
    let logs = if session.proxy.access_log.is_empty() {
        &session.downstream.listener.access_log
    } else {
        &session.proxy.access_log
    };
    if logs.is_empty() {
        return;
    }
    let record = record(session);
    for log in logs {
        let admitted = log
            .filter
            .as_ref()
            .is_none_or(|filter| access_log::admits(filter, &record, rand::random()));
        if admitted {
            let line = access_log::render(&log.format, &record).into_bytes();
            session
                .worker
                .shared
                .telemetry
                .log
                .put(log.sink.clone(), line);
        }
    }
}

fn record(session: &Session) -> RequestRecord {
    let mut record = RequestRecord::new(
        session.downstream.record.clone(),
        Protocol::Tcp,
        session.started_at,
    );
    let facts = session.facts.as_ref();
    record.cluster_name = session.cluster_name.clone();
    record.cluster = session
        .upstream
        .as_ref()
        .map(|upstream| upstream.config.clone());
    record.upstream = UpstreamRecord {
        endpoint: session.host.as_ref().map(|host| host.endpoint.clone()),
        remote_address: session.host.as_ref().map(|host| host.address),
        local_address: facts.and_then(|facts| facts.local),
        protocol: None,
        tls: facts
            .and_then(|facts| facts.handshake.as_ref())
            .map(tls_record),
        transport_failure: session.transport_failure.clone(),
        attempts: session.attempts,
    };
    record.flags = session.flags;
    record.details = (!session.details.is_empty()).then(|| Arc::from(session.details.as_str()));
    record.bytes_received = session.copied.to_upstream;
    record.bytes_sent = session.copied.to_downstream;
    record.duration = session.started.elapsed();
    record
}
