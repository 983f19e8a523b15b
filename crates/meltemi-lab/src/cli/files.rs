//! What `-f` names: files, folders, standard input.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;

/// The endings of files that are read from a folder, as kubectl does.
const ENDINGS: [&str; 3] = ["yaml", "yml", "json"];

pub(super) struct Input {
    /// How diagnostics name it.
    pub(super) name: String,
    pub(super) text: String,
}

pub(super) fn read_all(paths: &[PathBuf]) -> anyhow::Result<Vec<Input>> {
    let mut inputs = Vec::new();
    for path in paths {
        if path == Path::new("-") {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .context("cannot read standard input")?;
            inputs.push(Input {
                name: "<stdin>".to_owned(),
                text,
            });
        } else if path.is_dir() {
            for file in files_of(path)? {
                inputs.push(read(&file)?);
            }
        } else {
            inputs.push(read(path)?);
        }
    }
    Ok(inputs)
}

fn read(path: &Path) -> anyhow::Result<Input> {
    let text = path.to_string_lossy();
    let is_url = text.starts_with("http://") || text.starts_with("https://");
    anyhow::ensure!(
        !is_url,
        "{text}: URLs are not read; download it first: curl -LO {text}"
    );
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(Input {
        name: path.display().to_string(),
        text,
    })
}

fn files_of(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(folder)
        .with_context(|| format!("cannot read the folder {}", folder.display()))?;
    let is_manifest = |path: &PathBuf| {
        path.extension()
            .is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
    };
    let mut files: Vec<PathBuf> = entries
        .flatten()
        .map(|entry| entry.path())
        .filter(is_manifest)
        .collect();
    files.sort();
    anyhow::ensure!(
        !files.is_empty(),
        "the folder {} holds no .yaml, .yml or .json file",
        folder.display()
    );
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_told_what_to_do_with() {
        let error = read_all(&["https://example.com/a.yaml".into()]);
        let error = error.err().map(|error| error.to_string());
        assert!(error.is_some_and(|error| error.contains("curl -LO https://example.com/a.yaml")));
    }
}
