//! Proves that a cluster has what a sidecar mesh asks of one: `cargo xtask kube smoke`.
//!
//! Everything goes the way a person's kubectl goes: through the relay, with the kubeconfig that `env` prints.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::image::Image;
use crate::kubectl::Kubectl;
use crate::paths::State;
use crate::{cluster, node, process};

const OBJECTS: &str = include_str!("smoke/smoke.yaml");
const IMAGE: &str = "meltemi.test/smoke:1";
const APPLETS: [&str; 9] = [
    "sh", "hostname", "httpd", "sleep", "tail", "true", "cat", "echo", "nslookup",
];
const LIMIT: Duration = Duration::from_secs(20);
const ROLLOUT_LIMIT: Duration = Duration::from_secs(120);

/// One namespace on a cluster, for the proofs.
struct Smoke {
    kubectl: Kubectl,
    namespace: String,
}

/// Runs every proof and says how each went.
///
/// # Errors
/// The objects cannot be made, or a proof fails.
pub async fn run(state: &State, kubectl: &Path, say: impl Fn(&str)) -> Result<()> {
    let smoke = Smoke {
        kubectl: Kubectl {
            program: kubectl.to_owned(),
            kubeconfig: state.kubeconfig(),
            cache: state.kubectl_cache(),
        },
        namespace: format!("smoke-{}", std::process::id()),
    };
    let started = Instant::now();
    load_image(state).await?;
    smoke.make_objects().await?;
    say(&format!(
        "two pods with sidecars are ready ({:.1} s)",
        started.elapsed().as_secs_f32()
    ));
    let mut failed = 0;
    let mut report = |what: &str, result: Result<()>| match result {
        Ok(()) => say(&format!("✔ {what}")),
        Err(error) => {
            failed += 1;
            say(&format!("✘ {what}: {error:#}"));
        }
    };
    report("the pods run on different nodes", smoke.spread().await);
    report(
        "a Service's address leads to both pods",
        smoke.service().await,
    );
    report("a pod reaches itself by its Service", smoke.hairpin().await);
    report(
        "cluster DNS knows the Service by both names",
        smoke.names().await,
    );
    report(
        "cluster DNS refuses other names at once",
        smoke.no_name().await,
    );
    report(
        "NET_ADMIN in an init container redirects",
        smoke.redirect().await,
    );
    report(
        "a token is for istio-ca and nobody else",
        smoke.token().await,
    );
    report("exec passes standard input", smoke.exec().await);
    report("logs of a native sidecar", smoke.logs().await);
    report(
        "port-forward leads to a Service",
        smoke.port_forward().await,
    );
    report("the API server reaches a pod", smoke.api_proxy().await);
    report("an ephemeral container runs", smoke.ephemeral().await);
    report("a Job with a sidecar completes", smoke.job().await);
    report("a memory limit is enforced", smoke.memory().await);
    smoke.remove().await?;
    ensure!(failed == 0, "{failed} proofs failed");
    say(&format!(
        "all hold ({:.1} s)",
        started.elapsed().as_secs_f32()
    ));
    Ok(())
}

/// busybox, curl, nft and iptables of this machine.
async fn load_image(state: &State) -> Result<()> {
    let mut image = Image::new(IMAGE).program("bin/busybox", &find("busybox")?);
    for applet in APPLETS {
        image = image.link(&format!("bin/{applet}"), "busybox");
    }
    for program in ["curl", "nft"] {
        image = image.file(&format!("usr/bin/{program}"), &find(program)?);
    }
    // iptables is many names of one program, which chooses by the name.
    let iptables = std::fs::canonicalize(find("iptables")?)?;
    image = image.file("usr/sbin/iptables", &iptables);
    for extension in ["xt_REDIRECT", "xt_owner", "xt_tcp", "xt_standard"] {
        let file = xtables_folder()?.join(format!("lib{extension}.so"));
        let at = file.to_string_lossy().trim_start_matches('/').to_owned();
        if file.is_file() {
            image = image.file(&at, &file);
        }
    }
    let archive = state.root().join("smoke.tar");
    image.write(&archive).await?;
    cluster::load(state, &archive).await?;
    std::fs::remove_file(&archive).context("cannot remove the image archive")
}

fn find(program: &str) -> Result<PathBuf> {
    node::PATH
        .split(':')
        .map(|folder| Path::new(folder).join(program))
        .find(|file| file.is_file())
        .with_context(|| format!("this machine has no {program}"))
}

