//! Container images from programs of this machine, as OCI archives that `ctr images import` reads.
//!
//! An image has one layer: the programs, the shared libraries that they load, and links. There is no registry and no base
//! image; what a container needs besides its program is added by path.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::process;
use crate::tar::{self, Kind};

/// `ldd` and `sha256sum` on files of a few hundred megabytes.
const TOOL_LIMIT: Duration = Duration::from_secs(60);

/// What an image shall hold.
#[derive(Clone, Debug, Default)]
pub struct Image {
    /// With registry and tag, such as `meltemi.test/echo:1`. A registry keeps containerd from asking a public one.
    pub name: String,
    /// Path in the image, and the file of this machine.
    pub files: BTreeMap<String, PathBuf>,
    /// Path in the image, and where it leads.
    pub links: BTreeMap<String, String>,
    pub entrypoint: Vec<String>,
    /// What a pod's `args` replace.
    pub args: Vec<String>,
    pub env: Vec<String>,
    /// `uid` or `uid:gid`; root otherwise.
    pub user: Option<String>,
}

impl Image {
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            ..Self::default()
        }
    }

    /// Adds a program and makes it the command, unless there is one.
    #[must_use]
    pub fn program(mut self, at: &str, file: &Path) -> Self {
        if self.entrypoint.is_empty() {
            self.entrypoint = vec![format!("/{at}")];
        }
        self.file(at, file)
    }

    #[must_use]
    pub fn file(mut self, at: &str, file: &Path) -> Self {
        self.files.insert(at.to_owned(), file.to_owned());
        self
    }

    #[must_use]
    pub fn link(mut self, at: &str, target: &str) -> Self {
        self.links.insert(at.to_owned(), target.to_owned());
        self
    }

    /// Writes the archive.
    ///
    /// # Errors
    /// A file cannot be read, or the archive cannot be written.
    pub async fn write(&self, archive: &Path) -> Result<()> {
        ensure!(
            self.name.contains('/') && self.name.contains(':'),
            "image \"{}\": a name has a registry and a tag",
            self.name
        );
        let mut image = self.clone();
        for (path, file) in libraries(self.files.values()).await? {
            image.files.entry(path).or_insert(file);
        }
        let scratch = archive.with_extension("layer");
        image
            .write_layer(&scratch)
            .with_context(|| format!("the layer of {}", self.name))?;
        let digest = sha256(&scratch).await?;
        let written = image.write_archive(archive, &scratch, &digest).await;
        fs::remove_file(&scratch)
            .with_context(|| format!("cannot remove {}", scratch.display()))?;
        written
    }

    fn write_layer(&self, path: &Path) -> Result<()> {
        let file = fs::File::create(path)?;
        let mut out = BufWriter::new(file);
        for folder in self.folders() {
            let mode = if folder == "tmp" { 0o1777 } else { 0o755 };
            tar::append(&mut out, &format!("{folder}/"), mode, Kind::Folder)?;
        }
        for (at, file) in &self.files {
            let content =
                fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
            tar::append(&mut out, at, 0o755, Kind::File(&content))?;
        }
        for (at, target) in &self.links {
            tar::append(&mut out, at, 0o777, Kind::Symlink(target))?;
        }
        tar::finish(&mut out)?;
        Ok(out.flush()?)
    }

    /// Every folder that an entry lies in, outer ones first, and a few that programs expect.
    fn folders(&self) -> BTreeSet<String> {
        let expected = ["tmp", "etc", "run", "var", "proc", "sys", "dev"].map(str::to_owned);
        let mut folders = BTreeSet::from(expected);
        for path in self.files.keys().chain(self.links.keys()) {
            let parents = Path::new(path).ancestors().skip(1);
            folders.extend(
                parents
                    .map(|parent| parent.to_string_lossy().into_owned())
                    .filter(|parent| !parent.is_empty()),
            );
        }
        folders
    }

    async fn write_archive(&self, archive: &Path, layer: &Path, digest: &str) -> Result<()> {
        let layer = fs::read(layer).context("cannot read the layer")?;
        let config = self.config(digest).to_string().into_bytes();
        let config_digest = sha256_of(&config, archive).await?;
        let manifest = manifest((&config_digest, config.len()), (digest, layer.len()))
            .to_string()
            .into_bytes();
        let manifest_digest = sha256_of(&manifest, archive).await?;
        let index = index(&self.name, (&manifest_digest, manifest.len())).to_string();
        let layout = json!({"imageLayoutVersion": "1.0.0"}).to_string();

        // Renamed at the end: a reader never sees half of an archive.
        let part = archive.with_extension("part");
        let mut out = BufWriter::new(
            fs::File::create(&part).with_context(|| format!("cannot write {}", part.display()))?,
        );
        tar::append(&mut out, "oci-layout", 0o644, Kind::File(layout.as_bytes()))?;
        tar::append(&mut out, "index.json", 0o644, Kind::File(index.as_bytes()))?;
        for (digest, content) in [
            (config_digest.as_str(), &config),
            (&manifest_digest, &manifest),
            (digest, &layer),
        ] {
            let path = format!("blobs/sha256/{digest}");
            tar::append(&mut out, &path, 0o644, Kind::File(content))?;
        }
        tar::finish(&mut out)?;
        out.flush()?;
        fs::rename(&part, archive).with_context(|| format!("cannot write {}", archive.display()))
    }

    /// The image configuration (OCI image specification, "Image Configuration").
    fn config(&self, layer_digest: &str) -> Value {
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned();
        let env: Vec<&String> = std::iter::once(&path).chain(&self.env).collect();
        json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {
                "Env": env,
                "Entrypoint": self.entrypoint,
                "Cmd": self.args,
                "User": self.user.as_deref().unwrap_or_default(),
                "WorkingDir": "/",
            },
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer_digest}")]},
        })
    }
}

