use std::mem::take;

use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::transport_sockets::tls::v3 as proto;

use super::Scope;
use crate::runtime::{Secret, SecretContent};

/// Compiles what came by name (Envoy `Secret`). Whether its texts are certificates is seen when they are put to use.
pub(super) fn secret(scope: &Scope<'_>, mut secret: proto::Secret) -> Option<Secret> {
    use proto::secret::Type as T;
    let content = match secret.r#type.take() {
        Some(T::TlsCertificate(mut certificate)) => {
            let scope = scope.at("tls_certificate");
            let chain = certificate.certificate_chain.take();
            let key = certificate.private_key.take();
            let chain = inline(&scope.at("certificate_chain"), chain)?;
            let key = inline(&scope.at("private_key"), key)?;
            scope.rest(&certificate);
            SecretContent::Certificate { chain, key }
        }
        Some(T::ValidationContext(mut context)) => {
            let scope = scope.at("validation_context");
            let roots = context.trusted_ca.take();
            let roots = inline(&scope.at("trusted_ca"), roots)?;
            scope.rest(&context);
            SecretContent::Roots(roots)
        }
        Some(T::SessionTicketKeys(_)) => {
            return scope.at("session_ticket_keys").refuse("are not supported");
        }
        Some(T::GenericSecret(_)) => return scope.at("generic_secret").refuse("is not supported"),
        None => return scope.refuse("has no content"),
    };
    Some(Secret {
        name: take(&mut secret.name).into(),
        content,
    })
}

fn inline(scope: &Scope<'_>, source: Option<core::DataSource>) -> Option<Vec<u8>> {
    match source.and_then(|source| source.specifier) {
        Some(core::data_source::Specifier::InlineString(text)) => Some(text.into_bytes()),
        Some(core::data_source::Specifier::InlineBytes(bytes)) => Some(bytes),
        _ => scope.refuse("only inline text is supported"),
    }
}
