use std::cell::RefCell;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::config::route::v3 as proto;
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message as _};

use super::common::{
    duration, full_regex, header_matcher, header_mutations, header_name, header_source, is_true,
    limit, metadata_text, number, query_matcher, regex_rewrite, runtime_fraction, status,
};
use super::filter::per_filter;
use super::metadata::metadata_matcher;
use super::{Problem, Scope};
use crate::runtime::{
    ClusterTarget, DirectResponse, ForwardAction, Fraction, HashPolicy, HashSource, HostRewrite,
    LazyVirtualHost, MirrorPolicy, PathMatch, PathRewrite, Redirect, RedirectPath, RetryBackoff,
    RetryConditions, RetryPolicy, Route, RouteAction, RouteConfiguration, RouteMatch,
    UpgradeOverride, VirtualHost, WeightedCluster, WeightedClusters,
};
use crate::virtual_host::{DomainIndex, DomainIndexBuilder};

/// Envoy's defaults.
const ROUTE_TIMEOUT: Duration = Duration::from_secs(15);
const RETRY_BASE: Duration = Duration::from_millis(25);
const DIRECT_RESPONSE_LIMIT_BYTES: usize = 4096;

pub(super) fn route_configuration(
    scope: &Scope<'_>,
    mut config: proto::RouteConfiguration,
) -> Option<RouteConfiguration> {
    let hosts = take(&mut config.virtual_hosts);
    let hosts = hosts.iter().map(|host| host.encode_to_vec().into());
    let mut hosts: Vec<Bytes> = hosts.collect();
    route_configuration_of(scope, &mut hosts, config, None)
}

/// What becomes of a virtual host that is refused: its configuration is not, and it serves on as it did in the last one.
pub(super) struct Salvage<'a> {
    pub(super) last: Option<&'a RouteConfiguration>,
    /// Of the virtual hosts that were refused.
    pub(super) problems: &'a RefCell<Vec<Problem>>,
}

/// Compiles a configuration whose virtual hosts are still encoded. Without a salvage, a virtual host that is refused
/// refuses the configuration; with one, `hosts` has afterwards what took their place.
pub(super) fn route_configuration_of(
    scope: &Scope<'_>,
    hosts: &mut Vec<Bytes>,
    mut config: proto::RouteConfiguration,
    salvage: Option<&Salvage<'_>>,
) -> Option<RouteConfiguration> {
    let body_limit = number(config.max_direct_response_body_size_bytes.take())
        .map_or(DIRECT_RESPONSE_LIMIT_BYTES, |n| n as usize);
    let (virtual_hosts, index) =
        virtual_hosts(&scope.at("virtual_hosts"), hosts, body_limit, salvage)?;
    let asks_for_hosts = match config.vhds.take() {
        None => false,
        Some(vhds) => {
            let source = vhds.config_source.and_then(|s| s.config_source_specifier);
            if !matches!(
                source,
                Some(core::config_source::ConfigSourceSpecifier::Ads(_))
            ) {
                return scope
                    .at("vhds")
                    .at("config_source")
                    .refuse("only ads is supported");
            }
            true
        }
    };
    let compiled = RouteConfiguration {
        asks_for_hosts,
        direct_response_limit_bytes: body_limit,
        name: take(&mut config.name).into(),
        virtual_hosts,
        index,
        ignore_port_in_host_matching: take(&mut config.ignore_port_in_host_matching),
        request_headers: header_mutations(
            scope,
            "request_headers",
            take(&mut config.request_headers_to_add),
            take(&mut config.request_headers_to_remove),
        ),
        response_headers: header_mutations(
            scope,
            "response_headers",
            take(&mut config.response_headers_to_add),
            take(&mut config.response_headers_to_remove),
        ),
        most_specific_header_mutations_wins: take(&mut config.most_specific_header_mutations_wins),
        per_filter: per_filter(scope, take(&mut config.typed_per_filter_config)),
        mirrors: scope.each(
            "request_mirror_policies",
            take(&mut config.request_mirror_policies),
            mirror,
        ),
    };
    // Clusters come and go by CDS; a route to none answers 503 with NC.
    config.validate_clusters = None;
    config.metadata = None; // informs people
    scope.rest(&config);
    Some(compiled)
}

