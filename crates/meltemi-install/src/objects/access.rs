//! What the control plane may do: nothing that no rule below gives a reason for.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{LocalObjectReference, ServiceAccount};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use meltemi_api::Kind;
use meltemi_core::names::{CA_ROOT_CONFIG_MAP, ISTIOD};

use super::{cluster_metadata, metadata};
use crate::values::Text;
use crate::{Values, crd};

/// Holds the reason of each rule, in the order of the rules: a rule itself has no place for one.
const REASONS: &str = "meltemi.io/reasons";

const READ: &[&str] = &["get", "list", "watch"];
const CLUSTER_ROLE: &str = "istiod-clusterrole";

struct Rule {
    group: &'static str,
    resources: Vec<String>,
    /// Empty: any.
    names: Vec<String>,
    verbs: &'static [&'static str],
    why: &'static str,
}

impl Rule {
    fn new(
        group: &'static str,
        resources: &[&str],
        verbs: &'static [&'static str],
        why: &'static str,
    ) -> Self {
        Self {
            group,
            resources: resources.iter().map(ToString::to_string).collect(),
            names: Vec::new(),
            verbs,
            why,
        }
    }

    fn named(mut self, names: Vec<String>) -> Self {
        self.names = names;
        self
    }

    fn policy(&self) -> PolicyRule {
        PolicyRule {
            api_groups: Some(vec![self.group.to_owned()]),
            resources: Some(self.resources.clone()),
            resource_names: (!self.names.is_empty()).then(|| self.names.clone()),
            verbs: self.verbs.iter().map(ToString::to_string).collect(),
            ..PolicyRule::default()
        }
    }
}

fn policies(rules: &[Rule]) -> Option<Vec<PolicyRule>> {
    Some(rules.iter().map(Rule::policy).collect())
}

fn reasons(rules: &[Rule]) -> Option<BTreeMap<String, String>> {
    let lines: Vec<String> = rules
        .iter()
        .map(|rule| {
            let (verbs, resources) = (rule.verbs.join(" "), rule.resources.join(" "));
            format!("{verbs} {resources}: {}", rule.why)
        })
        .collect();
    Some(BTreeMap::from([(REASONS.to_owned(), lines.join("\n"))]))
}

fn cluster_rules(values: &Values) -> Vec<Rule> {
    let core = [
        "namespaces",
        "nodes",
        "services",
        "pods",
        "serviceaccounts",
        "configmaps",
    ];
    let mut rules = vec![
        Rule::new(
            "",
            &core,
            READ,
            "services and workloads are found by them, and by nodes in which zone they are; injection reads namespaces and nodes",
        ),
        Rule::new(
            "discovery.k8s.io",
            &["endpointslices"],
            READ,
            "the endpoints of services",
        ),
        Rule::new(
            "",
            &["configmaps"],
            &["create"],
            "each namespace gets the root certificate; create cannot be limited to a name",
        ),
        Rule::new(
            "",
            &["configmaps"],
            &["update", "patch"],
            "the root certificate is renewed in each namespace",
        )
        .named(vec![CA_ROOT_CONFIG_MAP.to_owned()]),
        Rule::new(
            "authentication.k8s.io",
            &["tokenreviews"],
            &["create"],
            "a proxy proves by its token which service account it runs as",
        ),
        Rule::new(
            "admissionregistration.k8s.io",
            &[
                "mutatingwebhookconfigurations",
                "validatingwebhookconfigurations",
            ],
            READ,
            "their CA bundle is compared with the authority's root",
        ),
        Rule::new(
            "admissionregistration.k8s.io",
            &["mutatingwebhookconfigurations"],
            &["update", "patch"],
            "their CA bundle is filled in",
        )
        .named(vec![
            super::injector_name(values),
            "istio-revision-tag-default".to_owned(),
        ]),
        Rule::new(
            "admissionregistration.k8s.io",
            &["validatingwebhookconfigurations"],
            &["update", "patch"],
            "their CA bundle is filled in, and failurePolicy set once validation answers",
        )
        .named(vec![super::webhooks::validator_name(values)]),
    ];
    rules.extend(istio_rules());
    rules
}

