use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use meltemi_api::istio::{MeshConfig, ProxyConfig};
use meltemi_core::names;

/// What a mesh decides about injection, before a pod's own annotations (Istio's `istio-sidecar-injector` ConfigMap and the
/// part of MeshConfig that injection reads).
#[derive(Clone, Debug, PartialEq)]
pub struct InjectionSettings {
    /// The control plane's revision; `default` answers to `istio-injection=enabled`.
    pub revision: String,
    /// Revision tags that point at this control plane.
    pub tags: Vec<String>,
    pub policy: InjectionPolicy,
    /// Pods with all labels of one of these are never injected, unless they ask for it themselves.
    pub never_inject: Vec<BTreeMap<String, String>>,
    /// Pods with all labels of one of these are injected even under [`InjectionPolicy::Disabled`].
    pub always_inject: Vec<BTreeMap<String, String>>,
    pub proxy_image: String,
    pub init_image: String,
    /// `None` leaves the choice to the kubelet.
    pub image_pull_policy: Option<String>,
    pub trust_domain: String,
    pub cluster_domain: String,
    pub cluster_id: String,
    /// Empty: the trust domain.
    pub mesh_id: String,
    /// Empty: the pods' network has no name.
    pub network: String,
    /// Where certificates are signed.
    pub ca_address: String,
    /// Puts the proxy under `initContainers` with `restartPolicy: Always` (Kubernetes "sidecar containers").
    pub native_sidecars: bool,
    /// Exempts the proxy from redirection by this socket mark instead of its uid, where only one uid can be mapped.
    pub proxy_mark: Option<u32>,
    pub default_config: ProxyConfig,
    pub enable_prometheus_merge: bool,
    pub rewrite_app_http_probers: bool,
    pub log_level: String,
    pub component_log_level: String,
    pub agent_log_level: String,
    pub resources: ProxyResources,
    /// Further environment of the proxy, such as a lab's `SECRET_TTL`.
    pub proxy_env: BTreeMap<String, String>,
}

impl Default for InjectionSettings {
    fn default() -> Self {
        let image = format!("meltemi/proxyv2:{}", env!("CARGO_PKG_VERSION"));
        Self {
            revision: "default".to_owned(),
            tags: Vec::new(),
            policy: InjectionPolicy::Enabled,
            never_inject: Vec::new(),
            always_inject: Vec::new(),
            proxy_image: image.clone(),
            init_image: image,
            image_pull_policy: None,
            trust_domain: names::CLUSTER_DOMAIN.to_owned(),
            cluster_domain: names::CLUSTER_DOMAIN.to_owned(),
            cluster_id: "Kubernetes".to_owned(),
            mesh_id: String::new(),
            network: String::new(),
            ca_address: format!("istiod.istio-system.svc:{}", names::port::XDS_TLS),
            native_sidecars: true,
            proxy_mark: None,
            default_config: ProxyConfig::default(),
            enable_prometheus_merge: true,
            rewrite_app_http_probers: true,
            log_level: "warning".to_owned(),
            component_log_level: "misc:error".to_owned(),
            agent_log_level: "default:info".to_owned(),
            resources: ProxyResources::default(),
            proxy_env: BTreeMap::new(),
        }
    }
}

impl InjectionSettings {
    /// The defaults, with what the mesh configuration says.
    pub fn of_mesh(mesh: &MeshConfig) -> Self {
        Self {
            trust_domain: mesh.trust_domain.clone(),
            default_config: mesh.default_config.clone(),
            enable_prometheus_merge: mesh.enable_prometheus_merge,
            ..Self::default()
        }
    }

    /// Whether an `istio.io/rev` label with this value means this control plane.
    pub(crate) fn owns(&self, revision: &str) -> bool {
        self.revision == revision || self.tags.iter().any(|tag| tag == revision)
    }

    pub(crate) fn mesh_id(&self) -> &str {
        if self.mesh_id.is_empty() {
            &self.trust_domain
        } else {
            &self.mesh_id
        }
    }
}

/// What happens to pods that say nothing (`policy` of the injector's configuration).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum InjectionPolicy {
    #[default]
    Enabled,
    Disabled,
}

/// Requests and limits of the proxy; Istio's chart defaults.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyResources {
    pub cpu: Option<String>,
    pub memory: Option<String>,
    pub cpu_limit: Option<String>,
    pub memory_limit: Option<String>,
}

impl Default for ProxyResources {
    fn default() -> Self {
        Self {
            cpu: Some("100m".to_owned()),
            memory: Some("128Mi".to_owned()),
            cpu_limit: Some("2000m".to_owned()),
            memory_limit: Some("1024Mi".to_owned()),
        }
    }
}

impl ProxyResources {
    pub(crate) fn requirements(&self) -> ResourceRequirements {
        let map = |cpu: &Option<String>, memory: &Option<String>| {
            let pairs = [("cpu", cpu), ("memory", memory)];
            let map: BTreeMap<String, Quantity> = pairs
                .into_iter()
                .filter_map(|(name, value)| Some((name.to_owned(), Quantity(value.clone()?))))
                .collect();
            (!map.is_empty()).then_some(map)
        };
        ResourceRequirements {
            requests: map(&self.cpu, &self.memory),
            limits: map(&self.cpu_limit, &self.memory_limit),
            claims: None,
        }
    }
}
