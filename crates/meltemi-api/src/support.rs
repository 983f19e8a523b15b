//! What the system recognises but does not act on yet, in one table per kind. Whatever is listed is not decoded, and
//! using it is a warning; remove a line when the feature arrives.

use meltemi_core::FieldPath;

use crate::object::Kind;
use crate::tree::{Step, camel_case, steps};

/// A kind that users may apply but that nothing reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unread {
    /// Ignoring it leaves traffic unprotected that its author believes protected.
    Security,
    Mesh,
    /// Kubernetes' own; the mesh has no use for it.
    Kubernetes,
}

/// Kinds that are recognised only: group, kind, why.
pub(crate) const UNREAD_KINDS: &[(&str, &str, Unread)] = &[
    ("networking.istio.io", "EnvoyFilter", Unread::Mesh),
    ("networking.istio.io", "WorkloadGroup", Unread::Mesh),
    ("networking.istio.io", "ProxyConfig", Unread::Mesh),
    ("telemetry.istio.io", "Telemetry", Unread::Mesh),
    ("extensions.istio.io", "WasmPlugin", Unread::Mesh),
    ("extensions.istio.io", "TrafficExtension", Unread::Mesh),
    ("gateway.networking.k8s.io", "GatewayClass", Unread::Mesh),
    ("gateway.networking.k8s.io", "Gateway", Unread::Mesh),
    ("gateway.networking.k8s.io", "HTTPRoute", Unread::Mesh),
    ("gateway.networking.k8s.io", "GRPCRoute", Unread::Mesh),
    ("gateway.networking.k8s.io", "TLSRoute", Unread::Mesh),
    ("gateway.networking.k8s.io", "TCPRoute", Unread::Mesh),
    ("gateway.networking.k8s.io", "ReferenceGrant", Unread::Mesh),
    ("networking.k8s.io", "Ingress", Unread::Mesh),
    ("networking.k8s.io", "NetworkPolicy", Unread::Security),
    ("networking.k8s.io", "IngressClass", Unread::Kubernetes),
    ("", "Endpoints", Unread::Kubernetes),
    ("", "Event", Unread::Kubernetes),
    ("", "LimitRange", Unread::Kubernetes),
    ("", "PersistentVolume", Unread::Kubernetes),
    ("", "PersistentVolumeClaim", Unread::Kubernetes),
    ("", "ReplicationController", Unread::Kubernetes),
    ("", "ResourceQuota", Unread::Kubernetes),
    ("apps", "ControllerRevision", Unread::Kubernetes),
    ("apps", "DaemonSet", Unread::Kubernetes),
    ("autoscaling", "HorizontalPodAutoscaler", Unread::Kubernetes),
    ("batch", "CronJob", Unread::Kubernetes),
    ("policy", "PodDisruptionBudget", Unread::Kubernetes),
    ("rbac.authorization.k8s.io", "Role", Unread::Kubernetes),
    (
        "rbac.authorization.k8s.io",
        "RoleBinding",
        Unread::Kubernetes,
    ),
    (
        "rbac.authorization.k8s.io",
        "ClusterRole",
        Unread::Kubernetes,
    ),
    (
        "rbac.authorization.k8s.io",
        "ClusterRoleBinding",
        Unread::Kubernetes,
    ),
    (
        "apiextensions.k8s.io",
        "CustomResourceDefinition",
        Unread::Kubernetes,
    ),
    (
        "admissionregistration.k8s.io",
        "MutatingWebhookConfiguration",
        Unread::Kubernetes,
    ),
    (
        "admissionregistration.k8s.io",
        "ValidatingWebhookConfiguration",
        Unread::Kubernetes,
    ),
    ("storage.k8s.io", "StorageClass", Unread::Kubernetes),
];

