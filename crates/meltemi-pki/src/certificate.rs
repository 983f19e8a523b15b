use std::sync::Arc;
use std::time::SystemTime;

use meltemi_core::Identity;
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use crate::bundle::Roots;
use crate::verify::{unix_time, verify_chain};
use crate::{
    Leaf, LeafError, PemError, PrivateKey, Usage, Validity, VerifyError, certificates_from_pem,
    certificates_to_pem, leaf,
};

#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    #[error(transparent)]
    Pem(#[from] PemError),
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error("the certificate is not for the private key")]
    KeyMismatch,
    #[error("the private key is missing or of an unsupported kind")]
    Key,
    #[error("the certificate is for {issued}, not for {wanted}")]
    WrongIdentity {
        issued: Box<Identity>,
        wanted: Box<Identity>,
    },
    #[error("the certificate is not valid at this moment (check the clocks)")]
    NotValidNow,
    #[error("the chain does not lead to a root at its end")]
    Chain(#[source] VerifyError),
}

/// A workload's certificate with its private key: who this process is in the mesh.
#[derive(Clone, Debug)]
pub struct WorkloadCertificate {
    chain: Chain,
    identity: Arc<Identity>,
    roots: Vec<CertificateDer<'static>>,
}

impl WorkloadCertificate {
    /// Accepts an authority's answer to a request of `key` for `wanted`: PEM texts in the order leaf, intermediates,
    /// roots (`IstioCertificateResponse.cert_chain`). Roots at the end are kept apart and not sent to peers.
    ///
    /// # Errors
    /// The leaf is not for this key or identity, lacks a usage, is not valid now, or does not chain to a root.
    pub fn accept<S: AsRef<str>>(
        key: &PrivateKey,
        answer: &[S],
        wanted: &Identity,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let mut pem = String::new();
        for part in answer {
            pem.push_str(part.as_ref());
            if !pem.ends_with('\n') {
                pem.push('\n');
            }
        }
        let accepted = Self::new(pem.as_bytes(), Arc::new(key.clone()), now)?;
        if *accepted.identity != *wanted {
            return Err(CertificateError::WrongIdentity {
                issued: Box::new((*accepted.identity).clone()),
                wanted: Box::new(wanted.clone()),
            });
        }
        Ok(accepted)
    }

    /// A certificate from files or a static secret, with a key of any kind that rustls can use.
    ///
    /// # Errors
    /// As [`WorkloadCertificate::accept`], or the key cannot be read.
    pub fn from_pem(
        chain_pem: &[u8],
        key_pem: &[u8],
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        Self::new(chain_pem, key_from_pem(key_pem)?, now)
    }

    fn new(
        chain_pem: &[u8],
        key: Arc<dyn SigningKey>,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let mut certificates = certificates_from_pem(chain_pem)?;
        let roots = split_roots(&mut certificates)?;
        let chain = Chain::new(certificates, key, now)?;
        let identity = Leaf::parse_for(chain.leaf(), Usage::ServerAuth)?.identity;
        Leaf::parse_for(chain.leaf(), Usage::ClientAuth)?;
        if !roots.is_empty() {
            check_chain(&chain, roots.clone(), &identity, now)?;
        }
        Ok(Self {
            chain,
            identity: Arc::new(identity),
            roots,
        })
    }

    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    pub fn validity(&self) -> Validity {
        self.chain.validity
    }

    /// In lower-case hexadecimal digits.
    pub fn serial(&self) -> &str {
        &self.chain.serial
    }

    /// Leaf and intermediates, as peers see them.
    pub fn chain_pem(&self) -> String {
        certificates_to_pem(&self.chain.certified.cert)
    }

    /// The roots at the end of an authority's answer.
    pub fn roots_pem(&self) -> Option<String> {
        (!self.roots.is_empty()).then(|| certificates_to_pem(&self.roots))
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.chain.certified
    }
}

