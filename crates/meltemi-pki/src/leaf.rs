use meltemi_core::{Identity, IdentityError};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::Validity;

/// What a certificate is presented for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Usage {
    ServerAuth,
    ClientAuth,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LeafError {
    #[error("the certificate is not well-formed X.509")]
    Malformed,
    #[error("the certificate has {0} URI names, a SPIFFE certificate has exactly one")]
    UriCount(usize),
    #[error("the certificate's URI name")]
    Identity(#[from] IdentityError),
    #[error("the certificate lacks the extended key usage {0:?}")]
    ExtendedKeyUsage(Usage),
    #[error("the certificate is that of an authority, not of a workload")]
    Authority,
    #[error("the certificate's key usage does not allow digital signatures")]
    KeyUsage,
}

/// What a mesh needs to know of a workload's leaf certificate (SPIFFE X.509-SVID sections 2 to 4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    pub identity: Identity,
    pub validity: Validity,
    /// In lower-case hexadecimal digits.
    pub serial: String,
    /// RFC 4514 text; empty in certificates of Istio's authority.
    pub subject: String,
}

impl Leaf {
    /// Reads a leaf; signatures, times and usages are the caller's to check.
    ///
    /// # Errors
    /// The certificate is malformed or has not exactly one URI SAN, a workload's SPIFFE ID.
    pub fn parse(der: &[u8]) -> Result<Self, LeafError> {
        Self::of(&parse(der)?)
    }

    /// Reads a leaf and checks that it may be used as `usage`: the extended key usage must be there (webpki accepts
    /// its absence), and an authority's certificate is refused (X.509-SVID sections 4.1 to 4.4).
    ///
    /// # Errors
    /// As [`Leaf::parse`], or the usage is not allowed.
    pub fn parse_for(der: &[u8], usage: Usage) -> Result<Self, LeafError> {
        let certificate = parse(der)?;
        check_usage(&certificate, usage)?;
        Self::of(&certificate)
    }

    fn of(certificate: &X509Certificate<'_>) -> Result<Self, LeafError> {
        Ok(Self {
            identity: only_uri(certificate)?.parse()?,
            validity: Validity::of(certificate),
            serial: hex::encode(certificate.raw_serial()),
            subject: certificate.subject().to_string(),
        })
    }
}

pub(crate) fn parse(der: &[u8]) -> Result<X509Certificate<'_>, LeafError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(LeafError::Malformed),
    }
}

/// The value of the only URI SAN.
fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, LeafError> {
    match uris(certificate)?[..] {
        [uri] => Ok(uri),
        ref uris => Err(LeafError::UriCount(uris.len())),
    }
}

/// The values of the URI SANs. Names of other types never count as URIs (CVE-2022-21656 and its kin).
pub(crate) fn uris<'a>(certificate: &'a X509Certificate<'_>) -> Result<Vec<&'a str>, LeafError> {
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::Malformed)?;
    let names = san.map_or(&[][..], |extension| &extension.value.general_names);
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(LeafError::Malformed),
            _ => {}
        }
    }
    Ok(uris)
}

/// The DNS names, in their order.
pub(crate) fn dns_names<'a>(
    certificate: &'a X509Certificate<'_>,
) -> Result<Vec<&'a str>, LeafError> {
    let san = certificate
        .subject_alternative_name()
        .map_err(|_| LeafError::Malformed)?;
    let names = san.map_or(&[][..], |extension| &extension.value.general_names);
    let dns = names.iter().filter_map(|name| match name {
        GeneralName::DNSName(dns) => Some(*dns),
        _ => None,
    });
    Ok(dns.collect())
}

fn check_usage(certificate: &X509Certificate<'_>, usage: Usage) -> Result<(), LeafError> {
    let malformed = |_| LeafError::Malformed;
    let extended = certificate.extended_key_usage().map_err(malformed)?;
    let listed = extended.is_some_and(|extension| match usage {
        Usage::ServerAuth => extension.value.server_auth,
        Usage::ClientAuth => extension.value.client_auth,
    });
    if !listed {
        return Err(LeafError::ExtendedKeyUsage(usage));
    }
    let basic = certificate.basic_constraints().map_err(malformed)?;
    if basic.is_some_and(|extension| extension.value.ca) {
        return Err(LeafError::Authority);
    }
    match certificate.key_usage().map_err(malformed)? {
        Some(key) if key.value.key_cert_sign() || key.value.crl_sign() => Err(LeafError::Authority),
        Some(key) if !key.value.digital_signature() => Err(LeafError::KeyUsage),
        _ => Ok(()),
    }
}
