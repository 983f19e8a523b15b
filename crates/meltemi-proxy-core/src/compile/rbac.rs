use std::mem::take;

use meltemi_proto::envoy::config::rbac::v3 as proto;
use meltemi_proto::envoy::extensions::filters::{
    http::rbac::v3 as http_proto, network::rbac::v3 as network_proto,
};
use meltemi_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use meltemi_proto::envoy::r#type::matcher::v3 as matcher;
use prost::Name as _;

use super::Scope;
use super::common::{cidr, header_matcher, path_template, port, string_matcher, unpack};
use super::metadata::metadata_matcher;
use crate::runtime::{
    RbacAction, RbacFilter, RbacPermission, RbacPolicy, RbacPrincipal, RbacRules, StringMatcher,
};

/// Istio's filter state with the SPIFFE ID of the peer.
const PEER_PRINCIPAL: &str = "io.istio.peer_principal";

pub(super) fn http_filter(scope: &Scope<'_>, mut filter: http_proto::Rbac) -> Option<RbacFilter> {
    let rules = rules(&scope.at("rules"), filter.rules.take());
    let shadow_rules = self::rules(&scope.at("shadow_rules"), filter.shadow_rules.take());
    let shadow_prefix = take(&mut filter.shadow_rules_stat_prefix).into();
    let stat_prefix = take(&mut filter.rules_stat_prefix).into();
    filter.track_per_rule_stats = false; // only a statistic
    scope.rest(&filter);
    Some(RbacFilter {
        rules: rules?,
        shadow_rules: shadow_rules?,
        shadow_prefix,
        stat_prefix,
    })
}

/// The whole connection is judged once, before its first byte is passed on.
pub(super) fn network_filter(
    scope: &Scope<'_>,
    mut filter: network_proto::Rbac,
) -> Option<RbacFilter> {
    let rules = rules(&scope.at("rules"), filter.rules.take());
    let shadow_rules = self::rules(&scope.at("shadow_rules"), filter.shadow_rules.take());
    let shadow_prefix = take(&mut filter.shadow_rules_stat_prefix).into();
    let stat_prefix = take(&mut filter.stat_prefix).into();
    scope.rest(&filter);
    Some(RbacFilter {
        rules: rules?,
        shadow_rules: shadow_rules?,
        shadow_prefix,
        stat_prefix,
    })
}

/// `Some(None)` without rules. One bad policy refuses the whole: dropping it could open or close what it should not.
fn rules(scope: &Scope<'_>, rules: Option<proto::Rbac>) -> Option<Option<RbacRules>> {
    let Some(mut rules) = rules else {
        return Some(None);
    };
    let action = match proto::rbac::Action::try_from(take(&mut rules.action)) {
        Ok(proto::rbac::Action::Allow) => RbacAction::Allow,
        Ok(proto::rbac::Action::Deny) => RbacAction::Deny,
        Ok(proto::rbac::Action::Log) => RbacAction::Log,
        Err(_) => return scope.at("action").refuse("is unknown"),
    };
    let mut named: Vec<_> = take(&mut rules.policies).into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let list = scope.at("policies");
    let mut policies = Vec::with_capacity(named.len());
    for (name, policy) in named {
        policies.push(self::policy(&list.key(&name), &name, policy)?);
    }
    scope.rest(&rules);
    Some(Some(RbacRules { action, policies }))
}

fn policy(scope: &Scope<'_>, name: &str, mut policy: proto::Policy) -> Option<RbacPolicy> {
    let permissions = all(
        scope,
        "permissions",
        take(&mut policy.permissions),
        permission,
    )?;
    let principals = all(scope, "principals", take(&mut policy.principals), principal)?;
    scope.rest(&policy);
    Some(RbacPolicy {
        name: name.into(),
        permissions,
        principals,
    })
}

