//! Commands that change objects.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anstream::eprintln;
use clap::Args;
use meltemi_core::{Diagnostic, Severity};

use super::files::{self, Input};
use super::{Namespace, kinds, up};
use crate::client::LabClient;
use crate::wire::{Change, Report, Validation};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab apply -f policy.yaml\n  cat policy.yaml | meltemi lab apply -f -\n  \
                        meltemi lab apply --dry-run=server -f policy.yaml"
)]
pub(super) struct Apply {
    /// A file, a folder, or `-` for standard input; may be given again.
    #[arg(short, long = "filename", required = true)]
    filename: Vec<PathBuf>,
    /// Only say what would happen; in a lab client and server judge alike.
    #[arg(long, value_enum, num_args = 0..=1, default_value = "none", default_missing_value = "client", require_equals = true)]
    dry_run: DryRun,
    #[command(flatten)]
    validate: Validate,
    #[command(flatten)]
    namespace: Namespace,
}

/// kubectl's flag, with its default.
#[derive(Clone, Copy, Debug, Args)]
pub(super) struct Validate {
    /// Refuse (true, strict) Kubernetes objects with fields that their kind does not have, apply them without the field and say so
    /// (warn), or say nothing (false, ignore).
    #[arg(long, value_parser = validation, num_args = 0..=1, default_value = "strict", default_missing_value = "strict", require_equals = true)]
    pub(super) validate: Validation,
}

fn validation(text: &str) -> Result<Validation, String> {
    match text {
        "true" | "strict" => Ok(Validation::Strict),
        "warn" => Ok(Validation::Warn),
        "false" | "ignore" => Ok(Validation::Ignore),
        _ => Err("one of true, strict, warn, false, ignore".to_owned()),
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum DryRun {
    None,
    Client,
    Server,
}

impl DryRun {
    /// What kubectl adds to the lines of objects.
    pub(super) fn remark(self) -> Option<&'static str> {
        match self {
            Self::None => None,
            Self::Client => Some("dry run"),
            Self::Server => Some("server dry run"),
        }
    }
}

pub(super) async fn apply(client: &LabClient, options: &Apply) -> anyhow::Result<ExitCode> {
    let inputs = files::read_all(&options.filename)?;
    up::ensure_any(client).await?;
    let namespace = &options.namespace.namespace;
    let how = How {
        dry_run: options.dry_run.remark(),
        validate: options.validate.validate,
    };
    let applied = apply_inputs(client, namespace, inputs, how).await?;
    anyhow::ensure!(applied != Applied::Nothing, "no objects passed to apply");
    Ok(applied.exit_code())
}

/// What became of the documents of all inputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Applied {
    /// Whatever the lab can run; of the rest was told that it is ignored.
    All,
    /// There was no document.
    Nothing,
    /// At least one was refused.
    NotAll,
}

impl Applied {
    pub(super) fn exit_code(self) -> ExitCode {
        match self {
            Self::All | Self::Nothing => ExitCode::SUCCESS,
            Self::NotAll => ExitCode::FAILURE,
        }
    }
}

/// How objects are applied.
#[derive(Clone, Copy, Debug)]
pub(super) struct How<'a> {
    /// The remark of a dry run, which only says what would happen.
    pub(super) dry_run: Option<&'a str>,
    pub(super) validate: Validation,
}

/// Applies one input after the other.
pub(super) async fn apply_inputs(
    client: &LabClient,
    namespace: &str,
    inputs: Vec<Input>,
    How { dry_run, validate }: How<'_>,
) -> anyhow::Result<Applied> {
    let (mut accepted, mut rejected, mut told) = (0, 0, 0);
    for input in inputs {
        let (file, text) = (input.name.as_str(), input.text);
        let mut report = match dry_run {
            None => client.apply(namespace, file, text, validate).await?,
            Some(_) => client.judge(namespace, file, text, validate).await?,
        };
        told += report.diagnostics.len();
        if let Some(remark) = dry_run {
            for change in &mut report.results {
                change.action += &format!(" ({remark})");
            }
        }
        accepted += report.results.len();
        rejected += report.rejected;
        print(&report)?;
    }
    Ok(match (accepted, rejected) {
        (0, 0) if told == 0 => Applied::Nothing,
        (_, 0) => Applied::All,
        _ => Applied::NotAll,
    })
}

