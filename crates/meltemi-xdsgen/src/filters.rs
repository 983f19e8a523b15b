//! HTTP and network filters in Istio's order, and the ends of filter chains.

use meltemi_api::istio::HashKey;
use meltemi_core::names::alpn;
use meltemi_core::{ClusterName, Direction, Hostname};
use meltemi_proto::alpn::filter_config::{AlpnOverride, Protocol};
use meltemi_proto::envoy::config::listener::v3::{Filter, filter};
use meltemi_proto::envoy::extensions::filters::http::cors::v3::Cors;
use meltemi_proto::envoy::extensions::filters::http::fault::v3::HttpFault;
use meltemi_proto::envoy::extensions::filters::http::grpc_stats::v3::{
    FilterConfig as GrpcStats, filter_config::PerMethodStatSpecifier,
};
use meltemi_proto::envoy::extensions::filters::http::router::v3::Router;
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager, http_filter,
};
use meltemi_proto::envoy::extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy};
use meltemi_proto::envoy::r#type::v3::{HashPolicy, hash_policy};
use meltemi_proto::google::protobuf::{Any, BoolValue, Duration};
use meltemi_proto::peer_metadata::config::{
    DiscoveryMethod, IstioHeaders, PropagationMethod, WorkloadDiscovery, discovery_method,
    propagation_method,
};
use meltemi_proto::{any::pack, metadata_exchange, peer_metadata, stats, type_url};

use crate::authorization::Authorization;
use crate::inputs::Inputs;
use crate::{Flavour, access_log, jwt, wire};

/// On which side of the mesh requests are looked into.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Inbound,
    Outbound,
    /// At the edge: clients are strangers, and what is behind them is reached as from a sidecar.
    Gateway,
}

impl Side {
    fn of(direction: Direction) -> Self {
        match direction {
            Direction::Inbound => Self::Inbound,
            Direction::Outbound => Self::Outbound,
        }
    }

    fn direction(self) -> Direction {
        match self {
            Self::Inbound => Direction::Inbound,
            Self::Outbound | Self::Gateway => Direction::Outbound,
        }
    }
}

/// What the inbound listener and gateways call itself in the `server` header.
const SERVER_NAME: &str = "istio-envoy";

/// Peer metadata, ALPN, tokens, authorization, gRPC statistics, fault, CORS, telemetry, router; a stock Envoy has only those it
/// ships.
fn http_filters(inputs: &Inputs<'_>, side: Side, guard: &Authorization) -> Vec<HttpFilter> {
    let direction = side.direction();
    let ours = inputs.flavour() == Flavour::Meltemi;
    let mut filters = Vec::new();
    if ours {
        filters.push(http_filter(
            "istio.metadata_exchange",
            pack(type_url::PEER_METADATA, &peer_metadata(direction)),
        ));
        if direction == Direction::Outbound {
            filters.push(http_filter(
                "istio.alpn",
                pack(type_url::ISTIO_ALPN, &alpn_overrides()),
            ));
        }
    }
    filters.extend(guard.custom.iter().cloned());
    if side != Side::Outbound
        && let Some(config) = jwt::filter(inputs, side == Side::Gateway)
    {
        filters.push(http_filter(jwt::FILTER, config));
    }
    filters.extend(guard.http.iter().cloned());
    filters.push(http_filter(
        "envoy.filters.http.grpc_stats",
        wire::any(&grpc_stats()),
    ));
    filters.push(http_filter(
        "envoy.filters.http.fault",
        wire::any(&HttpFault::default()),
    ));
    filters.push(http_filter(
        "envoy.filters.http.cors",
        wire::any(&Cors::default()),
    ));
    if ours {
        filters.push(http_filter("istio.stats", telemetry(side)));
    }
    filters.push(http_filter(
        "envoy.filters.http.router",
        wire::any(&Router::default()),
    ));
    filters
}

pub(crate) fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

fn grpc_stats() -> GrpcStats {
    GrpcStats {
        emit_filter_state: true,
        per_method_stat_specifier: Some(PerMethodStatSpecifier::StatsForAllMethods(BoolValue {
            value: false,
        })),
        ..GrpcStats::default()
    }
}

fn telemetry(side: Side) -> Any {
    let config = stats::PluginConfig {
        // A server's own Host header says nothing new about the destination, and a stranger's whatever the stranger likes.
        disable_host_header_fallback: side != Side::Outbound,
        ..stats::PluginConfig::default()
    };
    pack(type_url::ISTIO_STATS, &config)
}

