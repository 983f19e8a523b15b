use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use meltemi_core::Identity;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::client::owned;
use crate::provider::{provider, versions};
use crate::verify::DownstreamVerifier;
use crate::{ServingCertificate, Terms, TlsError, TrustBundle, WorkloadCertificate};

/// What a server wants of a client's certificate. A certificate that is presented is always verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    Required,
    Optional,
    None,
}

/// Builds the downstream side of mesh TLS for a workload.
#[derive(Clone, Debug)]
pub struct ServerTls {
    certified: Arc<CertifiedKey>,
    bundle: Arc<TrustBundle>,
    client_auth: ClientAuth,
    allowed: BTreeSet<Identity>,
    alpn: Vec<Vec<u8>>,
    terms: Terms,
}

impl ServerTls {
    /// Requires a client certificate, as Istio's sidecars do.
    pub fn new(certificate: &WorkloadCertificate, bundle: Arc<TrustBundle>) -> Self {
        Self {
            certified: Arc::clone(certificate.certified()),
            bundle,
            client_auth: ClientAuth::Required,
            allowed: BTreeSet::new(),
            alpn: Vec::new(),
            terms: Terms::default(),
        }
    }

    #[must_use]
    pub fn client_auth(mut self, client_auth: ClientAuth) -> Self {
        self.client_auth = client_auth;
        self
    }

    /// The identities a client may have; none given means any in the bundle's trust domains.
    #[must_use]
    pub fn allow(mut self, identities: impl IntoIterator<Item = Identity>) -> Self {
        self.allowed.extend(identities);
        self
    }

    /// The protocols spoken, most preferred first. A client that offers ALPN but none of them is refused (RFC 7301
    /// section 3.2); one that offers no ALPN is not.
    #[must_use]
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = owned(protocols);
        self
    }

    #[must_use]
    pub fn terms(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    /// Session tickets are sealed with a key of this configuration's own: they end with it.
    ///
    /// # Errors
    /// rustls refuses the combination, no cipher suite is left, or no ticket key can be made.
    pub fn build(self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = client_verifier(
            Arc::new(ArcSwap::new(self.bundle)),
            self.client_auth,
            self.allowed,
        );
        let resolver = Arc::new(SingleCertAndKey::from(self.certified));
        let mut config = config(verifier, resolver, &self.terms)?;
        config.alpn_protocols = self.alpn;
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config))
    }
}

/// Builds the control plane's server side: the certificate and the bundle change under one long-lived configuration,
/// which therefore keeps no sessions.
#[derive(Clone, Debug)]
pub struct ServingTls {
    certificate: Arc<CertificateSlot>,
    bundle: Arc<ArcSwap<TrustBundle>>,
    client_auth: ClientAuth,
    alpn: Vec<Vec<u8>>,
    terms: Terms,
}

impl ServingTls {
    pub fn new(certificate: Arc<CertificateSlot>) -> Self {
        Self {
            certificate,
            bundle: Arc::default(),
            client_auth: ClientAuth::None,
            alpn: Vec::new(),
            terms: Terms::default(),
        }
    }

    /// Verifies client certificates, where presented, against a bundle that may be swapped.
    #[must_use]
    pub fn client_auth(
        mut self,
        client_auth: ClientAuth,
        bundle: Arc<ArcSwap<TrustBundle>>,
    ) -> Self {
        self.client_auth = client_auth;
        self.bundle = bundle;
        self
    }

    #[must_use]
    pub fn alpn<P: AsRef<[u8]>>(mut self, protocols: impl IntoIterator<Item = P>) -> Self {
        self.alpn = owned(protocols);
        self
    }

    #[must_use]
    pub fn terms(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    /// # Errors
    /// rustls refuses the combination.
    pub fn build(self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier = client_verifier(self.bundle, self.client_auth, BTreeSet::new());
        let mut config = config(verifier, self.certificate, &self.terms)?;
        config.alpn_protocols = self.alpn;
        config.send_tls13_tickets = 0;
        Ok(Arc::new(config))
    }
}

/// The certificate a server presents, replaceable while it serves. Handshakes fail while it is empty.
#[derive(Debug, Default)]
pub struct CertificateSlot(ArcSwapOption<CertifiedKey>);

impl CertificateSlot {
    pub fn new(certificate: &ServingCertificate) -> Self {
        Self(ArcSwapOption::new(Some(Arc::clone(
            certificate.certified(),
        ))))
    }

    /// Handshakes from now on present `certificate`; those under way finish with the one they began with.
    pub fn set(&self, certificate: &ServingCertificate) {
        self.0.store(Some(Arc::clone(certificate.certified())));
    }
}

impl ResolvesServerCert for CertificateSlot {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

fn client_verifier(
    bundle: Arc<ArcSwap<TrustBundle>>,
    client_auth: ClientAuth,
    allowed: BTreeSet<Identity>,
) -> Arc<dyn ClientCertVerifier> {
    if client_auth == ClientAuth::None {
        return WebPkiClientVerifier::no_client_auth();
    }
    Arc::new(DownstreamVerifier {
        bundle,
        allowed,
        mandatory: client_auth == ClientAuth::Required,
    })
}

pub(crate) fn config(
    verifier: Arc<dyn ClientCertVerifier>,
    resolver: Arc<dyn ResolvesServerCert>,
    terms: &Terms,
) -> Result<ServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider(terms)?)
        .with_protocol_versions(&versions(terms))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(resolver);
    config.session_storage = Arc::new(NoServerSessionStorage {});
    Ok(config)
}
