use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use meltemi_proto::google::protobuf::Struct;
use meltemi_proto::istio::v1::auth::istio_certificate_service_server::{
    IstioCertificateService, IstioCertificateServiceServer,
};
use meltemi_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use tonic::{Request, Response, Status};

use crate::state::with_causes;
use crate::{
    AuthError, AuthenticatedWorkload, Authenticators, Credentials, IssuanceMetrics,
    IssuedCertificate, PeerInfo, SignError, Signer,
};

/// The largest request, in bytes: a CSR is under two kilobytes.
const REQUEST_LIMIT_BYTES: usize = 128 << 10;

/// `istio.v1.auth.IstioCertificateService`: gives a certificate for the identity of whoever calls.
#[derive(Clone, Debug)]
pub struct CertificateService {
    signer: Arc<ArcSwap<Signer>>,
    authenticators: Authenticators,
    metrics: IssuanceMetrics,
}

impl CertificateService {
    /// The signer may be swapped for one with other keys; whoever does tells the metrics.
    pub fn new(
        signer: Arc<ArcSwap<Signer>>,
        authenticators: Authenticators,
        metrics: IssuanceMetrics,
    ) -> Self {
        metrics.set_expiry(&signer.load());
        Self {
            signer,
            authenticators,
            metrics,
        }
    }

    /// The tonic service, with its limits.
    pub fn into_server(self) -> IstioCertificateServiceServer<Self> {
        IstioCertificateServiceServer::new(self).max_decoding_message_size(REQUEST_LIMIT_BYTES)
    }

    async fn authenticate(
        &self,
        request: &Request<IstioCertificateRequest>,
    ) -> Result<AuthenticatedWorkload, Status> {
        let peer = request.extensions().get::<PeerInfo>();
        let credentials = Credentials::of(request.metadata(), peer);
        self.authenticators
            .authenticate(&credentials)
            .await
            .map_err(|error| {
                self.metrics.authentication_failure_count.inc();
                let address = peer.and_then(|peer| peer.address);
                tracing::warn!(?address, %error, "certificate request denied");
                denied(&error)
            })
    }

    fn sign(
        &self,
        request: &IstioCertificateRequest,
        workload: &AuthenticatedWorkload,
    ) -> Result<IssuedCertificate, Status> {
        refuse_metadata(request.metadata.as_ref())?;
        let seconds = u64::try_from(request.validity_duration)
            .map_err(|_| Status::invalid_argument("validity_duration is negative"))?;
        self.signer
            .load()
            .sign_workload(
                request.csr.as_bytes(),
                &workload.identity,
                Duration::from_secs(seconds),
                SystemTime::now(),
            )
            .map_err(|error| self.failed(&workload.identity, &error))
    }

    fn failed(&self, identity: &meltemi_core::Identity, error: &SignError) -> Status {
        let text = with_causes(error);
        tracing::warn!(%identity, error = text, "certificate not issued");
        match error {
            SignError::Request(_) => {
                self.metrics.csr_parsing_err_count.inc();
                Status::invalid_argument(text)
            }
            SignError::TrustDomain(_) => {
                self.metrics.id_extraction_err_count.inc();
                Status::permission_denied(text)
            }
            SignError::AuthorityExpired | SignError::Sign(_) => {
                self.metrics.csr_sign_err_count.inc();
                Status::unavailable(text)
            }
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        self.metrics.csr_count.inc();
        let workload = self.authenticate(&request).await?;
        let issued = self.sign(request.get_ref(), &workload)?;
        self.metrics.success_cert_issuance_count.inc();
        tracing::debug!(identity = %workload.identity, serial = issued.serial, "certificate issued");
        Ok(Response::new(IstioCertificateResponse {
            cert_chain: issued.chain,
        }))
    }
}

/// Differs from Istio: impersonation (for ztunnel) and the choice of a Kubernetes signer are not implemented, and
/// asking for them is an error, so that nobody gets another certificate than they think.
fn refuse_metadata(metadata: Option<&Struct>) -> Result<(), Status> {
    for key in ["ImpersonatedIdentity", "CertSigner"] {
        if metadata.is_some_and(|metadata| metadata.fields.contains_key(key)) {
            return Err(Status::unimplemented(format!(
                "request metadata \"{key}\" is not supported"
            )));
        }
    }
    Ok(())
}

/// The caller learns that it was not believed and of what kind its credentials were; the log has the reason too.
fn denied(error: &AuthError) -> Status {
    Status::unauthenticated(format!("request authentication failed: {error}"))
}
