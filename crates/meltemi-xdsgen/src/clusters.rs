//! Outbound clusters: one per service port, and one per subset of it.

mod local;
mod policy;

use meltemi_api::istio::{ClientTlsMode, ClientTlsSettings, SimpleLb, TlsMode};
use meltemi_core::names::alpn;
use meltemi_core::{ClusterName, Hostname, ObjectRef};
use meltemi_model::{EffectivePolicy, HostRule, Resolution, Service, ServicePort};
use meltemi_proto::envoy::config::cluster::v3::{Cluster, Filter, cluster};
use meltemi_proto::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, Metadata, config_source,
};
use meltemi_proto::google::protobuf::Duration;
use meltemi_proto::google::protobuf::Struct;
use meltemi_proto::{metadata_exchange, type_url};

pub(crate) use local::{black_hole, inbound, standing};
use policy::UpstreamHttp;

use crate::inputs::Inputs;
use crate::{Flavour, endpoints, tls, wire};

/// A cluster of a service and what its endpoints need to know of it.
pub(crate) struct Target<'a> {
    pub(crate) service: &'a Service,
    pub(crate) port: &'a ServicePort,
    pub(crate) rule: Option<&'a HostRule>,
    /// Empty: the whole service.
    pub(crate) subset: &'a str,
}

impl<'a> Target<'a> {
    pub(crate) fn name(&self) -> ClusterName {
        ClusterName::outbound(
            self.port.number,
            self.subset,
            self.service.hostname.as_str(),
        )
    }

    pub(crate) fn policy(&self) -> EffectivePolicy<'a> {
        self.rule.map_or_else(EffectivePolicy::default, |rule| {
            rule.policy(self.port.number, rule.subset(self.subset))
        })
    }

    /// How endpoints are found; a PASSTHROUGH balancer connects where the client wanted.
    pub(crate) fn resolution(&self) -> Resolution {
        let balancer = self.policy().load_balancer.and_then(|lb| lb.simple);
        match balancer {
            Some(SimpleLb::Passthrough) if self.service.resolution == Resolution::Endpoints => {
                Resolution::Passthrough
            }
            _ => self.service.resolution,
        }
    }
}

/// Every cluster of a service, for this client: all proxied ports, whole and by subset.
pub(crate) fn targets<'a>(inputs: &Inputs<'a>, host: &Hostname) -> Vec<Target<'a>> {
    let Some(service) = inputs.service(host) else {
        return Vec::new();
    };
    let rule = inputs.destination_rule(host).map(AsRef::as_ref);
    let subsets = rule.into_iter().flat_map(|rule| &rule.rule.subsets);
    let names: Vec<&str> = std::iter::once("")
        .chain(subsets.map(|subset| subset.name.as_str()))
        .collect();
    let proxied = service
        .ports
        .iter()
        .filter(|port| port.protocol != meltemi_model::Protocol::Udp)
        .filter(|port| inputs.calls_port(service, port.number));
    proxied
        .flat_map(|port| {
            names.iter().map(move |&subset| Target {
                service,
                port,
                rule,
                subset,
            })
        })
        .collect()
}

pub(crate) fn outbound(inputs: &Inputs<'_>, target: &Target<'_>) -> Cluster {
    let name = target.name().to_string();
    let policy = target.policy();
    let mut cluster = policy::base(inputs, &name, policy.connection_pool);
    cluster.metadata = Some(metadata(target));
    discover(inputs, target, &mut cluster);
    policy::balance(&policy, target.resolution(), &mut cluster);
    if endpoints::Preference::of(inputs, target).is_weighted() {
        policy::weigh_localities(target.resolution(), &mut cluster);
    }
    if let Some(outlier) = policy.outlier_detection {
        policy::eject(outlier, &mut cluster);
    }
    let settings = policy.tls;
    let http = UpstreamHttp {
        may_upgrade: true,
        auto_sni: settings.is_some_and(sni_from_request),
        auto_san_validation: settings.is_some_and(san_from_request),
        ..UpstreamHttp::new(target.port.protocol, policy.connection_pool)
    };
    policy::speak(&http, &mut cluster);
    secure(inputs, target, settings, http.is_http2(), &mut cluster);
    if inputs.flavour() == Flavour::Meltemi {
        cluster.filters.push(metadata_exchange());
    }
    cluster
}

