use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use meltemi_proto::envoy::extensions::filters::http::{
    cors::v3 as cors_proto, fault::v3 as fault_proto, grpc_stats::v3 as grpc_stats_proto,
    local_ratelimit::v3 as rate_proto, rbac::v3 as rbac_proto, router::v3 as router_proto,
};
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3 as hcm_proto;
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::{alpn, peer_metadata, stats, type_url};

use super::Scope;
use super::common::{
    duration, fraction, header_matcher, header_mutations, header_value, is_true, number, resolve,
    runtime_fraction, status, string_matcher, unpack,
};
use super::{ext_authz, jwt, rbac};
use crate::runtime::{
    AlpnOverrides, AlpnProtocol, Cors, FaultAbort, FaultAbortStatus, FaultDelay, FaultInjection,
    FilterOverride, Fraction, GrpcStats, HttpFilter, HttpFilterKind, LocalRateLimit,
    OverrideConfig, PeerMetadataExchange, PeerMetadataMethod, PerFilterConfig, Router, Stats,
    StatsReporter, TokenBucket,
};

const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";
/// Istio's default for reports on open TCP connections.
const TCP_REPORTING_INTERVAL: Duration = Duration::from_secs(5);

/// The filters before the router, and the router.
pub(super) fn http_filters(
    scope: &Scope<'_>,
    mut list: Vec<hcm_proto::HttpFilter>,
) -> Option<(Vec<HttpFilter>, Router)> {
    let Some(last) = list.pop() else {
        return scope.at("http_filters").refuse("has no router");
    };
    let position = list.len();
    let filters = scope.each("http_filters", list, http_filter);
    let field = scope.at("http_filters");
    let router = router(&field.index(position), last)?;
    Some((filters, router))
}

fn typed_config(scope: &Scope<'_>, filter: &mut hcm_proto::HttpFilter) -> Option<Any> {
    use hcm_proto::http_filter::ConfigType as C;
    match filter.config_type.take() {
        Some(C::TypedConfig(config)) => resolve(&scope.at("typed_config"), &config),
        Some(C::ConfigDiscovery(_)) => scope.at("config_discovery").refuse("is not supported"),
        None => scope.at("typed_config").refuse("is required"),
    }
}

fn router(scope: &Scope<'_>, mut filter: hcm_proto::HttpFilter) -> Option<Router> {
    let config = typed_config(scope, &mut filter)?;
    let scope = scope.at("typed_config");
    if config.type_url != type_url::ROUTER {
        return scope.refuse("the last filter is not the router");
    }
    let mut router: router_proto::Router = unpack(&scope, &config)?;
    let suppress_envoy_headers = take(&mut router.suppress_envoy_headers);
    router.start_child_span = false; // the upstream attempt is part of the span
    router.dynamic_stats = None; // only statistics
    router.suppress_grpc_request_failure_code_stats = false;
    scope.rest(&router);
    Some(Router {
        suppress_envoy_headers,
    })
}

fn http_filter(scope: &Scope<'_>, mut filter: hcm_proto::HttpFilter) -> Option<HttpFilter> {
    let name: Arc<str> = take(&mut filter.name).into();
    let disabled = take(&mut filter.disabled);
    let config = typed_config(scope, &mut filter)?;
    // An optional filter that we do not have may be left out (`is_optional`), a known one may not be wrong.
    let is_optional = take(&mut filter.is_optional);
    let scope = scope.at("typed_config");
    let kind = match config.type_url.as_str() {
        type_url::FAULT => {
            HttpFilterKind::Fault(Arc::new(fault(&scope, unpack(&scope, &config)?)?))
        }
        type_url::CORS => HttpFilterKind::Cors,
        type_url::GRPC_STATS => {
            HttpFilterKind::GrpcStats(grpc_stats(&scope, unpack(&scope, &config)?))
        }
        type_url::ISTIO_ALPN => {
            HttpFilterKind::Alpn(Arc::new(alpn_overrides(&scope, unpack(&scope, &config)?)?))
        }
        type_url::PEER_METADATA => {
            HttpFilterKind::PeerMetadata(Arc::new(peer_metadata(&scope, unpack(&scope, &config)?)?))
        }
        type_url::ISTIO_STATS => HttpFilterKind::Stats(istio_stats(&scope, &config)?),
        type_url::RBAC => HttpFilterKind::Rbac(Arc::new(rbac::http_filter(
            &scope,
            unpack(&scope, &config)?,
        )?)),
        type_url::LOCAL_RATE_LIMIT => HttpFilterKind::LocalRateLimit(Arc::new(local_rate_limit(
            &scope,
            unpack(&scope, &config)?,
        )?)),
        type_url::JWT_AUTHN => {
            HttpFilterKind::Jwt(Arc::new(jwt::filter(&scope, unpack(&scope, &config)?)?))
        }
        type_url::EXT_AUTHZ => HttpFilterKind::ExtAuthz(Arc::new(ext_authz::http_filter(
            &scope,
            unpack(&scope, &config)?,
        )?)),
        _ if is_optional => return None,
        other => return scope.refuse(format!("{other} is not supported")),
    };
    Some(HttpFilter {
        name,
        disabled,
        kind,
    })
}

