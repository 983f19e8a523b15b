use std::fmt;
use std::sync::Arc;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair as _};
use rcgen::{PublicKeyData, SubjectPublicKeyInfo};
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use zeroize::Zeroizing;

use crate::pem;

/// The smallest RSA modulus accepted in a request, in bits (NIST SP 800-57).
const RSA_MINIMUM_BITS: usize = 2048;
/// The largest certificate signing request read, in bytes.
const CSR_LIMIT_BYTES: usize = 64 << 10;

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("generating a P-256 key")]
    Generate,
    #[error("no PKCS#8, SEC1 or PKCS#1 private key in the PEM text")]
    Pem,
    #[error("the private key is not a P-256 key in PKCS#8 or SEC1 form")]
    NotP256,
    #[error("encoding the private key")]
    Encode,
    #[error("making a certificate signing request")]
    Csr(#[source] rcgen::Error),
    #[error("the certificate signing request is not a PEM section of a PKCS#10 request")]
    CsrFormat,
    #[error("the signature of the certificate signing request does not verify")]
    CsrSignature,
    #[error("the certificate signing request has a weak or unsupported public key")]
    CsrKey,
}

/// An ECDSA P-256 key. It lives in aws-lc's memory, which is cleansed when freed, and is written out only by
/// [`PrivateKey::to_pem`].
#[derive(Clone)]
pub struct PrivateKey(Arc<EcdsaKeyPair>);

impl PrivateKey {
    /// # Errors
    /// The system's random source fails.
    pub fn generate() -> Result<Self, KeyError> {
        EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING)
            .map(|pair| Self(Arc::new(pair)))
            .map_err(|_| KeyError::Generate)
    }

    /// # Errors
    /// The text holds no private key, or one that is not P-256.
    pub fn from_pem(pem: &[u8]) -> Result<Self, KeyError> {
        let der = PrivateKeyDer::from_pem_slice(pem).map_err(|_| KeyError::Pem)?;
        let pair = match &der {
            PrivateKeyDer::Pkcs8(key) => {
                EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.secret_pkcs8_der())
            }
            PrivateKeyDer::Sec1(key) => EcdsaKeyPair::from_private_key_der(
                &ECDSA_P256_SHA256_ASN1_SIGNING,
                key.secret_sec1_der(),
            ),
            _ => return Err(KeyError::NotP256),
        };
        pair.map(|pair| Self(Arc::new(pair)))
            .map_err(|_| KeyError::NotP256)
    }

    /// The key as PKCS#8 PEM, for a certificate authority that must keep it; the text is wiped when dropped.
    ///
    /// # Errors
    /// The provider refuses to encode.
    pub fn to_pem(&self) -> Result<Zeroizing<String>, KeyError> {
        let der = self.0.to_pkcs8v1().map_err(|_| KeyError::Encode)?;
        Ok(Zeroizing::new(pem::encode("PRIVATE KEY", der.as_ref())))
    }

    /// The public half, as a SubjectPublicKeyInfo in DER.
    pub fn public_key_der(&self) -> Vec<u8> {
        self.subject_public_key_info()
    }

    pub fn public_key_pem(&self) -> String {
        pem::encode("PUBLIC KEY", &self.public_key_der())
    }

    /// A certificate signing request (RFC 2986) that names `identity` in a URI SAN, as Istio's agent writes it. An
    /// authority believes only the key in it.
    ///
    /// # Errors
    /// Signing fails.
    pub fn csr_pem(&self, identity: &meltemi_core::Identity) -> Result<String, KeyError> {
        let uri = identity.to_string().try_into().map_err(KeyError::Csr)?;
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        params
            .serialize_request(self)
            .and_then(|request| request.pem())
            .map_err(KeyError::Csr)
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(P-256)")
    }
}

impl PublicKeyData for PrivateKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.public_key().as_ref()
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ECDSA_P256_SHA256
    }
}

impl rcgen::SigningKey for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        sign(&self.0, message).ok_or(rcgen::Error::RingUnspecified)
    }
}

impl SigningKey for PrivateKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ECDSA_NISTP256_SHA256)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<rustls_pki_types::SubjectPublicKeyInfoDer<'_>> {
        Some(self.public_key_der().into())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for PrivateKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        sign(&self.0, message).ok_or_else(|| rustls::Error::General("ECDSA signing failed".into()))
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ECDSA_NISTP256_SHA256
    }
}

fn sign(pair: &EcdsaKeyPair, message: &[u8]) -> Option<Vec<u8>> {
    let signature = pair.sign(&SystemRandom::new(), message).ok()?;
    Some(signature.as_ref().to_vec())
}

/// The public key of a PEM certificate signing request, once its signature proves possession of the private key.
/// Names, extensions and attributes of the request are not even looked at.
///
/// # Errors
/// The request is malformed or too large, its signature is wrong, or its key is neither ECDSA P-256/P-384, Ed25519
/// nor RSA of at least 2048 bits.
pub fn verified_public_key(csr_pem: &[u8]) -> Result<SubjectPublicKeyInfo, KeyError> {
    if csr_pem.len() > CSR_LIMIT_BYTES {
        return Err(KeyError::CsrFormat);
    }
    let der = rustls_pki_types::CertificateSigningRequestDer::from_pem_slice(csr_pem)
        .map_err(|_| KeyError::CsrFormat)?;
    let (rest, request) =
        X509CertificationRequest::from_der(&der).map_err(|_| KeyError::CsrFormat)?;
    if !rest.is_empty() {
        return Err(KeyError::CsrFormat);
    }
    let spki = &request.certification_request_info.subject_pki;
    let strong = match spki.parsed().map_err(|_| KeyError::CsrKey)? {
        PublicKey::RSA(key) => key.key_size() >= RSA_MINIMUM_BITS,
        PublicKey::EC(point) => point.key_size() >= 256,
        _ => spki.algorithm.algorithm == x509_parser::oid_registry::OID_SIG_ED25519,
    };
    if !strong {
        return Err(KeyError::CsrKey);
    }
    request
        .verify_signature()
        .map_err(|_| KeyError::CsrSignature)?;
    SubjectPublicKeyInfo::from_der(spki.raw).map_err(|_| KeyError::CsrKey)
}
