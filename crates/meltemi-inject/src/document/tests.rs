use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;

use super::*;

fn documents(text: &str) -> Vec<Value> {
    serde_saphyr::from_multiple(text).unwrap()
}

fn inject_all(documents: &mut [Value]) -> Vec<Report> {
    let settings = settings();
    let inject = |document| inject_document(document, "default", &settings);
    documents.iter_mut().flat_map(inject).collect()
}

/// Goldens must not change with each release.
fn settings() -> InjectionSettings {
    InjectionSettings {
        proxy_image: "meltemi/proxyv2:test".to_owned(),
        init_image: "meltemi/proxyv2:test".to_owned(),
        ..InjectionSettings::default()
    }
}

fn summary(report: &Report) -> String {
    let outcome = match &report.outcome {
        Outcome::Injected => "injected".to_owned(),
        Outcome::Skipped(reason) => format!("skipped: {reason}"),
        Outcome::Rejected(diagnostics) => format!("rejected: {}", diagnostics[0]),
        Outcome::NoPods => "no pods".to_owned(),
    };
    format!("{} {outcome}", report.object)
}

/// Each `testdata/<case>.yaml` against its snapshot.
#[test]
fn goldens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut cases: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "yaml")
    });
    cases.sort();
    assert!(cases.len() >= 6);
    for case in cases {
        let mut documents = documents(&fs::read_to_string(&case).unwrap());
        let reports = inject_all(&mut documents);
        let mut text: String = reports
            .iter()
            .map(|report| format!("# {}\n", summary(report)))
            .collect();
        for report in &reports {
            for warning in &report.warnings {
                text += &format!("# {warning}\n");
            }
        }
        for document in &documents {
            text += "---\n";
            text += &serde_saphyr::to_string(document).unwrap();
        }
        let name = case.file_stem().unwrap().to_str().unwrap();
        insta::with_settings!({snapshot_path => "../../testdata", prepend_module_to_snapshot => false, omit_expression => true}, {
            insta::assert_snapshot!(name, text);
        });
        let once = documents.clone();
        inject_all(&mut documents);
        assert_eq!(documents, once, "{name}: twice is once");
    }
}

/// Istio's own samples, where the checkout of its public data is beside ours.
#[test]
fn istio_samples_are_injected_whole() {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data/istio/samples");
    if !samples.is_dir() {
        eprintln!("skipped: {} is not there", samples.display());
        return;
    }
    for (file, workloads) in [
        ("bookinfo/platform/kube/bookinfo.yaml", 6),
        ("httpbin/httpbin.yaml", 1),
        ("curl/curl.yaml", 1),
        ("helloworld/helloworld.yaml", 2),
        ("tcp-echo/tcp-echo.yaml", 1),
    ] {
        let text = fs::read_to_string(samples.join(file)).unwrap();
        let before = documents(&text);
        let mut after = before.clone();
        let reports = inject_all(&mut after);
        let injected = reports
            .iter()
            .filter(|report| report.outcome == Outcome::Injected);
        assert_eq!(injected.count(), workloads, "{file}");
        for (before, mut after) in before.into_iter().zip(after) {
            if let Some(template) = after.pointer_mut("/spec/template") {
                let mut pod: Pod = serde_json::from_value(template.clone()).unwrap();
                assert!(crate::uninject(&mut pod), "{file}");
                let original: Pod =
                    serde_json::from_value(before["spec"]["template"].clone()).unwrap();
                assert_eq!(pod.spec, original.spec, "{file}");
                *template = before["spec"]["template"].clone();
            }
            assert_eq!(
                after, before,
                "{file}: nothing outside the template changed"
            );
        }
    }
}

#[test]
fn lists_and_strangers_are_kept() {
    let deployment = |extra: Value| {
        json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "shop"}, "status": {"x": 1},
        "spec": {"template": {"metadata": {"creationTimestamp": null}, "spec": {"fromTheFuture": extra, "containers": [
            {"name": "c", "futureField": 1}, {"name": "d"}
        ]}}}})
    };
    let stranger =
        json!({"apiVersion": "x/v1", "kind": "Thing", "spec": {"template": {"spec": {}}}});
    let mut list = json!({"apiVersion": "v1", "kind": "List", "items": [deployment(json!([1])), stranger.clone()]});
    let reports = inject_document(&mut list, "default", &settings());
    let summaries: Vec<String> = reports.iter().map(summary).collect();
    assert_eq!(
        summaries,
        ["Deployment shop/a injected", "Thing default/ no pods"]
    );
    assert_eq!(list["items"][1], stranger);
    let spec = &list["items"][0]["spec"]["template"]["spec"];
    assert_eq!(spec["fromTheFuture"], json!([1]));
    assert_eq!(
        spec["containers"][0],
        json!({"name": "c", "futureField": 1})
    );
    assert_eq!(list["items"][0]["status"], json!({"x": 1}));
}

#[test]
fn typed_lists_need_no_kind_in_their_items() {
    let mut list = json!({"kind": "DeploymentList", "apiVersion": "apps/v1", "items": [
        {"metadata": {"name": "a"}, "spec": {"template": {"spec": {"containers": [{"name": "c"}]}}}}
    ]});
    let reports = inject_document(&mut list, "default", &settings());
    assert_eq!(summary(&reports[0]), "Deployment default/a injected");
}

#[test]
fn broken_and_unwilling_objects_stay_as_they_are() {
    let check = |spec: Value, expected: &str| {
        let before =
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec});
        let mut after = before.clone();
        let reports = inject_document(&mut after, "default", &settings());
        assert!(
            summary(&reports[0]).starts_with(expected),
            "{}",
            summary(&reports[0])
        );
        assert_eq!(after, before);
    };
    check(
        json!({"hostNetwork": true, "containers": []}),
        "Pod default/p skipped: the pod uses the node's network",
    );
    check(
        json!({"containers": "none"}),
        "Pod default/p rejected: error IST0106: the pod cannot be read: ",
    );
}
