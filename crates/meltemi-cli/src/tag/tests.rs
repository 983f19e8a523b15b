use crate::fake::{Fake, FakeCluster};
use serde_json::{Value, json};

fn installed(revisions: &[&str]) -> (Fake, FakeCluster) {
    let cluster = FakeCluster::default();
    let fake = Fake {
        cluster: Some(cluster.clone()),
        ..Fake::default()
    };
    for revision in revisions {
        let install = ["install", "-y", "--revision", revision];
        assert_eq!(fake.run(&install).status, 0);
    }
    (fake, cluster)
}

fn selector(cluster: &FakeCluster, name: &str, at: usize) -> Value {
    let objects = cluster.objects.lock();
    objects[name]["webhooks"][at]["namespaceSelector"].clone()
}

#[test]
fn a_tag_is_set_moved_listed_and_removed() {
    let (fake, cluster) = installed(&["one", "two"]);
    for name in ["a", "b"] {
        cluster.put(json!({"kind": "Namespace", "metadata": {
            "name": name, "labels": {"istio.io/rev": "prod"}}}));
    }
    let before = cluster.names();
    let output = fake.run(&["tag", "set", "prod", "--revision", "one"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(
        output.stdout.starts_with(
            "Revision tag \"prod\" created, referencing control plane revision \"one\"."
        )
    );
    let move_it = ["tag", "set", "prod", "--revision", "two"];
    let refused = fake.run(&move_it);
    assert_eq!(refused.status, 65);
    assert!(refused.stderr.contains("--overwrite"), "{}", refused.stderr);
    assert_eq!(
        fake.run(&[&move_it[..], &["--overwrite"]].concat()).status,
        0
    );
    let list = fake.run(&["tag", "list"]).stdout;
    assert_eq!(
        list,
        "TAG      REVISION     NAMESPACES\nprod     two          a,b\n"
    );
    let no = fake.run_with("n\n", &["tag", "remove", "prod"]);
    assert_eq!(no.status, 1);
    assert!(
        no.stdout.contains("2 namespaces are still injected"),
        "{}",
        no.stdout
    );
    assert_eq!(fake.run(&["tag", "remove", "prod", "-y"]).status, 0);
    assert_eq!(cluster.names(), before);
}

#[test]
fn what_is_no_revision_or_no_tag_is_said() {
    let (fake, _) = installed(&["one"]);
    let unknown = fake.run(&["tag", "set", "prod", "--revision", "two"]);
    assert_eq!(unknown.status, 65);
    assert!(
        unknown.stderr.contains("Installed: one"),
        "{}",
        unknown.stderr
    );
    let same = fake.run(&["tag", "set", "one", "--revision", "one"]);
    assert!(same.stderr.contains("the name of a revision already"));
    let none = fake.run(&["tag", "remove", "prod", "-y"]);
    assert_eq!(none.status, 65);
}

#[test]
fn generate_prints_and_changes_nothing() {
    let (fake, cluster) = installed(&["one"]);
    let before = cluster.names();
    let output = fake.run(&["tag", "generate", "prod", "--revision", "one"]);
    assert_eq!(output.status, 0, "{}", output.stderr);
    assert!(output.stdout.contains("name: istio-revision-tag-prod\n"));
    assert_eq!(cluster.names(), before);
}

#[test]
fn the_default_tag_takes_unmarked_namespaces_and_gives_them_back() {
    let (fake, cluster) = installed(&["default", "canary"]);
    let own = "MutatingWebhookConfiguration istio-sidecar-injector";
    let before = selector(&cluster, own, 2);
    let set = ["tag", "set", "default", "--revision", "canary"];
    assert_eq!(fake.run(&set).status, 0);
    let never = json!({"matchLabels": {"istio.io/deactivated": "never-match"}});
    assert_eq!(selector(&cluster, own, 2), never);
    // Installing again does not take them back.
    assert_eq!(fake.run(&["install", "-y"]).status, 0);
    assert_eq!(selector(&cluster, own, 2), never);
    assert_eq!(fake.run(&["tag", "remove", "default", "-y"]).status, 0);
    assert_eq!(selector(&cluster, own, 2), before);
}

#[test]
fn a_revision_that_tags_point_at_is_not_removed() {
    let (fake, _) = installed(&["one"]);
    fake.run(&["tag", "set", "prod", "--revision", "one"]);
    let output = fake.run(&["uninstall", "-y", "--revision", "one"]);
    assert_eq!(output.status, 65);
    assert!(output.stderr.contains("tag set prod"), "{}", output.stderr);
    assert_eq!(fake.run(&["uninstall", "-y", "--purge"]).status, 0);
    assert!(fake.run(&["tag", "list"]).stdout.is_empty());
}