/// Debian puts libraries into a folder for each architecture.
fn xtables_folder() -> Result<PathBuf> {
    let arch = std::env::consts::ARCH;
    let folders = [
        format!("/usr/lib/{arch}-linux-gnu/xtables"),
        "/usr/lib/xtables".to_owned(),
        "/usr/lib64/xtables".to_owned(),
    ];
    let mut folders = folders.into_iter().map(PathBuf::from);
    folders
        .find(|folder| folder.is_dir())
        .context("this machine has no extensions of iptables")
}

impl Smoke {
    async fn make_objects(&self) -> Result<()> {
        let create = ["create", "namespace", &self.namespace];
        self.kubectl.run(&create, "", LIMIT).await?;
        // A pod is refused for as long as its namespace has no service account.
        process::until("a service account", LIMIT, async || {
            self.kubectl(&["get", "serviceaccount", "default"]).await?;
            Ok(())
        })
        .await?;
        let apply = ["-n", &self.namespace, "apply", "-f", "-"];
        self.kubectl.run(&apply, OBJECTS, LIMIT).await?;
        self.slow(&["rollout", "status", "deployment/web"]).await?;
        self.slow(&["wait", "--for=condition=Ready", "pod/client"])
            .await
    }

    async fn remove(&self) -> Result<()> {
        let delete = ["delete", "namespace", &self.namespace, "--wait=false"];
        self.kubectl.run(&delete, "", LIMIT).await?;
        Ok(())
    }

    async fn spread(&self) -> Result<()> {
        let template = "jsonpath={.items[*].spec.nodeName}";
        let nodes = self
            .kubectl(&["get", "pods", "-l", "app=web", "-o", template])
            .await?;
        let nodes: Vec<_> = nodes.split(' ').collect();
        ensure!(nodes.len() == 2 && nodes[0] != nodes[1], "{nodes:?}");
        Ok(())
    }

    async fn service(&self) -> Result<()> {
        let template = "jsonpath={.spec.clusterIP}";
        let address = self
            .kubectl(&["get", "service", "web", "-o", template])
            .await?;
        self.reaches_both("pod/client", &format!("http://{address}/index.html"))
            .await
    }

    async fn hairpin(&self) -> Result<()> {
        let web = &self.web_pods().await?[0];
        self.reaches_both(web, "http://web/index.html").await
    }

    async fn names(&self) -> Result<()> {
        for name in [
            "web".to_owned(),
            format!("web.{}.svc.cluster.local", self.namespace),
        ] {
            self.curl("pod/client", &format!("http://{name}/index.html"))
                .await?;
        }
        Ok(())
    }

    async fn no_name(&self) -> Result<()> {
        let asked = Instant::now();
        let answer = self.curl("pod/client", "http://web.example/").await;
        ensure!(answer.is_err(), "it answered {answer:?}");
        let took = asked.elapsed();
        ensure!(took < Duration::from_secs(2), "it took {took:?}");
        Ok(())
    }

    async fn redirect(&self) -> Result<()> {
        let web = &self.web_pods().await?[0];
        let address = self
            .kubectl(&["get", web, "-o", "jsonpath={.status.podIP}"])
            .await?;
        let inbound = self
            .curl("pod/client", &format!("http://{address}:9999/index.html"))
            .await?;
        let outbound = self.curl(web, "http://192.0.2.1:9998/index.html").await?;
        ensure!(inbound == outbound, "{inbound} is not {outbound}");
        Ok(())
    }

    async fn token(&self) -> Result<()> {
        let web = &self.web_pods().await?[0];
        let read = [
            "exec",
            web,
            "--",
            "cat",
            "/var/run/secrets/tokens/istio-token",
        ];
        let token = self.kubectl(&read).await?;
        for (audience, expected) in [("istio-ca", "true"), ("somebody-else", "")] {
            let review = serde_json::json!({
                "apiVersion": "authentication.k8s.io/v1",
                "kind": "TokenReview",
                "spec": {"token": token.trim(), "audiences": [audience]},
            });
            let template = "jsonpath={.status.authenticated}";
            let create = ["create", "-f", "-", "-o", template];
            let verdict = self
                .kubectl
                .run(&create, &review.to_string(), LIMIT)
                .await?;
            ensure!(verdict == expected, "{audience}: \"{verdict}\"");
        }
        Ok(())
    }

    async fn exec(&self) -> Result<()> {
        let exec = ["-n", &self.namespace, "exec", "-i", "client", "--", "cat"];
        let echoed = self.kubectl.run(&exec, "over there", LIMIT).await?;
        ensure!(echoed == "over there", "{echoed}");
        Ok(())
    }

    async fn logs(&self) -> Result<()> {
        let web = &self.web_pods().await?[0];
        let log = self.kubectl(&["logs", web, "-c", "sidecar"]).await?;
        ensure!(log == "the sidecar runs\n", "{log}");
        Ok(())
    }

