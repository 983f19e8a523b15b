//! `install` and `upgrade`: a line per object on standard output. Differs from istioctl: nothing is waited for without
//! `--wait`, besides the definitions that other objects need.

use std::time::Duration;

use meltemi_core::names::{ISTIO_SYSTEM, ISTIOD, of_revision};
use meltemi_install::{
    Applied, Awaited, Layer, Name, Object, Purge, Values, awaited, generate, namespace, over,
    prunable, yield_to_default_tag,
};
use serde_json::Value;

use crate::command::InstallArgs;
use crate::manifest::{refused, values};
use crate::{Access, AccessError, CliError, ClusterObjects, Io, tag};

/// The longest answer read at a prompt.
const ANSWER_LIMIT_BYTES: usize = 64;
/// Behind a line about something that was only tried.
const DRY_RUN: &str = " (server dry run)";

pub(crate) async fn install(
    args: &InstallArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let cluster = cluster(access)?;
    let values = values(&args.values, place(cluster), io)?;
    if let Some(there) = deployment(cluster, &values).await? {
        is_ours(&there)?;
    }
    let question = format!(
        "This will install the control plane of revision {} into the cluster, in namespace {}.",
        values.revision(),
        values.namespace()
    );
    apply(args, &values, &question, cluster, io).await
}

/// As `install`, of what is installed already.
pub(crate) async fn upgrade(
    args: &InstallArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let cluster = cluster(access)?;
    let values = values(&args.values, place(cluster), io)?;
    let (revision, namespace) = (values.revision(), values.namespace());
    let Some(there) = deployment(cluster, &values).await? else {
        let message = format!(
            "no control plane of revision {revision} is installed in namespace {namespace}"
        );
        return Err(CliError::data(message, elsewhere(cluster).await?));
    };
    is_ours(&there)?;
    let objects = generate(&values).map_err(|error| refused(&error))?;
    let mut objects = objects.iter();
    let new = objects.find(|object| object.kind == "Deployment");
    let (from, to) = (
        version(&there),
        version(new.map_or(&Value::Null, |new| &new.content)),
    );
    let change = change(from, to);
    io.print(&format!(
        "Control plane of revision {revision} in namespace {namespace}: {change}"
    ))?;
    let question = "This will upgrade it where it is.";
    apply(args, &values, question, cluster, io).await
}

async fn apply(
    args: &InstallArgs,
    values: &Values,
    question: &str,
    cluster: &dyn ClusterObjects,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let mut objects = generate(values).map_err(|error| refused(&error))?;
    if tag::is_default_taken(cluster).await? {
        yield_to_default_tag(&mut objects);
    }
    if !args.skip_confirmation && !args.dry_run {
        confirm(question, io)?;
    }
    let mut installation = Installation {
        cluster,
        is_dry_run: args.dry_run,
        timeout: args.timeout,
        io,
    };
    let has_namespace = installation.make_namespace(values).await?;
    let (definitions, others): (Vec<_>, Vec<_>) =
        objects.iter().partition(|object| is_definition(object));
    installation.apply_all(&definitions, true).await?;
    if !args.dry_run {
        installation.wait(&definitions).await?;
    }
    installation.apply_all(&others, has_namespace).await?;
    installation.prune(values, &objects).await?;
    if args.dry_run {
        return Ok(());
    }
    if !args.wait {
        let namespace = values.namespace();
        return io.print(&format!(
            "The control plane starts: kubectl -n {namespace} get pods"
        ));
    }
    installation.wait(&others).await?;
    io.print(&format!(
        "The control plane of revision {} is ready.",
        values.revision()
    ))
}

/// The control plane that is there under the name of the one to come.
async fn deployment(
    cluster: &dyn ClusterObjects,
    values: &Values,
) -> Result<Option<Value>, CliError> {
    let name = Name {
        api_version: "apps/v1",
        kind: "Deployment",
        namespace: values.namespace().to_owned(),
        name: of_revision(ISTIOD, values.revision()),
    };
    let found = cluster.get(&name).await;
    found.map_err(|error| at("reading", &name, error))
}

