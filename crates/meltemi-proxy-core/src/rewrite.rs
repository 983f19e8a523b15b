//! Rewrites of path and authority, and redirects.

use crate::request::{RequestHead, without_port};
use crate::runtime::{
    ForwardAction, HostRewrite, PathMatch, PathRewrite, Redirect, RedirectPath, Route,
    WeightedCluster,
};

/// The path that the upstream sees, if the route rewrites it; the query stays (Envoy `prefix_rewrite`, `regex_rewrite`).
pub fn path(route: &Route, action: &ForwardAction, head: &RequestHead<'_>) -> Option<String> {
    let rewritten = match action.path_rewrite.as_ref()? {
        PathRewrite::Prefix(prefix) => {
            replace_prefix(&route.matches.path, head.path_without_query(), prefix)
        }
        PathRewrite::Regex(regex) => {
            String::from_utf8_lossy(&regex.apply(head.path_without_query().as_bytes())).into_owned()
        }
    };
    Some(with_query(rewritten, head.query()))
}

fn replace_prefix(matched: &PathMatch, path: &str, prefix: &str) -> String {
    let kept = matched
        .rewritten_len()
        .and_then(|length| path.get(length..))
        .unwrap_or("");
    // An emptied path is still a path.
    let whole = format!("{prefix}{kept}");
    if whole.is_empty() {
        "/".to_owned()
    } else {
        whole
    }
}

fn with_query(mut path: String, query: &str) -> String {
    if !query.is_empty() {
        path.push('?');
        path.push_str(query);
    }
    path
}

/// The authority that the upstream sees, if it is rewritten: by the weighted cluster, else by the route.
pub fn authority(
    action: &ForwardAction,
    weighted: Option<&WeightedCluster>,
    head: &RequestHead<'_>,
    endpoint_hostname: &str,
) -> Option<String> {
    if let Some(host) = weighted.and_then(|cluster| cluster.host_rewrite.as_ref()) {
        return Some(host.to_string());
    }
    match action.host_rewrite.as_ref()? {
        HostRewrite::Literal(host) => Some(host.to_string()),
        HostRewrite::Endpoint => {
            (!endpoint_hostname.is_empty()).then(|| endpoint_hostname.to_owned())
        }
        HostRewrite::Header(name) => {
            let value = head.headers.get(name)?.to_str().ok()?;
            (!value.is_empty()).then(|| value.to_owned())
        }
        HostRewrite::PathRegex(regex) => {
            String::from_utf8(regex.apply(head.path_without_query().as_bytes())).ok()
        }
    }
}

/// The `location` of a redirect (Envoy `RedirectAction`). A changed scheme drops the other scheme's default port.
pub fn redirect(redirect: &Redirect, route: &Route, head: &RequestHead<'_>) -> String {
    let scheme = match &redirect.scheme {
        Some(scheme) => scheme,
        None if redirect.https => "https",
        None => head.scheme,
    };
    let host = match (&redirect.host, redirect.port) {
        (Some(host), None) => host.to_string(),
        (host, Some(port)) => format!(
            "{}:{port}",
            host.as_deref()
                .unwrap_or_else(|| without_port(head.authority))
        ),
        (None, None) if is_default_port(head.authority, head.scheme) && scheme != head.scheme => {
            without_port(head.authority).to_owned()
        }
        (None, None) => head.authority.to_owned(),
    };
    let query = if redirect.strip_query {
        ""
    } else {
        head.query()
    };
    let path = match &redirect.path {
        None => with_query(head.path_without_query().to_owned(), query),
        Some(RedirectPath::Replace(path)) if path.contains('?') => path.to_string(),
        Some(RedirectPath::Replace(path)) => with_query(path.to_string(), query),
        Some(RedirectPath::Prefix(prefix)) => with_query(
            replace_prefix(&route.matches.path, head.path_without_query(), prefix),
            query,
        ),
        Some(RedirectPath::Regex(regex)) => {
            let path = regex.apply(head.path_without_query().as_bytes());
            with_query(String::from_utf8_lossy(&path).into_owned(), query)
        }
    };
    format!("{scheme}://{host}{path}")
}

fn is_default_port(authority: &str, scheme: &str) -> bool {
    authority.ends_with(if scheme == "https" { ":443" } else { ":80" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::RegexRewrite;
    use crate::testing::{forward, route};
    use http::{HeaderMap, StatusCode};
    use regex::bytes::Regex;

    fn prefix(prefix: &str) -> PathMatch {
        PathMatch::Prefix {
            prefix: prefix.into(),
            ignore_case: false,
        }
    }

    fn rewritten(matched: PathMatch, rewrite: PathRewrite, sent: &str) -> String {
        let headers = HeaderMap::new();
        let head = RequestHead {
            method: "GET",
            path: sent,
            authority: "a:80",
            scheme: "http",
            headers: &headers,
        };
        let mut action = forward("x");
        action.path_rewrite = Some(rewrite);
        path(&route("x", matched), &action, &head).unwrap()
    }

    #[test]
    fn paths() {
        let to = |text: &str| PathRewrite::Prefix(text.into());
        assert_eq!(
            rewritten(prefix("/api"), to("/v2"), "/api/x?y=1"),
            "/v2/x?y=1"
        );
        assert_eq!(rewritten(prefix("/api/"), to("/"), "/api/x"), "/x");
        assert_eq!(rewritten(prefix("/api"), to(""), "/api"), "/");
        let exact = PathMatch::Exact {
            path: "/a".into(),
            ignore_case: false,
        };
        assert_eq!(rewritten(exact, to("/b"), "/a?q"), "/b?q");
        let regex = RegexRewrite {
            pattern: Regex::new("^/service/([^/]+)(/.*)$").unwrap(),
            substitution: b"${2}/instance/${1}".as_slice().into(),
        };
        assert_eq!(
            rewritten(
                prefix("/"),
                PathRewrite::Regex(regex),
                "/service/foo/v1/api?q"
            ),
            "/v1/api/instance/foo?q"
        );
    }

    #[test]
    fn redirects() {
        let headers = HeaderMap::new();
        let head = RequestHead {
            method: "GET",
            path: "/old/x?q=1",
            authority: "a.b:80",
            scheme: "http",
            headers: &headers,
        };
        let plain = Redirect {
            https: false,
            scheme: None,
            host: None,
            port: None,
            path: None,
            status: StatusCode::MOVED_PERMANENTLY,
            strip_query: false,
        };
        let route = route("x", prefix("/old"));
        let check =
            |value: &Redirect, expected: &str| assert_eq!(redirect(value, &route, &head), expected);
        check(
            &Redirect {
                https: true,
                ..plain.clone()
            },
            "https://a.b/old/x?q=1",
        );
        check(
            &Redirect {
                port: Some(8443),
                https: true,
                ..plain.clone()
            },
            "https://a.b:8443/old/x?q=1",
        );
        check(
            &Redirect {
                host: Some("new".into()),
                strip_query: true,
                ..plain.clone()
            },
            "http://new/old/x",
        );
        check(
            &Redirect {
                path: Some(RedirectPath::Prefix("/new".into())),
                ..plain.clone()
            },
            "http://a.b:80/new/x?q=1",
        );
        check(
            &Redirect {
                path: Some(RedirectPath::Replace("/p?own".into())),
                ..plain
            },
            "http://a.b:80/p?own",
        );
    }
}