/// The virtual host as it was in the last configuration, for the domains of now. One that is new has no routes and answers
/// 404: without it, its requests would be those of a wildcard that was not meant for them.
fn substitute(last: Option<&RouteConfiguration>, host: proto::VirtualHost) -> Option<Bytes> {
    if host.domains.is_empty() {
        return None;
    }
    let known = last.into_iter().flat_map(|last| &last.virtual_hosts);
    let mut known = known.filter_map(|host| proto::VirtualHost::decode(&**host.encoded()).ok());
    let last = known.find(|known| known.name == host.name);
    let host = proto::VirtualHost {
        name: host.name,
        domains: host.domains,
        ..last.unwrap_or_default()
    };
    Some(host.encode_to_vec().into())
}

/// Checks the virtual hosts one after another and leaves them encoded. Two for one domain refuse the configuration in any
/// case: which of them was meant nobody can tell.
fn virtual_hosts(
    scope: &Scope<'_>,
    hosts: &mut Vec<Bytes>,
    body_limit: usize,
    salvage: Option<&Salvage<'_>>,
) -> Option<(Box<[LazyVirtualHost]>, DomainIndex)> {
    let mut domains = DomainIndexBuilder::default();
    let mut kept = Vec::with_capacity(hosts.len());
    for (position, encoded) in take(hosts).into_iter().enumerate() {
        let scope = scope.index(position);
        let Some((encoded, of_host)) = checked(&scope, encoded, body_limit, salvage) else {
            continue;
        };
        let position = kept.len();
        of_host
            .iter()
            .for_each(|domain| domains.add(position, domain));
        kept.push(LazyVirtualHost::new(encoded.clone(), body_limit));
        hosts.push(encoded);
    }
    match domains.finish(&kept) {
        Ok(index) => Some((kept.into(), index)),
        Err((position, domain)) => {
            let scope = scope.index(position);
            let reason = format!("\"{domain}\" is there twice");
            scope.at("domains").refuse(reason)
        }
    }
}

/// A virtual host, or what takes its place, with its domains.
fn checked(
    scope: &Scope<'_>,
    encoded: Bytes,
    body_limit: usize,
    salvage: Option<&Salvage<'_>>,
) -> Option<(Bytes, Vec<Arc<str>>)> {
    let decode = || {
        proto::VirtualHost::decode(encoded.clone())
            .map_or_else(|error| scope.refuse(error.to_string()), Some)
    };
    let Some(salvage) = salvage else {
        let host = virtual_host(scope, decode()?, body_limit)?;
        return Some((encoded, host.domains));
    };
    let problems = RefCell::default();
    let compiled = virtual_host(&scope.apart(&problems), decode()?, body_limit);
    let mut problems = problems.into_inner();
    if let Some(host) = compiled.filter(|_| problems.is_empty()) {
        return Some((encoded, host.domains));
    }
    let host = decode()?;
    for problem in &mut problems {
        problem.reason = format!("{} (virtual host \"{}\")", problem.reason, host.name);
    }
    salvage.problems.borrow_mut().append(&mut problems);
    let domains = host.domains.iter().map(|domain| domain.as_str().into());
    let domains = domains.collect();
    Some((substitute(salvage.last, host)?, domains))
}

/// `RouteConfiguration.virtual_hosts`
const VIRTUAL_HOSTS: u32 = 2;

/// Decodes a route configuration but for its virtual hosts, which stay parts of the body.
pub(super) fn decode_without_hosts(
    body: &Bytes,
) -> Result<(Vec<Bytes>, proto::RouteConfiguration), DecodeError> {
    let (mut hosts, mut rest, mut left) = (Vec::new(), Vec::new(), body.clone());
    while !left.is_empty() {
        let start = left.clone();
        let (tag, kind) = encoding::decode_key(&mut left)?;
        if tag == VIRTUAL_HOSTS && kind == WireType::LengthDelimited {
            let mut host = Bytes::new();
            encoding::bytes::merge(kind, &mut host, &mut left, DecodeContext::default())?;
            hosts.push(host);
        } else {
            encoding::skip_field(kind, tag, &mut left, DecodeContext::default())?;
            rest.extend_from_slice(&start[..start.len() - left.len()]);
        }
    }
    Ok((hosts, proto::RouteConfiguration::decode(rest.as_slice())?))
}

