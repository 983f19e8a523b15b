use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::config::listener::v3 as proto;
use meltemi_proto::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proto;
use meltemi_proto::envoy::r#type::v3::hash_policy::PolicySpecifier;
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::type_url;

use super::Scope;
use super::access_log::access_logs;
use super::cluster::metadata_exchange_filter;
use super::common::{cidr, is_true, limit, number, port, resolve, socket_address, unpack};
use super::ext_authz;
use super::filter::istio_stats;
use super::http_connection_manager::http_connection_manager;
use super::rbac;
use super::tls::downstream_socket;
use crate::runtime::{
    FilterChain, FilterChainMatch, InspectorKind, Listener, ListenerFilter, NetworkFilter,
    PortPredicate, ServerNames, SourceType, TcpProxy, TcpTarget, TcpWeightedCluster, Terminal,
    TrafficDirection, TransportProtocol,
};

/// Envoy's defaults.
const LISTENER_FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
const TCP_IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const BUFFER_LIMIT_BYTES: u32 = 1 << 20;

pub(super) fn listener(scope: &Scope<'_>, mut listener: proto::Listener) -> Option<Listener> {
    let address = socket_address(&scope.at("address"), listener.address.take());
    let additional_addresses = scope.each(
        "additional_addresses",
        take(&mut listener.additional_addresses),
        |scope, extra| socket_address(&scope.at("address"), extra.address),
    );
    let traffic_direction =
        match core::TrafficDirection::try_from(take(&mut listener.traffic_direction)) {
            Ok(core::TrafficDirection::Inbound) => TrafficDirection::Inbound,
            Ok(core::TrafficDirection::Outbound) => TrafficDirection::Outbound,
            Ok(core::TrafficDirection::Unspecified) => TrafficDirection::Unspecified,
            Err(_) => return scope.at("traffic_direction").refuse("is unknown"),
        };
    let filter_chains = filter_chains(scope, take(&mut listener.filter_chains));
    let default_filter_chain = match listener.default_filter_chain.take() {
        None => None,
        Some(chain) => Some(Arc::new(filter_chain(
            &scope.at("default_filter_chain"),
            chain,
        )?)),
    };
    if filter_chains.is_empty() && default_filter_chain.is_none() {
        scope.at("filter_chains").reject("is empty");
    }
    let old_bind = listener.deprecated_v1.take().and_then(|v1| v1.bind_to_port);
    let compiled = Listener {
        name: take(&mut listener.name).into(),
        address: address?,
        additional_addresses,
        bind_to_port: is_true(listener.bind_to_port.take().or(old_bind), true),
        use_original_dst: is_true(listener.use_original_dst.take(), false),
        transparent: is_true(listener.transparent.take(), false),
        traffic_direction,
        listener_filters: scope.each(
            "listener_filters",
            take(&mut listener.listener_filters),
            listener_filter,
        ),
        listener_filters_timeout: limit(
            &scope.at("listener_filters_timeout"),
            listener.listener_filters_timeout.take(),
            Some(LISTENER_FILTERS_TIMEOUT),
        ),
        continue_on_listener_filters_timeout: take(
            &mut listener.continue_on_listener_filters_timeout,
        ),
        filter_chains,
        default_filter_chain,
        access_log: access_logs(scope, take(&mut listener.access_log)),
        per_connection_buffer_limit_bytes: number(
            listener.per_connection_buffer_limit_bytes.take(),
        )
        .unwrap_or(BUFFER_LIMIT_BYTES),
    };
    listener.stat_prefix.clear(); // only names statistics
    listener.metadata = None; // informs people
    listener.drain_type = 0; // our listeners drain when they are modified or removed, and with the process
    listener.connection_balance_config = None; // the kernel spreads connections over our workers
    listener.enable_reuse_port = None; // always
    listener.freebind = None; // no address of ours can be missing
    listener.tcp_backlog_size = None;
    listener.max_connections_to_accept_per_socket_event = None; // a hint for Envoy's event loop
    listener.ignore_global_conn_limit = false;
    listener.bypass_overload_manager = false;
    scope.rest(&listener);
    Some(compiled)
}

