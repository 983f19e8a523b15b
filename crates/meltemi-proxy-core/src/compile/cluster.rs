use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::envoy::config::cluster::v3 as proto;
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::upstreams::http::v3 as http_proto;
use meltemi_proto::google::protobuf::{Any, value::Kind};
use meltemi_proto::{metadata_exchange, type_url};

use super::Scope;
use super::common::{
    duration, host_and_port, limit, metadata_text, number, resolve, struct_to_json, unpack,
};
use super::endpoint::{cluster_load_assignment, string_pairs};
use super::http_connection_manager::{http1_options, http2_options};
use super::tls;
use crate::runtime::{
    CircuitBreakers, Cluster, Discovery, DnsSettings, LbPolicy, MaglevSettings, NetworkFilter,
    OutlierDetection, RetryBudget, RingHashFunction, RingHashSettings, ServiceRef, TcpKeepalive,
    TcpMetadataExchange, Thresholds, TransportSocketMatch, UpstreamHttp, UpstreamHttpVersion,
    UpstreamTransport,
};

const HTTP_OPTIONS_KEY: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
/// Envoy's defaults.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
const BUFFER_LIMIT_BYTES: u32 = 1 << 20;
const THRESHOLDS: Thresholds = Thresholds {
    max_connections: 1024,
    max_pending_requests: 1024,
    max_requests: 1024,
    max_retries: 3,
    retry_budget: None,
};

pub(super) fn cluster(scope: &Scope<'_>, mut cluster: proto::Cluster) -> Option<Cluster> {
    let name: Arc<str> = take(&mut cluster.name).into();
    if name.is_empty() {
        return scope.at("name").refuse("is required");
    }
    let stat_name = Some(take(&mut cluster.alt_stat_name))
        .filter(|n| !n.is_empty())
        .map_or_else(|| Arc::clone(&name), Into::into);
    let discovery = discovery(scope, &mut cluster, &name);
    let lb = lb_policy(scope, &mut cluster);
    let connect_timeout = duration(&scope.at("connect_timeout"), cluster.connect_timeout.take())
        .unwrap_or(CONNECT_TIMEOUT);
    let common_lb = common_lb(
        &scope.at("common_lb_config"),
        cluster.common_lb_config.take().unwrap_or_default(),
    );
    let transport = transport(scope, &mut cluster);
    let http = upstream_http(scope, &mut cluster);
    let circuit_breakers = circuit_breakers(
        &scope.at("circuit_breakers"),
        cluster.circuit_breakers.take().unwrap_or_default(),
    );
    let outlier_detection = cluster
        .outlier_detection
        .take()
        .map(|o| outlier_detection(&scope.at("outlier_detection"), o));
    let source_address = source_address(
        &scope.at("upstream_bind_config"),
        cluster.upstream_bind_config.take(),
    );
    let tcp_keepalive = connection_options(
        &scope.at("upstream_connection_options"),
        cluster.upstream_connection_options.take(),
    );
    let metadata = cluster.metadata.take().unwrap_or_default();
    let filters = scope.each("filters", take(&mut cluster.filters), upstream_filter);
    let close_connections_on_host_health_failure =
        take(&mut cluster.close_connections_on_host_health_failure);
    let per_connection_buffer_limit_bytes =
        number(cluster.per_connection_buffer_limit_bytes.take()).unwrap_or(BUFFER_LIMIT_BYTES);
    // An endpoint that is removed from its assignment is gone in our proxy, whatever its health.
    cluster.ignore_health_on_host_removal = false;
    cluster.wait_for_warm_on_init = None; // nothing here warms
    cluster.cleanup_interval = None; // endpoints of original-destination clusters live as long as their connections
    cluster.track_cluster_stats = None;
    scope.rest(&cluster);
    let (panic_threshold_percent, locality_weighted, hash_hostname) = common_lb;
    Some(Cluster {
        name,
        stat_name,
        discovery: discovery?,
        lb: with_hostname(lb?, hash_hostname),
        connect_timeout,
        per_connection_buffer_limit_bytes,
        transport: transport?,
        http: http?,
        circuit_breakers,
        outlier_detection,
        source_address: source_address?,
        tcp_keepalive,
        panic_threshold_percent,
        locality_weighted,
        close_connections_on_host_health_failure,
        services: services(&metadata),
        filters,
        external: is_external(&metadata),
        config_source: metadata_text(&metadata, "istio", "config").map(Into::into),
    })
}

