//! Where something runs: a network namespace, CPUs, a priority. Children inherit all three from the thread that starts them.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;

use super::netns::{Namespace, in_thread};
use super::process::Process;

/// The priority of everything that is measured, so that other programs of the machine disturb it less.
const NICE: i32 = -5;

static HAS_PRIORITY: AtomicBool = AtomicBool::new(true);

/// Whether every place so far got [`NICE`].
pub(crate) fn has_priority() -> bool {
    HAS_PRIORITY.load(Ordering::Relaxed)
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Place<'rig> {
    namespace: &'rig Namespace,
    cpus: &'static [usize],
}

impl<'rig> Place<'rig> {
    pub(super) fn new(namespace: &'rig Namespace, cpus: &'static [usize]) -> Self {
        Self { namespace, cpus }
    }

    /// Runs `work` in a thread of this place, to its end.
    pub(crate) fn run<T: Send>(
        self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        in_thread(|| {
            self.enter()?;
            work()
        })
    }

    /// Runs a future in a thread of this place, with a runtime of its own.
    pub(crate) fn block_on<F>(self, work: impl FnOnce() -> F + Send) -> anyhow::Result<F::Output>
    where
        F: Future<Output: Send>,
    {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(tokio::task::LocalSet::new().block_on(&runtime, work()))
        })
    }

    /// Lets time pass.
    pub(crate) fn pause(self, time: Duration) -> anyhow::Result<()> {
        self.block_on(|| async move { tokio::time::sleep(time).await })
    }

    /// Moves the calling thread here.
    pub(crate) fn enter(self) -> anyhow::Result<()> {
        self.namespace.enter()?;
        let mut set = CpuSet::new();
        for cpu in self.cpus {
            set.set(*cpu)?;
        }
        let this = Pid::from_raw(0);
        sched_setaffinity(this, &set).context("pinning to a CPU: at least two are needed")?;
        // Refused without root: then all peers do without it alike, and the report says so.
        if rustix::process::setpriority_process(None, NICE).is_err() {
            HAS_PRIORITY.store(false, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Starts a process here.
    ///
    /// # Errors
    /// It cannot be started.
    pub(crate) fn spawn(self, command: Command) -> anyhow::Result<Process> {
        self.run(move || Process::spawn(command))
    }

    /// Applies a rule file of nftables.
    pub(super) fn nft(self, rules: &str) -> anyhow::Result<()> {
        self.run(|| {
            let path = std::env::var("PATH").unwrap_or_default();
            let mut nft = Command::new("nft")
                .args(["-f", "-"])
                .env("PATH", format!("{path}:/usr/sbin:/sbin"))
                .stdin(Stdio::piped())
                .spawn()
                .context("starting nft")?;
            if let Some(mut stdin) = nft.stdin.take() {
                stdin.write_all(rules.as_bytes())?;
            }
            anyhow::ensure!(nft.wait()?.success(), "nft refused {rules}");
            Ok(())
        })
    }
}
