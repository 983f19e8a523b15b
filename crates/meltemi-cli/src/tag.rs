//! `tag set | generate | list | remove`: names for revisions, in Istio's words.

use meltemi_core::names::{DEFAULT_REVISION, ISTIO_SYSTEM, ISTIOD};
use meltemi_install::{
    Applied, INJECTOR_KIND, Name, Object, TAG, TAG_KINDS, Target, generate, over, revision_labels,
    tag_objects, tag_webhooks, tags, yield_to_default_tag,
};
use serde_json::{Value, json};

use crate::command::{TagCommand, TagGenerateArgs, TagListArgs, TagRemoveArgs, TagSetArgs};
use crate::install::{at, cluster, confirm};
use crate::manifest::{read_values, refused};
use crate::output::structured;
use crate::table::Table;
use crate::{Access, CliError, ClusterObjects, Io};

pub(crate) async fn run(
    command: &TagCommand,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let cluster = cluster(access)?;
    match command {
        TagCommand::Set(args) => set(args, cluster, io).await,
        TagCommand::Generate(args) => print(args, cluster, io).await,
        TagCommand::List(args) => list(args, cluster, io).await,
        TagCommand::Remove(args) => remove(args, cluster, io).await,
    }
}

async fn set(
    args: &TagSetArgs,
    cluster: &dyn ClusterObjects,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let (tag, revision) = (&args.of.tag, &args.of.revision);
    let objects = objects(&args.of, cluster).await?;
    let name = tag_webhooks(tag);
    let live = cluster.get(&name).await?;
    if let Some(live) = &live
        && !args.overwrite
    {
        let points = live["metadata"]["labels"]["istio.io/rev"].as_str();
        return Err(CliError::data(
            format!(
                "revision tag \"{tag}\" already exists, and points at revision {}",
                points.unwrap_or("none")
            ),
            "--overwrite lets it point at another one.",
        ));
    }
    // What has the tag until now yields first: no pod is to match twice.
    if tag == DEFAULT_REVISION && revision != DEFAULT_REVISION {
        own_default(cluster, true).await?;
    }
    for object in &objects {
        apply(object, cluster).await?;
    }
    if tag == DEFAULT_REVISION && revision == DEFAULT_REVISION {
        own_default(cluster, true).await?;
    }
    let done = if live.is_some() { "updated" } else { "created" };
    io.print(&format!(
        "Revision tag \"{tag}\" {done}, referencing control plane revision \"{revision}\"."
    ))?;
    let label = if tag == DEFAULT_REVISION {
        "istio-injection=enabled".to_owned()
    } else {
        format!("istio.io/rev={tag}")
    };
    io.print(&format!(
        "To enable injection using this revision tag, use 'kubectl label namespace <NAMESPACE> {label}'"
    ))
}

async fn print(
    args: &TagGenerateArgs,
    cluster: &dyn ClusterObjects,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let objects = objects(&args.of, cluster).await?;
    let text = meltemi_install::yaml(&objects)
        .map_err(|error| CliError::answer(format!("printing the objects: {error}")))?;
    io.print(&text)
}

/// The objects of a tag, if there is such a revision and none that is called as the tag.
async fn objects(
    args: &crate::command::TagArgs,
    cluster: &dyn ClusterObjects,
) -> Result<Vec<Object>, CliError> {
    let (tag, revision) = (&args.tag, &args.revision);
    if tag != DEFAULT_REVISION && webhooks_of(tag, cluster).await?.is_some() {
        return Err(CliError::data(
            format!("\"{tag}\" is the name of a revision already: a tag cannot have it"),
            "Take another name for the tag.",
        ));
    }
    let Some(webhooks) = webhooks_of(revision, cluster).await? else {
        return Err(no_revision(revision, cluster).await?);
    };
    let target = Target::of_webhooks(revision, &webhooks).ok_or_else(|| {
        CliError::answer(format!(
            "the webhooks of revision {revision} call no Service"
        ))
    })?;
    tag_objects(tag, &target, args.auto_inject_namespaces).map_err(|error| refused(&error))
}

/// The webhook configuration of a revision: of several meshes, that of the one that the command line means.
async fn webhooks_of(
    revision: &str,
    cluster: &dyn ClusterObjects,
) -> Result<Option<Value>, CliError> {
    let (api_version, kind) = INJECTOR_KIND;
    let labels = revision_labels(revision);
    let mut found = cluster.labelled(api_version, kind, &labels).await?;
    if found.len() > 1 {
        let meant = cluster.control_plane_namespace();
        found.retain(|one| {
            let target = Target::of_webhooks(revision, one);
            target.is_some_and(|target| target.namespace == meant)
        });
    }
    Ok(found.into_iter().next())
}

async fn no_revision(revision: &str, cluster: &dyn ClusterObjects) -> Result<CliError, CliError> {
    let labels = format!("app={ISTIOD},istio.io/rev");
    let (api_version, kind) = INJECTOR_KIND;
    let installed = cluster.labelled(api_version, kind, &labels).await?;
    let revisions = installed.iter();
    let revisions = revisions.filter_map(|one| one["metadata"]["labels"]["istio.io/rev"].as_str());
    let mut revisions: Vec<&str> = revisions.collect();
    revisions.sort_unstable();
    let hint = if revisions.is_empty() {
        format!("None is installed: meltemi install --revision {revision}")
    } else {
        format!("Installed: {}", revisions.join(", "))
    };
    let message = format!("there is no control plane of revision {revision} in the cluster");
    Ok(CliError::data(message, hint))
}

