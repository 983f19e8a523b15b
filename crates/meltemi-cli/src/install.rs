//! `install` and `uninstall`: a line per object on standard output. Differs from istioctl: nothing is waited for without
//! `--wait`, besides the definitions that other objects need.

use std::time::Duration;

use meltemi_core::names::{CA_ROOT_CONFIG_MAP, ISTIO_SYSTEM, ISTIOD};
use meltemi_install::{
    Applied, Awaited, Layer, Name, Object, Purge, ROOT_MAPS, Values, authority_secret, awaited,
    generate, is_own_namespace, namespace, over, prunable,
};

use crate::command::{InstallArgs, UninstallArgs};
use crate::manifest::{refused, values};
use crate::{Access, AccessError, CliError, ClusterObjects, Io};

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
    let objects = generate(&values).map_err(|error| refused(&error))?;
    if !args.skip_confirmation && !args.dry_run {
        let (revision, namespace) = (values.revision(), values.namespace());
        let question = format!(
            "This will install the control plane of revision {revision} into the cluster, in namespace {namespace}."
        );
        confirm(&question, io)?;
    }
    let mut installation = Installation {
        cluster,
        is_dry_run: args.dry_run,
        timeout: args.timeout,
        io,
    };
    let has_namespace = installation.make_namespace(&values).await?;
    let (definitions, others): (Vec<_>, Vec<_>) =
        objects.iter().partition(|object| is_definition(object));
    installation.apply_all(&definitions, true).await?;
    if !args.dry_run {
        installation.wait(&definitions).await?;
    }
    installation.apply_all(&others, has_namespace).await?;
    installation.prune(&values, &objects).await?;
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

pub(crate) async fn uninstall(
    args: &UninstallArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    if args.revision.is_none() && !args.purge {
        return Err(CliError::usage(
            "what is to be removed?",
            "Name a control plane with --revision (default is the one without a name), or take --purge for everything.",
        ));
    }
    let cluster = cluster(access)?;
    let mut layers = place(cluster);
    let revision = args.revision.iter();
    layers.extend(revision.map(|revision| Layer::Set(format!("revision={revision}"))));
    let (values, _) = Values::read(&layers).map_err(|error| refused(&error))?;
    let (names, whose) = if args.purge {
        (everything(cluster, &values).await?, "Istio".to_owned())
    } else {
        let whose = format!("revision {}", values.revision());
        (found(cluster, &values, Purge::Revision).await?, whose)
    };
    if names.is_empty() {
        return io.print(&format!(
            "Nothing of {whose} that meltemi installed is in the cluster."
        ));
    }
    if !args.skip_confirmation {
        confirm(&warning(&names, &whose), io)?;
    }
    for name in &names {
        let deleted = cluster.delete(name, args.timeout).await;
        deleted.map_err(|error| at("deleting", name, error))?;
        io.print(&format!("{name} deleted"))?;
    }
    Ok(())
}