fn fault(scope: &Scope<'_>, mut fault: fault_proto::HttpFault) -> Option<FaultInjection> {
    let delay = fault.delay.take().map(|delay| {
        let scope = scope.at("delay");
        let share = delay
            .percentage
            .and_then(|share| fraction(&scope.at("percentage"), share));
        match delay.fault_delay_secifier {
            Some(FaultDelaySecifier::FixedDelay(fixed)) => Some(FaultDelay {
                delay: duration(&scope.at("fixed_delay"), Some(fixed))?,
                share: share.unwrap_or(NEVER),
            }),
            _ => scope.refuse("only fixed_delay is supported"),
        }
    });
    let abort = fault
        .abort
        .take()
        .map(|abort| fault_abort(&scope.at("abort"), abort));
    let compiled = FaultInjection {
        delay: delay.flatten(),
        abort: abort.flatten(),
        upstream_cluster: Some(take(&mut fault.upstream_cluster))
            .filter(|name| !name.is_empty())
            .map(Into::into),
        headers: scope.each("headers", take(&mut fault.headers), header_matcher),
        max_active_faults: number(fault.max_active_faults.take()),
    };
    fault.disable_downstream_cluster_stats = false; // only statistics
    scope.rest(&fault);
    Some(compiled)
}

/// `FractionalPercent` unset.
const NEVER: Fraction = Fraction {
    numerator: 0,
    denominator: 100,
};

fn fault_abort(scope: &Scope<'_>, mut abort: fault_proto::FaultAbort) -> Option<FaultAbort> {
    use fault_proto::fault_abort::ErrorType as E;
    let share = abort
        .percentage
        .take()
        .and_then(|share| fraction(&scope.at("percentage"), share));
    let kind = match abort.error_type.take() {
        Some(E::HttpStatus(code)) => {
            FaultAbortStatus::Http(status(&scope.at("http_status"), code)?)
        }
        Some(E::GrpcStatus(code)) => FaultAbortStatus::Grpc(code),
        _ => return scope.refuse("only http_status and grpc_status are supported"),
    };
    scope.rest(&abort);
    Some(FaultAbort {
        status: kind,
        share: share.unwrap_or(NEVER),
    })
}

fn cors(scope: &Scope<'_>, mut policy: cors_proto::CorsPolicy) -> Option<Cors> {
    let list = |field: &str, value: String| match value.as_str() {
        "" => None,
        value => header_value(&scope.at(field), value),
    };
    let enabled = match policy.filter_enabled.take() {
        None => Fraction::ALWAYS,
        Some(share) => runtime_fraction(&scope.at("filter_enabled"), share)?,
    };
    let compiled = Cors {
        allow_origins: scope.each(
            "allow_origin_string_match",
            take(&mut policy.allow_origin_string_match),
            string_matcher,
        ),
        allow_methods: list("allow_methods", take(&mut policy.allow_methods)),
        allow_headers: list("allow_headers", take(&mut policy.allow_headers)),
        expose_headers: list("expose_headers", take(&mut policy.expose_headers)),
        max_age: list("max_age", take(&mut policy.max_age)),
        allow_credentials: is_true(policy.allow_credentials.take(), false),
        enabled,
        forward_not_matching_preflights: is_true(
            policy.forward_not_matching_preflights.take(),
            true,
        ),
    };
    scope.rest(&policy);
    Some(compiled)
}

