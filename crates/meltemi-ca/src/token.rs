use jsonwebtoken::jwk::JwkSet;
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey, Header, Validation};
use meltemi_core::{Identity, TrustDomain};
use serde::Deserialize;

use crate::{AuthError, AuthenticatedWorkload, Authenticator, Credentials, PodRef};

const NAME: &str = "service account token";
/// How far clocks may differ, in seconds.
const LEEWAY_SECONDS: u64 = 60;
/// The most keys of an issuer, which bounds the signature checks one token can cause.
const KEY_LIMIT: usize = 16;

/// Verifies projected service-account tokens of a Kubernetes issuer, offline, with the issuer's public keys.
///
/// The algorithm is pinned by the key, never chosen by the token (RFC 8725 section 3.1); `jwk`, `jku` and `x5u` in a
/// token's header are not read.
pub struct JwtAuthenticator {
    keys: Vec<VerificationKey>,
    validation: Validation,
    trust_domain: TrustDomain,
}

struct VerificationKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

#[derive(Debug, thiserror::Error)]
pub enum KeySetError {
    #[error("reading an issuer's public key")]
    Key(#[source] jsonwebtoken::errors::Error),
    #[error("reading an issuer's JWKS")]
    Json(#[source] serde_json::Error),
    #[error("an issuer's key set holds no key for RS256, ES256 or ES384 signatures")]
    Empty,
    #[error("an issuer's key set holds more than {KEY_LIMIT} keys")]
    TooMany,
}

impl JwtAuthenticator {
    /// Verifies with the keys of a file: a P-256 public key in PEM, or a JWKS (RFC 7517) such as `/openid/v1/jwks` of a
    /// Kubernetes API server. Keys of other kinds, symmetric ones above all, are left out.
    ///
    /// # Errors
    /// The text is neither, or holds no usable key or too many.
    pub fn from_keys(
        keys: &[u8],
        issuer: &str,
        audiences: &[&str],
        trust_domain: TrustDomain,
    ) -> Result<Self, KeySetError> {
        let keys = if keys.trim_ascii_start().starts_with(b"-----BEGIN") {
            vec![VerificationKey {
                id: None,
                algorithm: Algorithm::ES256,
                key: DecodingKey::from_ec_pem(keys).map_err(KeySetError::Key)?,
            }]
        } else {
            keys_of_set(keys)?
        };
        Ok(Self::new(keys, issuer, audiences, trust_domain))
    }

    fn new(
        keys: Vec<VerificationKey>,
        issuer: &str,
        audiences: &[&str],
        trust_domain: TrustDomain,
    ) -> Self {
        let mut validation = Validation::new(Algorithm::ES256);
        validation.leeway = LEEWAY_SECONDS;
        validation.validate_nbf = true;
        validation.set_issuer(&[issuer]);
        validation.set_audience(audiences);
        validation.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
        Self {
            keys,
            validation,
            trust_domain,
        }
    }

    /// The identity that a token proves.
    ///
    /// # Errors
    /// Why the token is not believed.
    pub fn verify(&self, token: &str) -> Result<AuthenticatedWorkload, AuthError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| denied(&error))?;
        if header.crit.is_some() {
            return Err(denied(&"critical header parameters are not supported"));
        }
        let mut refusal = denied(&"signed with an unknown key or algorithm");
        for key in self.keys.iter().filter(|key| key.fits(&header)) {
            let mut validation = self.validation.clone();
            validation.algorithms = vec![key.algorithm];
            match jsonwebtoken::decode::<Claims>(token, &key.key, &validation) {
                Ok(token) => return self.workload(token.claims),
                Err(error) => refusal = denied(&error),
            }
        }
        Err(refusal)
    }

    fn workload(&self, claims: Claims) -> Result<AuthenticatedWorkload, AuthError> {
        let bound = claims.kubernetes;
        let subject = format!(
            "system:serviceaccount:{}:{}",
            bound.namespace, bound.service_account.name
        );
        if claims.sub != subject {
            return Err(denied(&format!(
                "the subject \"{}\" is not \"{subject}\"",
                claims.sub
            )));
        }
        let identity = Identity::new(
            self.trust_domain.clone(),
            &bound.namespace,
            &bound.service_account.name,
        )
        .map_err(|error| denied(&error))?;
        Ok(AuthenticatedWorkload {
            identity,
            pod: bound.pod.map(|pod| PodRef {
                name: pod.name,
                uid: pod.uid,
            }),
            node: bound.node.map(|node| node.name),
            by: NAME,
        })
    }
}

impl VerificationKey {
    /// Whether a token may be signed with this key. A token with a key id fits only that key, if keys have ids.
    fn fits(&self, header: &Header) -> bool {
        let id_fits = match (&self.id, &header.kid) {
            (Some(ours), Some(theirs)) => ours == theirs,
            _ => true,
        };
        id_fits && self.algorithm == header.alg
    }
}

fn keys_of_set(jwks: &[u8]) -> Result<Vec<VerificationKey>, KeySetError> {
    let set: JwkSet = serde_json::from_slice(jwks).map_err(KeySetError::Json)?;
    if set.keys.len() > KEY_LIMIT {
        return Err(KeySetError::TooMany);
    }
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let Some(algorithm) = algorithm_of(jwk) else {
            continue;
        };
        keys.push(VerificationKey {
            id: jwk.common.key_id.clone(),
            algorithm,
            key: DecodingKey::from_jwk(jwk).map_err(KeySetError::Key)?,
        });
    }
    if keys.is_empty() {
        return Err(KeySetError::Empty);
    }
    Ok(keys)
}

/// The one algorithm that a key is used with, whatever a token says.
fn algorithm_of(jwk: &jsonwebtoken::jwk::Jwk) -> Option<Algorithm> {
    use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve};
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => Some(Algorithm::RS256),
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(Algorithm::ES256),
            EllipticCurve::P384 => Some(Algorithm::ES384),
            _ => None,
        },
        _ => None,
    }
}

#[tonic::async_trait]
impl Authenticator for JwtAuthenticator {
    async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<AuthenticatedWorkload, AuthError> {
        self.verify(credentials.bearer.ok_or(AuthError::Absent)?)
    }
}

impl std::fmt::Debug for JwtAuthenticator {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let families: Vec<AlgorithmFamily> =
            self.keys.iter().map(|key| key.algorithm.family()).collect();
        f.debug_struct("JwtAuthenticator")
            .field("issuer", &self.validation.iss)
            .field("audience", &self.validation.aud)
            .field("keys", &families)
            .finish_non_exhaustive()
    }
}

fn denied(reason: &dyn std::fmt::Display) -> AuthError {
    AuthError::Denied {
        by: NAME,
        reason: reason.to_string(),
    }
}

/// The claims of a Kubernetes bound token that identify its bearer; times, issuer and audience are checked by
/// [`Validation`]. A claim that occurs twice makes the token malformed.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Bound,
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    #[serde(rename = "serviceaccount")]
    service_account: Named,
    pod: Option<NamedWithUid>,
    node: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

#[derive(Deserialize)]
struct NamedWithUid {
    name: String,
    uid: String,
}
