//! Changes header maps: configured mutations and hop-by-hop headers.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::runtime::{HeaderAppend, HeaderMutations, HeaderSource, HeaderTemplate, LogPiece};

/// Pseudo-headers that mutations may set on a request.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct PseudoHeaders {
    pub path: Option<String>,
    pub authority: Option<String>,
}

/// Applies mutations: removals, then additions in order. `format` writes values with operators. What is set on pseudo-headers is
/// given back for the caller to put on the request; responses have none.
pub fn apply(
    mutations: &HeaderMutations,
    headers: &mut HeaderMap,
    format: &dyn Fn(&[LogPiece]) -> String,
) -> PseudoHeaders {
    let mut pseudo = PseudoHeaders::default();
    for name in &mutations.remove {
        headers.remove(name);
    }
    for mutation in &mutations.add {
        let value = match &mutation.value {
            HeaderTemplate::Literal(value) => value.clone(),
            // A value that cannot be sent (CR, LF, NUL from a certificate field) is not sent (CVE-2023-27493).
            HeaderTemplate::Format(pieces) => match HeaderValue::try_from(format(pieces)) {
                Ok(value) => value,
                Err(_) => continue,
            },
        };
        if value.is_empty() && !mutation.keep_empty {
            continue;
        }
        let text = || value.to_str().ok().map(str::to_owned);
        match &mutation.target {
            HeaderSource::Path => pseudo.path = text().or(pseudo.path),
            HeaderSource::Authority => pseudo.authority = text().or(pseudo.authority),
            HeaderSource::Method | HeaderSource::Scheme => {}
            HeaderSource::Header(name) => put(headers, name, value, mutation.append),
        }
    }
    pseudo
}

/// A header that somebody else than the configuration wants changed.
#[derive(Debug, Clone, PartialEq)]
pub struct HeaderChange {
    pub name: HeaderName,
    pub value: HeaderValue,
    pub append: HeaderAppend,
}

impl HeaderChange {
    pub fn apply(&self, headers: &mut HeaderMap) {
        put(headers, &self.name, self.value.clone(), self.append);
    }
}

/// Envoy `HeaderValueOption.HeaderAppendAction`.
fn put(headers: &mut HeaderMap, name: &HeaderName, value: HeaderValue, append: HeaderAppend) {
    let is_there = headers.contains_key(name);
    match append {
        HeaderAppend::AppendIfExistsOrAdd => {
            headers.append(name, value);
        }
        HeaderAppend::AddIfAbsent if is_there => {}
        HeaderAppend::OverwriteIfExists if !is_there => {}
        HeaderAppend::AddIfAbsent
        | HeaderAppend::OverwriteIfExists
        | HeaderAppend::OverwriteIfExistsOrAdd => {
            headers.insert(name, value);
        }
    }
}

/// Removes what belongs to one hop (RFC 9110 section 7.6.1), also what `Connection` names; `te: trailers` stays. An upgrade that
/// is to be passed on must be read first.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    // Nearly no message has any: one look at each name tells.
    if !headers.keys().any(is_hop_by_hop) {
        return;
    }
    remove_listed(headers);
    let wants_trailers = headers
        .get_all(header::TE)
        .into_iter()
        .any(|value| value.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if wants_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("http2-settings"),
];

/// Whether the header says where its message ends, or belongs to one hop: nobody may write it into another message.
pub fn is_framing(name: &HeaderName) -> bool {
    *name == header::CONTENT_LENGTH || *name == header::TRAILER || is_hop_by_hop(name)
}

fn is_hop_by_hop(name: &HeaderName) -> bool {
    // The lengths of the names above: other names cost a comparison of two numbers.
    matches!(name.as_str().len(), 2 | 7 | 10 | 14 | 16 | 17) && HOP_BY_HOP.contains(name)
}

/// What `Connection` names.
fn remove_listed(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .collect();
    for name in listed {
        // Naming end-to-end fields that we depend on must not make them vanish.
        let is_needed = [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::TE,
        ]
        .contains(&name);
        if !is_needed && !is_ours(&name) {
            headers.remove(name);
        }
    }
}

fn is_ours(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-forwarded-") || is_envoys(name)
}

fn is_envoys(name: &HeaderName) -> bool {
    name.as_str().starts_with("x-envoy-")
}

/// Whether any name begins with `x-envoy-`: without one no look-up of them is needed.
pub fn has_envoys(headers: &HeaderMap) -> bool {
    headers.keys().any(is_envoys)
}

