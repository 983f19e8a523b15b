//! The steps from nothing to a cluster with cluster DNS.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Ended, Options, parts, say};
use crate::config::{self, KubeletFiles};
use crate::kubectl::Kubectl;
use crate::node::Namespaces;
use crate::plan::Node;
use crate::{cgroup, cluster, manifests, network, pki, process};

const API_LIMIT: Duration = Duration::from_secs(120);
const CONTAINERD_LIMIT: Duration = Duration::from_secs(60);
const NODES_LIMIT: Duration = Duration::from_secs(180);
const KUBECTL_LIMIT: Duration = Duration::from_secs(20);

struct Bringup<'a> {
    options: &'a Options,
    kubectl: Kubectl,
    ended: mpsc::Sender<Ended>,
    started: Instant,
}

pub(super) async fn run(options: &Options, port: u16, ended: mpsc::Sender<Ended>) -> Result<()> {
    let bringup = Bringup {
        options,
        kubectl: options.kubectl(),
        ended,
        started: Instant::now(),
    };
    bringup.prepare(port)?;
    network::make_switch().await?;
    let nodes = bringup.make_nodes().await?;

    let (_, control) = nodes.first().context("a cluster without nodes")?;
    bringup.start_storage_and_api(control)?;
    tokio::try_join!(bringup.api_ready(), bringup.container_runtimes(&nodes))?;
    bringup.start_controllers(control)?;
    for (node, namespaces) in &nodes {
        bringup.start_node(*node, namespaces)?;
    }
    bringup.apply(&manifests::cluster()).await?;
    bringup.nodes_ready().await?;
    bringup.dns_ready().await?;
    for (node, namespaces) in nodes {
        bringup.watch(&node.name(), namespaces.keeper);
    }
    Ok(())
}

