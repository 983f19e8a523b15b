//! The configuration files of a cluster's parts, as text. Pure.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::plan::{DNS_SERVICE, DOMAIN, Node, POD_RANGE};

/// The sandbox image of every pod.
pub(crate) const PAUSE_IMAGE: &str = "meltemi.test/pause:1";
pub(crate) const CONTAINERD_SOCKET: &str = "/run/containerd/containerd.sock";

/// Of a node; the usual folder is the machine's.
pub(crate) const VOLUME_PLUGINS: &str = "/var/lib/kubelet/volume-plugins";

/// Machine-wide settings that a kubelet would write (its `setupKernelTunables`), with the values it wants to find. A node gets
/// files of its own in their place.
pub(crate) const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

/// PEM texts, and the name that the kubeconfig gives their owner.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Credentials<'a> {
    pub(crate) user: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) certificate: &'a str,
    pub(crate) key: &'a str,
}

/// A kubeconfig that needs no other file.
pub(crate) fn kubeconfig(server: &str, of: &Credentials<'_>) -> String {
    let user = of.user;
    format!(
        "\
apiVersion: v1
kind: Config
current-context: testbed
contexts:
- name: testbed
  context: {{cluster: testbed, user: {user}}}
clusters:
- name: testbed
  cluster:
    server: {server}
    certificate-authority-data: {}
users:
- name: {user}
  user:
    client-certificate-data: {}
    client-key-data: {}
",
        STANDARD.encode(of.authority),
        STANDARD.encode(of.certificate),
        STANDARD.encode(of.key),
    )
}

/// containerd 1.6 and later, with Debian's folder of network plugins.
pub(crate) fn containerd(cni_folder: &str) -> String {
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
# These would look for devices, or make folders, of the machine.
disabled_plugins = [
  "io.containerd.internal.v1.opt",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = "{CONTAINERD_SOCKET}"

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE_IMAGE}"
# Without CAP_SYS_RESOURCE a process cannot lower its score, and runc would fail every sandbox.
restrict_oom_score_adj = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{cni_folder}"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
"#
    )
}

/// Every pod hangs on a point-to-point link of its node: whatever leaves a pod is routed, and so passes the rules of
/// kube-proxy, without a bridge that would have to be told to call them.
pub(crate) fn cni(node: Node) -> String {
    json!({
        "cniVersion": "0.4.0",
        "name": "pods",
        "plugins": [
            {
                "type": "ptp",
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni",
                    "ranges": [[{"subnet": node.pod_range()}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
    .to_string()
}

/// Paths of the files that a kubelet is given.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KubeletFiles<'a> {
    pub(crate) authority: &'a str,
    pub(crate) certificate: &'a str,
    pub(crate) key: &'a str,
    pub(crate) resolv_conf: &'a str,
}

pub(crate) fn kubelet(cgroup: &str, files: &KubeletFiles<'_>) -> String {
    let KubeletFiles {
        authority,
        certificate,
        key,
        resolv_conf,
    } = files;
    format!(
        "\
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {authority}}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
cgroupRoot: {cgroup}
clusterDNS: [{DNS_SERVICE}]
clusterDomain: {DOMAIN}
containerRuntimeEndpoint: unix://{CONTAINERD_SOCKET}
# Many disks of test machines are nearly full, and images can be had only once.
evictionHard: {{memory.available: 50Mi}}
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
failCgroupV1: false
failSwapOn: false
oomScoreAdj: 0
resolvConf: {resolv_conf}
tlsCertFile: {certificate}
tlsPrivateKeyFile: {key}
volumePluginDir: {VOLUME_PLUGINS}
"
    )
}

pub(crate) fn kube_proxy(node: Node, kubeconfig: &str) -> String {
    let name = node.name();
    format!(
        "\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: iptables
clusterCIDR: {POD_RANGE}
hostnameOverride: {name}
clientConnection: {{kubeconfig: {kubeconfig}}}
# The table's size is the machine's.
conntrack: {{maxPerCore: 0}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::Plan;

    #[test]
    fn a_kubeconfig_holds_its_credentials() {
        let text = kubeconfig(
            "https://s:1",
            &Credentials {
                user: "admin",
                authority: "A",
                certificate: "C",
                key: "K",
            },
        );
        assert!(text.contains("server: https://s:1\n"));
        assert!(text.contains("client-key-data: Sw==\n"));
    }

    #[test]
    fn pods_of_a_node_have_addresses_of_its_range() {
        let text = cni(Plan::new(2).unwrap().first());
        assert!(text.contains(r#""subnet":"10.244.1.0/24""#), "{text}");
    }
}
