//! `envoy.extensions.filters.http.jwt_authn.v3`.

use std::collections::HashMap;
use std::mem::take;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, header};
use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::filters::http::jwt_authn::v3 as proto;

use super::Scope;
use super::common::{duration, header_name, string_matcher};
use super::route::route_match;
use crate::jwt::{Jwks, audience};
use crate::runtime::{
    JwtAuthentication, JwtBypass, JwtClaimHeader, JwtKeys, JwtLocation, JwtPerRoute, JwtProvider,
    JwtRequirement, JwtRule, RemoteJwks,
};

/// Envoy's default `clock_skew_seconds`.
const CLOCK_SKEW: Duration = Duration::from_secs(60);
/// Envoy's default `cache_duration`.
const CACHE_DURATION: Duration = Duration::from_secs(600);

pub(super) fn filter(
    scope: &Scope<'_>,
    mut filter: proto::JwtAuthentication,
) -> Option<JwtAuthentication> {
    let mut named: Vec<_> = take(&mut filter.providers).into_iter().collect();
    named.sort_by(|a, b| a.0.cmp(&b.0));
    let list = scope.at("providers");
    let mut providers = Vec::with_capacity(named.len());
    for (name, own) in named {
        providers.push(provider(&list.key(&name), &name, own)?);
    }
    let requirements = Requirements {
        providers: &providers,
    };
    let rules = take(&mut filter.rules);
    let count = rules.len();
    let map = requirements.named(scope, take(&mut filter.requirement_map))?;
    let rules = scope.each("rules", rules, |scope, own| {
        rule(scope, own, &requirements, &map)
    });
    filter.stat_prefix = String::new(); // only statistics
    let compiled = JwtAuthentication {
        reserved_headers: providers.iter().flat_map(JwtProvider::headers).collect(),
        rules,
        named: map,
        bypass_cors_preflight: take(&mut filter.bypass_cors_preflight),
        strip_failure_response: take(&mut filter.strip_failure_response),
        providers,
    };
    scope.rest(&filter);
    // A rule that was refused must not open what it guards.
    (compiled.rules.len() == count).then_some(compiled)
}

pub(super) fn per_route(scope: &Scope<'_>, config: proto::PerRouteConfig) -> Option<JwtPerRoute> {
    use proto::per_route_config::RequirementSpecifier as S;
    match config.requirement_specifier {
        Some(S::Disabled(true)) => Some(JwtPerRoute::Disabled),
        Some(S::RequirementName(name)) => Some(JwtPerRoute::Requirement(name.into())),
        _ => scope.refuse("says nothing"),
    }
}

impl JwtProvider {
    /// What the provider tells the upstream.
    fn headers(&self) -> impl Iterator<Item = HeaderName> {
        let claims = self.claim_headers.iter().map(|claim| claim.header.clone());
        self.payload_header.iter().cloned().chain(claims)
    }
}

fn provider(scope: &Scope<'_>, name: &str, mut own: proto::JwtProvider) -> Option<JwtProvider> {
    let skew = take(&mut own.clock_skew_seconds);
    let payload_header = match take(&mut own.forward_payload_header).as_str() {
        "" => None,
        name => Some(header_name(&scope.at("forward_payload_header"), name)?),
    };
    let subjects = match own.subjects.take() {
        None => None,
        Some(subjects) => Some(string_matcher(&scope.at("subjects"), subjects)?),
    };
    let max_lifetime = own.max_lifetime.take();
    let compiled = JwtProvider {
        name: name.into(),
        issuer: take(&mut own.issuer).into(),
        audiences: audiences(take(&mut own.audiences)),
        subjects,
        require_expiration: take(&mut own.require_expiration),
        max_lifetime: match max_lifetime {
            None => None,
            Some(longest) => Some(duration(&scope.at("max_lifetime"), Some(longest))?),
        },
        clock_skew: match skew {
            0 => CLOCK_SKEW,
            seconds => Duration::from_secs(seconds.into()),
        },
        locations: locations(scope, &mut own)?,
        forward: take(&mut own.forward),
        payload_header,
        pads_payload_header: take(&mut own.pad_forward_payload_header),
        claim_headers: claim_headers(scope, take(&mut own.claim_to_headers))?,
        payload_in_metadata: Some(take(&mut own.payload_in_metadata))
            .filter(|key| !key.is_empty())
            .map(Into::into),
        space_delimited_claims: own
            .normalize_payload_in_metadata
            .take()
            .map(|normalise| normalise.space_delimited_claims)
            .unwrap_or_default()
            .into_iter()
            .map(Into::into)
            .collect(),
        clear_route_cache: take(&mut own.clear_route_cache),
        keys: keys(scope, own.jwks_source_specifier.take())?,
    };
    // How much memory may be spent to verify less often: a token costs 20 µs with RSA and 50 µs with P-256.
    own.jwt_cache_config = None;
    scope.rest(&own);
    Some(compiled)
}

