//! The downstream side of TLS with strangers: what a gateway presents to clients outside of the mesh, and what it demands.

use std::sync::Arc;

use aws_lc_rs::digest;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use crate::bundle::Roots;
use crate::client::{owned, server_name};
use crate::provider::signature_algorithms;
use crate::verify::{handshake_signatures, verify_chain};
use crate::{ServingCertificate, Terms, TlsError, Usage, VerifyError, leaf, server};

/// A SHA-256.
pub type Sha256 = [u8; 32];

/// Builds the server side for one certificate.
#[derive(Clone, Debug)]
pub struct EdgeTls {
    certified: Arc<CertifiedKey>,
    clients: Option<EdgeClients>,
    alpn: Vec<Vec<u8>>,
    terms: Terms,
}

/// Whose certificates are taken of clients. One that is presented is always verified.
#[derive(Clone, Debug)]
pub struct EdgeClients {
    roots: Roots,
    is_required: bool,
    names: Vec<ServerName<'static>>,
    uris: Vec<String>,
    certificates: Vec<Sha256>,
    public_keys: Vec<Sha256>,
}

impl EdgeClients {
    /// Trusts the roots of a PEM text.
    ///
    /// # Errors
    /// The text holds no certificate, or one that cannot be a root.
    pub fn new(roots_pem: &[u8], is_required: bool) -> Result<Self, TlsError> {
        Ok(Self {
            roots: Roots::from_pem(roots_pem)?,
            is_required,
            names: Vec::new(),
            uris: Vec::new(),
            certificates: Vec::new(),
            public_keys: Vec::new(),
        })
    }

    /// The names, of hosts and addresses or URIs, of which a client must have one.
    ///
    /// # Errors
    /// A name is neither a DNS name nor an address.
    pub fn named<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
        uris: impl IntoIterator<Item = String>,
    ) -> Result<Self, TlsError> {
        let names = names.into_iter();
        self.names = names
            .map(|name| server_name(name.as_ref()))
            .collect::<Result<_, _>>()?;
        self.uris = uris.into_iter().collect();
        Ok(self)
    }

    /// The certificates and public keys, by their SHA-256, of which a client must have one.
    #[must_use]
    pub fn pinned(mut self, certificates: &[Sha256], public_keys: &[Sha256]) -> Self {
        self.certificates = certificates.to_vec();
        self.public_keys = public_keys.to_vec();
        self
    }
}

impl EdgeTls {
    /// Asks clients for no certificate.
    pub fn new(certificate: &ServingCertificate) -> Self {
        Self {
            certified: Arc::clone(certificate.certified()),
            clients: None,
            alpn: Vec::new(),
            terms: Terms::default(),
        }
    }

    #[must_use]
    pub fn clients(mut self, clients: EdgeClients) -> Self {
        self.clients = Some(clients);
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

    /// Session tickets are sealed with a key of this configuration's own: they end with it, and with what it demanded.
    ///
    /// # Errors
    /// rustls refuses the combination, no cipher suite is left, or no ticket key can be made.
    pub fn build(self) -> Result<Arc<ServerConfig>, TlsError> {
        let verifier: Arc<dyn ClientCertVerifier> = match self.clients {
            None => WebPkiClientVerifier::no_client_auth(),
            Some(clients) => Arc::new(StrangerVerifier(clients)),
        };
        let resolver = Arc::new(SingleCertAndKey::from(self.certified));
        let mut config = server::config(verifier, resolver, &self.terms)?;
        config.alpn_protocols = self.alpn;
        config.ticketer = Ticketer::new()?;
        Ok(Arc::new(config))
    }
}

/// Verifies clients outside of the mesh.
#[derive(Debug)]
struct StrangerVerifier(EdgeClients);

impl StrangerVerifier {
    fn check_names(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let EdgeClients { names, uris, .. } = &self.0;
        if names.is_empty() && uris.is_empty() {
            return Ok(());
        }
        let leaf = EndEntityCert::try_from(end_entity).map_err(|_| malformed())?;
        let has_name = |name| leaf.verify_is_valid_for_subject_name(name).is_ok();
        let parsed = leaf::parse(end_entity).map_err(|_| malformed())?;
        let own = leaf::uris(&parsed).map_err(|_| malformed())?;
        if names.iter().any(has_name) || uris.iter().any(|uri| own.contains(&uri.as_str())) {
            return Ok(());
        }
        let wanted = names.iter().map(|name| name.to_str().into_owned());
        Err(VerifyError::Name(wanted.chain(uris.iter().cloned()).collect()).into())
    }

    fn check_pins(&self, end_entity: &CertificateDer<'_>) -> Result<(), rustls::Error> {
        let EdgeClients {
            certificates,
            public_keys,
            ..
        } = &self.0;
        if certificates.is_empty() && public_keys.is_empty() {
            return Ok(());
        }
        let parsed = leaf::parse(end_entity).map_err(|_| malformed())?;
        let is_pinned = certificates.contains(&sha256(end_entity))
            || public_keys.contains(&sha256(parsed.public_key().raw));
        if is_pinned {
            return Ok(());
        }
        Err(VerifyError::NotPinned.into())
    }
}

fn malformed() -> rustls::Error {
    rustls::Error::InvalidCertificate(CertificateError::BadEncoding)
}

pub(crate) fn sha256(bytes: &[u8]) -> Sha256 {
    let mut sum = Sha256::default();
    sum.copy_from_slice(digest::digest(&digest::SHA256, bytes).as_ref());
    sum
}

impl ClientCertVerifier for StrangerVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.0.is_required
    }

    /// No hints, as for clients of the mesh: they would tell a stranger which roots are trusted.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        verify_chain(
            &self.0.roots,
            end_entity,
            intermediates,
            now,
            Usage::ClientAuth,
            &|| "a client".to_owned(),
        )?;
        self.check_names(end_entity)?;
        self.check_pins(end_entity)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}