fn discovery(
    scope: &Scope<'_>,
    cluster: &mut proto::Cluster,
    name: &Arc<str>,
) -> Option<Discovery> {
    use proto::cluster::{ClusterDiscoveryType as T, DiscoveryType as D, LbConfig};
    let kind = match cluster.cluster_discovery_type.take() {
        None => D::Static,
        Some(T::Type(kind)) => match D::try_from(kind) {
            Ok(kind) => kind,
            Err(_) => return scope.at("type").refuse("is unknown"),
        },
        Some(T::ClusterType(custom)) => {
            return scope
                .at("cluster_type")
                .refuse(format!("{} is not supported", custom.name));
        }
    };
    let dns = dns_settings(scope, cluster);
    let endpoints = cluster.load_assignment.take().map(|mut assignment| {
        if assignment.cluster_name.is_empty() {
            assignment.cluster_name = name.to_string();
        }
        cluster_load_assignment(&scope.at("load_assignment"), assignment).map(Arc::new)
    });
    let endpoints = match endpoints {
        Some(endpoints) => endpoints?,
        None => Arc::new(cluster_load_assignment(scope, Default::default())?),
    };
    Some(match kind {
        D::Static => {
            if endpoints
                .endpoints()
                .any(|endpoint| endpoint.socket_addr().is_none())
            {
                return scope
                    .at("load_assignment")
                    .refuse("STATIC clusters need IP addresses");
            }
            Discovery::Static(endpoints)
        }
        D::StrictDns => Discovery::StrictDns {
            endpoints,
            dns: dns?,
        },
        D::LogicalDns => {
            if endpoints.endpoints().count() != 1 {
                return scope
                    .at("load_assignment")
                    .refuse("LOGICAL_DNS clusters have exactly one endpoint");
            }
            Discovery::LogicalDns {
                endpoints,
                dns: dns?,
            }
        }
        D::Eds => {
            let config = cluster.eds_cluster_config.take().unwrap_or_default();
            let is_own = config.service_name.is_empty() || *config.service_name == **name;
            let service_name = if is_own {
                Arc::clone(name)
            } else {
                config.service_name.into()
            };
            Discovery::Eds { service_name }
        }
        D::OriginalDst => {
            let port_override = match cluster.lb_config.take() {
                Some(LbConfig::OriginalDstLbConfig(mut config)) => {
                    let port = number(config.upstream_port_override.take());
                    scope.at("original_dst_lb_config").rest(&config);
                    port.and_then(|port| {
                        super::common::port(&scope.at("original_dst_lb_config"), port)
                    })
                }
                other => {
                    cluster.lb_config = other;
                    None
                }
            };
            Discovery::OriginalDst { port_override }
        }
    })
}

fn dns_settings(scope: &Scope<'_>, cluster: &mut proto::Cluster) -> Option<DnsSettings> {
    use proto::cluster::DnsLookupFamily as F;
    let Ok(family) = F::try_from(take(&mut cluster.dns_lookup_family)) else {
        return scope.at("dns_lookup_family").refuse("is unknown");
    };
    cluster.dns_jitter = None; // our resolver spreads refreshes by itself
    cluster.dns_failure_refresh_rate = None; // and backs off by itself
    Some(DnsSettings {
        refresh: duration(
            &scope.at("dns_refresh_rate"),
            cluster.dns_refresh_rate.take(),
        )
        .unwrap_or(CONNECT_TIMEOUT),
        respect_ttl: take(&mut cluster.respect_dns_ttl),
        ipv4: family != F::V6Only,
        ipv6: family != F::V4Only,
        prefer_ipv4: family == F::V4Preferred,
        use_all: family == F::All,
    })
}

