//! `uninstall`: a line per object on standard output.

use std::collections::BTreeSet;

use meltemi_core::names::CA_ROOT_CONFIG_MAP;
use meltemi_install::{
    Layer, Name, Purge, ROOT_MAPS, TAG, TAG_KINDS, Values, authority_secret, is_own_namespace,
};

use crate::command::UninstallArgs;
use crate::install::{at, cluster, confirm, found, place};
use crate::manifest::refused;
use crate::{Access, CliError, ClusterObjects, Io, tag};

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
    if !args.purge {
        let tags = tag::pointing_at(values.revision(), cluster).await?;
        if let Some(tag) = tags.first() {
            let message = format!(
                "revision {} has tags that point at it: {}; pods of their namespaces could not start without it",
                values.revision(),
                tags.join(", ")
            );
            let hint = format!(
                "Let them point elsewhere, `meltemi tag set {tag} --revision NAME --overwrite`, or remove them, \
                 `meltemi tag remove {tag}`."
            );
            return Err(CliError::data(message, hint));
        }
    }
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

/// That of every revision; then what control planes have made themselves, when none is left to make it again; and the
/// namespace if it is ours.
async fn everything(cluster: &dyn ClusterObjects, values: &Values) -> Result<Vec<Name>, CliError> {
    let mut names = Vec::new();
    for (api_version, kind) in TAG_KINDS {
        let listed = cluster.labelled(api_version, kind, TAG).await?;
        let listed = listed.iter();
        names.extend(listed.map(|one| Name::of_listed(api_version, kind, one)));
    }
    names.extend(found(cluster, values, Purge::All).await?);
    let (api_version, kind, labels) = ROOT_MAPS;
    let maps = cluster.labelled(api_version, kind, labels).await?;
    let maps = maps.iter();
    let maps = maps.map(|map| Name::of_listed(api_version, kind, map));
    names.extend(maps.filter(|map| map.name == CA_ROOT_CONFIG_MAP));
    let deployments = names.iter().filter(|name| name.kind == "Deployment");
    let mut places: BTreeSet<String> = deployments.map(|name| name.namespace.clone()).collect();
    places.insert(values.namespace().to_owned());
    for place in places {
        let secret = authority_secret(&place);
        if cluster.get(&secret).await?.is_some() {
            names.push(secret);
        }
        let namespace = Name::namespace(&place);
        let live = cluster.get(&namespace).await?;
        if live.is_some_and(|live| is_own_namespace(&live)) {
            names.push(namespace);
        }
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
    for namespace in names.iter().filter(|name| name.kind == "Namespace") {
        text += &format!(
            "\nNamespace {} goes with all that is in it.",
            namespace.name
        );
    }
    text
}
