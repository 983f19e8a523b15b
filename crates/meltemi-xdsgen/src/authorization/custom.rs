//! CUSTOM policies: rules that nobody enforces choose what the authorizer is asked about.
//!
//! ```text
//! rules, in the dark --effective_policy_id "istio-ext-authz-..."--> ext_authz asks the provider
//! the provider cannot be asked: the same rules deny, as "...-deny-due-to-bad-CUSTOM-action"
//! ```

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use meltemi_api::istio::{
    AuthorizationAction, AuthorizerProvider, CheckedRequestBody, ExtAuthzGrpc, ExtAuthzHttp,
};
use meltemi_core::ClusterName;
use meltemi_model::MeshAuthorizationPolicy;
use meltemi_proto::envoy::config::core::v3::{
    ApiVersion, GrpcService, HeaderValue, HttpUri, grpc_service, http_uri,
};
use meltemi_proto::envoy::config::listener::v3::Filter;
use meltemi_proto::envoy::config::rbac::v3::{Policy, Rbac as Rules};
use meltemi_proto::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService, ext_authz,
};
use meltemi_proto::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkExtAuthz;
use meltemi_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use meltemi_proto::envoy::extensions::filters::{
    http::rbac::v3::Rbac as HttpRbac, network::rbac::v3::Rbac as NetworkRbac,
};
use meltemi_proto::envoy::r#type::matcher::v3::{
    ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher, metadata_matcher,
    string_matcher, value_matcher,
};
use meltemi_proto::envoy::r#type::v3::HttpStatus;

use super::rule::Layer;
use super::source::Domains;
use super::{HTTP_FILTER, NETWORK_FILTER, NETWORK_STAT_PREFIX, named_rules, wire_action};
use crate::filters::{http_filter, network_filter};
use crate::inputs::{Authorizer, Inputs};
use crate::wire;

const HTTP_EXT_AUTHZ: &str = "envoy.filters.http.ext_authz";
const NETWORK_EXT_AUTHZ: &str = "envoy.filters.network.ext_authz";
/// Of the names of all rules of CUSTOM.
const RULE_PREFIX: &str = "istio-ext-authz";
/// Of what the rules leave for the filter behind them.
const SHADOW_PREFIX: &str = "istio_ext_authz_";
const EFFECTIVE_POLICY: &str = "istio_ext_authz_shadow_effective_policy_id";
const BAD_SUFFIX: &str = "-deny-due-to-bad-CUSTOM-action";
/// Istio's.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(600);

/// The CUSTOM policies of a workload.
pub(super) struct Custom<'a> {
    policies: Vec<&'a MeshAuthorizationPolicy>,
    domains: &'a Domains,
    /// `None` if it cannot be asked, or it is not clear who is meant. Analysis says why.
    authorizer: Option<Authorizer<'a>>,
}

impl<'a> Custom<'a> {
    pub(super) fn of(
        inputs: &Inputs<'a>,
        policies: Vec<&'a MeshAuthorizationPolicy>,
        domains: &'a Domains,
    ) -> Option<Self> {
        let names: BTreeSet<&str> = policies.iter().map(|policy| provider(policy)).collect();
        // Istio allows several behind a switch that is off.
        let mut names = names.into_iter();
        let authorizer = match (names.next()?, names.next()) {
            (name, None) => inputs.authorizer(name).ok(),
            (_, Some(_)) => None,
        };
        Some(Self {
            policies,
            domains,
            authorizer,
        })
    }

    pub(super) fn http_filters(&self) -> Vec<HttpFilter> {
        let rbac = |filter: HttpRbac| http_filter(HTTP_FILTER, wire::any(&filter));
        let Some(authorizer) = &self.authorizer else {
            return vec![rbac(HttpRbac {
                rules: Some(self.denial(Layer::Requests)),
                ..HttpRbac::default()
            })];
        };
        let asked = rbac(HttpRbac {
            shadow_rules: Some(self.rules(Layer::Requests, "")),
            shadow_rules_stat_prefix: SHADOW_PREFIX.to_owned(),
            ..HttpRbac::default()
        });
        let filter = match authorizer.0 {
            AuthorizerProvider::Http(http) => by_http(http, authorizer),
            AuthorizerProvider::Grpc(grpc) => by_grpc(grpc, authorizer),
        };
        vec![asked, http_filter(HTTP_EXT_AUTHZ, wire::any(&filter))]
    }

