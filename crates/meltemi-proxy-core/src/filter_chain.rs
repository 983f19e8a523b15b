//! Selects the filter chain of a connection.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;

use crate::request::lower;
use crate::runtime::{FilterChain, Listener, ServerNames, SourceType, TransportProtocol};

/// What is known of a connection when its chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The original destination, or the local address.
    pub destination: SocketAddr,
    pub source: SocketAddr,
    /// The peer of the socket; differs from `source` behind a PROXY protocol.
    pub direct_source: IpAddr,
    /// SNI.
    pub server_name: Option<&'a str>,
    pub transport: TransportProtocol,
    /// The ALPN values of the ClientHello in the client's order, or what the HTTP inspector found (`http/1.1`, `h2c`).
    pub application_protocols: &'a [&'a str],
}

/// Selects the chain for a connection, or the default chain; `None` closes the connection (flag `NR`).
///
/// The criteria are looked at one after another - destination port, destination address, server name, transport protocol,
/// application protocols, directly connected source, source type, source address, source port - and each keeps only the
/// chains that match it most specifically, without going back (Envoy `FilterChainMatch`).
pub fn match_filter_chain<'l>(
    listener: &'l Listener,
    facts: &ConnectionFacts<'_>,
) -> Option<&'l Arc<FilterChain>> {
    let mut left: Vec<&Arc<FilterChain>> = listener.filter_chains.iter().collect();
    let server_name = facts.server_name.map(|name| lower(name));
    let is_local = facts.source.ip() == facts.destination.ip() || facts.source.ip().is_loopback();

    keep_most_specific(&mut left, |m| {
        rank_port(m.destination_port, facts.destination.port())
    });
    keep_most_specific(&mut left, |m| {
        rank_address(&m.prefix_ranges, facts.destination.ip())
    });
    keep_most_specific(&mut left, |m| {
        rank_server_name(&m.server_names, server_name.as_deref())
    });
    keep_most_specific(&mut left, |m| match m.transport_protocol {
        None => Some(0),
        Some(wanted) => (wanted == facts.transport).then_some(1),
    });
    keep_most_specific(&mut left, |m| {
        rank_protocols(&m.application_protocols, facts.application_protocols)
    });
    keep_most_specific(&mut left, |m| {
        rank_address(&m.direct_source_prefix_ranges, facts.direct_source)
    });
    keep_most_specific(&mut left, |m| match m.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => is_local.then_some(1),
        SourceType::External => (!is_local).then_some(1),
    });
    keep_most_specific(&mut left, |m| {
        rank_address(&m.source_prefix_ranges, facts.source.ip())
    });
    keep_most_specific(&mut left, |m| match m.source_ports.as_slice() {
        [] => Some(0),
        ports => ports.contains(&facts.source.port()).then_some(1),
    });
    left.first()
        .copied()
        .or(listener.default_filter_chain.as_ref())
}

/// Ranks are `None` for no match, 0 for a criterion that is not set, more for more specific matches.
fn keep_most_specific(
    chains: &mut Vec<&Arc<FilterChain>>,
    rank: impl Fn(&crate::runtime::FilterChainMatch) -> Option<usize>,
) {
    let Some(best) = chains.iter().filter_map(|chain| rank(&chain.matches)).max() else {
        chains.clear();
        return;
    };
    chains.retain(|chain| rank(&chain.matches) == Some(best));
}

fn rank_port(wanted: Option<u16>, port: u16) -> Option<usize> {
    match wanted {
        None => Some(0),
        Some(wanted) => (wanted == port).then_some(1),
    }
}

/// By prefix length. A set criterion beats an unset one even for `/0`.
fn rank_address(ranges: &[IpNet], address: IpAddr) -> Option<usize> {
    if ranges.is_empty() {
        return Some(0);
    }
    let address = address.to_canonical();
    ranges
        .iter()
        .filter(|range| range.contains(&address))
        .map(|range| usize::from(range.prefix_len()) + 1)
        .max()
}

/// Exact names first, then the longest wildcard.
fn rank_server_name(names: &ServerNames, server_name: Option<&str>) -> Option<usize> {
    if names.is_empty() {
        return Some(0);
    }
    let server_name = server_name?;
    if names.exact.iter().any(|name| &**name == server_name) {
        return Some(usize::MAX);
    }
    names
        .suffixes
        .iter()
        .filter(|suffix| server_name.len() > suffix.len() && server_name.ends_with(&***suffix))
        .map(|suffix| suffix.len())
        .max()
}

/// The client's first protocol that any chain names wins.
fn rank_protocols(wanted: &[Arc<str>], offered: &[&str]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    let position = offered
        .iter()
        .position(|protocol| wanted.iter().any(|w| &**w == *protocol))?;
    Some(usize::MAX - position)
}

#[cfg(test)]
mod tests;
