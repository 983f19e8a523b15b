//! The routes of a VirtualService.

use std::collections::HashMap;

use meltemi_api::istio::{
    DirectResponse, DirectResponseBody, Headers, HttpMatch, HttpRoute, Redirect, RouteDestination,
};
use meltemi_model::MeshVirtualService;
use meltemi_proto::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, data_source,
    header_value_option::HeaderAppendAction,
};
use meltemi_proto::envoy::config::route::v3::{
    DirectResponseAction, RedirectAction, Route, RouteAction, WeightedCluster, redirect_action,
    route, route_action, weighted_cluster,
};
use meltemi_proto::envoy::r#type::matcher::v3::RegexMatchAndSubstitute;
use meltemi_proto::google::protobuf::Any;

use super::{cluster_of, config_metadata, destination_host, matches, operation, policy, untimed};
use crate::gateways::At;
use crate::inputs::Inputs;
use crate::wire;

/// One Envoy route per applicable match, in order; everything after a match of all requests would never be reached.
pub(crate) fn routes(
    inputs: &Inputs<'_>,
    routed: &MeshVirtualService,
    port: u16,
    at: At<'_>,
) -> Vec<Route> {
    let mut out = Vec::new();
    for http in &routed.spec.http {
        if http.matches.is_empty() {
            out.extend(one(inputs, routed, http, &HttpMatch::default(), port));
            return out;
        }
        for candidate in &http.matches {
            if matches::applies(inputs, candidate, port, at, routed.namespace()) {
                out.extend(one(inputs, routed, http, candidate, port));
            }
        }
    }
    out
}

fn one(
    inputs: &Inputs<'_>,
    routed: &MeshVirtualService,
    http: &HttpRoute,
    matched: &HttpMatch,
    port: u16,
) -> Option<Route> {
    let action = if let Some(redirect) = &http.redirect {
        route::Action::Redirect(redirect_action(redirect, port))
    } else if let Some(response) = &http.direct_response {
        route::Action::DirectResponse(direct_response(response))
    } else if http.route.is_empty() {
        // Its delegate is not there, which is told of.
        return None;
    } else {
        route::Action::Route(forward(inputs, routed, http, port))
    };
    let first = http.route.first();
    let host = first.and_then(|to| destination_host(inputs, &to.destination, routed.namespace()));
    let mut route = Route {
        name: name(http, matched),
        r#match: Some(matches::route_match(matched)),
        metadata: Some(config_metadata(routed)),
        decorator: host.map(|host| operation(&host, port)),
        typed_per_filter_config: per_filter(http),
        stat_prefix: matched.stat_prefix.clone(),
        action: Some(action),
        ..Route::default()
    };
    let mut headers = HeaderMutations::of(http.headers.as_ref());
    if let [only] = &http.route[..] {
        // Behind the route's own, so that what the destination says counts last, as it does with several.
        headers.append(HeaderMutations::of(only.headers.as_ref()));
    }
    route.request_headers_to_add = headers.request_add;
    route.request_headers_to_remove = headers.request_remove;
    route.response_headers_to_add = headers.response_add;
    route.response_headers_to_remove = headers.response_remove;
    Some(route)
}

/// The route's name, and the match's after a dot.
fn name(http: &HttpRoute, matched: &HttpMatch) -> String {
    match (http.name.as_str(), matched.name.as_str()) {
        (name, "") => name.to_owned(),
        (name, matched) => format!("{name}.{matched}"),
    }
}

fn per_filter(http: &HttpRoute) -> HashMap<String, Any> {
    let fault = http.fault.as_ref().map(|fault| {
        let config = wire::any(&policy::fault(fault));
        ("envoy.filters.http.fault".to_owned(), config)
    });
    let cors = http.cors_policy.as_ref().map(|cors| {
        let config = wire::any(&policy::cors(cors));
        ("envoy.filters.http.cors".to_owned(), config)
    });
    fault.into_iter().chain(cors).collect()
}

fn forward(
    inputs: &Inputs<'_>,
    routed: &MeshVirtualService,
    http: &HttpRoute,
    port: u16,
) -> RouteAction {
    let namespace = routed.namespace();
    let mut action = untimed();
    action.cluster_specifier = Some(clusters(inputs, http, namespace, port));
    if let Some(timeout) = http.timeout {
        let timeout = wire::duration(timeout);
        action.timeout = Some(timeout);
        if let Some(limits) = &mut action.max_stream_duration {
            limits.grpc_timeout_header_max = Some(timeout);
        }
    }
    action.hash_policy = hash_policies(inputs, http, namespace, port);
    let hashed = !action.hash_policy.is_empty();
    action.retry_policy = match &http.retries {
        Some(retries) => policy::retries(retries, hashed),
        None => policy::default_retries(inputs, hashed),
    };
    action.request_mirror_policies = mirrors(inputs, http, namespace, port);
    rewrite_path(http, &mut action);
    action.host_rewrite_specifier =
        authority(http).map(route_action::HostRewriteSpecifier::HostRewriteLiteral);
    action
}

