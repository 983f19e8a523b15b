//! Commands that change objects.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use anstream::eprintln;
use clap::Args;
use meltemi_api::labels;

use super::files::{self, Input};
use super::{Namespace, kinds, up};
use crate::client::LabClient;
use crate::wire::{self, Report};

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
    namespace: Namespace,
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
    let applied = apply_inputs(client, namespace, inputs, options.dry_run.remark()).await?;
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

/// Applies one input after the other; with the remark of a dry run only says what would happen.
pub(super) async fn apply_inputs(
    client: &LabClient,
    namespace: &str,
    inputs: Vec<Input>,
    dry_run: Option<&str>,
) -> anyhow::Result<Applied> {
    let (mut accepted, mut rejected, mut told) = (0, 0, 0);
    for input in inputs {
        let mut report = match dry_run {
            None => client.apply(namespace, &input.name, input.text).await?,
            Some(_) => client.judge(namespace, &input.name, input.text).await?,
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
        eprintln!("{diagnostic}");
    }
    Ok(())
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

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab label namespace default istio-injection=enabled\n  \
                        meltemi lab label namespace default istio-injection-"
)]
pub(super) struct Label {
    /// KIND NAME or KIND/NAME, then K=V to set and K- to remove.
    #[arg(required = true, num_args = 2..)]
    words: Vec<String>,
    /// Accepted as kubectl's flag: a label that is there may change.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn label(client: &LabClient, options: &Label) -> anyhow::Result<ExitCode> {
    let is_label = |word: &String| word.contains('=') || word.ends_with('-');
    let split = options
        .words
        .iter()
        .position(is_label)
        .unwrap_or(options.words.len());
    let (objects, changes) = options.words.split_at(split);
    let labels = label_changes(changes)?;
    up::ensure_any(client).await?;
    for (kind, name) in targets(objects)? {
        let namespace = if kind.namespaced {
            options.namespace.namespace.clone()
        } else {
            String::new()
        };
        if !options.overwrite {
            refuse_overwrite(client, kind, &namespace, &name, &labels).await?;
        }
        let label = wire::Label {
            kind: kind.kind.to_owned(),
            name,
            namespace,
            labels: labels.clone(),
        };
        print(&client.label(&label).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// As kubectl: without `--overwrite` a label keeps the value it has.
async fn refuse_overwrite(
    client: &LabClient,
    kind: &kinds::Kind,
    namespace: &str,
    name: &str,
    labels: &BTreeMap<String, Option<String>>,
) -> anyhow::Result<()> {
    let objects = client
        .objects(kind.kind, kind.namespaced.then_some(namespace))
        .await?;
    let Some(object) = objects
        .iter()
        .find(|object| object["metadata"]["name"] == name)
    else {
        return Ok(());
    };
    for (key, value) in labels {
        let (Some(wanted), Some(present)) = (value, object["metadata"]["labels"][key].as_str())
        else {
            continue;
        };
        anyhow::ensure!(
            wanted == present,
            "'{key}' already has a value ({present}), and --overwrite is false"
        );
    }
    Ok(())
}

fn label_changes(words: &[String]) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    anyhow::ensure!(!words.is_empty(), "which label? Give K=V or K-");
    let change = |word: &String| {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => match word.strip_suffix('-') {
                Some(key) => (key, None),
                None => anyhow::bail!("\"{word}\" is neither K=V nor K-"),
            },
        };
        let problem = labels::key_problem(key).or_else(|| labels::value_problem(value?));
        match problem {
            Some(problem) => anyhow::bail!(problem),
            None => Ok((key.to_owned(), value.map(str::to_owned))),
        }
    };
    words.iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn labels_are_set_and_removed() {
        let changes = label_changes(&["a=b".to_owned(), "c-".to_owned(), "d=".to_owned()]).unwrap();
        assert_eq!(changes["a"].as_deref(), Some("b"));
        assert_eq!(changes["c"], None);
        assert_eq!(changes["d"].as_deref(), Some(""));
        for bad in ["nonsense", "a=b c", "a b=c", "=c", "-"] {
            assert!(label_changes(&[bad.to_owned()]).is_err(), "{bad}");
        }
    }
}
