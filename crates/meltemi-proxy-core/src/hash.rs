//! The hash of a request for consistent load balancing (Envoy `RouteAction.HashPolicy`, xxHash64 with seed 0).

use std::net::IpAddr;
use std::time::Duration;

use http::header::COOKIE;
use twox_hash::XxHash64;

use crate::request::RequestHead;
use crate::runtime::{HashPolicy, HashSource};

/// The hash, and the cookie to make if a policy wants one that the request lacks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestHash {
    pub hash: Option<u64>,
    pub set_cookie: Option<String>,
}

/// Combines the policies in order. `new_cookie` is the value for a cookie that must be made, chosen at random by the caller.
pub fn request_hash(
    policies: &[HashPolicy],
    head: &RequestHead<'_>,
    source: IpAddr,
    new_cookie: u64,
) -> RequestHash {
    let mut result = RequestHash::default();
    for policy in policies {
        if let Some(value) = policy_hash(policy, head, source, new_cookie, &mut result.set_cookie) {
            // Envoy: rotate the old value by one bit, then xor.
            result.hash = Some(result.hash.map_or(0, |hash| hash.rotate_left(1)) ^ value);
        }
        if policy.terminal && result.hash.is_some() {
            break;
        }
    }
    result
}

pub(crate) fn xxhash64(bytes: &[u8]) -> u64 {
    XxHash64::oneshot(0, bytes)
}

fn policy_hash(
    policy: &HashPolicy,
    head: &RequestHead<'_>,
    source: IpAddr,
    new_cookie: u64,
    set_cookie: &mut Option<String>,
) -> Option<u64> {
    match &policy.source {
        HashSource::Header { source, rewrite } => {
            let mut values: Vec<Vec<u8>> = head.values(source).map(<[u8]>::to_vec).collect();
            if values.is_empty() {
                return None;
            }
            if let Some(rewrite) = rewrite {
                values
                    .iter_mut()
                    .for_each(|value| *value = rewrite.apply(value));
            }
            // The order of the lines does not matter.
            values.sort();
            Some(xxhash64(&values.concat()))
        }
        HashSource::SourceIp => Some(xxhash64(source.to_canonical().to_string().as_bytes())),
        HashSource::QueryParameter(name) => head
            .query_parameter(name)
            .map(|value| xxhash64(value.as_bytes())),
        HashSource::Cookie {
            name,
            ttl,
            path,
            attributes,
        } => {
            if let Some(value) = cookie(head, name) {
                return Some(xxhash64(value.as_bytes()));
            }
            let ttl = (*ttl)?;
            let value = format!("{new_cookie:016x}");
            let hash = xxhash64(value.as_bytes());
            *set_cookie = Some(new_cookie_header(name, &value, ttl, path, attributes));
            Some(hash)
        }
    }
}

fn cookie<'a>(head: &RequestHead<'a>, name: &str) -> Option<&'a str> {
    let lines = head
        .headers
        .get_all(COOKIE)
        .into_iter()
        .filter_map(|value| value.to_str().ok());
    lines
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find(|(key, _)| *key == name)
        .map(|(_, value)| value.trim_matches('"'))
}

/// A TTL of zero makes a session cookie.
fn new_cookie_header(
    name: &str,
    value: &str,
    ttl: Duration,
    path: &str,
    attributes: &[(std::sync::Arc<str>, std::sync::Arc<str>)],
) -> String {
    let mut header = format!("{name}=\"{value}\"");
    if !ttl.is_zero() {
        header.push_str(&format!("; Max-Age={}", ttl.as_secs()));
    }
    if !path.is_empty() {
        header.push_str(&format!("; Path={path}"));
    }
    for (key, value) in attributes {
        header.push_str(&if value.is_empty() {
            format!("; {key}")
        } else {
            format!("; {key}={value}")
        });
    }
    header.push_str("; HttpOnly");
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::HeaderSource;
    use http::{HeaderMap, HeaderName, HeaderValue};

    fn by_header(terminal: bool) -> HashPolicy {
        let source = HeaderSource::Header(HeaderName::from_static("x-user"));
        HashPolicy {
            source: HashSource::Header {
                source,
                rewrite: None,
            },
            terminal,
        }
    }

    fn hash(policies: &[HashPolicy], headers: &HeaderMap) -> RequestHash {
        let head = RequestHead {
            method: "GET",
            path: "/?q=1",
            authority: "a",
            scheme: "http",
            headers,
        };
        request_hash(policies, &head, "10.0.0.1".parse().unwrap(), 7)
    }

    #[test]
    fn policies_combine_until_a_terminal_one() {
        let source_ip = HashPolicy {
            source: HashSource::SourceIp,
            terminal: false,
        };
        let ip = xxhash64(b"10.0.0.1");
        let user = xxhash64(b"jason");
        let mut headers = HeaderMap::new();
        assert_eq!(hash(&[by_header(true)], &headers).hash, None);
        assert_eq!(
            hash(&[by_header(true), source_ip.clone()], &headers).hash,
            Some(ip)
        );
        headers.insert("x-user", HeaderValue::from_static("jason"));
        assert_eq!(
            hash(&[by_header(true), source_ip.clone()], &headers).hash,
            Some(user)
        );
        assert_eq!(
            hash(&[by_header(false), source_ip], &headers).hash,
            Some(user.rotate_left(1) ^ ip)
        );
        let query = HashPolicy {
            source: HashSource::QueryParameter("q".into()),
            terminal: false,
        };
        assert_eq!(hash(&[query], &headers).hash, Some(xxhash64(b"1")));
    }

    #[test]
    fn cookies_are_read_or_made() {
        let cookie = HashSource::Cookie {
            name: "user".into(),
            ttl: Some(Duration::from_secs(60)),
            path: "/".into(),
            attributes: Vec::new(),
        };
        let policy = [HashPolicy {
            source: cookie,
            terminal: false,
        }];
        let mut headers = HeaderMap::new();
        let made = hash(&policy, &headers);
        assert_eq!(
            made.set_cookie.as_deref(),
            Some("user=\"0000000000000007\"; Max-Age=60; Path=/; HttpOnly")
        );
        headers.insert(
            COOKIE,
            HeaderValue::from_static("a=b; user=0000000000000007"),
        );
        assert_eq!(
            hash(&policy, &headers),
            RequestHash {
                hash: made.hash,
                set_cookie: None
            }
        );
    }

    /// Known answers of xxHash64, seed 0.
    #[test]
    fn xxhash_vectors() {
        assert_eq!(xxhash64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xxhash64(b"a"), 0xd24e_c4f1_a98c_6e5b);
    }
}
