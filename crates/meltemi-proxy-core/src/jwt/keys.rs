//! Sets of keys (RFC 7517), and what a key may check.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, crypto};
use serde_json::{Map, Value};

use super::token::Token;
use super::{JwtStatus, json};

/// The longest text of a key set.
pub const JWKS_LIMIT_BYTES: usize = 1024 * 1024;
/// Keys in a set: a token without a key id may be tried against all of them.
const KEY_LIMIT: usize = 128;

/// Why a text is no set of keys, in the words of Envoy where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error("Jwks is longer than {JWKS_LIMIT_BYTES} bytes")]
    TooLong,
    #[error("Jwks is an invalid JSON")]
    Json,
    #[error("Jwks does not have [keys] field")]
    NoKeys,
    #[error("[keys] in Jwks is not an array")]
    NotAList,
    #[error("Jwks has more than {KEY_LIMIT} keys")]
    TooMany,
    #[error("Jwks doesn't have any valid public key")]
    NoValidKey,
}

/// Keys of one issuer.
pub struct Jwks {
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    /// The one algorithm that the key is for; else any of its family.
    algorithm: Option<Algorithm>,
    family: AlgorithmFamily,
    key: DecodingKey,
}

impl Jwks {
    /// Reads a set of keys. Keys of kinds that are not known are left out, as the standard wants.
    ///
    /// # Errors
    /// It is no set of keys, or none of them can be used.
    pub fn parse(text: &[u8]) -> Result<Self, JwksError> {
        if text.len() > JWKS_LIMIT_BYTES {
            return Err(JwksError::TooLong);
        }
        let set = json::object(text).ok_or(JwksError::Json)?;
        let list = match set.get("keys") {
            None => return Err(JwksError::NoKeys),
            Some(Value::Array(list)) => list,
            Some(_) => return Err(JwksError::NotAList),
        };
        if list.len() > KEY_LIMIT {
            return Err(JwksError::TooMany);
        }
        let known = |key: &Value| key.as_object().and_then(Key::new);
        let keys: Vec<Key> = list.iter().filter_map(known).collect();
        match keys.is_empty() {
            true => Err(JwksError::NoValidKey),
            false => Ok(Self { keys }),
        }
    }

    /// Checks the signature of a token.
    pub(super) fn verify(&self, token: &Token) -> Result<(), JwtStatus> {
        let mut status = JwtStatus::NoMatchingKey;
        for key in self.keys.iter().filter(|key| key.is_meant_by(token)) {
            if key.has_signed(token) {
                return Ok(());
            }
            status = JwtStatus::VerificationFails;
        }
        Err(status)
    }

    pub fn len(&self) -> usize {
        self.keys.len()
    }

    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }
}

/// Key ids only: a key may be a shared secret.
impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ids = self.keys.iter().map(|key| &key.id);
        f.debug_list().entries(ids).finish()
    }
}

impl Key {
    fn new(jwk: &Map<String, Value>) -> Option<Self> {
        let text = |field: &str| {
            jwk.get(field)
                .map(|value| value.as_str().unwrap_or_default())
        };
        if text("use") == Some("enc") {
            return None;
        }
        let named: Option<Algorithm> = match text("alg") {
            None => None,
            // A key that is for something unknown is for nothing that is known.
            Some(name) => Some(name.parse().ok()?),
        };
        let (family, algorithm, key) = match text("kty")? {
            "RSA" => {
                let key = DecodingKey::from_rsa_components(text("n")?, text("e")?).ok()?;
                (AlgorithmFamily::Rsa, named, key)
            }
            "EC" => {
                let (algorithm, len) = match text("crv")? {
                    "P-256" => (Algorithm::ES256, 32),
                    "P-384" => (Algorithm::ES384, 48),
                    _ => return None,
                };
                let (x, y) = (of_len(text("x")?, len)?, of_len(text("y")?, len)?);
                let key = DecodingKey::from_ec_components(x, y).ok()?;
                (AlgorithmFamily::Ec, Some(named.unwrap_or(algorithm)), key)
            }
            "OKP" if text("crv") == Some("Ed25519") => {
                let key = DecodingKey::from_ed_components(of_len(text("x")?, 32)?).ok()?;
                (
                    AlgorithmFamily::Ed,
                    Some(named.unwrap_or(Algorithm::EdDSA)),
                    key,
                )
            }
            "oct" => {
                let secret = URL_SAFE_NO_PAD.decode(text("k")?).ok()?;
                if secret.is_empty() {
                    return None;
                }
                (
                    AlgorithmFamily::Hmac,
                    named,
                    DecodingKey::from_secret(&secret),
                )
            }
            _ => return None,
        };
        let fits = algorithm.is_none_or(|algorithm| family.algorithms().contains(&algorithm));
        fits.then(|| Self {
            id: text("kid").filter(|id| !id.is_empty()).map(str::to_owned),
            algorithm,
            family,
            key,
        })
    }

    /// Whether the token's header allows this key.
    fn is_meant_by(&self, token: &Token) -> bool {
        let id_fits = match (&self.id, &token.key_id) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        id_fits && self.algorithm.is_none_or(|own| own == token.algorithm)
    }

    /// The key's kind decides what its bytes are; a token that names another never gets to say so (RFC 8725 section 3.1).
    fn has_signed(&self, token: &Token) -> bool {
        self.family.algorithms().contains(&token.algorithm)
            && crypto::verify(
                &token.signature,
                token.signed.as_bytes(),
                &self.key,
                token.algorithm,
            )
            .unwrap_or(false)
    }
}

/// A base64url text of that many bytes.
fn of_len(text: &str, len: usize) -> Option<&str> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    (bytes.len() == len).then_some(text)
}
