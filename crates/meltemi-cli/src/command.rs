mod authz;
mod installing;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use clap_complete::Shell;

use crate::{CliError, Format, Io};

pub use authz::*;
pub use installing::*;

/// What a user can ask of a mesh. Flatten it into a program's own subcommands.
#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum Command {
    /// Shows which proxies are connected and whether they hold the current configuration
    #[command(
        visible_alias = "ps",
        after_help = "\
Examples:
  # every proxy
  meltemi proxy-status
  # one column per type of configuration: SYNCED, STALE, NOT SENT or ERROR
  meltemi proxy-status -v 1
  # what a proxy holds against what the control plane means it to hold
  meltemi proxy-status productpage-v1"
    )]
    ProxyStatus(ProxyStatusArgs),
    /// Shows the configuration that a proxy works with
    #[command(subcommand, visible_alias = "pc")]
    ProxyConfig(ProxyConfigCommand),
    /// Inspects authentication between workloads
    #[command(subcommand)]
    Authn(AuthnCommand),
    /// Inspects who may call what
    #[command(subcommand)]
    Authz(AuthzCommand),
    /// Shows who really talks to whom, and how
    #[command(subcommand)]
    Mtls(MtlsCommand),
    /// Prints the versions of this program, the control plane and the proxies
    #[command(
        after_help = "Examples:\n  meltemi version\n  meltemi version --remote=false --short\n  meltemi version -o json"
    )]
    Version(VersionArgs),
    /// Adds the sidecar to workloads in a manifest
    #[command(after_help = "\
The manifest goes to standard output as YAML, the report to standard error. What is not a workload stays as it is; injecting \
twice changes nothing.

Examples:
  meltemi kube-inject -f deployment.yaml > injected.yaml
  kubectl get deploy -o yaml | meltemi kube-inject -f - | kubectl apply -f -")]
    KubeInject(KubeInjectArgs),
    /// Finds mistakes in configuration: in files before they are applied, or in the running mesh
    #[command(after_help = "\
Exit status: 0 no issue, 79 an issue at or above --failure-threshold, 65 a file cannot be read.

Examples:
  meltemi analyze
  meltemi analyze -A --output-threshold warning
  meltemi analyze -f samples/bookinfo/networking
  meltemi analyze bookinfo.yaml rules.yaml -n shop
  meltemi analyze -f . -o json --failure-threshold warning")]
    Analyze(AnalyzeArgs),
    /// Installs a control plane in a cluster, or brings one up to date
    #[command(after_help = "\
What an earlier installation of the same revision made and this one does not is deleted.

Exit status: 0 done, 1 refused, cancelled or not ready in time, 65 values that are not understood, 69 no cluster.

Examples:
  meltemi install
  meltemi install --wait -y --set meshConfig.accessLogFile=/dev/stdout
  meltemi install --dry-run -f values.yaml --revision canary")]
    Install(InstallArgs),
    /// Brings an installed control plane to this program's version
    #[command(after_help = "\
Pods keep the sidecars that they have until they are made anew; proxies of the version before stay connected.

Exit status: as of install; 65 also when there is nothing to upgrade.

Examples:
  meltemi upgrade --wait
  meltemi upgrade -f values.yaml --revision canary --dry-run")]
    Upgrade(InstallArgs),
    /// Names for revisions that stay when revisions change
    #[command(subcommand)]
    Tag(TagCommand),
    /// Looks for everything that keeps a mesh from working, and says what to do about it
    #[command(after_help = "\
Exit status: 0 nothing failed, 1 something did, 69 no cluster.

Examples:
  meltemi check --pre
  meltemi check
  meltemi check --revision canary -o json")]
    Check(CheckArgs),
    /// Commands that istioctl calls experimental
    #[command(subcommand, visible_alias = "x")]
    Experimental(ExperimentalCommand),
    /// Removes a control plane from a cluster
    #[command(after_help = "\
Without --purge the definitions stay, and with them what users have configured; so do the namespace and the authority's key.

Examples:
  meltemi uninstall --revision canary
  meltemi uninstall --purge -y")]
    Uninstall(UninstallArgs),
    /// Makes the objects of an installation
    #[command(subcommand)]
    Manifest(ManifestCommand),
    /// Prints a completion script for a shell
    #[command(after_help = "\
Examples:
  source <(meltemi completion bash)
  meltemi completion zsh > \"${fpath[1]}/_meltemi\"
  meltemi completion fish | source")]
    Completion(CompletionArgs),
}

#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum AuthnCommand {
    /// Tells whether traffic between two workloads is encrypted, from live handshakes
    #[command(after_help = "\
Prints one row per service port: what the policies say, in the columns of the old istioctl command. Then what is: for each \
endpoint the mode its proxy enforces and a handshake made now, with the identities of both ends. The verdict \
(MODE: mTLS (STRICT), mTLS (PERMISSIVE), PLAINTEXT (...), MIXED (...) or CONFLICT (...)) follows from the handshakes and the \
proxies alone, never from the policies.

