//! The end of an exchange: its numbers to the metrics, its line to the access log.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Version;
use meltemi_proxy_core::access_log;
use meltemi_proxy_core::record::{Protocol, RequestRecord, UpstreamRecord};
use meltemi_proxy_core::runtime::LogPiece;

use super::exchange::{Exchange, SeriesKey, State};
use crate::downstream::tls_record;
use crate::telemetry::labels::{Attributes, Response, Sides};
use crate::telemetry::series::HttpSeries;
use crate::telemetry::unknown_destination;

/// Tells metrics and logs of a completed exchange.
pub(crate) fn tell(exchange: &Exchange) {
    let telemetry = &exchange.connection.worker.shared.telemetry;
    if exchange.connection.plan.stats.is_some() {
        count(exchange);
    }
    let logs = &exchange.connection.manager.access_log;
    if logs.is_empty() {
        return;
    }
    let mut record = record(exchange);
    if let Some(path) = exchange.connection.plan.without_tokens(&record.path) {
        record.path = path;
    }
    telemetry.log.tell(logs, &record);
}

fn count(exchange: &Exchange) {
    // An inbound series tells of the downstream's handshake, the same for all requests of its connection.
    let is_inbound = exchange.connection.downstream.is_inbound();
    let upstream_facts = exchange.facts.as_ref().filter(|_| !is_inbound);
    let principals = upstream_facts.map(|facts| facts.principals.clone());
    let key = SeriesKey {
        upstream: exchange
            .upstream
            .as_ref()
            .map_or(0, |upstream| Arc::as_ptr(&upstream.config) as usize),
        source: exchange
            .downstream_peer
            .as_ref()
            .map_or(0, |peer| Arc::as_ptr(peer) as usize),
        destination: exchange
            .upstream_peer
            .as_ref()
            .map_or(0, |peer| Arc::as_ptr(peer) as usize),
        principals: principals.as_ref().map_or(0, |p| Arc::as_ptr(p) as usize),
        called: called(exchange),
        status: exchange.status.map_or(0, |status| status.as_u16()),
        grpc: exchange.grpc_status,
        is_grpc: exchange.head.is_grpc,
        flags: exchange.flags,
    };
    // Keys are addresses: the memo keeps alive what they point to, so that no address comes back as something else.
    let held = (
        exchange.upstream.clone(),
        exchange.downstream_peer.clone(),
        exchange.upstream_peer.clone(),
        principals,
    );
    let series = exchange
        .connection
        .series
        .get(key, held, || find_series(exchange));
    series.requests.add(1);
    let micros = u64::try_from(exchange.started.elapsed().as_micros()).unwrap_or(u64::MAX);
    series.duration.observe_thousandths(micros);
    series
        .request_bytes
        .observe_thousandths(received_bytes(exchange) * 1000);
    series
        .response_bytes
        .observe_thousandths(exchange.sent_bytes * 1000);
    if exchange.head.is_grpc {
        series.request_messages.add(
            exchange
                .request_body
                .as_ref()
                .map_or(0, |body| body.messages()),
        );
        series.response_messages.add(exchange.sent_messages);
    }
}

/// What the client calls a destination, where Istio's stats filter takes that for the service.
fn fallback_host(exchange: &Exchange) -> Option<&str> {
    let stats = exchange.connection.plan.stats.as_ref()?;
    let host = exchange.head.authority.as_str();
    (!stats.disable_host_header_fallback && !host.is_empty()).then_some(host)
}

fn route_name(exchange: &Exchange) -> Option<&str> {
    exchange.route.as_ref().map(|route| &*route.name)
}

/// Identifies a destination by what it is called, if no service tells what it is.
fn called(exchange: &Exchange) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    let upstream = exchange.upstream.as_ref();
    if upstream.is_some_and(|upstream| !upstream.config.services.is_empty()) {
        return 0;
    }
    let nobody = route_name(exchange).and_then(unknown_destination);
    match (fallback_host(exchange), nobody) {
        (None, None) => 0,
        called => BuildHasherDefault::<DefaultHasher>::default().hash_one(called),
    }
}

fn received_bytes(exchange: &State) -> u64 {
    exchange
        .request_body
        .as_ref()
        .map_or(0, |body| body.bytes())
        + exchange.tunnelled_bytes
}

