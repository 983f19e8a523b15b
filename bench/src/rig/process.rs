//! A process under measurement: what it used, from the kernel's own accounting, and its end.

use std::fs;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use parking_lot::Mutex;

/// The children that run now, for the end by a signal, which runs no destructors.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

/// A child that ends with this handle.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
}

/// What a process has used.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Usage {
    /// CPU time of all threads, as the scheduler counts it in nanoseconds.
    pub(crate) cpu: Duration,
    pub(crate) resident_bytes: u64,
}

impl std::ops::Add for Usage {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            resident_bytes: self.resident_bytes + other.resident_bytes,
        }
    }
}

impl Process {
    pub(crate) fn spawn(mut command: Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.stdin(Stdio::null()).spawn();
        let child = child.with_context(|| format!("starting {name}"))?;
        RUNNING.lock().push(child.id());
        Ok(Self { name, child })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// The sum over the process's threads. Threads that have ended are not in it: none of the proxies ends threads while
    /// it serves.
    ///
    /// # Errors
    /// The process is gone.
    pub(crate) fn usage(&self) -> anyhow::Result<Usage> {
        let pid = self.id();
        let mut nanoseconds = 0;
        for task in fs::read_dir(format!("/proc/{pid}/task"))
            .with_context(|| format!("{} has ended", self.name))?
        {
            let stat = fs::read_to_string(task?.path().join("schedstat")).unwrap_or_default();
            let running = stat
                .split(' ')
                .next()
                .and_then(|text| text.parse::<u64>().ok());
            nanoseconds += running.unwrap_or_default();
        }
        Ok(Usage {
            cpu: Duration::from_nanos(nanoseconds),
            resident_bytes: resident_bytes(pid)?,
        })
    }
}

impl Drop for Process {
    /// Ends the process at once: nothing it could still do is measured.
    fn drop(&mut self) {
        let id = self.id();
        if self.child.try_wait().is_ok_and(|ended| ended.is_none()) {
            end(id);
        }
        drop(self.child.wait());
        RUNNING.lock().retain(|running| *running != id);
    }
}

/// Ends every process that this run has started.
pub(crate) fn end_all() {
    for id in RUNNING.lock().iter() {
        end(*id);
    }
}

fn end(id: u32) {
    if let Ok(id) = i32::try_from(id) {
        // It fails only for what has ended already.
        kill(Pid::from_raw(id), Signal::SIGKILL).ok();
    }
}

/// `VmRSS` (proc_pid_status(5)).
fn resident_bytes(pid: u32) -> anyhow::Result<u64> {
    let mut text = String::new();
    fs::File::open(format!("/proc/{pid}/status"))?.read_to_string(&mut text)?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kibibytes: u64 = kibibytes.context("no VmRSS")?.parse()?;
    Ok(kibibytes * 1024)
}
