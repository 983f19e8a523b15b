//! The lab of the tour, driven by the commands that a user would type.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::tour::Tour;

const BOOKINFO: &str = include_str!("../../../../samples/bookinfo/platform/kube/bookinfo.yaml");
const CURL: &str = include_str!("../../../../samples/curl/curl.yaml");
const NETWORKING: &[(&str, &str)] = &[
    (
        "destination-rule-all-mtls.yaml",
        include_str!("../../../../samples/bookinfo/networking/destination-rule-all-mtls.yaml"),
    ),
    (
        "virtual-service-reviews-90-10.yaml",
        include_str!("../../../../samples/bookinfo/networking/virtual-service-reviews-90-10.yaml"),
    ),
    (
        "virtual-service-reviews-test-v2.yaml",
        include_str!(
            "../../../../samples/bookinfo/networking/virtual-service-reviews-test-v2.yaml"
        ),
    ),
];

/// How long one packet capture runs.
const CAPTURE: Duration = Duration::from_millis(1500);
/// How long a changed mode may take to be in force everywhere.
const MODE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    Strict,
}

impl Mode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "DISABLE",
            Self::Strict => "STRICT",
        }
    }
}

/// What a capture on a pod's link saw.
pub(super) struct Capture {
    pub(super) packets: usize,
    pub(super) bytes: usize,
    pub(super) found: bool,
}

/// What a shell reports of a program that SIGINT ended.
const INTERRUPTED: i32 = 130;

#[expect(
    clippy::exit,
    reason = "the tour itself waits for commands and for the reader"
)]
async fn down_when_interrupted(mut interrupt: Signal, mut down: Command) {
    if interrupt.recv().await.is_some() {
        // It tells on stderr what it did, or why it could not.
        let ended = down.status().is_ok_and(|status| status.success());
        std::process::exit(if ended { INTERRUPTED } else { 1 });
    }
}

pub(super) struct Lab {
    program: PathBuf,
    name: String,
    is_up: std::cell::Cell<bool>,
}

