//! Builds the programs of `testbed/kube` into the user's cache, once for each content of the module and version of Go.

use std::collections::VecDeque;
use std::fs;
use std::hash::Hasher as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;
use tokio::time::{Instant, timeout};

use crate::config::PAUSE_IMAGE;
use crate::image::Image;
use crate::manifests::DNS_IMAGE;
use crate::process;

/// A first build takes ten minutes of two cores, and the download of its modules some more.
const BUILD_LIMIT: Duration = Duration::from_secs(60 * 60);
const GO_LIMIT: Duration = Duration::from_secs(60);
const PROGRESS_INTERVAL: Duration = Duration::from_secs(15);
/// What a folder is called while it is built, followed by the builder's process number.
const PART: &str = "kube-part-";
/// How much of the compiler's output an error shows.
const LINES_SHOWN: usize = 30;

/// A folder with the programs and the images of a cluster's own pods.
#[derive(Clone, Debug)]
pub struct Programs {
    folder: PathBuf,
}

impl Programs {
    pub fn at(folder: PathBuf) -> Self {
        Self { folder }
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The control plane and the node, chosen by the first argument.
    pub(crate) fn kube(&self) -> PathBuf {
        self.folder.join("kube")
    }

    pub(crate) fn pause(&self) -> PathBuf {
        self.folder.join("pause")
    }

    /// A name as the container runtime looks it up: with a registry and a tag.
    ///
    /// # Errors
    /// It is no name of an image.
    pub async fn image_name(&self, name: &str) -> Result<String> {
        let mut command = Command::new(self.kube());
        command.args(["image-names", name]);
        let output = process::run(command, "", GO_LIMIT).await?;
        Ok(output.trim().to_owned())
    }

    /// Archives that every node has from its start.
    pub(crate) fn images(&self) -> [PathBuf; 2] {
        ["pause.tar", "coredns.tar"].map(|name| self.folder.join(name))
    }

    /// Builds what the cache does not hold.
    ///
    /// # Errors
    /// Go is missing or too old, a module cannot be had, or the build fails.
    pub async fn ensure(module: &Path, cache: &Path, say: impl Fn(&str)) -> Result<Self> {
        let go = go_version(module).await?;
        let folder = cache.join(format!("kube-{}", key(module, &go)?));
        if folder.is_dir() {
            return Ok(Self::at(folder));
        }
        remove_abandoned(cache)?;
        // Under another name until it is whole; two builds at once do not meet.
        let part = cache.join(format!("{PART}{}", std::process::id()));
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        let built = build_all(module, &part, say).await;
        let renamed = built.and_then(|()| {
            let renamed = fs::rename(&part, &folder);
            // Somebody else was faster, with the same result.
            if renamed.is_err() && folder.is_dir() {
                return Ok(fs::remove_dir_all(&part)?);
            }
            renamed.with_context(|| format!("cannot make {}", folder.display()))
        });
        if renamed.is_err() {
            fs::remove_dir_all(&part).ok();
        }
        renamed?;
        Ok(Self::at(folder))
    }
}

/// Removes what builds that were interrupted have left.
fn remove_abandoned(cache: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(cache) else {
        return Ok(());
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let builder = name.to_str().and_then(|name| name.strip_prefix(PART));
        if builder.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

async fn build_all(module: &Path, folder: &Path, say: impl Fn(&str)) -> Result<()> {
    say("building Kubernetes from testbed/kube: about 10 minutes of two cores the first time");
    let started = Instant::now();
    build(module, folder, |packages| {
        say(&format!(
            "compiled {packages} packages, {} s",
            started.elapsed().as_secs()
        ));
    })
    .await?;
    let programs = Programs::at(folder.to_owned());
    let [pause, coredns] = programs.images();
    Image::new(PAUSE_IMAGE)
        .program("pause", &programs.pause())
        .write(&pause)
        .await?;
    Image::new(DNS_IMAGE)
        .program("coredns", &folder.join("coredns"))
        .write(&coredns)
        .await?;
    say(&format!("built in {} s", started.elapsed().as_secs()));
    Ok(())
}

async fn build(module: &Path, folder: &Path, progress: impl Fn(usize)) -> Result<()> {
    let mut command = Command::new("go");
    command
        .current_dir(module)
        .env("CGO_ENABLED", "0")
        .env("GOTOOLCHAIN", "local")
        .args(["build", "-v", "-trimpath", "-buildvcs=false", "-ldflags"])
        .arg(linker_flags(&read(&module.join("go.mod"))?)?)
        .arg("-o")
        // With the slash it is a folder for several programs.
        .arg(folder.join(""))
        .args([".", "./coredns", "./pause"])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().context("cannot start `go build`")?;
    let stderr = child.stderr.take().context("a child without a pipe")?;
    let mut last = VecDeque::new();
    let work = async {
        let mut lines = BufReader::new(stderr).lines();
        let (mut packages, mut said) = (0, Instant::now());
        // With -v, every package that is compiled is a line.
        while let Some(line) = lines.next_line().await? {
            packages += 1;
            if last.len() == LINES_SHOWN {
                last.pop_front();
            }
            last.push_back(line);
            if said.elapsed() >= PROGRESS_INTERVAL {
                said = Instant::now();
                progress(packages);
            }
        }
        child.wait().await
    };
    let status = timeout(BUILD_LIMIT, work)
        .await
        .with_context(|| format!("`go build` took longer than {BUILD_LIMIT:?}"))??;
    if !status.success() {
        let last: Vec<_> = last.into();
        bail!("`go build` ended with {status}:\n{}", last.join("\n"));
    }
    Ok(())
}

async fn go_version(module: &Path) -> Result<String> {
    let mut command = Command::new("go");
    command
        .current_dir(module)
        .env("GOTOOLCHAIN", "local")
        .args(["env", "GOVERSION"]);
    let version = process::run(command, "", GO_LIMIT)
        .await
        .context("Kubernetes is built with Go; please install the version that testbed/kube/go.mod names, or a later one")?;
    Ok(version.trim().to_owned())
}

/// What the programs depend on: our sources, the modules' sums, the compiler.
fn key(module: &Path, go_version: &str) -> Result<String> {
    let mut hash = twox_hash::XxHash3_64::new();
    hash.write(go_version.as_bytes());
    for file in [
        "go.mod",
        "go.sum",
        "main.go",
        "coredns/main.go",
        "pause/main.go",
    ] {
        hash.write(read(&module.join(file))?.as_bytes());
    }
    Ok(format!("{:016x}", hash.finish()))
}

/// Tells the programs their version, which they otherwise report as v0.0.0 and refuse to be compared with.
fn linker_flags(go_mod: &str) -> Result<String> {
    let version = go_mod
        .lines()
        .filter_map(|line| {
            line.trim()
                .trim_start_matches("require ")
                .strip_prefix("k8s.io/kubernetes ")
        })
        .next()
        .context("go.mod requires no k8s.io/kubernetes")?
        .trim();
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (numbers.next(), numbers.next());
    ensure!(
        version.starts_with('v') && minor.is_some(),
        "\"{version}\" is no version"
    );
    let set = |name: &str, value: &str| format!("-X k8s.io/component-base/version.{name}={value}");
    Ok([
        "-s -w".to_owned(),
        set("gitVersion", version),
        set("gitMajor", major.unwrap_or_default()),
        set("gitMinor", minor.unwrap_or_default()),
    ]
    .join(" "))
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_get_the_version_of_their_module() {
        let flags =
            linker_flags("require (\n\tk8s.io/api v0.1.0\n\tk8s.io/kubernetes v1.36.3\n)").unwrap();
        assert!(flags.contains("version.gitVersion=v1.36.3"), "{flags}");
        assert!(flags.ends_with("version.gitMinor=36"), "{flags}");
        assert!(linker_flags("module x").is_err());
    }
}