fn audiences(list: Vec<String>) -> Vec<Arc<str>> {
    list.iter().map(|text| audience(text).into()).collect()
}

/// Without any: the Authorization header, then the parameter `access_token` (RFC 6750 sections 2.1 and 2.3).
fn locations(scope: &Scope<'_>, own: &mut proto::JwtProvider) -> Option<Vec<JwtLocation>> {
    let headers = take(&mut own.from_headers);
    let count = headers.len();
    let mut found = scope.each("from_headers", headers, |scope, header| {
        Some(JwtLocation::Header {
            name: header_name(&scope.at("name"), &header.name)?,
            prefix: header.value_prefix.into(),
        })
    });
    if found.len() != count {
        return None;
    }
    let parameters = take(&mut own.from_params).into_iter();
    found.extend(parameters.map(|name| JwtLocation::Parameter(name.into())));
    let cookies = take(&mut own.from_cookies).into_iter();
    found.extend(cookies.map(|name| JwtLocation::Cookie(name.into())));
    if found.is_empty() {
        found.push(JwtLocation::Header {
            name: header::AUTHORIZATION,
            prefix: "Bearer ".into(),
        });
        found.push(JwtLocation::Parameter("access_token".into()));
    }
    Some(found)
}

fn claim_headers(
    scope: &Scope<'_>,
    list: Vec<proto::JwtClaimToHeader>,
) -> Option<Vec<JwtClaimHeader>> {
    let count = list.len();
    let compiled = scope.each("claim_to_headers", list, |scope, own| {
        let claim: Vec<Arc<str>> = match (own.claim_name.as_str(), own.claim_path.is_empty()) {
            ("", false) => own
                .claim_path
                .into_iter()
                .map(|part| part.key.into())
                .collect(),
            (name, true) if !name.is_empty() => name.split('.').map(Into::into).collect(),
            _ => return scope.refuse("needs either claim_name or claim_path"),
        };
        Some(JwtClaimHeader {
            header: header_name(&scope.at("header_name"), &own.header_name)?,
            claim,
        })
    });
    (compiled.len() == count).then_some(compiled)
}

fn keys(
    scope: &Scope<'_>,
    source: Option<proto::jwt_provider::JwksSourceSpecifier>,
) -> Option<JwtKeys> {
    use core::data_source::Specifier;
    use proto::jwt_provider::JwksSourceSpecifier as S;
    match source {
        Some(S::LocalJwks(source)) => {
            let scope = scope.at("local_jwks");
            let text = match source.specifier {
                Some(Specifier::InlineString(text)) => text.into_bytes(),
                Some(Specifier::InlineBytes(bytes)) => bytes,
                _ => return scope.refuse("only inline_string and inline_bytes are supported"),
            };
            match Jwks::parse(&text) {
                Ok(keys) => Some(JwtKeys::Local(Arc::new(keys))),
                Err(error) => scope.refuse(error.to_string()),
            }
        }
        Some(S::RemoteJwks(remote)) => remote_keys(&scope.at("remote_jwks"), remote)
            .map(|remote| JwtKeys::Remote(remote.into())),
        None => scope.at("jwks_source_specifier").refuse("is required"),
    }
}

fn remote_keys(scope: &Scope<'_>, mut remote: proto::RemoteJwks) -> Option<RemoteJwks> {
    use core::http_uri::HttpUpstreamType::Cluster;
    let place = scope.at("http_uri");
    let Some(to) = remote.http_uri.take() else {
        return place.refuse("is required");
    };
    let Some(Cluster(cluster)) = to.http_upstream_type else {
        return place.at("cluster").refuse("is required");
    };
    let is_absolute = to.uri.parse::<http::Uri>().is_ok_and(|uri| {
        uri.authority().is_some() && matches!(uri.scheme_str(), Some("http" | "https"))
    });
    if !is_absolute {
        return place.at("uri").refuse("is not an absolute HTTP URI");
    }
    let Some(timeout) = duration(&place.at("timeout"), to.timeout) else {
        return place.at("timeout").refuse("is required");
    };
    let cache_duration = match remote.cache_duration.take() {
        None => CACHE_DURATION,
        given => duration(&scope.at("cache_duration"), given)?,
    };
    let compiled = RemoteJwks {
        uri: to.uri.into(),
        cluster: cluster.into(),
        timeout,
        cache_duration,
    };
    scope.rest(&remote);
    Some(compiled)
}

