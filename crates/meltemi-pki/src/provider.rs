use std::sync::{Arc, LazyLock};

use rustls::SupportedProtocolVersion;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs};

use crate::MinimumTls;

/// The one provider of the process: aws-lc-rs, X25519MLKEM768 first (rustls' `prefer-post-quantum`).
static PROVIDER: LazyLock<Arc<CryptoProvider>> =
    LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

pub(crate) fn signature_algorithms() -> WebPkiSupportedAlgorithms {
    PROVIDER.signature_verification_algorithms
}

static TLS12_UP: [&SupportedProtocolVersion; 2] =
    [&rustls::version::TLS13, &rustls::version::TLS12];
static TLS13_UP: [&SupportedProtocolVersion; 1] = [&rustls::version::TLS13];

pub(crate) fn versions(minimum: MinimumTls) -> &'static [&'static SupportedProtocolVersion] {
    match minimum {
        MinimumTls::V12 => &TLS12_UP,
        MinimumTls::V13 => &TLS13_UP,
    }
}
