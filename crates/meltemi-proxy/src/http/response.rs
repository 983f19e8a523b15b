//! What happens to the head of an upstream's response before it goes on.

use std::sync::Arc;

use http::header::HeaderValue;
use http::response::Parts;
use http::{HeaderMap, StatusCode, header};
use meltemi_proxy_core::headers;
use meltemi_proxy_core::runtime::{PeerMetadataMethod, WeightedCluster};

use super::exchange::Exchange;
use super::forward::Matched;
use super::headers::{ATTEMPT_COUNT, PEER_METADATA, PEER_METADATA_ID, SERVICE_TIME, number};
use super::{filters, record, respond};
use crate::upstream::Host;

/// Rewrites the head for the downstream.
pub(crate) fn finish(
    exchange: &mut Exchange,
    matched: &Matched,
    weighted: Option<&WeightedCluster>,
    host: &Arc<Host>,
    parts: &mut Parts,
) {
    let upgrade = (parts.status == StatusCode::SWITCHING_PROTOCOLS)
        .then(|| parts.headers.get(header::UPGRADE).cloned());
    headers::remove_hop_by_hop(&mut parts.headers);
    if let Some(Some(kind)) = upgrade {
        parts
            .headers
            .insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        parts.headers.insert(header::UPGRADE, kind);
    }
    upstream_peer(exchange, host, &mut parts.headers);
    let router = exchange.connection.manager.router;
    if !router.suppress_envoy_headers {
        let millis = u64::try_from(exchange.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        parts.headers.insert(SERVICE_TIME, number(millis));
    }
    mutate(exchange, matched, weighted, &mut parts.headers);
    if matched.host.include_attempt_count_in_response {
        parts
            .headers
            .insert(ATTEMPT_COUNT, number(exchange.attempts.into()));
    }
    filters::on_response(exchange, matched, &mut parts.headers);
    filters::on_any_response(exchange, &mut parts.headers);
    if exchange
        .connection
        .manager
        .always_set_request_id_in_response
        && let Some(id) = exchange.head.headers.get(super::headers::REQUEST_ID)
    {
        parts.headers.insert(super::headers::REQUEST_ID, id.clone());
    }
    if let Some(via) = &exchange.connection.manager.via {
        parts.headers.append(header::VIA, via.clone());
    }
    introduce(exchange, &mut parts.headers);
    if let Some(cookie) = exchange
        .set_cookie
        .take()
        .and_then(|cookie| HeaderValue::from_str(&cookie).ok())
    {
        parts.headers.append(header::SET_COOKIE, cookie);
    }
    respond::server_header(exchange, &mut parts.headers);
}

/// Header operations on the response, the most specific first unless the configuration turns the order around.
pub(crate) fn mutate(
    exchange: &Exchange,
    matched: &Matched,
    weighted: Option<&WeightedCluster>,
    map: &mut HeaderMap,
) {
    let mut levels = [
        weighted.map(|weighted| &weighted.response_headers),
        Some(&matched.route.response_headers),
        Some(&matched.host.response_headers),
        Some(&matched.config.response_headers),
    ];
    if matched.config.most_specific_header_mutations_wins {
        levels.reverse();
    }
    for mutations in levels
        .into_iter()
        .flatten()
        .filter(|mutations| !mutations.is_empty())
    {
        headers::apply(mutations, map, &|pieces: &[_]| {
            record::format(exchange, pieces)
        });
    }
}

/// Learns who answered: by its own word, else by what the control plane says of the endpoint.
fn upstream_peer(exchange: &mut Exchange, host: &Host, map: &mut HeaderMap) {
    let reads = exchange
        .connection
        .plan
        .peer_metadata
        .as_deref()
        .is_some_and(|exchanges| {
            exchanges
                .upstream_discovery
                .iter()
                .any(|m| matches!(m, PeerMetadataMethod::IstioHeaders { .. }))
        });
    let mut said = None;
    if reads {
        map.remove(PEER_METADATA_ID);
        said = map
            .remove(PEER_METADATA)
            .and_then(|value| exchange.connection.upstream_peers.resolve(&value));
    }
    exchange.upstream_peer = said.or_else(|| host.workload.clone());
}

/// Says who we are to a downstream that introduced itself.
fn introduce(exchange: &Exchange, map: &mut HeaderMap) {
    let propagates = exchange
        .connection
        .plan
        .peer_metadata
        .as_deref()
        .is_some_and(|exchanges| {
            exchanges
                .downstream_propagation
                .iter()
                .any(|m| matches!(m, PeerMetadataMethod::IstioHeaders { .. }))
        });
    if propagates && exchange.peer_asked {
        let own = &exchange.connection.worker.shared.telemetry.own;
        map.insert(PEER_METADATA_ID, own.id.clone());
        map.insert(PEER_METADATA, own.header.clone());
    }
}
