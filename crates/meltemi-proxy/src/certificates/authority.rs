//! The client of `IstioCertificateService`: a fresh key and a signing request for every certificate.

use std::time::{Duration, SystemTime};

use meltemi_core::Identity;
use meltemi_pki::{BundleError, CertificateError, KeyError, PrivateKey, WorkloadCertificate};
use meltemi_proto::istio::v1::auth::IstioCertificateRequest;
use meltemi_proto::istio::v1::auth::istio_certificate_service_client::IstioCertificateServiceClient;
use tonic::Request;

use crate::control_channel::{self, ChannelError, Endpoint};

/// Bound of one issuance.
const ISSUE_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    #[error("connecting to the certificate authority")]
    Channel(#[from] ChannelError),
    #[error("making a key")]
    Key(#[from] KeyError),
    #[error("the certificate authority refused: {}", .0.message())]
    Refused(#[source] Box<tonic::Status>),
    #[error("the certificate authority did not answer in {0:?}")]
    Silent(Duration),
    #[error("the authority's answer")]
    Certificate(#[from] CertificateError),
    #[error("the roots")]
    Bundle(#[source] BundleError),
}

/// Where and as whom certificates are asked for.
#[derive(Clone, Debug)]
pub(crate) struct Authority {
    pub(crate) endpoint: Endpoint,
    pub(crate) identity: Identity,
    /// `None` leaves it to the authority.
    pub(crate) ttl: Option<Duration>,
    pub(crate) cluster_id: String,
}

impl Authority {
    /// Asks for a certificate with a key made for it.
    pub(crate) async fn issue(&self) -> Result<(WorkloadCertificate, PrivateKey), AuthorityError> {
        tokio::time::timeout(ISSUE_LIMIT, self.issue_unbounded())
            .await
            .unwrap_or(Err(AuthorityError::Silent(ISSUE_LIMIT)))
    }

    async fn issue_unbounded(&self) -> Result<(WorkloadCertificate, PrivateKey), AuthorityError> {
        let key = PrivateKey::generate()?;
        let channel = control_channel::connect(&self.endpoint).await?;
        let mut client = IstioCertificateServiceClient::new(channel);
        let mut request = Request::new(IstioCertificateRequest {
            csr: key.csr_pem(&self.identity)?,
            validity_duration: self
                .ttl
                .map_or(0, |ttl| i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX)),
            ..IstioCertificateRequest::default()
        });
        control_channel::authorise(&self.endpoint, request.metadata_mut()).await?;
        if let Ok(cluster) = self.cluster_id.parse() {
            request.metadata_mut().insert("clusterid", cluster);
        }
        let answer = client
            .create_certificate(request)
            .await
            .map_err(|status| AuthorityError::Refused(Box::new(status)))?;
        let chain = answer.into_inner().cert_chain;
        let certificate =
            WorkloadCertificate::accept(&key, &chain, &self.identity, SystemTime::now())?;
        Ok((certificate, key))
    }
}
