//! RequestAuthentications as the JWT filter, as Istio writes it.
//!
//! | rules | requirement |
//! |---|---|
//! | one | its provider, or no token |
//! | several | one of the providers, or all of: each provider, or none of its tokens |
//!
//! The outer choice is there for providers that look in the same place: of those only one can be pleased. A rule with
//! `presence: REQUIRED` has no "or no token".

use std::collections::HashMap;
use std::time::Duration;

use meltemi_api::istio::{JwtRule, Presence};
use meltemi_api::jwks;
use meltemi_core::{ClusterName, Hostname};
use meltemi_model::{JwksSource, KeyServer};
use meltemi_proto::envoy::config::core::v3::{DataSource, HttpUri, data_source, http_uri};
use meltemi_proto::envoy::config::route::v3::{RouteMatch, route_match};
use meltemi_proto::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtClaimToHeader, JwtHeader, JwtProvider, JwtRequirement,
    JwtRequirementAndList, JwtRequirementOrList, RemoteJwks, RequirementRule, jwt_provider,
    jwt_requirement::RequiresType, requirement_rule::RequirementType,
};
use meltemi_proto::google::protobuf::Any;

use crate::inputs::Inputs;
use crate::wire;

/// The filter's name, under which others find what it has verified.
pub(crate) const FILTER: &str = "envoy.filters.http.jwt_authn";
/// The key of the claims there.
pub(crate) const PAYLOAD: &str = "payload";
/// Claims that are lists of words wherever they occur (RFC 8693 section 4.2).
const SPACE_DELIMITED: [&str; 2] = ["scope", "permission"];
/// Istio's default `timeout`, and how long its proxies keep keys that they fetch.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
const CACHE_DURATION: Duration = Duration::from_secs(300);
/// A key whose private half nobody has: it was hashed, not made (SHA-256 of "meltemi: nobody has the key to this").
/// It stands where there are no keys, so that every token is refused.
pub(crate) const NOBODYS_KEY: &str = r#"{"keys":[{"kty":"OKP","crv":"Ed25519","alg":"EdDSA","kid":"nobody","x":"qnOReFWRaMFcJq2GXM2TBXHLzrJE4LbRJD0XI2ru59o"}]}"#;

/// The filter for the proxy's workload, if tokens mean anything to it. At gateways routes may depend on claims.
pub(crate) fn filter(inputs: &Inputs<'_>, is_gateway: bool) -> Option<Any> {
    let mut rules: Vec<&JwtRule> = inputs
        .request_authentications()
        .into_iter()
        .flat_map(|policy| &policy.jwt_rules)
        .collect();
    if rules.is_empty() {
        return None;
    }
    // Stable: of one issuer the older object's comes first.
    rules.sort_by(|a, b| a.issuer.cmp(&b.issuer));
    let mut providers = HashMap::new();
    let mut names = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        let name = format!("origins-{index}");
        providers.insert(name.clone(), provider(inputs, rule, is_gateway));
        names.push((name, rule.presence));
    }
    Some(wire::any(&JwtAuthentication {
        providers,
        rules: vec![RequirementRule {
            r#match: Some(RouteMatch {
                path_specifier: Some(route_match::PathSpecifier::Prefix("/".to_owned())),
                ..RouteMatch::default()
            }),
            requirement_type: Some(RequirementType::Requires(requirement(&names))),
        }],
        bypass_cors_preflight: true,
        ..JwtAuthentication::default()
    }))
}