Examples:
  meltemi authn tls-check ratings-v1 ratings.default.svc.cluster.local
  meltemi authn tls-check productpage-v1.default reviews:9080
  meltemi authn tls-check deploy/productpage-v1 -o json")]
    TlsCheck(TlsCheckArgs),
}

#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum MtlsCommand {
    /// Lists the connections that proxies have seen: encrypted or not, between whom, and what STRICT would break
    #[command(after_help = "\
Read from the sidecars' live connections, not from policies: an edge shows up once there was traffic on it. TRAFFIC is what the \
last connection was. UNDER STRICT says what becomes of the edge when a PeerAuthentication has the called workload refuse plain \
text; callers without a sidecar are what it breaks.

Examples:
  meltemi mtls status
  meltemi mtls status -A
  meltemi mtls status reviews-v1 -o json | jq '.edges[] | select(.underStrict == \"breaks\")'")]
    Status(MtlsStatusArgs),
}

#[derive(Clone, Debug, Args)]
pub struct MtlsStatusArgs {
    /// Only edges of this pod, as [type/]name[.namespace]; the name of its workload will do
    pub pod: Option<String>,
    #[command(flatten)]
    pub namespace: Namespace,
    /// Edges of every namespace
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Args)]
pub struct TlsCheckArgs {
    /// The calling pod, as [type/]name[.namespace]; the name of its workload will do
    pub pod: Option<String>,
    /// The called service: a short or full name, with or without :port
    pub service: Option<String>,
    #[command(flatten)]
    pub namespace: Namespace,
    /// Judge by the handshakes that traffic has made, without making new ones
    #[arg(long)]
    pub no_probe: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Default, Args)]
pub struct Namespace {
    /// The namespace of names that do not say theirs [default: default]
    #[arg(short, long)]
    pub namespace: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct ProxyStatusArgs {
    /// Compare this pod's configuration with the control plane's
    pub pod: Option<String>,
    #[command(flatten)]
    pub namespace: Namespace,
    /// 1 adds a column per type of configuration
    #[arg(short, long, default_value_t = 0)]
    pub verbosity: u8,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum ProxyConfigCommand {
    /// Upstream clusters, with their TLS
    #[command(
        visible_alias = "clusters",
        alias = "c",
        after_help = "\
Examples:
  meltemi proxy-config clusters productpage-v1
  meltemi proxy-config clusters productpage-v1 --fqdn ratings.default.svc.cluster.local -o yaml   # with commonTlsContext
  meltemi proxy-config clusters -f config_dump.json --direction outbound"
    )]
    Cluster(ClusterArgs),
    /// Listeners and what their filter chains match
    #[command(
        visible_alias = "listeners",
        alias = "l",
        after_help = "\
Examples:
  meltemi proxy-config listeners productpage-v1 --port 9080
  meltemi proxy-config listeners productpage-v1 --address 0.0.0.0 -o json"
    )]
    Listener(ListenerArgs),
    /// Routes, by virtual host
    #[command(
        visible_alias = "routes",
        alias = "r",
        after_help = "\
Examples:
  meltemi proxy-config routes productpage-v1 --name 9080"
    )]
    Route(RouteArgs),
    /// Endpoints and their health
    #[command(visible_aliases = ["endpoints", "ep"], after_help = "\
Examples:
  meltemi proxy-config endpoints productpage-v1 --cluster 'outbound|9080||reviews.default.svc.cluster.local'
  meltemi proxy-config endpoints productpage-v1 --port 9080 --status healthy")]
    Endpoint(EndpointArgs),
    /// Certificates and trust bundle (no keys)
    #[command(
        visible_alias = "secrets",
        alias = "s",
        after_help = "Examples:\n  meltemi proxy-config secret productpage-v1"
    )]
    Secret(PodArgs),
    /// Filters whose configuration comes by itself (ECDS)
    #[command(after_help = "Examples:\n  meltemi proxy-config ecds productpage-v1")]
    Ecds(PodArgs),
    /// What the proxy started with
    #[command(
        alias = "b",
        after_help = "Examples:\n  meltemi proxy-config bootstrap productpage-v1 -o yaml"
    )]
    Bootstrap(PodArgs),
    /// Everything: all tables, or the whole dump with -o json
    #[command(
        alias = "a",
        after_help = "\
Examples:
  meltemi proxy-config all productpage-v1
  meltemi proxy-config all productpage-v1 -o json > config_dump.json"
    )]
    All(PodArgs),
    /// Shows or sets log levels
    #[command(after_help = "\