/// The reverse of [`decode_without_hosts`].
pub(super) fn encode_with_hosts(rest: &proto::RouteConfiguration, hosts: &[Bytes]) -> Bytes {
    let mut body = rest.encode_to_vec();
    for host in hosts {
        encoding::bytes::encode(VIRTUAL_HOSTS, host, &mut body);
    }
    body.into()
}

pub(super) fn virtual_host(
    scope: &Scope<'_>,
    mut host: proto::VirtualHost,
    body_limit: usize,
) -> Option<VirtualHost> {
    let domains: Vec<Arc<str>> = take(&mut host.domains)
        .into_iter()
        .map(Into::into)
        .collect();
    if domains.is_empty() {
        return scope.at("domains").refuse("is empty");
    }
    let retry = match host.retry_policy.take() {
        None => None,
        Some(policy) => Some(Arc::new(retry_policy(&scope.at("retry_policy"), policy)?)),
    };
    let mirrors: Arc<[MirrorPolicy]> = scope
        .each(
            "request_mirror_policies",
            take(&mut host.request_mirror_policies),
            mirror,
        )
        .into();
    let to_https = redirect_to_https(scope, take(&mut host.require_tls))?;
    let routes = scope.each("routes", take(&mut host.routes), |scope, route| {
        self::route(scope, route, body_limit)
            .map(|route| Arc::new(inherit(route, retry.as_ref(), &mirrors)))
    });
    let routes = to_https.map(Arc::new).into_iter().chain(routes).collect();
    let compiled = VirtualHost {
        name: take(&mut host.name).into(),
        domains,
        routes,
        request_headers: header_mutations(
            scope,
            "request_headers",
            take(&mut host.request_headers_to_add),
            take(&mut host.request_headers_to_remove),
        ),
        response_headers: header_mutations(
            scope,
            "response_headers",
            take(&mut host.response_headers_to_add),
            take(&mut host.response_headers_to_remove),
        ),
        per_filter: per_filter(scope, take(&mut host.typed_per_filter_config)),
        include_request_attempt_count: take(&mut host.include_request_attempt_count),
        include_attempt_count_in_response: take(&mut host.include_attempt_count_in_response),
    };
    host.metadata = None; // informs people
    scope.rest(&host);
    Some(compiled)
}

/// `require_tls`: requests in plain text are sent to the same place by HTTPS, before any route is looked at.
fn redirect_to_https(scope: &Scope<'_>, required: i32) -> Option<Option<Route>> {
    use proto::virtual_host::TlsRequirementType as T;
    match T::try_from(required) {
        Ok(T::None) => Some(None),
        Ok(T::All) => {
            let plain = proto::HeaderMatcher {
                name: ":scheme".to_owned(),
                header_match_specifier: Some(
                    proto::header_matcher::HeaderMatchSpecifier::ExactMatch("http".to_owned()),
                ),
                ..proto::HeaderMatcher::default()
            };
            let redirect = proto::Route {
                r#match: Some(proto::RouteMatch {
                    path_specifier: Some(proto::route_match::PathSpecifier::Prefix("/".to_owned())),
                    headers: vec![plain],
                    ..proto::RouteMatch::default()
                }),
                action: Some(proto::route::Action::Redirect(proto::RedirectAction {
                    scheme_rewrite_specifier: Some(
                        proto::redirect_action::SchemeRewriteSpecifier::HttpsRedirect(true),
                    ),
                    ..proto::RedirectAction::default()
                })),
                ..proto::Route::default()
            };
            route(&scope.at("require_tls"), redirect, 0).map(Some)
        }
        _ => scope
            .at("require_tls")
            .refuse("only NONE and ALL are supported"),
    }
}

