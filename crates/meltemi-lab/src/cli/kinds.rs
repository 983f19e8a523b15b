//! The kinds by every name that kubectl accepts for them.

pub(super) struct Kind {
    pub(super) kind: &'static str,
    /// `resource.group`, as kubectl prints objects.
    pub(super) resource: &'static str,
    pub(super) plural: &'static str,
    short: &'static [&'static str],
    pub(super) namespaced: bool,
}

const fn kind(
    kind: &'static str,
    resource: &'static str,
    plural: &'static str,
    short: &'static [&'static str],
    namespaced: bool,
) -> Kind {
    Kind {
        kind,
        resource,
        plural,
        short,
        namespaced,
    }
}

/// What happened to objects; they are read only.
pub(super) const EVENT: &str = "Event";

pub(super) const KINDS: &[Kind] = &[
    kind("Pod", "pod", "pods", &["po"], true),
    kind("Service", "service", "services", &["svc"], true),
    kind(
        "Deployment",
        "deployment.apps",
        "deployments",
        &["deploy"],
        true,
    ),
    kind(
        "ReplicaSet",
        "replicaset.apps",
        "replicasets",
        &["rs"],
        true,
    ),
    kind(
        "StatefulSet",
        "statefulset.apps",
        "statefulsets",
        &["sts"],
        true,
    ),
    kind("Job", "job.batch", "jobs", &[], true),
    kind("Namespace", "namespace", "namespaces", &["ns"], false),
    kind(
        "ServiceAccount",
        "serviceaccount",
        "serviceaccounts",
        &["sa"],
        true,
    ),
    kind("ConfigMap", "configmap", "configmaps", &["cm"], true),
    kind("Secret", "secret", "secrets", &[], true),
    kind(
        "EndpointSlice",
        "endpointslice.discovery.k8s.io",
        "endpointslices",
        &[],
        true,
    ),
    kind(
        super::endpoints::KIND,
        "endpoints",
        "endpoints",
        &["ep"],
        true,
    ),
    kind(EVENT, "event", "events", &["ev"], true),
    kind(
        "VirtualService",
        "virtualservice.networking.istio.io",
        "virtualservices",
        &["vs"],
        true,
    ),
    kind(
        "Gateway",
        "gateway.networking.istio.io",
        "gateways",
        &["gw"],
        true,
    ),
    kind(
        "DestinationRule",
        "destinationrule.networking.istio.io",
        "destinationrules",
        &["dr"],
        true,
    ),
    kind(
        "ServiceEntry",
        "serviceentry.networking.istio.io",
        "serviceentries",
        &["se"],
        true,
    ),
    kind(
        "Sidecar",
        "sidecar.networking.istio.io",
        "sidecars",
        &[],
        true,
    ),
    kind(
        "WorkloadEntry",
        "workloadentry.networking.istio.io",
        "workloadentries",
        &["we"],
        true,
    ),
    kind(
        "AuthorizationPolicy",
        "authorizationpolicy.security.istio.io",
        "authorizationpolicies",
        &["ap"],
        true,
    ),
    kind(
        "PeerAuthentication",
        "peerauthentication.security.istio.io",
        "peerauthentications",
        &["pa"],
        true,
    ),
    kind(
        "RequestAuthentication",
        "requestauthentication.security.istio.io",
        "requestauthentications",
        &["ra"],
        true,
    ),
];

/// What `get all` shows.
pub(super) const ALL: [&str; 6] = [
    "Pod",
    "Service",
    "Deployment",
    "ReplicaSet",
    "StatefulSet",
    "Job",
];

/// Finds a kind by plural, singular, short name or `resource.group`, in any case.
pub(super) fn find(name: &str) -> anyhow::Result<&'static Kind> {
    let name = name.to_ascii_lowercase();
    let is = |kind: &&Kind| {
        let (resource, singular) = (
            kind.resource,
            kind.resource.split('.').next().unwrap_or_default(),
        );
        let group = resource.split_once('.').map_or("", |(_, group)| group);
        let with_group = |word: &str| {
            name.strip_prefix(word)
                .is_some_and(|rest| rest.is_empty() || rest.strip_prefix('.') == Some(group))
        };
        with_group(singular) || with_group(kind.plural) || kind.short.contains(&name.as_str())
    };
    KINDS.iter().find(is).ok_or_else(|| {
        let known: Vec<&str> = KINDS.iter().map(|kind| kind.plural).collect();
        anyhow::anyhow!(
            "the lab has no resource type \"{name}\" (it has: {})",
            known.join(", ")
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_have_many_names() {
        for (name, expected) in [
            ("po", "Pod"),
            ("Pods", "Pod"),
            ("deploy", "Deployment"),
            ("deployments.apps", "Deployment"),
            ("vs", "VirtualService"),
            ("gw", "Gateway"),
            ("virtualservice.networking.istio.io", "VirtualService"),
            (
                "peerauthentications.security.istio.io",
                "PeerAuthentication",
            ),
            ("ns", "Namespace"),
        ] {
            assert_eq!(find(name).unwrap().kind, expected, "{name}");
        }
        assert!(find("nodes").is_err());
    }
}
