use std::mem::take;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};
use ipnet::IpNet;
use meltemi_proto::envoy::config::{core::v3 as core, route::v3 as route};
use meltemi_proto::envoy::r#type::{matcher::v3 as matcher, v3 as types};
use meltemi_proto::google::protobuf::{self, Any, value::Kind};
use meltemi_proto::{any, json, type_url, typed_struct};
use prost::{Message, Name};
use regex::bytes::{Regex, RegexBuilder};

use super::Scope;
use crate::access_log;
use crate::runtime::{
    Fraction, HeaderAppend, HeaderMatch, HeaderMatcher, HeaderMutation, HeaderMutations,
    HeaderSource, HeaderTemplate, LogPiece, QueryMatch, QueryMatcher, RegexRewrite, StringMatcher,
    StringPattern,
};

/// Bounds the memory of one compiled regular expression (CVE-2019-14993: regex bombs in routes).
const REGEX_LIMIT_BYTES: usize = 1 << 20;
/// Istio admits at most 1,024 characters.
const REGEX_LIMIT_CHARS: usize = 1024;

pub(super) fn duration(scope: &Scope<'_>, value: Option<protobuf::Duration>) -> Option<Duration> {
    let value = value?;
    match (u64::try_from(value.seconds), u32::try_from(value.nanos)) {
        (Ok(seconds), Ok(nanos)) if nanos < 1_000_000_000 => Some(Duration::new(seconds, nanos)),
        _ => scope.refuse("is not a duration"),
    }
}

/// A duration with a default, where zero switches the limit off.
pub(super) fn limit(
    scope: &Scope<'_>,
    value: Option<protobuf::Duration>,
    default: Option<Duration>,
) -> Option<Duration> {
    match value {
        None => default,
        Some(value) => duration(scope, Some(value)).filter(|limit| !limit.is_zero()),
    }
}

