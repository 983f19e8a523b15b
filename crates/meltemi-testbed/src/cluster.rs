//! A cluster as seen from the machine: starting it, finding it, using it, ending it.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

use crate::paths::State;
use crate::supervisor::{DETACH, Options, READY};
use crate::{cgroup, process};

/// The slowest step of a start has a bound of its own below this.
const UP_LIMIT: Duration = Duration::from_secs(480);
/// The kernel ends a few hundred processes.
const DOWN_LIMIT: Duration = Duration::from_secs(60);
const IMPORT_LIMIT: Duration = Duration::from_secs(120);
const CTR_LIMIT: Duration = Duration::from_secs(10);
const UNSHARE_LIMIT: Duration = Duration::from_secs(10);

/// A cluster that this process has started. It ends with this process, unless [`Cluster::detach`] was called.
#[derive(Debug)]
pub struct Cluster {
    state: State,
    /// `unshare`, the parent of the supervisor.
    keeper: Child,
    lifeline: ChildStdin,
    steps: Lines<BufReader<ChildStdout>>,
}

impl Cluster {
    /// Starts the supervisor: `exe` is this crate's program.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start(exe: &Path, options: &Options) -> Result<Self> {
        let state = &options.state;
        let log = File::create(supervisor_log(state)).context("cannot write the log")?;
        // A session of its own, so that an interrupt at the terminal reaches the starter alone.
        let mut command = Command::new("setsid");
        command
            .args(["unshare", "--pid", "--mount", "--ipc", "--fork"])
            .args(["--kill-child", "--mount-proc", "--propagation", "slave"])
            .arg(exe)
            .arg("--dir")
            .arg(state.root())
            .arg("supervise")
            .arg("--nodes")
            .arg(options.plan.len().to_string())
            .arg("--programs")
            .arg(options.programs.folder())
            .arg("--kubectl")
            .arg(&options.kubectl)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log);
        let mut keeper = command.spawn().context("cannot start the supervisor")?;
        let lifeline = keeper.stdin.take().context("a child without a pipe")?;
        let steps = keeper.stdout.take().context("a child without a pipe")?;
        let outer = keeper.id().context("the supervisor has ended")?;
        process::until("the supervisor starts", UNSHARE_LIMIT, async || {
            let pid = process::only_child(outer)?;
            Ok(fs::write(state.supervisor_pid(), pid.to_string())?)
        })
        .await?;
        Ok(Self {
            state: state.clone(),
            keeper,
            lifeline,
            steps: BufReader::new(steps).lines(),
        })
    }

    /// Waits until nodes and cluster DNS are ready, and says which step was done.
    ///
    /// # Errors
    /// A step failed.
    pub async fn ready(&mut self, say: impl Fn(&str)) -> Result<()> {
        let work = async {
            while let Some(step) = self.steps.next_line().await? {
                if step == READY {
                    return Ok(());
                }
                say(&step);
            }
            bail!(
                "the cluster did not come up:\n{}",
                process::tail(&supervisor_log(&self.state), 20)
            )
        };
        timeout(UP_LIMIT, work)
            .await
            .with_context(|| format!("the cluster is not ready after {UP_LIMIT:?}"))?
    }

    /// Lets the cluster run on without this process.
    ///
    /// # Errors
    /// It has ended.
    pub async fn detach(mut self) -> Result<()> {
        let line = format!("{DETACH}\n");
        self.lifeline
            .write_all(line.as_bytes())
            .await
            .context("the supervisor has ended")
    }

    /// Returns when the cluster has ended.
    ///
    /// # Errors
    /// It cannot be waited for.
    pub async fn ended(&mut self) -> Result<()> {
        let status = self.keeper.wait().await?;
        bail!(
            "the cluster ended with {status}:\n{}",
            process::tail(&supervisor_log(&self.state), 20)
        )
    }
}

