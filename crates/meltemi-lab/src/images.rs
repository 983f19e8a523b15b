//! An image is a command: which program of this machine stands for which image.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// What running an image means, as an image's own configuration would say it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub(crate) struct Image {
    /// What the image is matched by; `*` stands for any text.
    pub(crate) image: String,
    /// Replaced by a container's `command`.
    #[serde(default, alias = "entrypoint")]
    pub(crate) command: Vec<String>,
    /// Replaced by a container's `command` or `args`.
    #[serde(default)]
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    /// The uid that the image runs as, if a manifest does not say.
    #[serde(default)]
    pub(crate) user: Option<u32>,
}

/// Image names and what they run. Later entries win, so that a user's come after the built-in ones.
#[derive(Clone, Debug)]
pub(crate) struct Images(Vec<Image>);

/// A `--images` file: a list of entries under `images`, or simply names and programs.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum ImagesFile {
    List { images: Vec<Image> },
    Map(BTreeMap<String, Program>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Program {
    One(String),
    Command(Vec<String>),
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum ImagesError {
    #[error(
        "an image table is YAML: `NAME: PROGRAM` lines, or a list `images:` of `image`, `command`, `args`, `env`, `user`"
    )]
    Yaml(#[source] serde_saphyr::Error),
    #[error("image {0:?}: `command` is empty")]
    NoCommand(String),
}

impl Images {
    /// Adds the entries of a `--images` file.
    pub(crate) fn extend(&mut self, yaml: &str) -> Result<(), ImagesError> {
        let file: ImagesFile = serde_saphyr::from_str(yaml).map_err(ImagesError::Yaml)?;
        let images = match file {
            ImagesFile::List { images } => images,
            ImagesFile::Map(map) => map.into_iter().map(simple).collect(),
        };
        if let Some(image) = images.iter().find(|image| image.command.is_empty()) {
            return Err(ImagesError::NoCommand(image.image.clone()));
        }
        self.0.extend(images);
        Ok(())
    }

    pub(crate) fn add(&mut self, image: Image) {
        self.0.push(image);
    }

    /// Finds what an image runs. A pattern without a tag matches every tag, and one without a registry every registry.
    pub(crate) fn find(&self, image: &str) -> Option<&Image> {
        self.0
            .iter()
            .rev()
            .find(|entry| matches(&entry.image, image))
    }
}

impl Default for Images {
    fn default() -> Self {
        let mut images = Vec::new();
        for service in ["productpage", "details", "ratings", "reviews"] {
            for version in ["v1", "v2", "v3"] {
                let env: &[_] = &[("SERVICE_VERSION", version)];
                for name in [
                    format!("examples-bookinfo-{service}-{version}"),
                    format!("meltemi/bookinfo-{service}-{version}"),
                ] {
                    images.push(builtin(
                        &name,
                        &["meltemi-apps", "bookinfo", service],
                        &[],
                        env,
                    ));
                }
            }
        }
        for version in ["v1", "v2"] {
            images.push(builtin(
                &format!("examples-helloworld-{version}"),
                &["meltemi-apps", "helloworld"],
                &[],
                &[("SERVICE_VERSION", version)],
            ));
        }
        // ratings-v2 keeps its stars in a database where the manifest names one; these images are that database's.
        let simple: &[(&str, &[&str], &[&str])] = &[
            ("curlimages/curl", &["curl"], &["--help"]),
            ("busybox", &["sh"], &[]),
            ("alpine", &["sh"], &[]),
            ("pause", &["meltemi-apps", "sleep"], &[]),
            ("meltemi/sleep", &["meltemi-apps", "sleep"], &[]),
            ("meltemi/client", &["meltemi-apps", "client"], &[]),
            ("meltemi/echo", &["meltemi-apps", "echo"], &[]),
            ("testing/app", &["meltemi-apps", "echo"], &[]),
            ("testing/ext-authz", &["meltemi-apps", "ext-authz"], &[]),
            ("meltemi/ext-authz", &["meltemi-apps", "ext-authz"], &[]),
            (
                "mccutchen/go-httpbin",
                &["meltemi-apps", "httpbin"],
                &["--port", "8080"],
            ),
            (
                "kennethreitz/httpbin",
                &["meltemi-apps", "httpbin"],
                &["--port", "80"],
            ),
            (
                "kong/httpbin",
                &["meltemi-apps", "httpbin"],
                &["--port", "80"],
            ),
            (
                "meltemi/httpbin",
                &["meltemi-apps", "httpbin"],
                &["--port", "8080"],
            ),
            (
                "tcp-echo-server",
                &["meltemi-apps", "tcp-echo"],
                &["9000", "hello"],
            ),
            (
                "examples-bookinfo-mongodb",
                &["meltemi-apps", "bookinfo", "mongodb", "--port", "27017"],
                &[],
            ),
            (
                "examples-bookinfo-mysqldb",
                &["meltemi-apps", "bookinfo", "mysqldb", "--port", "3306"],
                &[],
            ),
            ("proxyv2", &["meltemi-proxy"], &[]),
            ("meltemi/proxy*", &["meltemi-proxy"], &[]),
            ("auto", &["meltemi-proxy"], &[]),
        ];
        images.extend(
            simple
                .iter()
                .map(|(name, command, args)| builtin(name, command, args, &[])),
        );
        Self(images)
    }
}

fn simple((image, program): (String, Program)) -> Image {
    let command = match program {
        Program::One(program) => vec![program],
        Program::Command(command) => command,
    };
    Image {
        image,
        command,
        ..Image::default()
    }
}

fn builtin(name: &str, command: &[&str], args: &[&str], env: &[(&str, &str)]) -> Image {
    let strings = |list: &[&str]| list.iter().map(ToString::to_string).collect();
    Image {
        image: name.to_owned(),
        command: strings(command),
        args: strings(args),
        env: env
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        user: None,
    }
}

fn matches(pattern: &str, image: &str) -> bool {
    let image = image.split('@').next().unwrap_or(image);
    let bare = match image.rsplit_once(':') {
        // A colon before a slash belongs to a registry's port.
        Some((name, tag)) if !tag.contains('/') => name,
        _ => image,
    };
    [image, bare].iter().any(|name| {
        let tails = name
            .match_indices('/')
            .filter_map(|(at, _)| name.get(at + 1..));
        std::iter::once(*name)
            .chain(tails)
            .any(|tail| wildcard(pattern, tail))
    })
}

/// Matches `*` against any text, greedily from the left, without backtracking beyond the last star.
fn wildcard(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else {
        return false;
    };
    let Some(last) = parts.next_back() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some((_, after)) = rest.split_once(part) else {
            return false;
        };
        rest = after;
    }
    rest.ends_with(last)
}

