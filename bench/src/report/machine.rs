//! Where and with what a run was made.

use std::fs;
use std::process::Command;

use serde::Serialize;

use crate::peer::Programs;

#[derive(Clone, Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cpus: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    /// How busy the machine was otherwise, when the run began.
    pub(crate) load_average: String,
    /// Whether the rig got its priority.
    pub(crate) has_priority: bool,
    pub(crate) versions: Vec<String>,
}

impl Machine {
    pub(crate) fn look(programs: &Programs, has_priority: bool) -> Self {
        let text = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |path: &str, name: &str| {
            let text = text(path);
            let line = text.lines().find(|line| line.starts_with(name));
            let value = line
                .and_then(|line| line.split_once(':'))
                .map(|(_, value)| value.trim());
            value.unwrap_or("unknown").to_owned()
        };
        let memory = field("/proc/meminfo", "MemTotal");
        let kibibytes: u64 = memory.trim_end_matches(" kB").parse().unwrap_or_default();
        let mut versions = vec![format!("meltemi-proxy {}", env!("CARGO_PKG_VERSION"))];
        versions.extend(
            programs
                .envoy
                .as_deref()
                .and_then(|path| first_line(Command::new(path).arg("--version"))),
        );
        versions.extend(
            programs
                .haproxy
                .as_deref()
                .and_then(|path| first_line(Command::new(path).arg("-v"))),
        );
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cpus: std::thread::available_parallelism().map_or(0, usize::from),
            memory_gib: kibibytes / 1024 / 1024,
            kernel: text("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_average: text("/proc/loadavg")
                .split(' ')
                .take(3)
                .collect::<Vec<_>>()
                .join(" "),
            has_priority,
            versions,
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            out,
            "{}, {} CPUs, {} GiB, Linux {}; load average at the start {}{}",
            self.cpu,
            self.cpus,
            self.memory_gib,
            self.kernel,
            self.load_average,
            if self.has_priority {
                ""
            } else {
                "; without priority"
            },
        )?;
        write!(out, "{}", self.versions.join("; "))
    }
}

/// The first line that says something.
fn first_line(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty())?;
    // Envoy writes "version: COMMIT/1.40.0/Clean/RELEASE/BoringSSL".
    let line = match line
        .split_once("version: ")
        .and_then(|(_, version)| version.split('/').nth(1))
    {
        Some(version) => format!("Envoy {version}"),
        None => line.to_owned(),
    };
    Some(line)
}
