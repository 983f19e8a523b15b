//! `envoy.extensions.filters.{http,network}.ext_authz.v3`.

use std::mem::take;
use std::time::Duration;

use http::StatusCode;
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::filters::{
    http::ext_authz::v3 as proto, network::ext_authz::v3 as network_proto,
};
use meltemi_proto::envoy::r#type::matcher::v3 as matcher;

use super::Scope;
use super::common::{duration, header_mutations, is_true, status, string_matcher};
use crate::runtime::{
    Authorizer, CheckedBody, ExtAuthz, ExtAuthzPerRoute, GrpcAuthorizer, HeaderNames,
    HttpAuthorizer, NetworkExtAuthz, PolicyMatcher, StringMatcher,
};

/// Envoy's default for both kinds of service.
const DEFAULT_TIMEOUT: Duration = Duration::from_millis(200);
/// No check takes longer, whatever is configured. It is Istio's default.
const LONGEST_TIMEOUT: Duration = Duration::from_secs(600);
/// The filters whose findings can switch a check on.
const HTTP_RBAC: &str = "envoy.filters.http.rbac";
const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

pub(super) fn http_filter(scope: &Scope<'_>, mut filter: proto::ExtAuthz) -> Option<ExtAuthz> {
    use proto::ext_authz::Services as S;
    api_version(scope, take(&mut filter.transport_api_version))?;
    let mut allowed = names(scope, "allowed_headers", filter.allowed_headers.take())?;
    let authorizer = match filter.services.take() {
        Some(S::HttpService(service)) => {
            let (service, own) = http_service(&scope.at("http_service"), service)?;
            if allowed.is_some() && own.is_some() {
                return scope
                    .at("allowed_headers")
                    .refuse("is given a second time in http_service");
            }
            // Without a list the authorizer still sees the headers that it is always told of.
            let mut told = allowed.or(own).unwrap_or_default();
            told.0.push(StringMatcher::exact(ALWAYS_TOLD));
            allowed = Some(told);
            Authorizer::Http(Box::new(service))
        }
        Some(S::GrpcService(service)) => {
            Authorizer::Grpc(grpc_service(&scope.at("grpc_service"), service)?)
        }
        None => return scope.at("services").refuse("is required"),
    };
    let status_on_error = match filter.status_on_error.take() {
        None => StatusCode::FORBIDDEN,
        Some(given) => {
            let code = u32::try_from(given.code).unwrap_or(0);
            let scope = scope.at("status_on_error");
            let status = status(&scope, code)?;
            match status.is_informational() {
                true => return scope.refuse("ends no request"),
                false => status,
            }
        }
    };
    let compiled = ExtAuthz {
        authorizer,
        enabled: enabled(scope, HTTP_RBAC, filter.filter_enabled_metadata.take())?,
        fails_open: take(&mut filter.failure_mode_allow),
        tells_of_failure: take(&mut filter.failure_mode_allow_header_add),
        status_on_error,
        body: match filter.with_request_body.take() {
            None => None,
            Some(settings) => Some(body(&scope.at("with_request_body"), settings)?),
        },
        clear_route_cache: take(&mut filter.clear_route_cache),
        allowed_headers: allowed,
        disallowed_headers: names(
            scope,
            "disallowed_headers",
            filter.disallowed_headers.take(),
        )?
        .unwrap_or_default(),
        include_tls_session: take(&mut filter.include_tls_session),
        max_denied_body_bytes: take(&mut filter.max_denied_response_body_bytes) as usize,
        takes_metadata: is_true(filter.enable_dynamic_metadata_ingestion.take(), true),
    };
    filter.validate_mutations = false; // always
    filter.stat_prefix = String::new(); // only statistics
    filter.charge_cluster_response_stats = None;
    filter.emit_filter_state_stats = false;
    filter.emit_client_span = None; // only traces
    scope.rest(&filter);
    Some(compiled)
}

/// What an authorizer of the HTTP kind is told of any request (Envoy, `AuthorizationRequest.allowed_headers`).
///
/// Method, path and host are the request's own.
const ALWAYS_TOLD: &str = "authorization";

