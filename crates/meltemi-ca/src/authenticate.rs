use std::net::SocketAddr;
use std::sync::Arc;

use meltemi_core::Identity;
use tonic::metadata::MetadataMap;

/// The longest bearer token read, in bytes: anything longer is denied before any work is done on it.
const TOKEN_LIMIT_BYTES: usize = 16 << 10;

/// What the listener knows of the other end of a connection; the TLS acceptor puts it into the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct PeerInfo {
    pub address: Option<SocketAddr>,
    /// From a verified client certificate.
    pub identity: Option<Arc<Identity>>,
}

/// What a caller shows to prove who it is.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    /// The token of an `authorization: Bearer` header.
    pub bearer: Option<&'a str>,
    /// The identity of a verified client certificate.
    pub certificate: Option<&'a Identity>,
}

impl<'a> Credentials<'a> {
    /// Reads those of an HTTP request without TLS: the value of its `authorization` header.
    pub fn of_header(authorization: Option<&'a str>) -> Self {
        Self {
            bearer: authorization.and_then(bearer_token),
            certificate: None,
        }
    }

    /// Reads the credentials of a gRPC call. Certificate and token may both be there.
    pub fn of(metadata: &'a MetadataMap, peer: Option<&'a PeerInfo>) -> Self {
        Self {
            bearer: metadata
                .get("authorization")
                .and_then(|value| value.to_str().ok())
                .and_then(bearer_token),
            certificate: peer.and_then(|peer| peer.identity.as_deref()),
        }
    }
}

impl std::fmt::Debug for Credentials<'_> {
    /// Tokens are secrets and never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials")
            .field("bearer", &self.bearer.map(str::len))
            .field("certificate", &self.certificate)
            .finish()
    }
}

/// The token of `Bearer <token>`; the scheme is case-insensitive (RFC 9110 section 11.1).
fn bearer_token(header: &str) -> Option<&str> {
    let (scheme, token) = header.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// A caller whose credentials were verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthenticatedWorkload {
    pub identity: Identity,
    /// The pod that a projected token is bound to.
    pub pod: Option<PodRef>,
    pub node: Option<String>,
    /// The authenticator that vouches.
    pub by: &'static str,
}

/// A pod by name and uid, as a bound token names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodRef {
    pub name: String,
    pub uid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    #[error("no credentials of this kind were presented")]
    Absent,
    #[error("{by}: {reason}")]
    Denied { by: &'static str, reason: String },
}

/// Verifies one kind of credentials.
#[tonic::async_trait]
pub trait Authenticator: Send + Sync {
    /// # Errors
    /// [`AuthError::Absent`] when there are no credentials of this kind, else why they do not convince.
    async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<AuthenticatedWorkload, AuthError>;
}

/// Authenticators in the order they are asked; the first that is convinced decides.
#[derive(Clone, Default)]
pub struct Authenticators(Vec<Arc<dyn Authenticator>>);

impl Authenticators {
    pub fn new(authenticators: Vec<Arc<dyn Authenticator>>) -> Self {
        Self(authenticators)
    }

    /// # Errors
    /// Nobody is convinced: every denial in one text, or [`AuthError::Absent`] when nothing was presented.
    pub async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<AuthenticatedWorkload, AuthError> {
        if credentials
            .bearer
            .is_some_and(|token| token.len() > TOKEN_LIMIT_BYTES)
        {
            return Err(AuthError::Denied {
                by: "bearer token",
                reason: format!("longer than {TOKEN_LIMIT_BYTES} bytes"),
            });
        }
        let mut refusal = AuthError::Absent;
        for authenticator in &self.0 {
            match authenticator.authenticate(credentials).await {
                Ok(workload) => return Ok(workload),
                Err(error) => refusal = worst(refusal, error),
            }
        }
        Err(refusal)
    }
}

/// Joins denials; an absence says nothing next to a denial.
fn worst(first: AuthError, second: AuthError) -> AuthError {
    match (first, second) {
        (AuthError::Absent, other) | (other, AuthError::Absent) => other,
        (AuthError::Denied { by, reason }, second) => AuthError::Denied {
            by,
            reason: format!("{reason}; {second}"),
        },
    }
}

impl std::fmt::Debug for Authenticators {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Authenticators({})", self.0.len())
    }
}