fn find_series(exchange: &Exchange) -> Arc<HttpSeries> {
    let telemetry = &exchange.connection.worker.shared.telemetry;
    let downstream = &exchange.connection.downstream;
    let facts = exchange.facts.as_ref();
    let upstream = exchange.upstream.as_ref();
    let is_service = upstream.is_some_and(|upstream| !upstream.config.services.is_empty());
    let host = fallback_host(exchange)
        .filter(|_| !is_service)
        .filter(|host| telemetry.hosts.admits(host));
    let sides = Sides {
        inbound: downstream.is_inbound(),
        own: &telemetry.own.workload,
        downstream_peer: exchange.downstream_peer.as_deref(),
        downstream: downstream.handshake.as_ref(),
        upstream_peer: exchange.upstream_peer.as_deref(),
        upstream: facts.and_then(|facts| facts.handshake.as_ref()),
        cluster: exchange.upstream.as_ref().map(|upstream| &*upstream.config),
        cluster_name: exchange.cluster_name.as_deref(),
        route: route_name(exchange),
        host,
    };
    let is_grpc = exchange.head.is_grpc;
    let grpc_status = match exchange.grpc_status {
        Some(code) if is_grpc => code.to_string(),
        _ => String::new(),
    };
    let response = Response {
        code: exchange.status.map_or(0, |status| status.as_u16()),
        grpc_status: &grpc_status,
    };
    let protocol = if is_grpc { "grpc" } else { "http" };
    let flags = exchange.flags.to_string();
    let attributes = Attributes::new(&sides, protocol, Some(response), &flags);
    telemetry.http.get(&attributes.render())
}

/// A record of everything known so far.
pub(crate) fn record(exchange: &State) -> RequestRecord {
    let head = &exchange.head;
    let connection = exchange.connection.downstream.record.clone();
    let mut record = RequestRecord::new(connection, protocol(head.version), exchange.started_at);
    record.client = head.client.map(|client| SocketAddr::new(client, 0));
    record.method = head.method.clone();
    record.path = head.path.as_str().into();
    record.authority = head.authority.as_str().into();
    record.scheme = head.scheme;
    record.request_headers = head.headers.clone();
    record.response_headers = exchange.response_headers.clone().unwrap_or_default();
    record.response_trailers = exchange.response_trailers.clone().unwrap_or_default();
    record.virtual_host = exchange.virtual_host.clone();
    record.route = exchange.route.clone();
    record.cluster_name = exchange.cluster_name.clone();
    record.cluster = exchange
        .upstream
        .as_ref()
        .map(|upstream| upstream.config.clone());
    record.upstream = upstream(exchange);
    record.status = exchange.status;
    record.grpc_status = exchange.grpc_status;
    record.is_grpc = head.is_grpc;
    record.flags = exchange.flags;
    record.details = Some(Arc::from(&*exchange.details));
    record.error = exchange.error.clone();
    record.authorization = exchange.authorization.clone();
    record.bytes_received = received_bytes(exchange);
    record.bytes_sent = exchange.sent_bytes;
    record.request_messages = exchange
        .request_body
        .as_ref()
        .map_or(0, |body| body.messages());
    record.response_messages = exchange.sent_messages;
    record.duration = exchange.started.elapsed();
    record.response_duration = exchange
        .first_byte
        .map(|at| at.duration_since(exchange.started));
    record
}

fn upstream(exchange: &State) -> UpstreamRecord {
    let facts = exchange.facts.as_ref();
    UpstreamRecord {
        endpoint: exchange.host.as_ref().map(|host| host.endpoint.clone()),
        remote_address: exchange.host.as_ref().map(|host| host.address),
        local_address: facts.and_then(|facts| facts.local),
        protocol: facts.map(|facts| {
            if facts.is_http2 {
                Protocol::Http2
            } else {
                Protocol::Http11
            }
        }),
        tls: facts
            .and_then(|facts| facts.handshake.as_ref())
            .map(tls_record),
        transport_failure: exchange.transport_failure.clone(),
        attempts: exchange.attempts,
    }
}

fn protocol(version: Version) -> Protocol {
    match version {
        Version::HTTP_10 | Version::HTTP_09 => Protocol::Http10,
        Version::HTTP_2 | Version::HTTP_3 => Protocol::Http2,
        _ => Protocol::Http11,
    }
}

/// The value of a header that the configuration writes with operators.
pub(crate) fn format(exchange: &State, pieces: &[LogPiece]) -> String {
    access_log::render_pieces(pieces, &record(exchange))
}
