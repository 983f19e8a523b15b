//! `meltemi lab ...`: kubectl's spelling for a mesh on one machine.

mod chosen;
mod create;
mod delete;
mod describe;
mod endpoints;
mod files;
mod get;
mod inside;
mod jsonpath;
mod kinds;
mod marks;
mod objects;
mod rollout;
mod scale;
mod selector;
mod status;
mod table;
mod terminal;
mod up;
mod wait;

use std::process::ExitCode;

use clap::{Arg, ArgAction, Args, Subcommand};

use crate::client::LabClient;
use crate::paths;

/// A mesh of ordinary Kubernetes manifests on this machine: pods are network namespaces, containers are processes.
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab label namespace default istio-injection=enabled\n  \
                        meltemi lab up -f samples/bookinfo/platform/kube/bookinfo.yaml --wait\n  meltemi lab get pods\n  \
                        meltemi lab exec deploy/productpage-v1 -- curl -s reviews:9080/reviews/0\n  meltemi lab down",
    mut_subcommands(kubectl_booleans)
)]
pub struct Lab {
    /// Which lab, when several run.
    #[arg(long, env = "MELTEMI_LAB", default_value = "default", global = true)]
    name: String,
    /// The namespace of the objects.
    #[arg(
        short,
        long,
        default_value = "default",
        global = true,
        hide_default_value = true
    )]
    namespace: String,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the lab, apply manifests, and return when all is ready.
    Up(up::Options),
    /// Create or change objects from files, folders or standard input.
    Apply(objects::Apply),
    /// Create objects that are not there yet.
    Create(create::Create),
    /// Delete objects by file, by kind and name, or by label.
    Delete(delete::Delete),
    /// Show objects.
    Get(get::Options),
    /// Show all about an object; of pods their containers, why they are not ready, and what happened to them.
    Describe(describe::Options),
    /// Set (K=V) or remove (K-) labels of an object.
    Label(marks::Label),
    /// Set (K=V) or remove (K-) annotations of an object.
    Annotate(marks::Annotate),
    /// Wait until objects have a condition, a value, or are gone.
    Wait(wait::Options),
    /// Run a command in a container; its exit status becomes this one's.
    Exec(inside::Exec),
    /// Print the log of a container.
    Logs(inside::Logs),
    /// Restart the pods of workloads, or wait until they are as their manifest says.
    Rollout(rollout::Options),
    /// Forward ports of this machine to a Service or pod.
    #[command(visible_alias = "port-forward")]
    Forward(inside::Forward),
    /// Write the packets on a pod's link to standard output as a pcap.
    Capture(inside::Capture),
    /// End a process with SIGKILL, to see what happens.
    Kill(inside::Kill),
    /// Set how many pods workloads have.
    Scale(scale::Options),
    /// Say what runs, which pods are not ready and why, and which watched files are broken.
    Status(status::Status),
    /// Show every lab that runs here.
    #[command(after_help = "Examples:\n  meltemi lab list")]
    List,
    /// End the lab and everything in it.
    #[command(after_help = "Examples:\n  meltemi lab down\n  meltemi lab down --name second")]
    Down,
}

impl Lab {
    pub fn client(&self) -> LabClient {
        LabClient::new(&self.name)
    }
}

/// Runs a command against the lab.
///
/// # Errors
/// The lab is not there, refuses, or what was asked for cannot be done.
pub async fn run(lab: &Lab) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(
        paths::is_name(&lab.name),
        "\"{}\" is no name for a lab: letters, digits, dashes, at most 40",
        lab.name
    );
    let client = lab.client();
    match &lab.command {
        Command::Up(options) => up::up(&client, options).await,
        Command::Apply(options) => objects::apply(&client, options).await,
        Command::Create(options) => create::create(&client, options).await,
        Command::Delete(options) => delete::delete(&client, options).await,
        Command::Get(options) => get::get(&client, options).await,
        Command::Describe(options) => describe::describe(&client, options).await,
        Command::Label(options) => marks::label(&client, options).await,
        Command::Annotate(options) => marks::annotate(&client, options).await,
        Command::Wait(options) => wait::wait(&client, options).await,
        Command::Exec(options) => inside::exec(&client, options).await,
        Command::Logs(options) => inside::logs(&client, options).await,
        Command::Rollout(options) => rollout::rollout(&client, options).await,
        Command::Forward(options) => inside::forward(&client, options).await,
        Command::Capture(options) => inside::capture(&client, options).await,
        Command::Kill(options) => inside::kill(&client, options).await,
        Command::Scale(options) => scale::scale(&client, options).await,
        Command::Status(options) => status::status(&client, options).await,
        Command::List => status::list().await,
        Command::Down => up::down(&client).await,
    }
}

