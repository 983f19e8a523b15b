use meltemi_core::TrustDomain;

use crate::{AuthError, AuthenticatedWorkload, Authenticator, Credentials};

const NAME: &str = "client certificate";

/// Believes a certificate of the mesh, which the TLS layer has verified: how a workload renews once its first
/// certificate is there.
#[derive(Clone, Debug)]
pub struct ClientCertificateAuthenticator {
    trust_domain: TrustDomain,
}

impl ClientCertificateAuthenticator {
    pub fn new(trust_domain: TrustDomain) -> Self {
        Self { trust_domain }
    }
}

#[tonic::async_trait]
impl Authenticator for ClientCertificateAuthenticator {
    async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<AuthenticatedWorkload, AuthError> {
        let identity = credentials.certificate.ok_or(AuthError::Absent)?;
        if identity.trust_domain != self.trust_domain {
            return Err(AuthError::Denied {
                by: NAME,
                reason: format!("{identity} is of another trust domain"),
            });
        }
        Ok(AuthenticatedWorkload {
            identity: identity.clone(),
            pod: None,
            node: None,
            by: NAME,
        })
    }
}
