use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use meltemi_api::{Kind, ObjectKey};
use meltemi_core::TrustDomain;
use meltemi_core::names::{
    DEFAULT_REVISION, ISTIO_SYSTEM, ISTIOD, MESH_CONFIG_MAP, of_revision, port,
};
use meltemi_model::KeyFetching;

/// The settings of a control plane.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Folder with Kubernetes and Istio objects as YAML or JSON, read live; may be given several times
    #[arg(
        long = "config-dir",
        value_name = "DIR",
        required_unless_present = "kubernetes",
        conflicts_with = "kubernetes"
    )]
    pub config_directories: Vec<PathBuf>,
    /// Run in a Kubernetes cluster: read its objects, keep the authority's key in a Secret, inject sidecars
    #[arg(long)]
    pub kubernetes: bool,
    /// Folder that keeps the certificate authority (ca/) and gets root-cert.pem
    #[arg(long, value_name = "DIR")]
    pub state_dir: PathBuf,
    /// Serve an empty configuration at once; without this, one that has lost all Services and Pods since the last start is
    /// not served for a minute
    #[arg(long)]
    pub accept_empty_config: bool,
    /// Lifetime of workload certificates, and the longest that is given: 24h, 20s [default: 24h, longest 90 days]
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub workload_cert_ttl: Option<Duration>,
    /// Trust domain of the mesh [default: the mesh configuration's]
    #[arg(long, value_name = "DOMAIN", value_parser = trust_domain)]
    pub trust_domain: Option<TrustDomain>,
    /// Public key (PEM) or key set (JWKS) that service-account tokens are signed with; without one only mesh certificates
    /// authenticate
    #[arg(long, value_name = "FILE")]
    pub token_issuer_key: Option<PathBuf>,
    /// Issuer of the service-account tokens
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://kubernetes.default.svc.cluster.local"
    )]
    pub token_issuer: String,
    /// Address for xDS and certificates, with TLS
    #[arg(long, value_name = "ADDRESS", default_value_t = unspecified(port::XDS_TLS))]
    pub xds_addr: SocketAddr,
    /// Address for metrics, readiness and debug endpoints
    #[arg(long, value_name = "ADDRESS", default_value_t = unspecified(port::MONITORING))]
    pub monitoring_addr: SocketAddr,
    /// Revision of this control plane: it injects pods that ask for it
    #[arg(long, value_name = "NAME", env = "REVISION", default_value = "default")]
    pub revision: String,
    /// Address for the webhooks of Kubernetes, with TLS
    #[arg(long, value_name = "ADDRESS", default_value_t = unspecified(port::WEBHOOK))]
    pub webhook_addr: SocketAddr,
    /// Namespace of this control plane: of its ConfigMaps, and of its names
    #[arg(long, value_name = "NAME", env = "POD_NAMESPACE", default_value = ISTIO_SYSTEM)]
    pub namespace: String,
    /// File with the mesh configuration [default: key mesh of ConfigMap istio, or istio-REVISION, in its namespace]
    #[arg(long, value_name = "FILE", conflicts_with = "kubernetes")]
    pub mesh_config: Option<PathBuf>,
    /// Name of this cluster
    #[arg(long, value_name = "NAME", default_value = "Kubernetes")]
    pub cluster_id: String,
    /// PEM file with the certificates that servers of token keys are verified with [default: the system's]
    #[arg(long, value_name = "FILE")]
    pub jwks_ca_file: Option<PathBuf>,
    /// Who fetches keys of tokens that are published at a URL: istiod (or false), hybrid (or true: proxies, where the URL is of a
    /// service of the mesh), envoy (always proxies)
    #[arg(long, value_name = "WHO", env = "PILOT_JWT_ENABLE_REMOTE_JWKS", default_value = "istiod", value_parser = key_fetching)]
    pub jwks_fetch: KeyFetching,
    /// How often keys of tokens are fetched again
    #[arg(long, value_name = "DURATION", env = "PILOT_JWT_PUB_KEY_REFRESH_INTERVAL", default_value = "20m", value_parser = duration)]
    pub jwks_refresh: Duration,
    /// Addresses that keys of tokens are not fetched from, besides loopback and link-local ones: 10.0.0.0/8,...
    #[arg(
        long,
        value_name = "CIDRS",
        env = "BLOCKED_CIDRS_IN_JWKS_URIS",
        value_delimiter = ','
    )]
    pub jwks_blocked_cidrs: Vec<IpNet>,
    /// Addresses that keys of tokens are fetched from all the same
    #[arg(long, value_name = "CIDRS", value_delimiter = ',')]
    pub jwks_allowed_cidrs: Vec<IpNet>,
    /// DNS names of the control plane's own certificate [default: those of its Services]
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    pub dns_names: Vec<String>,
}

