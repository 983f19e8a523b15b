//! Servers at the edge: a certificate of their own, and clients that are verified by whom they are told to trust.

use std::sync::Arc;
use std::time::SystemTime;

use meltemi_pki::{EdgeClients, EdgeTls, ServingCertificate};
use meltemi_proxy_core::runtime::{CertificateSource, DownstreamTls, TrustSource, Validation};
use rustls::ServerConfig;

use super::{TlsSetupError, fingerprint, names, read, roots, terms};
use crate::secrets::{Content, Held, SecretStore, is_own};

/// Whether a server is none of the mesh's: it neither presents the workload's certificate nor trusts the mesh.
pub(super) fn is_edge(tls: &DownstreamTls) -> bool {
    let presents_own = !matches!(&tls.certificate, CertificateSource::Sds(name) if is_own(name));
    let trust = tls.validation.as_ref().map(|validation| &validation.trust);
    let trusts_mesh = matches!(trust, Some(TrustSource::Sds(name)) if is_own(name));
    presents_own && !trusts_mesh
}

/// Tells the contents of the secrets that a context names from those before.
pub(super) fn secrets_state(secrets: &SecretStore, tls: &DownstreamTls) -> u64 {
    let held = |name: &Arc<str>| secrets.get(name).map(|held| held.generation);
    let generations: Vec<Option<u64>> = tls.secret_names().map(held).collect();
    fingerprint(&generations)
}

/// A secret that is missing, or is another thing than asked for, refuses handshakes.
pub(super) fn build(
    secrets: &SecretStore,
    tls: &DownstreamTls,
    with_alpn: bool,
) -> Result<Arc<ServerConfig>, TlsSetupError> {
    let protocols = tls.alpn.iter().filter(|_| with_alpn);
    let server = EdgeTls::new(&certificate(secrets, &tls.certificate)?)
        .alpn(protocols.map(|protocol| protocol.as_bytes()))
        .terms(terms(tls.versions, &tls.cipher_suites));
    let server = match &tls.validation {
        None => server,
        Some(validation) => {
            let is_required = tls.require_client_certificate;
            server.clients(clients(secrets, validation, is_required)?)
        }
    };
    Ok(server.build()?)
}

fn held(secrets: &SecretStore, name: &Arc<str>) -> Result<Arc<Held>, TlsSetupError> {
    let unknown = || TlsSetupError::UnknownSecret(name.clone());
    secrets.get(name).ok_or_else(unknown)
}

fn certificate(
    secrets: &SecretStore,
    source: &CertificateSource,
) -> Result<ServingCertificate, TlsSetupError> {
    match source {
        CertificateSource::Sds(name) => match &held(secrets, name)?.content {
            Content::Certificate(certificate) => Ok(certificate.clone()),
            Content::Roots(_) => Err(TlsSetupError::UnknownSecret(name.clone())),
        },
        CertificateSource::Files { chain, key } => {
            let now = SystemTime::now();
            Ok(ServingCertificate::from_pem(
                &read(chain)?,
                &read(key)?,
                now,
            )?)
        }
    }
}

fn clients(
    secrets: &SecretStore,
    validation: &Validation,
    is_required: bool,
) -> Result<EdgeClients, TlsSetupError> {
    let trusted = match &validation.trust {
        TrustSource::Sds(name) => match &held(secrets, name)?.content {
            Content::Roots(pem) => pem.clone(),
            Content::Certificate(_) => return Err(TlsSetupError::UnknownSecret(name.clone())),
        },
        other => roots(other, None)?,
    };
    let (hosts, uris) = names(&validation.sans)?;
    let clients = EdgeClients::new(&trusted, is_required)?.named(hosts, uris)?;
    Ok(clients.pinned(
        &validation.certificate_hashes,
        &validation.public_key_hashes,
    ))
}
