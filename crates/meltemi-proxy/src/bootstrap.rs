//! Process start: what the environment, the pod's files and `PROXY_CONFIG` say (Istio's sidecar injection contract).

mod node;
mod probers;
mod proxy_config;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use meltemi_core::{Identity, TrustDomain, names};

pub(crate) use node::{node, peer_metadata};
pub(crate) use probers::{Probe, ProbeKind};
pub(crate) use proxy_config::ProxyConfig;

/// What a proxy is there for; the first part of its node id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// Beside an application, whose connections it is given by the capture rules.
    #[default]
    Sidecar,
    /// At the edge: it listens itself where it is configured to.
    Router,
}

impl Role {
    /// As Istio's node types are called.
    ///
    /// # Errors
    /// There is no such role.
    pub fn parse(text: &str) -> Result<Self, String> {
        match text {
            "sidecar" => Ok(Self::Sidecar),
            "router" => Ok(Self::Router),
            other => Err(format!("{other:?} is neither sidecar nor router")),
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Sidecar => "sidecar",
            Self::Router => "router",
        }
    }
}

/// Everything a proxy knows before it speaks to anyone.
#[derive(Clone, Debug)]
pub struct Bootstrap {
    pub role: Role,
    pub pod_name: String,
    pub namespace: String,
    pub service_account: String,
    pub instance_ip: IpAddr,
    pub host_ip: Option<IpAddr>,
    pub trust_domain: TrustDomain,
    pub cluster_id: String,
    pub mesh_id: String,
    pub workload_name: String,
    pub owner: String,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    /// Further node metadata: every `ISTIO_META_*` variable without its prefix.
    pub metadata: BTreeMap<String, String>,
    /// `host:port` of the xDS server.
    pub discovery_address: String,
    /// `host:port` of the certificate authority.
    pub ca_address: String,
    /// Life of a certificate to ask for (`SECRET_TTL`); the authority decides when unset.
    pub secret_ttl: Option<Duration>,
    /// Mark for the proxy's own sockets, where capture exempts by mark instead of by uid.
    pub socket_mark: Option<u32>,
    pub proxy_config: ProxyConfig,
    pub paths: Paths,
    pub(crate) probes: BTreeMap<String, Probe>,
    /// The pod's own `prometheus.io/*` annotations before injection replaced them.
    pub app_metrics: Option<AppMetrics>,
    pub workers: usize,
    /// Where the configuration in use is kept for the next start (`MELTEMI_CACHE_DIR`).
    pub cache_directory: Option<PathBuf>,
}

/// Where credentials lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    pub token: PathBuf,
    pub root_cert: PathBuf,
    pub pod_labels: PathBuf,
    pub pod_annotations: PathBuf,
}

impl Paths {
    /// The paths of an injected pod below `root`, `/` in a container.
    pub fn below(root: &Path) -> Self {
        Self {
            token: root.join("var/run/secrets/tokens/istio-token"),
            root_cert: root.join("var/run/secrets/istio/root-cert.pem"),
            pod_labels: root.join("etc/istio/pod/labels"),
            pod_annotations: root.join("etc/istio/pod/annotations"),
        }
    }
}

/// Where the application serves its own metrics (`ISTIO_PROMETHEUS_ANNOTATIONS`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppMetrics {
    pub port: u16,
    pub path: String,
}

