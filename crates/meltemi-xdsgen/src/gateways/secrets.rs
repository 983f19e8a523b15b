//! Certificates for the servers of a gateway, out of Secrets in its own namespace.

use std::collections::BTreeSet;

use meltemi_api::istio::ServerTlsSettings;
use meltemi_model::AUTHORITY_SUFFIX;
use meltemi_proto::envoy::config::core::v3::{DataSource, data_source};
use meltemi_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, Secret, TlsCertificate, secret,
};

use crate::inputs::Inputs;

/// What the names of these secrets begin with: the Secret is in the namespace of who asks.
const KUBERNETES: &str = "kubernetes://";

/// The name by which a server's certificate is asked for.
pub(crate) fn certificate_name(settings: &ServerTlsSettings) -> Option<String> {
    let name = &settings.credential_name;
    (!name.is_empty()).then(|| format!("{KUBERNETES}{name}"))
}

/// The name by which the authority of a server's clients is asked for.
pub(crate) fn authority_name(settings: &ServerTlsSettings) -> Option<String> {
    let own = &settings.credential_name;
    let name = match settings.ca_cert_credential_name.as_str() {
        "" => own,
        given => given,
    };
    let is_named = settings.mode.verifies_clients() && !name.is_empty();
    is_named.then(|| format!("{KUBERNETES}{name}{AUTHORITY_SUFFIX}"))
}

/// The secrets that Gateways name for the proxy.
///
/// A proxy says of itself which labels it has, so its word does not count here: the Gateway must select the workload that the
/// API server has at the proxy's address, of the namespace and service account that the proxy has proven to be of. Any other
/// proxy is given none.
pub(crate) fn secrets(inputs: &Inputs<'_>) -> Vec<Secret> {
    let Some(workload) = inputs.own_workload() else {
        return Vec::new();
    };
    let gateways = inputs.gateways();
    let selecting = gateways
        .into_iter()
        .filter(|gateway| gateway.selects(&workload.labels));
    let servers = selecting.flat_map(|gateway| &gateway.spec.servers);
    let mut certificates = BTreeSet::new();
    let mut authorities = BTreeSet::new();
    for tls in servers.filter_map(|server| server.tls.as_ref()) {
        certificates.extend(certificate_name(tls));
        authorities.extend(authority_name(tls));
    }
    let certificates = certificates.iter();
    let certificates = certificates.filter_map(|name| certificate(inputs, name));
    let authorities = authorities.iter();
    let authorities = authorities.filter_map(|name| authority(inputs, name));
    certificates.chain(authorities).collect()
}

fn certificate(inputs: &Inputs<'_>, name: &str) -> Option<Secret> {
    let credential = inputs.credential(name.strip_prefix(KUBERNETES)?)?;
    let pair = credential.pair.as_ref()?;
    Some(Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::TlsCertificate(TlsCertificate {
            certificate_chain: inline(&pair.chain),
            private_key: inline(&pair.key),
            ..TlsCertificate::default()
        })),
    })
}

/// Of a Secret with the suffix, else of the one with the certificate.
fn authority(inputs: &Inputs<'_>, name: &str) -> Option<Secret> {
    let full = name.strip_prefix(KUBERNETES)?;
    let of = |name: &str| inputs.credential(name)?.authority.as_ref();
    let authority = of(full).or_else(|| of(full.strip_suffix(AUTHORITY_SUFFIX)?))?;
    Some(Secret {
        name: name.to_owned(),
        r#type: Some(secret::Type::ValidationContext(
            CertificateValidationContext {
                trusted_ca: inline(authority),
                ..CertificateValidationContext::default()
            },
        )),
    })
}

fn inline(pem: &[u8]) -> Option<DataSource> {
    Some(DataSource {
        specifier: Some(data_source::Specifier::InlineBytes(pem.to_vec())),
        ..DataSource::default()
    })
}
