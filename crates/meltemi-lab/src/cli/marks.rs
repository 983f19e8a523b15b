//! `label` and `annotate`: K=V sets, K- removes.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Args;
use meltemi_api::labels;
use serde_json::Value;

use super::chosen::{Choice, chosen};
use super::kinds::Kind;
use super::{Namespace, objects, up};
use crate::client::LabClient;
use crate::wire::{Mark, MarkField};

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab label namespace default istio-injection=enabled\n  \
                        meltemi lab label namespace default istio-injection-\n  meltemi lab label pods --all tier=web"
)]
pub(super) struct Label {
    #[command(flatten)]
    marks: Marks,
}

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab annotate service reviews note='who owns it'\n  meltemi lab annotate service reviews note-\n  \
                        meltemi lab annotate --overwrite deploy/web example.org/owner=me"
)]
pub(super) struct Annotate {
    #[command(flatten)]
    marks: Marks,
}

#[derive(Debug, Args)]
struct Marks {
    /// KIND NAME or KIND/NAME, then K=V to set and K- to remove.
    #[arg(required = true)]
    words: Vec<String>,
    /// What is there may get another value.
    #[arg(long)]
    overwrite: bool,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn label(client: &LabClient, options: &Label) -> anyhow::Result<ExitCode> {
    mark(client, MarkField::Labels, &options.marks).await
}

pub(super) async fn annotate(client: &LabClient, options: &Annotate) -> anyhow::Result<ExitCode> {
    mark(client, MarkField::Annotations, &options.marks).await
}

async fn mark(client: &LabClient, field: MarkField, options: &Marks) -> anyhow::Result<ExitCode> {
    let is_change = |word: &String| word.contains('=') || word.ends_with('-');
    let split = options
        .words
        .iter()
        .position(is_change)
        .unwrap_or(options.words.len());
    let (objects, changes) = options.words.split_at(split);
    let values = changed(field, changes)?;
    up::ensure_any(client).await?;
    for (kind, name) in chosen(client, objects, &options.choice, &options.namespace).await? {
        let namespace = if kind.namespaced {
            options.namespace.namespace.clone()
        } else {
            String::new()
        };
        if !options.overwrite {
            refuse_overwrite(client, kind, &namespace, &name, (field, &values)).await?;
        }
        let mark = Mark {
            kind: kind.kind.to_owned(),
            name,
            namespace,
            field,
            values: values.clone(),
        };
        objects::print(&client.mark(&mark).await?)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// As kubectl: without `--overwrite` a label or annotation keeps the value it has.
async fn refuse_overwrite(
    client: &LabClient,
    kind: &Kind,
    namespace: &str,
    name: &str,
    (field, values): (MarkField, &BTreeMap<String, Option<String>>),
) -> anyhow::Result<()> {
    let objects = client
        .objects(kind.kind, kind.namespaced.then_some(namespace))
        .await?;
    let object = objects
        .iter()
        .find(|object| object["metadata"]["name"] == name);
    match object.and_then(|object| kept(&object["metadata"][field.as_str()], values)) {
        None => Ok(()),
        Some((key, value)) => {
            anyhow::bail!("'{key}' already has a value ({value}), and --overwrite is false")
        }
    }
}

/// The first key that would get another value than the one it has.
fn kept<'a>(
    present: &Value,
    values: &'a BTreeMap<String, Option<String>>,
) -> Option<(&'a str, String)> {
    values.iter().find_map(|(key, wanted)| {
        let has = present[key].as_str()?;
        let is_other = wanted.as_ref().is_some_and(|wanted| wanted != has);
        is_other.then(|| (key.as_str(), has.to_owned()))
    })
}

fn changed(field: MarkField, words: &[String]) -> anyhow::Result<BTreeMap<String, Option<String>>> {
    let one = match field {
        MarkField::Labels => "label",
        MarkField::Annotations => "annotation",
    };
    anyhow::ensure!(!words.is_empty(), "which {one}? Give K=V or K-");
    let change = |word: &String| {
        let (key, value) = match word.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => match word.strip_suffix('-') {
                Some(key) => (key, None),
                None => anyhow::bail!("\"{word}\" is neither K=V nor K-"),
            },
        };
        // The value of an annotation is any text.
        let value_problem = || match field {
            MarkField::Labels => labels::value_problem(value?),
            MarkField::Annotations => None,
        };
        match labels::key_problem(key).or_else(value_problem) {
            Some(problem) => anyhow::bail!(problem),
            None => Ok((key.to_owned(), value.map(str::to_owned))),
        }
    };
    words.iter().map(change).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(field: MarkField, words: &[&str]) -> anyhow::Result<BTreeMap<String, Option<String>>> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        changed(field, &words)
    }

    #[test]
    fn labels_are_set_and_removed() {
        let changes = read(MarkField::Labels, &["a=b", "c-", "d="]).unwrap();
        assert_eq!(changes["a"].as_deref(), Some("b"));
        assert_eq!(changes["c"], None);
        assert_eq!(changes["d"].as_deref(), Some(""));
        for bad in ["nonsense", "a=b c", "a b=c", "=c", "-"] {
            assert!(read(MarkField::Labels, &[bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_value_of_an_annotation_is_any_text() {
        let changes = read(MarkField::Annotations, &["note=who, and = what"]).unwrap();
        assert_eq!(changes["note"].as_deref(), Some("who, and = what"));
        assert!(read(MarkField::Annotations, &["a b=c"]).is_err());
    }

    #[test]
    fn a_value_that_is_there_is_kept() {
        let present = json!({"a": "1"});
        let other =
            |word: &str| kept(&present, &read(MarkField::Labels, &[word]).unwrap()).is_some();
        assert!(other("a=2"));
        assert!(!other("a=1") && !other("a-") && !other("b=2"));
    }
}