impl Bootstrap {
    /// Reads the bootstrap from variables and the files under `paths`.
    ///
    /// # Errors
    /// A variable or file that must be there is missing or malformed.
    pub fn read(
        env: &dyn Fn(&str) -> Option<String>,
        all: &[(String, String)],
        paths: Paths,
    ) -> anyhow::Result<Self> {
        let text = |name: &str| env(name).filter(|value| !value.is_empty());
        let required = |name: &str| {
            text(name).with_context(|| format!("environment variable {name} is not set"))
        };
        let proxy_config = ProxyConfig::parse(text("PROXY_CONFIG").as_deref().unwrap_or("{}"))?;
        let mut metadata: BTreeMap<String, String> = all
            .iter()
            .filter_map(|(name, value)| {
                Some((name.strip_prefix("ISTIO_META_")?.to_owned(), value.clone()))
            })
            .collect();
        for (name, value) in &proxy_config.proxy_metadata {
            if let Some(name) = name.strip_prefix("ISTIO_META_") {
                metadata
                    .entry(name.to_owned())
                    .or_insert_with(|| value.clone());
            }
        }
        let mut meta = |name: &str| metadata.remove(name).unwrap_or_default();
        let (mesh_id, cluster_id) = (meta("MESH_ID"), meta("CLUSTER_ID"));
        let (workload_name, owner) = (meta("WORKLOAD_NAME"), meta("OWNER"));
        let trust_domain = match text("TRUST_DOMAIN") {
            Some(name) => TrustDomain::new(&name).context("environment variable TRUST_DOMAIN")?,
            None => TrustDomain::default(),
        };
        let discovery_address = proxy_config.discovery_address();
        let parse_ip = |name: &str, value: String| {
            value.parse::<IpAddr>().with_context(|| {
                format!("environment variable {name}=\"{value}\" is not an address")
            })
        };
        let namespace = required("POD_NAMESPACE")?;
        let workers = worker_count(proxy_config.concurrency, text("ISTIO_CPU_LIMIT").as_deref());
        Ok(Self {
            role: Role::default(),
            pod_name: required("POD_NAME")?,
            service_account: text("SERVICE_ACCOUNT").unwrap_or_else(|| "default".to_owned()),
            instance_ip: parse_ip("INSTANCE_IP", required("INSTANCE_IP")?)?,
            host_ip: text("HOST_IP")
                .map(|value| parse_ip("HOST_IP", value))
                .transpose()?,
            cluster_id: if cluster_id.is_empty() {
                "Kubernetes".to_owned()
            } else {
                cluster_id
            },
            mesh_id: if mesh_id.is_empty() {
                trust_domain.to_string()
            } else {
                mesh_id
            },
            trust_domain,
            workload_name,
            owner,
            labels: read_downward(&paths.pod_labels),
            annotations: read_downward(&paths.pod_annotations),
            metadata,
            ca_address: text("CA_ADDR").unwrap_or_else(|| discovery_address.clone()),
            discovery_address,
            secret_ttl: match text("SECRET_TTL") {
                Some(value) => Some(
                    proxy_config::parse_duration(&value)
                        .context("environment variable SECRET_TTL")?,
                ),
                None => None,
            },
            socket_mark: match text("MELTEMI_SOCKET_MARK") {
                Some(value) => Some(
                    value
                        .parse()
                        .context("environment variable MELTEMI_SOCKET_MARK")?,
                ),
                None => None,
            },
            probes: match text("ISTIO_KUBE_APP_PROBERS") {
                Some(value) => {
                    probers::parse(&value).context("environment variable ISTIO_KUBE_APP_PROBERS")?
                }
                None => BTreeMap::new(),
            },
            app_metrics: text("ISTIO_PROMETHEUS_ANNOTATIONS")
                .as_deref()
                .and_then(app_metrics),
            cache_directory: text("MELTEMI_CACHE_DIR").map(PathBuf::from),
            namespace,
            proxy_config,
            paths,
            workers,
        })
    }

    /// Reads the bootstrap of this process.
    ///
    /// # Errors
    /// As [`Bootstrap::read`].
    pub fn from_process() -> anyhow::Result<Self> {
        let all: Vec<(String, String)> = std::env::vars().collect();
        let root =
            std::env::var_os("MELTEMI_ROOT").map_or_else(|| PathBuf::from("/"), PathBuf::from);
        Self::read(&|name| std::env::var(name).ok(), &all, Paths::below(&root))
    }

    /// The identity the certificate authority is expected to answer with.
    ///
    /// # Errors
    /// Namespace or service account are no SPIFFE path segments.
    pub fn identity(&self) -> anyhow::Result<Identity> {
        Ok(Identity::new(
            self.trust_domain.clone(),
            &self.namespace,
            &self.service_account,
        )?)
    }

    /// Whether to ask for configuration as the workload needs it, which takes a control plane that answers by name (node
    /// metadata `ON_DEMAND`; our injector sets it). A gateway has to listen before anybody comes.
    pub fn is_on_demand(&self) -> bool {
        let value = self.metadata.get(names::ON_DEMAND);
        let value = value.filter(|_| self.role == Role::Sidecar);
        value.is_some_and(|value| matches!(value.as_str(), "true" | "1"))
    }

    /// `sidecar~<IP>~<pod>.<ns>~<ns>.svc.cluster.local`.
    pub fn node_id(&self) -> String {
        let domain = format!("{}.svc.{}", self.namespace, names::CLUSTER_DOMAIN);
        format!(
            "{}~{}~{}.{}~{domain}",
            self.role.as_str(),
            self.instance_ip,
            self.pod_name,
            self.namespace
        )
    }
}

/// `concurrency` of ProxyConfig; 0 asks for the CPU limit, unset means one worker.
///
/// Differs from Istio: unset there means the CPU limit. One worker serves a sidecar's load and keeps its memory small.
fn worker_count(concurrency: Option<u32>, cpu_limit: Option<&str>) -> usize {
    let available = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match concurrency {
        None => 1,
        Some(0) => cpu_limit
            .and_then(|limit| limit.parse().ok())
            .unwrap_or_else(available)
            .max(1),
        Some(n) => usize::try_from(n).unwrap_or(1).min(64),
    }
}

/// Reads a downward-API file of `key="value"` lines; a missing file is an empty map.
fn read_downward(path: &Path) -> BTreeMap<String, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => parse_downward(&text),
        Err(error) => {
            tracing::debug!(path = %path.display(), %error, "no downward API file");
            BTreeMap::new()
        }
    }
}