/// The peer is learnt from headers, else from its address; the server answers, the client begins.
fn peer_metadata(direction: Direction) -> peer_metadata::Config {
    let discovery = vec![
        DiscoveryMethod {
            method_specifier: Some(discovery_method::MethodSpecifier::IstioHeaders(
                IstioHeaders::default(),
            )),
        },
        DiscoveryMethod {
            method_specifier: Some(discovery_method::MethodSpecifier::WorkloadDiscovery(
                WorkloadDiscovery {},
            )),
        },
    ];
    let propagation = |skip_external_clusters| {
        vec![PropagationMethod {
            method_specifier: Some(propagation_method::MethodSpecifier::IstioHeaders(
                IstioHeaders {
                    skip_external_clusters,
                },
            )),
        }]
    };
    match direction {
        Direction::Inbound => peer_metadata::Config {
            downstream_discovery: discovery,
            downstream_propagation: propagation(false),
            ..peer_metadata::Config::default()
        },
        Direction::Outbound => peer_metadata::Config {
            upstream_discovery: discovery,
            upstream_propagation: propagation(true),
            ..peer_metadata::Config::default()
        },
    }
}

fn alpn_overrides() -> meltemi_proto::alpn::FilterConfig {
    let to = |protocol: Protocol, names: [&str; 3]| AlpnOverride {
        upstream_protocol: protocol.into(),
        alpn_override: names.map(str::to_owned).to_vec(),
    };
    meltemi_proto::alpn::FilterConfig {
        alpn_override: vec![
            to(
                Protocol::Http10,
                [alpn::ISTIO_HTTP10, alpn::ISTIO, alpn::HTTP10],
            ),
            to(
                Protocol::Http11,
                [alpn::ISTIO_HTTP11, alpn::ISTIO, alpn::HTTP11],
            ),
            to(Protocol::Http2, [alpn::ISTIO_H2, alpn::ISTIO, alpn::H2]),
        ],
    }
}

pub(crate) fn network_filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

/// The filters of a chain that routes requests.
pub(crate) fn http_chain(
    inputs: &Inputs<'_>,
    direction: Direction,
    guard: &Authorization,
    stat_prefix: &str,
    routes: http_connection_manager::RouteSpecifier,
) -> Vec<Filter> {
    let side = Side::of(direction);
    let hcm = connection_manager(inputs, side, guard, stat_prefix, routes);
    // A connection that agreed on istio-peer-exchange carries a preamble before the first request.
    let exchange = (direction == Direction::Inbound).then(|| tcp_metadata(inputs));
    exchange.into_iter().flatten().chain([hcm]).collect()
}

/// The filters of a gateway's chain that routes requests.
pub(crate) fn gateway_chain(
    inputs: &Inputs<'_>,
    guard: &Authorization,
    stat_prefix: &str,
    routes: http_connection_manager::RouteSpecifier,
) -> Vec<Filter> {
    vec![connection_manager(
        inputs,
        Side::Gateway,
        guard,
        stat_prefix,
        routes,
    )]
}

fn connection_manager(
    inputs: &Inputs<'_>,
    side: Side,
    guard: &Authorization,
    stat_prefix: &str,
    routes: http_connection_manager::RouteSpecifier,
) -> Filter {
    use http_connection_manager as part;
    let path = path_normalization(inputs);
    let (server_name, client_certificate) = match side {
        Side::Inbound => (SERVER_NAME, part::ForwardClientCertDetails::AppendForward),
        Side::Outbound => ("", part::ForwardClientCertDetails::Sanitize),
        Side::Gateway => (SERVER_NAME, part::ForwardClientCertDetails::SanitizeSet),
    };
    let manager = HttpConnectionManager {
        stat_prefix: stat_prefix.to_owned(),
        http_filters: http_filters(inputs, side, guard),
        route_specifier: Some(routes),
        server_name: server_name.to_owned(),
        forward_client_cert_details: client_certificate.into(),
        set_current_client_cert_details: (side != Side::Outbound).then(|| {
            part::SetCurrentClientCertDetails {
                subject: wire::bool_value(true),
                // What a stranger's authority vouches for is all that the application has of it.
                cert: side == Side::Gateway,
                dns: true,
                uri: true,
                ..part::SetCurrentClientCertDetails::default()
            }
        }),
        use_remote_address: wire::bool_value(side == Side::Gateway),
        normalize_path: wire::bool_value(path.normalize),
        merge_slashes: path.merge_slashes,
        path_with_escaped_slashes_action: path.escaped_slashes.into(),
        upgrade_configs: vec![part::UpgradeConfig {
            upgrade_type: "websocket".to_owned(),
            ..part::UpgradeConfig::default()
        }],
        stream_idle_timeout: Some(Duration::default()),
        http_protocol_options: inputs.http10().then(|| {
            meltemi_proto::envoy::config::core::v3::Http1ProtocolOptions {
                accept_http_10: true,
                ..Default::default()
            }
        }),
        access_log: access_log::of_connections(inputs),
        ..HttpConnectionManager::default()
    };
    network_filter(
        "envoy.filters.network.http_connection_manager",
        wire::any(&manager),
    )
}

struct PathRules {
    normalize: bool,
    merge_slashes: bool,
    escaped_slashes: http_connection_manager::PathWithEscapedSlashesAction,
}

