use std::collections::BTreeSet;
use std::sync::Arc;

use meltemi_core::Identity;
use rustls::ClientConfig;
use rustls::client::{Resumption, danger::ServerCertVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls_pki_types::ServerName;

use crate::bundle::Roots;
use crate::provider::{provider, versions};
use crate::verify::{DnsVerifier, NoVerifier, UpstreamVerifier};
use crate::{Terms, TlsError, TrustBundle, WorkloadCertificate};

/// Server names for which one configuration keeps sessions.
const SESSION_LIMIT: usize = 64;

/// Builds the upstream side of mesh mTLS: Istio's `ISTIO_MUTUAL`.
#[derive(Clone, Debug)]
pub struct ClientTls {
    certified: Arc<CertifiedKey>,
    bundle: Arc<TrustBundle>,
    allowed: BTreeSet<Identity>,
    alpn: Vec<Vec<u8>>,
    terms: Terms,
    sni: bool,
    resumes: bool,
}

impl ClientTls {
    pub fn new(certificate: &WorkloadCertificate, bundle: Arc<TrustBundle>) -> Self {
        Self {
            certified: Arc::clone(certificate.certified()),
            bundle,
            allowed: BTreeSet::new(),
            alpn: Vec::new(),
            terms: Terms::default(),
            sni: true,
            resumes: true,
        }
    }

    /// The identities an upstream may have (`match_typed_subject_alt_names`); none given means any in the bundle's
    /// trust domains.
    #[must_use]
    pub fn allow(mut self, identities: impl IntoIterator<Item = Identity>) -> Self {
        self.allowed.extend(identities);
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

    /// Sends no server name, for clusters without an SNI.
    #[must_use]
    pub fn without_sni(mut self) -> Self {
        self.sni = false;
        self
    }

    /// Makes a full handshake for every connection (Envoy `max_session_keys: 0`).
    #[must_use]
    pub fn without_resumption(mut self) -> Self {
        self.resumes = false;
        self
    }

    /// # Errors
    /// rustls refuses the combination, or no cipher suite is left.
    pub fn build(self) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier = Arc::new(UpstreamVerifier {
            bundle: self.bundle,
            allowed: self.allowed,
        });
        let mut config = config(verifier, Some(self.certified), &self.terms, self.resumes)?;
        config.alpn_protocols = self.alpn;
        config.enable_sni = self.sni;
        Ok(Arc::new(config))
    }
}

/// Builds a TLS client for servers outside the mesh and for the control plane: roots and names instead of identities.
/// Istio's `SIMPLE` and, with a certificate, `MUTUAL`.
#[derive(Clone, Debug)]
pub struct DnsClientTls {
    roots: Option<Roots>,
    names: Vec<ServerName<'static>>,
    uris: Vec<String>,
    has_name: bool,
    certified: Option<Arc<CertifiedKey>>,
    alpn: Vec<Vec<u8>>,
    terms: Terms,
    resumes: bool,
}

impl DnsClientTls {
    /// Trusts the roots of a PEM text and checks the name that a connection asks for.
    ///
    /// # Errors
    /// The text holds no certificate, or one that cannot be a root.
    pub fn new(roots_pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self {
            roots: Some(Roots::from_pem(roots_pem)?),
            ..Self::insecure_skip_verify()
        })
    }

    /// The same with the roots that a system keeps: those among many that can be roots.
    ///
    /// # Errors
    /// There is none.
    pub fn with_system_roots(roots_pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self {
            roots: Some(Roots::usable_from_pem(roots_pem)?),
            ..Self::insecure_skip_verify()
        })
    }

    /// Verifies nothing (`insecureSkipVerify`).
    pub fn insecure_skip_verify() -> Self {
        Self {
            roots: None,
            names: Vec::new(),
            uris: Vec::new(),
            has_name: true,
            certified: None,
            alpn: Vec::new(),
            terms: Terms::default(),
            resumes: true,
        }
    }

    /// The names of which the server must have one (`subjectAltNames`), instead of the requested one.
    ///
    /// # Errors
    /// A name is neither a DNS name nor an address.
    pub fn names<N: AsRef<str>>(
        mut self,
        names: impl IntoIterator<Item = N>,
    ) -> Result<Self, TlsError> {
        self.names = names
            .into_iter()
            .map(|name| server_name(name.as_ref()))
            .collect::<Result<_, _>>()?;
        Ok(self)
    }

    /// The same for names that are URIs: an identity of the mesh, for example. One of either kind is enough.
    #[must_use]
    pub fn uris<U: Into<String>>(mut self, uris: impl IntoIterator<Item = U>) -> Self {
        self.uris = uris.into_iter().map(Into::into).collect();
        self
    }

    /// Sends no server name and asks for none: whatever name a connection is made with is a placeholder. Without names of
    /// its own the configuration then takes every certificate that chains to the roots, as Envoy does without SNI.
    #[must_use]
    pub fn without_name(mut self) -> Self {
        self.has_name = false;
        self
    }

    /// Presents a certificate when the server asks for one.
    #[must_use]
    pub fn certificate(mut self, certificate: &WorkloadCertificate) -> Self {
        self.certified = Some(Arc::clone(certificate.certified()));
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

    /// Makes a full handshake for every connection (Envoy `max_session_keys: 0`).
    #[must_use]
    pub fn without_resumption(mut self) -> Self {
        self.resumes = false;
        self
    }

    /// # Errors
    /// rustls refuses the combination, or no cipher suite is left.
    pub fn build(self) -> Result<Arc<ClientConfig>, TlsError> {
        let verifier: Arc<dyn ServerCertVerifier> = match self.roots {
            Some(roots) => Arc::new(DnsVerifier {
                roots,
                names: self.names,
                uris: self.uris,
                checks_requested: self.has_name,
            }),
            None => Arc::new(NoVerifier),
        };
        let mut config = config(verifier, self.certified, &self.terms, self.resumes)?;
        config.alpn_protocols = self.alpn;
        config.enable_sni = self.has_name;
        Ok(Arc::new(config))
    }
}

/// Reads the name a client asks for: a DNS name, an address, or a generated SNI such as
/// `outbound_.9080_.v1_.reviews.default.svc.cluster.local`.
///
/// # Errors
/// The text is none of them.
pub fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(name.to_owned()).map_err(|_| TlsError::ServerName(name.to_owned()))
}

fn config(
    verifier: Arc<dyn ServerCertVerifier>,
    certified: Option<Arc<CertifiedKey>>,
    terms: &Terms,
    resumes: bool,
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider(terms)?)
        .with_protocol_versions(&versions(terms))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match certified {
        Some(certified) => {
            builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(certified)))
        }
        None => builder.with_no_client_auth(),
    };
    config.resumption = if resumes {
        Resumption::in_memory_sessions(SESSION_LIMIT)
    } else {
        Resumption::disabled()
    };
    Ok(config)
}

pub(crate) fn owned<P: AsRef<[u8]>>(protocols: impl IntoIterator<Item = P>) -> Vec<Vec<u8>> {
    protocols
        .into_iter()
        .map(|protocol| protocol.as_ref().to_vec())
        .collect()
}
