//! TLS contexts and transport sockets, as Istio writes them.

use meltemi_api::istio::{ClientTlsMode, ClientTlsSettings};
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
