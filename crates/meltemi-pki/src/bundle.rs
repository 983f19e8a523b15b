mod verified;

use std::collections::BTreeMap;
use std::time::SystemTime;

use meltemi_core::TrustDomain;
use rustls_pki_types::{CertificateDer, TrustAnchor};
use webpki::anchor_from_trusted_cert;

pub(crate) use verified::Verified;

use crate::pem::readable_certificates;
use crate::{PemError, Validity, certificates_from_pem, certificates_to_pem, leaf};

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BundleError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error("root {index} of the bundle is not an X.509 certificate of an authority")]
    NotARoot { index: usize },
}

/// The roots that vouch for identities, per trust domain (SPIFFE Trust Domain and Bundle section 4). A root of one
/// domain never vouches for another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TrustBundle {
    domains: BTreeMap<TrustDomain, Roots>,
}

impl TrustBundle {
    /// A bundle of one trust domain.
    ///
    /// # Errors
    /// The PEM text holds no certificate, or one that cannot be a root.
    pub fn new(domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        Self::default().with_domain(domain, pem)
    }

    /// Adds another trust domain, or an alias of the first with the same roots. The roots replace those the domain had.
    ///
    /// # Errors
    /// As [`TrustBundle::new`].
    pub fn with_domain(mut self, domain: TrustDomain, pem: &[u8]) -> Result<Self, BundleError> {
        self.domains.insert(domain, Roots::from_pem(pem)?);
        Ok(self)
    }

    pub fn domains(&self) -> impl Iterator<Item = &TrustDomain> {
        self.domains.keys()
    }

    /// Every root with its validity, each once, in the order of domains and files.
    pub fn roots(&self) -> Vec<(&CertificateDer<'static>, Validity)> {
        let mut roots: Vec<(&CertificateDer<'static>, Validity)> = Vec::new();
        for (der, validity) in self.domains.values().flat_map(Roots::iter) {
            if !roots.iter().any(|(known, _)| *known == der) {
                roots.push((der, validity));
            }
        }
        roots
    }

    pub fn to_pem(&self) -> String {
        certificates_to_pem(self.roots().into_iter().map(|(der, _)| der))
    }

    pub(crate) fn of(&self, domain: &TrustDomain) -> Option<&Roots> {
        self.domains.get(domain)
    }
}

/// Roots without a trust domain, in three parallel lists because webpki wants a slice of anchors.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Roots {
    certificates: Vec<CertificateDer<'static>>,
    anchors: Vec<TrustAnchor<'static>>,
    validity: Vec<Validity>,
    verified: Verified,
}

impl Roots {
    pub(crate) fn from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        Self::from_der(certificates_from_pem(pem)?)
    }

    /// Those of a PEM text's certificates that can be roots.
    pub(crate) fn usable_from_pem(pem: &[u8]) -> Result<Self, BundleError> {
        let is_usable = |der: &CertificateDer<'static>| Self::from_der(vec![der.clone()]).is_ok();
        let all = readable_certificates(pem).into_iter();
        let usable: Vec<_> = all.filter(is_usable).collect();
        if usable.is_empty() {
            return Err(PemError::Empty.into());
        }
        Self::from_der(usable)
    }

    pub(crate) fn from_der(
        certificates: Vec<CertificateDer<'static>>,
    ) -> Result<Self, BundleError> {
        let mut anchors = Vec::with_capacity(certificates.len());
        let mut validity = Vec::with_capacity(certificates.len());
        for (index, der) in certificates.iter().enumerate() {
            let not_a_root = || BundleError::NotARoot { index };
            let certificate = leaf::parse(der).map_err(|_| not_a_root())?;
            if !certificate.is_ca() {
                return Err(not_a_root());
            }
            anchors.push(
                anchor_from_trusted_cert(der)
                    .map_err(|_| not_a_root())?
                    .to_owned(),
            );
            validity.push(Validity::of(&certificate));
        }
        Ok(Self {
            certificates,
            anchors,
            validity,
            verified: Verified::default(),
        })
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// The validity of the root behind `anchor`, an element of [`Roots::anchors`], if it may be used now. webpki does not
    /// look at a root's own validity.
    pub(crate) fn anchor_validity(
        &self,
        anchor: &TrustAnchor<'_>,
        now: SystemTime,
    ) -> Option<Validity> {
        self.anchors
            .iter()
            .zip(&self.validity)
            .find(|(known, validity)| *known == anchor && validity.contains(now))
            .map(|(_, validity)| *validity)
    }

    /// The chains that these roots have vouched for.
    pub(crate) fn verified(&self) -> &Verified {
        &self.verified
    }

    fn iter(&self) -> impl Iterator<Item = (&CertificateDer<'static>, Validity)> {
        self.certificates.iter().zip(self.validity.iter().copied())
    }
}
