//! TLS contexts and transport sockets, as Istio writes them.

use meltemi_api::istio::{
    ClientTlsMode, ClientTlsSettings, ServerTlsMode, ServerTlsSettings, TlsProtocol,
};
use meltemi_core::names::{SDS_ROOT_CA, SDS_WORKLOAD, alpn};
use meltemi_proto::envoy::config::core::v3::{
    ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService, TransportSocket,
    api_config_source, config_source, data_source, grpc_service,
};
use meltemi_proto::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, DownstreamTlsContext, SdsSecretConfig,
    SubjectAltNameMatcher, TlsCertificate, TlsParameters, UpstreamTlsContext, common_tls_context,
    subject_alt_name_matcher, tls_parameters,
};
use meltemi_proto::google::protobuf::Duration;
use meltemi_proto::type_url;

use crate::gateways::{authority_name, certificate_name};
use crate::wire;

const TLS: &str = "envoy.transport_sockets.tls";
const RAW_BUFFER: &str = "envoy.transport_sockets.raw_buffer";
/// The cluster of the local agent that serves certificates.
const SDS_CLUSTER: &str = "sds-grpc";
/// Where the system keeps its certification authorities on Debian and its likes.
const SYSTEM_ROOTS: &str = "/etc/ssl/certs/ca-certificates.crt";

/// What Istio offers to and asks of peers in the mesh.
const CIPHER_SUITES: [&str; 6] = [
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-GCM-SHA256",
];

/// The server side of mutual TLS with the workload certificate.
pub(crate) fn downstream_mutual(alpn_protocols: &[&str]) -> TransportSocket {
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: tls_parameters::TlsProtocol::TlSv12.into(),
                tls_maximum_protocol_version: tls_parameters::TlsProtocol::TlSv13.into(),
                cipher_suites: CIPHER_SUITES.map(str::to_owned).to_vec(),
                ..TlsParameters::default()
            }),
            ..workload_context(alpn_protocols, &[])
        }),
        require_client_certificate: wire::bool_value(true),
        ..DownstreamTlsContext::default()
    };
    wire::transport_socket(TLS, wire::any(&context))
}

/// The server side at the edge, for a server that ends TLS.
pub(crate) fn gateway(settings: &ServerTlsSettings, speaks_http: bool) -> TransportSocket {
    let offer: &[&str] = if speaks_http {
        &[alpn::H2, alpn::HTTP11]
    } else {
        &[]
    };
    let common = match settings.mode {
        ServerTlsMode::IstioMutual => workload_context(offer, &settings.subject_alt_names),
        _ => CommonTlsContext {
            alpn_protocols: offer.iter().map(|&name| name.to_owned()).collect(),
            ..presented(settings)
        },
    };
    let is_required = matches!(
        settings.mode,
        ServerTlsMode::Mutual | ServerTlsMode::IstioMutual
    );
    let context = DownstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(parameters(settings)),
            ..common
        }),
        require_client_certificate: wire::bool_value(is_required),
        ..DownstreamTlsContext::default()
    };
    wire::transport_socket(TLS, wire::any(&context))
}

fn parameters(settings: &ServerTlsSettings) -> TlsParameters {
    use tls_parameters::TlsProtocol as Wire;
    let cipher_suites = match &settings.cipher_suites[..] {
        [] => CIPHER_SUITES.map(str::to_owned).to_vec(),
        given => given.to_vec(),
    };
    let newest = match settings.max_protocol_version {
        TlsProtocol::V1_2 => Wire::TlSv12,
        _ => Wire::TlSv13,
    };
    let oldest = match settings.min_protocol_version {
        TlsProtocol::V1_3 => Wire::TlSv13,
        _ => Wire::TlSv12,
    };
    TlsParameters {
        tls_minimum_protocol_version: oldest.into(),
        tls_maximum_protocol_version: newest.into(),
        cipher_suites,
        ..TlsParameters::default()
    }
}

/// What is presented to clients and how theirs are verified: out of a Secret, or of files.
fn presented(settings: &ServerTlsSettings) -> CommonTlsContext {
    use common_tls_context::ValidationContextType as Validation;
    let files = TlsCertificate {
        certificate_chain: Some(file(&settings.server_certificate)),
        private_key: Some(file(&settings.private_key)),
        ..TlsCertificate::default()
    };
    let (secrets, files) = match certificate_name(settings) {
        Some(name) => (vec![ads_secret(&name)], Vec::new()),
        None => (Vec::new(), vec![files]),
    };
    let demands = CertificateValidationContext {
        match_typed_subject_alt_names: san_matchers(&settings.subject_alt_names),
        verify_certificate_spki: settings.verify_certificate_spki.clone(),
        verify_certificate_hash: settings.verify_certificate_hash.clone(),
        ..CertificateValidationContext::default()
    };
    let validation = if !settings.mode.verifies_clients() {
        None
    } else if let Some(name) = authority_name(settings) {
        Some(Validation::CombinedValidationContext(
            common_tls_context::CombinedCertificateValidationContext {
                default_validation_context: Some(demands),
                validation_context_sds_secret_config: Some(ads_secret(&name)),
                ..common_tls_context::CombinedCertificateValidationContext::default()
            },
        ))
    } else {
        Some(Validation::ValidationContext(
            CertificateValidationContext {
                trusted_ca: Some(file(&settings.ca_certificates)),
                ..demands
            },
        ))
    };
    CommonTlsContext {
        tls_certificate_sds_secret_configs: secrets,
        tls_certificates: files,
        validation_context_type: validation,
        ..CommonTlsContext::default()
    }
}