fn provider(inputs: &Inputs<'_>, rule: &JwtRule, clear_route_cache: bool) -> JwtProvider {
    let headers = rule.from_headers.iter().map(|header| JwtHeader {
        name: header.name.clone(),
        value_prefix: header.prefix.clone(),
    });
    let claims = rule.output_claim_to_headers.iter();
    let claims = claims.map(|output| JwtClaimToHeader {
        header_name: output.header.clone(),
        claim_name: output.claim.clone(),
        ..JwtClaimToHeader::default()
    });
    let words = SPACE_DELIMITED.map(str::to_owned).into_iter();
    let more = rule.space_delimited_claims.iter();
    let more = more.filter(|claim| !SPACE_DELIMITED.contains(&claim.as_str()));
    JwtProvider {
        issuer: rule.issuer.clone(),
        audiences: rule.audiences.clone(),
        forward: rule.forward_original_token,
        from_headers: headers.collect(),
        from_params: rule.from_params.clone(),
        from_cookies: rule.from_cookies.clone(),
        forward_payload_header: rule.output_payload_to_header.clone(),
        payload_in_metadata: PAYLOAD.to_owned(),
        normalize_payload_in_metadata: Some(jwt_provider::NormalizePayload {
            space_delimited_claims: words.chain(more.cloned()).collect(),
        }),
        claim_to_headers: claims.collect(),
        clear_route_cache,
        jwks_source_specifier: Some(keys(inputs, rule)),
        ..JwtProvider::default()
    }
}

/// The services that a gateway fetches keys from, besides those that its routes lead to.
pub(crate) fn key_servers(inputs: &Inputs<'_>) -> Vec<Hostname> {
    let policies = inputs.request_authentications().into_iter();
    let rules = policies.flat_map(|policy| &policy.jwt_rules);
    let sources = rules.filter_map(JwksSource::of);
    let servers = sources.filter_map(|source| inputs.key_server(&source));
    servers
        .map(|server| server.host)
        .filter(|host| inputs.service(host).is_some())
        .collect()
}

/// Where the proxy fetches keys itself.
fn remote_keys(rule: &JwtRule, server: &KeyServer) -> RemoteJwks {
    let cluster = ClusterName::outbound(server.port, "", server.host.as_str());
    RemoteJwks {
        http_uri: Some(HttpUri {
            uri: rule.jwks_uri.clone(),
            timeout: Some(wire::duration(rule.timeout.unwrap_or(FETCH_TIMEOUT))),
            http_upstream_type: Some(http_uri::HttpUpstreamType::Cluster(cluster.to_string())),
        }),
        cache_duration: Some(wire::duration(CACHE_DURATION)),
        ..RemoteJwks::default()
    }
}

/// The user's own keys, those that were fetched, or nobody's; or where the proxy fetches them.
fn keys(inputs: &Inputs<'_>, rule: &JwtRule) -> jwt_provider::JwksSourceSpecifier {
    let source = JwksSource::of(rule);
    let server = source.as_ref().and_then(|source| inputs.key_server(source));
    if let Some(server) = server {
        return jwt_provider::JwksSourceSpecifier::RemoteJwks(remote_keys(rule, &server));
    }
    let text = match source {
        None => Some(rule.jwks.as_str()),
        Some(source) => inputs.keys(&source),
    };
    let good = text.filter(|text| jwks::problem(text.as_bytes()).is_none());
    let text = good.unwrap_or(NOBODYS_KEY).to_owned();
    jwt_provider::JwksSourceSpecifier::LocalJwks(DataSource {
        specifier: Some(data_source::Specifier::InlineString(text)),
        ..DataSource::default()
    })
}

fn requirement(names: &[(String, Presence)]) -> JwtRequirement {
    let of = |requires| JwtRequirement {
        requires_type: Some(requires),
    };
    let any = |requirements| {
        of(RequiresType::RequiresAny(JwtRequirementOrList {
            requirements,
        }))
    };
    let alone = |name: &String| of(RequiresType::ProviderName(name.clone()));
    let each = names.iter().map(|(name, presence)| match presence {
        Presence::Optional => any(vec![
            alone(name),
            of(RequiresType::AllowMissing(Default::default())),
        ]),
        Presence::Required => alone(name),
    });
    let mut each: Vec<JwtRequirement> = each.collect();
    if each.len() == 1 {
        return each.remove(0);
    }
    let all = of(RequiresType::RequiresAll(JwtRequirementAndList {
        requirements: each,
    }));
    any(names
        .iter()
        .map(|(name, _)| alone(name))
        .chain([all])
        .collect())
}
