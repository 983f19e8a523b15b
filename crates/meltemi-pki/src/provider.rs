use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, SupportedCipherSuite, SupportedProtocolVersion};

use crate::{Terms, TlsError, Version};

/// The one provider of the process: aws-lc-rs, X25519MLKEM768 first (rustls' `prefer-post-quantum`).
///
/// Of TLS 1.3 `TLS_AES_128_GCM_SHA256` comes first, as between Envoys. rustls would begin with its 256-bit sibling, whose
/// SHA-384 most processors have no instructions for.
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = aws_lc_rs::default_provider();
    let first = CipherSuite::TLS13_AES_128_GCM_SHA256;
    // Stable: the others stay in order.
    provider
        .cipher_suites
        .sort_by_key(|suite| suite.suite() != first);
    Arc::new(provider)
});

/// The provider with the cipher suites that `terms` leave.
pub(crate) fn provider(terms: &Terms) -> Result<Arc<CryptoProvider>, TlsError> {
    if terms.cipher_suites.is_empty() {
        return Ok(Arc::clone(&PROVIDER));
    }
    let named = terms.tls12_suites();
    if named.is_empty() && terms.newest == Version::V12 {
        return Err(TlsError::CipherSuites(terms.cipher_suites.clone()));
    }
    let all = &PROVIDER.cipher_suites;
    let is_tls13 = |suite: &&SupportedCipherSuite| suite.tls13().is_some();
    let of_name = |name: &_| all.iter().find(|suite| suite.suite() == *name);
    let mut provider = CryptoProvider::clone(&PROVIDER);
    provider.cipher_suites = all
        .iter()
        .filter(is_tls13)
        .chain(named.iter().filter_map(of_name))
        .copied()
        .collect();
    Ok(Arc::new(provider))
}

pub(crate) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

/// The versions between the bounds, newest first.
pub(crate) fn versions(terms: &Terms) -> Vec<&'static SupportedProtocolVersion> {
    [(Version::V13, &TLS13), (Version::V12, &TLS12)]
        .into_iter()
        .filter(|(version, _)| (terms.oldest..=terms.newest).contains(version))
        .map(|(_, supported)| supported)
        .collect()
}
