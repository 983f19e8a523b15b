//! rustls configurations made from compiled TLS contexts and the current credentials, kept until either changes.

mod edge;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::SystemTime;

use meltemi_core::Identity;
use meltemi_pki::{
    ClientAuth, ClientTls, DnsClientTls, ServerTls, Terms, TlsError, TrustBundle, Version,
    WorkloadCertificate,
};
use meltemi_proxy_core::runtime::{
    CertificateSource, DownstreamTls, SanMatcher, SanType, StringPattern, TlsVersion, TlsVersions,
    TrustSource, UpstreamTls, Validation,
};
use parking_lot::Mutex;
use rustls::{ClientConfig, ServerConfig};

use crate::certificates::{CredentialStore, Credentials};
use crate::secrets::SecretStore;

/// Configurations kept at most of each kind; beyond it the cache starts over.
const CACHE_LIMIT: usize = 4096;
/// Where distributions keep the roots that TLS to the outside world trusts.
const SYSTEM_ROOTS: [&str; 3] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

#[derive(Debug, thiserror::Error)]
pub(crate) enum TlsSetupError {
    #[error("the proxy has no certificate yet")]
    NoCredentials,
    #[error("the secret \"{0}\" is not known")]
    UnknownSecret(Arc<str>),
    #[error(
        "a subject alternative name that is not an exact URI, DNS name or address cannot be checked"
    )]
    UnsupportedSan,
    #[error("reading {0}")]
    File(Arc<str>, #[source] std::io::Error),
    #[error("certificates of the mesh cannot be pinned, they are renewed all the time")]
    PinnedWorkload,
    #[error("no file with the system's roots was found")]
    NoSystemRoots,
    #[error("certificate files")]
    Certificate(#[from] meltemi_pki::CertificateError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("trusted roots")]
    Bundle(#[from] meltemi_pki::BundleError),
}

/// A server name with the configuration to use for it.
pub(crate) struct ClientSetup {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) local: Option<Arc<Identity>>,
    /// The peer is of the mesh: its certificate names a SPIFFE ID.
    pub(crate) mesh: bool,
}

/// The configuration of a server.
pub(crate) struct ServerSetup {
    pub(crate) config: Arc<ServerConfig>,
    /// Who the server is in the mesh; none at the edge, where clients are strangers.
    pub(crate) local: Option<Arc<Identity>>,
}

/// The TLS configurations of a process.
pub(crate) struct TlsConfigs {
    credentials: Arc<CredentialStore>,
    secrets: Arc<SecretStore>,
    clients: Mutex<HashMap<ClientKey, (Made, Arc<ClientConfig>)>>,
    servers: Mutex<HashMap<ServerKey, (Made, Arc<ServerConfig>)>>,
    /// By address; the context is kept so that its address stays its own.
    fingerprints: Mutex<HashMap<usize, (Arc<DownstreamTls>, u64)>>,
}

/// What a configuration was made from: the generation of the credentials, or of the secrets that it names, and the state of
/// the files it names.
type Made = (u64, u64);
/// Fingerprint, and whether protocols are offered.
type ServerKey = (u64, bool);
/// Fingerprint, the protocols offered instead of the context's, and whether the server is asked for by name.
type ClientKey = (u64, Option<Arc<[Arc<str>]>>, bool);

impl TlsConfigs {
    pub(crate) fn new(credentials: Arc<CredentialStore>, secrets: Arc<SecretStore>) -> Self {
        Self {
            credentials,
            secrets,
            clients: Mutex::default(),
            servers: Mutex::default(),
            fingerprints: Mutex::default(),
        }
    }

    /// The client side for a TLS context, offering `alpn` instead of the context's own if given. Unless `is_named`, the name
    /// that a connection is made with is a placeholder, neither sent nor verified.
    pub(crate) fn client(
        &self,
        tls: &UpstreamTls,
        fingerprint: u64,
        alpn: Option<&Arc<[Arc<str>]>>,
        is_named: bool,
    ) -> Result<ClientSetup, TlsSetupError> {
        let credentials = self.credentials.get();
        let generation = credentials
            .as_ref()
            .map_or(0, |credentials| credentials.generation);
        let made = (
            generation,
            files_state(tls.certificate.as_ref(), tls.validation.as_ref()),
        );
        let key = (fingerprint, alpn.cloned(), is_named);
        let mesh = is_mesh(tls);
        let local = match &tls.certificate {
            Some(_) => credentials
                .as_ref()
                .map(|credentials| credentials.certificate.identity().clone()),
            None => None,
        };
        if let Some((known, config)) = self.clients.lock().get(&key)
            && *known == made
        {
            return Ok(ClientSetup {
                config: config.clone(),
                local,
                mesh,
            });
        }
        let offered = alpn.unwrap_or(&tls.alpn);
        let config = build_client(tls, offered, credentials.as_deref(), is_named)?;
        remember(&mut self.clients.lock(), key, (made, config.clone()));
        Ok(ClientSetup {
            config,
            local,
            mesh,
        })
    }

    /// The server side for a filter chain's TLS context; `with_alpn` where client and context have a protocol in common.
    pub(crate) fn server(
        &self,
        tls: &Arc<DownstreamTls>,
        with_alpn: bool,
    ) -> Result<ServerSetup, TlsSetupError> {
        let files = files_state(Some(&tls.certificate), tls.validation.as_ref());
        if edge::is_edge(tls) {
            let made = (edge::secrets_state(&self.secrets, tls), files);
            let config = self.known_server(tls, with_alpn, made, || {
                edge::build(&self.secrets, tls, with_alpn)
            })?;
            return Ok(ServerSetup {
                config,
                local: None,
            });
        }
        let credentials = self.credentials.get().ok_or(TlsSetupError::NoCredentials)?;
        let made = (credentials.generation, files);
        let config = self.known_server(tls, with_alpn, made, || {
            build_server(tls, with_alpn, &credentials)
        })?;
        Ok(ServerSetup {
            config,
            local: Some(credentials.certificate.identity().clone()),
        })
    }

    /// The configuration that was made before, if it was made from the same.
    fn known_server(
        &self,
        tls: &Arc<DownstreamTls>,
        with_alpn: bool,
        made: Made,
        build: impl FnOnce() -> Result<Arc<ServerConfig>, TlsSetupError>,
    ) -> Result<Arc<ServerConfig>, TlsSetupError> {
        let key = (self.fingerprint(tls), with_alpn);
        if let Some((known, config)) = self.servers.lock().get(&key)
            && *known == made
        {
            return Ok(config.clone());
        }
        let config = build()?;
        remember(&mut self.servers.lock(), key, (made, config.clone()));
        Ok(config)
    }

    fn fingerprint(&self, tls: &Arc<DownstreamTls>) -> u64 {
        let key = Arc::as_ptr(tls) as usize;
        let mut known = self.fingerprints.lock();
        if let Some((_, fingerprint)) = known.get(&key) {
            return *fingerprint;
        }
        let made = fingerprint(tls);
        remember(&mut known, key, (tls.clone(), made));
        made
    }
}

fn remember<K: std::hash::Hash + Eq, V>(cache: &mut HashMap<K, V>, key: K, value: V) {
    if cache.len() >= CACHE_LIMIT {
        cache.clear();
    }
    cache.insert(key, value);
}

/// Identifies a TLS context by everything in it. Contexts that differ in a field never share a connection or a session.
pub(crate) fn fingerprint(context: &impl std::fmt::Debug) -> u64 {
    use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
    // 0 means plain text.
    BuildHasherDefault::<DefaultHasher>::default()
        .hash_one(format!("{context:?}"))
        .max(1)
}

/// Tells whether files of a context were replaced: their names, sizes and times. 0 for contexts that name none, so that
/// only those that do ask the file system.
fn files_state(certificate: Option<&CertificateSource>, validation: Option<&Validation>) -> u64 {
    let mut paths: Vec<&str> = Vec::new();
    if let Some(CertificateSource::Files { chain, key }) = certificate {
        paths.extend([&**chain, &**key]);
    }
    if let Some(TrustSource::File(roots)) = validation.map(|validation| &validation.trust) {
        paths.push(roots);
    }
    if paths.is_empty() {
        return 0;
    }
    let state = |path| {
        let metadata = std::fs::metadata(path).ok()?;
        Some((metadata.len(), metadata.modified().ok()?))
    };
    let states: Vec<_> = paths.into_iter().map(|path| (path, state(path))).collect();
    fingerprint(&states)
}

/// Whether both sides use mesh certificates: Istio's `ISTIO_MUTUAL`.
pub(super) fn is_mesh(tls: &UpstreamTls) -> bool {
    let own = matches!(&tls.certificate, Some(CertificateSource::Sds(_)));
    let theirs = matches!(&tls.validation, Some(validation) if matches!(validation.trust, TrustSource::Sds(_)));
    own && theirs
}

fn build_client(
    tls: &UpstreamTls,
    alpn: &[Arc<str>],
    credentials: Option<&Credentials>,
    is_named: bool,
) -> Result<Arc<ClientConfig>, TlsSetupError> {
    let alpn = alpn.iter().map(|protocol| protocol.as_bytes());
    let terms = terms(tls.versions, &tls.cipher_suites);
    if is_mesh(tls) {
        let credentials = credentials.ok_or(TlsSetupError::NoCredentials)?;
        known_secret(tls.certificate.as_ref())?;
        let sans = tls
            .validation
            .as_ref()
            .map_or(&[][..], |validation| &validation.sans);
        let mut client = ClientTls::new(&credentials.certificate, credentials.bundle.clone())
            .allow(identities(sans)?)
            .alpn(alpn)
            .terms(terms);
        if tls.max_session_keys == 0 {
            client = client.without_resumption();
        }
        if !is_named {
            client = client.without_sni();
        }
        return Ok(client.build()?);
    }
    let mut client = match &tls.validation {
        None => DnsClientTls::insecure_skip_verify(),
        Some(validation) => {
            let client = DnsClientTls::new(&roots(&validation.trust, credentials)?)?;
            if tls.auto_sni_san_validation && is_named {
                // The requested name takes the place of the configured ones.
                client
            } else {
                let (names, uris) = names(&validation.sans)?;
                client.names(names)?.uris(uris)
            }
        }
    };
    match &tls.certificate {
        None => {}
        Some(CertificateSource::Sds(_)) => {
            known_secret(tls.certificate.as_ref())?;
            let credentials = credentials.ok_or(TlsSetupError::NoCredentials)?;
            client = client.certificate(&credentials.certificate);
        }
        Some(CertificateSource::Files { chain, key }) => {
            let certificate =
                WorkloadCertificate::from_pem(&read(chain)?, &read(key)?, SystemTime::now())?;
            client = client.certificate(&certificate);
        }
    }
    if tls.max_session_keys == 0 {
        client = client.without_resumption();
    }
    if !is_named {
        client = client.without_name();
    }
    Ok(client.alpn(alpn).terms(terms).build()?)
}

fn build_server(
    tls: &DownstreamTls,
    with_alpn: bool,
    credentials: &Credentials,
) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let client_auth = match (&tls.validation, tls.require_client_certificate) {
        (_, true) => ClientAuth::Required,
        (Some(_), false) => ClientAuth::Optional,
        (None, false) => ClientAuth::None,
    };
    let from_files;
    let certificate = match &tls.certificate {
        CertificateSource::Sds(_) => {
            known_secret(Some(&tls.certificate))?;
            &credentials.certificate
        }
        CertificateSource::Files { chain, key } => {
            from_files =
                WorkloadCertificate::from_pem(&read(chain)?, &read(key)?, SystemTime::now())?;
            &from_files
        }
    };
    if tls.validation.as_ref().is_some_and(Validation::has_pins) {
        // What cannot be demanded must not be left out.
        return Err(TlsSetupError::PinnedWorkload);
    }
    let (bundle, sans) = match &tls.validation {
        None => (credentials.bundle.clone(), Vec::new()),
        Some(validation) => (
            trust(&validation.trust, credentials)?,
            identities(&validation.sans)?,
        ),
    };
    let server = ServerTls::new(certificate, bundle)
        .client_auth(client_auth)
        .allow(sans)
        .alpn(
            tls.alpn
                .iter()
                .filter(|_| with_alpn)
                .map(|protocol| protocol.as_bytes()),
        )
        .terms(terms(tls.versions, &tls.cipher_suites));
    Ok(server.build()?)
}

