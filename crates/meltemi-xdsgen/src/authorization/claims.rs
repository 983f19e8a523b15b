//! What a verified token says, which the JWT filter leaves in dynamic metadata.

use meltemi_api::istio::ValuePattern;
use meltemi_proto::envoy::config::rbac::v3::{Principal, SourcedMetadata, principal::Identifier};
use meltemi_proto::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment};
use meltemi_proto::envoy::r#type::matcher::v3::{
    ListMatcher, MetadataMatcher, OrMatcher, StringMatcher, ValueMatcher, list_matcher,
    string_matcher::MatchPattern, value_matcher,
};

use super::operation::string;
use super::rule::{IntoTerm as _, Term as _};
use crate::wire;

/// Where Istio's JWT filters leave the payload.
const NAMESPACE: &str = "envoy.filters.http.jwt_authn";
const PAYLOAD: &str = "payload";

/// A user: `<issuer>/<subject>`. An issuer may hold slashes, so the last one parts them.
pub(super) fn principal(value: &str) -> Principal {
    let any = || string("*");
    let pattern = ValuePattern::parse(value);
    let (issuer, subject) = match (value.rsplit_once('/'), pattern) {
        (_, ValuePattern::Present) => (any(), any()),
        // A star at the front is the issuer's and one at the back the subject's; the other part is exact.
        (Some((issuer, subject)), ValuePattern::Suffix(_)) => (string(issuer), exact(subject)),
        (Some((issuer, subject)), ValuePattern::Prefix(_)) => (exact(issuer), string(subject)),
        (Some((issuer, subject)), ValuePattern::Exact(_)) => (exact(issuer), exact(subject)),
        (None, ValuePattern::Suffix(_)) => (any(), string(value)),
        (None, ValuePattern::Prefix(_)) => (string(value), any()),
        (None, ValuePattern::Exact(_)) => (exact(value), exact("")),
    };
    let of = |claim: &str, test: StringMatcher| metadata(&[claim], text(test));
    Principal::all_of(vec![of("iss", issuer), of("sub", subject)])
}

/// A claim that is one of the values, or a list with one of them.
pub(super) fn claim(path: &[&str], values: &[String]) -> Principal {
    let tests = values.iter().map(|value| text(string(value)));
    let value = any_of(tests.collect());
    let in_list = ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::ListMatch(Box::new(
            ListMatcher {
                match_pattern: Some(list_matcher::MatchPattern::OneOf(Box::new(value.clone()))),
            },
        ))),
    };
    metadata(path, any_of(vec![value, in_list]))
}

fn exact(text: &str) -> StringMatcher {
    wire::pattern(MatchPattern::Exact(text.to_owned()))
}

fn text(test: StringMatcher) -> ValueMatcher {
    ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::StringMatch(test)),
    }
}

fn any_of(mut tests: Vec<ValueMatcher>) -> ValueMatcher {
    match tests.len() {
        1 => tests.remove(0),
        _ => ValueMatcher {
            match_pattern: Some(value_matcher::MatchPattern::OrMatch(OrMatcher {
                value_matchers: tests,
            })),
        },
    }
}

fn metadata(claim: &[&str], value: ValueMatcher) -> Principal {
    let path = [PAYLOAD].into_iter().chain(claim.iter().copied());
    let path = path.map(|key| PathSegment {
        segment: Some(path_segment::Segment::Key(key.to_owned())),
    });
    let matcher = MetadataMatcher {
        filter: NAMESPACE.to_owned(),
        path: path.collect(),
        value: Some(value),
        ..MetadataMatcher::default()
    };
    Identifier::SourcedMetadata(SourcedMetadata {
        metadata_matcher: Some(matcher),
        ..SourcedMetadata::default()
    })
    .into_term()
}
