//! Where tokens stand in a request, and taking them out of it.

use http::{HeaderMap, header};
use percent_encoding::percent_decode_str;

use super::JwtRequest;
use crate::runtime::JwtLocation;

impl JwtLocation {
    /// The tokens that stand there.
    ///
    /// Differs from Envoy: of a parameter or cookie that is sent several times every value counts, for nobody knows which
    /// of them the application reads.
    pub(crate) fn tokens(&self, headers: &HeaderMap, path: &str) -> Vec<String> {
        match self {
            Self::Header { name, prefix } => {
                let lines = headers.get_all(name).into_iter();
                let lines: Vec<_> = lines
                    .map(|line| String::from_utf8_lossy(line.as_bytes()))
                    .collect();
                // As if it were one line: two tokens in two lines are no token.
                let value = (!lines.is_empty()).then(|| lines.join(","));
                let token = value.as_deref().and_then(|value| after(value, prefix));
                token.map(str::to_owned).into_iter().collect()
            }
            Self::Parameter(name) => parameters(path)
                .filter(|(key, _)| decoded(key) == **name)
                .map(|(_, value)| decoded(value))
                .collect(),
            Self::Cookie(name) => cookies(headers, name),
        }
    }

    /// Takes the tokens out of what goes upstream. Cookies stay, as in Envoy.
    pub(super) fn remove(&self, request: &mut JwtRequest<'_>) {
        match self {
            Self::Header { name, .. } => {
                request.headers.remove(name);
            }
            Self::Parameter(name) => {
                let kept: Vec<&str> = query(request.path)
                    .split('&')
                    .filter(|pair| decoded(split_pair(pair).0) != **name)
                    .collect();
                let (path, _) = request.path.split_once('?').unwrap_or((request.path, ""));
                let rest = match kept.is_empty() {
                    true => path.to_owned(),
                    false => format!("{path}?{}", kept.join("&")),
                };
                *request.path = rest;
            }
            Self::Cookie(_) => {}
        }
    }
}

/// What follows the prefix, wherever that is, from the first character that a token may have; `None` without the prefix.
fn after<'v>(value: &'v str, prefix: &str) -> Option<&'v str> {
    let (_, rest) = value.split_once(prefix)?;
    let is_of_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    Some(rest.trim_end().trim_start_matches(|c| !is_of_token(c)))
}

fn query(path: &str) -> &str {
    let (_, query) = path.split_once('?').unwrap_or((path, ""));
    query
}

fn parameters(path: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query(path).split('&').filter(|pair| !pair.is_empty());
    pairs.map(split_pair)
}

fn split_pair(pair: &str) -> (&str, &str) {
    pair.split_once('=').unwrap_or((pair, ""))
}

fn decoded(text: &str) -> String {
    percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// Bytes that are no text hide no cookie: the application may read what stands beside them.
fn cookies(headers: &HeaderMap, wanted: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in headers.get_all(header::COOKIE) {
        let line = String::from_utf8_lossy(line.as_bytes());
        for (name, value) in line.split(';').map(split_pair) {
            let value = value.trim();
            let bare = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            if name.trim() == wanted {
                found.push(bare.unwrap_or(value).to_owned());
            }
        }
    }
    found
}