/// Whether somebody holds the folder's lock.
///
/// # Errors
/// The lock cannot be tried.
pub fn is_running(state: &State) -> Result<bool> {
    match File::open(state.lock()) {
        Ok(lock) => Ok(lock.try_lock().is_err()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error).context("cannot open the lock"),
    }
}

/// Ends the cluster of a folder, if one runs, and removes what any has left there.
///
/// # Errors
/// It does not end, or cannot be removed.
pub async fn down(state: &State) -> Result<()> {
    end(state).await?;
    state.remove()
}

/// Ends the cluster of a folder, if one runs, and leaves the folder.
///
/// # Errors
/// It does not end.
pub async fn end(state: &State) -> Result<()> {
    if is_running(state)? {
        let pid = supervisor_pid(state)?;
        // The supervisor is the first process of its namespace: the kernel ends all others with it, and they are gone
        // when it is (pid_namespaces(7)).
        kill(Pid::from_raw(pid), Signal::SIGKILL).context("cannot end the supervisor")?;
        process::until("the cluster ends", DOWN_LIMIT, async || {
            ensure!(is_gone(pid), "process {pid} is there");
            Ok(())
        })
        .await?;
    }
    cgroup::remove(&state.cgroup()).await
}

/// Loads an image into every node.
///
/// # Errors
/// No cluster runs, or a node refuses the archive.
pub async fn load(state: &State, archive: &Path) -> Result<()> {
    for node in state.nodes()? {
        import(&state.containerd_socket(&node), archive)
            .await
            .with_context(|| format!("node {node}"))?;
    }
    Ok(())
}

/// A command that runs inside of a node.
///
/// # Errors
/// No cluster runs, or it has no such node.
pub fn inside(state: &State, node: &str, words: &[String]) -> Result<std::process::Command> {
    let inner = fs::read_to_string(state.node(node).join("pid"))
        .with_context(|| format!("no node {node}"))?;
    let supervisor = supervisor_pid(state)?.to_string();
    let mut command = std::process::Command::new("nsenter");
    // First to where the node's number is known, then into the node.
    command
        .args(["-t", &supervisor, "-m", "-p", "--"])
        .args([
            "nsenter",
            "-t",
            inner.trim(),
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "--",
        ])
        .args(words)
        .env("PATH", crate::node::PATH)
        .env("CONTAINERD_ADDRESS", crate::config::CONTAINERD_SOCKET)
        .env("CONTAINERD_NAMESPACE", "k8s.io");
    Ok(command)
}

/// Gives containerd an image archive, unpacked and under its name, where the kubelet looks for images.
pub(crate) async fn import(socket: &Path, archive: &Path) -> Result<()> {
    let mut command = ctr(socket);
    command
        .args(["-n", "k8s.io", "images", "import"])
        .arg(archive);
    process::run(command, "", IMPORT_LIMIT).await?;
    Ok(())
}

pub(crate) async fn is_serving(socket: &Path) -> Result<()> {
    let mut command = ctr(socket);
    command.arg("version");
    process::run(command, "", CTR_LIMIT).await?;
    Ok(())
}

/// A Unix socket is reached by its path from any network namespace.
fn ctr(socket: &Path) -> Command {
    let mut command = Command::new("ctr");
    command.arg("--address").arg(socket);
    command
}

fn supervisor_log(state: &State) -> PathBuf {
    state.root().join("supervisor.log")
}

fn supervisor_pid(state: &State) -> Result<i32> {
    let file = state.supervisor_pid();
    fs::read_to_string(&file)
        .with_context(|| format!("cannot read {}", file.display()))?
        .trim()
        .parse()
        .with_context(|| format!("{} holds no process number", file.display()))
}

/// Gone, or dead and only not yet collected by its parent (proc_pid_stat(5): the state follows the name in parentheses).
fn is_gone(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| {
        let state = stat.rsplit(')').next().unwrap_or_default().trim_start();
        state.starts_with(['Z', 'X'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_lives_is_not_gone() {
        let own = i32::try_from(std::process::id()).unwrap();
        assert!(!is_gone(own));
        assert!(is_gone(i32::MAX));
    }
}