    /// Differs from Istio, which leaves connections alone that an authorizer over HTTP cannot be asked about: they are denied.
    pub(super) fn network_filters(&self) -> Vec<Filter> {
        let rbac = |filter: NetworkRbac| network_filter(NETWORK_FILTER, wire::any(&filter));
        let Some(authorizer @ (AuthorizerProvider::Grpc(grpc), _)) = &self.authorizer else {
            return vec![rbac(NetworkRbac {
                stat_prefix: NETWORK_STAT_PREFIX.to_owned(),
                rules: Some(self.denial(Layer::Connections)),
                ..NetworkRbac::default()
            })];
        };
        let asked = rbac(NetworkRbac {
            stat_prefix: NETWORK_STAT_PREFIX.to_owned(),
            shadow_rules: Some(self.rules(Layer::Connections, "")),
            shadow_rules_stat_prefix: SHADOW_PREFIX.to_owned(),
            ..NetworkRbac::default()
        });
        let filter = NetworkExtAuthz {
            stat_prefix: NETWORK_STAT_PREFIX.to_owned(),
            grpc_service: Some(grpc_service(authorizer, grpc.timeout)),
            failure_mode_allow: grpc.fail_open,
            transport_api_version: ApiVersion::V3.into(),
            filter_enabled_metadata: Some(selected(NETWORK_FILTER)),
            ..NetworkExtAuthz::default()
        };
        vec![asked, network_filter(NETWORK_EXT_AUTHZ, wire::any(&filter))]
    }

    /// What the policies select, by the names that Istio gives it.
    fn rules(&self, layer: Layer, suffix: &str) -> Rules {
        let named = self.policies.iter().flat_map(|policy| {
            let rules = named_rules(policy, layer, self.domains).into_iter();
            rules.map(|(name, rule)| {
                let name = format!("{RULE_PREFIX}-{}-{name}{suffix}", provider(policy));
                (name, rule)
            })
        });
        Rules {
            action: wire_action(AuthorizationAction::Custom).into(),
            policies: named.collect::<HashMap<String, Policy>>(),
            ..Rules::default()
        }
    }

    fn denial(&self, layer: Layer) -> Rules {
        self.rules(layer, BAD_SUFFIX)
    }
}

fn provider(policy: &MeshAuthorizationPolicy) -> &str {
    let provider = policy.spec.provider.as_ref();
    provider.map_or("", |provider| &provider.name)
}

fn by_http(http: &ExtAuthzHttp, authorizer: &Authorizer<'_>) -> ExtAuthz {
    let added = http.include_additional_headers_in_check.iter();
    let added = added.map(|(key, value)| HeaderValue {
        key: key.clone(),
        value: value.clone(),
        ..HeaderValue::default()
    });
    #[allow(deprecated, reason = "where Istio says it")]
    let question = AuthorizationRequest {
        allowed_headers: header_list(http.told_headers()),
        headers_to_add: added.collect(),
    };
    let answer = AuthorizationResponse {
        allowed_upstream_headers: header_list(&http.headers_to_upstream_on_allow),
        allowed_client_headers: header_list(&http.headers_to_downstream_on_deny),
        allowed_client_headers_on_success: header_list(&http.headers_to_downstream_on_allow),
        ..AuthorizationResponse::default()
    };
    let service = HttpService {
        server_uri: Some(HttpUri {
            uri: format!("http://{}", authorizer.1.hostname),
            timeout: Some(wire::duration(http.timeout.unwrap_or(DEFAULT_TIMEOUT))),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster(authorizer))),
        }),
        path_prefix: http.path_prefix.clone(),
        authorization_request: (question != AuthorizationRequest::default()).then_some(question),
        authorization_response: (answer != AuthorizationResponse::default()).then_some(answer),
        ..HttpService::default()
    };
    ExtAuthz {
        failure_mode_allow: http.fail_open,
        clear_route_cache: http.clear_route_cache,
        with_request_body: http.include_request_body_in_check.map(body),
        ..ext_authz(authorizer, ext_authz::Services::HttpService(service))
    }
}

