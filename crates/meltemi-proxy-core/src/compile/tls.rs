use std::mem::take;
use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3 as core;
use meltemi_proto::envoy::extensions::transport_sockets::tls::v3 as proto;
use meltemi_proto::type_url;

use super::Scope;
use super::common::{is_true, number, resolve, string_matcher, unpack};
use crate::runtime::{
    CertificateSource, DownstreamTls, SanMatcher, SanType, TlsVersion, TlsVersions, TrustSource,
    UpstreamTls, Validation,
};

/// `Some(None)` is cleartext.
pub(super) fn downstream_socket(
    scope: &Scope<'_>,
    socket: Option<core::TransportSocket>,
) -> Option<Option<Arc<DownstreamTls>>> {
    let Some(config) = socket_config(scope, socket)? else {
        return Some(None);
    };
    match config.type_url.as_str() {
        type_url::RAW_BUFFER => Some(None),
        type_url::DOWNSTREAM_TLS => {
            let scope = scope.at("typed_config");
            downstream(&scope, unpack(&scope, &config)?).map(|tls| Some(Arc::new(tls)))
        }
        other => scope
            .at("typed_config")
            .refuse(format!("{other} is not supported")),
    }
}

/// `Some(None)` is cleartext.
pub(super) fn upstream_socket(
    scope: &Scope<'_>,
    socket: Option<core::TransportSocket>,
) -> Option<Option<Arc<UpstreamTls>>> {
    let Some(config) = socket_config(scope, socket)? else {
        return Some(None);
    };
    match config.type_url.as_str() {
        type_url::RAW_BUFFER => Some(None),
        type_url::UPSTREAM_TLS => {
            let scope = scope.at("typed_config");
            upstream(&scope, unpack(&scope, &config)?).map(|tls| Some(Arc::new(tls)))
        }
        other => scope
            .at("typed_config")
            .refuse(format!("{other} is not supported")),
    }
}

/// The typed configuration; `Some(None)` for `raw_buffer` by name alone, as Istio writes `tlsMode-disabled`.
fn socket_config(
    scope: &Scope<'_>,
    socket: Option<core::TransportSocket>,
) -> Option<Option<meltemi_proto::google::protobuf::Any>> {
    use core::transport_socket::ConfigType as C;
    let Some(socket) = socket else {
        return Some(None);
    };
    match socket.config_type {
        Some(C::TypedConfig(config)) => resolve(&scope.at("typed_config"), &config).map(Some),
        None if socket.name == "envoy.transport_sockets.raw_buffer" => Some(None),
        None => scope.at("typed_config").refuse("is required"),
    }
}

fn downstream(
    scope: &Scope<'_>,
    mut context: proto::DownstreamTlsContext,
) -> Option<DownstreamTls> {
    let require_client_certificate = is_true(context.require_client_certificate.take(), false);
    // How sessions resume is the TLS library's business; tickets are bound to the validation context there.
    context.disable_stateful_session_resumption = false;
    context.session_timeout = None;
    context.session_ticket_keys_type = context.session_ticket_keys_type.filter(|keys| {
        !matches!(
            keys,
            proto::downstream_tls_context::SessionTicketKeysType::DisableStatelessSessionResumption(
                _
            )
        )
    });
    let common = context.common_tls_context.take().unwrap_or_default();
    scope.rest(&context);
    let common = common_context(&scope.at("common_tls_context"), common)?;
    if common.is_unverified {
        return scope
            .at("common_tls_context.validation_context.trusted_ca")
            .refuse("is required");
    }
    let Some(certificate) = common.certificate else {
        return scope.at("common_tls_context").refuse("has no certificate");
    };
    if require_client_certificate && common.validation.is_none() {
        return scope
            .at("require_client_certificate")
            .refuse("needs a validation context");
    }
    Some(DownstreamTls {
        certificate,
        validation: common.validation,
        require_client_certificate,
        alpn: common.alpn,
        versions: common.versions,
        cipher_suites: common.cipher_suites,
    })
}

fn upstream(scope: &Scope<'_>, mut context: proto::UpstreamTlsContext) -> Option<UpstreamTls> {
    let sni = Some(take(&mut context.sni))
        .filter(|sni| !sni.is_empty())
        .map(Into::into);
    let auto_host_sni = take(&mut context.auto_host_sni);
    let auto_sni_san_validation = take(&mut context.auto_sni_san_validation);
    let max_session_keys = number(context.max_session_keys.take()).unwrap_or(1);
    context.enforce_rsa_key_usage = None; // the TLS library always enforces it
    let common = context.common_tls_context.take().unwrap_or_default();
    scope.rest(&context);
    let common = common_context(&scope.at("common_tls_context"), common)?;
    if common.validation.as_ref().is_some_and(Validation::has_pins) {
        return scope
            .at("common_tls_context.validation_context")
            .refuse("pinned certificates of upstreams are not supported");
    }
    Some(UpstreamTls {
        certificate: common.certificate,
        validation: common.validation,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        alpn: common.alpn,
        versions: common.versions,
        cipher_suites: common.cipher_suites,
        max_session_keys,
    })
}