/// The authority for the upstream: `rewrite.authority` before a `Host` that the route sets, and that before one that its
/// only destination sets; several destinations keep theirs.
fn authority(http: &HttpRoute) -> Option<String> {
    let rewritten = http.rewrite.as_ref().map(|rewrite| &rewrite.authority);
    let rewritten = rewritten.filter(|authority| !authority.is_empty());
    let set = |headers: Option<&Headers>| headers.and_then(host_header);
    let of_destination = || match &http.route[..] {
        [only] => set(only.headers.as_ref()),
        _ => None,
    };
    rewritten
        .cloned()
        .or_else(|| set(http.headers.as_ref()))
        .or_else(of_destination)
}

/// What the balancers of all destinations hash that get requests: which of them is chosen shows only later.
fn hash_policies(
    inputs: &Inputs<'_>,
    http: &HttpRoute,
    namespace: &str,
    port: u16,
) -> Vec<route_action::HashPolicy> {
    let mut policies = Vec::new();
    for (to, _) in receivers(&http.route) {
        let Some(host) = destination_host(inputs, &to.destination, namespace) else {
            continue;
        };
        let port = super::destination_port(inputs, &to.destination, &host, port);
        let subset = &to.destination.subset;
        for policy in policy::hash_policies(inputs, &host, port, subset) {
            // Subsets of one host have one policy as a rule, and hashing the same twice says nothing new.
            if !policies.contains(&policy) {
                policies.push(policy);
            }
        }
    }
    policies
}

/// The destinations that get requests, with their weights. A single one takes everything, whatever its weight.
fn receivers(routes: &[RouteDestination]) -> impl Iterator<Item = (&RouteDestination, u32)> {
    let is_single = routes.len() == 1;
    routes.iter().filter_map(move |to| {
        let weight = if is_single { 100 } else { to.weight };
        let weight = u32::try_from(weight).ok().filter(|weight| *weight > 0)?;
        Some((to, weight))
    })
}

fn clusters(
    inputs: &Inputs<'_>,
    http: &HttpRoute,
    namespace: &str,
    port: u16,
) -> route_action::ClusterSpecifier {
    let name = |to: &RouteDestination| cluster_of(inputs, &to.destination, namespace, port);
    match &http.route[..] {
        [only] => route_action::ClusterSpecifier::Cluster(name(only)),
        all => route_action::ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: receivers(all)
                .map(|(to, weight)| weighted(to, name(to), weight))
                .collect(),
            ..WeightedCluster::default()
        }),
    }
}

fn weighted(to: &RouteDestination, name: String, weight: u32) -> weighted_cluster::ClusterWeight {
    let headers = HeaderMutations::of(to.headers.as_ref());
    let host = to.headers.as_ref().and_then(host_header);
    weighted_cluster::ClusterWeight {
        name,
        weight: wire::u32_value(weight),
        request_headers_to_add: headers.request_add,
        request_headers_to_remove: headers.request_remove,
        response_headers_to_add: headers.response_add,
        response_headers_to_remove: headers.response_remove,
        host_rewrite_specifier: host
            .map(weighted_cluster::cluster_weight::HostRewriteSpecifier::HostRewriteLiteral),
        ..weighted_cluster::ClusterWeight::default()
    }
}

/// The Host header is no header to Envoy: setting it rewrites the authority.
fn host_header(headers: &Headers) -> Option<String> {
    let set = &headers.request.as_ref()?.set;
    let found = set.iter().find(|(name, _)| is_host(name));
    found.map(|(_, value)| value.clone())
}

fn is_host(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name == ":authority"
}

fn rewrite_path(http: &HttpRoute, action: &mut RouteAction) {
    let Some(rewrite) = &http.rewrite else { return };
    if let Some(regex) = &rewrite.uri_regex_rewrite {
        action.regex_rewrite = Some(RegexMatchAndSubstitute {
            pattern: Some(wire::regex(&regex.pattern)),
            substitution: regex.rewrite.clone(),
        });
    } else {
        // Replaces the matched prefix, or the whole path after an exact or regular-expression match.
        action.prefix_rewrite.clone_from(&rewrite.uri);
    }
}

