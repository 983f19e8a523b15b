use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;

/// The largest PEM text read, in bytes.
const PEM_LIMIT_BYTES: usize = 1 << 20;
/// The most certificates one PEM text may hold.
const CERTIFICATE_LIMIT: usize = 128;
/// The most roots of a system.
const SYSTEM_CERTIFICATE_LIMIT: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    #[error("PEM text of {0} bytes exceeds the limit of {PEM_LIMIT_BYTES}")]
    TooLarge(usize),
    #[error("more than {CERTIFICATE_LIMIT} certificates in one PEM text")]
    TooMany,
    #[error("no certificate in the PEM text")]
    Empty,
    #[error("certificate {index} of the PEM text: {reason}")]
    Malformed { index: usize, reason: String },
}

/// Reads the certificates of a PEM text in their order; sections of other kinds are skipped.
///
/// # Errors
/// The text is too large, holds a broken section, or no certificate at all.
pub fn certificates_from_pem(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    if pem.len() > PEM_LIMIT_BYTES {
        return Err(PemError::TooLarge(pem.len()));
    }
    let mut certificates = Vec::new();
    for (index, section) in CertificateDer::pem_slice_iter(pem).enumerate() {
        if index == CERTIFICATE_LIMIT {
            return Err(PemError::TooMany);
        }
        certificates.push(section.map_err(|error| PemError::Malformed {
            index,
            reason: error.to_string(),
        })?);
    }
    if certificates.is_empty() {
        return Err(PemError::Empty);
    }
    Ok(certificates)
}

/// Reads those certificates of a PEM text that can be read, as far as the bounds go: of a system's roots, which are many.
pub(crate) fn readable_certificates(pem: &[u8]) -> Vec<CertificateDer<'static>> {
    if pem.len() > PEM_LIMIT_BYTES {
        return Vec::new();
    }
    let sections = CertificateDer::pem_slice_iter(pem).take(SYSTEM_CERTIFICATE_LIMIT);
    sections.filter_map(Result::ok).collect()
}

/// Writes certificates as PEM (RFC 7468), in their order.
pub fn certificates_to_pem<'a>(
    certificates: impl IntoIterator<Item = &'a CertificateDer<'a>>,
) -> String {
    certificates
        .into_iter()
        .map(|certificate| encode("CERTIFICATE", certificate))
        .collect()
}

/// One PEM section (RFC 7468 section 3) with 64 columns.
pub(crate) fn encode(label: &str, der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for group in line.chunks(3) {
            let byte = |i: usize| u32::from(group.get(i).copied().unwrap_or(0));
            let bits = byte(0) << 16 | byte(1) << 8 | byte(2);
            for i in 0..4 {
                let sextet = (bits >> (18 - 6 * i)) & 0x3f;
                text.push(if i <= group.len() {
                    char::from(ALPHABET[sextet as usize])
                } else {
                    '='
                });
            }
        }
        text.push('\n');
    }
    text.push_str("-----END ");
    text.push_str(label);
    text.push_str("-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips_every_length() {
        for length in [0, 1, 2, 3, 47, 48, 49, 100] {
            let der: Vec<u8> = (0..length).collect();
            let certificate = CertificateDer::from(der);
            let pem = certificates_to_pem([&certificate]);
            assert_eq!(certificates_from_pem(pem.as_bytes()), Ok(vec![certificate]));
        }
    }

    #[test]
    fn refuses_what_is_no_bundle() {
        assert_eq!(certificates_from_pem(b""), Err(PemError::Empty));
        assert_eq!(certificates_from_pem(b"hello"), Err(PemError::Empty));
        let broken = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
        assert!(matches!(
            certificates_from_pem(broken),
            Err(PemError::Malformed { index: 0, .. })
        ));
        let large = vec![b' '; PEM_LIMIT_BYTES + 1];
        assert!(matches!(
            certificates_from_pem(&large),
            Err(PemError::TooLarge(_))
        ));
    }
}
