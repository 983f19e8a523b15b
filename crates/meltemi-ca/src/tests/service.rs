use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use meltemi_core::{Identity, TrustDomain};
use meltemi_pki::{PrivateKey, WorkloadCertificate};
use meltemi_proto::istio::v1::auth::IstioCertificateRequest;
use meltemi_proto::istio::v1::auth::istio_certificate_service_server::IstioCertificateService as _;
use prometheus_client::registry::Registry;
use tonic::{Code, Request, Status};

use super::{id, now};
use crate::{
    Authenticators, CertificateService, ClientCertificateAuthenticator, IssuanceMetrics,
    JwtAuthenticator, PeerInfo, Signer, SignerOptions, TokenIssuer, TokenRequest,
};

struct Authority {
    _directory: tempfile::TempDir,
    service: CertificateService,
    tokens: TokenIssuer,
    metrics: IssuanceMetrics,
}

fn authority() -> Authority {
    let directory = tempfile::tempdir().unwrap();
    let signer = Signer::load_or_create(directory.path(), SignerOptions::default(), now()).unwrap();
    let tokens = TokenIssuer::new(&PrivateKey::generate().unwrap(), "lab").unwrap();
    let domain = TrustDomain::default();
    let jwks = tokens.jwks().unwrap();
    let jwt = JwtAuthenticator::from_keys(&jwks, "lab", &["istio-ca"], domain.clone()).unwrap();
    let metrics = IssuanceMetrics::default();
    let service = CertificateService::new(
        Arc::new(ArcSwap::from_pointee(signer)),
        Authenticators::new(vec![
            Arc::new(ClientCertificateAuthenticator::new(domain)),
            Arc::new(jwt),
        ]),
        metrics.clone(),
    );
    Authority {
        _directory: directory,
        service,
        tokens,
        metrics,
    }
}

impl Authority {
    fn token(&self, service_account: &str) -> String {
        let request = TokenRequest {
            namespace: "default",
            service_account,
            service_account_uid: None,
            pod: None,
            node: None,
            audiences: &["istio-ca"],
            ttl: Duration::from_secs(600),
        };
        self.tokens.issue(&request, now()).unwrap()
    }

    async fn ask(&self, request: Request<IstioCertificateRequest>) -> Result<Vec<String>, Status> {
        let answer = self.service.create_certificate(request).await?;
        Ok(answer.into_inner().cert_chain)
    }
}

fn request(csr: &str) -> Request<IstioCertificateRequest> {
    Request::new(IstioCertificateRequest {
        csr: csr.to_owned(),
        validity_duration: 3600,
        metadata: None,
    })
}

fn with_bearer(
    mut request: Request<IstioCertificateRequest>,
    token: &str,
) -> Request<IstioCertificateRequest> {
    let value = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

fn with_certificate(
    mut request: Request<IstioCertificateRequest>,
    identity: Identity,
) -> Request<IstioCertificateRequest> {
    request.extensions_mut().insert(PeerInfo {
        address: None,
        identity: Some(Arc::new(identity)),
    });
    request
}

#[tokio::test]
async fn a_token_gets_the_certificate_of_its_own_identity() {
    let authority = authority();
    let key = PrivateKey::generate().unwrap();
    // The request asks for somebody else.
    let csr = key.csr_pem(&id("victim")).unwrap();
    let chain = authority
        .ask(with_bearer(request(&csr), &authority.token("a")))
        .await
        .unwrap();
    WorkloadCertificate::accept(&key, &chain, &id("a"), now()).unwrap();
    assert_eq!(authority.metrics.success_cert_issuance_count.get(), 1);
}

#[tokio::test]
async fn a_certificate_renews_itself() {
    let authority = authority();
    let key = PrivateKey::generate().unwrap();
    let csr = key.csr_pem(&id("a")).unwrap();
    let chain = authority
        .ask(with_certificate(request(&csr), id("a")))
        .await
        .unwrap();
    WorkloadCertificate::accept(&key, &chain, &id("a"), now()).unwrap();

    let foreign = Identity::new(TrustDomain::new("other").unwrap(), "default", "a").unwrap();
    let refused = authority
        .ask(with_certificate(request(&csr), foreign.clone()))
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    // A good token beside a certificate that does not convince is enough.
    let both = with_certificate(with_bearer(request(&csr), &authority.token("a")), foreign);
    assert!(authority.ask(both).await.is_ok());
}

#[tokio::test]
async fn strangers_get_nothing() {
    let authority = authority();
    let csr = PrivateKey::generate().unwrap().csr_pem(&id("a")).unwrap();
    let huge = "a".repeat(1 << 20);
    let cases = [
        request(&csr),
        with_bearer(request(&csr), ""),
        with_bearer(request(&csr), "x.y.z"),
        with_bearer(request(&csr), &huge),
    ];
    for (asked, request) in (1..).zip(cases) {
        let refused = authority.ask(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(authority.metrics.authentication_failure_count.get(), asked);
    }
    let mut basic = request(&csr);
    let value = "Basic YTpi".parse().unwrap();
    basic.metadata_mut().insert("authorization", value);
    assert!(authority.ask(basic).await.is_err());
    assert_eq!(authority.metrics.success_cert_issuance_count.get(), 0);
}

#[tokio::test]
async fn bad_requests_are_told_why() {
    let authority = authority();
    let token = authority.token("a");
    let code = |request| {
        let request = with_bearer(request, &token);
        let authority = &authority;
        async move { authority.ask(request).await.unwrap_err().code() }
    };
    assert_eq!(code(request("no csr")).await, Code::InvalidArgument);
    let csr = PrivateKey::generate().unwrap().csr_pem(&id("a")).unwrap();
    let mut negative = request(&csr);
    negative.get_mut().validity_duration = -1;
    assert_eq!(code(negative).await, Code::InvalidArgument);
    let mut impersonating = request(&csr);
    let metadata = meltemi_proto::google::protobuf::Struct {
        fields: [("ImpersonatedIdentity".to_owned(), Default::default())].into(),
    };
    impersonating.get_mut().metadata = Some(metadata);
    assert_eq!(code(impersonating).await, Code::Unimplemented);
}

#[test]
fn metrics_have_istios_names() {
    let authority = authority();
    let mut registry = Registry::default();
    authority.metrics.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    for name in [
        "citadel_server_csr_count 0",
        "citadel_server_success_cert_issuance_count 0",
        "citadel_server_authentication_failure_count 0",
        "citadel_server_root_cert_expiry_timestamp ",
    ] {
        let line = text.lines().find(|line| line.starts_with(name));
        assert!(line.is_some(), "{name} in {text}");
    }
    assert!(!text.contains("citadel_server_root_cert_expiry_timestamp 0.0"));
}
