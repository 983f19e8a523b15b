//! External authorization: what an authorizer is asked, and what its answer means (Envoy `filters.http.ext_authz`,
//! `filters.network.ext_authz`).
//!
//! ```text
//! request -> told (the headers that it may see) -> check (CheckRequest, or a request like the one that it judges)
//! answer  -> Verdict: Allowed -> the request is changed, and later its response
//!                     Denied  -> the authorizer's status, headers and body
//!                     Failed  -> status_on_error; failure_mode_allow lets it pass
//!                     Invalid -> 500, whatever the mode: who answers nonsense has not allowed anything
//! ```

pub mod answer;
pub mod check;

#[cfg(test)]
mod tests;

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use meltemi_proto::google::protobuf::{Struct, Value, value::Kind};

use crate::headers::HeaderChange;
use crate::runtime::ExtAuthzMetadata;

pub use answer::{of_grpc, of_http};

/// What an authorizer has said.
#[derive(Debug)]
pub enum Verdict {
    Allowed(Box<Allowance>),
    Denied(Box<Denial>),
    /// It cannot say, perhaps with an answer for that.
    Failed(Option<Box<Denial>>),
    /// It says what cannot be done.
    Invalid,
}

/// What becomes of a request that is allowed.
#[derive(Debug, Default)]
pub struct Allowance {
    /// In this order.
    pub request: Vec<Change>,
    pub remove: Vec<HeaderName>,
    pub query_set: Vec<(String, String)>,
    pub query_remove: Vec<String>,
    /// On the response, when there is one.
    pub response: Arc<[HeaderChange]>,
    pub metadata: Option<ExtAuthzMetadata>,
}

/// A change of a part of a request's head.
#[derive(Debug, PartialEq)]
pub enum Change {
    Method(Method),
    Path(String),
    Authority(String),
    Header(HeaderChange),
    /// Behind a comma at the end of the header's first line, if it has one.
    Extended(HeaderName, HeaderValue),
}

/// The answer to a request that does not pass.
#[derive(Debug, Default)]
pub struct Denial {
    pub status: Option<StatusCode>,
    pub headers: HeaderMap,
    pub body: bytes::Bytes,
    pub metadata: Option<ExtAuthzMetadata>,
}

/// The parts of a request that an authorizer may change.
#[derive(Debug)]
pub struct RequestParts<'a> {
    pub method: &'a mut Method,
    pub path: &'a mut String,
    pub authority: &'a mut String,
    pub headers: &'a mut HeaderMap,
}

/// What a request may grow to.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    pub headers: usize,
    pub bytes: usize,
}

impl Allowance {
    /// Whether the request may match another route now.
    pub fn changes_request(&self) -> bool {
        !(self.request.is_empty()
            && self.remove.is_empty()
            && self.query_set.is_empty()
            && self.query_remove.is_empty())
    }

    /// Changes the request; whether it is still one that we would have taken in.
    #[must_use]
    pub fn apply(&self, request: &mut RequestParts<'_>, limits: HeadLimits) -> bool {
        for change in &self.request {
            match change {
                Change::Method(method) => *request.method = method.clone(),
                Change::Path(path) => request.path.clone_from(path),
                Change::Authority(authority) => request.authority.clone_from(authority),
                Change::Header(change) => change.apply(request.headers),
                Change::Extended(name, value) => extend(request.headers, name, value),
            }
        }
        for name in &self.remove {
            request.headers.remove(name);
        }
        if !(self.query_set.is_empty() && self.query_remove.is_empty()) {
            *request.path = self.with_query(request.path);
        }
        let lines = request.headers.iter();
        let bytes: usize = lines
            .map(|(name, value)| name.as_str().len() + value.len())
            .sum();
        request.headers.len() <= limits.headers
            && bytes + request.path.len() + request.authority.len() <= limits.bytes
    }

    /// Envoy writes the parameters anew, by name.
    fn with_query(&self, path: &str) -> String {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        let pairs = query.split('&').filter(|pair| !pair.is_empty());
        let mut pairs: Vec<(&str, &str)> = pairs
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
            .collect();
        for (name, value) in &self.query_set {
            pairs.retain(|(known, _)| known != name);
            pairs.push((name, value));
        }
        pairs.retain(|(name, _)| !self.query_remove.iter().any(|removed| removed == name));
        pairs.sort_by_key(|(name, _)| *name);
        let pairs: Vec<String> = pairs
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        match pairs.is_empty() {
            true => path.to_owned(),
            false => format!("{path}?{}", pairs.join("&")),
        }
    }
}

fn extend(headers: &mut HeaderMap, name: &HeaderName, value: &HeaderValue) {
    let Some(line) = headers.get_mut(name) else {
        return;
    };
    let joined = [line.as_bytes(), value.as_bytes()].join(&b","[..]);
    // Both were values of headers, and so is what they are with a comma between them.
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        *line = joined;
    }
}

/// `google.protobuf.Struct` as JSON; `None` if nothing is in it.
fn metadata(fields: Option<Struct>) -> Option<ExtAuthzMetadata> {
    let fields = fields.filter(|fields| !fields.fields.is_empty())?;
    Some(Arc::new(json_object(fields)))
}

fn json_object(fields: Struct) -> serde_json::Map<String, serde_json::Value> {
    let fields = fields.fields.into_iter();
    fields
        .map(|(key, value)| (key, json_value(value)))
        .collect()
}

fn json_value(value: Value) -> serde_json::Value {
    use serde_json::Value as J;
    match value.kind {
        None | Some(Kind::NullValue(_)) => J::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) => value.into(),
        Some(Kind::StringValue(text)) => text.into(),
        Some(Kind::StructValue(fields)) => J::Object(json_object(fields)),
        Some(Kind::ListValue(list)) => J::Array(list.values.into_iter().map(json_value).collect()),
    }
}
