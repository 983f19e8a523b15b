//! The commands that users of a mesh type, as a library: `proxy-status`, `proxy-config`, `authn tls-check`, `authz`,
//! `version`, `kube-inject`, `analyze`, `install`, `upgrade`, `uninstall`, `tag`, `check`, `manifest`, `completion`, each spelled and printed as istioctl does.
//!
//! ```text
//! Command (clap) --run--> Access (pods, their admin ports, the control plane) -> JSON -> what it means -> table | json | yaml
//! ```
//! Where the mesh runs - a lab, later Kubernetes - is known to [`Access`] alone. This crate opens no connection and starts no
//! process; it reads the files that a user names.

mod access;
mod analyze;
mod authz;
mod check;
mod command;
mod control_plane;
mod error;
mod install;
mod io;
mod istioctl_flags;
mod kube_inject;
mod manifest;
mod mtls_status;
mod output;
mod proxy_config;
mod proxy_status;
mod table;
mod tag;
mod target;
mod tls_check;
mod uninstall;
mod version;

#[cfg(test)]
mod fake;
#[cfg(test)]
mod tests;

pub use access::{Access, AccessError, Answer, ClusterObjects, Method, Pod, Response};
pub use command::{
    AuthnCommand, AuthzCommand, CanArgs, CheckArgs, Command, ExperimentalCommand, LogArgs,
    ManifestCommand, MtlsCommand, PodArgs, ProxyConfigCommand, TagCommand, TlsCheckArgs,
};
pub use error::{CliError, exit};
pub use io::Io;
pub use istioctl_flags::{ClusterFlags, behind_the_command, cluster_flags, with_istioctl_flags};
pub use output::Format;
pub use tls_check::verdict::{Client, Endpoint, Mode, Server, verdict};

/// Runs a command and returns its exit status: 0, or one of [`exit`]. What went wrong is on `io.stderr`.
pub async fn run(command: Command, access: &dyn Access, io: &mut Io<'_>) -> u8 {
    let done = match command {
        Command::ProxyStatus(args) => proxy_status::run(&args, access, io).await,
        Command::ProxyConfig(command) => proxy_config::run(command, access, io).await,
        Command::Authn(AuthnCommand::TlsCheck(args)) => tls_check::run(&args, access, io).await,
        Command::Mtls(MtlsCommand::Status(args)) => mtls_status::run(&args, access, io).await,
        Command::Authz(command) | Command::Experimental(ExperimentalCommand::Authz(command)) => {
            authz::run(&command, access, io).await
        }
        Command::Version(args) => version::run(&args, access, io).await,
        Command::KubeInject(args) => kube_inject::run(&args, access, io).await,
        Command::Analyze(args) => analyze::run(&args, access, io).await,
        Command::Install(args) => install::install(&args, access, io).await,
        Command::Upgrade(args) => install::upgrade(&args, access, io).await,
        Command::Tag(command) => tag::run(&command, access, io).await,
        Command::Check(args) => check::run(&args, access, io).await,
        Command::Experimental(ExperimentalCommand::Precheck(args)) => {
            let args = CheckArgs {
                pre: true,
                revision: args.revision,
                output: args.output,
            };
            check::run(&args, access, io).await
        }
        Command::Uninstall(args) => uninstall::uninstall(&args, access, io).await,
        Command::Manifest(ManifestCommand::Generate(args)) => manifest::generate(&args, io),
        Command::Completion(args) => command::completion(&args, io),
    };
    match done {
        Ok(()) => 0,
        // The answer says it.
        Err(error @ CliError::Denied) => error.exit_status(),
        // Whoever read the output has had enough of it, as `head` has.
        Err(CliError::Write(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            io.report(&error);
            error.exit_status()
        }
    }
}