/// Only the workload's own secrets exist in a sidecar (Istio's `default` and `ROOTCA`).
fn known_secret(source: Option<&CertificateSource>) -> Result<(), TlsSetupError> {
    match source {
        Some(CertificateSource::Sds(name)) if &**name != meltemi_core::names::SDS_WORKLOAD => {
            Err(TlsSetupError::UnknownSecret(name.clone()))
        }
        _ => Ok(()),
    }
}

fn trust(
    source: &TrustSource,
    credentials: &Credentials,
) -> Result<Arc<TrustBundle>, TlsSetupError> {
    if let TrustSource::Sds(name) = source {
        return if &**name == meltemi_core::names::SDS_ROOT_CA {
            Ok(credentials.bundle.clone())
        } else {
            Err(TlsSetupError::UnknownSecret(name.clone()))
        };
    }
    let domain = credentials.certificate.identity().trust_domain.clone();
    Ok(Arc::new(TrustBundle::new(
        domain,
        &roots(source, Some(credentials))?,
    )?))
}

fn roots(
    source: &TrustSource,
    credentials: Option<&Credentials>,
) -> Result<Vec<u8>, TlsSetupError> {
    match source {
        TrustSource::Inline(pem) => Ok(pem.as_bytes().to_vec()),
        TrustSource::File(path) => read(path),
        TrustSource::Sds(_) => {
            let credentials = credentials.ok_or(TlsSetupError::NoCredentials)?;
            Ok(trust(source, credentials)?.to_pem().into_bytes())
        }
        TrustSource::System => {
            let found = SYSTEM_ROOTS
                .iter()
                .find_map(|path| std::fs::read(path).ok());
            found.ok_or(TlsSetupError::NoSystemRoots)
        }
    }
}