async fn apply(object: &Object, cluster: &dyn ClusterObjects) -> Result<Applied, CliError> {
    let name = Name::from(object);
    let failed = |error| at("applying", &name, error);
    let before = cluster.get(&name).await.map_err(failed)?;
    let content = over(object, before.as_ref());
    let applied = cluster
        .apply(&name, &content, false)
        .await
        .map_err(failed)?;
    Ok(Applied::between(before.as_ref(), &applied))
}

/// Takes what names no revision from the control plane without a name, or gives it back. It is as it was installed but for
/// that: its webhooks depend on few values.
async fn own_default(cluster: &dyn ClusterObjects, is_taken: bool) -> Result<(), CliError> {
    let Some(live) = webhooks_of(DEFAULT_REVISION, cluster).await? else {
        return Ok(());
    };
    let target = Target::of_webhooks(DEFAULT_REVISION, &live);
    let namespace = target.map_or_else(|| ISTIO_SYSTEM.to_owned(), |target| target.namespace);
    let webhooks = live["webhooks"].as_array();
    let has_auto = webhooks.into_iter().flatten().any(|webhook| {
        webhook["name"]
            .as_str()
            .is_some_and(|name| name.starts_with("auto."))
    });
    let values = read_values(&[
        format!("global.istioNamespace={namespace}"),
        format!("sidecarInjectorWebhook.enableNamespacesByDefault={has_auto}"),
    ])?;
    let mut objects = generate(&values).map_err(|error| refused(&error))?;
    objects.retain(|object| object.content.get("webhooks").is_some());
    if is_taken {
        yield_to_default_tag(&mut objects);
    }
    for object in &mut objects {
        // What its installation has chosen stays.
        if let Some(live) = cluster.get(&Name::from(&*object)).await? {
            keep(&mut object.content, &live);
            apply(object, cluster).await?;
        }
    }
    Ok(())
}

/// Fields and labels of live webhooks that do not select.
fn keep(content: &mut Value, live: &Value) {
    content["metadata"]["labels"] = live["metadata"]["labels"].clone();
    let webhooks = content["webhooks"].as_array_mut();
    for webhook in webhooks.into_iter().flatten() {
        let mut live = live["webhooks"].as_array().into_iter().flatten();
        let Some(live) = live.find(|live| live["name"] == webhook["name"]) else {
            continue;
        };
        for field in ["failurePolicy", "reinvocationPolicy"] {
            if let Some(value) = live.get(field) {
                webhook[field] = value.clone();
            }
        }
    }
}

async fn list(
    args: &TagListArgs,
    cluster: &dyn ClusterObjects,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let (api_version, kind) = INJECTOR_KIND;
    let webhooks = cluster.labelled(api_version, kind, TAG).await?;
    let namespaces = cluster.labelled("v1", "Namespace", "").await?;
    let found = tags(&webhooks, &namespaces);
    let json: Value = found
        .iter()
        .map(|tag| json!({"tag": tag.tag, "revision": tag.revision, "namespaces": tag.namespaces}))
        .collect();
    if let Some(text) = structured(&json, args.output)? {
        return io.print(&text);
    }
    if found.is_empty() {
        return io.note("No revision tag is in the cluster. `meltemi tag set` makes one.");
    }
    let mut table = Table::new(["TAG", "REVISION", "NAMESPACES"]);
    for tag in found {
        table.row([tag.tag, tag.revision, tag.namespaces.join(",")]);
    }
    io.print(&table.render())
}

async fn remove(
    args: &TagRemoveArgs,
    cluster: &dyn ClusterObjects,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let tag = &args.tag;
    let mut names = Vec::new();
    let labels = format!("{TAG}={tag}");
    for (api_version, kind) in TAG_KINDS {
        let listed = cluster.labelled(api_version, kind, &labels).await?;
        names.extend(
            listed
                .iter()
                .map(|one| Name::of_listed(api_version, kind, one)),
        );
    }
    if names.is_empty() {
        return Err(CliError::data(
            format!("there is no revision tag \"{tag}\""),
            "`meltemi tag list` shows those that there are.",
        ));
    }
    let namespaces = cluster.labelled("v1", "Namespace", "").await?;
    let users = meltemi_install::choosing(tag, &namespaces);
    if !users.is_empty() && !args.skip_confirmation {
        let question = format!(
            "Caution, {} still injected by revision tag \"{tag}\": {}. New pods there will have no sidecar.",
            match users.len() {
                1 => "1 namespace is".to_owned(),
                count => format!("{count} namespaces are"),
            },
            users.join(", ")
        );
        confirm(&question, io)?;
    }
    for name in &names {
        let deleted = cluster.delete(name, args.timeout).await;
        deleted.map_err(|error| at("deleting", name, error))?;
    }
    if tag == DEFAULT_REVISION {
        own_default(cluster, false).await?;
    }
    io.print(&format!("Revision tag \"{tag}\" removed."))
}

/// Tags that point at a revision.
pub(crate) async fn pointing_at(
    revision: &str,
    cluster: &dyn ClusterObjects,
) -> Result<Vec<String>, CliError> {
    let (api_version, kind) = INJECTOR_KIND;
    let webhooks = cluster.labelled(api_version, kind, TAG).await?;
    let found = tags(&webhooks, &[]).into_iter();
    let of_revision = found.filter(|tag| tag.revision == revision);
    Ok(of_revision.map(|tag| tag.tag).collect())
}

/// Whether the tag `default` is another's than the control plane without a name.
pub(crate) async fn is_default_taken(cluster: &dyn ClusterObjects) -> Result<bool, CliError> {
    Ok(cluster
        .get(&tag_webhooks(DEFAULT_REVISION))
        .await?
        .is_some())
}

#[cfg(test)]
mod tests;