pub(super) fn is_true(value: Option<protobuf::BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

pub(super) fn number(value: Option<protobuf::UInt32Value>) -> Option<u32> {
    value.map(|value| value.value)
}

pub(super) fn port(scope: &Scope<'_>, number: u32) -> Option<u16> {
    u16::try_from(number).map_or_else(|_| scope.refuse(format!("{number} is not a port")), Some)
}

pub(super) fn status(scope: &Scope<'_>, code: u32) -> Option<StatusCode> {
    let code = u16::try_from(code)
        .ok()
        .and_then(|code| StatusCode::from_u16(code).ok());
    code.map_or_else(|| scope.refuse("is not an HTTP status"), Some)
}

pub(super) fn fraction(scope: &Scope<'_>, value: types::FractionalPercent) -> Option<Fraction> {
    let denominator = match value.denominator {
        0 => 100,
        1 => 10_000,
        2 => 1_000_000,
        other => {
            return scope
                .at("denominator")
                .refuse(format!("{other} is unknown"));
        }
    };
    Some(Fraction {
        numerator: value.numerator,
        denominator,
    })
}

/// Runtime keys cannot be set in our proxy, so that the default is the value.
pub(super) fn runtime_fraction(
    scope: &Scope<'_>,
    value: core::RuntimeFractionalPercent,
) -> Option<Fraction> {
    match value.default_value {
        Some(default) => fraction(&scope.at("default_value"), default),
        None => scope.at("default_value").refuse("is required"),
    }
}

pub(super) fn socket_address(
    scope: &Scope<'_>,
    address: Option<core::Address>,
) -> Option<SocketAddr> {
    use core::address::Address as A;
    match address.and_then(|address| address.address) {
        Some(A::SocketAddress(address)) => {
            let (host, port) = host_and_port(&scope.at("socket_address"), address)?;
            let ip: Result<IpAddr, _> = host.parse();
            match ip {
                Ok(ip) => Some(SocketAddr::new(ip, port)),
                Err(_) => scope
                    .at("socket_address")
                    .at("address")
                    .refuse(format!("\"{host}\" is not an IP address")),
            }
        }
        Some(A::Pipe(_)) => scope.at("pipe").refuse("is not supported"),
        Some(A::EnvoyInternalAddress(_)) => scope
            .at("envoy_internal_address")
            .refuse("is not supported"),
        None => scope.refuse("is required"),
    }
}

pub(super) fn host_and_port(
    scope: &Scope<'_>,
    mut address: core::SocketAddress,
) -> Option<(String, u16)> {
    use core::socket_address::PortSpecifier as P;
    if address.protocol != core::socket_address::Protocol::Tcp as i32 {
        return scope.at("protocol").refuse("only TCP is supported");
    }
    let port = match address.port_specifier.take() {
        Some(P::PortValue(number)) => port(&scope.at("port_value"), number)?,
        Some(P::NamedPort(_)) => return scope.at("named_port").refuse("is not supported"),
        None => 0,
    };
    let host = take(&mut address.address);
    address.ipv4_compat = false; // IPv4-mapped addresses are always taken as IPv4
    scope.rest(&address);
    Some((host, port))
}

pub(super) fn cidr(scope: &Scope<'_>, range: core::CidrRange) -> Option<IpNet> {
    let ip: IpAddr = match range.address_prefix.parse() {
        Ok(ip) => ip,
        Err(_) => {
            return scope
                .at("address_prefix")
                .refuse(format!("\"{}\" is not an IP address", range.address_prefix));
        }
    };
    let length = number(range.prefix_len).unwrap_or(0);
    let net = u8::try_from(length)
        .ok()
        .and_then(|length| IpNet::new(ip, length).ok());
    net.map_or_else(
        || {
            scope
                .at("prefix_len")
                .refuse(format!("{length} is too long"))
        },
        |net| Some(net.trunc()),
    )
}

/// A regular expression that matches the whole input; RE2's syntax is the `regex` crate's but for rare escapes.
pub(super) fn full_regex(scope: &Scope<'_>, value: matcher::RegexMatcher) -> Option<Regex> {
    regex(scope, &value.regex, |text| format!(r"\A(?:{text})\z"))
}

fn regex(scope: &Scope<'_>, text: &str, wrap: impl Fn(&str) -> String) -> Option<Regex> {
    let scope = scope.at("regex");
    if text.chars().count() > REGEX_LIMIT_CHARS {
        return scope.refuse(format!("is longer than {REGEX_LIMIT_CHARS} characters"));
    }
    // Alone first: `a)|(b` would break out of the wrapping.
    let compiled = build(text).and_then(|_| build(&wrap(text)));
    compiled.map_or_else(
        |error| {
            let error = error.to_string();
            let cause = error.lines().next_back().unwrap_or_default();
            scope.refuse(format!("\"{text}\" does not compile: {cause}"))
        },
        Some,
    )
}

/// On bytes; in Unicode mode only where a class such as `\p{L}` needs it.
fn build(text: &str) -> Result<Regex, regex::Error> {
    let builder = |is_unicode| {
        RegexBuilder::new(text)
            .unicode(is_unicode)
            .size_limit(REGEX_LIMIT_BYTES)
            .build()
    };
    builder(false).or_else(|_| builder(true))
}

/// A path template as Envoy's `UriTemplateMatchConfig` has it: `*` is one segment or its part, `**` the rest.
///
/// Differs from Envoy: a `*` of the request itself is as any other character of it.
pub(super) fn path_template(scope: &Scope<'_>, template: &str) -> Option<Regex> {
    let is_literal = |c: char| c.is_ascii_alphanumeric() || "-._~%!$&'()+,;:@=/*".contains(c);
    if !template.starts_with('/') || !template.chars().all(is_literal) {
        return scope.refuse(format!("\"{template}\" is no path template"));
    }
    if template.chars().count() > REGEX_LIMIT_CHARS {
        return scope.refuse(format!("is longer than {REGEX_LIMIT_CHARS} characters"));
    }
    if template
        .split_once("**")
        .is_some_and(|(_, rest)| rest.contains('*'))
    {
        return scope.refuse("** is the last operator");
    }
    // A literal holds no star, so that all of them are operators.
    let rest = "\u{1}";
    let text = regex::escape(&template.replace("**", rest));
    let text = text.replace("\\*", "[^/]+").replace(rest, ".*");
    match build(&format!(r"(?s)\A{text}\z")) {
        Ok(regex) => Some(regex),
        Err(error) => scope.refuse(error.to_string()),
    }
}

pub(super) fn regex_rewrite(
    scope: &Scope<'_>,
    value: matcher::RegexMatchAndSubstitute,
) -> Option<RegexRewrite> {
    let Some(pattern) = value.pattern else {
        return scope.at("pattern").refuse("is required");
    };
    let pattern = regex(&scope.at("pattern"), &pattern.regex, str::to_owned)?;
    let substitution = substitution(
        &scope.at("substitution"),
        &value.substitution,
        pattern.captures_len(),
    )?;
    Some(RegexRewrite {
        pattern,
        substitution,
    })
}

/// From RE2's `\1` to the `regex` crate's `${1}`.
fn substitution(scope: &Scope<'_>, text: &str, groups: usize) -> Option<Arc<[u8]>> {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '$' => out.push_str("$$"),
            '\\' => match chars.next() {
                Some('\\') => out.push('\\'),
                Some(digit) if digit.to_digit(10).is_some_and(|d| (d as usize) < groups) => {
                    out.push_str(&format!("${{{digit}}}"));
                }
                _ => {
                    return scope.refuse(format!("\"{text}\" refers to a group that is not there"));
                }
            },
            c => out.push(c),
        }
    }
    Some(out.into_bytes().into())
}

