use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use meltemi_core::{Identity, TrustDomain};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{verify_tls12_signature, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, OtherError, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, VerifiedPath};

use crate::bundle::Roots;
use crate::leaf;
use crate::provider::signature_algorithms;
use crate::{Leaf, LeafError, TrustBundle, Usage, Validity};

/// Why a peer's certificate was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Leaf(#[from] LeafError),
    #[error("no root is known for trust domain \"{0}\"")]
    UnknownTrustDomain(TrustDomain),
    #[error("the peer is {peer}, expected {}", OneOf(.expected))]
    UnexpectedIdentity {
        peer: Box<Identity>,
        expected: Vec<Identity>,
    },
    #[error("the certificate of {0} has expired")]
    Expired(String),
    #[error("the certificate of {0} is not valid yet")]
    NotValidYet(String),
    #[error("the certificate of {peer} does not chain to a trusted, unexpired root: {reason}")]
    Chain { peer: String, reason: String },
    #[error("the certificate is for none of the names {0:?}")]
    Name(Vec<String>),
    #[error("neither the certificate nor its public key is one of those that are pinned")]
    NotPinned,
}

struct OneOf<'a>(&'a [Identity]);

impl fmt::Display for OneOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More are counted, not listed.
        const SHOWN: usize = 4;
        for (i, identity) in self.0.iter().take(SHOWN).enumerate() {
            write!(f, "{}{identity}", if i > 0 { " or " } else { "" })?;
        }
        match self.0.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, " or one of {more} more"),
        }
    }
}

/// The cause of a failed handshake in words for an operator: rustls prints our own causes in debug form only.
pub fn explain(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(cause))) => {
            let mut text = cause.to_string();
            let mut source = StdError::source(&**cause);
            while let Some(cause) = source {
                text.push_str(": ");
                text.push_str(&cause.to_string());
                source = cause.source();
            }
            text
        }
        other => other.to_string(),
    }
}

impl From<VerifyError> for rustls::Error {
    fn from(error: VerifyError) -> Self {
        Self::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error))))
    }
}

/// Checks a mesh peer: one URI SAN with a workload's SPIFFE ID, the usage, and a chain to an unexpired root of the
/// identity's own trust domain.
pub(crate) fn verify_workload(
    bundle: &TrustBundle,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
) -> Result<Identity, VerifyError> {
    let identity = Leaf::parse_for(leaf, usage)?.identity;
    let roots = bundle
        .of(&identity.trust_domain)
        .ok_or_else(|| VerifyError::UnknownTrustDomain(identity.trust_domain.clone()))?;
    let peer = || identity.to_string();
    verify_chain(roots, leaf, intermediates, now, usage, &peer)?;
    Ok(identity)
}

pub(crate) fn verify_chain(
    roots: &Roots,
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
    peer: &dyn Fn() -> String,
) -> Result<(), VerifyError> {
    let at = system_time(now);
    let verified = roots.verified();
    if verified.contains(usage, leaf, intermediates, at) {
        return Ok(());
    }
    if let Some(validity) = verify_anew(roots, leaf, intermediates, now, usage, peer)? {
        verified.remember(usage, leaf, intermediates, validity);
    }
    Ok(())
}

/// Verifies a chain and returns the time in which that has the same result, if it can be told.
fn verify_anew(
    roots: &Roots,
    end_entity_der: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    now: UnixTime,
    usage: Usage,
    peer: &dyn Fn() -> String,
) -> Result<Option<Validity>, VerifyError> {
    let at = system_time(now);
    let root_valid = |path: &VerifiedPath<'_>| match roots.anchor_validity(path.anchor(), at) {
        Some(_) => Ok(()),
        None => Err(webpki::Error::UnknownIssuer),
    };
    let usage = match usage {
        Usage::ServerAuth => KeyUsage::server_auth(),
        Usage::ClientAuth => KeyUsage::client_auth(),
    };
    let failed = |error| match error {
        webpki::Error::CertExpired { .. } => VerifyError::Expired(peer()),
        webpki::Error::CertNotValidYet { .. } => VerifyError::NotValidYet(peer()),
        other => VerifyError::Chain {
            peer: peer(),
            reason: other.to_string(),
        },
    };
    let end_entity = EndEntityCert::try_from(end_entity_der).map_err(failed)?;
    let path = end_entity
        .verify_for_usage(
            signature_algorithms().all,
            roots.anchors(),
            intermediates,
            now,
            usage,
            None,
            Some(&root_valid),
        )
        .map_err(failed)?;
    let validity = |der: &CertificateDer<'_>| leaf::parse(der).ok().map(|x509| Validity::of(&x509));
    let root = roots.anchor_validity(path.anchor(), at);
    let rest = path
        .intermediate_certificates()
        .map(|cert| validity(&cert.der()));
    let all = rest.chain([validity(end_entity_der), root]);
    Ok(all.reduce(|all, one| Some(all?.and(one?))).flatten())
}

