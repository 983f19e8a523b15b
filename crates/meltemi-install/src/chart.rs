//! The Helm charts below `manifests/charts`, made from what the crate makes: of each object a template, in which expressions
//! stand where values do. So a chart has no shape of its own to keep.
//!
//! ```text
//! values that are easy to see -> generate -> Object + places and their expressions -> templates/*.yaml
//! types of Values, MeshConfig, UNREAD                                              -> values.schema.json
//! definitions                                                                      -> base/files/crd-all.gen.yaml
//! ```
//! Helpers that expressions call, and notes, are written by hand (`_helpers.tpl`, `NOTES.txt`). Whether Helm makes the same
//! objects as [`crate::generate`] is tested with Helm. The chart `gateway` is by hand, but for its schema.

mod cases;
mod emit;
mod gateway;
mod helm;
mod schema;
mod templates;

use std::path::PathBuf;

use crate::{definitions, yaml};

const BASE: &str = "base";
const ISTIOD: &str = "istio-control/istio-discovery";
const GATEWAY: &str = "gateway";
/// The first line of what is made.
const MADE: &str = "Made from the crate meltemi-install; UPDATE_GOLDEN=1 cargo test -p meltemi-install chart makes it anew.";

/// A file of a chart.
fn path(chart: &str, file: &str) -> PathBuf {
    let charts = concat!(env!("CARGO_MANIFEST_DIR"), "/../../manifests/charts");
    PathBuf::from(charts).join(chart).join(file)
}

/// Every made file: chart, place, and what it holds.
fn made() -> Vec<(&'static str, String, String)> {
    let mut files = Vec::new();
    for (name, description) in [
        (BASE, "The definitions of a Meltemi service mesh"),
        (ISTIOD, "The control plane of a Meltemi service mesh"),
        (GATEWAY, "A gateway of a Meltemi service mesh"),
    ] {
        files.push((name, "Chart.yaml".to_owned(), about(name, description)));
    }
    files.push((BASE, "values.schema.json".to_owned(), schema::base()));
    files.push((ISTIOD, "values.schema.json".to_owned(), schema::istiod()));
    files.push((GATEWAY, "values.schema.json".to_owned(), schema::gateway()));
    let unread = templates::unread();
    files.push((ISTIOD, "templates/_unread.tpl".to_owned(), unread));
    for (file, text) in templates::all() {
        files.push((ISTIOD, format!("templates/{file}.yaml"), text));
    }
    let objects = definitions().into_iter();
    let objects: Vec<_> = objects
        .map(|definition| crate::Object::of(&definition).unwrap())
        .collect();
    let text = format!("# {MADE}\n{}", yaml(&objects).unwrap());
    files.push((BASE, "files/crd-all.gen.yaml".to_owned(), text));
    files
}

fn about(chart: &str, description: &str) -> String {
    let name = if chart == ISTIOD { "istiod" } else { chart };
    let version = env!("CARGO_PKG_VERSION");
    format!(
        "# {MADE}\napiVersion: v2\nname: {name}\ndescription: {description}\ntype: application\nversion: {version}\nappVersion: {version}\n\
         keywords:\n  - istio\n  - service mesh\n"
    )
}

#[test]
fn golden_what_is_made_is_what_is_there() {
    let mut stale = Vec::new();
    for (chart, file, text) in made() {
        let path = path(chart, &file);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        if std::fs::read_to_string(&path).ok() != Some(text) {
            stale.push(path.display().to_string());
        }
    }
    assert!(
        stale.is_empty(),
        "these are not what is made (UPDATE_GOLDEN=1 writes them): {stale:#?}"
    );
}

#[test]
fn golden_there_is_no_file_that_nobody_makes_or_reads() {
    let by_hand = [
        "templates/_helpers.tpl",
        "templates/NOTES.txt",
        "templates/crds.yaml",
        "values.yaml",
    ];
    for chart in [BASE, ISTIOD] {
        let made = made().into_iter().filter(|(of, ..)| *of == chart);
        let mut known: Vec<String> = made.map(|(_, file, _)| file).collect();
        known.extend(by_hand.map(str::to_owned));
        for folder in ["", "templates", "files"] {
            let entries = std::fs::read_dir(path(chart, folder)).into_iter().flatten();
            for entry in entries.flatten().filter(|entry| entry.path().is_file()) {
                let name = entry.file_name().into_string().unwrap();
                let file = if folder.is_empty() {
                    name
                } else {
                    format!("{folder}/{name}")
                };
                assert!(known.contains(&file), "{chart}/{file}");
            }
        }
    }
}