pub(super) fn string_matcher(
    scope: &Scope<'_>,
    value: matcher::StringMatcher,
) -> Option<StringMatcher> {
    use matcher::string_matcher::MatchPattern as P;
    let pattern = match value.match_pattern {
        Some(P::Exact(text)) => StringPattern::Exact(text.into()),
        Some(P::Prefix(text)) => StringPattern::Prefix(text.into()),
        Some(P::Suffix(text)) => StringPattern::Suffix(text.into()),
        Some(P::Contains(text)) => StringPattern::Contains(text.into()),
        Some(P::SafeRegex(regex)) => {
            StringPattern::Regex(full_regex(&scope.at("safe_regex"), regex)?)
        }
        Some(P::Custom(_)) => return scope.at("custom").refuse("is not supported"),
        None => return scope.refuse("has no pattern"),
    };
    Some(StringMatcher {
        pattern,
        ignore_case: value.ignore_case,
    })
}

pub(super) fn header_source(scope: &Scope<'_>, name: &str) -> Option<HeaderSource> {
    match name.to_ascii_lowercase().as_str() {
        ":method" => Some(HeaderSource::Method),
        ":path" => Some(HeaderSource::Path),
        ":authority" | "host" => Some(HeaderSource::Authority),
        ":scheme" => Some(HeaderSource::Scheme),
        _ => header_name(scope, name).map(HeaderSource::Header),
    }
}

pub(super) fn header_name(scope: &Scope<'_>, name: &str) -> Option<HeaderName> {
    HeaderName::try_from(name).map_or_else(
        |_| scope.refuse(format!("\"{name}\" is not a header name")),
        Some,
    )
}

pub(super) fn header_value(scope: &Scope<'_>, value: &str) -> Option<HeaderValue> {
    HeaderValue::try_from(value).map_or_else(|_| scope.refuse("is not a header value"), Some)
}

