use meltemi_proto::envoy::r#type::matcher::v3 as proto;
use proto::metadata_matcher::path_segment::Segment;

use super::Scope;
use super::common::string_matcher;
use crate::runtime::{MetadataMatcher, ValueMatcher};

/// The filter whose findings can be matched: no other of ours tells any.
const JWT_FILTER: &str = "envoy.filters.http.jwt_authn";

pub(super) fn metadata_matcher(
    scope: &Scope<'_>,
    matcher: proto::MetadataMatcher,
) -> Option<MetadataMatcher> {
    if matcher.filter != JWT_FILTER {
        return scope
            .at("filter")
            .refuse(format!("\"{}\" is not supported", matcher.filter));
    }
    let mut path = Vec::new();
    for segment in matcher.path {
        match segment.segment {
            Some(Segment::Key(key)) => path.push(key.into()),
            None => return scope.at("path").refuse("has a part without key"),
        }
    }
    if path.is_empty() {
        return scope.at("path").refuse("is required");
    }
    let value = scope.at("value");
    let value = match matcher.value {
        Some(wanted) => value_matcher(&value, wanted)?,
        None => return value.refuse("is required"),
    };
    Some(MetadataMatcher {
        path,
        value,
        invert: matcher.invert,
    })
}

pub(super) fn value_matcher(
    scope: &Scope<'_>,
    matcher: proto::ValueMatcher,
) -> Option<ValueMatcher> {
    use proto::double_matcher::MatchPattern::{Exact, Range};
    use proto::list_matcher::MatchPattern::OneOf;
    use proto::value_matcher::MatchPattern as M;
    match matcher.match_pattern {
        Some(M::StringMatch(text)) => {
            string_matcher(&scope.at("string_match"), text).map(ValueMatcher::Text)
        }
        Some(M::BoolMatch(wanted)) => Some(ValueMatcher::Bool(wanted)),
        Some(M::NullMatch(_)) => Some(ValueMatcher::Null),
        Some(M::PresentMatch(true)) => Some(ValueMatcher::Present),
        Some(M::DoubleMatch(number)) => match number.match_pattern {
            Some(Exact(wanted)) => Some(ValueMatcher::Number(wanted)),
            Some(Range(range)) => Some(ValueMatcher::NumberRange {
                start: range.start,
                end: range.end,
            }),
            None => scope.at("double_match").refuse("is required"),
        },
        Some(M::ListMatch(list)) => match list.match_pattern {
            Some(OneOf(inner)) => value_matcher(&scope.at("list_match"), *inner)
                .map(|inner| ValueMatcher::OneOf(Box::new(inner))),
            None => scope.at("list_match").refuse("is empty"),
        },
        Some(M::OrMatch(any)) => {
            let count = any.value_matchers.len();
            let list = scope.each("or_match", any.value_matchers, value_matcher);
            (list.len() == count).then_some(ValueMatcher::AnyOf(list))
        }
        _ => scope.refuse("this kind of value is not supported"),
    }
}
