//! What the API server asks the control plane, and whether it gets answers.

use meltemi_core::names::{DEFAULT_REVISION, ISTIOD, label, of_revision};
use meltemi_install::TAG;
use serde_json::Value;

use super::control_plane::install;
use super::facts::Facts;
use super::objects::{label as labelled, list, name, namespace, sidecar, text};
use super::{Check, Finding, Section};

pub(super) const SECTION: Section = Section {
    title: "Webhooks",
    checks: &[
        Check {
            id: "webhooks-there",
            what: "every control plane has its webhooks for injection and validation",
            is_fatal: false,
            judge: there,
        },
        Check {
            id: "webhooks-served",
            what: "every webhook calls a control plane that there is",
            is_fatal: false,
            judge: served,
        },
        Check {
            id: "tags",
            what: "every revision tag points at a revision that there is",
            is_fatal: false,
            judge: tags,
        },
        Check {
            id: "one-owner",
            what: "no two webhooks inject the same pods",
            is_fatal: false,
            judge: owners,
        },
        Check {
            id: "validation-binds",
            what: "validation is binding",
            is_fatal: false,
            judge: binding,
        },
        Check {
            id: "injection-answers",
            what: "a pod that asks for a sidecar gets one (a dry run)",
            is_fatal: false,
            judge: injection,
        },
        Check {
            id: "validation-answers",
            what: "an object of Istio's is judged (a dry run)",
            is_fatal: false,
            judge: validation,
        },
    ],
};

/// Those that call a Service of a control plane.
pub(super) fn ours(configurations: &[Value]) -> impl Iterator<Item = &Value> {
    configurations.iter().filter(|configuration| {
        list(configuration, "/webhooks")
            .any(|webhook| text(webhook, "/clientConfig/service/name").starts_with(ISTIOD))
    })
}

fn there(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for plane in facts.planes() {
        for (kind, configurations) in [
            ("MutatingWebhookConfiguration", &facts.injectors),
            ("ValidatingWebhookConfiguration", &facts.validators),
        ] {
            let is_own = |found: &&Value| {
                let service = text(found, "/webhooks/0/clientConfig/service/namespace");
                labelled(found, label::ISTIO_REV) == plane.revision
                    && labelled(found, TAG).is_empty()
                    && service == plane.namespace
            };
            if ours(configurations).find(is_own).is_none() {
                findings.push(Finding::error(
                    format!(
                        "revision {} in namespace {} has no {kind}",
                        plane.revision, plane.namespace
                    ),
                    install(plane),
                ));
            }
        }
    }
    findings
}

fn served(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let injectors = ours(&facts.injectors).map(|found| ("mutating", found));
    let validators = ours(&facts.validators).map(|found| ("validating", found));
    for (kind, configuration) in injectors.chain(validators) {
        let service = &configuration["webhooks"][0]["clientConfig"]["service"];
        let (own, place) = (text(service, "/name"), text(service, "/namespace"));
        let mut services = facts.services.iter();
        if !services.any(|found| name(found) == own && namespace(found) == place) {
            let revision = labelled(configuration, label::ISTIO_REV);
            let planes = facts.planes();
            let mut planes = planes.iter();
            // With its Deployment there, the Service is what has gone, and not the control plane.
            let plane = planes.find(|plane| plane.namespace == place && plane.revision == revision);
            findings.push(Finding::error(
                format!(
                    "{} calls Service {place}/{own}, which is not there: what it selects cannot be made",
                    name(configuration)
                ),
                plane.map_or_else(
                    || {
                        let name = name(configuration);
                        format!("kubectl delete {kind}webhookconfiguration {name}")
                    },
                    |plane| install(*plane),
                ),
            ));
        }
    }
    findings
}

fn tags(facts: &Facts) -> Vec<Finding> {
    let tags = facts.tags().into_iter();
    let is_there = |revision: &str| {
        let mut deployments = facts.deployments.iter();
        deployments.any(|found| labelled(found, label::ISTIO_REV) == revision)
    };
    let lost = tags.filter(|tag| !is_there(&tag.revision));
    lost.map(|tag| {
        Finding::error(
            format!("tag {} points at revision {}", tag.tag, tag.revision),
            format!("meltemi tag set {} --revision NAME --overwrite", tag.tag),
        )
    })
    .collect()
}

/// By the two labels that decide in most clusters.
fn owners(facts: &Facts) -> Vec<Finding> {
    let selects = |configuration: &&Value, key: &str, value: &str| {
        list(configuration, "/webhooks").any(|webhook| {
            list(webhook, "/namespaceSelector/matchExpressions").any(|one| {
                let mut values = list(one, "/values");
                one["key"] == key && one["operator"] == "In" && values.any(|one| one == value)
            })
        })
    };
    let mut wanted = vec![(label::ISTIO_INJECTION, "enabled".to_owned())];
    let namespaces = facts.namespaces.iter();
    let revisions = namespaces.map(|found| labelled(found, label::ISTIO_REV));
    let mut revisions: Vec<&str> = revisions.filter(|revision| !revision.is_empty()).collect();
    revisions.sort_unstable();
    revisions.dedup();
    wanted.extend(
        revisions
            .into_iter()
            .map(|revision| (label::ISTIO_REV, revision.to_owned())),
    );
    let mut findings = Vec::new();
    for (key, value) in wanted {
        let all = facts.injectors.iter();
        let all = all.filter(|configuration| selects(configuration, key, &value));
        let names: Vec<&str> = all.map(name).collect();
        if names.len() > 1 {
            findings.push(Finding::error(
                format!("{key}={value} is selected by {}", names.join(" and ")),
                "meltemi tag set default --revision NAME --overwrite, which leaves one of them; or uninstall the other",
            ));
        }
    }
    findings
}

fn binding(facts: &Facts) -> Vec<Finding> {
    let loose = ours(&facts.validators).filter(|configuration| {
        list(configuration, "/webhooks").any(|webhook| webhook["failurePolicy"] != "Fail")
    });
    loose
        .map(|configuration| {
            Finding::warning(
                format!(
                    "{} is not: the control plane makes it so when it has given it its CA bundle",
                    name(configuration)
                ),
                format!("kubectl -n {} logs -l app={ISTIOD}", facts.place),
            )
        })
        .collect()
}

fn injection(facts: &Facts) -> Vec<Finding> {
    let is_yielded = facts.tags().iter().any(|tag| tag.tag == DEFAULT_REVISION);
    let mut findings = Vec::new();
    for (revision, made) in &facts.injected {
        if revision == DEFAULT_REVISION && is_yielded {
            continue;
        }
        let fix = format!(
            "kubectl -n {} logs -l app={ISTIOD},{}={revision}",
            facts.place,
            label::ISTIO_REV
        );
        match made {
            Ok(pod) if sidecar(pod).is_some() => {}
            Ok(_) => findings.push(Finding::error(
                format!("one that asks revision {revision} gets none"),
                fix,
            )),
            Err(why) => findings.push(Finding::error(
                format!("one that asks revision {revision} cannot be made: {why}"),
                fix,
            )),
        }
    }
    findings
}

fn validation(facts: &Facts) -> Vec<Finding> {
    let refused = facts.validated.iter();
    refused
        .map(|why| {
            let planes = facts.planes();
            let service = planes
                .first()
                .map(|plane| of_revision(ISTIOD, plane.revision));
            Finding::error(
                format!("a sound one is refused: {why}"),
                format!(
                    "kubectl -n {} get endpointslices -l {}={}",
                    facts.place,
                    label::SERVICE_NAME,
                    service.as_deref().unwrap_or(ISTIOD)
                ),
            )
        })
        .collect()
}