/// Fields of one `trafficPolicy`, wherever one stands.
const TRAFFIC_POLICY: &[&str] = &[
    "loadBalancer.backendUtilization",
    "loadBalancer.consistentHash.httpCookie.attributes",
    "loadBalancer.warmup",
    "loadBalancer.warmupDurationSecs",
    "loadBalancer.zoneAwareLbSetting",
    "connectionPool.http.http2KeepAlive",
    "outlierDetection.consecutiveErrors",
    "outlierDetection.outlierDetectionHttpErrorCodes",
    "tls.caCrl",
    "tls.credentialName",
    "tunnel",
    "proxyProtocol",
];

/// Where a `trafficPolicy` stands in a DestinationRule.
const TRAFFIC_POLICY_PLACES: &[&str] = &[
    "trafficPolicy.portLevelSettings[].",
    "trafficPolicy.",
    "subsets[].trafficPolicy.portLevelSettings[].",
    "subsets[].trafficPolicy.",
];

const VIRTUAL_SERVICE: &[&str] = &[
    "http[].corsPolicy.allowOrigin",
    "http[].fault.abort.http2Error",
    "http[].fault.delay.exponentialDelay",
    "http[].match[].statPrefix",
    "http[].mirrorPercent",
    "http[].retries.retryRemoteLocalities",
    "tcp[].match[].sourceSubnet",
];

const SERVICE_ENTRY: &[&str] = &[];

const GATEWAY: &[&str] = &[
    "servers[].defaultEndpoint",
    // Istio reads it neither: the port of the gateway's Service decides.
    "servers[].port.targetPort",
    "servers[].tls.caCrl",
    "servers[].tls.credentialNames",
    "servers[].tls.ecdhCurves",
    "servers[].tls.insecureSkipVerify",
    "servers[].tls.tlsCertificates",
];

const SIDECAR: &[&str] = &[
    "egress[].bind",
    "egress[].port.targetPort",
    "inboundConnectionPool.http.http2KeepAlive",
    "ingress[].bind",
    "ingress[].connectionPool.http.http2KeepAlive",
    "ingress[].port.targetPort",
    "ingress[].tls.caCrl",
    "ingress[].tls.credentialNames",
    "ingress[].tls.ecdhCurves",
    "ingress[].tls.insecureSkipVerify",
    "ingress[].tls.tlsCertificates",
];

/// MeshConfig fields that Istio knows.
const MESH_CONFIG: &[&str] = &[
    "caCertificates",
    "certificates",
    "configSources",
    "defaultConfig.availabilityZone",
    "defaultConfig.binaryPath",
    "defaultConfig.configPath",
    "defaultConfig.controlPlaneAuthPolicy",
    "defaultConfig.customConfigFile",
    "defaultConfig.envoyAccessLogService",
    "defaultConfig.envoyMetricsService",
    "defaultConfig.extraStatTags",
    "defaultConfig.fileFlushInterval",
    "defaultConfig.fileFlushMinSizeKb",
    "defaultConfig.gatewayTopology",
    "defaultConfig.meshId",
    "defaultConfig.parentShutdownDuration",
    "defaultConfig.privateKeyProvider",
    "defaultConfig.proxyBootstrapTemplatePath",
    "defaultConfig.proxyHeaders",
    "defaultConfig.readinessProbe",
    "defaultConfig.runtimeValues",
    "defaultConfig.sds",
    "defaultConfig.serviceCluster",
    "defaultConfig.statNameLength",
    "defaultConfig.statsdUdpAddress",
    "defaultConfig.tracing",
    "defaultConfig.tracingServiceName",
    "defaultConfig.zipkinAddress",
    "defaultHttpRetryPolicy.retryRemoteLocalities",
    "defaultInboundHttpRetryPolicy",
    "defaultProviders",
    "defaultTrafficPolicy",
    "discoverySelectors",
    "dnsRefreshRate",
    "enableEnvoyAccessLogService",
    "enableTracing",
    "extensionProviders[].datadog",
    "extensionProviders[].envoyFileAccessLog",
    "extensionProviders[].envoyHttpAls",
    "extensionProviders[].envoyOtelAls",
    "extensionProviders[].envoyTcpAls",
    "extensionProviders[].lightstep",
    "extensionProviders[].opencensus",
    "extensionProviders[].opentelemetry",
    "extensionProviders[].prometheus",
    "extensionProviders[].sds",
    "extensionProviders[].skywalking",
    "extensionProviders[].stackdriver",
    "extensionProviders[].zipkin",
    "h2UpgradePolicy",
    "hboneIdleTimeout",
    "inboundClusterStatName",
    "ingressClass",
    "ingressControllerMode",
    "ingressSelector",
    "ingressService",
    "meshMTLS",
    "mixerCheckServer",
    "outboundClusterStatName",
    "proxyHttpPort",
    "proxyInboundListenPort",
    "proxyListenPort",
    "serviceScopeConfigs",
    "serviceSettings",
    "tcpKeepalive",
    "thriftConfig",
    "tlsDefaults",
    "verifyCertificateAtClient",
];

