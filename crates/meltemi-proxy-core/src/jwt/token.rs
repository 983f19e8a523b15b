//! A token as it was sent: what it says, none of it believed yet.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use serde_json::{Map, Value};

use super::{JwtStatus, json};

/// Longer ones are not looked into; no header of ours lets one pass.
const TOKEN_LIMIT_BYTES: usize = 64 * 1024;

/// A token in its three parts (RFC 7519 section 7.2, RFC 7515 section 3.1).
pub(super) struct Token {
    pub(super) algorithm: Algorithm,
    pub(super) key_id: Option<String>,
    /// Header and payload as they are signed.
    pub(super) signed: String,
    pub(super) encoded_payload: String,
    pub(super) signature: String,
    pub(super) payload: Map<String, Value>,
    pub(super) issuer: String,
    pub(super) subject: String,
    pub(super) audiences: Vec<String>,
    pub(super) not_before: Option<Duration>,
    pub(super) expires: Option<Duration>,
}

impl Token {
    pub(super) fn parse(text: &str) -> Result<Self, JwtStatus> {
        let (signed, encoded_header, encoded_payload, signature) = sections(text)?;
        let header = URL_SAFE_NO_PAD.decode(encoded_header);
        let header = header.map_err(|_| JwtStatus::HeaderBase64)?;
        let header = json::object(&header).ok_or(JwtStatus::HeaderJson)?;
        let algorithm = algorithm(&header)?;
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(id)) => Some(id.clone()).filter(|id| !id.is_empty()),
            Some(_) => return Err(JwtStatus::HeaderKeyId),
        };
        if header.contains_key("crit") {
            return Err(JwtStatus::Critical);
        }
        let payload = URL_SAFE_NO_PAD.decode(encoded_payload);
        let payload = payload.map_err(|_| JwtStatus::PayloadBase64)?;
        let payload = json::object(&payload).ok_or(JwtStatus::PayloadJson)?;
        let token = Self {
            algorithm,
            key_id,
            signed: signed.to_owned(),
            encoded_payload: encoded_payload.to_owned(),
            signature: signature.to_owned(),
            issuer: claim_text(&payload, "iss")?,
            subject: claim_text(&payload, "sub")?,
            not_before: {
                seconds(&payload, "iat")?;
                seconds(&payload, "nbf")?
            },
            expires: seconds(&payload, "exp")?,
            audiences: {
                claim_text(&payload, "jti")?;
                audiences(&payload)?
            },
            payload,
        };
        match URL_SAFE_NO_PAD.decode(signature) {
            Ok(_) => Ok(token),
            Err(_) => Err(JwtStatus::SignatureBase64),
        }
    }
}

/// What is signed, and the header, payload and signature in it.
fn sections(text: &str) -> Result<(&str, &str, &str, &str), JwtStatus> {
    let split = || {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, payload) = signed.split_once('.')?;
        Some((signed, header, payload, signature))
    };
    let found = split().filter(|_| text.len() <= TOKEN_LIMIT_BYTES);
    let (signed, header, payload, signature) = found.ok_or(JwtStatus::BadFormat)?;
    let is_whole = |part: &str| !part.is_empty() && !part.contains('.');
    match [header, payload, signature].into_iter().all(is_whole) {
        true => Ok((signed, header, payload, signature)),
        false => Err(JwtStatus::BadFormat),
    }
}

/// Differs from Envoy: ES512 is not supported.
fn algorithm(header: &Map<String, Value>) -> Result<Algorithm, JwtStatus> {
    match header.get("alg") {
        Some(Value::String(name)) => name.parse().map_err(|_| JwtStatus::UnsupportedAlgorithm),
        _ => Err(JwtStatus::HeaderAlgorithm),
    }
}

/// Empty where the claim is absent.
fn claim_text(payload: &Map<String, Value>, claim: &'static str) -> Result<String, JwtStatus> {
    match payload.get(claim) {
        None => Ok(String::new()),
        Some(Value::String(text)) => Ok(text.clone()),
        Some(_) => Err(JwtStatus::NotText(claim)),
    }
}

/// Seconds since 1970 (RFC 7519 section 2, NumericDate). A fraction does not count, as in Envoy.
fn seconds(
    payload: &Map<String, Value>,
    claim: &'static str,
) -> Result<Option<Duration>, JwtStatus> {
    let number = match payload.get(claim) {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(JwtStatus::NotInteger(claim)),
    };
    let whole = number.as_u64().or_else(|| {
        let value = number.as_f64().filter(|value| *value >= 0.0)?;
        Duration::try_from_secs_f64(value)
            .ok()
            .map(|value| value.as_secs())
    });
    let whole = whole.ok_or(JwtStatus::OutOfRange(claim))?;
    Ok(Some(Duration::from_secs(whole)))
}

fn audiences(payload: &Map<String, Value>) -> Result<Vec<String>, JwtStatus> {
    let one = |value: &Value| match value {
        Value::String(text) => Ok(text.clone()),
        _ => Err(JwtStatus::AudienceForm),
    };
    match payload.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::Array(list)) => list.iter().map(one).collect(),
        Some(value) => one(value).map(|audience| vec![audience]),
    }
}