    async fn port_forward(&self) -> Result<()> {
        let forward = ["-n", &self.namespace, "port-forward", "service/web", ":80"];
        let mut command = self.kubectl.command(&forward);
        command
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        let mut child = command.spawn().context("cannot start kubectl")?;
        let stdout = child.stdout.take().context("a child without a pipe")?;
        let mut lines = BufReader::new(stdout).lines();
        let work = async {
            let line = lines.next_line().await?.unwrap_or_default();
            let port = forwarded_port(&line)?;
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream
                .write_all(b"GET /index.html HTTP/1.0\r\n\r\n")
                .await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            ensure!(answer.contains("web-"), "{answer}");
            Ok(())
        };
        timeout(LIMIT, work).await.context("nothing came")?
    }

    /// The way that webhooks are called, too.
    async fn api_proxy(&self) -> Result<()> {
        for pod in self.web_pods().await? {
            let name = pod.trim_start_matches("pod/");
            let path = format!(
                "/api/v1/namespaces/{}/pods/{name}:8080/proxy/index.html",
                self.namespace
            );
            let answer = self.kubectl(&["get", "--raw", &path]).await?;
            ensure!(answer.trim() == name, "{name}: {answer}");
        }
        Ok(())
    }

    async fn ephemeral(&self) -> Result<()> {
        let image = format!("--image={IMAGE}");
        let debug = [
            "debug",
            "client",
            &image,
            "--container=guest",
            "--profile=general",
            "--quiet",
            "--",
            "echo",
            "here",
        ];
        self.kubectl(&debug).await?;
        process::until("its output", LIMIT, async || {
            let log = self.kubectl(&["logs", "client", "-c", "guest"]).await?;
            ensure!(log == "here\n", "\"{log}\"");
            Ok(())
        })
        .await
    }

    async fn job(&self) -> Result<()> {
        self.slow(&["wait", "--for=condition=Complete", "job/job"])
            .await
    }

    async fn memory(&self) -> Result<()> {
        let template = "jsonpath={.status.containerStatuses[0].state.terminated.reason}";
        process::until("its end", LIMIT, async || {
            let reason = self
                .kubectl(&["get", "pod/glutton", "-o", template])
                .await?;
            ensure!(reason == "OOMKilled", "\"{reason}\"");
            Ok(())
        })
        .await
    }

    async fn reaches_both(&self, from: &str, url: &str) -> Result<()> {
        let mut seen = std::collections::BTreeSet::new();
        // That twenty even choices all fall on one of two pods happens once in half a million.
        for _ in 0..20 {
            seen.insert(self.curl(from, url).await?);
            if seen.len() == 2 {
                return Ok(());
            }
        }
        bail!("only {seen:?} answered")
    }

    async fn curl(&self, from: &str, url: &str) -> Result<String> {
        self.kubectl(&["exec", from, "--", "curl", "-sSf", "-m", "5", url])
            .await
    }

    async fn web_pods(&self) -> Result<Vec<String>> {
        let pods = self
            .kubectl(&["get", "pods", "-l", "app=web", "-o", "name"])
            .await?;
        let pods: Vec<_> = pods.lines().map(str::to_owned).collect();
        ensure!(!pods.is_empty(), "no pod");
        Ok(pods)
    }

    async fn kubectl(&self, args: &[&str]) -> Result<String> {
        let args: Vec<&str> = ["-n", &self.namespace]
            .into_iter()
            .chain(args.iter().copied())
            .collect();
        self.kubectl.run(&args, "", LIMIT).await
    }

    /// A command that waits by itself.
    async fn slow(&self, args: &[&str]) -> Result<()> {
        let limit = format!("--timeout={}s", ROLLOUT_LIMIT.as_secs());
        let args: Vec<&str> = ["-n", &self.namespace]
            .into_iter()
            .chain(args.iter().copied())
            .chain([limit.as_str()])
            .collect();
        self.kubectl.run(&args, "", ROLLOUT_LIMIT + LIMIT).await?;
        Ok(())
    }
}

/// Reads `Forwarding from 127.0.0.1:40123 -> 8080`.
fn forwarded_port(line: &str) -> Result<u16> {
    line.split_whitespace()
        .find_map(|word| word.strip_prefix("127.0.0.1:"))
        .and_then(|port| port.parse().ok())
        .with_context(|| format!("kubectl says \"{line}\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kubectl_tells_the_port_it_took() {
        let line = "Forwarding from 127.0.0.1:40123 -> 8080";
        assert_eq!(forwarded_port(line).unwrap(), 40123);
        assert!(forwarded_port("error: no").is_err());
    }
}
