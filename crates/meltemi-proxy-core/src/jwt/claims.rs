//! What of a verified payload others are told.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderValue;
use serde_json::{Map, Value};

/// An audience in the form in which they are compared: Envoy takes no notice of a scheme and of a slash at the end.
pub fn audience(text: &str) -> &str {
    let bare = text.strip_prefix("https://");
    let bare = bare
        .or_else(|| text.strip_prefix("http://"))
        .unwrap_or(text);
    bare.strip_suffix('/').unwrap_or(bare)
}

/// The value of a claim as a header (Envoy `JwtClaimToHeader`). `None` for one that is absent, empty, or that no header can
/// carry.
pub(super) fn header(payload: &Map<String, Value>, path: &[Arc<str>]) -> Option<HeaderValue> {
    let text = match find(payload, path)? {
        Value::Null => return None,
        Value::Bool(value) => value.to_string(),
        Value::Number(number) => number_text(number)?,
        Value::String(text) => text.clone(),
        nested @ (Value::Array(_) | Value::Object(_)) => STANDARD.encode(nested.to_string()),
    };
    HeaderValue::from_str(&text)
        .or_else(|_| HeaderValue::from_bytes(text.as_bytes()))
        .ok()
        .filter(|value| !value.is_empty())
}

fn find<'p>(payload: &'p Map<String, Value>, path: &[Arc<str>]) -> Option<&'p Value> {
    let (first, rest) = path.split_first()?;
    let start = payload.get(&**first);
    rest.iter()
        .try_fold(start?, |value, name| value.get(&**name))
}

/// Whole numbers as they are, others with six digits.
fn number_text(number: &serde_json::Number) -> Option<String> {
    match number.as_u64() {
        Some(whole) => Some(whole.to_string()),
        None => number.as_f64().map(|value| format!("{value:.6}")),
    }
}

/// Texts that are lists of words become lists (`space_delimited_claims`).
pub(super) fn normalise(payload: &mut Map<String, Value>, claims: &[Arc<str>]) {
    for claim in claims {
        if let Some(Value::String(words)) = payload.get(&**claim) {
            let words = words.split(' ').filter(|word| !word.is_empty());
            let list = words.map(Value::from).collect();
            payload.insert((**claim).to_owned(), Value::Array(list));
        }
    }
}