/// What a route does not say, its virtual host does: retries and mirrors replace as a whole.
fn inherit(
    mut route: Route,
    retry: Option<&Arc<RetryPolicy>>,
    mirrors: &Arc<[MirrorPolicy]>,
) -> Route {
    if let RouteAction::Forward(action) = &mut route.action {
        if action.retry.is_none() {
            action.retry = retry.cloned();
        }
        if action.mirrors.is_empty() {
            action.mirrors = Arc::clone(mirrors);
        }
    }
    route
}

fn route(scope: &Scope<'_>, mut route: proto::Route, body_limit: usize) -> Option<Route> {
    use proto::route::Action as A;
    let matches = match route.r#match.take() {
        Some(matches) => route_match(&scope.at("match"), matches),
        None => scope.at("match").refuse("is required"),
    };
    let action = match route.action.take() {
        Some(A::Route(action)) => {
            forward(&scope.at("route"), action).map(|action| RouteAction::Forward(Box::new(action)))
        }
        Some(A::Redirect(action)) => redirect(&scope.at("redirect"), action)
            .map(|action| RouteAction::Redirect(Box::new(action))),
        Some(A::DirectResponse(action)) => {
            direct_response(&scope.at("direct_response"), action, body_limit)
                .map(RouteAction::DirectResponse)
        }
        Some(A::FilterAction(_)) => scope.at("filter_action").refuse("is not supported"),
        Some(A::NonForwardingAction(_)) => {
            scope.at("non_forwarding_action").refuse("is not supported")
        }
        None => scope.at("route").refuse("is required"),
    };
    let metadata = route.metadata.take().unwrap_or_default();
    let compiled = Route {
        name: take(&mut route.name).into(),
        matches: matches?,
        action: action?,
        request_headers: header_mutations(
            scope,
            "request_headers",
            take(&mut route.request_headers_to_add),
            take(&mut route.request_headers_to_remove),
        ),
        response_headers: header_mutations(
            scope,
            "response_headers",
            take(&mut route.response_headers_to_add),
            take(&mut route.response_headers_to_remove),
        ),
        per_filter: per_filter(scope, take(&mut route.typed_per_filter_config)),
        config_source: metadata_text(&metadata, "istio", "config").map(Into::into),
        operation: route
            .decorator
            .take()
            .map(|decorator| decorator.operation.into()),
    };
    route.stat_prefix.clear(); // only names statistics
    scope.rest(&route);
    Some(compiled)
}

pub(super) fn route_match(scope: &Scope<'_>, mut value: proto::RouteMatch) -> Option<RouteMatch> {
    use proto::route_match::PathSpecifier as P;
    let ignore_case = !is_true(value.case_sensitive.take(), true);
    let path = match value.path_specifier.take() {
        Some(P::Prefix(prefix)) => PathMatch::Prefix {
            prefix: prefix.into(),
            ignore_case,
        },
        Some(P::Path(path)) => PathMatch::Exact {
            path: path.into(),
            ignore_case,
        },
        Some(P::PathSeparatedPrefix(prefix)) => {
            if prefix.ends_with('/') || prefix.contains(['?', '#']) {
                return scope
                    .at("path_separated_prefix")
                    .refuse("ends with a slash, or has a query or fragment");
            }
            PathMatch::SeparatedPrefix {
                prefix: prefix.into(),
                ignore_case,
            }
        }
        Some(P::SafeRegex(regex)) => PathMatch::Regex(full_regex(&scope.at("safe_regex"), regex)?),
        Some(P::ConnectMatcher(_)) => PathMatch::Connect,
        Some(P::PathMatchPolicy(_)) => {
            return scope.at("path_match_policy").refuse("is not supported");
        }
        None => return scope.refuse("has no path"),
    };
    let wanted = value.headers.len() + value.query_parameters.len() + value.dynamic_metadata.len();
    let compiled = RouteMatch {
        path,
        headers: scope.each("headers", take(&mut value.headers), header_matcher),
        query: scope.each(
            "query_parameters",
            take(&mut value.query_parameters),
            query_matcher,
        ),
        runtime_fraction: match value.runtime_fraction.take() {
            None => None,
            Some(share) => Some(runtime_fraction(&scope.at("runtime_fraction"), share)?),
        },
        grpc_only: value.grpc.take().is_some(),
        metadata: scope.each(
            "dynamic_metadata",
            take(&mut value.dynamic_metadata),
            metadata_matcher,
        ),
    };
    scope.rest(&value);
    // A matcher that was refused must not widen the route.
    let found = compiled.headers.len() + compiled.query.len() + compiled.metadata.len();
    (found == wanted).then_some(compiled)
}