fn cluster(access: &dyn Access) -> Result<&dyn ClusterObjects, CliError> {
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
fn place(cluster: &dyn ClusterObjects) -> Vec<Layer> {
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
async fn found(
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

/// That of every revision; then what control planes have made themselves, when none is left to make it again; and the
/// namespace if it is ours.
async fn everything(cluster: &dyn ClusterObjects, values: &Values) -> Result<Vec<Name>, CliError> {
    let mut names = found(cluster, values, Purge::All).await?;
    let (api_version, kind, labels) = ROOT_MAPS;
    let maps = cluster.labelled(api_version, kind, labels).await?;
    let maps = maps.iter();
    let maps = maps.map(|map| Name::of_listed(api_version, kind, map));
    names.extend(maps.filter(|map| map.name == CA_ROOT_CONFIG_MAP));
    let secret = authority_secret(values);
    if cluster.get(&secret).await?.is_some() {
        names.push(secret);
    }
    let namespace = Name::namespace(values.namespace());
    let live = cluster.get(&namespace).await?;
    if live.is_some_and(|live| is_own_namespace(&live)) {
        names.push(namespace);
    }
    Ok(names)
}

/// What a person should know before saying yes.
fn warning(names: &[Name], whose: &str) -> String {
    let count = |kind: &str| names.iter().filter(|name| name.kind == kind).count();
    let mut text = format!("This will delete {} objects of {whose}.", names.len());
    let definitions = count("CustomResourceDefinition");
    if definitions > 0 {
        text += &format!(
            "\n{definitions} of them are definitions: every object of their kinds goes with them, in all namespaces."
        );
    }
    if let Some(namespace) = names.iter().find(|name| name.kind == "Namespace") {
        text += &format!(
            "\nNamespace {} goes with all that is in it.",
            namespace.name
        );
    }
    text
}

/// Goes on if a person says yes, as istioctl asks; the end of the input is a no.
fn confirm(question: &str, io: &mut Io<'_>) -> Result<(), CliError> {
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

fn at(doing: &str, name: &Name, error: AccessError) -> CliError {
    match error {
        AccessError::Failed { message } => CliError::answer(format!("{doing} {name}: {message}")),
        unreachable @ AccessError::Unreachable { .. } => unreachable.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::fake::{Fake, FakeCluster};

    fn fake() -> (Fake, FakeCluster) {
        let cluster = FakeCluster::default();
        let fake = Fake {
            cluster: Some(cluster.clone()),
            ..Fake::default()
        };
        (fake, cluster)
    }

    #[test]
    fn installing_is_asked_for_and_says_what_became_of_each_object() {
        let (fake, cluster) = fake();
        for answer in ["", "n\n", "what\nno\n"] {
            let output = fake.run_with(answer, &["install"]);
            assert_eq!(output.status, 1, "{answer:?}");
            assert!(output.stdout.contains("Proceed? (y/N)"));
            assert!(cluster.names().is_empty());
        }
        let output = fake.run_with("yes\n", &["install"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        let lines: Vec<&str> = output.stdout.lines().collect();
        assert!(lines.contains(&"Deployment istio-system/istiod created"));
        let at = |text: &str| lines.iter().position(|line| line.contains(text));
        assert!(at("Namespace istio-system created") < at("CustomResourceDefinition"));
        assert!(at("Deployment") < at("MutatingWebhookConfiguration"));

        let again = fake.run(&["install", "-y"]);
        assert!(!again.stdout.contains("created"), "{}", again.stdout);
        assert!(
            again
                .stdout
                .contains("Deployment istio-system/istiod unchanged")
        );
    }

    #[test]
    fn a_dry_run_asks_nobody_and_changes_nothing() {
        let (fake, cluster) = fake();
        let output = fake.run(&["install", "--dry-run", "--wait"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        assert!(
            output
                .stdout
                .contains("Service istio-system/istiod created (server dry run)")
        );
        assert!(!output.stdout.contains("Proceed"));
        assert!(cluster.names().is_empty());
    }

    #[test]
    fn what_the_values_no_longer_make_is_pruned() {
        let (fake, cluster) = fake();
        assert_eq!(fake.run(&["install", "-y"]).status, 0);
        let revision = ["install", "-y", "--revision", "canary"];
        assert_eq!(fake.run(&revision).status, 0);
        let set = ["install", "-y", "--set", "pilot.autoscaleEnabled=false"];
        let output = fake.run(&set);
        let autoscaler = "HorizontalPodAutoscaler istio-system/istiod";
        assert!(output.stdout.contains(&format!("{autoscaler} pruned")));
        assert_eq!(*cluster.deleted.lock(), [autoscaler]);
    }

    #[test]
    fn who_waits_in_vain_is_told_for_what() {
        let (mut fake, _) = fake();
        fake.cluster.as_mut().unwrap().not_ready = "waits for 0 of 1 pods to be ready".to_owned();
        assert_eq!(fake.run(&["install", "-y"]).status, 0);
        let output = fake.run(&["install", "-y", "--wait", "--timeout", "90s"]);
        assert_eq!(output.status, 1);
        assert_eq!(
            output.stderr,
            "Error: not ready within 90 s:\n  Deployment istio-system/istiod: waits for 0 of 1 pods to be ready\n\
             `kubectl -n istio-system describe pods -l app=istiod` says why\n"
        );
    }

    #[test]
    fn a_revision_goes_alone_and_a_purge_leaves_nothing() {
        let (fake, cluster) = fake();
        let map = json!({"kind": "ConfigMap", "metadata": {
            "name": "istio-ca-root-cert", "namespace": "shop", "labels": {"istio.io/config": "true"}
        }});
        let foreign = json!({"kind": "ConfigMap", "metadata": {
            "name": "mine", "namespace": "shop", "labels": {"istio.io/config": "true"}
        }});
        let secret = json!({"kind": "Secret", "metadata": {
            "name": "istio-ca-secret", "namespace": "istio-system"
        }});
        for object in [map, foreign, secret] {
            cluster.put(object);
        }
        assert_eq!(fake.run(&["install", "-y"]).status, 0);
        let before = cluster.names();
        assert_eq!(
            fake.run(&["install", "-y", "--revision", "canary"]).status,
            0
        );
        assert_eq!(fake.run(&["uninstall"]).status, 64);
        let canary = ["uninstall", "-y", "--revision", "canary"];
        assert_eq!(fake.run(&canary).status, 0);
        assert_eq!(cluster.names(), before);

        let output = fake.run_with("y\n", &["uninstall", "--purge"]);
        assert_eq!(output.status, 0, "{}", output.stderr);
        assert!(
            output
                .stdout
                .contains("Namespace istio-system goes with all that is in it")
        );
        assert_eq!(cluster.names(), ["ConfigMap shop/mine"]);
        let again = fake.run(&["uninstall", "--purge"]);
        assert_eq!(again.status, 0);
        assert!(again.stdout.starts_with("Nothing of Istio"));
    }

    #[test]
    fn a_namespace_that_was_there_before_stays() {
        let (fake, cluster) = fake();
        cluster.put(json!({"kind": "Namespace", "metadata": {"name": "istio-system"}}));
        assert_eq!(fake.run(&["install", "-y"]).status, 0);
        assert_eq!(fake.run(&["uninstall", "--purge", "-y"]).status, 0);
        assert_eq!(cluster.names(), ["Namespace istio-system"]);
    }

    #[test]
    fn without_a_cluster_nothing_is_installed() {
        let output = Fake::default().run(&["install", "-y"]);
        assert_eq!(output.status, 69);
        assert!(output.stderr.contains("--kubeconfig"), "{}", output.stderr);
    }
}
