use super::*;

fn map(text: &str) -> BTreeMap<String, String> {
    text.split(' ')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap())
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .collect()
}

fn decide_for(
    settings: &InjectionSettings,
    namespace: Option<&str>,
    labels: &str,
    annotations: &str,
) -> Decision {
    let metadata = ObjectMeta {
        labels: Some(map(labels)),
        annotations: Some(map(annotations)),
        ..ObjectMeta::default()
    };
    let namespace_labels = namespace.map(map);
    let pod = PodContext {
        namespace: "default",
        namespace_labels: namespace_labels.as_ref(),
        metadata: &metadata,
        spec: &PodSpec::default(),
    };
    decide(&pod, settings)
}

#[test]
fn labels_of_the_namespace_come_before_those_of_the_pod() {
    use SkipReason::{NamespaceDisabled, NamespaceNotLabelled, OtherRevision};
    let settings = InjectionSettings::default();
    let no = |by, value: &str| {
        Some(SkipReason::OptedOut {
            by,
            value: value.to_owned(),
        })
    };
    let other = || Some(OtherRevision("canary".to_owned()));
    let (inject, rev, off) = (
        "sidecar.istio.io/inject",
        "istio.io/rev",
        "istio-injection=disabled",
    );
    let (yes, said_no) = (&format!("{inject}=true"), &format!("{inject}=false"));
    let (ours, theirs) = (&format!("{rev}=default"), &format!("{rev}=canary"));
    let on = "istio-injection=enabled";
    for (namespace, labels, annotations, expected) in [
        (on, "", "", None),
        (on, said_no, "", no("label", "false")),
        (on, "", said_no, no("annotation", "false")),
        (on, yes, said_no, None),
        (on, &format!("{inject}=On"), "", None),
        (on, &format!("{inject}=maybe"), "", no("label", "maybe")),
        (off, yes, "", Some(NamespaceDisabled)),
        ("", "", "", Some(NamespaceNotLabelled)),
        ("", yes, "", None),
        ("", "", yes, Some(NamespaceNotLabelled)),
        ("", said_no, "", no("label", "false")),
        ("", ours, "", None),
        ("", theirs, "", other()),
        (ours, "", "", None),
        (theirs, yes, "", other()),
        (&format!("{on} {theirs}"), "", "", None),
    ] {
        let decision = decide_for(&settings, Some(namespace), labels, annotations);
        let expected = expected.map_or(Decision::Inject, Decision::Skip);
        assert_eq!(
            decision, expected,
            "{namespace:?} {labels:?} {annotations:?}"
        );
    }
}

#[test]
fn a_revision_answers_to_its_name_and_tags_only() {
    let canary = InjectionSettings {
        revision: "canary".to_owned(),
        tags: vec!["prod".to_owned()],
        ..InjectionSettings::default()
    };
    let decide = |namespace| decide_for(&canary, Some(namespace), "", "");
    assert_eq!(decide("istio.io/rev=canary"), Decision::Inject);
    assert_eq!(decide("istio.io/rev=prod"), Decision::Inject);
    let default = || Decision::Skip(SkipReason::OtherRevision("default".to_owned()));
    assert_eq!(decide("istio.io/rev=default"), default());
    assert_eq!(decide("istio-injection=enabled"), default());
}

#[test]
fn selectors_and_policy_decide_for_the_silent() {
    let settings = InjectionSettings {
        policy: InjectionPolicy::Disabled,
        never_inject: vec![map("app=db"), BTreeMap::new()],
        always_inject: vec![map("tier=web")],
        ..InjectionSettings::default()
    };
    let decide = |labels| decide_for(&settings, None, labels, "");
    assert_eq!(decide("tier=web"), Decision::Inject);
    assert_eq!(decide("app=x"), Decision::Skip(SkipReason::PolicyDisabled));
    assert_eq!(
        decide("tier=web app=db"),
        Decision::Skip(SkipReason::NeverInjectSelector)
    );
    assert_eq!(
        decide("app=db sidecar.istio.io/inject=true"),
        Decision::Inject
    );
}

#[test]
fn the_node_and_the_cluster_stay_untouched() {
    let metadata = ObjectMeta {
        labels: Some(map("sidecar.istio.io/inject=true")),
        ..ObjectMeta::default()
    };
    let check = |namespace, host_network, expected| {
        let spec = PodSpec {
            host_network,
            ..PodSpec::default()
        };
        let labels = map("istio-injection=enabled");
        let pod = PodContext {
            namespace,
            namespace_labels: Some(&labels),
            metadata: &metadata,
            spec: &spec,
        };
        assert_eq!(decide(&pod, &InjectionSettings::default()), expected);
    };
    check("default", Some(false), Decision::Inject);
    check(
        "default",
        Some(true),
        Decision::Skip(SkipReason::HostNetwork),
    );
    let system = SkipReason::SystemNamespace("kube-system".to_owned());
    check("kube-system", None, Decision::Skip(system));
}