fn forward(scope: &Scope<'_>, mut action: proto::RouteAction) -> Option<ForwardAction> {
    let cluster = cluster_target(scope, action.cluster_specifier.take());
    let host_rewrite = host_rewrite(scope, action.host_rewrite_specifier.take());
    let path_rewrite = path_rewrite(scope, &mut action);
    let cluster_not_found_status =
        cluster_not_found_status(scope, take(&mut action.cluster_not_found_response_code));
    let retry = match action.retry_policy.take() {
        None => None,
        Some(policy) => Some(Arc::new(retry_policy(&scope.at("retry_policy"), policy)?)),
    };
    let old_grpc_max = action.max_grpc_timeout.take();
    let old_grpc_offset = action.grpc_timeout_offset.take();
    let mut stream = action.max_stream_duration.take().unwrap_or_default();
    let stream_scope = scope.at("max_stream_duration");
    let set = |field, value: Option<_>| {
        value.map(|value| limit(&stream_scope.at(field), Some(value), None))
    };
    let high_priority = take(&mut action.priority) == core::RoutingPriority::High as i32;
    let compiled = ForwardAction {
        cluster: cluster?,
        cluster_not_found_status: cluster_not_found_status?,
        path_rewrite: path_rewrite?,
        host_rewrite: host_rewrite?,
        append_x_forwarded_host: take(&mut action.append_x_forwarded_host),
        timeout: limit(
            &scope.at("timeout"),
            action.timeout.take(),
            Some(ROUTE_TIMEOUT),
        ),
        idle_timeout: action
            .idle_timeout
            .take()
            .map(|value| limit(&scope.at("idle_timeout"), Some(value), None)),
        max_stream_duration: set("max_stream_duration", stream.max_stream_duration.take()),
        grpc_timeout_max: set(
            "grpc_timeout_header_max",
            stream.grpc_timeout_header_max.take().or(old_grpc_max),
        ),
        grpc_timeout_offset: duration(
            &stream_scope,
            stream.grpc_timeout_header_offset.take().or(old_grpc_offset),
        ),
        retry,
        hash: scope
            .each("hash_policy", take(&mut action.hash_policy), hash_policy)
            .into(),
        mirrors: scope
            .each(
                "request_mirror_policies",
                take(&mut action.request_mirror_policies),
                mirror,
            )
            .into(),
        upgrades: scope.each(
            "upgrade_configs",
            take(&mut action.upgrade_configs),
            upgrade,
        ),
        high_priority,
    };
    scope.rest(&action);
    Some(compiled)
}

fn cluster_not_found_status(scope: &Scope<'_>, code: i32) -> Option<StatusCode> {
    use proto::route_action::ClusterNotFoundResponseCode as C;
    match C::try_from(code) {
        Ok(C::ServiceUnavailable) => Some(StatusCode::SERVICE_UNAVAILABLE),
        Ok(C::NotFound) => Some(StatusCode::NOT_FOUND),
        Ok(C::InternalServerError) => Some(StatusCode::INTERNAL_SERVER_ERROR),
        Err(_) => scope
            .at("cluster_not_found_response_code")
            .refuse("is unknown"),
    }
}