/// Whether the field of a `kind`, given below its `spec`, is known and not acted on.
pub(crate) fn is_unsupported(kind: Kind, field: &FieldPath) -> bool {
    let generic = generic_path(field);
    let Some(field) = generic.strip_prefix("spec.") else {
        return false;
    };
    match kind {
        Kind::DestinationRule => TRAFFIC_POLICY_PLACES
            .iter()
            .find_map(|place| field.strip_prefix(place))
            .is_some_and(|field| TRAFFIC_POLICY.contains(&field)),
        Kind::VirtualService => VIRTUAL_SERVICE.contains(&field),
        Kind::ServiceEntry => SERVICE_ENTRY.contains(&field),
        Kind::Gateway => GATEWAY.contains(&field),
        Kind::Sidecar => SIDECAR.contains(&field),
        _ => false,
    }
}

/// Every path for which [`is_unsupported`] says so, below `spec`.
pub(crate) fn unsupported_fields(kind: Kind) -> Vec<String> {
    let own = |fields: &[&str]| fields.iter().map(ToString::to_string).collect();
    match kind {
        Kind::DestinationRule => TRAFFIC_POLICY_PLACES
            .iter()
            .flat_map(|place| {
                let fields = TRAFFIC_POLICY.iter();
                fields.map(move |field| format!("{place}{field}"))
            })
            .collect(),
        Kind::VirtualService => own(VIRTUAL_SERVICE),
        Kind::ServiceEntry => own(SERVICE_ENTRY),
        Kind::Gateway => own(GATEWAY),
        Kind::Sidecar => own(SIDECAR),
        _ => Vec::new(),
    }
}

/// Every path for which [`is_unsupported_mesh_config`] says so.
pub(crate) fn unsupported_mesh_config() -> &'static [&'static str] {
    MESH_CONFIG
}

pub(crate) fn is_unsupported_mesh_config(field: &FieldPath) -> bool {
    MESH_CONFIG.contains(&generic_path(field).as_str())
}

/// `spec.http[3].mirror_percentage` as `spec.http[].mirrorPercentage`.
fn generic_path(path: &FieldPath) -> String {
    let mut generic = String::new();
    for step in steps(path.as_str()) {
        match step {
            Step::Field(name) => {
                if !generic.is_empty() {
                    generic.push('.');
                }
                generic.push_str(&camel_case(name));
            }
            Step::Index(_) => generic.push_str("[]"),
            Step::Key(_) => generic.push_str("{}"),
        }
    }
    generic
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_at_every_place_and_spelling() {
        let check = |kind, path: &str, expected| {
            assert_eq!(
                is_unsupported(kind, &FieldPath::new(path)),
                expected,
                "{path}"
            );
        };
        let dr = Kind::DestinationRule;
        check(dr, "spec.trafficPolicy.tunnel", true);
        check(
            dr,
            "spec.subsets[2].trafficPolicy.portLevelSettings[0].tls.caCrl",
            true,
        );
        check(dr, "spec.subsets[2].traffic_policy.proxy_protocol", true);
        check(dr, "spec.trafficPolicy.tls", false);
        check(Kind::PeerAuthentication, "spec.mtls", false);
    }
}
