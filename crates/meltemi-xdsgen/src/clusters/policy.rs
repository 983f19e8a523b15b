//! A DestinationRule's traffic policy as cluster fields, with Istio's defaults.

use meltemi_api::istio::{
    ConnectionPool, H2UpgradePolicy, HttpSettings, LoadBalancer, OutlierDetection, SimpleLb,
};
use meltemi_model::{EffectivePolicy, Protocol, Resolution};
use meltemi_proto::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection as Ejection, UpstreamConnectionOptions,
    circuit_breakers, cluster,
};
use meltemi_proto::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonHttp, RuntimeDouble,
    TcpKeepalive, UpstreamHttpProtocolOptions,
};
use meltemi_proto::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options,
};
use meltemi_proto::google::protobuf::UInt64Value;

use crate::inputs::Inputs;
use crate::wire;

/// The default of every circuit breaker: none.
const UNLIMITED: u32 = u32::MAX;
const DEFAULT_CONNECT_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// Istio's least ring size for consistent hashing.
const MINIMUM_RING_SIZE: u64 = 1024;

/// A cluster with timeouts, limits and keepalive, and nothing else yet.
pub(super) fn base(inputs: &Inputs<'_>, name: &str, pool: Option<&ConnectionPool>) -> Cluster {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let connect_timeout = tcp
        .and_then(|tcp| tcp.connect_timeout)
        .or_else(|| inputs.config().connect_timeout)
        .unwrap_or(DEFAULT_CONNECT_TIMEOUT);
    let keepalive = tcp.and_then(|tcp| tcp.tcp_keepalive.as_ref());
    Cluster {
        name: name.to_owned(),
        connect_timeout: Some(wire::duration(connect_timeout)),
        circuit_breakers: Some(limits(pool)),
        common_lb_config: Some(cluster::CommonLbConfig::default()),
        upstream_connection_options: keepalive.map(|keepalive| UpstreamConnectionOptions {
            tcp_keepalive: Some(TcpKeepalive {
                keepalive_probes: keepalive.probes.and_then(wire::u32_value),
                keepalive_time: keepalive.time.and_then(whole_seconds),
                keepalive_interval: keepalive.interval.and_then(whole_seconds),
            }),
            ..UpstreamConnectionOptions::default()
        }),
        ..Cluster::default()
    }
}

fn whole_seconds(
    duration: std::time::Duration,
) -> Option<meltemi_proto::google::protobuf::UInt32Value> {
    wire::u32_value(u32::try_from(duration.as_secs()).unwrap_or(u32::MAX))
}

fn limits(pool: Option<&ConnectionPool>) -> CircuitBreakers {
    let tcp = pool.and_then(|pool| pool.tcp.as_ref());
    let http = pool.and_then(|pool| pool.http.as_ref());
    // Zero and negative values mean "not set" in Istio's API.
    let limit = |value: Option<i32>| {
        let set = value.and_then(|value| u32::try_from(value).ok());
        wire::u32_value(set.filter(|value| *value > 0).unwrap_or(UNLIMITED))
    };
    CircuitBreakers {
        thresholds: vec![circuit_breakers::Thresholds {
            max_connections: limit(tcp.and_then(|tcp| tcp.max_connections)),
            max_pending_requests: limit(http.and_then(|http| http.http1_max_pending_requests)),
            max_requests: limit(http.and_then(|http| http.http2_max_requests)),
            max_retries: limit(http.and_then(|http| http.max_retries)),
            track_remaining: true,
            ..circuit_breakers::Thresholds::default()
        }],
        ..CircuitBreakers::default()
    }
}

/// The balancer: least request unless the rule says otherwise; original-destination clusters have no choice.
pub(super) fn balance(policy: &EffectivePolicy<'_>, resolution: Resolution, out: &mut Cluster) {
    use cluster::LbPolicy;
    if let Some(budget) = policy.retry_budget {
        set_retry_budget(budget, out);
    }
    if resolution == Resolution::Passthrough {
        out.lb_policy = LbPolicy::ClusterProvided.into();
        return;
    }
    let chosen = match policy.load_balancer {
        Some(balancer) if balancer.consistent_hash.is_some() => {
            out.lb_config = hash_config(balancer);
            match out.lb_config {
                Some(cluster::LbConfig::MaglevLbConfig(_)) => LbPolicy::Maglev,
                _ => LbPolicy::RingHash,
            }
        }
        other => match other.and_then(|balancer| balancer.simple) {
            Some(SimpleLb::RoundRobin) => LbPolicy::RoundRobin,
            Some(SimpleLb::Random) => LbPolicy::Random,
            _ => LbPolicy::LeastRequest,
        },
    };
    out.lb_policy = chosen.into();
    let slow_start = policy.load_balancer.and_then(slow_start);
    if let Some(slow_start_config) = slow_start {
        out.lb_config = match chosen {
            LbPolicy::RoundRobin => Some(cluster::LbConfig::RoundRobinLbConfig(
                cluster::RoundRobinLbConfig {
                    slow_start_config: Some(slow_start_config),
                },
            )),
            LbPolicy::LeastRequest => Some(cluster::LbConfig::LeastRequestLbConfig(
                cluster::LeastRequestLbConfig {
                    slow_start_config: Some(slow_start_config),
                    ..cluster::LeastRequestLbConfig::default()
                },
            )),
            // The others know no warm-up (Istio reference, LoadBalancerSettings.warmup).
            _ => out.lb_config.take(),
        };
    }
}