fn lb_policy(scope: &Scope<'_>, cluster: &mut proto::Cluster) -> Option<LbPolicy> {
    use proto::cluster::{LbConfig as C, LbPolicy as P};
    let config = cluster.lb_config.take();
    let Ok(policy) = P::try_from(take(&mut cluster.lb_policy)) else {
        return scope.at("lb_policy").refuse("is unknown");
    };
    match (policy, config) {
        (P::RoundRobin, None) => Some(LbPolicy::RoundRobin),
        (P::RoundRobin, Some(C::RoundRobinLbConfig(config))) => {
            scope.at("round_robin_lb_config").rest(&config);
            Some(LbPolicy::RoundRobin)
        }
        (P::LeastRequest, None) => Some(LbPolicy::LeastRequest { choices: 2 }),
        (P::LeastRequest, Some(C::LeastRequestLbConfig(mut config))) => {
            let choices = number(config.choice_count.take()).unwrap_or(2).max(2);
            scope.at("least_request_lb_config").rest(&config);
            Some(LbPolicy::LeastRequest { choices })
        }
        (P::Random, None) => Some(LbPolicy::Random),
        (P::RingHash, config) => ring_hash(scope, config),
        (P::Maglev, config) => maglev(scope, config),
        (P::ClusterProvided, None) => Some(LbPolicy::ClusterProvided),
        (P::LoadBalancingPolicyConfig, _) => scope
            .at("lb_policy")
            .refuse("LOAD_BALANCING_POLICY_CONFIG is not supported"),
        (policy, Some(_)) => scope
            .at("lb_config")
            .refuse(format!("does not go with {}", policy.as_str_name())),
    }
}

fn ring_hash(scope: &Scope<'_>, config: Option<proto::cluster::LbConfig>) -> Option<LbPolicy> {
    use proto::cluster::{LbConfig, ring_hash_lb_config::HashFunction};
    let config = match config {
        None => Default::default(),
        Some(LbConfig::RingHashLbConfig(config)) => config,
        Some(_) => return scope.at("lb_config").refuse("does not go with RING_HASH"),
    };
    let settings = RingHashSettings {
        minimum_size: config.minimum_ring_size.map_or(1024, |size| size.value),
        maximum_size: config.maximum_ring_size.map_or(8 << 20, |size| size.value),
        function: match HashFunction::try_from(config.hash_function) {
            Ok(HashFunction::XxHash) => RingHashFunction::XxHash64,
            _ => {
                return scope
                    .at("ring_hash_lb_config")
                    .at("hash_function")
                    .refuse("only XX_HASH is supported");
            }
        },
        use_hostname: false,
    };
    let scope = scope.at("ring_hash_lb_config");
    if settings.minimum_size > settings.maximum_size || settings.maximum_size > 8 << 20 {
        return scope.refuse("needs minimum_ring_size <= maximum_ring_size <= 8388608");
    }
    Some(LbPolicy::RingHash(settings))
}

fn maglev(scope: &Scope<'_>, config: Option<proto::cluster::LbConfig>) -> Option<LbPolicy> {
    use proto::cluster::LbConfig;
    let table_size = match config {
        None => 65_537,
        Some(LbConfig::MaglevLbConfig(config)) => {
            config.table_size.map_or(65_537, |size| size.value)
        }
        Some(_) => return scope.at("lb_config").refuse("does not go with MAGLEV"),
    };
    if table_size > 5_000_011 || !is_prime(table_size) {
        return scope
            .at("maglev_lb_config")
            .at("table_size")
            .refuse("is not a prime below 5000012");
    }
    Some(LbPolicy::Maglev(MaglevSettings {
        table_size,
        use_hostname: false,
    }))
}

fn is_prime(number: u64) -> bool {
    number >= 2
        && (2..)
            .take_while(|d| d * d <= number)
            .all(|d| !number.is_multiple_of(d))
}

fn with_hostname(lb: LbPolicy, use_hostname: bool) -> LbPolicy {
    match lb {
        LbPolicy::RingHash(settings) => LbPolicy::RingHash(RingHashSettings {
            use_hostname,
            ..settings
        }),
        LbPolicy::Maglev(settings) => LbPolicy::Maglev(MaglevSettings {
            use_hostname,
            ..settings
        }),
        other => other,
    }
}

