//! Brings a cluster up and stays with it. Runs as the first process of its own process namespace.
//!
//! ```text
//!  etcd, API server ──readyz──► controllers, scheduler ─► objects ─┐
//!  nodes ─► containerd ─► images ──────► kubelet, kube-proxy ──────┴► nodes Ready ─► DNS ready
//! ```
//! Standard output tells the starter one line per step, [`READY`] last. Standard input is the lifeline: its end ends the
//! cluster, unless [`DETACH`] came before.

mod bringup;
mod parts;

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::ExitStatus;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::unix::pipe;
use tokio::sync::mpsc;

use crate::kubectl::Kubectl;
use crate::paths::State;
use crate::plan::{API_PORT, Plan};
use crate::program::Programs;
use crate::{cgroup, process, relay};

pub const READY: &str = "ready";
pub const DETACH: &str = "detach";

/// More processes than a cluster has end at once only when all of it ends.
const ENDED_QUEUE: usize = 64;

#[derive(Clone, Debug)]
pub struct Options {
    pub state: State,
    pub plan: Plan,
    pub programs: Programs,
    pub kubectl: PathBuf,
}

/// A process of the cluster that has ended, which none does by itself.
#[derive(Debug)]
struct Ended {
    name: String,
    status: io::Result<ExitStatus>,
}

/// Runs a cluster until the lifeline ends, or for ever.
///
/// # Errors
/// Another supervisor has the folder, or the cluster does not come up.
pub fn run(options: &Options) -> Result<()> {
    let lock_path = options.state.lock();
    let lock =
        File::create(&lock_path).with_context(|| format!("cannot make {}", lock_path.display()))?;
    if lock.try_lock().is_err() {
        bail!(
            "a cluster runs in {} already",
            options.state.root().display()
        );
    }
    let listener = relay::listen()?;
    // Before the runtime has threads: a thread belongs to the namespace of the one that made it.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)
        .context("cannot make a network namespace")?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(supervise(options, listener));
    drop(lock);
    result
}

async fn supervise(options: &Options, listener: std::net::TcpListener) -> Result<()> {
    options.state.wipe()?;
    cgroup::remove(&options.state.cgroup()).await?;
    let port = listener.local_addr()?.port();
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let target = std::net::SocketAddrV4::new(options.plan.first().address(), API_PORT);
    tokio::spawn(relay::serve(listener, target));

    let mut lifeline = lifeline()?;
    let (ended_sender, mut ended) = mpsc::channel(ENDED_QUEUE);
    tokio::select! {
        result = bringup::run(options, port, ended_sender) => result?,
        line = lifeline.next_line() => bail!("the starter has gone: {line:?}"),
        Some(Ended { name, status }) = ended.recv() => {
            let log = process::tail(&options.state.log(&name), 10);
            bail!("{name} ended with {status:?}:\n{log}");
        }
    }
    say(READY);
    tokio::select! {
        line = lifeline.next_line() => {
            if !matches!(&line, Ok(Some(line)) if line == DETACH) {
                return Ok(());
            }
        }
        () = report(&mut ended) => {}
    }
    report(&mut ended).await;
    Ok(())
}

/// Writes into the supervisor's log which processes end. They are not started again: a test that kills one wants it dead.
async fn report(ended: &mut mpsc::Receiver<Ended>) {
    while let Some(Ended { name, status }) = ended.recv().await {
        log(&format!("{name} ended with {status:?}"));
    }
    // Every process has ended, and the folder is still ours until somebody says `down`.
    std::future::pending().await
}

fn lifeline() -> Result<tokio::io::Lines<BufReader<pipe::Receiver>>> {
    let stdin = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .context("cannot share standard input")?;
    let pipe = pipe::Receiver::from_owned_fd(stdin).context("standard input is not a pipe")?;
    Ok(BufReader::new(pipe).lines())
}

/// Tells the starter. Once that has gone, nobody listens, and nothing is said any more.
fn say(line: &str) {
    let mut out = io::stdout().lock();
    if writeln!(out, "{line}").and_then(|()| out.flush()).is_err() {
        log("the starter does not listen");
    }
}

fn log(line: &str) {
    // Standard error is a file; a full disk is no reason to end a cluster.
    writeln!(io::stderr().lock(), "{line}").ok();
}

impl Options {
    /// With the cluster's own address, which is reached from the supervisor's network.
    fn kubectl(&self) -> Kubectl {
        Kubectl {
            program: self.kubectl.clone(),
            kubeconfig: self.pki().kubeconfig("admin"),
            cache: self.state.kubectl_cache(),
        }
    }

    fn pki(&self) -> crate::pki::Pki {
        crate::pki::Pki::new(self.state.pki())
    }
}
