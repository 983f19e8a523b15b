use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;
use regex::bytes::Regex;

use super::*;
use crate::runtime::{
    Fraction, HeaderMatch, HeaderMatcher, HeaderMutations, HeaderSource, PerFilterConfig,
    QueryMatch, QueryMatcher, StringMatcher,
};
use crate::testing::{forward, route};

fn head<'a>(path: &'a str, headers: &'a HeaderMap) -> RequestHead<'a> {
    RequestHead {
        method: "GET",
        path,
        authority: "reviews:9080",
        scheme: "http",
        headers,
    }
}

fn virtual_host(routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: "reviews:9080".into(),
        domains: vec!["*".into()],
        routes: routes.into_iter().map(Arc::new).collect(),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        per_filter: PerFilterConfig::default(),
        include_request_attempt_count: false,
        include_attempt_count_in_response: false,
    }
}

fn prefix(prefix: &str) -> PathMatch {
    PathMatch::Prefix {
        prefix: prefix.into(),
        ignore_case: false,
    }
}

fn check(path: &PathMatch, cases: &[(&str, bool)]) {
    let headers = HeaderMap::new();
    for (text, expected) in cases {
        assert_eq!(
            path.matches(&head(text, &headers)),
            *expected,
            "{path:?} {text}"
        );
    }
}

#[test]
fn paths() {
    check(
        &prefix("/api"),
        &[
            ("/api", true),
            ("/apis?x", true),
            ("/ap", false),
            ("/API", false),
        ],
    );
    check(
        &PathMatch::Prefix {
            prefix: "/api".into(),
            ignore_case: true,
        },
        &[("/API/x", true), ("/ap", false)],
    );
    check(
        &PathMatch::Exact {
            path: "/api".into(),
            ignore_case: false,
        },
        &[
            ("/api", true),
            ("/api?x=1", true),
            ("/api#x", true),
            ("/api/", false),
        ],
    );
    check(
        &PathMatch::SeparatedPrefix {
            prefix: "/api".into(),
            ignore_case: false,
        },
        &[
            ("/api", true),
            ("/api/x", true),
            ("/api?x", true),
            ("/apis", false),
        ],
    );
    check(
        &PathMatch::Regex(Regex::new(r"\A(?:/b[io]t)\z").unwrap()),
        &[
            ("/bit", true),
            ("/bot?a", true),
            ("/bits", false),
            ("/x/bit", false),
        ],
    );
}

#[test]
fn connect_without_path_needs_a_connect_match() {
    let headers = HeaderMap::new();
    let connect = RequestHead {
        method: "CONNECT",
        ..head("", &headers)
    };
    assert!(PathMatch::Connect.matches(&connect));
    assert!(!prefix("").matches(&connect));
    assert!(!PathMatch::Connect.matches(&head("/", &headers)));
}

/// `end-user: jason` goes to v2, everyone else to v1 (bookinfo).
#[test]
fn the_first_match_wins() {
    let mut jason = route("v2", prefix("/"));
    jason.matches.headers.push(HeaderMatcher {
        source: HeaderSource::Header(HeaderName::from_static("end-user")),
        test: HeaderMatch::Value(StringMatcher::exact("jason")),
        invert: false,
        treat_missing_as_empty: false,
    });
    let host = virtual_host(vec![jason, route("v1", prefix("/"))]);
    let mut headers = HeaderMap::new();
    assert_eq!(&*select(&host, &head("/", &headers), 0).unwrap().name, "v1");
    headers.insert("end-user", HeaderValue::from_static("jason"));
    assert_eq!(&*select(&host, &head("/", &headers), 0).unwrap().name, "v2");
}

#[test]
fn query_fraction_and_grpc() {
    let mut sampled = route("sampled", prefix("/"));
    sampled.matches.runtime_fraction = Some(Fraction {
        numerator: 10,
        denominator: 100,
    });
    sampled.matches.query.push(QueryMatcher {
        name: "debug".into(),
        test: QueryMatch::Value(StringMatcher::exact("1")),
    });
    let mut grpc = route("grpc", prefix("/"));
    grpc.matches.grpc_only = true;
    let host = virtual_host(vec![sampled, grpc]);
    let mut headers = HeaderMap::new();
    let name = |path: &str, headers: &HeaderMap, random| {
        select(&host, &head(path, headers), random).map(|r| r.name.to_string())
    };
    assert_eq!(name("/?a&debug=1", &headers, 9).as_deref(), Some("sampled"));
    assert_eq!(name("/?debug=1", &headers, 10), None);
    assert_eq!(name("/?debug=11", &headers, 9), None);
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/grpc+proto"),
    );
    assert_eq!(name("/?debug=1", &headers, 10).as_deref(), Some("grpc"));
    headers.insert(
        "content-type",
        HeaderValue::from_static("application/grpc-web"),
    );
    assert_eq!(name("/?debug=1", &headers, 10), None);
}