/// MeshConfig `pathNormalization`; DEFAULT is BASE.
fn path_normalization(inputs: &Inputs<'_>) -> PathRules {
    use http_connection_manager::PathWithEscapedSlashesAction as Escaped;
    use meltemi_api::istio::PathNormalizationType as Kind;
    let kind = inputs.config().path_normalization.normalization;
    PathRules {
        normalize: kind != Kind::None,
        merge_slashes: matches!(kind, Kind::MergeSlashes | Kind::DecodeAndMergeSlashes),
        escaped_slashes: if kind == Kind::DecodeAndMergeSlashes {
            Escaped::UnescapeAndForward
        } else {
            Escaped::KeepUnchanged
        },
    }
}

/// What a DestinationRule says of relayed connections themselves (Istio reference, ConnectionPoolSettings.TCPSettings;
/// LoadBalancerSettings.ConsistentHashLB.useSourceIp).
#[derive(Default)]
struct TcpPolicy {
    idle_timeout: Option<std::time::Duration>,
    max_connection_duration: Option<std::time::Duration>,
    hash_source_ip: bool,
}

impl TcpPolicy {
    /// Of the first cluster that the connections may go to: as in Istio, one rule acts on all of them.
    fn of(inputs: &Inputs<'_>, target: &tcp_proxy::ClusterSpecifier) -> Self {
        let name = match target {
            tcp_proxy::ClusterSpecifier::Cluster(name) => Some(name),
            tcp_proxy::ClusterSpecifier::WeightedClusters(all) => {
                all.clusters.first().map(|cluster| &cluster.name)
            }
        };
        let name = name.and_then(|name| name.parse::<ClusterName>().ok());
        let outbound = name.filter(|name| name.direction == Direction::Outbound);
        outbound.map_or_else(Self::default, |name| Self::of_cluster(inputs, &name))
    }

    fn of_cluster(inputs: &Inputs<'_>, name: &ClusterName) -> Self {
        let host = Hostname::new(&name.host).ok();
        let Some(rule) = host.and_then(|host| inputs.destination_rule(&host)) else {
            return Self::default();
        };
        let policy = rule.policy(name.port, rule.subset(&name.subset));
        let tcp = policy.connection_pool.and_then(|pool| pool.tcp.as_ref());
        let hash = policy
            .load_balancer
            .and_then(|lb| lb.consistent_hash.as_ref());
        Self {
            idle_timeout: tcp.and_then(|tcp| tcp.idle_timeout),
            max_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration),
            hash_source_ip: hash.is_some_and(|hash| hash.key == HashKey::SourceIp),
        }
    }

    fn hash_policy(&self) -> Option<HashPolicy> {
        self.hash_source_ip.then(|| HashPolicy {
            policy_specifier: Some(hash_policy::PolicySpecifier::SourceIp(
                hash_policy::SourceIp::default(),
            )),
        })
    }
}

/// The filters of a chain that relays bytes.
pub(crate) fn tcp_chain(
    inputs: &Inputs<'_>,
    direction: Direction,
    guard: &Authorization,
    stat_prefix: &str,
    target: tcp_proxy::ClusterSpecifier,
) -> Vec<Filter> {
    let policy = TcpPolicy::of(inputs, &target);
    let mut filters = Vec::new();
    if direction == Direction::Inbound {
        filters.extend(tcp_metadata(inputs));
    }
    filters.extend(guard.network.iter().cloned());
    if inputs.flavour() == Flavour::Meltemi {
        filters.push(network_filter(
            "istio.stats",
            telemetry(Side::of(direction)),
        ));
    }
    let proxy = TcpProxy {
        stat_prefix: stat_prefix.to_owned(),
        cluster_specifier: Some(target),
        idle_timeout: policy.idle_timeout.map(wire::duration),
        max_downstream_connection_duration: policy.max_connection_duration.map(wire::duration),
        hash_policy: policy.hash_policy().into_iter().collect(),
        access_log: access_log::of_connections(inputs),
        ..TcpProxy::default()
    };
    filters.push(network_filter(
        "envoy.filters.network.tcp_proxy",
        wire::any(&proxy),
    ));
    filters
}

fn tcp_metadata(inputs: &Inputs<'_>) -> Option<Filter> {
    (inputs.flavour() == Flavour::Meltemi).then(|| {
        let config = metadata_exchange::MetadataExchange {
            protocol: alpn::ISTIO_PEER_EXCHANGE.to_owned(),
            ..metadata_exchange::MetadataExchange::default()
        };
        network_filter(
            "istio.metadata_exchange",
            pack(type_url::TCP_METADATA_EXCHANGE, &config),
        )
    })
}

pub(crate) fn to_cluster(name: &str) -> tcp_proxy::ClusterSpecifier {
    tcp_proxy::ClusterSpecifier::Cluster(name.to_owned())
}