pub(super) fn header_matcher(
    scope: &Scope<'_>,
    value: route::HeaderMatcher,
) -> Option<HeaderMatcher> {
    use route::header_matcher::HeaderMatchSpecifier as M;
    let exactly = |pattern| {
        Some(HeaderMatch::Value(StringMatcher {
            pattern,
            ignore_case: false,
        }))
    };
    let test = match value.header_match_specifier {
        None => Some(HeaderMatch::Present(true)),
        Some(M::PresentMatch(present)) => Some(HeaderMatch::Present(present)),
        Some(M::ExactMatch(text)) => exactly(StringPattern::Exact(text.into())),
        Some(M::PrefixMatch(text)) => exactly(StringPattern::Prefix(text.into())),
        Some(M::SuffixMatch(text)) => exactly(StringPattern::Suffix(text.into())),
        Some(M::ContainsMatch(text)) => exactly(StringPattern::Contains(text.into())),
        Some(M::SafeRegexMatch(regex)) => full_regex(&scope.at("safe_regex_match"), regex)
            .and_then(|regex| exactly(StringPattern::Regex(regex))),
        Some(M::StringMatch(matcher)) => {
            string_matcher(&scope.at("string_match"), matcher).map(HeaderMatch::Value)
        }
        Some(M::RangeMatch(range)) => Some(HeaderMatch::Range {
            start: range.start,
            end: range.end,
        }),
    };
    Some(HeaderMatcher {
        source: header_source(&scope.at("name"), &value.name)?,
        test: test?,
        invert: value.invert_match,
        treat_missing_as_empty: value.treat_missing_header_as_empty,
    })
}

pub(super) fn query_matcher(
    scope: &Scope<'_>,
    value: route::QueryParameterMatcher,
) -> Option<QueryMatcher> {
    use route::query_parameter_matcher::QueryParameterMatchSpecifier as M;
    let test = match value.query_parameter_match_specifier {
        None => QueryMatch::Present(true),
        Some(M::PresentMatch(present)) => QueryMatch::Present(present),
        Some(M::StringMatch(matcher)) => {
            QueryMatch::Value(string_matcher(&scope.at("string_match"), matcher)?)
        }
    };
    Some(QueryMatcher {
        name: value.name.into(),
        test,
    })
}

/// `field` is `request_headers` or `response_headers`; the wire has two lists, `_to_add` and `_to_remove`.
pub(super) fn header_mutations(
    scope: &Scope<'_>,
    field: &str,
    add: Vec<core::HeaderValueOption>,
    remove: Vec<String>,
) -> HeaderMutations {
    HeaderMutations {
        add: scope.each(&format!("{field}_to_add"), add, header_mutation),
        remove: scope.each(&format!("{field}_to_remove"), remove, |scope, name| {
            header_name(scope, &name)
        }),
    }
}

fn header_mutation(
    scope: &Scope<'_>,
    mut option: core::HeaderValueOption,
) -> Option<HeaderMutation> {
    use core::header_value_option::HeaderAppendAction as A;
    let Some(header) = option.header.take() else {
        return scope.at("header").refuse("is required");
    };
    let append = match (
        option.append.take(),
        A::try_from(take(&mut option.append_action)),
    ) {
        // The old boolean, which Istio still sends.
        (Some(append), _) if append.value => HeaderAppend::AppendIfExistsOrAdd,
        (Some(_), _) => HeaderAppend::OverwriteIfExistsOrAdd,
        (None, Ok(A::AppendIfExistsOrAdd)) => HeaderAppend::AppendIfExistsOrAdd,
        (None, Ok(A::AddIfAbsent)) => HeaderAppend::AddIfAbsent,
        (None, Ok(A::OverwriteIfExistsOrAdd)) => HeaderAppend::OverwriteIfExistsOrAdd,
        (None, Ok(A::OverwriteIfExists)) => HeaderAppend::OverwriteIfExists,
        (None, Err(_)) => return scope.at("append_action").refuse("is unknown"),
    };
    let keep_empty = take(&mut option.keep_empty_value);
    scope.rest(&option);
    let scope = scope.at("header");
    if !header.raw_value.is_empty() {
        return scope.at("raw_value").refuse("is not supported");
    }
    Some(HeaderMutation {
        target: header_source(&scope.at("key"), &header.key)?,
        value: header_template(&scope.at("value"), &header.value)?,
        append,
        keep_empty,
    })
}

