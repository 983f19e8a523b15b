use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::jwk::{Jwk, JwkSet};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use meltemi_pki::PrivateKey;
use serde_json::json;

use crate::StateError;
use crate::state;

/// Makes projected service-account tokens as a Kubernetes API server does (TokenRequest, bound tokens), for the lab,
/// which has none.
pub struct TokenIssuer {
    key: EncodingKey,
    jwk: Jwk,
    public_key_pem: String,
    issuer: String,
}

/// For whom a token is, and how long.
#[derive(Clone, Debug)]
pub struct TokenRequest<'a> {
    pub namespace: &'a str,
    pub service_account: &'a str,
    pub service_account_uid: Option<&'a str>,
    /// Name and uid of the pod that the token is bound to.
    pub pod: Option<(&'a str, &'a str)>,
    pub node: Option<&'a str>,
    pub audiences: &'a [&'a str],
    pub ttl: Duration,
}

impl TokenIssuer {
    /// Takes the key from the file `path`, or makes one and keeps it there, readable by the owner only.
    ///
    /// # Errors
    /// The file cannot be read or written, or is damaged.
    pub fn load_or_create(path: &Path, issuer: &str) -> Result<Self, StateError> {
        let key = match state::read_optional(path)? {
            Some(pem) => PrivateKey::from_pem(&pem)
                .map_err(|error| StateError::damaged_file(path, state::with_causes(&error)))?,
            None => {
                let key = PrivateKey::generate()?;
                state::write(path, key.to_pem()?.as_bytes(), state::PRIVATE)?;
                key
            }
        };
        Self::new(&key, issuer)
    }

    /// # Errors
    /// The key cannot be encoded.
    pub fn new(key: &PrivateKey, issuer: &str) -> Result<Self, StateError> {
        let encoding = EncodingKey::from_ec_pem(key.to_pem()?.as_bytes())?;
        let mut jwk = Jwk::from_encoding_key(&encoding, Algorithm::ES256)?;
        jwk.common.key_id = Some(jwk.thumbprint(jsonwebtoken::jwk::ThumbprintHash::SHA256)?);
        Ok(Self {
            key: encoding,
            jwk,
            public_key_pem: key.public_key_pem(),
            issuer: issuer.to_owned(),
        })
    }

    /// A token for `request`, valid from `now`.
    ///
    /// # Errors
    /// Signing fails.
    pub fn issue(
        &self,
        request: &TokenRequest<'_>,
        now: SystemTime,
    ) -> Result<String, jsonwebtoken::errors::Error> {
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut bound = json!({
            "namespace": request.namespace,
            "serviceaccount": { "name": request.service_account },
        });
        if let Some(uid) = request.service_account_uid {
            bound["serviceaccount"]["uid"] = json!(uid);
        }
        if let Some((name, uid)) = request.pod {
            bound["pod"] = json!({ "name": name, "uid": uid });
        }
        if let Some(node) = request.node {
            bound["node"] = json!({ "name": node });
        }
        let claims = json!({
            "iss": self.issuer,
            "sub": format!("system:serviceaccount:{}:{}", request.namespace, request.service_account),
            "aud": request.audiences,
            "iat": issued,
            "nbf": issued,
            "exp": issued + request.ttl.as_secs(),
            "jti": unique_id(),
            "kubernetes.io": bound,
        });
        let mut header = Header::new(Algorithm::ES256);
        header.typ = None;
        header.kid.clone_from(&self.jwk.common.key_id);
        jsonwebtoken::encode(&header, &claims, &self.key)
    }

    /// The public key as a JWKS document, for [`crate::JwtAuthenticator::from_keys`].
    ///
    /// # Errors
    /// The document cannot be written as JSON, which no key causes.
    pub fn jwks(&self) -> Result<Vec<u8>, serde_json::Error> {
        serde_json::to_vec(&JwkSet {
            keys: vec![self.jwk.clone()],
        })
    }

    pub fn public_key_pem(&self) -> &str {
        &self.public_key_pem
    }

    pub fn issuer(&self) -> &str {
        &self.issuer
    }
}

impl std::fmt::Debug for TokenIssuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenIssuer")
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// A random UUID (RFC 9562 section 5.4).
fn unique_id() -> String {
    let mut bytes: [u8; 16] = rand::random();
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex = hex::encode(bytes);
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    format!(
        "{}-{}-{}-{}-{}",
        part(0..8),
        part(8..12),
        part(12..16),
        part(16..20),
        part(20..32)
    )
}