pub(super) fn network_filter(
    scope: &Scope<'_>,
    mut filter: network_proto::ExtAuthz,
) -> Option<NetworkExtAuthz> {
    api_version(scope, take(&mut filter.transport_api_version))?;
    let Some(service) = filter.grpc_service.take() else {
        return scope.at("grpc_service").refuse("is required");
    };
    let compiled = NetworkExtAuthz {
        authorizer: grpc_service(&scope.at("grpc_service"), service)?,
        enabled: enabled(scope, NETWORK_RBAC, filter.filter_enabled_metadata.take())?,
        fails_open: take(&mut filter.failure_mode_allow),
        include_tls_session: take(&mut filter.include_tls_session),
    };
    filter.stat_prefix = String::new(); // only statistics
    scope.rest(&filter);
    Some(compiled)
}

pub(super) fn per_route(
    scope: &Scope<'_>,
    config: proto::ExtAuthzPerRoute,
) -> Option<ExtAuthzPerRoute> {
    use proto::ext_authz_per_route::Override as O;
    match config.r#override {
        Some(O::Disabled(true)) => Some(ExtAuthzPerRoute {
            is_disabled: true,
            ..ExtAuthzPerRoute::default()
        }),
        Some(O::CheckSettings(mut settings)) => {
            let scope = scope.at("check_settings");
            let compiled = ExtAuthzPerRoute {
                is_disabled: false,
                context_extensions: take(&mut settings.context_extensions).into_iter().collect(),
                skips_body: take(&mut settings.disable_request_body_buffering),
                body: match settings.with_request_body.take() {
                    None => None,
                    Some(settings) => Some(body(&scope.at("with_request_body"), settings)?),
                },
            };
            settings.emit_client_span = None; // only traces
            scope.rest(&settings);
            Some(compiled)
        }
        _ => scope.refuse("says nothing"),
    }
}

/// Only the third version of the protocol is left.
fn api_version(scope: &Scope<'_>, version: i32) -> Option<()> {
    match core::ApiVersion::try_from(version) {
        Ok(core::ApiVersion::V3 | core::ApiVersion::Auto) => Some(()),
        _ => scope
            .at("transport_api_version")
            .refuse("only V3 is supported"),
    }
}

fn enabled(
    scope: &Scope<'_>,
    rbac: &str,
    wanted: Option<matcher::MetadataMatcher>,
) -> Option<Option<PolicyMatcher>> {
    use matcher::metadata_matcher::path_segment::Segment;
    use matcher::value_matcher::MatchPattern::StringMatch;
    let Some(wanted) = wanted else {
        return Some(None);
    };
    let scope = scope.at("filter_enabled_metadata");
    if wanted.filter != rbac {
        return scope
            .at("filter")
            .refuse(format!("\"{}\" is not supported", wanted.filter));
    }
    let mut path = wanted.path.into_iter().map(|segment| segment.segment);
    let (Some(Some(Segment::Key(key))), None) = (path.next(), path.next()) else {
        return scope.at("path").refuse("must be one key");
    };
    let value = scope.at("value");
    let Some(StringMatch(text)) = wanted.value.and_then(|value| value.match_pattern) else {
        return value.refuse("only string_match is supported");
    };
    Some(Some(PolicyMatcher {
        key: key.into(),
        value: string_matcher(&value.at("string_match"), text)?,
        invert: wanted.invert,
    }))
}

/// `Some(None)` where nothing is said. One bad matcher refuses the list: without it others would be told more, or less.
fn names(
    scope: &Scope<'_>,
    field: &str,
    list: Option<matcher::ListStringMatcher>,
) -> Option<Option<HeaderNames>> {
    let Some(list) = list else {
        return Some(None);
    };
    let count = list.patterns.len();
    let compiled = scope
        .at(field)
        .each("patterns", list.patterns, string_matcher);
    (compiled.len() == count).then_some(Some(HeaderNames(compiled)))
}

fn body(scope: &Scope<'_>, settings: proto::BufferSettings) -> Option<CheckedBody> {
    if settings.max_request_bytes == 0 {
        return scope.at("max_request_bytes").refuse("is not above zero");
    }
    Some(CheckedBody {
        max_bytes: settings.max_request_bytes as usize,
        may_be_partial: settings.allow_partial_message,
        is_raw: settings.pack_as_bytes,
    })
}