/// Panic threshold, locality weighting, hashing by hostname.
fn common_lb(scope: &Scope<'_>, mut config: proto::cluster::CommonLbConfig) -> (f64, bool, bool) {
    use proto::cluster::common_lb_config::LocalityConfigSpecifier as L;
    let panic = config
        .healthy_panic_threshold
        .take()
        .map_or(50.0, |percent| percent.value);
    let locality_weighted = match config.locality_config_specifier.take() {
        None => false,
        Some(L::LocalityWeightedLbConfig(_)) => true,
        // Needs a local cluster, which sidecars have not; without one Envoy ignores it too.
        Some(L::ZoneAwareLbConfig(_)) => false,
    };
    let mut hashing = config
        .consistent_hashing_lb_config
        .take()
        .unwrap_or_default();
    let by_hostname = take(&mut hashing.use_hostname_for_hashing);
    scope.at("consistent_hashing_lb_config").rest(&hashing);
    config.update_merge_window = None; // updates are merged in the control plane
    scope.rest(&config);
    (panic, locality_weighted, by_hostname)
}

fn transport(scope: &Scope<'_>, cluster: &mut proto::Cluster) -> Option<UpstreamTransport> {
    let default = tls::upstream_socket(
        &scope.at("transport_socket"),
        cluster.transport_socket.take(),
    );
    let matches = scope.each(
        "transport_socket_matches",
        take(&mut cluster.transport_socket_matches),
        |scope, socket| {
            let criteria = socket
                .r#match
                .map(struct_to_json)
                .map(string_pairs)
                .unwrap_or_default();
            let tls = tls::upstream_socket(&scope.at("transport_socket"), socket.transport_socket)?;
            Some(TransportSocketMatch {
                name: socket.name.into(),
                criteria,
                tls,
            })
        },
    );
    Some(UpstreamTransport {
        default: default?,
        matches,
    })
}

fn upstream_http(scope: &Scope<'_>, cluster: &mut proto::Cluster) -> Option<UpstreamHttp> {
    let mut options = http_proto::HttpProtocolOptions::default();
    for (key, config) in take(&mut cluster.typed_extension_protocol_options) {
        let list = scope.at("typed_extension_protocol_options");
        let entry = list.key(&key);
        if key == HTTP_OPTIONS_KEY {
            options = unpack(&entry, &config)?;
        } else {
            entry.reject("is not supported");
        }
    }
    let list = scope.at("typed_extension_protocol_options");
    http_options(&list.key(HTTP_OPTIONS_KEY), options, cluster)
}

fn http_options(
    scope: &Scope<'_>,
    mut options: http_proto::HttpProtocolOptions,
    cluster: &mut proto::Cluster,
) -> Option<UpstreamHttp> {
    use http_proto::http_protocol_options::{
        UpstreamProtocolOptions as U, explicit_http_config::ProtocolConfig as P,
    };
    let old_limit = number(cluster.max_requests_per_connection.take());
    // The fields of the cluster from before HttpProtocolOptions; Istio does not use them, Envoy's examples do.
    let old_http1 = cluster.http_protocol_options.take();
    let old_http2 = cluster.http2_protocol_options.take();
    let old_common = cluster.common_http_protocol_options.take();
    let mut common = options
        .common_http_protocol_options
        .take()
        .or(old_common)
        .unwrap_or_default();
    let mut names = options
        .upstream_http_protocol_options
        .take()
        .or_else(|| cluster.upstream_http_protocol_options.take())
        .unwrap_or_default();
    let (version, http1, http2) = match options.upstream_protocol_options.take() {
        None if old_http2.is_some() => (UpstreamHttpVersion::Http2, old_http1, old_http2),
        None => (UpstreamHttpVersion::Http1, old_http1, None),
        Some(U::ExplicitHttpConfig(config)) => match config.protocol_config {
            None => (UpstreamHttpVersion::Http1, None, None),
            Some(P::HttpProtocolOptions(http1)) => (UpstreamHttpVersion::Http1, Some(http1), None),
            Some(P::Http2ProtocolOptions(http2)) => (UpstreamHttpVersion::Http2, None, Some(http2)),
            Some(P::Http3ProtocolOptions(_)) => {
                return scope
                    .at("http3_protocol_options")
                    .refuse("is not supported");
            }
        },
        Some(U::UseDownstreamProtocolConfig(mut config)) => {
            let parts = (
                UpstreamHttpVersion::Downstream,
                config.http_protocol_options.take(),
                config.http2_protocol_options.take(),
            );
            scope.at("use_downstream_protocol_config").rest(&config);
            parts
        }
        Some(U::AutoConfig(mut config)) => {
            let parts = (
                UpstreamHttpVersion::Alpn,
                config.http_protocol_options.take(),
                config.http2_protocol_options.take(),
            );
            scope.at("auto_config").rest(&config);
            parts
        }
    };
    let upstream = UpstreamHttp {
        version,
        http1: http1_options(
            &scope.at("http_protocol_options"),
            http1.unwrap_or_default(),
        ),
        http2: http2_options(
            &scope.at("http2_protocol_options"),
            http2.unwrap_or_default(),
        ),
        idle_timeout: limit(
            &scope.at("idle_timeout"),
            common.idle_timeout.take(),
            Some(IDLE_TIMEOUT),
        ),
        max_connection_duration: limit(
            &scope.at("max_connection_duration"),
            common.max_connection_duration.take(),
            None,
        ),
        max_stream_duration: limit(
            &scope.at("max_stream_duration"),
            common.max_stream_duration.take(),
            None,
        ),
        max_requests_per_connection: number(common.max_requests_per_connection.take())
            .or(old_limit)
            .filter(|n| *n > 0),
        auto_sni: take(&mut names.auto_sni),
        auto_san_validation: take(&mut names.auto_san_validation),
    };
    scope.at("common_http_protocol_options").rest(&common);
    scope.at("upstream_http_protocol_options").rest(&names);
    scope.rest(&options);
    Some(upstream)
}