struct Common {
    certificate: Option<CertificateSource>,
    validation: Option<Validation>,
    /// There is a validation context that trusts nobody in particular.
    is_unverified: bool,
    alpn: Arc<[Arc<str>]>,
    versions: TlsVersions,
    cipher_suites: Arc<[Arc<str>]>,
}

fn common_context(scope: &Scope<'_>, mut context: proto::CommonTlsContext) -> Option<Common> {
    let alpn = take(&mut context.alpn_protocols)
        .into_iter()
        .map(Into::into)
        .collect();
    let mut parameters = context.tls_params.take().unwrap_or_default();
    let versions = versions(&scope.at("tls_params"), &mut parameters)?;
    let cipher_suites = take(&mut parameters.cipher_suites)
        .into_iter()
        .map(Into::into)
        .collect();
    scope.at("tls_params").rest(&parameters);
    let certificate = certificate(scope, &mut context)?;
    let (validation, is_unverified) = match context.validation_context_type.take() {
        None => (None, false),
        Some(validation) => {
            let validation = validation_context(scope, validation)?;
            let is_unverified = validation.is_none();
            (validation, is_unverified)
        }
    };
    scope.rest(&context);
    Some(Common {
        certificate,
        validation,
        is_unverified,
        alpn,
        versions,
        cipher_suites,
    })
}

fn versions(scope: &Scope<'_>, parameters: &mut proto::TlsParameters) -> Option<TlsVersions> {
    use proto::tls_parameters::TlsProtocol as P;
    let bound = |field: &str, value: i32, default| match P::try_from(value) {
        Ok(P::TlsAuto) => Some(default),
        Ok(P::TlSv12) => Some(TlsVersion::V1_2),
        Ok(P::TlSv13) => Some(TlsVersion::V1_3),
        _ => scope.at(field).refuse("TLS below 1.2 is not supported"),
    };
    let min = take(&mut parameters.tls_minimum_protocol_version);
    let max = take(&mut parameters.tls_maximum_protocol_version);
    let versions = TlsVersions {
        min: bound("tls_minimum_protocol_version", min, TlsVersion::V1_2)?,
        max: bound("tls_maximum_protocol_version", max, TlsVersion::V1_3)?,
    };
    if versions.min > versions.max {
        return scope.refuse("the minimum version is above the maximum");
    }
    Some(versions)
}

fn certificate(
    scope: &Scope<'_>,
    context: &mut proto::CommonTlsContext,
) -> Option<Option<CertificateSource>> {
    let mut secrets = take(&mut context.tls_certificate_sds_secret_configs);
    let mut inline = take(&mut context.tls_certificates);
    match (secrets.len(), inline.len()) {
        (0, 0) => Some(None),
        (1, 0) => Some(
            secrets
                .pop()
                .map(|secret| CertificateSource::Sds(secret.name.into())),
        ),
        (0, 1) => {
            let list = scope.at("tls_certificates");
            certificate_files(&list.index(0), inline.pop().unwrap_or_default()).map(Some)
        }
        _ => scope.refuse("more than one certificate is not supported"),
    }
}

fn certificate_files(
    scope: &Scope<'_>,
    mut certificate: proto::TlsCertificate,
) -> Option<CertificateSource> {
    let chain = filename(
        &scope.at("certificate_chain"),
        certificate.certificate_chain.take(),
    )?;
    let key = filename(&scope.at("private_key"), certificate.private_key.take())?;
    scope.rest(&certificate);
    Some(CertificateSource::Files { chain, key })
}

fn filename(scope: &Scope<'_>, source: Option<core::DataSource>) -> Option<Arc<str>> {
    match source.and_then(|source| source.specifier) {
        Some(core::data_source::Specifier::Filename(path)) => Some(path.into()),
        _ => scope.refuse("only a filename is supported"),
    }
}

/// `Some(None)` verifies nothing: as in Envoy a context without authorities, Istio's `insecureSkipVerify`. Names alone prove
/// nothing, and are refused there as here.
fn validation_context(
    scope: &Scope<'_>,
    context: proto::common_tls_context::ValidationContextType,
) -> Option<Option<Validation>> {
    use proto::common_tls_context::ValidationContextType as V;
    match context {
        V::ValidationContext(context) => {
            let scope = scope.at("validation_context");
            let (trust, demands) = certificate_validation(&scope, context)?;
            match trust {
                Some(trust) => Some(Some(demands.of(trust))),
                None if demands.is_empty() => Some(None),
                None => scope
                    .at("trusted_ca")
                    .refuse("is required where names are to be verified"),
            }
        }
        V::ValidationContextSdsSecretConfig(secret) => {
            Some(Some(Demands::default().of(trust_secret(&secret.name))))
        }
        V::CombinedValidationContext(combined) => {
            let scope = scope.at("combined_validation_context");
            let default = combined.default_validation_context.unwrap_or_default();
            let (trust, demands) =
                certificate_validation(&scope.at("default_validation_context"), default)?;
            let secret = combined.validation_context_sds_secret_config;
            match secret.map(|secret| trust_secret(&secret.name)).or(trust) {
                Some(trust) => Some(Some(demands.of(trust))),
                None => scope
                    .at("validation_context_sds_secret_config")
                    .refuse("is required"),
            }
        }
        _ => scope.refuse("certificate provider instances are not supported"),
    }
}

