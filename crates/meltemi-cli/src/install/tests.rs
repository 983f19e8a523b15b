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

#[test]
fn an_upgrade_says_from_what_to_what_and_needs_something_to_upgrade() {
    let (fake, cluster) = fake();
    let nothing = fake.run(&["upgrade", "-y"]);
    assert_eq!(nothing.status, 65);
    assert!(
        nothing
            .stderr
            .contains("no control plane of revision default")
    );
    assert!(
        nothing.stderr.contains("meltemi install"),
        "{}",
        nothing.stderr
    );
    let old = ["install", "-y", "--set", "global.tag=0.0.1"];
    assert_eq!(fake.run(&old).status, 0);
    let other = fake.run(&["upgrade", "-y", "--revision", "canary"]);
    assert!(
        other
            .stderr
            .contains("There is: revision default in istio-system"),
        "{}",
        other.stderr
    );
    let version = env!("CARGO_PKG_VERSION");
    let output = fake.run(&["upgrade", "-y"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    let first = output.stdout.lines().next().unwrap();
    assert_eq!(
        first,
        format!("Control plane of revision default in namespace istio-system: 0.0.1 -> {version}")
    );
    let back = fake.run(&["upgrade", "-y", "--set", "global.tag=0.0.1"]);
    assert!(back.stdout.contains("which is older"), "{}", back.stdout);
    let mut helms = cluster.objects.lock()["Deployment istio-system/istiod"].clone();
    helms["metadata"]["labels"]["app.kubernetes.io/managed-by"] = "Helm".into();
    cluster.put(helms);
    for command in ["install", "upgrade"] {
        let output = fake.run(&[command, "-y"]);
        assert_eq!(output.status, 65);
        assert!(output.stderr.contains("helm upgrade"), "{}", output.stderr);
    }
}
