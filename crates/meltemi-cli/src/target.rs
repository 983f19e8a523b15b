//! `[type/]name[.namespace]`: which pod a user means.

use std::collections::BTreeSet;

use crate::{Access, CliError, Pod};

/// Finds the pod of a target. A name is a pod's, or a workload's (`ratings-v1`), or the beginning of exactly one workload's.
pub(crate) async fn resolve(
    target: &str,
    namespace: Option<&str>,
    access: &dyn Access,
) -> Result<Pod, CliError> {
    let pods = access.pods().await?;
    among(&pods, target, namespace, access).await.cloned()
}

/// As [`resolve`], of pods that are known already. `svc/NAME` is a pod that the Service selects.
pub(crate) async fn among<'a>(
    pods: &'a [Pod],
    target: &str,
    namespace: Option<&str>,
    access: &dyn Access,
) -> Result<&'a Pod, CliError> {
    let Some(("svc" | "service" | "services", name)) = target.split_once('/') else {
        return find(pods, target, namespace);
    };
    let (name, namespace) = match name.split_once('.') {
        Some((name, rest)) => (name, rest.split('.').next().unwrap_or(rest)),
        None => (name, namespace.unwrap_or("default")),
    };
    let Some(selector) = access.service_selector(name, namespace).await? else {
        return Err(CliError::data(
            format!("no service {name:?} with a selector in namespace {namespace}"),
            "Name a pod or workload, or another namespace with -n.",
        ));
    };
    let is_selected = |pod: &&Pod| {
        pod.namespace == namespace
            && selector
                .iter()
                .all(|(name, value)| pod.labels.get(name) == Some(value))
    };
    let selected: Vec<&Pod> = pods.iter().filter(is_selected).collect();
    best(&selected).ok_or_else(|| {
        CliError::data(
            format!("service {name:?} in namespace {namespace} selects no pod"),
            "",
        )
    })
}

pub(crate) fn find<'a>(
    pods: &'a [Pod],
    target: &str,
    namespace: Option<&str>,
) -> Result<&'a Pod, CliError> {
    let (kind, name) = match target.split_once('/') {
        Some((kind, name)) => (Some(kind), name),
        None => (None, target),
    };
    let by_workload = match kind {
        None | Some("pod" | "pods" | "po") => false,
        Some(
            "deployment" | "deployments" | "deploy" | "replicaset" | "rs" | "statefulset" | "sts"
            | "daemonset" | "ds" | "job",
        ) => true,
        Some(other) => {
            return Err(CliError::usage(
                format!("{other:?} is not a type that has pods"),
                "Use pod/, service/, deployment/, replicaset/, statefulset/, daemonset/ or job/, or a name alone.",
            ));
        }
    };
    let (name, namespace) = split_namespace(pods, name, namespace);
    let here = || pods.iter().filter(|pod| pod.namespace == namespace);
    if let Some(pod) = here().find(|pod| pod.name == name && !by_workload) {
        return Ok(pod);
    }
    let of_workload: Vec<&Pod> = here().filter(|pod| workload(&pod.name) == name).collect();
    if let Some(pod) = best(&of_workload) {
        return Ok(pod);
    }
    let prefix = format!("{name}-");
    let begins: Vec<&Pod> = here().filter(|pod| pod.name.starts_with(&prefix)).collect();
    let workloads: BTreeSet<&str> = begins.iter().map(|pod| workload(&pod.name)).collect();
    match (best(&begins), workloads.len()) {
        (Some(pod), 1) if !by_workload => Ok(pod),
        (Some(_), 2..) => Err(CliError::data(
            format!("{name:?} is the beginning of several workloads in namespace {namespace}"),
            format!("Name one of them: {}.", join(workloads)),
        )),
        _ => Err(missing(pods, name, namespace)),
    }
}

/// The part behind the last dot is a namespace if there are pods in it, as names may hold dots too.
fn split_namespace<'a>(
    pods: &[Pod],
    name: &'a str,
    namespace: Option<&'a str>,
) -> (&'a str, &'a str) {
    let default = namespace.unwrap_or("default");
    match name.rsplit_once('.') {
        Some((short, namespace))
            if !pods
                .iter()
                .any(|pod| pod.name == name && pod.namespace == default) =>
        {
            (short, namespace)
        }
        _ => (name, default),
    }
}

/// The first ready pod that stays, else one that stays, else the first.
fn best<'a>(pods: &[&'a Pod]) -> Option<&'a Pod> {
    let mut pods = pods.to_vec();
    pods.sort_by_key(|pod| (pod.is_ending, !pod.ready, &pod.name));
    pods.first().copied()
}

/// The workload in a pod's name: without the suffixes of a Deployment (`-<template hash>-<5>`), of a StatefulSet (`-<number>`)
/// or of a ReplicaSet, DaemonSet or Job (`-<5>`). Kubernetes draws generated suffixes from these characters.
pub(crate) fn workload(pod: &str) -> &str {
    let generated = |text: &str| {
        !text.is_empty()
            && text
                .bytes()
                .all(|c| b"bcdfghjklmnpqrstvwxz2456789".contains(&c))
    };
    let Some((stem, last)) = pod.rsplit_once('-') else {
        return pod;
    };
    if last.bytes().all(|c| c.is_ascii_digit()) && last.len() != 5 {
        return stem;
    }
    if last.len() != 5 || !generated(last) {
        return pod;
    }
    match stem.rsplit_once('-') {
        Some((name, hash)) if (6..=10).contains(&hash.len()) && generated(hash) => name,
        _ => stem,
    }
}

