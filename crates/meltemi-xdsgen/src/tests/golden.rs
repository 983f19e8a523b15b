//! `testdata/<case>/in.yaml` -> `out.<type>.yaml`. `UPDATE_GOLDEN=1` writes them anew; review the difference like code.
//!
//! The first line of an input says whose configuration it is: `# proxy: <deployment> <meltemi|envoy> [router]`; a second one
//! may give MeshConfig: `# mesh: {...}`.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::support::{World, to_json};
use crate::{Flavour, Kind, ProxyView, Role, generate};

#[test]
fn goldens_hold() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata");
    let mut cases: Vec<PathBuf> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    cases.sort();
    assert!(!cases.is_empty());
    let failures: Vec<String> = cases.iter().flat_map(|case| check(case)).collect();
    assert!(
        failures.is_empty(),
        "these differ (UPDATE_GOLDEN=1 accepts): {failures:#?}"
    );
}

fn check(case: &Path) -> Vec<String> {
    let input = fs::read_to_string(case.join("in.yaml")).unwrap();
    let header = input.lines().next().unwrap();
    let header = header
        .strip_prefix("# proxy: ")
        .expect("a first line that names the proxy");
    let words: Vec<&str> = header.split(' ').collect();
    let (pod, flavour, role) = match words[..] {
        [pod, flavour] => (pod, flavour, Role::Sidecar),
        [pod, flavour, "router"] => (pod, flavour, Role::Router),
        _ => panic!("unknown words {words:?}"),
    };
    let flavour = match flavour {
        "meltemi" => Flavour::Meltemi,
        "envoy" => Flavour::Envoy,
        other => panic!("unknown flavour {other}"),
    };
    let mesh = input.lines().nth(1);
    let mesh = mesh.and_then(|line| line.strip_prefix("# mesh: "));
    let world = World::new(&input).config(mesh.unwrap_or("{}"));
    let view = ProxyView {
        role,
        ..world.view(pod, flavour)
    };
    let generated = generate(&view, &world.mesh.snapshot());
    let mut failures = Vec::new();
    for (kind, name) in [
        (Kind::Cluster, "clusters"),
        (Kind::Endpoints, "endpoints"),
        (Kind::Listener, "listeners"),
        (Kind::Route, "routes"),
    ] {
        let all: Vec<Value> = generated.of(kind).values().map(|r| to_json(r)).collect();
        let text = serde_saphyr::to_string(&all).unwrap();
        let path = case.join(format!("out.{name}.yaml"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&path, &text).unwrap();
        } else if fs::read_to_string(&path).ok().as_deref() != Some(&text) {
            failures.push(path.display().to_string());
        }
    }
    failures
}