/// Has the weights of localities count; where the client chooses the endpoint there are none.
pub(super) fn weigh_localities(resolution: Resolution, out: &mut Cluster) {
    if matches!(resolution, Resolution::Endpoints | Resolution::StrictDns) {
        let common = out.common_lb_config.get_or_insert_default();
        common.locality_config_specifier = Some(
            cluster::common_lb_config::LocalityConfigSpecifier::LocalityWeightedLbConfig(
                cluster::common_lb_config::LocalityWeightedLbConfig {},
            ),
        );
    }
}

fn set_retry_budget(budget: &meltemi_api::istio::RetryBudget, out: &mut Cluster) {
    let thresholds = out
        .circuit_breakers
        .iter_mut()
        .flat_map(|breakers| &mut breakers.thresholds);
    for threshold in thresholds {
        threshold.retry_budget = Some(circuit_breakers::thresholds::RetryBudget {
            budget_percent: wire::percent(budget.percent.unwrap_or(20.0)),
            budget_interval: budget.budget_interval.map(wire::duration),
            min_retry_concurrency: wire::u32_value(budget.min_retry_concurrency.unwrap_or(3)),
        });
    }
}

fn hash_config(balancer: &LoadBalancer) -> Option<cluster::LbConfig> {
    let hash = balancer.consistent_hash.as_ref()?;
    Some(match hash.maglev_table_size {
        Some(value) => cluster::LbConfig::MaglevLbConfig(cluster::MaglevLbConfig {
            table_size: Some(UInt64Value { value }),
        }),
        None => cluster::LbConfig::RingHashLbConfig(cluster::RingHashLbConfig {
            minimum_ring_size: Some(UInt64Value {
                value: hash.minimum_ring_size.unwrap_or(MINIMUM_RING_SIZE),
            }),
            ..cluster::RingHashLbConfig::default()
        }),
    })
}

fn slow_start(balancer: &LoadBalancer) -> Option<cluster::SlowStartConfig> {
    let warmup = balancer.warmup.as_ref()?;
    Some(cluster::SlowStartConfig {
        slow_start_window: warmup.duration.map(wire::duration),
        aggression: warmup.aggression.map(|default_value| RuntimeDouble {
            default_value,
            runtime_key: String::new(),
        }),
        min_weight_percent: wire::percent(warmup.minimum_percent.unwrap_or(10.0)),
    })
}

/// Ejects hosts on consecutive failures only; success rate stays off (Istio reference, OutlierDetection).
pub(super) fn eject(outlier: &OutlierDetection, out: &mut Cluster) {
    let count = |value: Option<u32>| value.and_then(wire::u32_value);
    let enforcing = |value: Option<u32>| {
        value.and_then(|value| wire::u32_value(if value > 0 { 100 } else { 0 }))
    };
    out.outlier_detection = Some(Ejection {
        consecutive_5xx: count(outlier.consecutive_5xx_errors.filter(|value| *value > 0)),
        enforcing_consecutive_5xx: enforcing(outlier.consecutive_5xx_errors),
        consecutive_gateway_failure: count(
            outlier
                .consecutive_gateway_errors
                .filter(|value| *value > 0),
        ),
        enforcing_consecutive_gateway_failure: enforcing(outlier.consecutive_gateway_errors),
        interval: outlier.interval.map(wire::duration),
        base_ejection_time: outlier.base_ejection_time.map(wire::duration),
        max_ejection_percent: outlier
            .max_ejection_percent
            .and_then(|percent| u32::try_from(percent).ok())
            .and_then(wire::u32_value),
        enforcing_success_rate: wire::u32_value(0),
        split_external_local_origin_errors: outlier.split_external_local_origin_errors,
        consecutive_local_origin_failure: count(outlier.consecutive_local_origin_failures),
        enforcing_local_origin_success_rate: outlier
            .split_external_local_origin_errors
            .then(|| wire::u32_value(0))
            .flatten(),
        ..Ejection::default()
    });
    let common = out.common_lb_config.get_or_insert_default();
    common.healthy_panic_threshold =
        wire::percent(f64::from(outlier.min_health_percent.unwrap_or_default()));
}