/// Istio names files and the system's roots in SDS names: `file-root:PATH`, `file-root:system`.
fn trust_secret(name: &str) -> TrustSource {
    match name.strip_prefix("file-root:") {
        Some("system") => TrustSource::System,
        Some(path) => TrustSource::File(path.into()),
        None => TrustSource::Sds(name.into()),
    }
}

/// What a certificate has to have besides a chain to a root.
#[derive(Default)]
struct Demands {
    sans: Vec<SanMatcher>,
    certificate_hashes: Vec<[u8; 32]>,
    public_key_hashes: Vec<[u8; 32]>,
}

impl Demands {
    fn is_empty(&self) -> bool {
        self.sans.is_empty()
            && self.certificate_hashes.is_empty()
            && self.public_key_hashes.is_empty()
    }

    fn of(self, trust: TrustSource) -> Validation {
        Validation {
            trust,
            sans: self.sans.into(),
            certificate_hashes: self.certificate_hashes.into(),
            public_key_hashes: self.public_key_hashes.into(),
        }
    }
}

/// Hexadecimal digits, with or without colons (Envoy `verify_certificate_hash`).
fn certificate_hash(scope: &Scope<'_>, text: String) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|c| *c != b':').collect();
    let digit = |c: u8| {
        char::from(c)
            .to_digit(16)
            .and_then(|d| u8::try_from(d).ok())
    };
    let bytes = digits.chunks(2).map(|pair| match pair {
        [high, low] => Some(digit(*high)? << 4 | digit(*low)?),
        _ => None,
    });
    let bytes: Option<Vec<u8>> = bytes.collect();
    let hash = bytes.and_then(|bytes| bytes.try_into().ok());
    hash.map_or_else(
        || scope.refuse("is not a SHA-256 in hexadecimal digits"),
        Some,
    )
}

/// Base64 (Envoy `verify_certificate_spki`).
fn public_key_hash(scope: &Scope<'_>, text: String) -> Option<[u8; 32]> {
    use base64::Engine as _;
    let bytes = base64::engine::general_purpose::STANDARD.decode(text);
    let hash = bytes.ok().and_then(|bytes| bytes.try_into().ok());
    hash.map_or_else(|| scope.refuse("is not a SHA-256 in base64"), Some)
}

fn certificate_validation(
    scope: &Scope<'_>,
    mut context: proto::CertificateValidationContext,
) -> Option<(Option<TrustSource>, Demands)> {
    use core::data_source::Specifier as S;
    let trust = match context
        .trusted_ca
        .take()
        .and_then(|source| source.specifier)
    {
        None => context
            .system_root_certs
            .take()
            .map(|_| TrustSource::System),
        Some(S::Filename(path)) => Some(TrustSource::File(path.into())),
        Some(S::InlineString(pem)) => Some(TrustSource::Inline(pem.into())),
        Some(S::InlineBytes(pem)) => match String::from_utf8(pem) {
            Ok(pem) => Some(TrustSource::Inline(pem.into())),
            Err(_) => return scope.at("trusted_ca").refuse("is not PEM"),
        },
        Some(S::EnvironmentVariable(_)) => {
            return scope
                .at("trusted_ca")
                .refuse("environment variables are not supported");
        }
    };
    let any = scope.each(
        "match_subject_alt_names",
        take(&mut context.match_subject_alt_names),
        |scope, matcher| {
            let matcher = string_matcher(scope, matcher)?;
            Some(SanMatcher {
                san_type: SanType::Any,
                matcher,
            })
        },
    );
    let typed = scope.each(
        "match_typed_subject_alt_names",
        take(&mut context.match_typed_subject_alt_names),
        san_matcher,
    );
    let demands = Demands {
        sans: any.into_iter().chain(typed).collect(),
        certificate_hashes: scope.each(
            "verify_certificate_hash",
            take(&mut context.verify_certificate_hash),
            certificate_hash,
        ),
        public_key_hashes: scope.each(
            "verify_certificate_spki",
            take(&mut context.verify_certificate_spki),
            public_key_hash,
        ),
    };
    context.suppress_client_ca_list = false; // we never send the list
    scope.rest(&context);
    Some((trust, demands))
}

fn san_matcher(scope: &Scope<'_>, value: proto::SubjectAltNameMatcher) -> Option<SanMatcher> {
    use proto::subject_alt_name_matcher::SanType as T;
    let san_type = match T::try_from(value.san_type) {
        Ok(T::Dns) => SanType::Dns,
        Ok(T::Uri) => SanType::Uri,
        Ok(T::Email) => SanType::Email,
        Ok(T::IpAddress) => SanType::IpAddress,
        _ => return scope.at("san_type").refuse("is not supported"),
    };
    match value.matcher {
        Some(matcher) => Some(SanMatcher {
            san_type,
            matcher: string_matcher(&scope.at("matcher"), matcher)?,
        }),
        None => scope.at("matcher").refuse("is required"),
    }
}
