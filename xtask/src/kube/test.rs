//! `cargo xtask kube test`: the end-to-end tests of a mesh in Kubernetes, on a cluster of their own.

use std::path::PathBuf;

use super::{images, testbed};
use crate::shell;

/// The folder of the tests' cluster in the cache, beside a person's own.
const CLUSTER: &str = "kube-test";
/// Manifests whose images the tests need, below Istio's samples or our own.
const MANIFESTS: [&str; 3] = [
    "bookinfo/platform/kube/bookinfo.yaml",
    "curl/curl.yaml",
    "httpbin/httpbin.yaml",
];

/// `[FILTER]...`: brings a cluster up, loads the images, runs the tests, and takes the cluster down.
///
/// # Errors
/// The cluster does not start, or a test fails.
pub(super) fn run(filters: &[String]) -> Result<(), String> {
    let folder = shell::cache_dir().join(CLUSTER);
    testbed(&["down".to_owned()], &folder)?;
    testbed(&["up".to_owned()], &folder)?;
    let manifests = MANIFESTS.iter().flat_map(|path| manifest(path));
    let manifests: Vec<String> = manifests.map(|path| path.display().to_string()).collect();
    let tested = images::run(&manifests, &folder).and_then(|()| {
        // What definitions alone say is asked before there is a webhook that says more.
        let mut verdicts = shell::cargo();
        let ignored = [
            "test",
            "--locked",
            "--workspace",
            "--test",
            "api_server",
            "--",
            "--ignored",
        ];
        verdicts
            .args(ignored)
            .args(["--test-threads=1"])
            .args(filters);
        verdicts.env("KUBECONFIG", folder.join("admin.kubeconfig"));
        verdicts.env("KUBECACHEDIR", folder.join("kubectl"));
        shell::run(&mut verdicts)?;
        let programs = shell::target_dir()?.join("debug");
        let mut tests = shell::cargo();
        tests.args([
            "test",
            "--locked",
            "-p",
            "meltemi-e2e",
            "--test",
            "kube",
            "--",
        ]);
        tests.args(["--test-threads=1"]).args(filters);
        tests.env("KUBECONFIG", folder.join("admin.kubeconfig"));
        tests.env("KUBECACHEDIR", folder.join("kubectl"));
        tests.env("MELTEMI_PROGRAMS", programs);
        shell::run(&mut tests)
    });
    testbed(&["down".to_owned()], &folder)?;
    tested
}

/// Istio's own manifest where it is at hand, and ours.
fn manifest(path: &str) -> Vec<PathBuf> {
    let root = shell::project_root();
    let theirs = root.join("../shared/data/istio/samples").join(path);
    let ours = root.join("samples").join(path);
    [theirs, ours]
        .into_iter()
        .filter(|file| file.is_file())
        .collect()
}