fn read(path: &Arc<str>) -> Result<Vec<u8>, TlsSetupError> {
    std::fs::read(&**path).map_err(|error| TlsSetupError::File(path.clone(), error))
}

fn exact(matcher: &SanMatcher) -> Result<&str, TlsSetupError> {
    match &matcher.matcher.pattern {
        StringPattern::Exact(text) => Ok(text),
        _ => Err(TlsSetupError::UnsupportedSan),
    }
}

fn identities(sans: &[SanMatcher]) -> Result<Vec<Identity>, TlsSetupError> {
    let identity = |matcher: &SanMatcher| match matcher.san_type {
        SanType::Any | SanType::Uri => exact(matcher)?
            .parse()
            .map_err(|_| TlsSetupError::UnsupportedSan),
        SanType::Dns | SanType::Email | SanType::IpAddress => Err(TlsSetupError::UnsupportedSan),
    };
    sans.iter().map(identity).collect()
}

/// The names that a server outside the mesh may have: those of hosts, and URIs. A text of no type (the deprecated
/// `match_subject_alt_names`) is what it looks like.
fn names(sans: &[SanMatcher]) -> Result<(Vec<String>, Vec<String>), TlsSetupError> {
    let (mut hosts, mut uris) = (Vec::new(), Vec::new());
    for san in sans {
        let text = exact(san)?.to_owned();
        match san.san_type {
            SanType::Uri => uris.push(text),
            SanType::Any if text.contains("://") => uris.push(text),
            SanType::Any | SanType::Dns | SanType::IpAddress => hosts.push(text),
            SanType::Email => return Err(TlsSetupError::UnsupportedSan),
        }
    }
    Ok((hosts, uris))
}

fn terms(versions: TlsVersions, cipher_suites: &[Arc<str>]) -> Terms {
    let version = |version| match version {
        TlsVersion::V1_2 => Version::V12,
        TlsVersion::V1_3 => Version::V13,
    };
    Terms {
        oldest: version(versions.min),
        newest: version(versions.max),
        cipher_suites: cipher_suites.iter().map(ToString::to_string).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_file_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| -> Arc<str> { folder.path().join(name).to_str().unwrap().into() };
        let source = CertificateSource::Files {
            chain: path("cert.pem"),
            key: path("key.pem"),
        };
        let missing = files_state(Some(&source), None);
        assert_eq!(missing, files_state(Some(&source), None));
        std::fs::write(&*path("cert.pem"), "old").unwrap();
        let old = files_state(Some(&source), None);
        std::fs::write(&*path("cert.pem"), "newer").unwrap();
        let new = files_state(Some(&source), None);
        assert!(missing != old && old != new);
        let sds = CertificateSource::Sds("default".into());
        assert_eq!(files_state(Some(&sds), None), 0);
    }
}
