//! The end of a TCP connection: its series and its access-log line.

use std::sync::Arc;

use meltemi_proxy_core::record::{Protocol, RequestRecord, UpstreamRecord};
use meltemi_proxy_core::runtime::NetworkFilter;

use super::serve::Session;
use crate::downstream::tls_record;
use crate::telemetry::labels::{Attributes, Sides};
use crate::telemetry::series::TcpSeries;

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
    let facts = session.facts.as_ref();
    let sides = Sides {
        inbound: downstream.is_inbound(),
        own: &telemetry.own.workload,
        downstream_peer: session.downstream_peer.as_deref(),
        downstream: downstream.handshake.as_ref(),
        upstream_peer: session.upstream_peer.as_deref(),
        upstream: facts.and_then(|facts| facts.handshake.as_ref()),
        cluster: session.upstream.as_ref().map(|upstream| &*upstream.config),
        cluster_name: session.cluster_name.as_deref(),
        route: None,
        host: None,
    };
    let flags = session.flags.to_string();
    telemetry
        .tcp
        .get(&Attributes::new(&sides, "tcp", None, &flags).render())
}

/// Counts a connection that ended before it was one with an upstream, once its flags are known.
pub(crate) fn count_failed(session: &Session) {
    let series = series(session);
    series.opened.add(1);
    series.closed.add(1);
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
    let telemetry = &session.worker.shared.telemetry;
    telemetry.log.tell(logs, &record(session));
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
    record.authorization = session.authorization.clone();
    record.details = (!session.details.is_empty()).then(|| Arc::from(session.details.as_str()));
    record.bytes_received = session.copied.to_upstream;
    record.bytes_sent = session.copied.to_downstream;
    record.duration = session.started.elapsed();
    record
}