fn header_template(scope: &Scope<'_>, text: &str) -> Option<HeaderTemplate> {
    let pieces = log_pieces(scope, text)?;
    match pieces.as_slice() {
        [] => Some(HeaderTemplate::Literal(HeaderValue::from_static(""))),
        [LogPiece::Literal(text)] => header_value(scope, text).map(HeaderTemplate::Literal),
        _ => Some(HeaderTemplate::Format(pieces)),
    }
}

/// A format string of an access log or a header.
pub(super) fn log_pieces(scope: &Scope<'_>, text: &str) -> Option<Vec<LogPiece>> {
    access_log::parse(text).map_or_else(|error| scope.refuse(error.to_string()), Some)
}

/// Reads a typed configuration, also one that is given as a `TypedStruct`.
pub(super) fn unpack<M: Message + Name + Default>(scope: &Scope<'_>, config: &Any) -> Option<M> {
    let config = resolve(scope, config)?;
    any::unpack_named(&config).map_or_else(|error| scope.refuse(describe(&error)), Some)
}

/// The type of a typed configuration: of what is inside for a `TypedStruct`.
pub(super) fn resolve(scope: &Scope<'_>, config: &Any) -> Option<Any> {
    let (inner, value) = match config.type_url.as_str() {
        type_url::XDS_TYPED_STRUCT => {
            let message =
                any::unpack::<typed_struct::xds::TypedStruct>(config, type_url::XDS_TYPED_STRUCT);
            message.map(|message| (message.type_url, message.value))
        }
        type_url::UDPA_TYPED_STRUCT => {
            let message =
                any::unpack::<typed_struct::udpa::TypedStruct>(config, type_url::UDPA_TYPED_STRUCT);
            message.map(|message| (message.type_url, message.value))
        }
        _ => return Some(config.clone()),
    }
    .map_or_else(|error| scope.refuse(describe(&error)), Some)?;
    let value = value.map_or_else(
        || serde_json::Value::Object(serde_json::Map::new()),
        struct_to_json,
    );
    json::json_to_any(&inner, &value)
        .map_or_else(|error| scope.at("value").refuse(describe(&error)), Some)
}

/// An error with its causes, as NACKs have one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

pub(super) fn struct_to_json(value: protobuf::Struct) -> serde_json::Value {
    let mut fields: Vec<_> = value.fields.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    serde_json::Value::Object(
        fields
            .into_iter()
            .map(|(k, v)| (k, value_to_json(v)))
            .collect(),
    )
}

fn value_to_json(value: protobuf::Value) -> serde_json::Value {
    use serde_json::Value as J;
    match value.kind {
        None | Some(Kind::NullValue(_)) => J::Null,
        Some(Kind::BoolValue(value)) => J::Bool(value),
        Some(Kind::NumberValue(value)) => {
            serde_json::Number::from_f64(value).map_or(J::Null, J::Number)
        }
        Some(Kind::StringValue(text)) => J::String(text),
        Some(Kind::StructValue(value)) => struct_to_json(value),
        Some(Kind::ListValue(list)) => {
            J::Array(list.values.into_iter().map(value_to_json).collect())
        }
    }
}

/// A string of the metadata under `filter`, by key.
pub(super) fn metadata_text(metadata: &core::Metadata, filter: &str, key: &str) -> Option<String> {
    match &metadata.filter_metadata.get(filter)?.fields.get(key)?.kind {
        Some(Kind::StringValue(text)) => Some(text.clone()),
        _ => None,
    }
}
