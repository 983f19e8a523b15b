//! The objects that a command line means: by name, by labels, or all of a kind.

use clap::Args;
use serde_json::Value;

use super::kinds::Kind;
use super::selector::Selector;
use super::{Namespace, get};
use crate::client::LabClient;

/// How objects are chosen that are not named.
#[derive(Debug, Args)]
pub(super) struct Choice {
    /// The objects with these labels: K=V,K2!=V2,K3 in (A,B).
    #[arg(short = 'l', long, conflicts_with = "all")]
    pub(super) selector: Option<Selector>,
    /// All objects of the kinds, in the namespace.
    #[arg(long)]
    pub(super) all: bool,
}

/// What is named, or has the labels.
pub(super) async fn chosen(
    client: &LabClient,
    words: &[String],
    choice: &Choice,
    namespace: &Namespace,
) -> anyhow::Result<Vec<(&'static Kind, String)>> {
    let mut chosen = Vec::new();
    for (kind, names) in get::wanted(words)? {
        let by_labels = choice.all || choice.selector.is_some();
        if names.is_empty() {
            anyhow::ensure!(
                by_labels,
                "which {}? Give a name, -l LABELS or --all",
                kind.resource
            );
            let namespace = kind.namespaced.then_some(namespace.namespace.as_str());
            let mut objects = client.objects(kind.kind, namespace).await?;
            objects.retain(|object| choice.selector.iter().all(|chosen| chosen.matches(object)));
            let name = |object: &Value| Some(object["metadata"]["name"].as_str()?.to_owned());
            chosen.extend(objects.iter().filter_map(name).map(|name| (kind, name)));
            continue;
        }
        anyhow::ensure!(
            !by_labels,
            "name cannot be provided when a selector is specified"
        );
        chosen.extend(names.into_iter().map(|name| (kind, name)));
    }
    Ok(chosen)
}
