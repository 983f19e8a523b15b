//! Starting a lab: one process outside that watches, one inside that supervises.
//!
//! ```text
//! meltemi lab up -> outer (new user namespace unless root; mount, network, pid, UTS and IPC namespaces)
//!                     \_ inner: PID 1 of the lab, the supervisor
//! ```
//! The outer process holds the inner one's standard input and reaps it; when either ends, the kernel ends every process
//! of the lab, and with them go its namespaces, links, mounts and rules. Nothing of the machine's own is touched.

use std::ffi::OsString;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufRead as _, BufReader};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use serde::{Deserialize, Serialize};

use crate::supervisor::{self, announce};
use crate::{enter, paths};

const OUTER: &str = "__lab-supervise";
const INNER: &str = "__lab-inner";

/// How a lab is to be.
#[derive(Clone, Debug)]
pub struct Options {
    pub name: String,
    /// A table of images beside the built-in one.
    pub images: Option<PathBuf>,
    /// How long workload certificates live, such as `20s`.
    pub workload_cert_ttl: Option<String>,
    /// A file with the mesh's configuration.
    pub mesh_config: Option<PathBuf>,
}

#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    #[error("{0}")]
    Refused(String),
    #[error("cannot prepare {}", .path.display())]
    Folder {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("cannot start the supervisor")]
    Spawn(#[source] io::Error),
    #[error("the lab {0:?} is being started or stopped by another command")]
    Busy(String),
}

/// What the outer and inner process are told.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Supervise {
    pub(crate) name: String,
    pub(crate) run_dir: PathBuf,
    /// This program, as a path that outlives the lab's own `/proc`.
    pub(crate) program: PathBuf,
    pub(crate) images: Option<PathBuf>,
    pub(crate) workload_cert_ttl: Option<String>,
    pub(crate) mesh_config: Option<PathBuf>,
    pub(crate) single_id: bool,
}

/// The folder of one lab.
pub fn run_dir(name: &str) -> PathBuf {
    paths::run_dir(name)
}

/// Starts a lab in the background; returns when its sockets answer. A lab that already runs is left as it is.
///
/// # Errors
/// The machine does not allow it, or the supervisor fails; the message says what to do about it.
pub fn start(options: &Options) -> Result<(), LaunchError> {
    let run_dir = paths::run_dir(&options.name);
    let folder = |path: &Path| {
        let path = path.to_owned();
        move |source| LaunchError::Folder { path, source }
    };
    private_folder(&paths::labs_dir()).map_err(folder(&paths::labs_dir()))?;
    let lock_path = paths::labs_dir().join(format!("{}.lock", options.name));
    let lock = File::create(&lock_path).map_err(folder(&lock_path))?;
    lock.try_lock()
        .map_err(|_| LaunchError::Busy(options.name.clone()))?;
    let result = start_locked(options, &run_dir);
    // Whoever waits for the lock now finds the lab running; a leftover file would be a trace of it.
    drop(fs::remove_file(&lock_path));
    result
}

fn start_locked(options: &Options, run_dir: &Path) -> Result<(), LaunchError> {
    if UnixStream::connect(run_dir.join("lab.sock")).is_ok() {
        return Ok(());
    }
    let folder = |source| LaunchError::Folder {
        path: run_dir.to_owned(),
        source,
    };
    if run_dir.exists() {
        // Left by a lab that was killed together with its watcher.
        fs::remove_dir_all(run_dir).map_err(folder)?;
    }
    DirBuilder::new()
        .mode(0o700)
        .create(run_dir)
        .map_err(folder)?;
    let supervise = Supervise {
        name: options.name.clone(),
        run_dir: run_dir.to_owned(),
        program: std::env::current_exe().map_err(LaunchError::Spawn)?,
        images: options.images.clone(),
        workload_cert_ttl: options.workload_cert_ttl.clone(),
        mesh_config: options.mesh_config.clone(),
        single_id: false,
    };
    let log = File::create(run_dir.join("supervisor.log")).map_err(folder)?;
    let mut outer = Command::new("/proc/self/exe");
    outer
        .arg0("meltemi")
        .args([OUTER.to_owned(), text(&supervise)])
        .current_dir("/")
        .process_group(0);
    outer
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log);
    let mut child = outer.spawn().map_err(LaunchError::Spawn)?;
    let mut line = String::new();
    if let Some(stdout) = child.stdout.take() {
        BufReader::new(stdout)
            .read_line(&mut line)
            .map_err(LaunchError::Spawn)?;
    }
    if line.trim() == "ready" {
        return Ok(());
    }
    let log = fs::read_to_string(run_dir.join("supervisor.log")).unwrap_or_default();
    // It has ended or is about to; the message matters more than its status.
    drop(child.wait());
    drop(fs::remove_dir_all(run_dir));
    let said = if line.trim().is_empty() {
        log.trim().to_owned()
    } else {
        line.trim().to_owned()
    };
    Err(LaunchError::Refused(
        said.trim_start_matches("error: ").to_owned(),
    ))
}

