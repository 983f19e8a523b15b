//! A terminal for a command in a pod: a pseudo-terminal whose far side becomes the command's controlling terminal, and
//! whose near side is joined to the caller's.

use std::fs::File;
use std::io::{IsTerminal as _, Read, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::thread::JoinHandle;

use anyhow::Context as _;
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};
use tokio::signal::unix::{SignalKind, signal};

pub(super) struct Terminal {
    near: File,
    far: OwnedFd,
}

/// The caller's terminal while it is the command's; its settings come back when this goes.
pub(super) struct Joined {
    before: Termios,
    output: JoinHandle<()>,
    resize: tokio::task::JoinHandle<()>,
}

impl Terminal {
    /// `None` where standard input is no terminal: then there is none to pass on, as kubectl has it.
    pub(super) fn open() -> anyhow::Result<Option<Self>> {
        if !std::io::stdin().is_terminal() {
            return Ok(None);
        }
        let pair = nix::pty::openpty(None, None).context("cannot make a terminal")?;
        Ok(Some(Self {
            near: pair.master.into(),
            far: pair.slave,
        }))
    }

    pub(super) fn far(&self) -> BorrowedFd<'_> {
        self.far.as_fd()
    }

    /// Puts the caller's terminal into raw mode and copies both ways; typed bytes only where `with_input` says so.
    pub(super) fn join(&self, with_input: bool) -> anyhow::Result<Joined> {
        let stdin = std::io::stdin();
        let before = tcgetattr(&stdin).context("cannot read the terminal's settings")?;
        let resize = follow_size(self.near.try_clone()?)?;
        if with_input {
            let mut raw = before.clone();
            raw.make_raw();
            tcsetattr(&stdin, OptionalActions::Now, &raw)
                .context("cannot set the terminal's mode")?;
            let to = self.near.try_clone()?;
            // Ends with the process: a read of the terminal cannot be called off.
            std::thread::spawn(move || copy(std::io::stdin(), to));
        }
        let from = self.near.try_clone()?;
        let output = std::thread::spawn(move || copy(from, std::io::stdout()));
        Ok(Joined {
            before,
            output,
            resize,
        })
    }
}

impl Joined {
    /// Shows the rest of the output and gives the terminal back. The kernel hangs the far side up when the command, its
    /// session's leader, has ended; so does the loss of our own end of it, which is why `terminal` goes first.
    pub(super) fn leave(self, terminal: Terminal) {
        drop(terminal);
        self.resize.abort();
        // A panic in it lost output and nothing else.
        drop(self.output.join());
        // The terminal itself has gone where this fails.
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.before).ok();
    }
}

/// Until either side ends; the end of a pseudo-terminal is an error (EIO, pty(7)).
fn copy(mut from: impl Read, mut to: impl Write) {
    let mut buffer = [0; 4096];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        let written = to.write_all(buffer.get(..read).unwrap_or_default());
        if written.and_then(|()| to.flush()).is_err() {
            return;
        }
    }
}

fn follow_size(near: File) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut changes = signal(SignalKind::window_change())?;
    let adopt = move |near: &File| {
        let size = tcgetwinsize(std::io::stdout()).or_else(|_| tcgetwinsize(std::io::stdin()));
        if let Ok(size) = size
            && let Err(error) = tcsetwinsize(near, size)
        {
            tracing::debug!(%error, "the terminal's size is not passed on");
        }
    };
    adopt(&near);
    Ok(tokio::spawn(async move {
        while changes.recv().await.is_some() {
            adopt(&near);
        }
    }))
}