fn cluster_target(
    scope: &Scope<'_>,
    specifier: Option<proto::route_action::ClusterSpecifier>,
) -> Option<ClusterTarget> {
    use proto::route_action::ClusterSpecifier as C;
    match specifier {
        Some(C::Cluster(name)) if !name.is_empty() => Some(ClusterTarget::Cluster(name.into())),
        Some(C::WeightedClusters(weighted)) => {
            weighted_clusters(&scope.at("weighted_clusters"), weighted)
                .map(|w| ClusterTarget::Weighted(Arc::new(w)))
        }
        Some(C::ClusterHeader(name)) => {
            header_source(&scope.at("cluster_header"), &name).map(ClusterTarget::Header)
        }
        Some(C::ClusterSpecifierPlugin(_) | C::InlineClusterSpecifierPlugin(_)) => scope
            .at("cluster_specifier_plugin")
            .refuse("is not supported"),
        Some(C::Cluster(_)) | None => scope.at("cluster").refuse("is required"),
    }
}

fn weighted_clusters(
    scope: &Scope<'_>,
    mut weighted: proto::WeightedCluster,
) -> Option<WeightedClusters> {
    let count = weighted.clusters.len();
    let clusters = scope.each("clusters", take(&mut weighted.clusters), weighted_cluster);
    weighted.total_weight = None; // deprecated: the sum is the total
    weighted.runtime_key_prefix.clear(); // there is no runtime to read
    scope.rest(&weighted);
    let total_weight: u64 = clusters
        .iter()
        .map(|cluster| u64::from(cluster.weight))
        .sum();
    if clusters.len() == count && total_weight == 0 {
        return scope.refuse("the weights sum up to zero");
    }
    Some(WeightedClusters {
        clusters,
        total_weight,
    })
}

fn weighted_cluster(
    scope: &Scope<'_>,
    mut value: proto::weighted_cluster::ClusterWeight,
) -> Option<WeightedCluster> {
    use proto::weighted_cluster::cluster_weight::HostRewriteSpecifier as H;
    let compiled = WeightedCluster {
        name: take(&mut value.name).into(),
        weight: number(value.weight.take()).unwrap_or(0),
        request_headers: header_mutations(
            scope,
            "request_headers",
            take(&mut value.request_headers_to_add),
            take(&mut value.request_headers_to_remove),
        ),
        response_headers: header_mutations(
            scope,
            "response_headers",
            take(&mut value.response_headers_to_add),
            take(&mut value.response_headers_to_remove),
        ),
        host_rewrite: value
            .host_rewrite_specifier
            .take()
            .map(|H::HostRewriteLiteral(host)| host.into()),
        per_filter: per_filter(scope, take(&mut value.typed_per_filter_config)),
    };
    scope.rest(&value);
    Some(compiled)
}

fn path_rewrite(scope: &Scope<'_>, action: &mut proto::RouteAction) -> Option<Option<PathRewrite>> {
    let prefix = take(&mut action.prefix_rewrite);
    match (prefix.as_str(), action.regex_rewrite.take()) {
        ("", None) => Some(None),
        (_, None) => Some(Some(PathRewrite::Prefix(prefix.into()))),
        ("", Some(regex)) => regex_rewrite(&scope.at("regex_rewrite"), regex)
            .map(|regex| Some(PathRewrite::Regex(regex))),
        (_, Some(_)) => scope
            .at("regex_rewrite")
            .refuse("does not go with prefix_rewrite"),
    }
}

fn host_rewrite(
    scope: &Scope<'_>,
    specifier: Option<proto::route_action::HostRewriteSpecifier>,
) -> Option<Option<HostRewrite>> {
    use proto::route_action::HostRewriteSpecifier as H;
    Some(match specifier {
        None => None,
        Some(H::HostRewriteLiteral(host)) => Some(HostRewrite::Literal(host.into())),
        Some(H::AutoHostRewrite(auto)) => auto.value.then_some(HostRewrite::Endpoint),
        Some(H::HostRewriteHeader(name)) => Some(HostRewrite::Header(header_name(
            &scope.at("host_rewrite_header"),
            &name,
        )?)),
        Some(H::HostRewritePathRegex(regex)) => Some(HostRewrite::PathRegex(regex_rewrite(
            &scope.at("host_rewrite_path_regex"),
            regex,
        )?)),
        Some(H::HostRewrite(_)) => return scope.at("host_rewrite").refuse("is not supported"),
    })
}

