//! Our proxies, as in a mesh: configured by our control plane from Kubernetes objects, with certificates from its
//! authority, and everything on that a mesh has on by default.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Fleet, command};
use crate::pki::{Account, NAMESPACE, Pki};
use crate::rig::{BACK, CONTROL_PLANE, FRONT, Port, Process, SERVICE};

/// The address at which injected proxies find discovery and certificates.
const DISCOVERY_PORT: u16 = 15012;
/// 15014, where Istio has it, is free in the control plane's own namespace.
const MONITORING: &str = "127.0.0.1:15014";

/// Starts the control plane in the namespace of this process.
pub(super) fn control_plane(pki: &Pki, folder: &Path, program: &Path) -> anyhow::Result<Process> {
    let config = folder.join("config");
    fs::create_dir_all(&config)?;
    fs::write(config.join("mesh.yaml"), objects())?;
    let mut command = command(folder, program, "control-plane.log")?;
    command
        .arg("control-plane")
        .arg("--config-dir")
        .arg(config)
        .arg("--state-dir")
        .arg(pki.state())
        .arg("--token-issuer-key")
        .arg(pki.token_keys())
        .args(["--monitoring-addr", MONITORING]);
    Process::spawn(command)
}

/// Proxies A and B.
pub(super) fn pair(fleet: &Fleet<'_>, workers: usize) -> anyhow::Result<[Command; 2]> {
    let a = proxy(fleet, Account::Client, workers, Set::Usual)?;
    let b = proxy(fleet, Account::Server, workers, Set::Usual)?;
    Ok([a, b])
}

/// Proxies A and B, asking for what they use.
pub(super) fn on_demand(fleet: &Fleet<'_>) -> anyhow::Result<[Command; 2]> {
    let a = proxy(fleet, Account::Client, 1, Set::OnDemand)?;
    let b = proxy(fleet, Account::Server, 1, Set::OnDemand)?;
    Ok([a, b])
}

/// Proxy A with the full set.
pub(super) fn subscriber(fleet: &Fleet<'_>) -> anyhow::Result<Command> {
    proxy(fleet, Account::Client, 1, Set::Full)
}

/// What gets a stock Envoy in the place of proxy A its certificate and writes its bootstrap, and where it does.
pub(super) fn envoy_agent(fleet: &Fleet<'_>) -> anyhow::Result<(Command, PathBuf)> {
    let bootstrap = fleet.folder.join("envoy-subscriber.json");
    fs::remove_file(&bootstrap).ok();
    let mut command = workload(fleet, Account::Client)?;
    command
        .arg("sds")
        .arg("--sds-socket")
        .arg(fleet.folder.join("sds"));
    command.arg("--write-bootstrap").arg(&bootstrap);
    Ok((command, bootstrap))
}

/// How much of the mesh a proxy holds.
#[derive(Clone, Copy, PartialEq)]
enum Set {
    /// As is the default, with the configuration of its last run at hand.
    Usual,
    Full,
    OnDemand,
}

fn proxy(fleet: &Fleet<'_>, account: Account, workers: usize, set: Set) -> anyhow::Result<Command> {
    let mut command = workload(fleet, account)?;
    command.args(["proxy", "sidecar", "--concurrency", &workers.to_string()]);
    let cache = fleet.folder.join(account.name()).join("cache");
    match set {
        Set::Usual => command.env("MELTEMI_CACHE_DIR", cache),
        Set::Full => command.env("ISTIO_META_ON_DEMAND", "false"),
        Set::OnDemand => command.env("ISTIO_META_ON_DEMAND", "true"),
    };
    Ok(command)
}

/// Our program as in an account's pod, with its files.
fn workload(fleet: &Fleet<'_>, account: Account) -> anyhow::Result<Command> {
    let ip = match account {
        Account::Client => FRONT,
        Account::Server => BACK,
    };
    let name = account.name();
    let root = fleet.folder.join(name);
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap_or(&root))?;
        fs::write(path, text)
    };
    write(
        "var/run/secrets/tokens/istio-token",
        &fleet.pki.token(account)?,
    )?;
    write(
        "var/run/secrets/istio/root-cert.pem",
        &fs::read_to_string(fleet.pki.root())?,
    )?;
    write(
        "etc/istio/pod/labels",
        &format!("app=\"{name}\"\nversion=\"v1\"\n"),
    )?;
    let config = format!("{{\"discoveryAddress\":\"{CONTROL_PLANE}:{DISCOVERY_PORT}\"}}");
    let owner = format!("kubernetes://apis/apps/v1/namespaces/{NAMESPACE}/deployments/{name}");
    let mut command = fleet.command(&fleet.programs.proxy, &format!("ours-{name}.log"))?;
    command
        .env("MELTEMI_ROOT", &root)
        .env("POD_NAME", format!("{name}-1"))
        .env("POD_NAMESPACE", NAMESPACE)
        .env("SERVICE_ACCOUNT", name)
        .env("INSTANCE_IP", ip.to_string())
        .env("PROXY_CONFIG", config)
        .env("ISTIO_META_WORKLOAD_NAME", name)
        .env("ISTIO_META_OWNER", owner);
    Ok(command)
}

/// What a cluster would hold: two pods, the Service before one of them, and mutual TLS required.
fn objects() -> String {
    let protocols = [
        (Port::Http1, "http"),
        (Port::Http2, "grpc"),
        (Port::Tcp, "tcp"),
        (Port::TlsEcdsa, "tcp-ecdsa"),
        (Port::TlsRsa, "tcp-rsa"),
        (Port::TlsHybrid, "tcp-hybrid"),
    ];
    let (mut service_ports, mut slice_ports) = (String::new(), String::new());
    for (port, name) in protocols {
        let (number, target) = (port.service(), port.target());
        service_ports +=
            &format!("  - {{name: {name}, port: {number}, targetPort: {target}, protocol: TCP}}\n");
        slice_ports += &format!("- {{name: {name}, port: {target}, protocol: TCP}}\n");
    }
    let pod = |account: Account, ip: &str| {
        let name = account.name();
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata:\n  name: {name}-1\n  namespace: {NAMESPACE}\n  labels: {{app: {name}, version: v1, security.istio.io/tlsMode: istio}}\n\
             spec: {{serviceAccountName: {name}, containers: [{{name: app, image: none}}]}}\n\
             status: {{phase: Running, podIP: {ip}, podIPs: [{{ip: {ip}}}]}}\n---\n"
        )
    };
    let pods = pod(Account::Client, &FRONT.to_string()) + &pod(Account::Server, &BACK.to_string());
    format!(
        "{pods}apiVersion: v1\nkind: Service\nmetadata: {{name: server, namespace: {NAMESPACE}}}\n\
         spec:\n  clusterIP: {SERVICE}\n  selector: {{app: server}}\n  ports:\n{service_ports}---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: server-1, namespace: {NAMESPACE}, labels: {{kubernetes.io/service-name: server}}}}\n\
         addressType: IPv4\nports:\n{slice_ports}\
         endpoints:\n- addresses: [{BACK}]\n  conditions: {{ready: true}}\n  targetRef: {{kind: Pod, name: server-1, namespace: {NAMESPACE}}}\n---\n\
         apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default, namespace: istio-system}}\n\
         spec: {{mtls: {{mode: STRICT}}}}\n"
    )
}