Examples:
  meltemi proxy-config log productpage-v1
  meltemi proxy-config log productpage-v1 --level debug
  meltemi proxy-config log productpage-v1 --level http:debug,tls:trace
  meltemi proxy-config log productpage-v1 --reset")]
    Log(LogArgs),
}

/// The pod, or a file with its dump.
#[derive(Clone, Debug, Default, Args)]
pub struct PodArgs {
    /// The pod, as [type/]name[.namespace]; the name of its workload will do
    #[arg(required_unless_present = "file")]
    pub pod: Option<String>,
    #[command(flatten)]
    pub namespace: Namespace,
    /// Read a config_dump instead of asking a pod
    #[arg(short, long, conflicts_with = "pod")]
    pub file: Option<PathBuf>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Default, Args)]
pub struct ClusterArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// Only clusters of this host
    #[arg(long)]
    pub fqdn: Option<String>,
    /// Only clusters of this service port
    #[arg(long)]
    pub port: Option<u16>,
    /// Only clusters of this subset
    #[arg(long)]
    pub subset: Option<String>,
    /// inbound or outbound
    #[arg(long, value_parser = ["inbound", "outbound"])]
    pub direction: Option<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct ListenerArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// Only listeners at this address
    #[arg(long)]
    pub address: Option<String>,
    /// Only listeners at this port
    #[arg(long)]
    pub port: Option<u16>,
    /// Only listeners with a chain of this type
    #[arg(long = "type", value_parser = ["HTTP", "TCP", "HTTP+TCP"])]
    pub kind: Option<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct RouteArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// Only this route configuration
    #[arg(long)]
    pub name: Option<String>,
}

#[derive(Clone, Debug, Default, Args)]
pub struct EndpointArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// Only endpoints at this address
    #[arg(long)]
    pub address: Option<String>,
    /// Only endpoints at this port
    #[arg(long)]
    pub port: Option<u16>,
    /// Only endpoints of this cluster, such as outbound|9080|v1|reviews.default.svc.cluster.local
    #[arg(long)]
    pub cluster: Option<String>,
    /// healthy, unhealthy, draining or another of Envoy's states
    #[arg(long)]
    pub status: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct LogArgs {
    #[command(flatten)]
    pub pod: PodArgs,
    /// A level for all loggers, or logger:level, comma-separated
    #[arg(long)]
    pub level: Option<String>,
    /// Set all loggers back to warning
    #[arg(short, long, conflicts_with = "level")]
    pub reset: bool,
}

#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// Print version numbers only
    #[arg(short, long)]
    pub short: bool,
    /// Ask the control plane too
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    pub remote: bool,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Args)]
pub struct KubeInjectArgs {
    /// The manifest; - is standard input
    #[arg(short = 'f', long = "filename", required = true)]
    pub file: PathBuf,
    #[command(flatten)]
    pub namespace: Namespace,
    /// Where the result goes; standard output otherwise
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The revision to inject for
    #[arg(long, value_name = "NAME")]
    pub revision: Option<String>,
    /// A file with the mesh configuration
    #[arg(long = "meshConfigFile", value_name = "FILE")]
    pub mesh_config: Option<PathBuf>,
    /// A file with the injector's configuration (key config of ConfigMap istio-sidecar-injector); its templates are not used
    #[arg(long = "injectConfigFile", value_name = "FILE")]
    pub inject_config: Option<PathBuf>,
    /// A file with Istio's Helm values (key values of ConfigMap istio-sidecar-injector)
    #[arg(long = "valuesFile", value_name = "FILE")]
    pub values: Option<PathBuf>,
}

#[derive(Clone, Debug, Args)]
pub struct AnalyzeArgs {
    /// Files or folders, judged as if they were applied to the running mesh; the running mesh itself without any
    pub files: Vec<PathBuf>,
    /// Files or folders
    #[arg(short = 'f', long = "filename")]
    pub filenames: Vec<PathBuf>,
    /// Whether files are judged together with the running mesh; by default where there is one
    #[arg(short = 'k', long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub use_kube: Option<bool>,
    #[command(flatten)]
    pub namespace: Namespace,
    /// All namespaces of the running mesh
    #[arg(short = 'A', long)]
    pub all_namespaces: bool,
    /// The least severity that makes the command fail
    #[arg(long, value_parser = ["info", "warning", "error"], default_value = "error", ignore_case = true)]
    pub failure_threshold: String,
    /// The least severity that is printed
    #[arg(long, value_parser = ["info", "warning", "error"], default_value = "info", ignore_case = true)]
    pub output_threshold: String,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Args)]
pub struct CompletionArgs {
    #[arg(value_enum)]
    pub shell: Shell,
}

pub(crate) fn completion(args: &CompletionArgs, io: &mut Io<'_>) -> Result<(), CliError> {
    let name = io.program.get_name().to_owned();
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut io.program, name, &mut script);
    Ok(io.stdout.write_all(&script)?)
}
