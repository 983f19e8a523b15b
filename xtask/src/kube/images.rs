//! `cargo xtask kube images`: images of our programs and of the sample applications, in every node of the test bed.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::testbed;
use crate::shell;

/// What the control plane and the proxy run as in a pod.
const USER: &str = "1337";
const BIN: &str = "usr/local/bin";

/// One image: what `meltemi-testbed image` is asked for.
struct Image {
    name: String,
    /// Path in the image and the file; the first one is the command.
    files: Vec<(&'static str, PathBuf)>,
    links: Vec<(String, &'static str)>,
    words: Vec<String>,
    args: Vec<String>,
    env: Vec<String>,
    user: Option<&'static str>,
}

impl Image {
    fn new(name: &str, at: &'static str, program: PathBuf) -> Self {
        Self {
            name: name.to_owned(),
            files: vec![(at, program)],
            links: Vec::new(),
            words: Vec::new(),
            args: Vec::new(),
            env: Vec::new(),
            user: None,
        }
    }

    fn arguments(&self, archive: &Path) -> Vec<String> {
        let mut arguments = vec!["image".to_owned(), self.name.clone()];
        let mut option = |name: &str, value: String| arguments.extend([name.to_owned(), value]);
        option("--output", archive.display().to_string());
        for (at, target) in &self.links {
            option("--link", format!("{at}={target}"));
        }
        for word in &self.words {
            option("--word", word.clone());
        }
        for arg in &self.args {
            option("--arg", arg.clone());
        }
        for variable in &self.env {
            option("--env", variable.clone());
        }
        if let Some(user) = self.user {
            option("--user", user.to_owned());
        }
        let files = self.files.iter();
        arguments.extend(files.map(|(at, file)| format!("{at}={}", file.display())));
        arguments
    }
}

/// `[--release] [MANIFEST...]`: our own images, and those that the manifests name and that we have a program for.
///
/// # Errors
/// A build fails, a program of this machine is missing, or no cluster runs.
pub(super) fn run(args: &[String], folder: &Path) -> Result<(), String> {
    let (flags, manifests): (Vec<&String>, Vec<&String>) =
        args.iter().partition(|arg| arg.starts_with("--"));
    let profile = match flags.as_slice() {
        [] => "dev",
        [flag] if *flag == "--release" => "release",
        _ => return Err("usage: cargo xtask kube images [--release] [MANIFEST...]".to_owned()),
    };
    let built = shell::build_profile(&shell::PROGRAMS, profile)?;
    let scratch = shell::target_dir()?.join("kube-images");
    fs::create_dir_all(&scratch)
        .map_err(|error| format!("cannot make {}: {error}", scratch.display()))?;
    let result = make_and_load(&built, &scratch, &manifests, folder);
    fs::remove_dir_all(&scratch).ok();
    result
}

fn make_and_load(
    built: &Path,
    scratch: &Path,
    manifests: &[&String],
    folder: &Path,
) -> Result<(), String> {
    let programs = Programs::stripped(built, scratch)?;
    let mut images = own(&programs)?;
    let mut names = BTreeSet::new();
    collect_names(&shell::project_root().join("samples"), &mut names)?;
    for manifest in manifests {
        collect_names(Path::new(manifest), &mut names)?;
    }
    for name in &names {
        match sample(name, &programs)? {
            Some(image) => images.push(image),
            None => eprintln!("kube: nothing stands in for {name}"),
        }
    }
    for image in &images {
        let archive = scratch.join("image.tar");
        testbed(&image.arguments(&archive), folder)?;
        testbed(&["load".to_owned(), archive.display().to_string()], folder)?;
        eprintln!("kube: {}", image.name);
    }
    Ok(())
}

/// Programs without what only a debugger reads: a node holds each of them twice.
struct Programs {
    folder: PathBuf,
}

impl Programs {
    fn stripped(built: &Path, scratch: &Path) -> Result<Self, String> {
        for program in shell::PROGRAMS {
            let mut strip = Command::new("strip");
            strip.arg("--strip-debug").arg("-o");
            strip.arg(scratch.join(program)).arg(built.join(program));
            shell::run(&mut strip)?;
        }
        Ok(Self {
            folder: scratch.to_owned(),
        })
    }

    fn get(&self, program: &str) -> PathBuf {
        self.folder.join(program)
    }
}

/// The control plane and the proxy, under the names that an installation has by default.
fn own(programs: &Programs) -> Result<Vec<Image>, String> {
    let version = env!("CARGO_PKG_VERSION");
    let mut pilot = Image::new(
        &format!("meltemi/pilot:{version}"),
        "usr/local/bin/meltemi",
        programs.get("meltemi"),
    );
    pilot.user = Some(USER);
    let mut proxy = Image::new(
        &format!("meltemi/proxyv2:{version}"),
        "usr/local/bin/pilot-agent",
        programs.get("meltemi-proxy"),
    );
    // The init container applies the rules with it.
    proxy.files.push(("usr/sbin/nft", find("nft")?));
    for name in ["curl", "meltemi-proxy"] {
        proxy.links.push((format!("{BIN}/{name}"), "pilot-agent"));
    }
    proxy.user = Some(USER);
    Ok(vec![pilot, proxy])
}

/// What stands in for an image of a sample, by the last part of its name.
fn sample(name: &str, programs: &Programs) -> Result<Option<Image>, String> {
    let last = name.rsplit('/').next().unwrap_or(name);
    let bare = last.split([':', '@']).next().unwrap_or(last);
    let app = |words: &[&str], args: &[&str], version: Option<&str>| {
        let mut image = Image::new(
            name,
            "usr/local/bin/meltemi-apps",
            programs.get("meltemi-apps"),
        );
        image.words = words.iter().map(ToString::to_string).collect();
        image.args = args.iter().map(ToString::to_string).collect();
        let version = version.map(|version| format!("SERVICE_VERSION={version}"));
        image.env.extend(version);
        Ok(Some(image))
    };
    let of_bookinfo = bare
        .strip_prefix("examples-bookinfo-")
        .or_else(|| bare.strip_prefix("bookinfo-"));
    if let Some(service) = of_bookinfo {
        return match service.rsplit_once('-') {
            Some((service, version)) => app(&["bookinfo", service], &[], Some(version)),
            None if service == "mongodb" => {
                app(&["bookinfo", service, "--port", "27017"], &[], None)
            }
            None if service == "mysqldb" => {
                app(&["bookinfo", service, "--port", "3306"], &[], None)
            }
            None => Ok(None),
        };
    }
    match bare {
        "go-httpbin" => app(&["httpbin"], &["--port", "8080"], None),
        "httpbin" => app(&["httpbin"], &["--port", "80"], None),
        "echo" | "app" => app(&["echo"], &[], None),
        "ext-authz" => app(&["ext-authz"], &[], None),
        "sleep" => app(&["sleep"], &[], None),
        "client" => app(&["client"], &[], None),
        "tcp-echo-server" => app(&["tcp-echo"], &["9000", "hello"], None),
        "examples-helloworld-v1" => app(&["helloworld"], &[], Some("v1")),
        "examples-helloworld-v2" => app(&["helloworld"], &[], Some("v2")),
        "curl" | "busybox" | "alpine" => shell_image(name).map(Some),
        _ => Ok(None),
    }
}

/// A shell with what samples and guides call in one, and curl.
fn shell_image(name: &str) -> Result<Image, String> {
    let mut image = Image::new(name, "bin/busybox", find("busybox")?);
    image.files.push(("usr/bin/curl", find("curl")?));
    let applets = [
        "sh", "sleep", "cat", "echo", "env", "grep", "head", "ls", "ps", "sed", "seq", "tail",
        "true", "wc",
    ];
    image.links = applets
        .iter()
        .map(|applet| (format!("bin/{applet}"), "busybox"))
        .collect();
    image.words = vec!["sh".to_owned()];
    Ok(image)
}

fn find(program: &str) -> Result<PathBuf, String> {
    let folders = ["/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"];
    let mut places = folders.iter().map(|folder| Path::new(folder).join(program));
    places
        .find(|place| place.is_file())
        .ok_or_else(|| format!("{program} is missing; `cargo xtask kube up` installs it"))
}

/// The names behind `image:` in the YAML files of a folder, or in one file.
fn collect_names(path: &Path, names: &mut BTreeSet<String>) -> Result<(), String> {
    let failed = |error| format!("cannot read {}: {error}", path.display());
    if path.is_dir() {
        for entry in fs::read_dir(path).map_err(failed)? {
            let entry = entry.map_err(failed)?.path();
            let is_yaml = entry
                .extension()
                .is_some_and(|extension| extension == "yaml");
            if is_yaml || entry.is_dir() {
                collect_names(&entry, names)?;
            }
        }
        return Ok(());
    }
    let text = fs::read_to_string(path).map_err(failed)?;
    names.extend(text.lines().filter_map(image_of).map(str::to_owned));
    Ok(())
}

fn image_of(line: &str) -> Option<&str> {
    let line = line.trim_start().trim_start_matches("- ");
    let name = line.strip_prefix("image:")?.split(" #").next()?;
    let name = name.trim().trim_matches(['"', '\'']);
    // `auto` is replaced by injection, and templates are no names.
    (!name.is_empty() && name != "auto" && !name.contains(['{', '$'])).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_in_lines_of_manifests() {
        assert_eq!(image_of("      - image: a/b:1 # why"), Some("a/b:1"));
        assert_eq!(image_of("        image: \"x\""), Some("x"));
        assert_eq!(image_of("image: auto"), None);
        assert_eq!(image_of("imagePullPolicy: Always"), None);
    }
}
