//! Starting and reaping processes.
//!
//! The supervisor is PID 1 of its pid namespace, so every orphan becomes its child. One reaper therefore waits for all
//! children and hands the exits of those it started to whoever asked; nobody else may wait.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::Arc;

use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Exit {
    /// As a shell reports it: the status, or 128 plus the signal.
    pub(crate) code: i32,
    pub(crate) signal: Option<i32>,
}

#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: i32,
    pub(crate) exit: oneshot::Receiver<Exit>,
}

#[derive(Debug, Default)]
pub(crate) struct Children {
    running: Mutex<HashMap<i32, oneshot::Sender<Exit>>>,
}

impl Children {
    /// Starts reaping. Must be called once, inside a runtime, before the first `spawn`.
    pub(crate) fn start() -> io::Result<Arc<Self>> {
        let children = Arc::new(Self::default());
        let mut exits = signal(SignalKind::child())?;
        let reaper = Arc::clone(&children);
        tokio::spawn(async move {
            while exits.recv().await.is_some() {
                reaper.reap();
            }
        });
        Ok(children)
    }

    pub(crate) fn spawn(&self, command: &mut Command) -> io::Result<Child> {
        let (sender, exit) = oneshot::channel();
        // Held across the start: the reaper must not see the exit before the entry exists.
        let mut running = self.running.lock();
        let pid = i32::try_from(command.spawn()?.id()).map_err(io::Error::other)?;
        running.insert(pid, sender);
        Ok(Child { pid, exit })
    }

    fn reap(&self) {
        let mut running = self.running.lock();
        loop {
            let (pid, exit) = match waitpid(None::<Pid>, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, Exit { code, signal: None }),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (
                    pid,
                    Exit {
                        code: 128 + signal as i32,
                        signal: Some(signal as i32),
                    },
                ),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            if let Some(waiter) = running.remove(&pid.as_raw()) {
                // Nobody waiting any more is fine: the process is reaped either way.
                waiter.send(exit).ok();
            }
        }
    }
}