fn manifest(config: (&str, usize), layer: (&str, usize)) -> Value {
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("application/vnd.oci.image.config.v1+json", config),
        "layers": [descriptor("application/vnd.oci.image.layer.v1.tar", layer)],
    })
}

fn index(name: &str, manifest: (&str, usize)) -> Value {
    let mut manifest = descriptor("application/vnd.oci.image.manifest.v1+json", manifest);
    // The annotation that containerd takes the image's name from.
    manifest["annotations"] = json!({"io.containerd.image.name": name});
    json!({"schemaVersion": 2, "manifests": [manifest]})
}

fn descriptor(media_type: &str, (digest, size): (&str, usize)) -> Value {
    json!({"mediaType": media_type, "digest": format!("sha256:{digest}"), "size": size})
}

/// As Go, and with it an image, spells this machine's architecture.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The shared libraries of programs: path in an image, and the file.
async fn libraries(files: impl Iterator<Item = &PathBuf>) -> Result<BTreeMap<String, PathBuf>> {
    let mut found = BTreeMap::new();
    for file in files {
        if !is_elf(file)? {
            continue;
        }
        let mut ldd = Command::new("ldd");
        ldd.arg(file);
        // ldd fails for a static program, which needs nothing.
        let Ok(output) = process::run(ldd, "", TOOL_LIMIT).await else {
            continue;
        };
        for path in parse_ldd(&output) {
            found.insert(path.trim_start_matches('/').to_owned(), PathBuf::from(path));
        }
    }
    Ok(found)
}

fn is_elf(file: &Path) -> Result<bool> {
    use std::io::Read as _;
    let mut magic = Vec::new();
    fs::File::open(file)
        .and_then(|file| file.take(4).read_to_end(&mut magic))
        .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(magic == b"\x7fELF")
}

/// The paths in lines such as `libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn parse_ldd(output: &str) -> Vec<&str> {
    output
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
        .collect()
}

async fn sha256_of(content: &[u8], beside: &Path) -> Result<String> {
    let scratch = beside.with_extension("scratch");
    fs::write(&scratch, content).with_context(|| format!("cannot write {}", scratch.display()))?;
    let digest = sha256(&scratch).await;
    fs::remove_file(&scratch).with_context(|| format!("cannot remove {}", scratch.display()))?;
    digest
}

/// From coreutils, so that this crate names no provider of cryptography for three sums.
async fn sha256(file: &Path) -> Result<String> {
    let mut command = Command::new("sha256sum");
    command.arg("--").arg(file);
    let output = process::run(command, "", TOOL_LIMIT).await?;
    let digest = output.split_whitespace().next();
    digest
        .map(str::to_owned)
        .context("sha256sum printed nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ldd_names_libraries_and_the_loader() {
        let output = "\tlinux-vdso.so.1 (0x1)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x2)\n\t/lib64/ld.so.2 (0x3)\n";
        assert_eq!(parse_ldd(output), ["/lib/x/libc.so.6", "/lib64/ld.so.2"]);
    }

    #[test]
    fn every_folder_of_an_entry_comes_before_it() {
        let image = Image::new("a/b:1").file("usr/lib/x/y", Path::new("/y"));
        let folders: Vec<String> = image.folders().into_iter().collect();
        let at = |name: &str| folders.iter().position(|folder| folder == name).unwrap();
        assert!(at("usr") < at("usr/lib") && at("usr/lib") < at("usr/lib/x"));
    }

    #[tokio::test]
    async fn an_archive_names_its_image_and_lists_its_blobs() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("program");
        fs::write(&program, "#!/bin/sh\n").unwrap();
        let archive = folder.path().join("image.tar");
        let image = Image::new("meltemi.test/x:1").program("bin/x", &program);
        image.write(&archive).await.unwrap();

        let mut tar = Command::new("tar");
        tar.arg("-tf").arg(&archive);
        let entries = process::run(tar, "", TOOL_LIMIT).await.unwrap();
        assert_eq!(entries.lines().count(), 5, "{entries}");
        let mut tar = Command::new("tar");
        tar.arg("-xOf").arg(&archive).arg("index.json");
        let index = process::run(tar, "", TOOL_LIMIT).await.unwrap();
        assert!(index.contains("meltemi.test/x:1"), "{index}");
    }
}
