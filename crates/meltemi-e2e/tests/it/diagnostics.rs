//! What a person is told about a mistake, and that nothing else stops working.

use meltemi_e2e::{Lab, eventually};

fn check(lab: &Lab, yaml: &str, parts: &[&str]) {
    let output = lab.feed(&["lab", "apply", "-f", "-"], yaml);
    for part in parts {
        assert!(
            output.stderr.contains(part),
            "the message lacks \"{part}\": {}",
            output.stderr
        );
    }
    let (status, code, _) = lab.curl(
        "deploy/productpage-v1",
        "productpage",
        &["http://reviews:9080/reviews/0"],
    );
    assert_eq!(
        (status, code.as_str()),
        (0, "200"),
        "the mesh stopped working after:\n{yaml}"
    );
}

#[test]
fn mistakes_are_explained_and_harmless() {
    let lab = Lab::bookinfo("mistakes", &[]);
    check(
        &lab,
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\n  namespace: default\nspec:\n  mtls:\n    mode: STRCT\n",
        &[
            "PeerAuthentication default/a",
            "spec.mtls.mode",
            "STRCT",
            "STRICT",
            ":8:",
        ],
    );
    check(
        &lab,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: b\n  namespace: default\nspec:\n  hosts: [b]\n  http:\n  \
         - rout:\n    - destination: {host: reviews}\n",
        &[
            "VirtualService default/b",
            "spec.http[0]",
            "rout",
            "route",
            ":9:",
        ],
    );
    check(
        &lab,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: c\n  namespace: default\nspec:\n  hosts: [ratings]\n  http:\n  \
         - match: [{uri: {prefix: /never}}]\n    route:\n    - destination: {host: reviewz}\n  - route:\n    - destination: {host: ratings}\n",
        &[
            "IST0101",
            "VirtualService default/c",
            "spec.http[0].route[0].destination",
            "reviewz",
            "reviews",
        ],
    );
    let twin = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  \
             hosts: [details]\n  http:\n  - route:\n    - destination: {{host: details}}\n"
        )
    };
    check(&lab, &twin("d1"), &[]);
    check(&lab, &twin("d2"), &["IST0109", "d1", "d2"]);
}

/// A file given to `up -f` is watched: a broken edit changes nothing, `status` tells it, and no longer once it is mended.
#[test]
fn a_broken_edit_of_a_watched_file_is_told_until_it_is_mended() {
    let lab = Lab::up("watched", &[]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("map.yaml");
    let good = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: watched\ndata:\n  a: one\n";
    std::fs::write(&file, good).unwrap();
    lab.meltemi(&["lab", "up", "-f", file.to_str().unwrap()])
        .ok();
    let faults = || {
        let status = lab.meltemi(&["lab", "status", "-o", "json"]).json();
        status["faults"].as_array().cloned().unwrap_or_default()
    };
    assert!(faults().is_empty());

    std::fs::write(&file, good.replace("a: one", "a: [two")).unwrap();
    let fault = eventually("the broken file is told", || faults().pop());
    let told = &fault["diagnostics"][0];
    assert_eq!(fault["file"], file.to_str().unwrap());
    assert_eq!(
        (&told["code"], &told["object"]["name"]),
        (&"MEL0001".into(), &"watched".into())
    );
    assert_eq!(told["location"]["line"], 6);
    let text = lab.meltemi(&["lab", "status"]).ok();
    assert!(
        text.contains("the last good content stays in force"),
        "{text}"
    );
    let live = lab.meltemi(&["lab", "get", "cm", "watched", "-o", "jsonpath={.data.a}"]);
    assert_eq!(live.ok(), "one");

    std::fs::write(&file, good.replace("one", "three")).unwrap();
    eventually("the mended file is in force", || {
        let live = lab.meltemi(&["lab", "get", "cm", "watched", "-o", "jsonpath={.data.a}"]);
        (live.ok() == "three" && faults().is_empty()).then_some(())
    });
}

/// A dry run tells what would happen, and does not.
#[test]
fn a_dry_run_changes_nothing() {
    let lab = Lab::up("dry-run", &[]);
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: dry\ndata:\n  a: one\n";
    let dry = |mode: &str| lab.feed(&["lab", "apply", mode, "-f", "-"], map).ok();
    assert_eq!(
        dry("--dry-run=server"),
        "configmap/dry created (server dry run)\n"
    );
    assert_eq!(dry("--dry-run=client"), "configmap/dry created (dry run)\n");
    assert_ne!(lab.meltemi(&["lab", "get", "cm", "dry"]).status, 0);
    lab.apply(map);
    assert_eq!(
        dry("--dry-run=server"),
        "configmap/dry unchanged (server dry run)\n"
    );
    // kubectl's flags before the verb.
    let named = lab.meltemi(&["lab", "-n", "istio-system", "get", "pods", "-o", "name"]);
    assert!(named.ok().starts_with("pod/istiod-"));
}