fn missing(pods: &[Pod], name: &str, namespace: &str) -> CliError {
    let here: BTreeSet<&str> = pods
        .iter()
        .filter(|pod| pod.namespace == namespace)
        .flat_map(|pod| [pod.name.as_str(), workload(&pod.name)])
        .collect();
    let elsewhere = pods
        .iter()
        .find(|pod| pod.name == name || workload(&pod.name) == name);
    let near = here
        .iter()
        .map(|candidate| (strsim::damerau_levenshtein(name, candidate), *candidate))
        .filter(|(distance, _)| *distance <= 3)
        .min();
    let hint = match (elsewhere, near) {
        (Some(pod), _) => format!("There is one in namespace {0}: add -n {0}.", pod.namespace),
        (None, Some((_, near))) => format!("Did you mean {near:?}?"),
        (None, None) if here.is_empty() => format!("There is no pod in namespace {namespace}."),
        (None, None) => {
            let workloads = here.into_iter().filter(|name| workload(name) == *name);
            format!("There are: {}.", join(workloads))
        }
    };
    CliError::data(
        format!("no pod or workload {name:?} in namespace {namespace}"),
        hint,
    )
}

fn join<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, namespace: &str, ready: bool) -> Pod {
        Pod {
            name: name.to_owned(),
            namespace: namespace.to_owned(),
            ready,
            ..Pod::default()
        }
    }

    fn pods() -> Vec<Pod> {
        vec![
            pod("ratings-v1-7d4c9f5b6c-x2b4k", "default", false),
            pod("ratings-v1-7d4c9f5b6c-z9d7w", "default", true),
            pod("reviews-v1-7d4c9f5b6c-x2b4k", "default", true),
            pod("reviews-v2-7d4c9f5b6c-x2b4k", "default", true),
            pod("db-0", "default", true),
            pod("web-5d4c", "shop", true),
        ]
    }

    #[test]
    fn workloads_are_read_from_pod_names() {
        for (name, expected) in [
            ("ratings-v1-7d4c9f5b6c-x2b4k", "ratings-v1"),
            ("db-0", "db"),
            ("db-12", "db"),
            ("agent-x2b4k", "agent"),
            ("web-5d4c", "web-5d4c"),
            ("alone", "alone"),
        ] {
            assert_eq!(workload(name), expected);
        }
    }

    #[test]
    fn finds_what_a_user_means() {
        let pods = pods();
        for (target, namespace, expected) in [
            (
                "reviews-v1-7d4c9f5b6c-x2b4k",
                None,
                "reviews-v1-7d4c9f5b6c-x2b4k",
            ),
            ("ratings-v1", None, "ratings-v1-7d4c9f5b6c-z9d7w"),
            ("ratings", None, "ratings-v1-7d4c9f5b6c-z9d7w"),
            (
                "deploy/ratings-v1.default",
                None,
                "ratings-v1-7d4c9f5b6c-z9d7w",
            ),
            ("statefulset/db", None, "db-0"),
            ("web-5d4c.shop", None, "web-5d4c"),
            ("web-5d4c", Some("shop"), "web-5d4c"),
            ("pod/db-0", None, "db-0"),
        ] {
            assert_eq!(
                find(&pods, target, namespace).unwrap().name,
                expected,
                "{target}"
            );
        }
    }

    #[test]
    fn says_why_not() {
        let pods = pods();
        for (target, message, hint) in [
            (
                "reviews",
                "\"reviews\" is the beginning of several workloads",
                "Name one of them: reviews-v1, reviews-v2.",
            ),
            (
                "ratigns-v1",
                "no pod or workload \"ratigns-v1\"",
                "Did you mean \"ratings-v1\"?",
            ),
            (
                "web-5d4c",
                "no pod or workload \"web-5d4c\"",
                "There is one in namespace shop: add -n shop.",
            ),
            (
                "deploy/ratings",
                "no pod or workload \"ratings\"",
                "Did you mean \"ratings-v1\"?",
            ),
            (
                "configmap/ratings",
                "\"configmap\" is not a type that has pods",
                "Use pod/, service/",
            ),
            (
                "x.nowhere",
                "no pod or workload \"x\" in namespace nowhere",
                "There is no pod in namespace nowhere.",
            ),
        ] {
            let error = find(&pods, target, None).unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
            assert!(error.hint().starts_with(hint), "{}", error.hint());
        }
    }

    #[tokio::test]
    async fn a_service_stands_for_a_pod_that_it_selects() {
        let mut pods = pods();
        pods[2].labels = [("app".to_owned(), "reviews".to_owned())].into();
        let fake = crate::fake::Fake::default().service("reviews", "app", "reviews");
        for target in ["svc/reviews", "service/reviews.default.svc.cluster.local"] {
            let found = among(&pods, target, None, &fake).await.unwrap();
            assert_eq!(found.name, "reviews-v1-7d4c9f5b6c-x2b4k", "{target}");
        }
        let fake = fake.service("empty", "app", "none");
        for (target, message) in [
            ("svc/nobody", "no service \"nobody\" with a selector"),
            (
                "svc/empty",
                "service \"empty\" in namespace default selects no pod",
            ),
        ] {
            let error = among(&pods, target, None, &fake).await.unwrap_err();
            assert!(error.to_string().starts_with(message), "{error}");
        }
    }

    #[test]
    fn a_pod_that_stays_comes_before_one_that_ends() {
        let mut pods = vec![
            pod("ratings-v1-7d4c9f5b6c-x2b4k", "default", true),
            pod("ratings-v1-7d4c9f5b6c-z9d7w", "default", false),
        ];
        pods[0].is_ending = true;
        let found = find(&pods, "ratings-v1", None).unwrap();
        assert_eq!(found.name, "ratings-v1-7d4c9f5b6c-z9d7w");
    }
}