fn circuit_breakers(scope: &Scope<'_>, mut breakers: proto::CircuitBreakers) -> CircuitBreakers {
    let mut compiled = CircuitBreakers {
        default: THRESHOLDS,
        high: THRESHOLDS,
    };
    let list = take(&mut breakers.thresholds);
    scope.each("thresholds", list, |scope, mut value| {
        let thresholds = Thresholds {
            max_connections: number(value.max_connections.take())
                .unwrap_or(THRESHOLDS.max_connections),
            max_pending_requests: number(value.max_pending_requests.take())
                .unwrap_or(THRESHOLDS.max_pending_requests),
            max_requests: number(value.max_requests.take()).unwrap_or(THRESHOLDS.max_requests),
            max_retries: number(value.max_retries.take()).unwrap_or(THRESHOLDS.max_retries),
            retry_budget: value.retry_budget.take().map(|mut budget| {
                budget.budget_interval = None;
                RetryBudget {
                    percent: budget.budget_percent.map_or(20.0, |percent| percent.value),
                    min_concurrency: number(budget.min_retry_concurrency).unwrap_or(3),
                }
            }),
        };
        value.track_remaining = false; // only a statistic
        match core::RoutingPriority::try_from(take(&mut value.priority)) {
            Ok(core::RoutingPriority::High) => compiled.high = thresholds,
            _ => compiled.default = thresholds,
        }
        scope.rest(&value);
        Some(())
    });
    scope.rest(&breakers);
    compiled
}

/// Success-rate and failure-percentage ejection are refused unless they are switched off, as Istio does.
fn outlier_detection(scope: &Scope<'_>, mut value: proto::OutlierDetection) -> OutlierDetection {
    let interval = |field, value, default| {
        duration(&scope.at(field), value).unwrap_or_else(|| Duration::from_secs(default))
    };
    let base_ejection_time = interval("base_ejection_time", value.base_ejection_time.take(), 30);
    let compiled = OutlierDetection {
        consecutive_5xx: number(value.consecutive_5xx.take()).unwrap_or(5),
        consecutive_gateway_failure: number(value.consecutive_gateway_failure.take()).unwrap_or(5),
        consecutive_local_origin_failure: number(value.consecutive_local_origin_failure.take())
            .unwrap_or(5),
        split_external_local_origin_errors: take(&mut value.split_external_local_origin_errors),
        enforcing_consecutive_5xx_percent: number(value.enforcing_consecutive_5xx.take())
            .unwrap_or(100),
        enforcing_consecutive_gateway_failure_percent: number(
            value.enforcing_consecutive_gateway_failure.take(),
        )
        .unwrap_or(0),
        enforcing_consecutive_local_origin_failure_percent: number(
            value.enforcing_consecutive_local_origin_failure.take(),
        )
        .unwrap_or(100),
        interval: interval("interval", value.interval.take(), 10),
        base_ejection_time,
        max_ejection_time: interval("max_ejection_time", value.max_ejection_time.take(), 300)
            .max(base_ejection_time),
        max_ejection_percent: number(value.max_ejection_percent.take()).unwrap_or(10),
    };
    for (field, percent) in [
        (
            "enforcing_success_rate",
            value.enforcing_success_rate.take(),
        ),
        (
            "enforcing_local_origin_success_rate",
            value.enforcing_local_origin_success_rate.take(),
        ),
        (
            "enforcing_failure_percentage",
            value.enforcing_failure_percentage.take(),
        ),
        (
            "enforcing_failure_percentage_local_origin",
            value.enforcing_failure_percentage_local_origin.take(),
        ),
    ] {
        if number(percent).is_some_and(|percent| percent > 0) {
            scope.at(field).reject("is not supported");
        }
    }
    scope.rest(&value);
    compiled
}

