//! What the labels of namespaces ask for.

use meltemi_core::names::{DEFAULT_REVISION, label};
use serde_json::Value;

use super::facts::Facts;
use super::objects::{is_ending, label as labelled, name};
use super::{Check, Finding, Section};

pub(super) const SECTION: Section = Section {
    title: "Namespaces",
    checks: &[
        Check {
            id: "one-label",
            what: "no namespace has both istio-injection and istio.io/rev",
            is_fatal: false,
            judge: labels,
        },
        Check {
            id: "label-understood",
            what: "istio-injection is enabled or disabled, where it is said",
            is_fatal: false,
            judge: words,
        },
        Check {
            id: "revision-there",
            what: "every namespace chooses a revision or tag that there is",
            is_fatal: false,
            judge: revisions,
        },
        Check {
            id: "some-injected",
            what: "some namespace is injected",
            is_fatal: false,
            judge: some,
        },
    ],
};

fn living(facts: &Facts) -> impl Iterator<Item = &Value> {
    let namespaces = facts.namespaces.iter();
    namespaces.filter(|found| !is_ending(found))
}

/// Istio's IST0123.
fn labels(facts: &Facts) -> Vec<Finding> {
    let both = living(facts).filter(|found| {
        let of = |wanted: &str| !labelled(found, wanted).is_empty();
        of(label::ISTIO_INJECTION) && of(label::ISTIO_REV)
    });
    both.map(|found| {
        let name = name(found);
        Finding::warning(
            format!("namespace {name} has: istio-injection decides"),
            format!("kubectl label namespace {name} istio-injection-"),
        )
    })
    .collect()
}

fn words(facts: &Facts) -> Vec<Finding> {
    let unknown = living(facts).filter(|found| {
        let said = found["metadata"]["labels"][label::ISTIO_INJECTION].as_str();
        said.is_some_and(|said| !["enabled", "disabled"].contains(&said))
    });
    unknown
        .map(|found| {
            let (name, said) = (name(found), labelled(found, label::ISTIO_INJECTION));
            Finding::error(
                format!("namespace {name} says \"{said}\", which injects nothing"),
                format!("kubectl label --overwrite namespace {name} istio-injection=enabled"),
            )
        })
        .collect()
}

/// The revisions and tags that are there.
fn known(facts: &Facts) -> Vec<String> {
    let deployments = facts.deployments.iter();
    let revisions = deployments.map(|found| labelled(found, label::ISTIO_REV).to_owned());
    let tags = facts.tags().into_iter().map(|tag| tag.tag);
    revisions.chain(tags).collect()
}

fn revisions(facts: &Facts) -> Vec<Finding> {
    let known = known(facts);
    let mut findings = Vec::new();
    for found in living(facts) {
        let name = name(found);
        let revision = match labelled(found, label::ISTIO_INJECTION) {
            "enabled" => DEFAULT_REVISION,
            "" => labelled(found, label::ISTIO_REV),
            _ => continue,
        };
        if revision.is_empty() || known.iter().any(|known| known == revision) {
            continue;
        }
        let hint = meltemi_api::did_you_mean(revision, known.iter().map(String::as_str));
        let meant = hint.unwrap_or_else(|| known.first().map_or("NAME", String::as_str));
        findings.push(Finding::error(
            format!("namespace {name} chooses {revision}: its pods get no sidecar"),
            format!(
                "kubectl label --overwrite namespace {name} istio-injection- istio.io/rev={meant}"
            ),
        ));
    }
    findings
}

fn some(facts: &Facts) -> Vec<Finding> {
    let mut asking = living(facts).filter(|found| {
        let of = |wanted: &str| labelled(found, wanted);
        of(label::ISTIO_INJECTION) == "enabled" || !of(label::ISTIO_REV).is_empty()
    });
    if asking.next().is_some() {
        return Vec::new();
    }
    vec![Finding::warning(
        "no namespace asks for sidecars",
        "kubectl label namespace default istio-injection=enabled",
    )]
}