fn text(supervise: &Supervise) -> String {
    serde_json::to_string(supervise).unwrap_or_default()
}

/// Makes a folder and its parents for this user only, and refuses one that somebody else prepared.
fn private_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).recursive(true).create(path)?;
    if !paths::is_private(path)? {
        return Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            "the folder must be yours alone (mode 0700)",
        ));
    }
    Ok(())
}

/// Handles the re-executions of this program that a lab consists of. Must come first in `main`, before any thread:
/// namespaces of a user can only be made by a process with one thread.
pub fn intercept() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    let (role, argument) = (arguments.next()?, arguments.next()?);
    match role.to_str()? {
        enter::ENTER => Some(enter::enter(Path::new(&argument))),
        enter::EXEC => Some(enter::exec(Path::new(&argument))),
        OUTER => Some(outer_main(argument)),
        INNER => Some(inner_main(argument)),
        _ => None,
    }
}

fn outer_main(argument: OsString) -> ExitCode {
    match parse(argument).and_then(outer) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            announce(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn inner_main(argument: OsString) -> ExitCode {
    logging();
    match parse(argument).and_then(|options| supervisor::run(&options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            announce(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn parse(argument: OsString) -> Result<Supervise> {
    Ok(serde_json::from_slice(argument.as_encoded_bytes())?)
}

fn logging() {
    let level = tracing_subscriber::EnvFilter::try_from_env("MELTEMI_LOG")
        .unwrap_or_else(|_| "info".into());
    // Only fails when it was set up before, which it was not.
    drop(
        tracing_subscriber::fmt()
            .with_env_filter(level)
            .with_ansi(false)
            .with_writer(io::stderr)
            .try_init(),
    );
}

/// Makes the namespaces, starts the supervisor in them, and cleans up after it however it ends.
fn outer(mut options: Supervise) -> Result<()> {
    // Its own session: a terminal that closes does not take the lab along.
    nix::unistd::setsid().ok();
    options.single_id = make_namespaces()?;
    let mut inner = Command::new("/proc/self/exe");
    inner
        .arg0("meltemi")
        .args([INNER.to_owned(), text(&options)])
        .stdin(Stdio::piped());
    // The first child is PID 1 of the new pid namespace.
    let mut child = inner.spawn().context("cannot start the supervisor")?;
    let pipe = child.stdin.take();
    let status = child.wait()?;
    drop(pipe);
    if options.run_dir.exists() {
        fs::remove_dir_all(&options.run_dir)?;
    }
    anyhow::ensure!(status.success(), "the supervisor ended with {status}");
    Ok(())
}

/// As root with the caller's ids; otherwise, or where root may not, in a user namespace where the caller is uid 0 and
/// the only user. Answers whether only one id is mapped.
fn make_namespaces() -> Result<bool> {
    let flags = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    if rustix::process::geteuid().is_root() && unshare(flags).is_ok() {
        return Ok(false);
    }
    let (uid, gid) = (
        rustix::process::geteuid().as_raw(),
        rustix::process::getegid().as_raw(),
    );
    unshare(CloneFlags::CLONE_NEWUSER | flags)
        .map_err(|errno| anyhow::anyhow!(no_namespaces(errno)))?;
    fs::write("/proc/self/setgroups", "deny").context("cannot prepare the user namespace")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1")).context("cannot map the user")?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1")).context("cannot map the group")?;
    Ok(true)
}

fn no_namespaces(errno: Errno) -> String {
    format!(
        "this machine lets only root make namespaces ({errno}): run as root, or allow user namespaces \
         (sysctl -w user.max_user_namespaces=15000 kernel.unprivileged_userns_clone=1 \
         kernel.apparmor_restrict_unprivileged_userns=0, whichever of them exist)"
    )
}
