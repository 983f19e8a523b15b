use meltemi_core::FieldPath;

use super::{Check, is_header_name, jwks, repeated};
use crate::istio::{JwtRule, RequestAuthentication, TargetRef};

/// Istio's bound.
const CLAIM_NAMES_LIMIT: usize = 64;

pub(super) fn check(policy: &RequestAuthentication, spec: &FieldPath, check: &mut Check<'_>) {
    if let Some(selector) = &policy.selector {
        let field = spec.field("selector").field("matchLabels");
        check.selector(&field, &selector.match_labels);
    }
    let has_targets = policy.targets().next().is_some();
    if has_targets
        && (policy.selector.is_some()
            || policy.target_ref.is_some() && !policy.target_refs.is_empty())
    {
        check.error_hint(
            spec,
            "only one of targetRefs or selector can be set",
            "use two objects with the same rules",
        );
    }
    if let Some(target) = &policy.target_ref {
        check_target(target, &spec.field("targetRef"), check);
    }
    for (index, target) in policy.target_refs.iter().enumerate() {
        check_target(target, &spec.field("targetRefs").index(index), check);
    }
    for (index, rule) in policy.jwt_rules.iter().enumerate() {
        check_rule(rule, &spec.field("jwtRules").index(index), check);
    }
}

fn check_target(target: &TargetRef, path: &FieldPath, check: &mut Check<'_>) {
    for (field, value) in [("kind", &target.kind), ("name", &target.name)] {
        if value.is_empty() {
            check.error(&path.field(field), "is required");
        }
    }
    if !target.namespace.is_empty() {
        check.error(
            &path.field("namespace"),
            "an object of another namespace cannot be the target",
        );
    }
    if !target.is_gateway() && !target.kind.is_empty() {
        check.error_hint(
            &path.field("kind"),
            "only a Gateway of gateway.networking.k8s.io can be the target",
            "select workloads by their labels: selector.matchLabels",
        );
    }
}

fn check_rule(rule: &JwtRule, path: &FieldPath, check: &mut Check<'_>) {
    if rule.issuer.is_empty() {
        check.error_hint(
            &path.field("issuer"),
            "an issuer is required",
            "write what the claim iss of its tokens says",
        );
    }
    check_keys(rule, path, check);
    for (field, values) in [
        ("audiences", &rule.audiences),
        ("fromParams", &rule.from_params),
        ("fromCookies", &rule.from_cookies),
        ("spaceDelimitedClaims", &rule.space_delimited_claims),
    ] {
        check_words(values, &path.field(field), check);
    }
    if rule.space_delimited_claims.len() > CLAIM_NAMES_LIMIT {
        let field = path.field("spaceDelimitedClaims");
        check.error(&field, format!("has more than {CLAIM_NAMES_LIMIT} names"));
    }
    check_headers(rule, path, check);
    check.duration(&path.field("timeout"), rule.timeout);
}

fn check_keys(rule: &JwtRule, path: &FieldPath, check: &mut Check<'_>) {
    if !rule.jwks.is_empty() && !rule.jwks_uri.is_empty() {
        check.error_hint(
            &path.field("jwks"),
            "only one of jwks and jwksUri can be set",
            "remove the one that is not current",
        );
    }
    if !rule.jwks_uri.is_empty() && !is_http_url(&rule.jwks_uri) {
        check.error_hint(
            &path.field("jwksUri"),
            format!("\"{}\" is not an http:// or https:// URL", rule.jwks_uri),
            "write for instance https://issuer.example/.well-known/jwks.json",
        );
    }
    if !rule.jwks.is_empty()
        && let Some(problem) = jwks::problem(rule.jwks.as_bytes())
    {
        check.error_hint(
            &path.field("jwks"),
            problem,
            "write a JSON Web Key Set, {\"keys\": [...]}, with a public key of the issuer",
        );
    }
}

fn check_words(values: &[String], path: &FieldPath, check: &mut Check<'_>) {
    for (index, value) in values.iter().enumerate() {
        if value.is_empty() {
            check.error(&path.index(index), "must not be empty");
        }
    }
    for index in repeated(values.iter()) {
        let message = format!("\"{}\" is there before", values[index]);
        check.error(&path.index(index), message);
    }
}

fn check_headers(rule: &JwtRule, path: &FieldPath, check: &mut Check<'_>) {
    let list = path.field("fromHeaders");
    for (index, header) in rule.from_headers.iter().enumerate() {
        token_header(&header.name, &list.index(index).field("name"), check);
    }
    for index in repeated(rule.from_headers.iter()) {
        check.error(&list.index(index), "this location is there before");
    }
    if !rule.output_payload_to_header.is_empty() {
        let field = path.field("outputPayloadToHeader");
        token_header(&rule.output_payload_to_header, &field, check);
    }
    let list = path.field("outputClaimToHeaders");
    for (index, output) in rule.output_claim_to_headers.iter().enumerate() {
        let item = list.index(index);
        // Istio: letters, digits, - and _.
        let is_word = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
        if output.header.is_empty() || !output.header.bytes().all(is_word) {
            check.error_hint(
                &item.field("header"),
                format!("\"{}\" is not the name of a header", output.header),
                "a name has letters, digits, - and _",
            );
        }
        if output.claim.is_empty() {
            check.error(&item.field("claim"), "the name of a claim is required");
        }
    }
}

fn token_header(name: &str, path: &FieldPath, check: &mut Check<'_>) {
    if !is_header_name(name) {
        check.error_hint(
            path,
            format!("\"{name}\" is not the name of a header"),
            "a name has letters, digits and !#$%&'*+-.^_`|~",
        );
    }
}

/// A scheme, a host, and nothing in between.
fn is_http_url(text: &str) -> bool {
    let rest = text
        .strip_prefix("https://")
        .or_else(|| text.strip_prefix("http://"));
    rest.is_some_and(|rest| {
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let is_plain = |c: char| c.is_ascii_graphic();
        !host.is_empty() && !host.contains('@') && text.chars().all(is_plain)
    })
}