fn grpc_stats(scope: &Scope<'_>, mut config: grpc_stats_proto::FilterConfig) -> GrpcStats {
    let emit_filter_state = take(&mut config.emit_filter_state);
    // Per-method statistics of Envoy's own; messages are counted for Istio's metrics all the same.
    config.per_method_stat_specifier = None;
    config.enable_upstream_stats = false;
    scope.rest(&config);
    GrpcStats { emit_filter_state }
}

fn alpn_overrides(scope: &Scope<'_>, config: alpn::FilterConfig) -> Option<AlpnOverrides> {
    use alpn::filter_config::Protocol as P;
    let overrides = scope.each("alpn_override", config.alpn_override, |scope, entry| {
        let protocol = match P::try_from(entry.upstream_protocol) {
            Ok(P::Http10) => AlpnProtocol::Http10,
            Ok(P::Http11) => AlpnProtocol::Http11,
            Ok(P::Http2) => AlpnProtocol::Http2,
            Err(_) => return scope.at("upstream_protocol").refuse("is unknown"),
        };
        Some((
            protocol,
            entry.alpn_override.into_iter().map(Into::into).collect(),
        ))
    });
    Some(AlpnOverrides { overrides })
}

fn peer_metadata(
    scope: &Scope<'_>,
    mut config: peer_metadata::Config,
) -> Option<PeerMetadataExchange> {
    use peer_metadata::config::{
        DiscoveryMethod, PropagationMethod, discovery_method, propagation_method,
    };
    let discovery = |scope: &Scope<'_>, method: DiscoveryMethod| {
        use discovery_method::MethodSpecifier as M;
        match method.method_specifier {
            Some(M::IstioHeaders(headers)) => Some(PeerMetadataMethod::IstioHeaders {
                skip_external_clusters: headers.skip_external_clusters,
            }),
            Some(M::WorkloadDiscovery(_)) => Some(PeerMetadataMethod::WorkloadDiscovery),
            Some(M::Baggage(_)) => Some(PeerMetadataMethod::Baggage),
            None => scope.refuse("has no method"),
        }
    };
    let propagation = |scope: &Scope<'_>, method: PropagationMethod| match method.method_specifier {
        Some(propagation_method::MethodSpecifier::IstioHeaders(headers)) => {
            Some(PeerMetadataMethod::IstioHeaders {
                skip_external_clusters: headers.skip_external_clusters,
            })
        }
        None => scope.refuse("has no method"),
    };
    let compiled = PeerMetadataExchange {
        downstream_discovery: scope.each(
            "downstream_discovery",
            take(&mut config.downstream_discovery),
            discovery,
        ),
        upstream_discovery: scope.each(
            "upstream_discovery",
            take(&mut config.upstream_discovery),
            discovery,
        ),
        downstream_propagation: scope.each(
            "downstream_propagation",
            take(&mut config.downstream_propagation),
            propagation,
        ),
        upstream_propagation: scope.each(
            "upstream_propagation",
            take(&mut config.upstream_propagation),
            propagation,
        ),
        shared_with_upstream: take(&mut config.shared_with_upstream),
        additional_labels: take(&mut config.additional_labels)
            .into_iter()
            .map(Into::into)
            .collect(),
    };
    Some(compiled)
}

pub(super) fn istio_stats(scope: &Scope<'_>, config: &Any) -> Option<Stats> {
    let mut config: stats::PluginConfig = unpack(scope, config)?;
    let reporter = match stats::Reporter::try_from(take(&mut config.reporter)) {
        Ok(stats::Reporter::Unspecified) => StatsReporter::ByDirection,
        Ok(stats::Reporter::ServerGateway) => StatsReporter::ServerGateway,
        Err(_) => return scope.at("reporter").refuse("is unknown"),
    };
    let compiled = Stats {
        reporter,
        disable_host_header_fallback: take(&mut config.disable_host_header_fallback),
        tcp_reporting_interval: duration(
            &scope.at("tcp_reporting_duration"),
            config.tcp_reporting_duration.take(),
        )
        .unwrap_or(TCP_REPORTING_INTERVAL),
    };
    config.rotation_interval = None; // our series are bounded by configuration, they need no rotation
    config.graceful_deletion_interval = None;
    for (field, is_set) in [
        ("metrics", !config.metrics.is_empty()),
        ("definitions", !config.definitions.is_empty()),
    ] {
        if is_set {
            scope.at(field).reject("is not supported");
        }
    }
    Some(compiled)
}