/// What decides the protocol towards the endpoints.
pub(super) struct UpstreamHttp<'a> {
    pub(super) protocol: Protocol,
    pub(super) pool: Option<&'a HttpSettings>,
    /// Whether `h2UpgradePolicy` acts: the application behind an inbound cluster is not asked for HTTP/2 by it.
    pub(super) may_upgrade: bool,
    /// The end of a connection, however busy (`connectionPool.tcp.maxConnectionDuration`).
    pub(super) max_connection_duration: Option<std::time::Duration>,
    pub(super) auto_sni: bool,
    pub(super) auto_san_validation: bool,
}

impl<'a> UpstreamHttp<'a> {
    /// What a port's protocol and its connection pool say.
    pub(super) fn new(protocol: Protocol, pool: Option<&'a ConnectionPool>) -> Self {
        let tcp = pool.and_then(|pool| pool.tcp.as_ref());
        Self {
            protocol,
            pool: pool.and_then(|pool| pool.http.as_ref()),
            max_connection_duration: tcp.and_then(|tcp| tcp.max_connection_duration),
            may_upgrade: false,
            auto_sni: false,
            auto_san_validation: false,
        }
    }

    /// HTTP/2 on every connection: declared, or asked for by `h2UpgradePolicy`.
    pub(super) fn is_http2(&self) -> bool {
        let upgraded = self.may_upgrade
            && self.protocol == Protocol::Http
            && self
                .pool
                .is_some_and(|pool| pool.h2_upgrade_policy == H2UpgradePolicy::Upgrade);
        self.protocol.is_http2() || upgraded
    }

    fn follows_downstream(&self) -> bool {
        self.protocol.is_auto() || self.pool.is_some_and(|pool| pool.use_client_protocol)
    }
}

pub(super) const HTTP_PROTOCOL_OPTIONS: &str =
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// HTTP/2 for ports that declare it, what the client spoke for sniffed ones; plain HTTP/1.1 needs no options.
pub(super) fn speak(http: &UpstreamHttp<'_>, out: &mut Cluster) {
    let positive = |value: Option<i32>| {
        value
            .and_then(|value| u32::try_from(value).ok())
            .filter(|value| *value > 0)
    };
    let idle_timeout = http.pool.and_then(|pool| pool.idle_timeout);
    let per_connection = positive(http.pool.and_then(|pool| pool.max_requests_per_connection));
    let is_common = idle_timeout.is_some()
        || per_connection.is_some()
        || http.max_connection_duration.is_some();
    let common = is_common.then(|| CommonHttp {
        idle_timeout: idle_timeout.map(wire::duration),
        max_connection_duration: http.max_connection_duration.map(wire::duration),
        max_requests_per_connection: per_connection.and_then(wire::u32_value),
        ..CommonHttp::default()
    });
    let http2 = Http2ProtocolOptions {
        max_concurrent_streams: positive(http.pool.and_then(|pool| pool.max_concurrent_streams))
            .and_then(wire::u32_value),
        ..Http2ProtocolOptions::default()
    };
    let upstream = if http.follows_downstream() {
        Some(downstream_protocol(http2))
    } else if http.is_http2() {
        Some(explicit(
            http_protocol_options::explicit_http_config::ProtocolConfig::Http2ProtocolOptions(
                http2,
            ),
        ))
    } else {
        None
    };
    if upstream.is_none() && common.is_none() && !http.auto_sni {
        return;
    }
    let options = HttpProtocolOptions {
        common_http_protocol_options: common,
        upstream_http_protocol_options: http.auto_sni.then(|| UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: http.auto_san_validation,
            ..UpstreamHttpProtocolOptions::default()
        }),
        // The options must name a protocol even where it is the default.
        upstream_protocol_options: upstream.or_else(|| {
            Some(explicit(
                http_protocol_options::explicit_http_config::ProtocolConfig::HttpProtocolOptions(
                    Http1ProtocolOptions::default(),
                ),
            ))
        }),
        ..HttpProtocolOptions::default()
    };
    out.typed_extension_protocol_options
        .insert(HTTP_PROTOCOL_OPTIONS.to_owned(), wire::any(&options));
}

fn explicit(
    protocol_config: http_protocol_options::explicit_http_config::ProtocolConfig,
) -> http_protocol_options::UpstreamProtocolOptions {
    http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(
        http_protocol_options::ExplicitHttpConfig {
            protocol_config: Some(protocol_config),
        },
    )
}

pub(super) fn downstream_protocol(
    http2: Http2ProtocolOptions,
) -> http_protocol_options::UpstreamProtocolOptions {
    http_protocol_options::UpstreamProtocolOptions::UseDownstreamProtocolConfig(
        http_protocol_options::UseDownstreamHttpConfig {
            http_protocol_options: Some(Http1ProtocolOptions::default()),
            http2_protocol_options: Some(http2),
            ..http_protocol_options::UseDownstreamHttpConfig::default()
        },
    )
}