/// As kubectl's flags: each that is said or not may have its value behind a `=`, as in `--watch=true`.
fn kubectl_booleans(command: clap::Command) -> clap::Command {
    let with_value = |flag: Arg| match flag.get_action() {
        ArgAction::SetTrue => flag
            .action(ArgAction::Set)
            .num_args(0..=1)
            .require_equals(true)
            .value_parser(clap::value_parser!(bool))
            .value_name("BOOL")
            .default_value("false")
            .default_missing_value("true")
            .hide_default_value(true)
            .hide_possible_values(true),
        _ => flag,
    };
    command
        .mut_args(with_value)
        .mut_subcommands(kubectl_booleans)
}

/// The exact namespace flag of kubectl.
#[derive(Debug, Clone, Args)]
struct Namespace {
    /// The namespace of the objects.
    #[arg(short, long, default_value = "default")]
    namespace: String,
}

fn duration(text: &str) -> Result<std::time::Duration, String> {
    meltemi_core::duration::parse(text)
        .ok_or_else(|| format!("\"{text}\" is not a duration such as 500ms, 20s or 2m"))
}

#[cfg(test)]
mod tests {
    use clap::Command;

    use super::*;

    fn program() -> Command {
        Lab::augment_args(Command::new("lab"))
    }

    #[test]
    fn the_namespace_may_stand_before_or_behind_the_command() {
        for words in [
            "lab -n x get pods",
            "lab get pods -n x",
            "lab get -n x pods",
        ] {
            let matches = program().try_get_matches_from(words.split(' ')).unwrap();
            let (_, get) = matches.subcommand().unwrap();
            assert_eq!(get.get_one::<String>("namespace").unwrap(), "x", "{words}");
        }
        let matches = program()
            .try_get_matches_from(["lab", "get", "pods"])
            .unwrap();
        let (_, get) = matches.subcommand().unwrap();
        assert_eq!(get.get_one::<String>("namespace").unwrap(), "default");
    }

    #[test]
    fn flags_may_have_a_value_as_kubectls_do() {
        for (words, flag, expected) in [
            ("lab get pods -w=true", "watch", true),
            ("lab get pods --watch=false", "watch", false),
            ("lab get -w pods", "watch", true),
            ("lab get pods", "watch", false),
            (
                "lab delete pod a --ignore-not-found=true",
                "ignore_not_found",
                true,
            ),
            ("lab delete pod a --wait=false", "wait", false),
            ("lab logs -f=true a", "follow", true),
            ("lab exec -it a -- sh", "tty", true),
            ("lab label pod a -n b k=v --overwrite", "overwrite", true),
            ("lab annotate pod --all -n b k=v", "all", true),
        ] {
            let matches = program().try_get_matches_from(words.split(' ')).unwrap();
            let (_, command) = matches.subcommand().unwrap();
            assert_eq!(command.get_one::<bool>(flag), Some(&expected), "{words}");
        }
        let wrong = program().try_get_matches_from(["lab", "get", "pods", "-w=maybe"]);
        assert!(wrong.is_err());
    }

    #[test]
    fn every_command_shows_examples_and_says_what_its_flags_do() {
        program().debug_assert();
        for command in program().get_subcommands() {
            let name = command.get_name();
            let help = command.get_after_help().map(ToString::to_string);
            assert!(
                help.is_some_and(|help| help.contains("Examples:")),
                "{name}"
            );
            for flag in command.get_arguments() {
                assert!(flag.get_help().is_some(), "{name} {}", flag.get_id());
            }
        }
    }
}