/// `retry_on` words that we do not know are refused: a condition that never fires would go unnoticed.
fn retry_policy(scope: &Scope<'_>, mut policy: proto::RetryPolicy) -> Option<RetryPolicy> {
    let mut on = RetryConditions::default();
    let mut retriable_status_codes = scope.each(
        "retriable_status_codes",
        take(&mut policy.retriable_status_codes),
        status,
    );
    for word in take(&mut policy.retry_on)
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        // Istio also allows bare status codes in the list.
        match word
            .parse::<u16>()
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
        {
            Some(code) => {
                on.retriable_status_codes = true;
                retriable_status_codes.push(code);
            }
            None if on.set(word) => {}
            None => scope
                .at("retry_on")
                .reject(format!("\"{word}\" is not supported")),
        }
    }
    let avoid_previous_hosts = host_selection(scope, &mut policy);
    let backoff = policy.retry_back_off.take().unwrap_or_default();
    let backoff_scope = scope.at("retry_back_off");
    let base =
        duration(&backoff_scope.at("base_interval"), backoff.base_interval).unwrap_or(RETRY_BASE);
    let max = duration(&backoff_scope.at("max_interval"), backoff.max_interval)
        .unwrap_or_else(|| base.saturating_mul(10));
    if base.is_zero() || max < base {
        backoff_scope.reject("needs 0 < base_interval <= max_interval");
    }
    let compiled = RetryPolicy {
        on,
        num_retries: number(policy.num_retries.take()).unwrap_or(1),
        per_try_timeout: limit(
            &scope.at("per_try_timeout"),
            policy.per_try_timeout.take(),
            None,
        ),
        per_try_idle_timeout: limit(
            &scope.at("per_try_idle_timeout"),
            policy.per_try_idle_timeout.take(),
            None,
        ),
        retriable_status_codes,
        retriable_headers: scope.each(
            "retriable_headers",
            take(&mut policy.retriable_headers),
            header_matcher,
        ),
        retriable_request_headers: scope.each(
            "retriable_request_headers",
            take(&mut policy.retriable_request_headers),
            header_matcher,
        ),
        backoff: RetryBackoff { base, max },
        avoid_previous_hosts,
        host_selection_attempts: u32::try_from(take(&mut policy.host_selection_retry_max_attempts))
            .unwrap_or(0)
            .max(1),
    };
    scope.rest(&policy);
    Some(compiled)
}

fn host_selection(scope: &Scope<'_>, policy: &mut proto::RetryPolicy) -> bool {
    let mut avoid_hosts = false;
    scope.each(
        "retry_host_predicate",
        take(&mut policy.retry_host_predicate),
        |scope, predicate| {
            match predicate.name.as_str() {
                "envoy.retry_host_predicates.previous_hosts" => avoid_hosts = true,
                other => scope.reject(format!("{other} is not supported")),
            }
            Some(())
        },
    );
    avoid_hosts
}

fn hash_policy(scope: &Scope<'_>, policy: proto::route_action::HashPolicy) -> Option<HashPolicy> {
    use proto::route_action::hash_policy::PolicySpecifier as P;
    let source = match policy.policy_specifier {
        Some(P::Header(header)) => HashSource::Header {
            source: header_source(&scope.at("header"), &header.header_name)?,
            rewrite: match header.regex_rewrite {
                None => None,
                Some(rewrite) => Some(regex_rewrite(&scope.at("header"), rewrite)?),
            },
        },
        Some(P::Cookie(cookie)) => HashSource::Cookie {
            name: cookie.name.into(),
            ttl: duration(&scope.at("cookie").at("ttl"), cookie.ttl),
            path: cookie.path.into(),
            attributes: cookie
                .attributes
                .into_iter()
                .map(|a| (a.name.into(), a.value.into()))
                .collect(),
        },
        Some(P::ConnectionProperties(properties)) if properties.source_ip => HashSource::SourceIp,
        Some(P::QueryParameter(parameter)) => HashSource::QueryParameter(parameter.name.into()),
        _ => return scope.refuse("this kind of hash policy is not supported"),
    };
    Some(HashPolicy {
        source,
        terminal: policy.terminal,
    })
}