/// A server's certificate with DNS names, such as that of the control plane or of a gateway.
#[derive(Clone, Debug)]
pub struct ServingCertificate(Chain);

impl ServingCertificate {
    /// # Errors
    /// The texts do not parse, do not belong together, or the certificate is not valid now.
    pub fn from_pem(
        chain_pem: &[u8],
        key_pem: &[u8],
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        Self::new(chain_pem, key_from_pem(key_pem)?, now)
    }

    /// # Errors
    /// As [`ServingCertificate::from_pem`].
    pub fn with_key(
        chain_pem: &[u8],
        key: &PrivateKey,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        Self::new(chain_pem, Arc::new(key.clone()), now)
    }

    fn new(
        chain_pem: &[u8],
        key: Arc<dyn SigningKey>,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let mut certificates = certificates_from_pem(chain_pem)?;
        split_roots(&mut certificates)?;
        Ok(Self(Chain::new(certificates, key, now)?))
    }

    pub fn validity(&self) -> Validity {
        self.0.validity
    }

    pub fn serial(&self) -> &str {
        &self.0.serial
    }

    pub fn chain_pem(&self) -> String {
        certificates_to_pem(&self.0.certified.cert)
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.0.certified
    }
}

/// Leaf and intermediates with the leaf's key.
#[derive(Clone, Debug)]
struct Chain {
    certified: Arc<CertifiedKey>,
    validity: Validity,
    serial: String,
}

impl Chain {
    fn new(
        certificates: Vec<CertificateDer<'static>>,
        key: Arc<dyn SigningKey>,
        now: SystemTime,
    ) -> Result<Self, CertificateError> {
        let leaf = certificates.first().ok_or(PemError::Empty)?;
        let parsed = leaf::parse(leaf)?;
        let validity = Validity::of(&parsed);
        let serial = hex::encode(parsed.raw_serial());
        if !validity.contains(now) {
            return Err(CertificateError::NotValidNow);
        }
        let certified = CertifiedKey::new(certificates, key);
        certified
            .keys_match()
            .map_err(|_| CertificateError::KeyMismatch)?;
        Ok(Self {
            certified: Arc::new(certified),
            validity,
            serial,
        })
    }

    fn leaf(&self) -> &CertificateDer<'static> {
        &self.certified.cert[0]
    }

    fn intermediates(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert[1..]
    }
}

fn key_from_pem(pem: &[u8]) -> Result<Arc<dyn SigningKey>, CertificateError> {
    let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| CertificateError::Key)?;
    rustls::crypto::aws_lc_rs::sign::any_supported_type(&der).map_err(|_| CertificateError::Key)
}

/// Takes the self-issued certificates off the end of a chain, except the leaf.
fn split_roots(
    certificates: &mut Vec<CertificateDer<'static>>,
) -> Result<Vec<CertificateDer<'static>>, LeafError> {
    let mut first_root = certificates.len();
    while first_root > 1 && is_root(&certificates[first_root - 1])? {
        first_root -= 1;
    }
    Ok(certificates.split_off(first_root))
}

fn is_root(der: &CertificateDer<'_>) -> Result<bool, LeafError> {
    let certificate = leaf::parse(der)?;
    Ok(certificate.is_ca() && certificate.issuer() == certificate.subject())
}

fn check_chain(
    chain: &Chain,
    roots: Vec<CertificateDer<'static>>,
    identity: &Identity,
    now: SystemTime,
) -> Result<(), CertificateError> {
    let wrong = |reason: String| {
        CertificateError::Chain(VerifyError::Chain {
            peer: identity.to_string(),
            reason,
        })
    };
    let roots = Roots::from_der(roots).map_err(|error| wrong(error.to_string()))?;
    verify_chain(
        &roots,
        chain.leaf(),
        chain.intermediates(),
        unix_time(now),
        Usage::ServerAuth,
        &|| identity.to_string(),
    )
    .map_err(CertificateError::Chain)
}
