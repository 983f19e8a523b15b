//! Envoy's route table read word by word, without any index: `config.route.v3.VirtualHost`, `RouteMatch`, `HeaderMatcher`.

use meltemi_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use meltemi_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use meltemi_proto::envoy::config::route::v3::route_match::PathSpecifier;
use meltemi_proto::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, RouteConfiguration, RouteMatch,
};
use meltemi_proto::envoy::r#type::matcher::v3::StringMatcher;
use meltemi_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

/// A request as far as routes look at it.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) headers: Vec<(String, String)>,
}

/// The names of the virtual host and of the route.
pub(super) fn select<'c>(
    config: &'c RouteConfiguration,
    asked: &Asked,
) -> Option<(&'c str, Option<&'c str>)> {
    let host = asked.authority.to_ascii_lowercase();
    // A trailing dot counts only where the name with it is configured.
    let undotted = host.strip_suffix('.').unwrap_or(&host);
    let rank = |domain: &str| -> Option<(u8, usize)> {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return Some((0, 0));
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            let fits = undotted.len() > suffix.len() && undotted.ends_with(suffix);
            return fits.then_some((2, suffix.len()));
        }
        if let Some(prefix) = domain.strip_suffix('*') {
            let fits = undotted.len() > prefix.len() && undotted.starts_with(prefix);
            return fits.then_some((1, prefix.len()));
        }
        if domain == host {
            return Some((4, 0));
        }
        (domain == undotted).then_some((3, 0))
    };
    let (_, virtual_host) = config
        .virtual_hosts
        .iter()
        .flat_map(|host| host.domains.iter().map(move |domain| (domain, host)))
        .filter_map(|(domain, host)| rank(domain).map(|rank| (rank, host)))
        .max_by_key(|(rank, _)| *rank)?;
    let matches = |m: &Option<RouteMatch>| m.as_ref().is_some_and(|m| route_matches(m, asked));
    let route = virtual_host
        .routes
        .iter()
        .find(|route| matches(&route.r#match));
    Some((&virtual_host.name, route.map(|route| route.name.as_str())))
}

fn route_matches(matches: &RouteMatch, asked: &Asked) -> bool {
    let is_case_sensitive = matches
        .case_sensitive
        .as_ref()
        .is_none_or(|flag| flag.value);
    let fold = |text: &str| {
        if is_case_sensitive {
            text.to_owned()
        } else {
            text.to_ascii_lowercase()
        }
    };
    let (path, query) = asked.path.split_once('?').unwrap_or((&asked.path, ""));
    let path = fold(path);
    let path_fits = match &matches.path_specifier {
        Some(PathSpecifier::Prefix(prefix)) => path.starts_with(&fold(prefix)),
        Some(PathSpecifier::Path(exact)) => path == fold(exact),
        Some(PathSpecifier::PathSeparatedPrefix(prefix)) => {
            let prefix = fold(prefix);
            path == prefix || path.starts_with(&format!("{prefix}/"))
        }
        _ => false,
    };
    path_fits
        && matches.headers.iter().all(|m| header_matches(m, asked))
        && matches
            .query_parameters
            .iter()
            .all(|m| query_matches(m, query))
}

fn header_matches(matcher: &HeaderMatcher, asked: &Asked) -> bool {
    let values: Vec<&str> = asked
        .headers
        .iter()
        .filter(|(name, _)| *name == matcher.name)
        .map(|(_, value)| value.trim())
        .collect();
    match &matcher.header_match_specifier {
        Some(HeaderMatchSpecifier::StringMatch(text)) => {
            !values.is_empty()
                && values.iter().any(|value| text_matches(text, value)) != matcher.invert_match
        }
        Some(HeaderMatchSpecifier::PresentMatch(wanted)) => {
            (values.is_empty() != *wanted) != matcher.invert_match
        }
        _ => values.is_empty() == matcher.invert_match,
    }
}

fn query_matches(matcher: &QueryParameterMatcher, query: &str) -> bool {
    let value = query.split('&').find_map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (name == matcher.name).then_some(value)
    });
    match &matcher.query_parameter_match_specifier {
        Some(QueryParameterMatchSpecifier::StringMatch(text)) => {
            value.is_some_and(|value| text_matches(text, value))
        }
        Some(QueryParameterMatchSpecifier::PresentMatch(wanted)) => value.is_some() == *wanted,
        None => value.is_some(),
    }
}

fn text_matches(matcher: &StringMatcher, text: &str) -> bool {
    let fold = |text: &str| {
        if matcher.ignore_case {
            text.to_ascii_lowercase()
        } else {
            text.to_owned()
        }
    };
    let text = fold(text);
    match &matcher.match_pattern {
        Some(MatchPattern::Exact(wanted)) => text == fold(wanted),
        Some(MatchPattern::Prefix(wanted)) => text.starts_with(&fold(wanted)),
        Some(MatchPattern::Suffix(wanted)) => text.ends_with(&fold(wanted)),
        Some(MatchPattern::Contains(wanted)) => text.contains(&fold(wanted)),
        _ => false,
    }
}