/// The headers by which an application steers its own proxy.
const STEERING: [HeaderName; 12] = [
    HeaderName::from_static("x-envoy-retry-on"),
    HeaderName::from_static("x-envoy-retry-grpc-on"),
    HeaderName::from_static("x-envoy-max-retries"),
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
    HeaderName::from_static("x-envoy-force-trace"),
    HeaderName::from_static("x-envoy-ip-tags"),
    HeaderName::from_static("x-envoy-original-path"),
    HeaderName::from_static("x-envoy-internal"),
    HeaderName::from_static("x-envoy-decorator-operation"),
];

/// Removes the headers by which an application steers its own proxy: nobody else may.
pub fn remove_steering(headers: &mut HeaderMap) {
    // One pass tells that there are none, as in nearly all requests.
    if headers
        .keys()
        .any(|name| is_envoys(name) && STEERING.contains(name))
    {
        for name in &STEERING {
            headers.remove(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::HeaderMutation;

    fn mutation(name: &str, value: &'static str, append: HeaderAppend) -> HeaderMutation {
        let target = match name {
            ":path" => HeaderSource::Path,
            name => HeaderSource::Header(name.parse().unwrap()),
        };
        HeaderMutation {
            target,
            value: HeaderTemplate::Literal(HeaderValue::from_static(value)),
            append,
            keep_empty: false,
        }
    }

    #[test]
    fn append_actions() {
        use HeaderAppend as A;
        for (append, there, absent) in [
            (A::AppendIfExistsOrAdd, vec!["old", "new"], vec!["new"]),
            (A::AddIfAbsent, vec!["old"], vec!["new"]),
            (A::OverwriteIfExistsOrAdd, vec!["new"], vec!["new"]),
            (A::OverwriteIfExists, vec!["new"], vec![]),
        ] {
            let mutations = HeaderMutations {
                remove: Vec::new(),
                add: vec![mutation("x", "new", append)],
            };
            for (old, expected) in [(Some("old"), there), (None, absent)] {
                let mut headers = HeaderMap::new();
                headers.extend(
                    old.map(|old| (HeaderName::from_static("x"), HeaderValue::from_static(old))),
                );
                apply(&mutations, &mut headers, &|_| String::new());
                let found: Vec<_> = headers
                    .get_all("x")
                    .iter()
                    .map(|v| v.to_str().unwrap())
                    .collect();
                assert_eq!(found, expected, "{append:?} {old:?}");
            }
        }
    }

    #[test]
    fn pseudo_headers_removals_and_bad_values() {
        let mut add = vec![
            mutation(":path", "/new", HeaderAppend::OverwriteIfExistsOrAdd),
            mutation("y", "", HeaderAppend::AddIfAbsent),
        ];
        let mut formatted = mutation("z", "", HeaderAppend::AddIfAbsent);
        formatted.value = HeaderTemplate::Format(Vec::new());
        add.push(formatted);
        let mutations = HeaderMutations {
            remove: vec!["a".parse().unwrap()],
            add,
        };
        let mut headers: HeaderMap = [("a".parse().unwrap(), HeaderValue::from_static("1"))]
            .into_iter()
            .collect();
        let pseudo = apply(&mutations, &mut headers, &|_| "a\r\nb".to_owned());
        assert_eq!(
            pseudo,
            PseudoHeaders {
                path: Some("/new".to_owned()),
                authority: None
            }
        );
        assert!(headers.is_empty());
    }

    #[test]
    fn hop_by_hop() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-a, x-forwarded-for, host"),
            ("x-a", "1"),
            ("x-forwarded-for", "1"),
            ("host", "a"),
            ("te", "trailers"),
            ("upgrade", "h2c"),
            ("keep-alive", "5"),
        ] {
            headers.append(name, HeaderValue::from_static(value));
        }
        remove_hop_by_hop(&mut headers);
        for name in &HOP_BY_HOP {
            assert!(is_hop_by_hop(name), "{name}");
        }
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["host", "te", "x-forwarded-for"]);
    }

    #[test]
    fn steering() {
        let mut headers = HeaderMap::new();
        let value = HeaderValue::from_static("1");
        headers.insert("x-envoy-peer-metadata", value.clone());
        assert!(has_envoys(&headers));
        for name in &STEERING {
            headers.insert(name, value.clone());
            remove_steering(&mut headers);
            assert_eq!(headers.len(), 1, "{name}");
        }
        headers.clear();
        headers.insert(header::HOST, value);
        assert!(!has_envoys(&headers));
    }
}
