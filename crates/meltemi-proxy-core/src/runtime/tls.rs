use std::sync::Arc;

use super::StringMatcher;

/// What a listener presents and demands (Envoy `DownstreamTlsContext`).
#[derive(Debug, Clone)]
pub struct DownstreamTls {
    pub certificate: CertificateSource,
    pub validation: Option<Validation>,
    pub require_client_certificate: bool,
    /// In order of preference; the server picks the first that the client offers.
    pub alpn: Arc<[Arc<str>]>,
    pub versions: TlsVersions,
    pub cipher_suites: Arc<[Arc<str>]>,
}

impl DownstreamTls {
    /// The SDS names of what it presents and trusts.
    pub fn secret_names(&self) -> impl Iterator<Item = &Arc<str>> {
        let certificate = match &self.certificate {
            CertificateSource::Sds(name) => Some(name),
            CertificateSource::Files { .. } => None,
        };
        let trust = match self.validation.as_ref().map(|validation| &validation.trust) {
            Some(TrustSource::Sds(name)) => Some(name),
            _ => None,
        };
        certificate.into_iter().chain(trust)
    }
}

/// What a cluster presents and demands (Envoy `UpstreamTlsContext`).
#[derive(Debug, Clone)]
pub struct UpstreamTls {
    pub certificate: Option<CertificateSource>,
    pub validation: Option<Validation>,
    /// The configured server name; `None` sends none unless [`Self::auto_host_sni`].
    pub sni: Option<Arc<str>>,
    /// The endpoint's hostname is the server name (`auto_host_sni`).
    pub auto_host_sni: bool,
    /// The peer must carry a DNS SAN equal to the server name sent (`auto_sni_san_validation`).
    pub auto_sni_san_validation: bool,
    /// Offered as is, unless the request's ALPN override (`istio.alpn`) replaces it.
    pub alpn: Arc<[Arc<str>]>,
    pub versions: TlsVersions,
    pub cipher_suites: Arc<[Arc<str>]>,
    pub max_session_keys: u32,
}

/// Inclusive bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TlsVersions {
    pub min: TlsVersion,
    pub max: TlsVersion,
}

/// The versions we speak; older ones are refused by the compiler.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    V1_2,
    V1_3,
}

/// Where a certificate and its key come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateSource {
    /// An SDS resource name, `default` for the workload certificate.
    Sds(Arc<str>),
    /// Paths, read by the proxy.
    Files { chain: Arc<str>, key: Arc<str> },
}

/// Where trust roots come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TrustSource {
    /// An SDS resource name, `ROOTCA` for the mesh's bundle.
    Sds(Arc<str>),
    File(Arc<str>),
    /// PEM.
    Inline(Arc<str>),
    /// The operating system's roots.
    System,
}

/// A secret that the control plane delivers by name (Envoy `Secret`).
#[derive(Debug, Clone)]
pub struct Secret {
    pub name: Arc<str>,
    pub content: SecretContent,
}

#[derive(Clone)]
pub enum SecretContent {
    /// PEM texts.
    Certificate { chain: Vec<u8>, key: Vec<u8> },
    /// The PEM text of roots.
    Roots(Vec<u8>),
}

/// Tells what it is and nothing of what is in it.
impl std::fmt::Debug for SecretContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Certificate { .. } => "Certificate",
            Self::Roots(_) => "Roots",
        })
    }
}

/// How a peer's certificate is checked (Envoy `CertificateValidationContext`).
#[derive(Debug, Clone)]
pub struct Validation {
    pub trust: TrustSource,
    /// Any one must match; empty accepts every name that chains to a root.
    pub sans: Arc<[SanMatcher]>,
    /// SHA-256 of certificates and of public keys, of which the leaf must have one; none asks for none.
    pub certificate_hashes: Arc<[[u8; 32]]>,
    pub public_key_hashes: Arc<[[u8; 32]]>,
}

impl Validation {
    pub fn has_pins(&self) -> bool {
        !self.certificate_hashes.is_empty() || !self.public_key_hashes.is_empty()
    }
}

/// Envoy `SubjectAltNameMatcher`: matched by type, on the raw name.
#[derive(Debug, Clone)]
pub struct SanMatcher {
    pub san_type: SanType,
    pub matcher: StringMatcher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanType {
    /// `match_subject_alt_names` without a type, which Envoy applies to DNS, URI, e-mail and address names.
    Any,
    Dns,
    Uri,
    Email,
    IpAddress,
}