fn discover(inputs: &Inputs<'_>, target: &Target<'_>, cluster: &mut Cluster) {
    use cluster::DiscoveryType as Type;
    let discovery = match target.resolution() {
        Resolution::Endpoints => {
            cluster.eds_cluster_config = Some(cluster::EdsClusterConfig {
                eds_config: Some(ads()),
                service_name: cluster.name.clone(),
            });
            Type::Eds
        }
        Resolution::Passthrough => Type::OriginalDst,
        Resolution::StrictDns => Type::StrictDns,
        Resolution::LogicalDns => Type::LogicalDns,
    };
    if matches!(discovery, Type::StrictDns | Type::LogicalDns) {
        resolve_by_ttl(cluster);
        cluster.load_assignment = Some(endpoints::assignment(inputs, target));
    }
    cluster.cluster_discovery_type = Some(cluster::ClusterDiscoveryType::Type(discovery.into()));
}

/// Asks again when an answer's time is up, and each minute while there is none.
#[expect(
    deprecated,
    reason = "the fields that Istio sets; their successors are not known to all proxies"
)]
fn resolve_by_ttl(cluster: &mut Cluster) {
    cluster.respect_dns_ttl = true;
    cluster.dns_lookup_family = cluster::DnsLookupFamily::V4Only.into();
    cluster.dns_refresh_rate = Some(Duration {
        seconds: 60,
        nanos: 0,
    });
}

/// Resources over the stream that delivered this one, without a time limit for the first.
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        initial_fetch_timeout: Some(Duration::default()),
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(config_source::ConfigSourceSpecifier::Ads(
            AggregatedConfigSource::default(),
        )),
        ..ConfigSource::default()
    }
}

/// Chooses how connections are secured: what the DestinationRule says, else automatic mutual TLS per endpoint.
fn secure(
    inputs: &Inputs<'_>,
    target: &Target<'_>,
    settings: Option<&ClientTlsSettings>,
    http2: bool,
    cluster: &mut Cluster,
) {
    match settings.map(|tls| (tls.mode, tls)) {
        Some((ClientTlsMode::Disable, _)) => {}
        Some((ClientTlsMode::IstioMutual, tls)) => {
            cluster.transport_socket = Some(mutual(inputs, target, Some(tls), http2));
        }
        Some((ClientTlsMode::Simple | ClientTlsMode::Mutual, tls)) => {
            let names = names_outside(target, tls);
            cluster.transport_socket = Some(tls::upstream_simple(tls, names, http2));
        }
        None if !auto_mtls(inputs, target.service) => {}
        None if target.resolution() == Resolution::Passthrough => {
            if endpoints::all_accept_mtls(inputs, target) {
                cluster.transport_socket = Some(mutual(inputs, target, None, http2));
            }
        }
        None => {
            cluster.transport_socket_matches = automatic(mutual(inputs, target, None, http2));
        }
    }
}

/// What a server outside the mesh has to be called: what the rule says, else what its ServiceEntry says.
fn names_outside<'a>(target: &Target<'a>, tls: &'a ClientTlsSettings) -> &'a [String] {
    match tls.subject_alt_names.as_slice() {
        [] => &target.service.subject_alt_names,
        given => given,
    }
}

/// Automatic mutual TLS is on for the cluster unless the service is external or its namespace's mode is DISABLE.
pub(crate) fn auto_mtls(inputs: &Inputs<'_>, service: &Service) -> bool {
    inputs.config().enable_auto_mtls
        && !service.mesh_external
        && inputs.namespace_tls(&service.namespace).mode != TlsMode::Disable
}

fn automatic(
    mutual: meltemi_proto::envoy::config::core::v3::TransportSocket,
) -> Vec<cluster::TransportSocketMatch> {
    vec![
        cluster::TransportSocketMatch {
            name: "tlsMode-istio".to_owned(),
            r#match: Some(wire::strukt([("tlsMode", wire::text("istio"))])),
            transport_socket: Some(mutual),
        },
        cluster::TransportSocketMatch {
            name: "tlsMode-disabled".to_owned(),
            r#match: Some(Struct::default()),
            transport_socket: Some(tls::plaintext()),
        },
    ]
}