/// What another program looks after is that program's to change.
fn is_ours(deployment: &Value) -> Result<(), CliError> {
    let meta = &deployment["metadata"];
    let (name, namespace) = (&meta["name"], &meta["namespace"]);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (name, namespace) = (text(name), text(namespace));
    match meta["labels"]["app.kubernetes.io/managed-by"].as_str() {
        Some("meltemi") => Ok(()),
        Some("Helm") => Err(CliError::data(
            format!(
                "Deployment {namespace}/{name} is Helm's: both would change what the other made"
            ),
            format!(
                "Use `helm upgrade`, or give it up first: helm uninstall -n {namespace} RELEASE"
            ),
        )),
        _ => Err(CliError::data(
            format!("Deployment {namespace}/{name} is one that meltemi has not installed"),
            "Remove that control plane first, or install beside it with --revision NAME.",
        )),
    }
}

/// Where control planes are, for those who look in the wrong place.
async fn elsewhere(cluster: &dyn ClusterObjects) -> Result<String, CliError> {
    let labels = format!("app={ISTIOD},istio.io/rev");
    let listed = cluster.labelled("apps/v1", "Deployment", &labels).await?;
    let places: Vec<String> = listed
        .iter()
        .map(|one| {
            let meta = &one["metadata"];
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let revision = text(&meta["labels"]["istio.io/rev"]);
            format!("revision {revision} in {}", text(&meta["namespace"]))
        })
        .collect();
    Ok(if places.is_empty() {
        "`meltemi install` installs one.".to_owned()
    } else {
        format!(
            "There is: {} (--revision and --istioNamespace choose).",
            places.join(", ")
        )
    })
}

/// The version that a Deployment runs, by the tag of its image.
fn version(deployment: &Value) -> &str {
    let image = &deployment["spec"]["template"]["spec"]["containers"][0]["image"];
    let image = image.as_str().unwrap_or_default();
    let name = image.rsplit('/').next().unwrap_or_default();
    name.split_once(':')
        .map_or("an unnamed version", |(_, tag)| tag)
}

fn change(from: &str, to: &str) -> String {
    let parts = |version: &str| -> Option<Vec<u64>> {
        let numbers = version.split(['.', '-']).take(3);
        numbers.map(|number| number.parse().ok()).collect()
    };
    if from == to {
        return format!("{from} already; what values say is applied");
    }
    match (parts(from), parts(to)) {
        (Some(old), Some(new)) if new < old => format!("{from} -> {to}, which is older"),
        _ => format!("{from} -> {to}"),
    }
}

pub(crate) fn cluster(access: &dyn Access) -> Result<&dyn ClusterObjects, CliError> {
    access
        .cluster_objects()
        .ok_or_else(|| CliError::Unreachable {
            message: "there is no cluster to work on".to_owned(),
            hint:
                "Name one with --kubeconfig, --context or KUBECONFIG. A lab needs no installation."
                    .to_owned(),
        })
}

/// What `--istioNamespace` says, under whatever values say.
pub(crate) fn place(cluster: &dyn ClusterObjects) -> Vec<Layer> {
    let namespace = cluster.control_plane_namespace();
    let is_usual = namespace == ISTIO_SYSTEM;
    let layer = (!is_usual).then(|| Layer::Set(format!("global.istioNamespace={namespace}")));
    layer.into_iter().collect()
}

struct Installation<'a, 'io> {
    cluster: &'a dyn ClusterObjects,
    is_dry_run: bool,
    timeout: Duration,
    io: &'a mut Io<'io>,
}

impl Installation<'_, '_> {
    /// Whether the namespace is there now. One that was there before stays as it is: it may be somebody else's.
    async fn make_namespace(&mut self, values: &Values) -> Result<bool, CliError> {
        let object = namespace(values).map_err(|error| refused(&error))?;
        let name = Name::from(&object);
        let live = self.cluster.get(&name).await;
        if live.map_err(|error| at("reading", &name, error))?.is_some() {
            self.tell(&name, &Applied::Unchanged)?;
            return Ok(true);
        }
        self.apply(&object).await?;
        Ok(!self.is_dry_run)
    }

    /// Without their namespace the API server has no answer for objects that would be in it: they would be new.
    async fn apply_all(
        &mut self,
        objects: &[&Object],
        has_namespace: bool,
    ) -> Result<(), CliError> {
        for object in objects {
            if has_namespace || object.namespace.is_empty() {
                self.apply(object).await?;
            } else {
                self.tell(&Name::from(*object), &Applied::Created)?;
            }
        }
        Ok(())
    }

