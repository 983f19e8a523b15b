//! Files that somebody put into the control plane's folder by hand: as they stand in it beside the lab's own.

use std::fs;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::faults::{of_failure, of_report};
use super::watch::is_manifest;
use crate::cluster::Handle;
use crate::wire::{Fault, Report};

/// The broken ones.
pub(super) async fn faults(cluster: &Handle, folder: &Path) -> Vec<Fault> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let files = entries.flatten().map(|entry| entry.path());
    let files: Vec<PathBuf> = files.filter(|file| is_manifest(file)).collect();
    let foreign = cluster.call(move |cluster| {
        let mut files = files;
        files.retain(|file| !cluster.wrote(file));
        files
    });
    let mut foreign = foreign.await.unwrap_or_default();
    foreign.sort();
    foreign.iter().filter_map(|file| fault(file)).collect()
}

fn fault(file: &Path) -> Option<Fault> {
    let diagnostics = match fs::read_to_string(file) {
        Ok(text) => {
            let parsed = meltemi_api::parse(&file.display().to_string(), &text, "default");
            of_report(&Report {
                diagnostics: parsed.diagnostics,
                ..Report::default()
            })
        }
        // It went while it was looked at.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => vec![of_failure(file, &error)],
    };
    let written = fs::metadata(file).and_then(|file| file.modified()).ok();
    let since = written.and_then(|time| Timestamp::try_from(time).ok());
    let since = since.and_then(|since| Timestamp::from_second(since.as_second()).ok());
    (!diagnostics.is_empty()).then(|| Fault {
        file: file.to_owned(),
        since: since.unwrap_or_default().to_string(),
        diagnostics,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_broken_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let good = "{apiVersion: v1, kind: ConfigMap, metadata: {name: a}}";
        assert_eq!(fault(&file("good.yaml", good)), None);
        let broken = file("broken.yaml", "a: [");
        let found = fault(&broken).unwrap();
        assert_eq!((found.file, found.diagnostics.len()), (broken, 1));
        assert!(found.since.parse::<Timestamp>().is_ok());
    }
}