fn mutual(
    inputs: &Inputs<'_>,
    target: &Target<'_>,
    settings: Option<&ClientTlsSettings>,
    http2: bool,
) -> meltemi_proto::envoy::config::core::v3::TransportSocket {
    let given = settings.filter(|tls| !tls.subject_alt_names.is_empty());
    let names = match given {
        Some(tls) => tls.subject_alt_names.clone(),
        None if !target.service.subject_alt_names.is_empty() => {
            target.service.subject_alt_names.clone()
        }
        None => inputs.identities(&target.service.hostname),
    };
    let sni = match settings {
        Some(tls) if !tls.sni.is_empty() => tls.sni.clone(),
        _ => target.name().sni(),
    };
    tls::upstream_mutual(
        &sni,
        &names,
        client_alpn(inputs.flavour(), target.port, http2),
    )
}

/// The ALPN that the inbound side tells HTTP from TCP by. With the `istio.alpn` filter it is chosen per request; without
/// it, it has to be right for all connections of the cluster, and a sniffed port can only promise TCP.
fn client_alpn(flavour: Flavour, port: &ServicePort, http2: bool) -> &'static [&'static str] {
    match flavour {
        Flavour::Meltemi if http2 => &[alpn::ISTIO_PEER_EXCHANGE, alpn::ISTIO, alpn::H2],
        Flavour::Meltemi => &[alpn::ISTIO_PEER_EXCHANGE, alpn::ISTIO],
        Flavour::Envoy if http2 => &[alpn::ISTIO_H2, alpn::ISTIO, alpn::H2],
        Flavour::Envoy if port.protocol.is_http() => {
            &[alpn::ISTIO_HTTP11, alpn::ISTIO, alpn::HTTP11]
        }
        Flavour::Envoy => &[alpn::ISTIO],
    }
}

/// Without an SNI of its own, TLS to the outside takes the name from the request.
fn sni_from_request(tls: &ClientTlsSettings) -> bool {
    matches!(tls.mode, ClientTlsMode::Simple | ClientTlsMode::Mutual) && tls.sni.is_empty()
}

/// The certificate has to be for that name, unless the rule names others or wants none (Istio,
/// `VERIFY_CERTIFICATE_AT_CLIENT`, on by default).
fn san_from_request(tls: &ClientTlsSettings) -> bool {
    sni_from_request(tls)
        && tls.subject_alt_names.is_empty()
        && tls.insecure_skip_verify != Some(true)
}

/// What telemetry and tools read off a cluster: its service, its subset and the rule that shaped it.
fn metadata(target: &Target<'_>) -> Metadata {
    let mut fields = vec![("services", services_value(&[target.service]))];
    if target.service.mesh_external {
        fields.push(("external", wire::boolean(true)));
    }
    if let Some(origin) = target.rule.and_then(HostRule::origin) {
        fields.push(("config", wire::text(&config_path(origin))));
    }
    if !target.subset.is_empty() {
        fields.push(("subset", wire::text(target.subset)));
    }
    wire::metadata([("istio", wire::strukt(fields))])
}

fn services_value(services: &[&Service]) -> meltemi_proto::google::protobuf::Value {
    let value = |service: &&Service| {
        wire::value(wire::strukt([
            ("host", wire::text(service.hostname.as_str())),
            ("name", wire::text(&service.name)),
            ("namespace", wire::text(&service.namespace)),
        ]))
    };
    wire::list(services.iter().map(value).collect())
}

/// `/apis/networking.istio.io/v1/namespaces/default/destination-rule/reviews`.
pub(crate) fn config_path(object: &ObjectRef) -> String {
    let kind = match object.kind.as_str() {
        "DestinationRule" => "destination-rule",
        "VirtualService" => "virtual-service",
        other => other,
    };
    format!(
        "/apis/networking.istio.io/v1/namespaces/{}/{kind}/{}",
        object.namespace, object.name
    )
}

/// Tells the peer about this workload on TCP connections that agreed on `istio-peer-exchange`.
fn metadata_exchange() -> Filter {
    Filter {
        name: "istio.metadata_exchange".to_owned(),
        typed_config: Some(meltemi_proto::any::pack(
            type_url::TCP_METADATA_EXCHANGE,
            &metadata_exchange::MetadataExchange {
                protocol: alpn::ISTIO_PEER_EXCHANGE.to_owned(),
                ..metadata_exchange::MetadataExchange::default()
            },
        )),
        ..Filter::default()
    }
}