fn listener_filter(scope: &Scope<'_>, mut filter: proto::ListenerFilter) -> Option<ListenerFilter> {
    use proto::listener_filter::ConfigType as C;
    let disabled_for = match filter.filter_disabled.take() {
        None => None,
        Some(predicate) => Some(port_predicate(&scope.at("filter_disabled"), predicate)?),
    };
    let Some(C::TypedConfig(config)) = filter.config_type.take() else {
        return scope.at("typed_config").refuse("is required");
    };
    let kind = match config.type_url.as_str() {
        type_url::ORIGINAL_DST => InspectorKind::OriginalDst,
        type_url::TLS_INSPECTOR => InspectorKind::Tls,
        type_url::HTTP_INSPECTOR => InspectorKind::Http,
        other => {
            return scope
                .at("typed_config")
                .refuse(format!("{other} is not supported"));
        }
    };
    Some(ListenerFilter { kind, disabled_for })
}

fn port_predicate(
    scope: &Scope<'_>,
    predicate: proto::ListenerFilterChainMatchPredicate,
) -> Option<PortPredicate> {
    use PortPredicate as P;
    use proto::listener_filter_chain_match_predicate::Rule as R;
    let list = |field: &str, rules: Vec<_>| {
        let count = rules.len();
        let compiled = scope.at(field).each("rules", rules, port_predicate);
        (compiled.len() == count).then_some(compiled)
    };
    match predicate.rule {
        Some(R::AnyMatch(true)) => Some(P::Any),
        Some(R::AnyMatch(false)) => Some(P::Not(Box::new(P::Any))),
        Some(R::OrMatch(set)) => list("or_match", set.rules).map(P::AnyOf),
        Some(R::AndMatch(set)) => list("and_match", set.rules).map(P::AllOf),
        Some(R::NotMatch(inner)) => {
            port_predicate(&scope.at("not_match"), *inner).map(|inner| P::Not(Box::new(inner)))
        }
        Some(R::DestinationPortRange(range)) => {
            match (u16::try_from(range.start), u32::try_from(range.end)) {
                (Ok(start), Ok(end)) => Some(P::Ports { start, end }),
                _ => scope
                    .at("destination_port_range")
                    .refuse("is not a range of ports"),
            }
        }
        None => scope.refuse("has no rule"),
    }
}

/// Two chains with the same match are an error, as in Envoy: which one served would be chance.
fn filter_chains(scope: &Scope<'_>, chains: Vec<proto::FilterChain>) -> Vec<Arc<FilterChain>> {
    let mut seen: Vec<proto::FilterChainMatch> = Vec::with_capacity(chains.len());
    scope.each("filter_chains", chains, |scope, chain| {
        let matches = chain.filter_chain_match.clone().unwrap_or_default();
        if let Some(other) = seen.iter().position(|m| *m == matches) {
            scope
                .at("filter_chain_match")
                .reject(format!("is that of filter_chains[{other}]"));
        }
        seen.push(matches);
        filter_chain(scope, chain).map(Arc::new)
    })
}

fn filter_chain(scope: &Scope<'_>, mut chain: proto::FilterChain) -> Option<FilterChain> {
    let matches = filter_chain_match(
        &scope.at("filter_chain_match"),
        chain.filter_chain_match.take().unwrap_or_default(),
    );
    let tls = downstream_socket(&scope.at("transport_socket"), chain.transport_socket.take());
    let timeout = limit(
        &scope.at("transport_socket_connect_timeout"),
        chain.transport_socket_connect_timeout.take(),
        None,
    );
    let filters = network_filters(scope, take(&mut chain.filters));
    let name = take(&mut chain.name).into();
    chain.metadata = None; // informs people
    scope.rest(&chain);
    let (filters, terminal) = filters?;
    Some(FilterChain {
        name,
        matches: matches?,
        tls: tls?,
        transport_socket_connect_timeout: timeout,
        filters,
        terminal,
    })
}