pub(crate) fn system_time(now: UnixTime) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

pub(crate) fn unix_time(now: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default())
}

/// Signature checks are the same for every verifier; rustls has no default for them.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls12_signature(message, cert, dss, &signature_algorithms())
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            dss: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, rustls::Error> {
            verify_tls13_signature(message, cert, dss, &signature_algorithms())
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            signature_algorithms().supported_schemes()
        }
    };
}

pub(crate) use handshake_signatures;

/// Verifies an upstream of the mesh: its identity must be one of `allowed`, or any that the bundle vouches for when
/// `allowed` is empty. The server name plays no part.
#[derive(Debug)]
pub(crate) struct UpstreamVerifier {
    pub(crate) bundle: Arc<TrustBundle>,
    pub(crate) allowed: BTreeSet<Identity>,
}

impl ServerCertVerifier for UpstreamVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let peer = verify_workload(
            &self.bundle,
            end_entity,
            intermediates,
            now,
            Usage::ServerAuth,
        )?;
        check_allowed(peer, &self.allowed)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

fn check_allowed(peer: Identity, allowed: &BTreeSet<Identity>) -> Result<(), VerifyError> {
    if allowed.is_empty() || allowed.contains(&peer) {
        return Ok(());
    }
    Err(VerifyError::UnexpectedIdentity {
        peer: Box::new(peer),
        expected: allowed.iter().cloned().collect(),
    })
}

/// Verifies a server outside the mesh against given roots, by name.
#[derive(Debug)]
pub(crate) struct DnsVerifier {
    pub(crate) roots: Roots,
    /// Names of which the certificate must have one, of these or of `uris`.
    pub(crate) names: Vec<ServerName<'static>>,
    pub(crate) uris: Vec<String>,
    /// Where none are given it must have the requested server name.
    pub(crate) checks_requested: bool,
}

impl DnsVerifier {
    fn check_names(
        &self,
        end_entity: &CertificateDer<'_>,
        requested: &ServerName<'_>,
    ) -> Result<(), rustls::Error> {
        let malformed = || rustls::Error::InvalidCertificate(CertificateError::BadEncoding);
        let leaf = EndEntityCert::try_from(end_entity).map_err(|_| malformed())?;
        let has = |name: &ServerName<'_>| leaf.verify_is_valid_for_subject_name(name).is_ok();
        let text = |name: &ServerName<'_>| name.to_str().into_owned();
        if self.names.is_empty() && self.uris.is_empty() {
            if self.checks_requested && !has(requested) {
                return Err(VerifyError::Name(vec![text(requested)]).into());
            }
            return Ok(());
        }
        let has_uri = || {
            let parsed = leaf::parse(end_entity)?;
            let uris = leaf::uris(&parsed)?;
            Ok::<_, LeafError>(uris.iter().any(|uri| self.uris.iter().any(|u| u == uri)))
        };
        let is_named = self.names.iter().any(has)
            || (!self.uris.is_empty() && has_uri().map_err(|_| malformed())?);
        if is_named {
            return Ok(());
        }
        let names = self.names.iter().map(text);
        let wanted = names.chain(self.uris.iter().cloned()).collect();
        Err(VerifyError::Name(wanted).into())
    }
}

impl ServerCertVerifier for DnsVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let peer = || server_name.to_str().into_owned();
        verify_chain(
            &self.roots,
            end_entity,
            intermediates,
            now,
            Usage::ServerAuth,
            &peer,
        )?;
        self.check_names(end_entity, server_name)?;
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Verifies nothing but the handshake's signature: Envoy without a validation context, Istio's `insecureSkipVerify`.
#[derive(Debug)]
pub(crate) struct NoVerifier;

impl ServerCertVerifier for NoVerifier {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

/// Verifies a downstream of the mesh. The bundle is read at each handshake, so that a server that lives longer than a
/// bundle can follow it.
#[derive(Debug)]
pub(crate) struct DownstreamVerifier {
    pub(crate) bundle: Arc<ArcSwap<TrustBundle>>,
    pub(crate) allowed: BTreeSet<Identity>,
    pub(crate) mandatory: bool,
}

impl ClientCertVerifier for DownstreamVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    /// No hints, as Envoy sends none: they would tell a stranger which roots we trust.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let bundle = self.bundle.load();
        let peer = verify_workload(&bundle, end_entity, intermediates, now, Usage::ClientAuth)?;
        check_allowed(peer, &self.allowed)?;
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}
