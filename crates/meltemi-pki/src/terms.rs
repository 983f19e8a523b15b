use rustls::CipherSuite;

/// A TLS version that is spoken. Older ones never are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    V12,
    V13,
}

/// What a side agrees to in a handshake (Envoy `TlsParameters`). The default is Istio's for sidecars: TLS 1.2, which
/// stock peers may need, and 1.3.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Terms {
    pub oldest: Version,
    pub newest: Version,
    /// TLS 1.2 suites, most preferred first, by the names that OpenSSL and Envoy give them; none means all. Those of TLS
    /// 1.3 are not for configuration, in Envoy neither.
    pub cipher_suites: Vec<String>,
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            oldest: Version::V12,
            newest: Version::V13,
            cipher_suites: Vec::new(),
        }
    }
}

impl Terms {
    pub fn from(oldest: Version) -> Self {
        Self {
            oldest,
            ..Self::default()
        }
    }

    /// The TLS 1.2 suites that are both named and spoken here, in the order of the names. BoringSSL's
    /// `[one|another]` puts two at one rank. Suites without forward secrecy, which lists meant for Envoy may name, are
    /// not spoken.
    pub(crate) fn tls12_suites(&self) -> Vec<CipherSuite> {
        self.cipher_suites
            .iter()
            .flat_map(|names| names.trim_matches(['[', ']']).split('|'))
            .filter_map(|name| {
                let known = TLS12_SUITES.iter().find(|(known, _)| *known == name);
                known.map(|(_, suite)| *suite)
            })
            .collect()
    }
}

const TLS12_SUITES: [(&str, CipherSuite); 6] = [
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];