    async fn apply(&mut self, object: &Object) -> Result<(), CliError> {
        let name = Name::from(object);
        let failed = |error| at("applying", &name, error);
        let before = self.cluster.get(&name).await.map_err(failed)?;
        let content = over(object, before.as_ref());
        let applied = self.cluster.apply(&name, &content, self.is_dry_run).await;
        let applied = Applied::between(before.as_ref(), &applied.map_err(failed)?);
        self.tell(&name, &applied)
    }

    fn tell(&mut self, name: &Name, what: &dyn std::fmt::Display) -> Result<(), CliError> {
        let dry_run = if self.is_dry_run { DRY_RUN } else { "" };
        self.io.print(&format!("{name} {what}{dry_run}"))?;
        Ok(self.io.stdout.flush()?)
    }

    async fn wait(&mut self, objects: &[&Object]) -> Result<(), CliError> {
        let waited: Vec<(Name, Awaited)> = objects
            .iter()
            .filter_map(|object| Some((Name::from(*object), awaited(object.kind)?)))
            .collect();
        let missing = self.cluster.wait(&waited, self.timeout).await?;
        if missing.is_empty() {
            return Ok(());
        }
        let mut text = format!("not ready within {} s:", self.timeout.as_secs());
        for (name, reason) in &missing {
            text += &format!("\n  {name}: {reason}");
        }
        let rollout = missing.iter().find(|(name, _)| name.kind == "Deployment");
        if let Some((name, _)) = rollout {
            text += &format!(
                "\n`kubectl -n {} describe pods -l app={ISTIOD}` says why",
                name.namespace
            );
        }
        Err(CliError::answer(text))
    }

    /// Deletes what an earlier installation of this revision made and this one does not.
    async fn prune(&mut self, values: &Values, objects: &[Object]) -> Result<(), CliError> {
        let made: Vec<Name> = objects.iter().map(Name::from).collect();
        let found = found(self.cluster, values, Purge::Revision).await?;
        for name in found.iter().filter(|name| !made.contains(name)) {
            if !self.is_dry_run {
                let deleted = self.cluster.delete(name, self.timeout).await;
                deleted.map_err(|error| at("deleting", name, error))?;
            }
            self.tell(name, &"pruned")?;
        }
        Ok(())
    }
}

fn is_definition(object: &Object) -> bool {
    awaited(object.kind) == Some(Awaited::Established)
}

/// What installations made, in the order of its going.
pub(crate) async fn found(
    cluster: &dyn ClusterObjects,
    values: &Values,
    purge: Purge,
) -> Result<Vec<Name>, CliError> {
    let mut names = Vec::new();
    for (api_version, kind, labels) in prunable(values, purge) {
        let listed = cluster.labelled(api_version, kind, &labels).await?;
        let listed = listed.iter();
        names.extend(listed.map(|one| Name::of_listed(api_version, kind, one)));
    }
    Ok(names)
}

/// Goes on if a person says yes, as istioctl asks; the end of the input is a no.
pub(crate) fn confirm(question: &str, io: &mut Io<'_>) -> Result<(), CliError> {
    loop {
        write!(io.stdout, "{question}\nProceed? (y/N) ")?;
        io.stdout.flush()?;
        match read_answer(io)?.to_lowercase().as_str() {
            "y" | "yes" => return Ok(()),
            "" | "n" | "no" => {
                return Err(CliError::answer(
                    "cancelled, nothing was changed (-y answers yes)",
                ));
            }
            _ => {}
        }
    }
}

fn read_answer(io: &mut Io<'_>) -> Result<String, CliError> {
    let mut line = Vec::new();
    let mut byte = [0];
    while line.len() < ANSWER_LIMIT_BYTES && io.stdin.read(&mut byte)? == 1 && byte != *b"\n" {
        line.extend(byte);
    }
    Ok(String::from_utf8_lossy(&line).trim().to_owned())
}

pub(crate) fn at(doing: &str, name: &Name, error: AccessError) -> CliError {
    match error {
        AccessError::Failed { message } => CliError::answer(format!("{doing} {name}: {message}")),
        unreachable @ AccessError::Unreachable { .. } => unreachable.into(),
    }
}

#[cfg(test)]
mod tests;