fn mirrors(
    inputs: &Inputs<'_>,
    http: &HttpRoute,
    namespace: &str,
    port: u16,
) -> Vec<route_action::RequestMirrorPolicy> {
    let single = http
        .mirror
        .iter()
        .map(|destination| (destination, http.mirror_percentage));
    let many = http
        .mirrors
        .iter()
        .map(|mirror| (&mirror.destination, mirror.percentage));
    single
        .chain(many)
        .filter_map(|(destination, percentage)| {
            let percent = percentage.map_or(100.0, |percentage| percentage.value);
            (percent > 0.0).then(|| route_action::RequestMirrorPolicy {
                cluster: cluster_of(inputs, destination, namespace, port),
                runtime_fraction: Some(wire::runtime_fraction(percent)),
                disable_shadow_host_suffix_append: true,
                ..route_action::RequestMirrorPolicy::default()
            })
        })
        .collect()
}

fn redirect_action(redirect: &Redirect, port: u16) -> RedirectAction {
    use meltemi_api::istio::DerivePort;
    use redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier};
    let response_code = match redirect.redirect_code {
        Some(302) => RedirectResponseCode::Found,
        Some(303) => RedirectResponseCode::SeeOther,
        Some(307) => RedirectResponseCode::TemporaryRedirect,
        Some(308) => RedirectResponseCode::PermanentRedirect,
        // Validation lets no others through.
        _ => RedirectResponseCode::MovedPermanently,
    };
    let path = if !redirect.prefix_rewrite.is_empty() {
        Some(PathRewriteSpecifier::PrefixRewrite(
            redirect.prefix_rewrite.clone(),
        ))
    } else if !redirect.uri.is_empty() {
        Some(PathRewriteSpecifier::PathRedirect(redirect.uri.clone()))
    } else {
        None
    };
    let derived = match redirect.derive_port {
        Some(DerivePort::FromRequestPort) => Some(u32::from(port)),
        Some(DerivePort::FromProtocolDefault) if redirect.scheme == "https" => Some(443),
        Some(DerivePort::FromProtocolDefault) if redirect.scheme == "http" => Some(80),
        _ => None,
    };
    RedirectAction {
        host_redirect: redirect.authority.clone(),
        port_redirect: redirect.port.or(derived).unwrap_or_default(),
        response_code: response_code.into(),
        path_rewrite_specifier: path,
        scheme_rewrite_specifier: (!redirect.scheme.is_empty())
            .then(|| SchemeRewriteSpecifier::SchemeRedirect(redirect.scheme.clone())),
        ..RedirectAction::default()
    }
}

fn direct_response(response: &DirectResponse) -> DirectResponseAction {
    let body = response.body.as_ref().map(|body| DataSource {
        specifier: Some(match body {
            DirectResponseBody::String(text) => data_source::Specifier::InlineString(text.clone()),
            DirectResponseBody::Bytes(bytes) => {
                data_source::Specifier::InlineBytes(bytes.0.clone())
            }
        }),
        ..DataSource::default()
    });
    DirectResponseAction {
        status: response.status,
        body,
        ..DirectResponseAction::default()
    }
}

/// `headers` of a route or destination, as Envoy's four lists.
#[derive(Default)]
struct HeaderMutations {
    request_add: Vec<HeaderValueOption>,
    request_remove: Vec<String>,
    response_add: Vec<HeaderValueOption>,
    response_remove: Vec<String>,
}

impl HeaderMutations {
    fn of(headers: Option<&Headers>) -> Self {
        let mut out = Self::default();
        if let Some(request) = headers.and_then(|headers| headers.request.as_ref()) {
            out.request_add = added(request);
            out.request_remove.clone_from(&request.remove);
        }
        if let Some(response) = headers.and_then(|headers| headers.response.as_ref()) {
            out.response_add = added(response);
            out.response_remove.clone_from(&response.remove);
        }
        out
    }

    fn append(&mut self, mut other: Self) {
        self.request_add.append(&mut other.request_add);
        self.request_remove.append(&mut other.request_remove);
        self.response_add.append(&mut other.response_add);
        self.response_remove.append(&mut other.response_remove);
    }
}

fn added(operations: &meltemi_api::istio::HeaderOperations) -> Vec<HeaderValueOption> {
    let option = |name: &str, value: &str, action: HeaderAppendAction| HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    };
    let set = operations
        .set
        .iter()
        .filter(|(name, _)| !is_host(name))
        .map(|(name, value)| option(name, value, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = operations
        .add
        .iter()
        .map(|(name, value)| option(name, value, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add).collect()
}
