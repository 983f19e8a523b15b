//! Sets of keys as users write them and issuers publish them (RFC 7517): whether a proxy can take one.

use serde_json::{Map, Value};

/// The longest text that is looked into.
pub const LIMIT_BYTES: usize = 1024 * 1024;
const KEY_LIMIT: usize = 128;

/// What is wrong with a set of keys: `None` if at least one can be used. Keys of other kinds beside it do no harm.
pub fn problem(text: &[u8]) -> Option<String> {
    if text.len() > LIMIT_BYTES {
        return Some(format!("a key set has at most {LIMIT_BYTES} bytes"));
    }
    let set: Value = match serde_json::from_slice(text) {
        Ok(set) => set,
        Err(error) => return Some(format!("is not JSON: {error}")),
    };
    let Some(keys) = set.get("keys").and_then(Value::as_array) else {
        return Some("has no list \"keys\"".to_owned());
    };
    if keys.len() > KEY_LIMIT {
        return Some(format!("a key set has at most {KEY_LIMIT} keys"));
    }
    let usable = |key: &Value| key.as_object().is_some_and(is_usable);
    (!keys.iter().any(usable)).then(|| {
        "has no key that can check a signature (RSA, EC P-256 or P-384, Ed25519, oct)".to_owned()
    })
}

fn is_usable(key: &Map<String, Value>) -> bool {
    let text = |field: &str| key.get(field).and_then(Value::as_str).unwrap_or_default();
    let bytes = |field: &str| base64url_len(text(field)).unwrap_or(0);
    let algorithm = text("alg");
    let is_of = |known: &[&str]| !key.contains_key("alg") || known.contains(&algorithm);
    if text("use") == "enc" {
        return false;
    }
    match (text("kty"), text("crv")) {
        ("RSA", _) => {
            let known = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512"];
            bytes("n") > 0 && bytes("e") > 0 && is_of(&known)
        }
        ("EC", "P-256") => bytes("x") == 32 && bytes("y") == 32 && is_of(&["ES256"]),
        ("EC", "P-384") => bytes("x") == 48 && bytes("y") == 48 && is_of(&["ES384"]),
        ("OKP", "Ed25519") => bytes("x") == 32 && is_of(&["EdDSA"]),
        ("oct", _) => bytes("k") > 0 && is_of(&["HS256", "HS384", "HS512"]),
        _ => false,
    }
}

/// How many bytes a base64url text without padding stands for.
fn base64url_len(text: &str) -> Option<usize> {
    let is_digit = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'-' | b'_');
    let is_whole = text.len() % 4 != 1;
    (is_whole && text.bytes().all(is_digit)).then_some(text.len() * 3 / 4)
}