fn local_rate_limit(
    scope: &Scope<'_>,
    mut config: rate_proto::LocalRateLimit,
) -> Option<LocalRateLimit> {
    let share = |field: &str, value: Option<core::RuntimeFractionalPercent>| match value {
        None => Some(NEVER),
        Some(value) => runtime_fraction(&scope.at(field), value),
    };
    let bucket = match config.token_bucket.take() {
        None => None,
        Some(bucket) => {
            let scope = scope.at("token_bucket");
            let fill_interval = duration(&scope.at("fill_interval"), bucket.fill_interval);
            match fill_interval.filter(|interval| *interval >= Duration::from_millis(50)) {
                Some(fill_interval) => Some(TokenBucket {
                    max_tokens: bucket.max_tokens,
                    tokens_per_fill: number(bucket.tokens_per_fill).unwrap_or(1),
                    fill_interval,
                }),
                None => return scope.at("fill_interval").refuse("is not at least 50ms"),
            }
        }
    };
    let status_code = config
        .status
        .take()
        .map_or(429, |status| u32::try_from(status.code).unwrap_or(0));
    let compiled = LocalRateLimit {
        stat_prefix: take(&mut config.stat_prefix).into(),
        // Envoy: below 400 is 429.
        status: status(
            &scope.at("status"),
            if status_code < 400 { 429 } else { status_code },
        )?,
        bucket,
        enabled: share("filter_enabled", config.filter_enabled.take())?,
        enforced: share("filter_enforced", config.filter_enforced.take())?,
        response_headers: header_mutations(
            scope,
            "response_headers",
            take(&mut config.response_headers_to_add),
            Vec::new(),
        ),
        rate_limited_as_resource_exhausted: take(&mut config.rate_limited_as_resource_exhausted),
        per_downstream_connection: take(&mut config.local_rate_limit_per_downstream_connection),
    };
    scope.rest(&config);
    Some(compiled)
}

/// `typed_per_filter_config` of a route, virtual host, weighted cluster or route configuration.
pub(super) fn per_filter(
    scope: &Scope<'_>,
    configs: std::collections::HashMap<String, Any>,
) -> PerFilterConfig {
    let list = scope.at("typed_per_filter_config");
    let compile = |(name, config): (String, Any)| {
        let mut over = FilterOverride::default();
        apply_per_filter(&list.key(&name), &config, &mut over)?;
        Some((Arc::from(name), over))
    };
    configs.into_iter().filter_map(compile).collect()
}

fn apply_per_filter(scope: &Scope<'_>, config: &Any, into: &mut FilterOverride) -> Option<()> {
    use meltemi_proto::envoy::config::route::v3::FilterConfig;
    let config = resolve(scope, config)?;
    into.config = Some(match config.type_url.as_str() {
        FILTER_CONFIG => {
            let wrapped: FilterConfig = unpack(scope, &config)?;
            into.disabled = Some(wrapped.disabled);
            return match wrapped.config {
                Some(inner) => apply_per_filter(&scope.at("config"), &inner, into),
                None => Some(()),
            };
        }
        type_url::FAULT => OverrideConfig::Fault(Arc::new(fault(scope, unpack(scope, &config)?)?)),
        type_url::CORS_POLICY => {
            OverrideConfig::Cors(Arc::new(cors(scope, unpack(scope, &config)?)?))
        }
        type_url::RBAC_PER_ROUTE => {
            let per_route: rbac_proto::RbacPerRoute = unpack(scope, &config)?;
            OverrideConfig::Rbac(match per_route.rbac {
                None => None,
                Some(filter) => Some(Arc::new(rbac::http_filter(&scope.at("rbac"), filter)?)),
            })
        }
        type_url::LOCAL_RATE_LIMIT => OverrideConfig::LocalRateLimit(Arc::new(local_rate_limit(
            scope,
            unpack(scope, &config)?,
        )?)),
        type_url::JWT_AUTHN_PER_ROUTE => {
            OverrideConfig::Jwt(jwt::per_route(scope, unpack(scope, &config)?)?)
        }
        type_url::EXT_AUTHZ_PER_ROUTE => OverrideConfig::ExtAuthz(Arc::new(ext_authz::per_route(
            scope,
            unpack(scope, &config)?,
        )?)),
        other => return scope.refuse(format!("{other} is not supported")),
    });
    Some(())
}
