//! `cargo xtask kube test`: the end-to-end tests of a mesh in Kubernetes, on a cluster of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{images, testbed};
use crate::{setup, shell};

/// The folder of the tests' cluster in the cache, beside a person's own.
const CLUSTER: &str = "kube-test";
/// Manifests whose images the tests need, below Istio's samples or our own.
const MANIFESTS: [&str; 3] = [
    "bookinfo/platform/kube/bookinfo.yaml",
    "curl/curl.yaml",
    "httpbin/httpbin.yaml",
];

/// A test program that needs a cluster.
struct Tier {
    packages: &'static [&'static str],
    program: &'static str,
    options: &'static [&'static str],
}

const TIERS: [Tier; 3] = [
    Tier {
        packages: &["--workspace"],
        program: "api_server",
        options: &["--ignored"],
    },
    Tier {
        packages: &["-p", "meltemi-e2e"],
        program: "kube",
        options: &[],
    },
    // What leaves less of the cluster than it found.
    Tier {
        packages: &["-p", "meltemi-e2e"],
        program: "kube",
        options: &["--ignored"],
    },
];

/// `[FILTER]...`: brings a cluster up, loads the images, runs the tests, and takes the cluster down.
///
/// # Errors
/// The cluster does not start, or a test fails.
pub(super) fn run(filters: &[String]) -> Result<(), String> {
    run_with(filters, &mut |tests| shell::run(tests))
}

/// The same, with somebody who runs each `cargo test` and remembers what it shows.
///
/// # Errors
/// The cluster does not start, or what `run_tests` says.
pub(crate) fn run_with(
    filters: &[String],
    run_tests: &mut dyn FnMut(&mut Command) -> Result<(), String>,
) -> Result<(), String> {
    let folder = shell::cache_dir().join(CLUSTER);
    let helm = setup::helm()?;
    testbed(&["down".to_owned()], &folder)?;
    testbed(&["up".to_owned()], &folder)?;
    let tested = load_images(&folder).and_then(|()| {
        // What definitions alone say is asked before there is a webhook that says more.
        for tier in TIERS {
            let mut tests = tests(&tier, filters);
            tests.env("KUBECONFIG", folder.join("admin.kubeconfig"));
            tests.env("KUBECACHEDIR", folder.join("kubectl"));
            tests.env("MELTEMI_PROGRAMS", shell::target_dir()?.join("debug"));
            tests.env("MELTEMI_KUBE_DIR", &folder);
            tests.env("HELM_BINARY", &helm);
            run_tests(&mut tests)?;
        }
        Ok(())
    });
    testbed(&["down".to_owned()], &folder)?;
    tested
}

/// Whether a test that needs a cluster has one of these words in its name.
///
/// # Errors
/// The tests cannot be built.
pub(crate) fn any_named(filters: &[String]) -> Result<bool, String> {
    for tier in TIERS {
        let mut list = tests(&tier, filters);
        list.arg("--list");
        if shell::output(&mut list)?.contains(": test") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `cargo test` for a tier's tests with one of these words in their names.
fn tests(tier: &Tier, filters: &[String]) -> Command {
    let mut tests = shell::cargo();
    tests.args(["test", "--locked", "--no-fail-fast"]);
    tests.args(tier.packages).args(["--test", tier.program]);
    tests.args(["--", "--test-threads=1"]);
    tests.args(tier.options).args(filters);
    tests
}

fn load_images(folder: &Path) -> Result<(), String> {
    let manifests = MANIFESTS.iter().flat_map(|path| manifest(path));
    let manifests: Vec<String> = manifests.map(|path| path.display().to_string()).collect();
    images::run(&manifests, folder)
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