impl Bringup<'_> {
    /// Certificates, and the kubeconfig that leads through the relay.
    fn prepare(&self, port: u16) -> Result<()> {
        let Options { state, plan, .. } = self.options;
        for folder in [state.logs(), state.etcd()] {
            fs::create_dir_all(&folder)
                .with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let pki = self.options.pki();
        pki.found(*plan)?;
        let kubeconfig = pki.admin_kubeconfig(&format!("https://127.0.0.1:{port}"))?;
        write(&state.kubeconfig(), &kubeconfig)?;
        write(&state.etc().join("resolv.conf"), "")
    }

    async fn make_nodes(&self) -> Result<Vec<(Node, Namespaces)>> {
        let Options {
            state,
            plan,
            programs,
            ..
        } = self.options;
        let mut nodes = Vec::new();
        for node in plan.nodes() {
            let namespaces = Namespaces::make(state, node, &programs.pause()).await?;
            network::connect(*plan, node, namespaces.pid()).await?;
            nodes.push((node, namespaces));
        }
        self.tell("namespaces and links made");
        Ok(nodes)
    }

    fn start_storage_and_api(&self, node: &Namespaces) -> Result<()> {
        let Options { state, plan, .. } = self.options;
        self.start_part("etcd", node, &parts::etcd(&path(&state.etcd())))?;
        let args = parts::api_server(*plan, &self.options.pki());
        self.start_part("kube-apiserver", node, &args)
    }

    async fn api_ready(&self) -> Result<()> {
        process::until("the API server's /readyz", API_LIMIT, async || {
            let ready = ["get", "--raw", "/readyz"];
            self.kubectl.run(&ready, "", KUBECTL_LIMIT).await?;
            Ok(())
        })
        .await?;
        self.tell("API server ready");
        Ok(())
    }

    /// The controllers end when the API server has not made its built-in roles yet, so they come after it.
    fn start_controllers(&self, node: &Namespaces) -> Result<()> {
        let pki = self.options.pki();
        let args = parts::controller_manager(&pki);
        self.start_part("kube-controller-manager", node, &args)?;
        self.start_part("kube-scheduler", node, &parts::scheduler(&pki))
    }

    async fn container_runtimes(&self, nodes: &[(Node, Namespaces)]) -> Result<()> {
        for (node, namespaces) in nodes {
            self.start_containerd(*node, namespaces)?;
        }
        for (node, _) in nodes {
            self.load_images(*node).await?;
        }
        self.tell("container runtimes ready");
        Ok(())
    }

    fn start_containerd(&self, node: Node, namespaces: &Namespaces) -> Result<()> {
        let name = node.name();
        let etc = self.options.state.node_etc(&name);
        write(&etc.join("cni/pods.conflist"), &config::cni(node))?;
        let file = etc.join("containerd.toml");
        write(&file, &config::containerd(&path(&etc.join("cni"))))?;
        let mut command = namespaces.command(Path::new("containerd"));
        command.arg("--config").arg(&file);
        self.start(&format!("{name}-containerd"), command)
    }

    async fn load_images(&self, node: Node) -> Result<()> {
        let Options {
            state, programs, ..
        } = self.options;
        let socket = state.containerd_socket(&node.name());
        process::until("containerd's socket", CONTAINERD_LIMIT, async || {
            cluster::is_serving(&socket).await
        })
        .await?;
        for archive in programs.images() {
            cluster::import(&socket, &archive).await?;
        }
        Ok(())
    }

    fn start_node(&self, node: Node, namespaces: &Namespaces) -> Result<()> {
        let state = &self.options.state;
        let (name, pki) = (node.name(), self.options.pki());
        let etc = state.node_etc(&name);

        let cgroup = cgroup::prepare(&state.cgroup(), &name)?;
        let kubelet = etc.join("kubelet.yaml");
        let text = config::kubelet(
            &cgroup,
            &KubeletFiles {
                authority: &path(&pki.certificate("ca")),
                certificate: &path(&pki.certificate(&name)),
                key: &path(&pki.key(&name)),
                resolv_conf: &path(&state.etc().join("resolv.conf")),
            },
        );
        write(&kubelet, &text)?;
        let args = parts::kubelet(node, &path(&kubelet), &pki);
        self.start_part(&format!("{name}-kubelet"), namespaces, &args)?;

        let proxy = etc.join("kube-proxy.yaml");
        let kubeconfig = path(&pki.kubeconfig("kube-proxy"));
        write(&proxy, &config::kube_proxy(node, &kubeconfig))?;
        let args = parts::kube_proxy(&path(&proxy));
        self.start_part(&format!("{name}-kube-proxy"), namespaces, &args)
    }

    async fn apply(&self, manifests: &str) -> Result<()> {
        let args = ["apply", "-f", "-"];
        self.kubectl.run(&args, manifests, KUBECTL_LIMIT).await?;
        Ok(())
    }

    async fn nodes_ready(&self) -> Result<()> {
        for node in self.options.plan.nodes() {
            let name = node.name();
            process::until(&format!("{name} is Ready"), NODES_LIMIT, async || {
                let condition = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
                let args = ["get", "node", &name, "-o", condition];
                let ready = self.kubectl.run(&args, "", KUBECTL_LIMIT).await?;
                anyhow::ensure!(ready == "True", "Ready is \"{ready}\"");
                Ok(())
            })
            .await?;
        }
        self.tell("nodes ready");
        Ok(())
    }

    async fn dns_ready(&self) -> Result<()> {
        let limit = format!("--timeout={}s", NODES_LIMIT.as_secs());
        let args = [
            "rollout",
            "status",
            "-n",
            "kube-system",
            "deployment/coredns",
            &limit,
        ];
        self.kubectl
            .run(&args, "", NODES_LIMIT + KUBECTL_LIMIT)
            .await?;
        self.tell("cluster DNS ready");
        Ok(())
    }

    fn start_part(&self, name: &str, node: &Namespaces, args: &[String]) -> Result<()> {
        let mut command = node.command(&self.options.programs.kube());
        command.args(args);
        self.start(name, command)
    }

    fn start(&self, name: &str, command: Command) -> Result<()> {
        let child = process::start(command, &self.options.state.log(name))?;
        self.watch(name, child);
        Ok(())
    }

    fn watch(&self, name: &str, mut child: Child) {
        let (name, ended) = (name.to_owned(), self.ended.clone());
        tokio::spawn(async move {
            let status = child.wait().await;
            // Nobody reads any more only when all of it ends.
            ended.send(Ended { name, status }).await.ok();
        });
    }

    fn tell(&self, what: &str) {
        say(&format!(
            "{what} ({:.1} s)",
            self.started.elapsed().as_secs_f32()
        ));
    }
}

fn path(path: &Path) -> String {
    path.display().to_string()
}

fn write(path: &Path, text: &str) -> Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    pki::write(path, text)
}
