//! The cluster itself.

use super::facts::Facts;
use super::objects::{condition, name};
use super::{Check, Finding, Section};

pub(super) const SECTION: Section = Section {
    title: "Kubernetes",
    checks: &[
        Check {
            id: "kubernetes-version",
            what: "the API server's version is supported",
            is_fatal: true,
            judge: version,
        },
        Check {
            id: "may-look",
            what: "everything can be looked at",
            is_fatal: false,
            judge: may_look,
        },
        Check {
            id: "nodes-ready",
            what: "every node is ready",
            is_fatal: false,
            judge: nodes,
        },
    ],
};

/// The first that starts native sidecars without being asked to.
const OLDEST_MINOR: u32 = 29;

fn version(facts: &Facts) -> Vec<Finding> {
    let numbers = facts.version.trim_start_matches('v').split('.');
    let mut numbers = numbers.map(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next().flatten(), numbers.next().flatten());
    match (major, minor) {
        (Some(1), Some(minor)) if minor >= OLDEST_MINOR => Vec::new(),
        (Some(1), Some(_)) => vec![Finding::error(
            format!(
                "it is {}; sidecars are started as such since 1.{OLDEST_MINOR}",
                facts.version
            ),
            "upgrade the cluster",
        )],
        _ => vec![Finding::warning(
            format!("it says \"{}\", which is no version", facts.version),
            "kubectl version",
        )],
    }
}

fn may_look(facts: &Facts) -> Vec<Finding> {
    let refused = facts.refused.iter();
    refused
        .map(|why| {
            let fix = "ask whoever runs the cluster for the ClusterRole view, and for nodes, webhooks and definitions";
            Finding::warning(format!("{why}: checks that need it say nothing"), fix)
        })
        .collect()
}

fn nodes(facts: &Facts) -> Vec<Finding> {
    let nodes = facts.nodes.iter();
    let nodes = nodes.filter(|node| condition(node, "Ready") != Some(true));
    nodes
        .map(|node| {
            let name = name(node);
            Finding::warning(
                format!("node {name} is not"),
                format!("kubectl describe node {name}"),
            )
        })
        .collect()
}