fn parse_downward(text: &str) -> BTreeMap<String, String> {
    let unquote =
        |value: &str| serde_json::from_str::<String>(value).unwrap_or_else(|_| value.to_owned());
    text.lines()
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim().to_owned(), unquote(value.trim())))
        .collect()
}

fn app_metrics(annotations: &str) -> Option<AppMetrics> {
    #[derive(serde::Deserialize)]
    struct Annotations {
        #[serde(default)]
        scrape: serde_json::Value,
        #[serde(default)]
        path: String,
        #[serde(default)]
        port: serde_json::Value,
    }
    let parsed: Annotations = serde_json::from_str(annotations).ok()?;
    let text = |value: &serde_json::Value| {
        value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned)
    };
    if text(&parsed.scrape) != "true" {
        return None;
    }
    let port = text(&parsed.port).parse().ok().unwrap_or(80);
    let path = if parsed.path.is_empty() {
        "/metrics".to_owned()
    } else {
        parsed.path
    };
    Some(AppMetrics { port, path })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn from(vars: &[(&str, &str)]) -> anyhow::Result<Bootstrap> {
        let all: Vec<(String, String)> = vars
            .iter()
            .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
            .collect();
        let env = |name: &str| all.iter().find(|(k, _)| k == name).map(|(_, v)| v.clone());
        Bootstrap::read(&env, &all, Paths::below(Path::new("/nonexistent")))
    }

    pub(crate) const POD: [(&str, &str); 4] = [
        ("POD_NAME", "reviews-v1-abc"),
        ("POD_NAMESPACE", "default"),
        ("INSTANCE_IP", "10.244.0.7"),
        ("SERVICE_ACCOUNT", "bookinfo-reviews"),
    ];

    #[test]
    fn defaults_are_istios() {
        let bootstrap = from(&POD).unwrap();
        assert_eq!(bootstrap.discovery_address, "istiod.istio-system.svc:15012");
        assert_eq!(bootstrap.ca_address, bootstrap.discovery_address);
        assert_eq!(bootstrap.secret_ttl, None);
        assert_eq!(bootstrap.workers, 1);
        assert_eq!(
            bootstrap.node_id(),
            "sidecar~10.244.0.7~reviews-v1-abc.default~default.svc.cluster.local"
        );
        let router = Bootstrap {
            role: Role::parse("router").unwrap(),
            ..bootstrap.clone()
        };
        assert!(router.node_id().starts_with("router~10.244.0.7~"));
        assert!(Role::parse("waypoint").is_err());
        assert_eq!(
            bootstrap.identity().unwrap().to_string(),
            "spiffe://cluster.local/ns/default/sa/bookinfo-reviews"
        );
    }

    #[test]
    fn reads_what_injection_sets() {
        let mut vars = POD.to_vec();
        vars.extend([
            (
                "PROXY_CONFIG",
                r#"{"discoveryAddress":"cp:1","concurrency":2,"terminationDrainDuration":"7s"}"#,
            ),
            ("SECRET_TTL", "20s"),
            ("ISTIO_META_CLUSTER_ID", "c1"),
            ("ISTIO_META_APP_CONTAINERS", "reviews"),
            ("MELTEMI_SOCKET_MARK", "1337"),
            (
                "ISTIO_PROMETHEUS_ANNOTATIONS",
                r#"{"scrape":"true","path":"","port":"9080"}"#,
            ),
        ]);
        let bootstrap = from(&vars).unwrap();
        assert_eq!(
            (bootstrap.discovery_address.as_str(), bootstrap.workers),
            ("cp:1", 2)
        );
        assert_eq!(bootstrap.secret_ttl, Some(Duration::from_secs(20)));
        assert_eq!(bootstrap.cluster_id, "c1");
        assert_eq!(
            bootstrap.metadata.get("APP_CONTAINERS").map(String::as_str),
            Some("reviews")
        );
        assert_eq!(bootstrap.socket_mark, Some(1337));
        assert_eq!(
            bootstrap.app_metrics,
            Some(AppMetrics {
                port: 9080,
                path: "/metrics".to_owned()
            })
        );
    }

    #[test]
    fn names_the_variable_that_is_wrong() {
        let error = from(&POD[1..]).unwrap_err().to_string();
        assert!(error.contains("POD_NAME"), "{error}");
        let mut vars = POD.to_vec();
        vars.push(("SECRET_TTL", "soon"));
        assert!(format!("{:#}", from(&vars).unwrap_err()).contains("SECRET_TTL"));
    }

    #[test]
    fn parses_the_downward_format() {
        let labels = parse_downward("app=\"reviews\"\nnote=\"a\\\"b=c\"\n\n");
        assert_eq!(labels["app"], "reviews");
        assert_eq!(labels["note"], "a\"b=c");
    }
}
