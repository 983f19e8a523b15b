//! SDS for one Envoy: the secrets `default` and `ROOTCA`, pushed again whenever they change.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::sync::Arc;

use futures_util::Stream;
use meltemi_core::names::{SDS_ROOT_CA, SDS_WORKLOAD};
use meltemi_pki::{PrivateKey, TrustBundle, WorkloadCertificate};
use meltemi_proto::any;
use meltemi_proto::envoy::config::core::v3::{DataSource, data_source::Specifier};
use meltemi_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};
use meltemi_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use meltemi_proto::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use meltemi_proto::google::protobuf::Any;
use meltemi_proto::type_url;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

/// The secrets of the workload, with a version that grows with each renewal.
#[derive(Clone)]
pub(super) struct Secrets(watch::Sender<Option<Arc<Current>>>);

struct Current {
    version: u64,
    secrets: [(&'static str, Any); 2],
}

impl Default for Secrets {
    fn default() -> Self {
        Self(watch::Sender::new(None))
    }
}

impl Secrets {
    pub(super) fn into_service(self) -> SecretDiscoveryServiceServer<Self> {
        SecretDiscoveryServiceServer::new(self)
    }

    pub(super) fn replace(
        &self,
        certificate: &WorkloadCertificate,
        bundle: &TrustBundle,
        key: &PrivateKey,
    ) {
        let key = match key.to_pem() {
            Ok(pem) => pem.to_string(),
            Err(error) => {
                tracing::error!(%error, "cannot hand the key to Envoy");
                return;
            }
        };
        let workload = secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(certificate.chain_pem()),
            private_key: inline(key),
            ..TlsCertificate::default()
        });
        let roots = secret::Type::ValidationContext(CertificateValidationContext {
            trusted_ca: inline(bundle.to_pem()),
            ..CertificateValidationContext::default()
        });
        let pack = |name: &str, kind| {
            any::pack(
                type_url::SECRET,
                &Secret {
                    name: name.to_owned(),
                    r#type: Some(kind),
                },
            )
        };
        let secrets = [
            (SDS_WORKLOAD, pack(SDS_WORKLOAD, workload)),
            (SDS_ROOT_CA, pack(SDS_ROOT_CA, roots)),
        ];
        self.0.send_modify(|current| {
            let version = current.as_ref().map_or(1, |current| current.version + 1);
            *current = Some(Arc::new(Current { version, secrets }));
        });
    }

    /// Returns when there are secrets.
    pub(super) async fn present(&self) {
        let mut current = self.0.subscribe();
        if current.wait_for(Option::is_some).await.is_err() {
            tracing::debug!("no more secrets");
        }
    }
}

fn inline(text: String) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(Specifier::InlineString(text)),
        ..DataSource::default()
    })
}

#[tonic::async_trait]
impl SecretDiscoveryService for Secrets {
    type DeltaSecretsStream =
        Pin<Box<dyn Stream<Item = Result<DeltaDiscoveryResponse, Status>> + Send>>;
    type StreamSecretsStream =
        Pin<Box<dyn Stream<Item = Result<DiscoveryResponse, Status>> + Send>>;

    async fn delta_secrets(
        &self,
        _request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        Err(Status::unimplemented(
            "secrets are served state-of-the-world",
        ))
    }

    async fn stream_secrets(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (answers, queue) = mpsc::channel(1);
        tokio::spawn(push(request.into_inner(), self.0.subscribe(), answers));
        Ok(Response::new(Box::pin(ReceiverStream::new(queue))))
    }

    async fn fetch_secrets(
        &self,
        _request: Request<DiscoveryRequest>,
    ) -> Result<Response<DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are served as a stream"))
    }
}

/// Answers subscriptions, and sends again what changed.
async fn push(
    mut requests: Streaming<DiscoveryRequest>,
    mut current: watch::Receiver<Option<Arc<Current>>>,
    answers: mpsc::Sender<Result<DiscoveryResponse, Status>>,
) {
    let mut wanted = BTreeSet::new();
    let mut sent = None;
    loop {
        tokio::select! {
            request = requests.message() => {
                let Ok(Some(request)) = request else { return };
                if let Some(error) = &request.error_detail {
                    tracing::warn!(reason = error.message, "Envoy refused a secret");
                }
                let names: BTreeSet<String> = request.resource_names.into_iter().collect();
                if names != wanted {
                    wanted = names;
                    sent = None;
                }
            }
            changed = current.changed() => {
                if changed.is_err() {
                    return;
                }
            }
        }
        let Some(secrets) = current.borrow_and_update().clone() else {
            continue;
        };
        if wanted.is_empty() || sent == Some(secrets.version) {
            continue;
        }
        sent = Some(secrets.version);
        if answers.send(Ok(response(&secrets, &wanted))).await.is_err() {
            return;
        }
    }
}

fn response(current: &Current, wanted: &BTreeSet<String>) -> DiscoveryResponse {
    let chosen = current
        .secrets
        .iter()
        .filter(|(name, _)| wanted.contains(*name));
    DiscoveryResponse {
        version_info: current.version.to_string(),
        resources: chosen.map(|(_, secret)| secret.clone()).collect(),
        type_url: type_url::SECRET.to_owned(),
        nonce: current.version.to_string(),
        ..DiscoveryResponse::default()
    }
}