/// A secret from the control plane.
fn ads_secret(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(crate::clusters::ads()),
    }
}

/// The client side of mutual TLS with the workload certificate, to a server that proves one of `names`.
pub(crate) fn upstream_mutual(sni: &str, names: &[String], alpn: &[&str]) -> TransportSocket {
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_params: Some(TlsParameters {
                tls_minimum_protocol_version: tls_parameters::TlsProtocol::TlSv12.into(),
                tls_maximum_protocol_version: tls_parameters::TlsProtocol::TlSv13.into(),
                ..TlsParameters::default()
            }),
            ..workload_context(alpn, names)
        }),
        sni: sni.to_owned(),
        ..UpstreamTlsContext::default()
    };
    wire::transport_socket(TLS, wire::any(&context))
}

/// The client side of TLS to a server outside the mesh (DestinationRule modes SIMPLE and MUTUAL), which proves one of
/// `names` where there are any.
pub(crate) fn upstream_simple(
    settings: &ClientTlsSettings,
    names: &[String],
    http2: bool,
) -> TransportSocket {
    let roots = if settings.ca_certificates.is_empty() {
        SYSTEM_ROOTS
    } else {
        &settings.ca_certificates
    };
    let validation = if settings.insecure_skip_verify == Some(true) {
        // Nothing to trust and no name to have: whatever certificate is shown is taken.
        CertificateValidationContext::default()
    } else {
        CertificateValidationContext {
            trusted_ca: Some(file(roots)),
            match_typed_subject_alt_names: san_matchers(names),
            ..CertificateValidationContext::default()
        }
    };
    let certificates = (settings.mode == ClientTlsMode::Mutual).then(|| TlsCertificate {
        certificate_chain: Some(file(&settings.client_certificate)),
        private_key: Some(file(&settings.private_key)),
        ..TlsCertificate::default()
    });
    let alpn_protocols = if http2 {
        vec![alpn::H2.to_owned()]
    } else {
        Vec::new()
    };
    let context = UpstreamTlsContext {
        common_tls_context: Some(CommonTlsContext {
            tls_certificates: certificates.into_iter().collect(),
            alpn_protocols,
            validation_context_type: Some(
                common_tls_context::ValidationContextType::ValidationContext(validation),
            ),
            ..CommonTlsContext::default()
        }),
        sni: settings.sni.clone(),
        ..UpstreamTlsContext::default()
    };
    wire::transport_socket(TLS, wire::any(&context))
}

pub(crate) fn plaintext() -> TransportSocket {
    TransportSocket {
        name: RAW_BUFFER.to_owned(),
        config_type: Some(
            meltemi_proto::envoy::config::core::v3::transport_socket::ConfigType::TypedConfig(
                wire::empty_any(type_url::RAW_BUFFER),
            ),
        ),
    }
}

fn workload_context(alpn_protocols: &[&str], names: &[String]) -> CommonTlsContext {
    let validation = CertificateValidationContext {
        match_typed_subject_alt_names: san_matchers(names),
        ..CertificateValidationContext::default()
    };
    CommonTlsContext {
        alpn_protocols: alpn_protocols.iter().map(|&name| name.to_owned()).collect(),
        tls_certificate_sds_secret_configs: vec![sds(SDS_WORKLOAD)],
        validation_context_type: Some(
            common_tls_context::ValidationContextType::CombinedValidationContext(
                common_tls_context::CombinedCertificateValidationContext {
                    default_validation_context: Some(validation),
                    validation_context_sds_secret_config: Some(sds(SDS_ROOT_CA)),
                    ..common_tls_context::CombinedCertificateValidationContext::default()
                },
            ),
        ),
        ..CommonTlsContext::default()
    }
}

/// Differs from Istio: matchers are typed, by the form of the name, so that a DNS name cannot pass for a SPIFFE ID, nor
/// the reverse.
fn san_matchers(names: &[String]) -> Vec<SubjectAltNameMatcher> {
    use subject_alt_name_matcher::SanType;
    let san_type = |name: &str| {
        if name.contains("://") {
            SanType::Uri
        } else if name.parse::<std::net::IpAddr>().is_ok() {
            SanType::IpAddress
        } else {
            SanType::Dns
        }
    };
    let matcher = |name: &String| SubjectAltNameMatcher {
        san_type: san_type(name).into(),
        matcher: Some(wire::exact(name)),
        oid: String::new(),
    };
    names.iter().map(matcher).collect()
}

/// A secret from the local agent. Our own proxy recognises the two names and needs no agent.
fn sds(name: &str) -> SdsSecretConfig {
    let grpc = GrpcService {
        target_specifier: Some(grpc_service::TargetSpecifier::EnvoyGrpc(
            grpc_service::EnvoyGrpc {
                cluster_name: SDS_CLUSTER.to_owned(),
                ..grpc_service::EnvoyGrpc::default()
            },
        )),
        ..GrpcService::default()
    };
    let source = ApiConfigSource {
        api_type: api_config_source::ApiType::Grpc.into(),
        transport_api_version: ApiVersion::V3.into(),
        grpc_services: vec![grpc],
        set_node_on_first_message_only: true,
        ..ApiConfigSource::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            initial_fetch_timeout: Some(Duration::default()),
            resource_api_version: ApiVersion::V3.into(),
            config_source_specifier: Some(config_source::ConfigSourceSpecifier::ApiConfigSource(
                source,
            )),
            ..ConfigSource::default()
        }),
    }
}

fn file(path: &str) -> DataSource {
    DataSource {
        specifier: Some(data_source::Specifier::Filename(path.to_owned())),
        ..DataSource::default()
    }
}
