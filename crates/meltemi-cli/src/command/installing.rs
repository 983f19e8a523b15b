//! What is asked of a cluster: installations, tags, checks.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use crate::Format;

#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum ManifestCommand {
    /// Prints the objects of an installation as YAML
    #[command(after_help = "\
Values have the names of Istio's charts; a name that nobody knows is an error. The namespace of the control plane is not among \
the objects.

Examples:
  kubectl create namespace istio-system
  meltemi manifest generate | kubectl apply -f -
  meltemi manifest generate --set meshConfig.accessLogFile=/dev/stdout --set pilot.resources.requests.cpu=100m
  meltemi manifest generate -f values.yaml --revision canary")]
    Generate(ManifestArgs),
}

#[derive(Clone, Debug, Args)]
pub struct ManifestArgs {
    /// A value, over those of files: path=value
    #[arg(short, long, value_name = "PATH=VALUE")]
    pub set: Vec<String>,
    /// A file of values, over the defaults; the last one has the last word. - is standard input
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Makes the objects of a control plane besides the default one
    #[arg(short, long, value_name = "NAME")]
    pub revision: Option<String>,
}

#[derive(Clone, Debug, Args)]
pub struct InstallArgs {
    #[command(flatten)]
    pub values: ManifestArgs,
    /// Ask the API server what would happen, and change nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Return when the control plane is ready
    #[arg(long)]
    pub wait: bool,
    /// The longest to wait
    #[arg(long, visible_alias = "readiness-timeout", value_name = "DURATION", value_parser = duration, default_value = "5m")]
    pub timeout: Duration,
    /// Do not ask before anything is changed
    #[arg(short = 'y', long)]
    pub skip_confirmation: bool,
}

#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum TagCommand {
    /// Lets a tag point at a revision
    #[command(after_help = "\
The tag `default` owns namespaces with istio-injection=enabled, and the validation of objects that name no revision.

Examples:
  meltemi tag set prod --revision 1-30-0
  meltemi tag set prod --revision 1-31-0 --overwrite
  meltemi tag set default --revision 1-31-0")]
    Set(TagSetArgs),
    /// Prints the objects of a tag as YAML
    #[command(after_help = "\
Examples:
  meltemi tag generate prod --revision 1-30-0 | kubectl apply -f -")]
    Generate(TagGenerateArgs),
    /// Lists the tags, what they point at, and who uses them
    #[command(after_help = "Examples:\n  meltemi tag list\n  meltemi tag list -o json")]
    List(TagListArgs),
    /// Removes a tag
    #[command(after_help = "Examples:\n  meltemi tag remove prod")]
    Remove(TagRemoveArgs),
}

#[derive(Clone, Debug, Args)]
pub struct TagArgs {
    /// The name of the tag
    pub tag: String,
    /// The revision that it points at; the one without a name is `default`
    #[arg(short, long, value_name = "NAME")]
    pub revision: String,
    /// Of the tag `default`: inject also where labels say nothing
    #[arg(long)]
    pub auto_inject_namespaces: bool,
}

#[derive(Clone, Debug, Args)]
pub struct TagSetArgs {
    #[command(flatten)]
    pub of: TagArgs,
    /// Let a tag that there is point elsewhere
    #[arg(long)]
    pub overwrite: bool,
}

#[derive(Clone, Debug, Args)]
pub struct TagGenerateArgs {
    #[command(flatten)]
    pub of: TagArgs,
}

#[derive(Clone, Debug, Args)]
pub struct TagListArgs {
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Args)]
pub struct TagRemoveArgs {
    /// The name of the tag
    pub tag: String,
    /// The longest to wait for one object to be gone
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "1m")]
    pub timeout: Duration,
    /// Do not ask, even if namespaces use it
    #[arg(short = 'y', long)]
    pub skip_confirmation: bool,
}

#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Before an installation: whether there can be one
    #[arg(long)]
    pub pre: bool,
    /// The control plane to check; all of them without it
    #[arg(short, long, value_name = "NAME")]
    pub revision: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Subcommand)]
#[non_exhaustive]
pub enum ExperimentalCommand {
    /// Whether a control plane can be installed or upgraded: check --pre
    #[command(
        after_help = "Examples:\n  meltemi x precheck\n  meltemi x precheck --revision canary"
    )]
    Precheck(PrecheckArgs),
    /// Inspects who may call what
    #[command(subcommand)]
    Authz(super::AuthzCommand),
}

#[derive(Clone, Debug, Args)]
pub struct PrecheckArgs {
    /// The control plane that is to be installed
    #[arg(short, long, value_name = "NAME")]
    pub revision: Option<String>,
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

#[derive(Clone, Debug, Args)]
pub struct UninstallArgs {
    /// The control plane of this revision; the one without a name is `default`
    #[arg(short, long, value_name = "NAME", conflicts_with = "purge")]
    pub revision: Option<String>,
    /// Every revision, with the definitions, what users have configured by them, and the authority's key
    #[arg(long)]
    pub purge: bool,
    /// The longest to wait for one object to be gone
    #[arg(long, value_name = "DURATION", value_parser = duration, default_value = "5m")]
    pub timeout: Duration,
    /// Do not ask before anything is deleted
    #[arg(short = 'y', long)]
    pub skip_confirmation: bool,
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = meltemi_core::duration::parse(text);
    duration.ok_or_else(|| "write it as 90s or 5m".to_owned())
}
