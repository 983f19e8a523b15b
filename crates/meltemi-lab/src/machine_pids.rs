//! Process ids as the machine outside the lab sees them.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;

/// The machine's `/proc`, kept open from before the lab's own was mounted over it.
#[derive(Debug)]
pub(crate) struct MachinePids(File);

impl MachinePids {
    /// Must be called before a new `/proc` is mounted.
    pub(crate) fn open() -> io::Result<Self> {
        File::open("/proc").map(Self)
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd())).join(name)
    }

    /// The supervisor's own.
    pub(crate) fn own(&self) -> u32 {
        let link = fs::read_link(self.path("self")).unwrap_or_default();
        link.to_str()
            .and_then(|pid| pid.parse().ok())
            .unwrap_or_default()
    }

    /// The machine's id of a process of the lab's pid namespace.
    pub(crate) fn find(&self, inner: i32) -> Option<u32> {
        let own = fs::read_link("/proc/self/ns/pid").ok()?;
        let entries = fs::read_dir(self.path("")).ok()?;
        entries.flatten().find_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let status = fs::read_to_string(entry.path().join("status")).ok()?;
            let ids = status
                .lines()
                .find_map(|line| line.strip_prefix("NSpid:"))?;
            let innermost: i32 = ids.split_whitespace().next_back()?.parse().ok()?;
            (innermost == inner && fs::read_link(entry.path().join("ns/pid")).ok()? == own)
                .then_some(pid)
        })
    }
}