impl Lab {
    /// Brings bookinfo up with sidecars, and one client without.
    pub(super) fn start(tour: &mut Tour) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own path")?;
        let lab = Self {
            program,
            name: format!("demo-{}", std::process::id()),
            is_up: true.into(),
        };
        lab.end_on_interrupt()?;
        tour.command("meltemi lab label namespace default istio-injection=enabled");
        lab.meltemi(&[
            "lab",
            "label",
            "namespace",
            "default",
            "istio-injection=enabled",
        ])?;
        tour.command("meltemi lab up -f samples/bookinfo/platform/kube/bookinfo.yaml --wait");
        let outside = format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: outside\n---\n{}",
            in_namespace(CURL, "outside")
        );
        lab.feed(
            &["lab", "up", "-f", "-", "--wait"],
            &format!("{BOOKINFO}\n---\n{outside}"),
        )?;
        let pods = lab.meltemi(&["lab", "get", "pods", "-A"])?;
        tour.say(pods.trim_end());
        Ok(lab)
    }

    /// Has Ctrl-C take the lab along, at whatever point of the tour it comes.
    fn end_on_interrupt(&self) -> anyhow::Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot wait for Ctrl-C")?;
        let interrupt = {
            let _entered = runtime.enter();
            signal(SignalKind::interrupt()).context("cannot wait for Ctrl-C")?
        };
        let down = self.command(&["lab", "down"]);
        std::thread::spawn(move || runtime.block_on(down_when_interrupted(interrupt, down)));
        Ok(())
    }

    pub(super) fn down(&self) -> anyhow::Result<()> {
        if self.is_up.replace(false) {
            self.meltemi(&["lab", "down"])?;
        }
        Ok(())
    }

    /// Serves the page at an address of this machine, or at any free port when that is taken.
    pub(super) fn open_page(&self, address: &str) -> anyhow::Result<Page> {
        let wanted: SocketAddr = address
            .parse()
            .with_context(|| format!("\"{address}\" is not ADDRESS:PORT"))?;
        let port = if std::net::TcpListener::bind(wanted).is_ok() {
            wanted.port()
        } else {
            0
        };
        let mut child = self
            .command(&["lab", "forward", &format!("{port}:productpage:9080")])
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .context("cannot start the forwarding of the page")?;
        let mut line = String::new();
        let output = child
            .stdout
            .take()
            .context("the forwarding has no output")?;
        BufReader::new(output).read_line(&mut line)?;
        let address = line.split_whitespace().find_map(|word| word.parse().ok());
        let Some(address) = address else {
            child.kill()?;
            bail!("the forwarding of the page said \"{}\"", line.trim());
        };
        Ok(Page { address, child })
    }

    pub(super) fn set_mode(&self, mode: Mode) -> anyhow::Result<()> {
        let policy = format!(
            "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  namespace: default\nspec:\n  \
             mtls:\n    mode: {}\n",
            mode.as_str()
        );
        self.feed(&["lab", "apply", "-f", "-"], &policy)?;
        self.until_in_force(mode)
    }

    /// Waits until the proxies of both ends run in the mode: a plaintext client tells.
    fn until_in_force(&self, mode: Mode) -> anyhow::Result<()> {
        let deadline = Instant::now() + MODE_LIMIT;
        loop {
            let modes = self.inbound_modes()?;
            if !modes.is_empty() && modes.iter().all(|found| found == mode.as_str()) {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the proxies run in {modes:?} {} s after {} was asked",
                MODE_LIMIT.as_secs(),
                mode.as_str()
            );
            std::thread::park_timeout(Duration::from_millis(20));
        }
    }

    fn inbound_modes(&self) -> anyhow::Result<Vec<String>> {
        let mut modes = Vec::new();
        for pod in [
            "deploy/reviews-v1",
            "deploy/reviews-v2",
            "deploy/reviews-v3",
        ] {
            let tls = self.exec_ok(
                pod,
                "istio-proxy",
                &["pilot-agent", "request", "GET", "tls"],
            )?;
            let tls: Value = serde_json::from_str(&tls).context("the proxy's /tls is not JSON")?;
            let inbound = tls
                .pointer("/inbound")
                .and_then(Value::as_array)
                .cloned()
                .unwrap_or_default();
            modes.extend(
                inbound
                    .iter()
                    .filter_map(|port| port.pointer("/mode").and_then(Value::as_str))
                    .map(str::to_owned),
            );
        }
        Ok(modes)
    }

    pub(super) fn apply_samples(&self, names: &[&str]) -> anyhow::Result<()> {
        for (_, text) in NETWORKING.iter().filter(|(name, _)| names.contains(name)) {
            self.feed(&["lab", "apply", "-f", "-"], text)?;
        }
        Ok(())
    }

    pub(super) fn call_reviews(&self, headers: &[&str]) -> anyhow::Result<String> {
        let mut call = vec!["curl", "-sS", "-f"];
        call.extend(headers.iter().flat_map(|header| ["-H", header]));
        call.push("http://reviews:9080/reviews/0");
        self.exec_ok("deploy/productpage-v1", "productpage", &call)
    }

    /// Sends requests to reviews and counts the versions that answered; every request must be answered.
    pub(super) fn count_reviews(
        &self,
        requests: u32,
        headers: &[&str],
    ) -> anyhow::Result<BTreeMap<String, u32>> {
        let total = requests.to_string();
        let mut call = vec![
            "meltemi-apps",
            "client",
            "--requests",
            &total,
            "--connections",
            "4",
            "--count-json",
            "podname",
        ];
        call.extend(headers.iter().flat_map(|header| ["--header", header]));
        call.push("http://reviews:9080/reviews/0");
        let summary: Value =
            serde_json::from_str(&self.exec_ok("deploy/productpage-v1", "productpage", &call)?)?;
        ensure!(
            summary["ok"] == requests,
            "not all of {requests} requests were answered: {summary}"
        );
        let mut versions = BTreeMap::new();
        for (pod, count) in summary["by_json"]
            .as_object()
            .context("the client counted nothing")?
        {
            let version = pod.split('-').nth(1).unwrap_or("?");
            *versions.entry(version.to_owned()).or_default() +=
                u32::try_from(count.as_u64().unwrap_or(0))?;
        }
        Ok(versions)
    }

    /// Captures on the links of all reviews pods while requests that carry the marker cross them.
    pub(super) fn capture_while_calling(&self, marker: &str) -> anyhow::Result<Capture> {
        let for_flag = format!("{}ms", CAPTURE.as_millis());
        let mut captures = Vec::new();
        for version in ["v1", "v2", "v3"] {
            let target = format!("deploy/reviews-{version}");
            let mut child = self
                .command(&["lab", "capture", &target, "--for", &for_flag])
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("cannot start a capture")?;
            let mut line = String::new();
            BufReader::new(child.stderr.take().context("the capture has no stderr")?)
                .read_line(&mut line)?;
            captures.push(child);
        }
        let header = format!("x-marker: {marker}");
        for _ in 0..6 {
            self.call_reviews(&[&header])?;
        }
        let mut seen = Capture {
            packets: 0,
            bytes: 0,
            found: false,
        };
        for mut child in captures {
            let mut pcap = Vec::new();
            child
                .stdout
                .take()
                .context("the capture has no output")?
                .read_to_end(&mut pcap)?;
            child.wait()?;
            seen.packets += count_packets(&pcap);
            seen.bytes += pcap.len();
            seen.found |= pcap
                .windows(marker.len())
                .any(|window| window == marker.as_bytes());
        }
        Ok(seen)
    }

    /// Runs a command in a container and returns its exit status and all it printed.
    pub(super) fn exec(
        &self,
        target: &str,
        namespace: &str,
        container: &str,
        call: &[&str],
    ) -> anyhow::Result<(i32, String)> {
        let mut args = vec![
            "lab", "exec", target, "-n", namespace, "-c", container, "--",
        ];
        args.extend(call);
        let output = self
            .command(&args)
            .stdin(Stdio::null())
            .output()
            .context("cannot start lab exec")?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        Ok((output.status.code().unwrap_or(-1), text))
    }

    /// As [`Lab::exec`] in the default namespace, but the command must succeed; returns its standard output.
    pub(super) fn exec_ok(
        &self,
        target: &str,
        container: &str,
        call: &[&str],
    ) -> anyhow::Result<String> {
        let mut args = vec!["lab", "exec", target, "-c", container, "--"];
        args.extend(call);
        self.meltemi(&args)
    }

    pub(super) fn meltemi_json(&self, args: &[&str]) -> anyhow::Result<Value> {
        let text = self.meltemi(args)?;
        serde_json::from_str(&text)
            .with_context(|| format!("`meltemi {}` printed no JSON", args.join(" ")))
    }

    /// Runs one of our own commands against this lab and returns what it printed on stdout.
    pub(super) fn meltemi(&self, args: &[&str]) -> anyhow::Result<String> {
        self.feed(args, "")
    }

    fn feed(&self, args: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = self.command(args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            stdin.write_all(input.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if !output.status.success() {
            bail!(
                "`meltemi {}` failed: {}",
                args.join(" "),
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(args).env("MELTEMI_LAB", &self.name);
        command
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        // Reached with the lab up only when a step failed; there the first error is the one to show.
        if self.down().is_err() {
            self.is_up.set(false);
        }
    }
}

/// The page, served until this value is dropped.
pub(super) struct Page {
    pub(super) address: SocketAddr,
    child: Child,
}

impl Drop for Page {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            self.child.wait().ok();
        }
    }
}

/// Gives each document of a manifest without a namespace the one asked for.
fn in_namespace(manifest: &str, namespace: &str) -> String {
    manifest.replace(
        "metadata:\n  name:",
        &format!("metadata:\n  namespace: {namespace}\n  name:"),
    )
}

/// Counts the records of a classic pcap file (24 bytes of header, then 16 bytes and the packet for each; big-endian, as
/// `lab capture` writes it).
fn count_packets(pcap: &[u8]) -> usize {
    let mut packets = 0;
    let mut rest = pcap.get(24..).unwrap_or_default();
    while let Some(length) = rest
        .get(8..12)
        .and_then(|bytes| bytes.try_into().ok())
        .map(u32::from_be_bytes)
    {
        let Some(next) = rest.get(16 + length as usize..) else {
            break;
        };
        rest = next;
        packets += 1;
    }
    packets
}