fn rule(
    scope: &Scope<'_>,
    own: proto::RequirementRule,
    requirements: &Requirements<'_>,
    named: &[(Arc<str>, JwtRequirement)],
) -> Option<JwtRule> {
    use proto::requirement_rule::RequirementType as T;
    let Some(matches) = own.r#match else {
        return scope.at("match").refuse("is required");
    };
    let matches = route_match(&scope.at("match"), matches)?;
    if !matches.metadata.is_empty() {
        let scope = scope.at("match");
        return scope.at("dynamic_metadata").refuse("is not supported here");
    }
    let requires = match own.requirement_type {
        None => None,
        Some(T::Requires(own)) => Some(requirements.compile(&scope.at("requires"), own)?),
        Some(T::RequirementName(wanted)) => {
            let found = named.iter().find(|(name, _)| **name == *wanted);
            match found {
                Some((_, requirement)) => Some(requirement.clone()),
                None => return scope.at("requirement_name").refuse("names no requirement"),
            }
        }
    };
    Some(JwtRule { matches, requires })
}

/// Compiles requirements, which name providers.
struct Requirements<'p> {
    providers: &'p [JwtProvider],
}

impl Requirements<'_> {
    fn named(
        &self,
        scope: &Scope<'_>,
        map: HashMap<String, proto::JwtRequirement>,
    ) -> Option<Vec<(Arc<str>, JwtRequirement)>> {
        let list = scope.at("requirement_map");
        let mut map: Vec<_> = map.into_iter().collect();
        map.sort_by(|a, b| a.0.cmp(&b.0));
        let compile = |(name, own): (String, _)| {
            let requirement = self.compile(&list.key(&name), own)?;
            Some((name.into(), requirement))
        };
        map.into_iter().map(compile).collect()
    }

    fn provider(&self, scope: &Scope<'_>, name: &str) -> Option<usize> {
        let found = self.providers.iter().position(|own| *own.name == *name);
        match found {
            Some(found) => Some(found),
            None => scope.refuse(format!("\"{name}\" is no provider")),
        }
    }

    fn compile(&self, scope: &Scope<'_>, own: proto::JwtRequirement) -> Option<JwtRequirement> {
        use proto::jwt_requirement::RequiresType as T;
        match own.requires_type {
            Some(T::ProviderName(name)) => Some(JwtRequirement::Provider {
                provider: self.provider(&scope.at("provider_name"), &name)?,
                audiences: None,
            }),
            Some(T::ProviderAndAudiences(own)) => {
                let scope = scope.at("provider_and_audiences");
                Some(JwtRequirement::Provider {
                    provider: self.provider(&scope.at("provider_name"), &own.provider_name)?,
                    audiences: Some(audiences(own.audiences)),
                })
            }
            Some(T::RequiresAny(list)) => self.any(&scope.at("requires_any"), list.requirements),
            Some(T::RequiresAll(list)) => {
                let scope = scope.at("requires_all");
                let all = self.each(&scope, list.requirements)?;
                Some(JwtRequirement::AllOf(all))
            }
            Some(T::AllowMissing(_)) => Some(JwtRequirement::Bypass(JwtBypass::Missing)),
            Some(T::AllowMissingOrFailed(_)) => {
                Some(JwtRequirement::Bypass(JwtBypass::MissingOrFailed))
            }
            Some(T::ExtractOnlyWithoutValidation(_)) => scope
                .at("extract_only_without_validation")
                .refuse("is not supported"),
            None => scope.refuse("says nothing"),
        }
    }

    fn each(
        &self,
        scope: &Scope<'_>,
        list: Vec<proto::JwtRequirement>,
    ) -> Option<Vec<JwtRequirement>> {
        let count = list.len();
        if count == 0 {
            return scope.refuse("is empty");
        }
        let compiled = scope.each("requirements", list, |scope, own| self.compile(scope, own));
        (compiled.len() == count).then_some(compiled)
    }

    /// What may be missing is said of the others; alone it is a requirement of its own.
    fn any(&self, scope: &Scope<'_>, list: Vec<proto::JwtRequirement>) -> Option<JwtRequirement> {
        let mut or_else = None;
        let mut alternatives = Vec::new();
        for own in self.each(scope, list)? {
            match own {
                JwtRequirement::Bypass(bypass) => or_else = or_else.max(Some(bypass)),
                other => alternatives.push(other),
            }
        }
        Some(match (alternatives.is_empty(), or_else) {
            (true, Some(bypass)) => JwtRequirement::Bypass(bypass),
            _ => JwtRequirement::AnyOf {
                alternatives,
                or_else,
            },
        })
    }
}