/// Where programs are looked for: beside this program first, so that one build's parts fit together.
#[derive(Clone, Debug)]
pub(crate) struct Programs {
    pub(crate) beside: PathBuf,
}

impl Programs {
    /// Our own programs, which are bound into every container.
    pub(crate) const OURS: [&str; 3] = ["meltemi", "meltemi-proxy", "meltemi-apps"];

    pub(crate) fn find(&self, name: &str) -> Option<PathBuf> {
        let on_path = std::env::var_os("PATH").unwrap_or_default();
        // Users' PATHs often lack the folders where the system's own tools are.
        let system = ["/usr/sbin", "/sbin"].map(PathBuf::from);
        std::iter::once(self.beside.clone())
            .chain(std::env::split_paths(&on_path))
            .chain(system)
            .map(|directory| directory.join(name))
            .find(|path| is_program(path))
    }
}

fn is_program(path: &Path) -> bool {
    path.is_file() && nix::unistd::access(path, nix::unistd::AccessFlags::X_OK).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istios_images_run_our_applications() {
        let images = Images::default();
        for (image, command) in [
            (
                "registry.example/release/examples-bookinfo-reviews-v3:1.20.3",
                "meltemi-apps bookinfo reviews",
            ),
            (
                "registry.example/istio/examples-bookinfo-details-v1:1.16.2",
                "meltemi-apps bookinfo details",
            ),
            ("registry.example/curlimages/curl:8.16.0", "curl"),
            ("curlimages/curl", "curl"),
            (
                "registry.example/mccutchen/go-httpbin:v2.15.0",
                "meltemi-apps httpbin",
            ),
            (
                "localhost:5000/kennethreitz/httpbin@sha256:00",
                "meltemi-apps httpbin",
            ),
            (
                "registry.example/release/examples-bookinfo-mongodb:1.20.3",
                "meltemi-apps bookinfo mongodb --port 27017",
            ),
            ("gcr.io/istio-testing/proxyv2:latest", "meltemi-proxy"),
            ("meltemi/proxy:0.1", "meltemi-proxy"),
            ("auto", "meltemi-proxy"),
        ] {
            assert_eq!(
                images
                    .find(image)
                    .map(|found| found.command.join(" "))
                    .as_deref(),
                Some(command),
                "{image}"
            );
        }
        assert_eq!(images.find("nginx"), None);
        assert_eq!(images.find("mycurlimages/curl"), None);
        assert_eq!(
            images.find("x/examples-bookinfo-reviews-v2:1").unwrap().env["SERVICE_VERSION"],
            "v2"
        );
    }

    #[test]
    fn a_users_entries_win() {
        let mut images = Images::default();
        images.extend("images:\n- image: \"*/nginx:1.*\"\n  command: [python3, -m, http.server]\n  args: ['80']\n").unwrap();
        images
            .extend("images:\n- image: curlimages/curl\n  command: [sleep, infinity]\n")
            .unwrap();
        assert_eq!(
            images
                .find("registry.example/library/nginx:1.27")
                .unwrap()
                .args,
            ["80"]
        );
        assert_eq!(images.find("registry.example/library/nginx:2"), None);
        assert_eq!(
            images.find("curlimages/curl:1").unwrap().command[0],
            "sleep"
        );
        assert!(
            images
                .extend("images:\n- image: x\n")
                .unwrap_err()
                .to_string()
                .contains("`command` is empty")
        );
    }

    #[test]
    fn stars_match_any_text() {
        for (pattern, text, expected) in [
            ("*", "a", true),
            ("a*c", "abc", true),
            ("a*c", "ab", false),
            ("a*b*c", "aXbYc", true),
            ("ab*ba", "aba", false),
        ] {
            assert_eq!(wildcard(pattern, text), expected, "{pattern} {text}");
        }
    }
}
