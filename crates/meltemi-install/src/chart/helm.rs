//! Whether Helm makes of the charts what we make.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;

use super::cases::{CASES, Case, REFUSED};
use super::{BASE, GATEWAY, ISTIOD, path};
use crate::{Layer, Object, Values, generate};

const IS_DEFINITION: &str = "CustomResourceDefinition";

/// `cargo xtask test` makes Helm and says where it is.
pub(super) fn helm(words: &[&str]) -> Output {
    let program = std::env::var_os("HELM_BINARY").unwrap_or_else(|| "helm".into());
    let started = Command::new(&program).args(words).output();
    started.unwrap_or_else(|error| {
        panic!(
            "{}: {error}; set HELM_BINARY, as `cargo xtask test` does",
            program.display()
        )
    })
}

fn render(chart: &str, case: &Case) -> Output {
    let merged = Values::merged(&case.layers());
    let namespace = merged.map(|values| values["global"]["istioNamespace"].clone());
    let namespace = namespace
        .ok()
        .and_then(|name| Some(name.as_str()?.to_owned()));
    let namespace = namespace.unwrap_or_else(|| "istio-system".to_owned());
    let chart = path(chart, "").display().to_string();
    let file = values_file(case.file);
    let file = file.display().to_string();
    let mut words = vec!["template", "istiod", &chart, "-n", &namespace, "-f", &file];
    for set in case.set {
        words.extend(["--set", set]);
    }
    let output = helm(&words);
    std::fs::remove_file(&file).unwrap();
    output
}

fn values_file(text: &str) -> PathBuf {
    use std::sync::atomic::{AtomicU32, Ordering};
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let (process, count) = (std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
    let file = std::env::temp_dir().join(format!("meltemi-values-{process}-{count}.yaml"));
    std::fs::write(&file, text).unwrap();
    file
}

/// By kind and name. A text that is YAML or JSON is what it means.
fn by_name(objects: impl IntoIterator<Item = Value>) -> BTreeMap<String, Value> {
    let named = objects.into_iter().map(|mut object| {
        let data = object.get_mut("data").and_then(Value::as_object_mut);
        for (_, text) in data.into_iter().flatten() {
            *text = serde_saphyr::from_str(text.as_str().unwrap()).unwrap();
        }
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let meta = &object["metadata"];
        let (namespace, name) = (text(&meta["namespace"]), text(&meta["name"]));
        (
            format!("{} {namespace}/{name}", text(&object["kind"])),
            object,
        )
    });
    named.collect()
}

pub(super) fn rendered(output: &Output) -> BTreeMap<String, Value> {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let documents: Vec<Option<Value>> = serde_saphyr::from_multiple(&text).unwrap();
    by_name(documents.into_iter().flatten())
}

fn made(layers: &[Layer], is_definition: bool) -> BTreeMap<String, Value> {
    let objects = generate(&Values::read(layers).unwrap().0).unwrap();
    let of_chart = |object: &Object| (object.kind == IS_DEFINITION) == is_definition;
    let objects = objects.into_iter().filter(of_chart);
    by_name(objects.map(|object| object.content))
}

#[test]
fn helm_makes_the_same_objects() {
    for case in CASES {
        let (theirs, ours) = (rendered(&render(ISTIOD, case)), made(&case.layers(), false));
        let names = |objects: &BTreeMap<String, Value>| -> Vec<String> {
            objects.keys().cloned().collect()
        };
        let said = format!("{} {:?}", case.file, case.set);
        assert_eq!(names(&theirs), names(&ours), "{said}");
        for (name, theirs) in &theirs {
            assert_eq!(*theirs, ours[name], "{said}: {name}");
        }
    }
}

#[test]
fn helm_makes_the_same_definitions() {
    let case = &CASES[0];
    assert_eq!(rendered(&render(BASE, case)), made(&case.layers(), true));
}

#[test]
fn helm_refuses_what_we_refuse_and_says_where() {
    for (set, word) in REFUSED {
        let layer = Layer::Set((*set).to_owned());
        let ours = Values::read(&[layer]).unwrap_err().to_string();
        assert!(ours.contains(word), "{set}: {ours}");
        let chart = path(ISTIOD, "").display().to_string();
        let output = helm(&[
            "template",
            "istiod",
            &chart,
            "-n",
            "istio-system",
            "--set",
            set,
        ]);
        let theirs = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{set}");
        assert!(theirs.contains(word), "{set}: {theirs}");
    }
}

#[test]
fn helm_refuses_a_namespace_that_values_do_not_name() {
    let chart = path(ISTIOD, "").display().to_string();
    let output = helm(&["template", "istiod", &chart, "-n", "mesh"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        said.contains("add --set global.istioNamespace=mesh"),
        "{said}"
    );
}

#[test]
fn helm_finds_nothing_wrong_with_the_charts() {
    for chart in [BASE, ISTIOD, GATEWAY] {
        let chart = path(chart, "").display().to_string();
        let output = helm(&["lint", "--strict", "-n", "istio-system", &chart]);
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }
}