/// Compiles every item, or nothing.
fn all<T, U>(
    scope: &Scope<'_>,
    field: &str,
    items: Vec<T>,
    compile: impl FnMut(&Scope<'_>, T) -> Option<U>,
) -> Option<Vec<U>> {
    let count = items.len();
    let compiled = scope.each(field, items, compile);
    (compiled.len() == count).then_some(compiled)
}

fn permission(scope: &Scope<'_>, permission: proto::Permission) -> Option<RbacPermission> {
    use RbacPermission as P;
    use proto::permission::Rule as R;
    match permission.rule {
        Some(R::Any(true)) => Some(P::Any),
        Some(R::AndRules(set)) => {
            all(&scope.at("and_rules"), "rules", set.rules, self::permission).map(P::AllOf)
        }
        Some(R::OrRules(set)) => {
            all(&scope.at("or_rules"), "rules", set.rules, self::permission).map(P::AnyOf)
        }
        Some(R::NotRule(inner)) => {
            self::permission(&scope.at("not_rule"), *inner).map(|inner| P::Not(Box::new(inner)))
        }
        Some(R::Header(header)) => header_matcher(&scope.at("header"), header).map(P::Header),
        Some(R::UrlPath(path)) => url_path(&scope.at("url_path"), path).map(P::UrlPath),
        Some(R::DestinationIp(range)) => {
            cidr(&scope.at("destination_ip"), range).map(P::DestinationIp)
        }
        Some(R::DestinationPort(number)) => {
            port(&scope.at("destination_port"), number).map(P::DestinationPort)
        }
        Some(R::DestinationPortRange(range)) => {
            match (u32::try_from(range.start), u32::try_from(range.end)) {
                (Ok(start), Ok(end)) => Some(P::DestinationPortRange { start, end }),
                _ => scope.at("destination_port_range").refuse("is negative"),
            }
        }
        Some(R::UriTemplate(extension)) => {
            let scope = scope.at("uri_template");
            let scope = scope.at("typed_config");
            let config = extension.typed_config.unwrap_or_default();
            if config.type_url != UriTemplateMatchConfig::type_url() {
                return scope.refuse(format!("{} is not supported", config.type_url));
            }
            let config: UriTemplateMatchConfig = unpack(&scope, &config)?;
            path_template(&scope.at("path_template"), &config.path_template).map(P::UrlTemplate)
        }
        Some(R::RequestedServerName(name)) => {
            string_matcher(&scope.at("requested_server_name"), name).map(P::RequestedServerName)
        }
        _ => scope.refuse("this kind of permission is not supported"),
    }
}

fn principal(scope: &Scope<'_>, principal: proto::Principal) -> Option<RbacPrincipal> {
    use RbacPrincipal as P;
    use proto::principal::Identifier as I;
    match principal.identifier {
        Some(I::Any(true)) => Some(P::Any),
        Some(I::AndIds(set)) => {
            all(&scope.at("and_ids"), "ids", set.ids, self::principal).map(P::AllOf)
        }
        Some(I::OrIds(set)) => {
            all(&scope.at("or_ids"), "ids", set.ids, self::principal).map(P::AnyOf)
        }
        Some(I::NotId(inner)) => {
            self::principal(&scope.at("not_id"), *inner).map(|inner| P::Not(Box::new(inner)))
        }
        Some(I::Authenticated(peer)) => match peer.principal_name {
            None => Some(P::Authenticated(None)),
            Some(name) => {
                let scope = scope.at("authenticated");
                string_matcher(&scope.at("principal_name"), name)
                    .map(|name| P::Authenticated(Some(name)))
            }
        },
        // Envoy's deprecated `source_ip` is the address after PROXY protocol; we have none.
        Some(I::SourceIp(range)) => cidr(&scope.at("source_ip"), range).map(P::DirectRemoteIp),
        Some(I::DirectRemoteIp(range)) => {
            cidr(&scope.at("direct_remote_ip"), range).map(P::DirectRemoteIp)
        }
        Some(I::RemoteIp(range)) => cidr(&scope.at("remote_ip"), range).map(P::RemoteIp),
        Some(I::Header(header)) => header_matcher(&scope.at("header"), header).map(P::Header),
        Some(I::UrlPath(path)) => url_path(&scope.at("url_path"), path).map(P::UrlPath),
        Some(I::Metadata(metadata)) => {
            metadata_matcher(&scope.at("metadata"), metadata).map(P::Metadata)
        }
        Some(I::SourcedMetadata(sourced)) => {
            let scope = scope.at("sourced_metadata");
            if sourced.metadata_source != proto::MetadataSource::Dynamic as i32 {
                return scope
                    .at("metadata_source")
                    .refuse("only DYNAMIC is supported");
            }
            match sourced.metadata_matcher {
                Some(metadata) => {
                    metadata_matcher(&scope.at("metadata_matcher"), metadata).map(P::Metadata)
                }
                None => scope.at("metadata_matcher").refuse("is required"),
            }
        }
        Some(I::FilterState(state)) => peer_principal(&scope.at("filter_state"), state),
        _ => scope.refuse("this kind of principal is not supported"),
    }
}

fn peer_principal(scope: &Scope<'_>, state: matcher::FilterStateMatcher) -> Option<RbacPrincipal> {
    if state.key != PEER_PRINCIPAL {
        return scope
            .at("key")
            .refuse(format!("\"{}\" is not supported", state.key));
    }
    match state.matcher {
        Some(matcher::filter_state_matcher::Matcher::StringMatch(value)) => {
            string_matcher(&scope.at("string_match"), value).map(RbacPrincipal::PeerPrincipal)
        }
        _ => scope.refuse("only string_match is supported"),
    }
}

/// What no filter of ours would leave is refused: a test of it would never match, however it is meant.
fn url_path(scope: &Scope<'_>, path: matcher::PathMatcher) -> Option<StringMatcher> {
    match path.rule {
        Some(matcher::path_matcher::Rule::Path(path)) => string_matcher(&scope.at("path"), path),
        None => scope.at("path").refuse("is required"),
    }
}
