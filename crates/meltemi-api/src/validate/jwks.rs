//! Sets of keys as users write them and issuers publish them (RFC 7517): whether a proxy can take one.

use std::collections::HashSet;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The longest text that is looked into.
pub const LIMIT_BYTES: usize = 1024 * 1024;
const KEY_LIMIT: usize = 128;
/// Objects and lists within each other.
const DEPTH_LIMIT: usize = 64;

/// What is wrong with a set of keys: `None` if at least one can be used. Keys of other kinds beside it do no harm.
pub fn problem(text: &[u8]) -> Option<String> {
    if text.len() > LIMIT_BYTES {
        return Some(format!("a key set has at most {LIMIT_BYTES} bytes"));
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let form = Form { depth: 0 }.deserialize(&mut deserializer);
    let set: Value = match form.and_then(|()| serde_json::from_slice(text)) {
        Ok(set) => set,
        Err(error) => return Some(format!("is not JSON that a proxy reads: {error}")),
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
    // What the last digit says beyond the last byte is nothing.
    let is_whole = match (text.len() % 4, text.as_bytes().last()) {
        (0, _) => true,
        (2, Some(last)) => b"AQgw".contains(last),
        (3, Some(last)) => b"AEIMQUYcgkosw048".contains(last),
        _ => false,
    };
    (is_whole && text.bytes().all(is_digit)).then_some(text.len() * 3 / 4)
}

/// JSON as proxies take it: one value per name, and no deeper than a bound. A set that they refuse would hold back all else
/// that they are told with it.
#[derive(Clone, Copy)]
struct Form {
    depth: usize,
}

impl Form {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        let depth = self.depth + 1;
        match depth > DEPTH_LIMIT {
            true => Err(E::custom("nested too deeply")),
            false => Ok(Self { depth }),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Form {
    type Value = ();

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Form {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while list.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        let mut names = HashSet::new();
        while let Some(name) = fields.next_key::<String>()? {
            fields.next_value_seed(inner)?;
            if let Some(name) = names.replace(name) {
                return Err(de::Error::custom(format!("\"{name}\" occurs twice")));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_proxies_would_refuse_is_refused_here() {
        let check = |text: &str, is_good: bool| {
            assert_eq!(problem(text.as_bytes()).is_none(), is_good, "{text:.80}");
        };
        let key = r#"{"kty": "oct", "k": "AQAB"}"#;
        check(&format!(r#"{{"keys": [{key}]}}"#), true);
        check(&format!(r#"{{"keys": [{key}], "keys": [{key}]}}"#), false);
        check(
            &format!(r#"{{"keys": [{key}, {{"kty": "new", "x": 1, "x": 2}}]}}"#),
            false,
        );
        let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        check(
            &format!(r#"{{"keys": [{key}], "x": {}}}"#, nested(63)),
            true,
        );
        check(
            &format!(r#"{{"keys": [{key}], "x": {}}}"#, nested(64)),
            false,
        );
        for (text, is_good) in [
            ("AA", true),
            ("AB", false),
            ("AAA", true),
            ("AAB", false),
            ("A", false),
            ("AA==", false),
        ] {
            check(
                &format!(r#"{{"keys": [{{"kty": "oct", "k": "{text}"}}]}}"#),
                is_good,
            );
        }
    }
}
