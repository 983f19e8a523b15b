//! What a real API server says of the objects of an installation, and by our definitions of users' objects. It needs one:
//!
//!     cargo xtask kube up && eval "$(cargo xtask kube env)"
//!     cargo test --workspace --test api_server -- --ignored
//!
//! `cargo xtask kube test` runs them, too.
#![allow(clippy::unwrap_used, reason = "a test ends where something fails")]

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use meltemi_api::Kind;
use meltemi_install::{Layer, Object, Values, generate, yaml};
use serde_json::{Value, json};

const VERDICTS: &str = include_str!("../testdata/verdicts.yaml");

fn kubectl(words: &[&str], input: &str) -> Output {
    let mut child = Command::new("kubectl")
        .arg("--request-timeout=30s")
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).unwrap();
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn succeeds(words: &[&str], input: &str) {
    let output = kubectl(words, input);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "kubectl {words:?}: {said}");
}

fn objects(set: &[&str]) -> Vec<Object> {
    let set = set.iter().map(|text| Layer::Set((*text).to_owned()));
    let (values, _) = Values::read(&set.collect::<Vec<_>>()).unwrap();
    generate(&values).unwrap()
}

/// The definitions, served.
fn define() {
    let mut definitions = objects(&[]);
    definitions.retain(|object| object.kind == "CustomResourceDefinition");
    succeeds(&["apply", "-f", "-"], &yaml(&definitions).unwrap());
    for definition in &definitions {
        let name = format!("crd/{}", definition.name);
        let wait = ["wait", "--for=condition=Established", "--timeout=30s"];
        succeeds(&[&wait[..], &[&name]].concat(), "");
    }
}

#[test]
#[ignore = "needs a cluster"]
fn every_object_of_an_installation_is_accepted() {
    // `default` is there in every cluster.
    let namespace = "global.istioNamespace=default";
    for set in [&[namespace][..], &[namespace, "revision=canary"]] {
        let text = yaml(&objects(set)).unwrap();
        succeeds(&["apply", "--dry-run=server", "-f", "-"], &text);
    }
}

#[test]
#[ignore = "needs a cluster"]
fn what_istio_accepts_is_accepted_and_what_it_rejects_is_rejected() {
    define();
    let cases: Vec<Value> = serde_saphyr::from_str(VERDICTS).unwrap();
    let mut wrong = Vec::new();
    for case in &cases {
        let kinds = Kind::ALL.iter();
        let mut kinds = kinds.filter(|kind| kind.is_istio());
        let kind = kinds.find(|kind| case["kind"] == kind.as_str()).unwrap();
        for version in kind.versions() {
            let mut object = json!({
                "apiVersion": format!("{}/{version}", kind.group()),
                "kind": kind.as_str(),
                "metadata": {"name": "verdict", "namespace": "default"},
            });
            if !case["spec"].is_null() {
                object["spec"] = case["spec"].clone();
            }
            let create = ["create", "--dry-run=server", "-f", "-"];
            let output = kubectl(&create, &object.to_string());
            if output.status.success() != (case["accepted"] == true) {
                let said = String::from_utf8_lossy(&output.stderr);
                wrong.push(format!("{object}: {said}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
