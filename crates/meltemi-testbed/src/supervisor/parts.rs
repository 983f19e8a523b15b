//! The arguments of every process of a cluster. Pure.

use crate::config::VOLUME_PLUGINS;
use crate::pki::Pki;
use crate::plan::{API_PORT, DOMAIN, Node, Plan, SERVICE_RANGE};

/// etcd listens inside of the first node alone.
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

/// The issuer of service-account tokens, as most clusters call it.
fn issuer() -> String {
    format!("https://kubernetes.default.svc.{DOMAIN}")
}

pub(super) fn etcd(folder: &str) -> Vec<String> {
    flags(
        "etcd",
        &[
            ("data-dir", folder),
            ("listen-client-urls", ETCD),
            ("advertise-client-urls", ETCD),
            ("listen-peer-urls", ETCD_PEER),
            ("initial-advertise-peer-urls", ETCD_PEER),
            ("initial-cluster", &format!("default={ETCD_PEER}")),
            // The data lives as long as the cluster, which does not outlive the machine.
            ("unsafe-no-fsync", "true"),
        ],
    )
}

pub(super) fn api_server(plan: Plan, pki: &Pki) -> Vec<String> {
    let file = |path: std::path::PathBuf| path.display().to_string();
    let tokens = file(pki.key("service-accounts"));
    flags(
        "kube-apiserver",
        &[
            ("advertise-address", &plan.first().address().to_string()),
            ("secure-port", &API_PORT.to_string()),
            ("etcd-servers", ETCD),
            ("service-cluster-ip-range", SERVICE_RANGE),
            ("authorization-mode", "Node,RBAC"),
            ("enable-admission-plugins", "NodeRestriction"),
            ("allow-privileged", "true"),
            ("client-ca-file", &file(pki.certificate("ca"))),
            ("tls-cert-file", &file(pki.certificate("apiserver"))),
            ("tls-private-key-file", &file(pki.key("apiserver"))),
            (
                "kubelet-certificate-authority",
                &file(pki.certificate("ca")),
            ),
            (
                "kubelet-client-certificate",
                &file(pki.certificate("apiserver-kubelet")),
            ),
            ("kubelet-client-key", &file(pki.key("apiserver-kubelet"))),
            ("kubelet-preferred-address-types", "InternalIP"),
            // Who may speak for others: API servers that this one passes requests to believe it by this authority.
            (
                "requestheader-client-ca-file",
                &file(pki.certificate("front-proxy-ca")),
            ),
            ("requestheader-allowed-names", "front-proxy"),
            ("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
            ("requestheader-group-headers", "X-Remote-Group"),
            ("requestheader-username-headers", "X-Remote-User"),
            (
                "proxy-client-cert-file",
                &file(pki.certificate("front-proxy")),
            ),
            ("proxy-client-key-file", &file(pki.key("front-proxy"))),
            ("service-account-issuer", &issuer()),
            ("service-account-key-file", &tokens),
            ("service-account-signing-key-file", &tokens),
        ],
    )
}

pub(super) fn controller_manager(pki: &Pki) -> Vec<String> {
    let file = |path: std::path::PathBuf| path.display().to_string();
    let kubeconfig = file(pki.kubeconfig("controller-manager"));
    flags(
        "kube-controller-manager",
        &[
            ("kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("use-service-account-credentials", "true"),
            ("root-ca-file", &file(pki.certificate("ca"))),
            (
                "service-account-private-key-file",
                &file(pki.key("service-accounts")),
            ),
            ("cluster-signing-cert-file", &file(pki.certificate("ca"))),
            ("cluster-signing-key-file", &file(pki.key("ca"))),
            // There is one; a lease would only be waited for.
            ("leader-elect", "false"),
            // Each controller asks for a token of its own first: at the usual 20 requests a second that takes five seconds.
            ("kube-api-qps", "500"),
            ("kube-api-burst", "500"),
            // The usual folder is the machine's.
            ("flex-volume-plugin-dir", VOLUME_PLUGINS),
        ],
    )
}

pub(super) fn scheduler(pki: &Pki) -> Vec<String> {
    let kubeconfig = pki.kubeconfig("scheduler").display().to_string();
    flags(
        "kube-scheduler",
        &[
            ("kubeconfig", &kubeconfig),
            ("authentication-kubeconfig", &kubeconfig),
            ("authorization-kubeconfig", &kubeconfig),
            ("leader-elect", "false"),
        ],
    )
}

pub(super) fn kubelet(node: Node, config: &str, pki: &Pki) -> Vec<String> {
    flags(
        "kubelet",
        &[
            ("config", config),
            (
                "kubeconfig",
                &pki.kubeconfig(&node.name()).display().to_string(),
            ),
            ("hostname-override", &node.name()),
            ("node-ip", &node.address().to_string()),
        ],
    )
}

pub(super) fn kube_proxy(config: &str) -> Vec<String> {
    flags("kube-proxy", &[("config", config)])
}

/// The part of the program `kube`, and its flags.
fn flags(part: &str, flags: &[(&str, &str)]) -> Vec<String> {
    let flags = flags
        .iter()
        .map(|(name, value)| format!("--{name}={value}"));
    std::iter::once(part.to_owned()).chain(flags).collect()
}
