//! `check` and `x precheck`: what keeps a mesh from working, why, and the command that mends it.
//!
//! ```text
//! API server, control planes -> Facts (listed objects, answers) -> Check::judge (pure) -> Finding -> text | json
//! ```

mod certificates;
mod control_plane;
mod facts;
mod installing;
mod kubernetes;
mod namespaces;
mod objects;
mod webhooks;
mod workloads;

use anstyle::AnsiColor;
use serde_json::{Value, json};

use crate::command::CheckArgs;
use crate::install::cluster;
use crate::output::structured;
use crate::{Access, CliError, Format, Io};
use facts::Facts;

/// The most findings of one check that are printed.
const FINDING_LIMIT: usize = 10;

/// What is wrong, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    is_error: bool,
    reason: String,
    /// A command, as far as one can say it.
    fix: String,
}

impl Finding {
    fn error(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            is_error: true,
            reason: reason.into(),
            fix: fix.into(),
        }
    }

    /// It works all the same, or for now.
    fn warning(reason: impl Into<String>, fix: impl Into<String>) -> Self {
        Self {
            is_error: false,
            reason: reason.into(),
            fix: fix.into(),
        }
    }
}

struct Check {
    id: &'static str,
    /// What is true if nothing is found.
    what: &'static str,
    /// Nothing after it can be judged if it fails.
    is_fatal: bool,
    judge: fn(&Facts) -> Vec<Finding>,
}

/// Checks that belong together.
struct Section {
    title: &'static str,
    checks: &'static [Check],
}

const BEFORE: &[Section] = &[kubernetes::SECTION, installing::SECTION];
const AFTER: &[Section] = &[
    kubernetes::SECTION,
    control_plane::SECTION,
    webhooks::SECTION,
    certificates::SECTION,
    namespaces::SECTION,
    workloads::SECTION,
];

pub(crate) async fn run(
    args: &CheckArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let cluster = cluster(access)?;
    let facts = Facts::gather(args, cluster, access, io).await?;
    let sections = if args.pre { BEFORE } else { AFTER };
    let results = judge(sections, &facts);
    match structured(&to_json(&results), args.output)? {
        Some(text) => io.print(&text)?,
        None => print(&results, io)?,
    }
    let errors = results.iter().filter(|result| result.has_failed()).count();
    if errors > 0 {
        let noun = if errors == 1 { "check" } else { "checks" };
        return Err(CliError::answer(format!("{errors} {noun} failed")));
    }
    if args.pre && args.output == Format::Short {
        let mark = io.paint(AnsiColor::Green, "✔");
        io.print(&format!(
            "{mark} No issues found when checking the cluster. Istio is safe to install or upgrade!"
        ))?;
    }
    Ok(())
}

struct Judged {
    section: &'static str,
    id: &'static str,
    what: &'static str,
    findings: Vec<Finding>,
}

impl Judged {
    fn has_failed(&self) -> bool {
        self.findings.iter().any(|finding| finding.is_error)
    }

    fn result(&self) -> &'static str {
        match self.findings.len() {
            0 => "ok",
            _ if self.has_failed() => "error",
            _ => "warning",
        }
    }
}

/// In order, up to a check without which the next ones mean nothing.
fn judge(sections: &[Section], facts: &Facts) -> Vec<Judged> {
    let mut results = Vec::new();
    for section in sections {
        for check in section.checks {
            let judged = Judged {
                section: section.title,
                id: check.id,
                what: check.what,
                findings: (check.judge)(facts),
            };
            let ends = check.is_fatal && judged.has_failed();
            results.push(judged);
            if ends {
                return results;
            }
        }
    }
    results
}

fn to_json(results: &[Judged]) -> Value {
    let checks: Value = results
        .iter()
        .map(|judged| {
            let findings = judged.findings.iter();
            let findings: Value = findings
                .map(|finding| {
                    let level = if finding.is_error { "error" } else { "warning" };
                    json!({"level": level, "reason": finding.reason, "fix": finding.fix})
                })
                .collect();
            json!({
                "section": judged.section, "id": judged.id, "what": judged.what,
                "result": judged.result(), "findings": findings,
            })
        })
        .collect();
    let has_failed = results.iter().any(Judged::has_failed);
    json!({"success": !has_failed, "checks": checks})
}

fn print(results: &[Judged], io: &mut Io<'_>) -> Result<(), CliError> {
    let mut section = "";
    for judged in results {
        if judged.section != section {
            let blank = if section.is_empty() { "" } else { "\n" };
            section = judged.section;
            io.print(&format!("{blank}{section}"))?;
        }
        let mark = match judged.result() {
            "ok" => io.paint(AnsiColor::Green, "✔"),
            "warning" => io.paint(AnsiColor::Yellow, "!"),
            _ => io.paint(AnsiColor::Red, "✘"),
        };
        let id = if judged.findings.is_empty() {
            String::new()
        } else {
            format!(" [{}]", judged.id)
        };
        io.print(&format!("  {mark} {}{id}", judged.what))?;
        for finding in judged.findings.iter().take(FINDING_LIMIT) {
            io.print(&format!("      {}", finding.reason))?;
            io.print(&format!("        fix: {}", finding.fix))?;
        }
        let more = judged.findings.len().saturating_sub(FINDING_LIMIT);
        if more > 0 {
            io.print(&format!("      and {more} more (-o json has all)"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
