//! `status` and `list`: what runs, and what is wrong with it.

use std::fs;
use std::io::Write;
use std::process::ExitCode;

use clap::Args;
use jiff::Timestamp;
use meltemi_core::Severity;

use super::table::{Table, age};
use crate::client::LabClient;
use crate::paths;
use crate::wire::{self, Fault};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab status\n  meltemi lab status -o json\n  meltemi lab status --name second"
)]
pub(super) struct Status {
    /// json for programs; text otherwise.
    #[arg(short, long, value_parser = ["text", "json"], default_value = "text")]
    output: String,
}

pub(super) async fn status(client: &LabClient, options: &Status) -> anyhow::Result<ExitCode> {
    let status = client.status().await?;
    let text = if options.output == "json" {
        format!("{}\n", serde_json::to_string_pretty(&status)?)
    } else {
        describe(&status, Timestamp::now())
    };
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// The status as text.
fn describe(status: &wire::Status, now: Timestamp) -> String {
    let pid = status
        .control_plane_pid
        .map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    let mut lines = vec![
        format!(
            "Lab:            {} (up {}, process {})",
            status.name,
            age(i64::try_from(status.age_seconds).unwrap_or(i64::MAX)),
            status.supervisor_pid
        ),
        format!(
            "Control plane:  {} (process {pid}, {} restarts)",
            readiness(status.control_plane_ready),
            status.control_plane_restarts
        ),
        format!(
            "Pods:           {}/{} ready",
            status.pods_ready, status.pods_total
        ),
    ];
    lines.extend(status.waiting.iter().map(|reason| format!("  {reason}")));
    lines.push(format!("Configuration:  {}", status.config_dir.display()));
    if !status.watched.is_empty() {
        let paths = status.watched.iter().map(|path| path.display().to_string());
        let paths = paths.collect::<Vec<_>>().join(", ");
        lines.push(format!("Watched files:  {paths}"));
    }
    for fault in &status.faults {
        lines.extend(describe_fault(fault, now));
    }
    lines.push(format!(
        "User namespace: {}",
        if status.rootless {
            "yes: the proxy is exempt from redirection by socket mark"
        } else {
            "no: the proxy runs as uid 1337"
        }
    ));
    lines.join("\n") + "\n"
}

/// What is wrong with a watched file: its errors first.
fn describe_fault(fault: &Fault, now: Timestamp) -> Vec<String> {
    let since = fault.since.parse::<Timestamp>();
    let age = since.map_or_else(
        |_unreadable| String::new(),
        |since| format!(" ({} ago)", age(now.as_second() - since.as_second())),
    );
    let (errors, warnings): (Vec<_>, Vec<_>) = fault
        .diagnostics
        .iter()
        .partition(|diagnostic| diagnostic.severity == Severity::Error);
    let (file, since) = (fault.file.display(), &fault.since);
    let head = if errors.is_empty() {
        format!("  {file}: in force, with warnings since {since}{age}:")
    } else {
        format!(
            "  {file}: errors since {since}{age}; of what is refused the last good content stays in force:"
        )
    };
    let told = errors.into_iter().chain(warnings).map(ToString::to_string);
    let told = told.collect::<Vec<_>>().join("\n");
    let told = told.lines().map(|line| format!("    {line}"));
    std::iter::once(head).chain(told).collect()
}

pub(super) fn readiness(ready: bool) -> &'static str {
    if ready { "ready" } else { "not ready" }
}

/// Every lab of this user, whether it answers or not.
pub(super) async fn list() -> anyhow::Result<ExitCode> {
    let mut table = Table::new(&["NAME", "STATUS", "PODS", "AGE"]);
    for name in names()? {
        let row = match LabClient::new(&name).status().await {
            Ok(status) => vec![
                name,
                readiness(status.control_plane_ready).to_owned(),
                format!("{}/{}", status.pods_ready, status.pods_total),
                age(i64::try_from(status.age_seconds)?),
            ],
            Err(_) => {
                let dash = || "-".to_owned();
                vec![name, "starting or ending".to_owned(), dash(), dash()]
            }
        };
        table.row(row);
    }
    if table.is_empty() {
        anstream::eprintln!("No labs run here.");
        return Ok(ExitCode::SUCCESS);
    }
    let mut out = anstream::stdout().lock();
    table.print(&mut out)?;
    Ok(ExitCode::SUCCESS)
}

/// The folders of labs; there is none before the first.
fn names() -> anyhow::Result<Vec<String>> {
    let entries = match fs::read_dir(paths::labs_dir()) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut names: Vec<String> = entries
        .flatten()
        .filter(|entry| entry.path().is_dir())
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| paths::is_name(name))
        .collect();
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use meltemi_core::{Diagnostic, SourceLocation};

    use super::*;

    #[test]
    fn a_broken_file_is_told_with_its_place_and_age() {
        let error = Diagnostic::error("MEL0001", "not valid YAML").at(SourceLocation {
            file: "/m/w.yaml".to_owned(),
            line: 63,
            column: 10,
            snippet: String::new(),
        });
        let fault = Fault {
            file: "/m/w.yaml".into(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            diagnostics: vec![Diagnostic::warning("MEL0008", "unknown field"), error],
        };
        let warned = Fault {
            file: "/m/v.yaml".into(),
            diagnostics: vec![Diagnostic::warning("MEL0008", "unknown field")],
            ..fault.clone()
        };
        let status = wire::Status {
            name: "a".to_owned(),
            supervisor_pid: 1,
            control_plane_pid: None,
            control_plane_ready: true,
            control_plane_restarts: 0,
            config_dir: "/c".into(),
            state_dir: "/s".into(),
            rootless: false,
            pods_ready: 1,
            pods_total: 2,
            watched: vec!["/m/w.yaml".into()],
            faults: vec![fault, warned],
            waiting: vec!["default/x: app: ErrImagePull".to_owned()],
            age_seconds: 5,
        };
        let text = describe(&status, "2026-01-01T00:01:30Z".parse().unwrap());
        for expected in [
            "Pods:           1/2 ready\n  default/x: app: ErrImagePull\n",
            "  /m/w.yaml: errors since 2026-01-01T00:00:00Z (90s ago); of what is refused the last good content stays in force:\n    \
             error MEL0001: not valid YAML\n      --> /m/w.yaml:63:10\n    warning MEL0008: unknown field\n",
            "  /m/v.yaml: in force, with warnings since 2026-01-01T00:00:00Z (90s ago):\n    warning MEL0008: unknown field\n",
        ] {
            assert!(text.contains(expected), "{text}");
        }
    }
}
