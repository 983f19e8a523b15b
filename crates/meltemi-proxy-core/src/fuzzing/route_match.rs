use http::{HeaderMap, HeaderName, HeaderValue};
use meltemi_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use meltemi_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use meltemi_proto::envoy::config::route::v3::route::Action;
use meltemi_proto::envoy::config::route::v3::route_action::ClusterSpecifier;
use meltemi_proto::envoy::config::route::v3::route_match::PathSpecifier;
use meltemi_proto::envoy::config::route::v3::{
    HeaderMatcher, QueryParameterMatcher, Route, RouteAction, RouteConfiguration, RouteMatch,
    VirtualHost,
};
use meltemi_proto::envoy::r#type::matcher::v3::StringMatcher;
use meltemi_proto::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use meltemi_proto::google::protobuf::BoolValue;

use super::naive::{self, Asked};
use crate::request::RequestHead;
use crate::{compile, routing, virtual_host};

/// Few, so that they meet each other.
const DOMAINS: [&str; 12] = [
    "*", "a.b", "*.b", "a.*", "*b", "A.b", "c.a.b", "a.b.", "a:80", "*.a.b", "a*", "c.*",
];
const HOSTS: [&str; 10] = [
    "a.b", "A.B", "c.a.b", "a.b.", "b", "a", "a:80", ".b", "c.", "xa.b",
];
const PREFIXES: [&str; 8] = ["/", "/a", "/a/", "/A/b", "/a/b", "/b", "/a/bc", "/ab"];
const PATHS: [&str; 10] = [
    "/",
    "/a",
    "/a/",
    "/A",
    "/a/b",
    "/a/b?x=1",
    "/a/bc?x",
    "/b?y=1&x=2",
    "/ab",
    "/a?x=1&x=2",
];
const NAMES: [&str; 3] = ["x-a", "x-b", "x-c"];
const VALUES: [&str; 6] = ["", "1", "12", "a", "A1", "1 "];
const PARAMETERS: [&str; 3] = ["x", "y", "z"];

/// Routes and a request drawn from a few words each: the index and the compiled matchers choose what a reader of Envoy's
/// documentation would.
///
/// # Panics
/// They do not.
pub fn route_match(bytes: &[u8]) {
    let mut draw = Draw(bytes);
    let config = configuration(&mut draw);
    let asked = asked(&mut draw);
    let Ok(compiled) = compile::route_configuration(config.clone()) else {
        // Such as a domain that is there twice.
        return;
    };
    let mut headers = HeaderMap::new();
    for (name, value) in &asked.headers {
        let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value))
        else {
            return;
        };
        headers.append(name, value);
    }
    let head = RequestHead {
        method: "GET",
        path: &asked.path,
        authority: &asked.authority,
        scheme: "http",
        headers: &headers,
    };
    let found = virtual_host::select(&compiled, &asked.authority).map(|host| {
        let route = routing::select(host, &head, 0).map(|route| &*route.name);
        (&*host.name, route)
    });
    assert_eq!(
        found,
        naive::select(&config, &asked),
        "{asked:?} in {config:?}"
    );
}

/// Takes decisions off an input; when it is used up, all are 0.
struct Draw<'a>(&'a [u8]);

impl Draw<'_> {
    fn byte(&mut self) -> usize {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        usize::from(*first)
    }

    fn below(&mut self, limit: usize) -> usize {
        self.byte() % limit
    }

    fn of<'w>(&mut self, words: &[&'w str]) -> &'w str {
        words.get(self.below(words.len())).copied().unwrap_or("")
    }

    fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }
}

fn configuration(draw: &mut Draw<'_>) -> RouteConfiguration {
    let virtual_hosts = (0..1 + draw.below(4))
        .map(|host| VirtualHost {
            name: format!("h{host}"),
            domains: (0..1 + draw.below(2))
                .map(|_| draw.of(&DOMAINS).to_owned())
                .collect(),
            routes: (0..draw.below(4)).map(|at| route(at, draw)).collect(),
            ..VirtualHost::default()
        })
        .collect();
    RouteConfiguration {
        name: "r".to_owned(),
        virtual_hosts,
        ..RouteConfiguration::default()
    }
}

fn route(at: usize, draw: &mut Draw<'_>) -> Route {
    let path = draw.of(&PREFIXES).to_owned();
    let path_specifier = match draw.below(3) {
        0 => PathSpecifier::Prefix(path),
        1 => PathSpecifier::Path(path),
        // Envoy allows no slash at the end of one.
        _ if path.len() > 1 && !path.ends_with('/') => PathSpecifier::PathSeparatedPrefix(path),
        _ => PathSpecifier::Prefix(path),
    };
    let matches = RouteMatch {
        path_specifier: Some(path_specifier),
        case_sensitive: draw.flag().then_some(BoolValue { value: false }),
        headers: (0..draw.below(3)).map(|_| header(draw)).collect(),
        query_parameters: (0..draw.below(2)).map(|_| parameter(draw)).collect(),
        ..RouteMatch::default()
    };
    let action = RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster("c".to_owned())),
        ..RouteAction::default()
    };
    Route {
        name: format!("r{at}"),
        r#match: Some(matches),
        action: Some(Action::Route(action)),
        ..Route::default()
    }
}

fn header(draw: &mut Draw<'_>) -> HeaderMatcher {
    HeaderMatcher {
        name: draw.of(&NAMES).to_owned(),
        invert_match: draw.flag(),
        header_match_specifier: Some(if draw.flag() {
            HeaderMatchSpecifier::PresentMatch(draw.flag())
        } else {
            HeaderMatchSpecifier::StringMatch(text(draw))
        }),
        ..HeaderMatcher::default()
    }
}

fn parameter(draw: &mut Draw<'_>) -> QueryParameterMatcher {
    QueryParameterMatcher {
        name: draw.of(&PARAMETERS).to_owned(),
        query_parameter_match_specifier: Some(if draw.flag() {
            QueryParameterMatchSpecifier::PresentMatch(true)
        } else {
            QueryParameterMatchSpecifier::StringMatch(text(draw))
        }),
    }
}

fn text(draw: &mut Draw<'_>) -> StringMatcher {
    let value = draw.of(&VALUES).trim().to_owned();
    let pattern = match draw.below(4) {
        0 => MatchPattern::Exact(value),
        // Envoy allows no empty one.
        _ if value.is_empty() => MatchPattern::Exact(value),
        1 => MatchPattern::Prefix(value),
        2 => MatchPattern::Suffix(value),
        _ => MatchPattern::Contains(value),
    };
    StringMatcher {
        ignore_case: draw.flag(),
        match_pattern: Some(pattern),
    }
}

fn asked(draw: &mut Draw<'_>) -> Asked {
    Asked {
        authority: draw.of(&HOSTS).to_owned(),
        path: draw.of(&PATHS).to_owned(),
        headers: (0..draw.below(4))
            .map(|_| (draw.of(&NAMES).to_owned(), draw.of(&VALUES).to_owned()))
            .collect(),
    }
}