/// Envoy takes zero for "no bound": then ours is left.
fn timeout(
    scope: &Scope<'_>,
    given: Option<meltemi_proto::google::protobuf::Duration>,
) -> Option<Duration> {
    if given.is_none() {
        return Some(DEFAULT_TIMEOUT);
    }
    let given = duration(&scope.at("timeout"), given)?;
    let is_bound = !given.is_zero() && given < LONGEST_TIMEOUT;
    Some(if is_bound { given } else { LONGEST_TIMEOUT })
}

/// The service, and the headers that it is told if they are listed here.
fn http_service(
    scope: &Scope<'_>,
    mut service: proto::HttpService,
) -> Option<(HttpAuthorizer, Option<HeaderNames>)> {
    use core::http_uri::HttpUpstreamType::Cluster;
    let place = scope.at("server_uri");
    let Some(to) = service.server_uri.take() else {
        return place.refuse("is required");
    };
    let Some(Cluster(cluster)) = to.http_upstream_type else {
        return place.at("cluster").refuse("is required");
    };
    let path_prefix = take(&mut service.path_prefix);
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        return scope
            .at("path_prefix")
            .refuse("does not begin with a slash");
    }
    let mut request = service.authorization_request.take().unwrap_or_default();
    let mut response = service.authorization_response.take().unwrap_or_default();
    scope.rest(&service);
    let told = {
        let scope = scope.at("authorization_request");
        let told = names(&scope, "allowed_headers", request.allowed_headers.take())?;
        let added = take(&mut request.headers_to_add).into_iter();
        // As Envoy reads them: each in place of what the client sent.
        let added = added.map(|header| core::HeaderValueOption {
            header: Some(header),
            append_action: core::header_value_option::HeaderAppendAction::OverwriteIfExistsOrAdd
                .into(),
            ..core::HeaderValueOption::default()
        });
        let added: Vec<_> = added.collect();
        let count = added.len();
        let mutations = header_mutations(&scope, "headers", added, Vec::new());
        scope.rest(&request);
        (mutations.add.len() == count).then_some((told, mutations))?
    };
    let scope = scope.at("authorization_response");
    let list =
        |field, given: &mut Option<matcher::ListStringMatcher>| names(&scope, field, given.take());
    let to_upstream = list(
        "allowed_upstream_headers",
        &mut response.allowed_upstream_headers,
    )?;
    let appended = list(
        "allowed_upstream_headers_to_append",
        &mut response.allowed_upstream_headers_to_append,
    )?;
    let on_denial = list(
        "allowed_client_headers",
        &mut response.allowed_client_headers,
    )?;
    let on_success = list(
        "allowed_client_headers_on_success",
        &mut response.allowed_client_headers_on_success,
    )?;
    let metadata = list(
        "dynamic_metadata_from_headers",
        &mut response.dynamic_metadata_from_headers,
    )?;
    scope.rest(&response);
    let service = HttpAuthorizer {
        cluster: cluster.into(),
        timeout: timeout(&place, to.timeout)?,
        path_prefix: path_prefix.into(),
        added_headers: told.1,
        to_upstream: to_upstream.unwrap_or_default(),
        to_upstream_appended: appended.unwrap_or_default(),
        to_client_on_denial: on_denial.filter(|names| !names.0.is_empty()),
        to_client_on_success: on_success.unwrap_or_default(),
        to_metadata: metadata.unwrap_or_default(),
    };
    Some((service, told.0))
}

fn grpc_service(scope: &Scope<'_>, mut service: core::GrpcService) -> Option<GrpcAuthorizer> {
    use core::grpc_service::TargetSpecifier as T;
    let timeout = timeout(scope, service.timeout.take())?;
    let Some(T::EnvoyGrpc(mut to)) = service.target_specifier.take() else {
        return scope.refuse("only envoy_grpc is supported");
    };
    scope.rest(&service);
    let scope = scope.at("envoy_grpc");
    let cluster = take(&mut to.cluster_name);
    if cluster.is_empty() {
        return scope.at("cluster_name").refuse("is required");
    }
    // The name of a cluster has bars, which no authority may have.
    let authority = match take(&mut to.authority) {
        given if given.is_empty() => cluster.replace('|', "_."),
        given => given,
    };
    if http::uri::Authority::try_from(authority.as_str()).is_err() {
        return scope.at("authority").refuse("is no authority");
    }
    to.skip_envoy_headers = false; // we send none
    scope.rest(&to);
    Some(GrpcAuthorizer {
        cluster: cluster.into(),
        authority: authority.into(),
        timeout,
    })
}