impl Options {
    /// The ConfigMap with the mesh configuration.
    pub(crate) fn mesh_map(&self) -> ObjectKey {
        let name = of_revision(MESH_CONFIG_MAP, &self.revision);
        ObjectKey::new(Kind::ConfigMap, &self.namespace, &name)
    }

    /// The names that proxies and the API server call this control plane by. Without a revision's own, those of the default
    /// one, whose proxies a newer revision may take over.
    pub(crate) fn serving_names(&self) -> Vec<String> {
        if !self.dns_names.is_empty() {
            return self.dns_names.clone();
        }
        let namespace = &self.namespace;
        let mut services = vec![of_revision(ISTIOD, &self.revision)];
        if self.revision != DEFAULT_REVISION {
            services.push(ISTIOD.to_owned());
        }
        let names = services.iter().flat_map(|service| {
            let short = format!("{service}.{namespace}");
            [
                format!("{short}.svc"),
                format!("{short}.svc.cluster.local"),
                short,
            ]
        });
        names
            .chain([format!("istio-pilot.{namespace}.svc")])
            .collect()
    }
}

fn unspecified(port: u16) -> SocketAddr {
    (std::net::Ipv4Addr::UNSPECIFIED, port).into()
}

fn duration(text: &str) -> Result<Duration, String> {
    meltemi_core::duration::parse(text)
        .filter(|duration| !duration.is_zero())
        .ok_or_else(|| "write a duration such as 24h, 90m or 20s".to_owned())
}

fn key_fetching(text: &str) -> Result<KeyFetching, &'static str> {
    match text.to_ascii_lowercase().as_str() {
        "" | "istiod" | "false" => Ok(KeyFetching::ControlPlane),
        "hybrid" | "true" => Ok(KeyFetching::Hybrid),
        "envoy" => Ok(KeyFetching::Proxies),
        _ => Err("write istiod, hybrid or envoy"),
    }
}

fn trust_domain(text: &str) -> Result<TrustDomain, String> {
    TrustDomain::new(text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Arguments {
        #[command(flatten)]
        options: Options,
    }

    fn options(more: &[&str]) -> Options {
        let usual = ["control-plane", "--kubernetes", "--state-dir", "state"];
        Arguments::parse_from(usual.iter().chain(more)).options
    }

    #[test]
    fn names_follow_namespace_and_revision() {
        let usual = options(&["--namespace", "istio-system", "--revision", "default"]);
        assert_eq!(usual.mesh_map().name, "istio");
        assert_eq!(
            usual.serving_names(),
            [
                "istiod.istio-system.svc",
                "istiod.istio-system.svc.cluster.local",
                "istiod.istio-system",
                "istio-pilot.istio-system.svc"
            ]
        );
        let other = options(&["--namespace", "mesh", "--revision", "canary"]);
        let map = other.mesh_map();
        assert_eq!((&*map.namespace, &*map.name), ("mesh", "istio-canary"));
        let names = other.serving_names();
        for expected in ["istiod-canary.mesh.svc", "istiod.mesh.svc"] {
            assert!(names.iter().any(|name| name == expected), "{names:?}");
        }
        let told = options(&["--dns-names", "a.test,b.test"]);
        assert_eq!(told.serving_names(), ["a.test", "b.test"]);
    }
}