pub(super) fn print(report: &Report) -> std::io::Result<()> {
    let mut out = anstream::stdout().lock();
    for change in &report.results {
        writeln!(out, "{} {}", change.object, change.action)?;
    }
    out.flush()?;
    for diagnostic in &report.diagnostics {
        eprintln!("{}", told(diagnostic, &report.results));
    }
    Ok(())
}

/// What is refused is an error, what is applied is warned of: of an object that was taken, what is wrong between it and others
/// is a warning here, and an error of `meltemi analyze`.
fn told(diagnostic: &Diagnostic, taken: &[Change]) -> Diagnostic {
    let mut diagnostic = diagnostic.clone();
    let is_taken = diagnostic.object.as_ref().is_some_and(|object| {
        taken.iter().any(|change| {
            let (resource, name) = change.object.split_once('/').unwrap_or_default();
            let kind = resource.split('.').next().unwrap_or_default();
            kind.eq_ignore_ascii_case(&object.kind)
                && name == object.name
                && change.namespace == object.namespace
        })
    });
    if is_taken {
        diagnostic.severity = diagnostic.severity.min(Severity::Warning);
    }
    diagnostic
}

/// Reads `KIND NAME...` or `KIND/NAME...`.
pub(super) fn targets(words: &[String]) -> anyhow::Result<Vec<(&'static kinds::Kind, String)>> {
    let Some((first, rest)) = words.split_first() else {
        return Ok(Vec::new());
    };
    if first.contains('/') {
        return words.iter().map(|word| target(word)).collect();
    }
    anyhow::ensure!(!rest.is_empty(), "which {first}? Give a name");
    let kind = kinds::find(first)?;
    Ok(rest.iter().map(|name| (kind, name.clone())).collect())
}

fn target(word: &str) -> anyhow::Result<(&'static kinds::Kind, String)> {
    let (kind, name) = word
        .split_once('/')
        .ok_or_else(|| anyhow::anyhow!("\"{word}\" is not KIND/NAME"))?;
    Ok((kinds::find(kind)?, name.to_owned()))
}

#[cfg(test)]
mod tests {
    use meltemi_core::ObjectRef;

    use super::*;

    #[test]
    fn what_was_applied_is_only_warned_of() {
        let change = Change {
            object: "virtualservice.networking.istio.io/reviews".to_owned(),
            namespace: "default".to_owned(),
            action: "created".to_owned(),
        };
        let severity = |name: &str, namespace: &str| {
            let object = ObjectRef::new("VirtualService", namespace, name);
            let error = Diagnostic::error("IST0101", "host not found").object(object);
            told(&error, std::slice::from_ref(&change)).severity
        };
        assert_eq!(severity("reviews", "default"), Severity::Warning);
        assert_eq!(severity("ratings", "default"), Severity::Error);
        assert_eq!(severity("reviews", "other"), Severity::Error);
        let info = Diagnostic::new("X", Severity::Info, "unused").object(ObjectRef::new(
            "VirtualService",
            "default",
            "reviews",
        ));
        assert_eq!(told(&info, &[change]).severity, Severity::Info);
    }

    #[test]
    fn validation_has_kubectls_words() {
        for (word, expected) in [
            ("true", Validation::Strict),
            ("strict", Validation::Strict),
            ("warn", Validation::Warn),
            ("false", Validation::Ignore),
            ("ignore", Validation::Ignore),
        ] {
            assert_eq!(validation(word), Ok(expected), "{word}");
        }
        assert!(validation("maybe").is_err());
    }

    #[test]
    fn objects_are_named_both_ways() {
        let words = |text: &str| text.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let names = |text: &str| {
            targets(&words(text))
                .unwrap()
                .into_iter()
                .map(|(kind, name)| format!("{} {name}", kind.kind))
                .collect::<Vec<_>>()
        };
        assert_eq!(names("vs a b"), ["VirtualService a", "VirtualService b"]);
        assert_eq!(names("deploy/a pod/b"), ["Deployment a", "Pod b"]);
        assert!(targets(&words("pod")).is_err());
    }
}
