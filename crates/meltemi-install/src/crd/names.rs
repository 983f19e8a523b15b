//! How kubectl knows Istio's kinds.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceColumnDefinition;
use meltemi_api::Kind;

pub(super) struct Names {
    pub(super) plural: &'static str,
    pub(super) short: &'static [&'static str],
    /// Title, where its text stands, and what it tells.
    columns: &'static [(&'static str, &'static str, &'static str)],
}

const AGE: (&str, &str, &str) = (
    "Age",
    ".metadata.creationTimestamp",
    "how long ago it was made",
);

/// The names and columns of Istio's own definitions; `None` for kinds that are not Istio's.
pub(super) fn names(kind: Kind) -> Option<Names> {
    Some(match kind {
        Kind::AuthorizationPolicy => Names {
            plural: "authorizationpolicies",
            short: &["ap"],
            columns: &[("Action", ".spec.action", "what a match leads to"), AGE],
        },
        Kind::DestinationRule => Names {
            plural: "destinationrules",
            short: &["dr"],
            columns: &[("Host", ".spec.host", "the host it is about"), AGE],
        },
        Kind::Gateway => Names {
            plural: "gateways",
            short: &["gw"],
            columns: &[],
        },
        Kind::PeerAuthentication => Names {
            plural: "peerauthentications",
            short: &["pa"],
            columns: &[
                ("Mode", ".spec.mtls.mode", "what the workloads accept"),
                AGE,
            ],
        },
        Kind::RequestAuthentication => Names {
            plural: "requestauthentications",
            short: &["ra"],
            columns: &[],
        },
        Kind::ServiceEntry => Names {
            plural: "serviceentries",
            short: &["se"],
            columns: &[
                ("Hosts", ".spec.hosts", "the hosts it adds"),
                (
                    "Location",
                    ".spec.location",
                    "whether its endpoints are in the mesh",
                ),
                (
                    "Resolution",
                    ".spec.resolution",
                    "how its endpoints are found",
                ),
                AGE,
            ],
        },
        Kind::Sidecar => Names {
            plural: "sidecars",
            short: &[],
            columns: &[],
        },
        Kind::VirtualService => Names {
            plural: "virtualservices",
            short: &["vs"],
            columns: &[
                ("Gateways", ".spec.gateways", "where its routes apply"),
                ("Hosts", ".spec.hosts", "the hosts whose requests it routes"),
                AGE,
            ],
        },
        Kind::WorkloadEntry => Names {
            plural: "workloadentries",
            short: &["we"],
            columns: &[AGE, ("Address", ".spec.address", "where the workload is")],
        },
        _ => return None,
    })
}

pub(super) fn columns(names: &Names) -> Vec<CustomResourceColumnDefinition> {
    let columns = names.columns.iter();
    columns
        .map(|(title, path, tells)| CustomResourceColumnDefinition {
            name: (*title).to_owned(),
            json_path: (*path).to_owned(),
            description: Some((*tells).to_owned()),
            type_: if *title == AGE.0 { "date" } else { "string" }.to_owned(),
            ..CustomResourceColumnDefinition::default()
        })
        .collect()
}