fn source_address(
    scope: &Scope<'_>,
    config: Option<core::BindConfig>,
) -> Option<Option<std::net::IpAddr>> {
    let Some(mut config) = config else {
        return Some(None);
    };
    let address = match config.source_address.take() {
        None => None,
        Some(address) => {
            let scope = scope.at("source_address");
            let (host, port) = host_and_port(&scope, address)?;
            match host.parse() {
                Ok(ip) if port == 0 => Some(ip),
                _ => return scope.refuse("is not an IP address with port 0"),
            }
        }
    };
    // The other family's source, chosen by us from the destination.
    config
        .extra_source_addresses
        .retain(|extra| extra.address.is_none());
    config.freebind = None;
    scope.rest(&config);
    Some(address)
}

fn connection_options(
    scope: &Scope<'_>,
    options: Option<proto::UpstreamConnectionOptions>,
) -> Option<TcpKeepalive> {
    let mut options = options?;
    let keepalive = options.tcp_keepalive.take();
    options.set_local_interface_name_on_upstream_connections = false; // only visible to Envoy's own filters
    scope.rest(&options);
    let seconds = |value| number(value).map(|seconds| Duration::from_secs(seconds.into()));
    keepalive.map(|keepalive| TcpKeepalive {
        probes: number(keepalive.keepalive_probes),
        time: seconds(keepalive.keepalive_time),
        interval: seconds(keepalive.keepalive_interval),
    })
}

fn upstream_filter(scope: &Scope<'_>, filter: proto::Filter) -> Option<NetworkFilter> {
    let Some(config) = filter.typed_config else {
        return scope.at("typed_config").refuse("is required");
    };
    let scope = scope.at("typed_config");
    let config: Any = resolve(&scope, &config)?;
    match config.type_url.as_str() {
        type_url::TCP_METADATA_EXCHANGE => metadata_exchange_filter(&scope, &config),
        other => scope.refuse(format!("{other} is not supported")),
    }
}

pub(super) fn metadata_exchange_filter(scope: &Scope<'_>, config: &Any) -> Option<NetworkFilter> {
    let mut message: metadata_exchange::MetadataExchange = unpack(scope, config)?;
    let protocol = take(&mut message.protocol).into();
    let enable_discovery = take(&mut message.enable_discovery);
    scope.rest(&message);
    Some(NetworkFilter::MetadataExchange(TcpMetadataExchange {
        protocol,
        enable_discovery,
    }))
}

/// Istio's `metadata["istio"].services`.
fn services(metadata: &core::Metadata) -> Arc<[ServiceRef]> {
    let list = metadata
        .filter_metadata
        .get("istio")
        .and_then(|istio| istio.fields.get("services"));
    let Some(Kind::ListValue(list)) = list.and_then(|value| value.kind.as_ref()) else {
        return Arc::new([]);
    };
    let service = |value: &meltemi_proto::google::protobuf::Value| {
        let Some(Kind::StructValue(fields)) = &value.kind else {
            return None;
        };
        let text = |key| match fields.fields.get(key).and_then(|value| value.kind.as_ref()) {
            Some(Kind::StringValue(text)) => Arc::from(text.as_str()),
            _ => Arc::default(),
        };
        Some(ServiceRef {
            host: text("host"),
            name: text("name"),
            namespace: text("namespace"),
        })
    };
    list.values.iter().filter_map(service).collect()
}

fn is_external(metadata: &core::Metadata) -> bool {
    let value = metadata
        .filter_metadata
        .get("istio")
        .and_then(|istio| istio.fields.get("external"));
    matches!(
        value.and_then(|value| value.kind.as_ref()),
        Some(Kind::BoolValue(true))
    )
}
