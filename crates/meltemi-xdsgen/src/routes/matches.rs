//! HTTPMatchRequest as Envoy route matches.

use std::collections::BTreeMap;

use meltemi_api::istio::{HttpMatch, StringMatch, claim_path};
use meltemi_proto::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteMatch, header_matcher, query_parameter_matcher,
    route_match,
};
use meltemi_proto::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher, list_matcher,
    metadata_matcher, string_matcher::MatchPattern, value_matcher,
};

use crate::gateways::At;
use crate::inputs::Inputs;
use crate::listeners::tcp_route::Client;
use crate::{jwt, wire};

/// Whether the conditions that are known now hold: port, source, gateway. `namespace` is that of the VirtualService.
pub(super) fn applies(
    inputs: &Inputs<'_>,
    matches: &HttpMatch,
    port: u16,
    at: At<'_>,
    namespace: &str,
) -> bool {
    let client = Client::new(
        &matches.source_labels,
        &matches.source_namespace,
        &matches.gateways,
    );
    matches.port.is_none_or(|number| number == u32::from(port)) && client.is(inputs, at, namespace)
}

pub(super) fn route_match(matches: &HttpMatch) -> RouteMatch {
    let pseudo = [
        (":method", &matches.method),
        (":authority", &matches.authority),
        (":scheme", &matches.scheme),
    ];
    let pseudo = pseudo
        .into_iter()
        .filter_map(|(name, value)| Some(header(name, value.as_ref()?)));
    let given = by_header(&matches.headers).map(|(name, value)| header(&name, value));
    let absent = by_header(&matches.without_headers).map(|(name, value)| without(&name, value));
    let claimed = by_claim(&matches.headers).map(|(path, value)| claim(path, value, false));
    let unclaimed =
        by_claim(&matches.without_headers).map(|(path, value)| claim(path, value, true));
    RouteMatch {
        case_sensitive: matches
            .ignore_uri_case
            .then(|| wire::bool_value(false))
            .flatten(),
        headers: given.chain(pseudo).chain(absent).collect(),
        dynamic_metadata: claimed.chain(unclaimed).collect(),
        query_parameters: matches
            .query_params
            .iter()
            .map(|(name, value)| query(name, value))
            .collect(),
        path_specifier: Some(path(matches.uri.as_ref())),
        ..RouteMatch::default()
    }
}

/// What is said of a header by its name.
type Said<'m> = &'m BTreeMap<String, StringMatch>;

fn by_header(said: Said<'_>) -> impl Iterator<Item = (String, &StringMatch)> {
    let headers = said.iter().filter(|(name, _)| claim_path(name).is_none());
    headers.map(|(name, value)| (name.to_ascii_lowercase(), value))
}

/// What is said of claims, where Istio takes the name of a header for one.
fn by_claim(said: Said<'_>) -> impl Iterator<Item = (Vec<String>, &StringMatch)> {
    said.iter()
        .filter_map(|(name, value)| Some((claim_path(name)?, value)))
}

/// A claim of the verified token: one that is absent matches nothing. A list matches if one of its items does.
fn claim(path: Vec<String>, value: &StringMatch, invert: bool) -> MetadataMatcher {
    use value_matcher::MatchPattern as Value;
    let of = |pattern| ValueMatcher {
        match_pattern: Some(pattern),
    };
    let value = match string_matcher(value) {
        None => Value::PresentMatch(true),
        Some(text) => {
            let item = Box::new(of(Value::StringMatch(text.clone())));
            let list = ListMatcher {
                match_pattern: Some(list_matcher::MatchPattern::OneOf(item)),
            };
            let either = vec![
                of(Value::StringMatch(text)),
                of(Value::ListMatch(Box::new(list))),
            ];
            Value::OrMatch(OrMatcher {
                value_matchers: either,
            })
        }
    };
    let path = std::iter::once(jwt::PAYLOAD.to_owned()).chain(path);
    MetadataMatcher {
        filter: jwt::FILTER.to_owned(),
        path: path
            .map(|key| metadata_matcher::PathSegment {
                segment: Some(metadata_matcher::path_segment::Segment::Key(key)),
            })
            .collect(),
        value: Some(of(value)),
        invert,
    }
}

fn path(uri: Option<&StringMatch>) -> route_match::PathSpecifier {
    use route_match::PathSpecifier;
    match uri {
        Some(StringMatch::Exact(path)) => PathSpecifier::Path(path.clone()),
        Some(StringMatch::Prefix(prefix)) => PathSpecifier::Prefix(prefix.clone()),
        Some(StringMatch::Regex(regex)) => PathSpecifier::SafeRegex(wire::regex(regex)),
        Some(StringMatch::Present) | None => PathSpecifier::Prefix("/".to_owned()),
    }
}

/// The matcher of a value; none where it only has to be there.
pub(super) fn string_matcher(value: &StringMatch) -> Option<StringMatcher> {
    Some(match value {
        StringMatch::Exact(text) => wire::exact(text),
        StringMatch::Prefix(text) => wire::pattern(MatchPattern::Prefix(text.clone())),
        StringMatch::Regex(text) => wire::pattern(MatchPattern::SafeRegex(wire::regex(text))),
        StringMatch::Present => return None,
    })
}

fn header(name: &str, value: &StringMatch) -> HeaderMatcher {
    use header_matcher::HeaderMatchSpecifier as Specifier;
    let specifier =
        string_matcher(value).map_or(Specifier::PresentMatch(true), Specifier::StringMatch);
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(specifier),
        ..HeaderMatcher::default()
    }
}

/// A request without the header matches too, which Envoy grants only if the missing value counts as empty.
fn without(name: &str, value: &StringMatch) -> HeaderMatcher {
    HeaderMatcher {
        invert_match: true,
        treat_missing_header_as_empty: *value != StringMatch::Present,
        ..header(name, value)
    }
}

fn query(name: &str, value: &StringMatch) -> QueryParameterMatcher {
    use query_parameter_matcher::QueryParameterMatchSpecifier as Specifier;
    let specifier =
        string_matcher(value).map_or(Specifier::PresentMatch(true), Specifier::StringMatch);
    QueryParameterMatcher {
        name: name.to_owned(),
        query_parameter_match_specifier: Some(specifier),
    }
}