fn filter_chain_match(
    scope: &Scope<'_>,
    mut value: proto::FilterChainMatch,
) -> Option<FilterChainMatch> {
    use proto::filter_chain_match::ConnectionSourceType as S;
    let destination_port = match number(value.destination_port.take()) {
        None => None,
        Some(number) => Some(port(&scope.at("destination_port"), number)?),
    };
    let transport_protocol = match take(&mut value.transport_protocol).as_str() {
        "" => None,
        "tls" => Some(TransportProtocol::Tls),
        "raw_buffer" => Some(TransportProtocol::RawBuffer),
        other => {
            return scope
                .at("transport_protocol")
                .refuse(format!("\"{other}\" is not supported"));
        }
    };
    let source_type = match S::try_from(take(&mut value.source_type)) {
        Ok(S::Any) => SourceType::Any,
        Ok(S::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
        Ok(S::External) => SourceType::External,
        Err(_) => return scope.at("source_type").refuse("is unknown"),
    };
    let compiled = FilterChainMatch {
        destination_port,
        prefix_ranges: scope.each("prefix_ranges", take(&mut value.prefix_ranges), cidr),
        server_names: server_names(scope, take(&mut value.server_names)),
        transport_protocol,
        application_protocols: take(&mut value.application_protocols)
            .into_iter()
            .map(Into::into)
            .collect(),
        direct_source_prefix_ranges: scope.each(
            "direct_source_prefix_ranges",
            take(&mut value.direct_source_prefix_ranges),
            cidr,
        ),
        source_type,
        source_prefix_ranges: scope.each(
            "source_prefix_ranges",
            take(&mut value.source_prefix_ranges),
            cidr,
        ),
        source_ports: scope.each("source_ports", take(&mut value.source_ports), port),
    };
    scope.rest(&value);
    Some(compiled)
}

fn server_names(scope: &Scope<'_>, names: Vec<String>) -> ServerNames {
    let mut compiled = ServerNames::default();
    scope.each("server_names", names, |scope, name| {
        let name = name.to_ascii_lowercase();
        match name.strip_prefix('*') {
            Some(suffix) if suffix.starts_with('.') && !suffix.contains('*') => {
                compiled.suffixes.push(suffix.into())
            }
            None if !name.contains('*') => compiled.exact.push(name.into()),
            _ => scope.reject(format!(
                "\"{name}\": a wildcard stands for whole labels at the start"
            )),
        }
        Some(())
    });
    compiled
}

fn network_filters(
    scope: &Scope<'_>,
    mut filters: Vec<proto::Filter>,
) -> Option<(Vec<NetworkFilter>, Terminal)> {
    let Some(last) = filters.pop() else {
        return Some((Vec::new(), Terminal::Close));
    };
    let position = filters.len();
    let compiled = scope.each("filters", filters, |scope, filter| {
        let config = filter_config(scope, filter)?;
        network_filter(&scope.at("typed_config"), &config)
    });
    let list = scope.at("filters");
    let scope = list.index(position);
    let config = filter_config(&scope, last)?;
    terminal(&scope.at("typed_config"), &config).map(|terminal| (compiled, terminal))
}

fn filter_config(scope: &Scope<'_>, filter: proto::Filter) -> Option<Any> {
    use proto::filter::ConfigType as C;
    match filter.config_type {
        Some(C::TypedConfig(config)) => resolve(&scope.at("typed_config"), &config),
        Some(C::ConfigDiscovery(_)) => scope.at("config_discovery").refuse("is not supported"),
        None => scope.at("typed_config").refuse("is required"),
    }
}

fn network_filter(scope: &Scope<'_>, config: &Any) -> Option<NetworkFilter> {
    match config.type_url.as_str() {
        type_url::TCP_METADATA_EXCHANGE => metadata_exchange_filter(scope, config),
        type_url::ISTIO_STATS => istio_stats(scope, config).map(NetworkFilter::Stats),
        type_url::NETWORK_RBAC => {
            let filter = rbac::network_filter(scope, unpack(scope, config)?)?;
            Some(NetworkFilter::Rbac(Arc::new(filter)))
        }
        type_url::NETWORK_EXT_AUTHZ => {
            let filter = ext_authz::network_filter(scope, unpack(scope, config)?)?;
            Some(NetworkFilter::ExtAuthz(Arc::new(filter)))
        }
        type_url::TCP_PROXY | type_url::HTTP_CONNECTION_MANAGER => {
            scope.refuse("must be the last filter")
        }
        other => scope.refuse(format!("{other} is not supported")),
    }
}

fn terminal(scope: &Scope<'_>, config: &Any) -> Option<Terminal> {
    match config.type_url.as_str() {
        type_url::TCP_PROXY => {
            tcp_proxy(scope, unpack(scope, config)?).map(|tcp| Terminal::Tcp(Arc::new(tcp)))
        }
        type_url::HTTP_CONNECTION_MANAGER => http_connection_manager(scope, unpack(scope, config)?)
            .map(|hcm| Terminal::Http(Arc::new(hcm))),
        other => scope.refuse(format!("{other} cannot be the last filter")),
    }
}

fn tcp_proxy(scope: &Scope<'_>, mut proxy: tcp_proto::TcpProxy) -> Option<TcpProxy> {
    use tcp_proto::tcp_proxy::ClusterSpecifier as C;
    let target = match proxy.cluster_specifier.take() {
        Some(C::Cluster(name)) => TcpTarget::Cluster(name.into()),
        Some(C::WeightedClusters(weighted)) => {
            tcp_weighted(&scope.at("weighted_clusters"), weighted)?
        }
        None => return scope.at("cluster").refuse("is required"),
    };
    let hash_source_ip = match proxy
        .hash_policy
        .pop()
        .and_then(|policy| policy.policy_specifier)
    {
        None => false,
        Some(PolicySpecifier::SourceIp(_)) => true,
        Some(PolicySpecifier::FilterState(_)) => {
            return scope
                .at("hash_policy")
                .refuse("only source_ip is supported");
        }
    };
    let compiled = TcpProxy {
        stat_prefix: take(&mut proxy.stat_prefix).into(),
        target,
        idle_timeout: limit(
            &scope.at("idle_timeout"),
            proxy.idle_timeout.take(),
            Some(TCP_IDLE_TIMEOUT),
        ),
        max_downstream_connection_duration: limit(
            &scope.at("max_downstream_connection_duration"),
            proxy.max_downstream_connection_duration.take(),
            None,
        ),
        max_connect_attempts: number(proxy.max_connect_attempts.take())
            .unwrap_or(1)
            .max(1),
        hash_source_ip,
        access_log: access_logs(scope, take(&mut proxy.access_log)),
    };
    scope.rest(&proxy);
    Some(compiled)
}

fn tcp_weighted(
    scope: &Scope<'_>,
    weighted: tcp_proto::tcp_proxy::WeightedCluster,
) -> Option<TcpTarget> {
    let clusters = scope.each("clusters", weighted.clusters, |scope, cluster| {
        if cluster.metadata_match.is_some() {
            return scope.at("metadata_match").refuse("is not supported");
        }
        Some(TcpWeightedCluster {
            name: cluster.name.into(),
            weight: cluster.weight,
        })
    });
    let total_weight: u64 = clusters
        .iter()
        .map(|cluster| u64::from(cluster.weight))
        .sum();
    if total_weight == 0 {
        return scope.refuse("the weights sum up to zero");
    }
    Some(TcpTarget::Weighted {
        clusters,
        total_weight,
    })
}