fn mirror(
    scope: &Scope<'_>,
    mut policy: proto::route_action::RequestMirrorPolicy,
) -> Option<MirrorPolicy> {
    let share = match policy.runtime_fraction.take() {
        None => Fraction::ALWAYS,
        Some(share) => runtime_fraction(&scope.at("runtime_fraction"), share)?,
    };
    let compiled = MirrorPolicy {
        cluster: take(&mut policy.cluster).into(),
        share,
        disable_shadow_host_suffix: take(&mut policy.disable_shadow_host_suffix_append),
    };
    policy.trace_sampled = None; // mirrored requests are not traced apart
    scope.rest(&policy);
    Some(compiled)
}

fn upgrade(
    scope: &Scope<'_>,
    config: proto::route_action::UpgradeConfig,
) -> Option<UpgradeOverride> {
    if config.connect_config.is_some() {
        return scope.at("connect_config").refuse("is not supported");
    }
    Some(UpgradeOverride {
        kind: config.upgrade_type.to_ascii_lowercase().into(),
        enabled: is_true(config.enabled, true),
    })
}

fn redirect(scope: &Scope<'_>, action: proto::RedirectAction) -> Option<Redirect> {
    use proto::redirect_action::{
        PathRewriteSpecifier as P, RedirectResponseCode as R, SchemeRewriteSpecifier as S,
    };
    let (https, scheme) = match action.scheme_rewrite_specifier {
        None => (false, None),
        Some(S::HttpsRedirect(https)) => (https, None),
        Some(S::SchemeRedirect(scheme)) => (false, Some(scheme.into())),
    };
    let path = match action.path_rewrite_specifier {
        None => None,
        Some(P::PathRedirect(path)) => Some(RedirectPath::Replace(path.into())),
        Some(P::PrefixRewrite(prefix)) => Some(RedirectPath::Prefix(prefix.into())),
        Some(P::RegexRewrite(regex)) => Some(RedirectPath::Regex(regex_rewrite(
            &scope.at("regex_rewrite"),
            regex,
        )?)),
        Some(P::PathRewrite(_)) => return scope.at("path_rewrite").refuse("is not supported"),
    };
    let status = match R::try_from(action.response_code) {
        Ok(R::MovedPermanently) => StatusCode::MOVED_PERMANENTLY,
        Ok(R::Found) => StatusCode::FOUND,
        Ok(R::SeeOther) => StatusCode::SEE_OTHER,
        Ok(R::TemporaryRedirect) => StatusCode::TEMPORARY_REDIRECT,
        Ok(R::PermanentRedirect) => StatusCode::PERMANENT_REDIRECT,
        Err(_) => return scope.at("response_code").refuse("is unknown"),
    };
    let port = match action.port_redirect {
        0 => None,
        number => Some(super::common::port(&scope.at("port_redirect"), number)?),
    };
    Some(Redirect {
        https,
        scheme,
        host: Some(action.host_redirect)
            .filter(|host| !host.is_empty())
            .map(Into::into),
        port,
        path,
        status,
        strip_query: action.strip_query,
    })
}

fn direct_response(
    scope: &Scope<'_>,
    action: proto::DirectResponseAction,
    body_limit: usize,
) -> Option<DirectResponse> {
    use core::data_source::Specifier as S;
    if action.body_format.is_some() {
        return scope.at("body_format").refuse("is not supported");
    }
    let body = match action.body.and_then(|body| body.specifier) {
        None => Bytes::new(),
        Some(S::InlineString(text)) => text.into(),
        Some(S::InlineBytes(bytes)) => bytes.into(),
        Some(_) => return scope.at("body").refuse("only inline bodies are supported"),
    };
    if body.len() > body_limit {
        return scope
            .at("body")
            .refuse(format!("is larger than {body_limit} bytes"));
    }
    Some(DirectResponse {
        status: status(&scope.at("status"), action.status)?,
        body,
    })
}