fn by_grpc(grpc: &ExtAuthzGrpc, authorizer: &Authorizer<'_>) -> ExtAuthz {
    let service = grpc_service(authorizer, grpc.timeout);
    ExtAuthz {
        failure_mode_allow: grpc.fail_open,
        clear_route_cache: grpc.clear_route_cache,
        with_request_body: grpc.include_request_body_in_check.map(body),
        ..ext_authz(authorizer, ext_authz::Services::GrpcService(service))
    }
}

fn ext_authz(authorizer: &Authorizer<'_>, services: ext_authz::Services) -> ExtAuthz {
    let status = authorizer.0.status_on_error();
    ExtAuthz {
        services: Some(services),
        transport_api_version: ApiVersion::V3.into(),
        status_on_error: status.map(|code| HttpStatus { code: code.into() }),
        filter_enabled_metadata: Some(selected(HTTP_FILTER)),
        ..ExtAuthz::default()
    }
}

fn cluster((provider, service): &Authorizer<'_>) -> String {
    ClusterName::outbound(provider.port(), "", service.hostname.as_str()).to_string()
}

/// The name of a cluster is no authority, for its bars.
fn grpc_service(authorizer: &Authorizer<'_>, timeout: Option<Duration>) -> GrpcService {
    let cluster_name = cluster(authorizer);
    GrpcService {
        timeout: Some(wire::duration(timeout.unwrap_or(DEFAULT_TIMEOUT))),
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
            grpc_service::EnvoyGrpc {
                authority: cluster_name.replace('|', "_."),
                cluster_name,
                ..grpc_service::EnvoyGrpc::default()
            },
        )),
        ..GrpcService::default()
    }
}

fn body(shown: CheckedRequestBody) -> BufferSettings {
    BufferSettings {
        max_request_bytes: shown.max_request_bytes,
        allow_partial_message: shown.allow_partial_message,
        pack_as_bytes: shown.pack_as_bytes,
    }
}

/// Names of headers with a `*` at one end or none.
fn header_list(names: &[String]) -> Option<ListStringMatcher> {
    use string_matcher::MatchPattern;
    let patterns = names.iter().map(|name| {
        let suffix = name.strip_prefix('*').map(str::to_owned);
        let prefix = name.strip_suffix('*').map(str::to_owned);
        let pattern = match (suffix, prefix) {
            (Some(suffix), _) => MatchPattern::Suffix(suffix),
            (None, Some(prefix)) => MatchPattern::Prefix(prefix),
            (None, None) => MatchPattern::Exact(name.clone()),
        };
        StringMatcher {
            ignore_case: true,
            match_pattern: Some(pattern),
        }
    });
    let patterns: Vec<StringMatcher> = patterns.collect();
    (!patterns.is_empty()).then_some(ListStringMatcher { patterns })
}

/// Whether a rule of CUSTOM has matched.
fn selected(filter: &str) -> MetadataMatcher {
    let prefix = StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Prefix(RULE_PREFIX.to_owned())),
        ..StringMatcher::default()
    };
    MetadataMatcher {
        filter: filter.to_owned(),
        path: vec![metadata_matcher::PathSegment {
            segment: Some(metadata_matcher::path_segment::Segment::Key(
                EFFECTIVE_POLICY.to_owned(),
            )),
        }],
        value: Some(ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::StringMatch(prefix)),
        }),
        ..MetadataMatcher::default()
    }
}
