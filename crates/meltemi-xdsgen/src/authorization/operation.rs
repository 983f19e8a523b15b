//! What is called, as permissions.

use meltemi_api::istio::{Operation, ValuePattern};
use meltemi_model::ServiceAddress;
use meltemi_proto::envoy::config::core::v3::TypedExtensionConfig;
use meltemi_proto::envoy::config::rbac::v3::{Permission, permission::Rule};
use meltemi_proto::envoy::config::route::v3::{HeaderMatcher, header_matcher};
use meltemi_proto::envoy::extensions::path::r#match::uri_template::v3::UriTemplateMatchConfig;
use meltemi_proto::envoy::r#type::matcher::v3::{
    PathMatcher, StringMatcher, path_matcher, string_matcher::MatchPattern,
};

use super::rule::{Demands, IntoTerm as _, Term as _};
use crate::wire;

const URI_TEMPLATE: &str = "envoy.path.match.uri_template.uri_template_matcher";

pub(super) fn demand(operation: &Operation, demands: &mut Demands<Permission>) {
    demands.add_of_request(&operation.hosts, &operation.not_hosts, host);
    demands.add_of_request(&operation.methods, &operation.not_methods, method);
    demands.add_of_request(&operation.paths, &operation.not_paths, path);
    demands.add(&operation.ports, &operation.not_ports, port);
}

pub(super) fn port(text: &str) -> Option<Permission> {
    let port: u16 = text.parse().ok()?;
    Some(Rule::DestinationPort(port.into()).into_term())
}

pub(super) fn address(text: &str) -> Option<Permission> {
    let range = ServiceAddress::parse(text)?;
    let range = wire::cidr(range.ip, range.prefix_len);
    Some(Rule::DestinationIp(range).into_term())
}

pub(super) fn server_name(text: &str) -> Option<Permission> {
    Some(Rule::RequestedServerName(string(text)).into_term())
}

fn method(text: &str) -> Option<Permission> {
    Some(Rule::Header(header(":method", text)).into_term())
}

fn path(text: &str) -> Option<Permission> {
    if Operation::is_path_template(text) {
        let template = UriTemplateMatchConfig {
            path_template: text.replace("{**}", "**").replace("{*}", "*"),
        };
        let matcher = TypedExtensionConfig {
            name: URI_TEMPLATE.to_owned(),
            typed_config: Some(wire::any(&template)),
        };
        return Some(Rule::UriTemplate(matcher).into_term());
    }
    let path = PathMatcher {
        rule: Some(path_matcher::Rule::Path(string(text))),
    };
    Some(Rule::UrlPath(path).into_term())
}

/// The host that a request names, in any case.
///
/// Differs from Istio, where `example.com` is not `example.com:8080` (its bulletin ISTIO-SECURITY-2021-008 asks for two values
/// instead): a host is meant on every port unless the rule names one, and with the dot of a full name or without.
fn host(text: &str) -> Option<Permission> {
    let authority = |matcher: MatchPattern| {
        let matcher = StringMatcher {
            ignore_case: !matches!(matcher, MatchPattern::SafeRegex(_)),
            ..wire::pattern(matcher)
        };
        let header = HeaderMatcher {
            name: ":authority".to_owned(),
            header_match_specifier: Some(header_matcher::HeaderMatchSpecifier::StringMatch(
                matcher,
            )),
            ..HeaderMatcher::default()
        };
        Rule::Header(header).into_term()
    };
    let exact = |text: String| authority(MatchPattern::Exact(text));
    let prefix = |text: String| authority(MatchPattern::Prefix(text));
    let suffix = |text: String| authority(MatchPattern::Suffix(text));
    Some(match ValuePattern::parse(text) {
        ValuePattern::Present => Rule::Header(header(":authority", text)).into_term(),
        ValuePattern::Prefix(start) => prefix(start.to_owned()),
        ValuePattern::Exact(host) if has_port(host) => exact(host.to_owned()),
        ValuePattern::Suffix(end) if has_port(end) => suffix(end.to_owned()),
        ValuePattern::Exact(host) => {
            let host = host.trim_end_matches('.');
            Permission::any_of(vec![
                exact(host.to_owned()),
                exact(format!("{host}.")),
                prefix(format!("{host}:")),
                prefix(format!("{host}.:")),
            ])
        }
        ValuePattern::Suffix(end) => {
            let end = end.trim_end_matches('.');
            let with_port = format!("(?i).*{}\\.?:[0-9]*", escaped(end));
            Permission::any_of(vec![
                suffix(end.to_owned()),
                suffix(format!("{end}.")),
                authority(MatchPattern::SafeRegex(wire::regex(&with_port))),
            ])
        }
    })
}

/// Whether a host names a port; the colons of an IPv6 address are in brackets.
fn has_port(host: &str) -> bool {
    let port = host.rsplit_once(':').map_or("", |(_, port)| port);
    !port.is_empty() && port.bytes().all(|c| c.is_ascii_digit())
}

/// Text that a regular expression takes as it stands.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if c.is_ascii_punctuation() {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

/// A header with a value, or that is there.
pub(super) fn header(name: &str, value: &str) -> HeaderMatcher {
    use header_matcher::HeaderMatchSpecifier as Test;
    let test = match ValuePattern::parse(value) {
        ValuePattern::Present => Test::PresentMatch(true),
        _ => Test::StringMatch(string(value)),
    };
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(test),
        ..HeaderMatcher::default()
    }
}

/// A value as policies write it.
pub(super) fn string(value: &str) -> StringMatcher {
    wire::pattern(match ValuePattern::parse(value) {
        ValuePattern::Exact(text) => MatchPattern::Exact(text.to_owned()),
        ValuePattern::Prefix(text) => MatchPattern::Prefix(text.to_owned()),
        ValuePattern::Suffix(text) => MatchPattern::Suffix(text.to_owned()),
        ValuePattern::Present => MatchPattern::SafeRegex(wire::regex(".+")),
    })
}