/// For each API group of Istio's that has kinds we read: what users configure, and where they are told what became of it.
fn istio_rules() -> Vec<Rule> {
    let mut groups: BTreeMap<&'static str, Vec<String>> = BTreeMap::new();
    for kind in Kind::ALL.iter().filter(|kind| kind.is_istio()) {
        let plurals = groups.entry(kind.group()).or_default();
        plurals.extend(crd::plural(*kind).map(str::to_owned));
    }
    let rule = |group, resources, verbs, why| Rule {
        group,
        resources,
        names: Vec::new(),
        verbs,
        why,
    };
    let mut rules = Vec::new();
    for (group, plurals) in groups {
        let statuses = plurals.iter().map(|plural| format!("{plural}/status"));
        let statuses = statuses.collect();
        let told = "users are told whether an object is good, and how many proxies run it";
        rules.push(rule(
            group,
            plurals,
            READ,
            "what users configure of the mesh",
        ));
        rules.push(rule(group, statuses, &["patch"], told));
    }
    rules
}

fn own_rules() -> Vec<Rule> {
    let authority = "istio-ca-secret".to_owned();
    vec![
        Rule::new(
            "",
            &["secrets"],
            READ,
            "the authority's own key, or the one that an operator plugs in; and the certificates of gateways in this \
             namespace, whose names Gateways give at any time",
        ),
        Rule::new(
            "",
            &["secrets"],
            &["create"],
            "the first start makes the authority's key; create cannot be limited to a name",
        ),
        Rule::new(
            "",
            &["secrets"],
            &["update", "patch"],
            "the authority's root is renewed before it ends",
        )
        .named(vec![authority]),
        Rule::new(
            "coordination.k8s.io",
            &["leases"],
            &["get", "list", "watch", "create", "update", "patch"],
            "of several replicas one writes",
        ),
    ]
}

pub(super) fn service_account(values: &Values) -> ServiceAccount {
    let mut metadata = metadata(values, ISTIOD);
    let annotations = &values.pilot.service_account_annotations;
    metadata.annotations = (!annotations.is_empty()).then(|| texts(annotations));
    let secrets = &values.global.image_pull_secrets;
    ServiceAccount {
        metadata,
        image_pull_secrets: (!secrets.is_empty()).then(|| pull_secrets(secrets)),
        ..ServiceAccount::default()
    }
}

pub(super) fn pull_secrets(names: &[String]) -> Vec<LocalObjectReference> {
    let references = names
        .iter()
        .map(|name| LocalObjectReference { name: name.clone() });
    references.collect()
}

pub(super) fn texts(texts: &BTreeMap<String, Text>) -> BTreeMap<String, String> {
    let pairs = texts.iter();
    pairs
        .map(|(name, text)| (name.clone(), text.to_string()))
        .collect()
}

pub(super) fn cluster_role(values: &Values) -> ClusterRole {
    let rules = cluster_rules(values);
    let mut metadata = cluster_metadata(values, CLUSTER_ROLE);
    metadata.annotations = reasons(&rules);
    ClusterRole {
        metadata,
        rules: policies(&rules),
        ..ClusterRole::default()
    }
}

pub(super) fn cluster_role_binding(values: &Values) -> ClusterRoleBinding {
    let metadata = cluster_metadata(values, CLUSTER_ROLE);
    let name = metadata.name.clone().unwrap_or_default();
    ClusterRoleBinding {
        metadata,
        role_ref: role_ref("ClusterRole", name),
        subjects: Some(vec![subject(values)]),
    }
}

pub(super) fn role(values: &Values) -> Role {
    let rules = own_rules();
    let mut metadata = metadata(values, ISTIOD);
    metadata.annotations = reasons(&rules);
    Role {
        metadata,
        rules: policies(&rules),
    }
}

pub(super) fn role_binding(values: &Values) -> RoleBinding {
    RoleBinding {
        metadata: metadata(values, ISTIOD),
        role_ref: role_ref("Role", values.named(ISTIOD)),
        subjects: Some(vec![subject(values)]),
    }
}

fn role_ref(kind: &str, name: String) -> RoleRef {
    RoleRef {
        api_group: Some("rbac.authorization.k8s.io".to_owned()),
        kind: kind.to_owned(),
        name,
    }
}

fn subject(values: &Values) -> Subject {
    Subject {
        kind: "ServiceAccount".to_owned(),
        name: values.named(ISTIOD),
        namespace: Some(values.namespace().to_owned()),
        ..Subject::default()
    }
}