#[test]
fn weights_split_exactly() {
    let mut action = forward("x");
    let cluster = |name: &str, weight| WeightedCluster {
        name: name.into(),
        weight,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        host_rewrite: None,
        per_filter: PerFilterConfig::default(),
    };
    action.cluster = ClusterTarget::Weighted(Arc::new(WeightedClusters {
        clusters: vec![cluster("v1", 90), cluster("off", 0), cluster("v2", 10)],
        total_weight: 100,
    }));
    let headers = HeaderMap::new();
    let count = |name: &str| {
        (0..100)
            .filter(|random| {
                &*pick_cluster(&action, &head("/", &headers), *random)
                    .unwrap()
                    .name
                    == name
            })
            .count()
    };
    assert_eq!((count("v1"), count("off"), count("v2")), (90, 0, 10));
}

#[test]
fn a_header_names_the_cluster() {
    let mut action = forward("x");
    action.cluster = ClusterTarget::Header(HeaderSource::Authority);
    let headers = HeaderMap::new();
    assert_eq!(
        &*pick_cluster(&action, &head("/", &headers), 0).unwrap().name,
        "reviews:9080"
    );
    action.cluster =
        ClusterTarget::Header(HeaderSource::Header(HeaderName::from_static("x-cluster")));
    assert!(pick_cluster(&action, &head("/", &headers), 0).is_none());
}

/// A path test in the terms of the documentation, on strings.
#[derive(Debug, Clone)]
enum Naive {
    Prefix(String, bool),
    Exact(String, bool),
    Separated(String),
    Regex(String),
}

impl Naive {
    fn matches(&self, path_and_query: &str) -> bool {
        let path = path_and_query.split('?').next().unwrap();
        let fold = |text: &str, ignore: bool| {
            if ignore {
                text.to_lowercase()
            } else {
                text.to_owned()
            }
        };
        match self {
            Self::Prefix(p, i) => fold(path, *i).starts_with(&fold(p, *i)),
            Self::Exact(p, i) => fold(path, *i) == fold(p, *i),
            Self::Separated(p) => path == p || path.starts_with(&format!("{p}/")),
            Self::Regex(letters) => path
                .strip_prefix('/')
                .is_some_and(|rest| !rest.is_empty() && rest.chars().all(|c| letters.contains(c))),
        }
    }

    fn compiled(&self) -> PathMatch {
        match self.clone() {
            Self::Prefix(p, ignore_case) => PathMatch::Prefix {
                prefix: p.into(),
                ignore_case,
            },
            Self::Exact(p, ignore_case) => PathMatch::Exact {
                path: p.into(),
                ignore_case,
            },
            Self::Separated(p) => PathMatch::SeparatedPrefix {
                prefix: p.into(),
                ignore_case: false,
            },
            Self::Regex(letters) => {
                PathMatch::Regex(Regex::new(&format!(r"\A(?:/[{letters}]+)\z")).unwrap())
            }
        }
    }
}

fn naive_path() -> impl Strategy<Value = Naive> {
    prop_oneof![
        ("(/[abA]{0,2}){0,2}", any::<bool>()).prop_map(|(p, i)| Naive::Prefix(p, i)),
        ("(/[abA]{0,2}){1,2}", any::<bool>()).prop_map(|(p, i)| Naive::Exact(p, i)),
        "(/[ab]{1,2}){1,2}".prop_map(Naive::Separated),
        "[ab]{1,2}".prop_map(Naive::Regex),
    ]
}

proptest! {
    /// The compiled matcher and a naive one choose the same route of random tables.
    #[test]
    fn agrees_with_a_naive_matcher(
        table in proptest::collection::vec((naive_path(), proptest::option::of("[xy]")), 1..6),
        path in "(/[abA]{0,2}){1,3}(\\?[ab=&]{0,4})?",
        lines in proptest::collection::vec("[xyz]", 0..3),
    ) {
        let routes = table.iter().enumerate().map(|(i, (naive, header))| {
            let mut route = route(&i.to_string(), naive.compiled());
            route.matches.headers.extend(header.iter().map(|value| HeaderMatcher {
                source: HeaderSource::Header(HeaderName::from_static("k")),
                test: HeaderMatch::Value(StringMatcher::exact(value)),
                invert: false,
                treat_missing_as_empty: false,
            }));
            route
        });
        let host = virtual_host(routes.collect());
        let mut headers = HeaderMap::new();
        for line in &lines {
            headers.append("k", HeaderValue::from_str(line).unwrap());
        }
        let expected = table.iter().position(|(naive, header)| {
            naive.matches(&path) && header.as_ref().is_none_or(|value| lines.contains(value))
        });
        let found = select(&host, &head(&path, &headers), 0).map(|route| route.name.parse::<usize>().unwrap());
        prop_assert_eq!(found, expected);
    }
}
