//! The certificate authority's files and the Secret that keeps them.
//!
//! An operator's own authority lies in Secret `cacerts`; otherwise the first control plane founds one and keeps it in
//! `istio-ca-secret`. The process itself works with a folder, as everywhere.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use kube::Client;

use crate::bounded;
use kube::api::{Api, ObjectMeta, PostParams};
use meltemi_ca::with_causes;

/// Secrets that may hold the authority; the first that is there counts.
const PLUGGED_IN: &str = "cacerts";
const OWN: &str = "istio-ca-secret";
/// Istio's type of its own authority's Secret.
const OWN_TYPE: &str = "istio.io/ca-root";

/// The files of an authority, and whether it works without them. Istio's names in both Secrets.
const FILES: [(&str, bool); 4] = [
    ("ca-key.pem", true),
    ("ca-cert.pem", true),
    ("root-cert.pem", false),
    ("cert-chain.pem", false),
];

/// Between looks at the Secret.
const LOOK_INTERVAL: Duration = Duration::from_secs(30);

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("reading Secret {0}")]
    Read(String, #[source] Box<kube::Error>),
    #[error("writing Secret {0}")]
    Keep(String, #[source] Box<kube::Error>),
    #[error("Secret {secret} has no {file}: an authority needs its key and certificate")]
    Incomplete { secret: String, file: &'static str },
    #[error("{action} {}", path.display())]
    Folder {
        action: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
}

type Files = BTreeMap<&'static str, Vec<u8>>;

/// Where an authority is kept.
#[derive(Clone, Debug)]
pub struct AuthoritySecret {
    secrets: Api<Secret>,
    namespace: String,
    folder: PathBuf,
    /// As it was last read or written.
    last: Option<Kept>,
}

/// An authority in its Secret.
#[derive(Clone, PartialEq, Eq)]
struct Kept {
    secret: &'static str,
    version: Option<String>,
    files: Files,
}

impl std::fmt::Debug for Kept {
    /// Keys are never printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kept")
            .field("secret", &self.secret)
            .finish_non_exhaustive()
    }
}

impl AuthoritySecret {
    /// `folder` is the one that the process works with.
    pub fn new(client: Client, namespace: &str, folder: &Path) -> Self {
        Self {
            secrets: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            folder: folder.to_owned(),
            last: None,
        }
    }

    /// Fetches the authority into the folder. False: there is none yet.
    ///
    /// # Errors
    /// The API server does not answer, or the Secret cannot be used.
    pub async fn fetch(&mut self) -> Result<bool, AuthorityError> {
        let Some(kept) = self.read().await? else {
            return Ok(false);
        };
        write_folder(&self.folder, &kept.files)?;
        self.last = Some(kept);
        Ok(true)
    }

    /// Keeps the authority that the process has founded. If another process was faster, its authority replaces ours.
    ///
    /// # Errors
    /// The folder cannot be read, or the API server refuses.
    pub async fn keep(&mut self) -> Result<(), AuthorityError> {
        let files = read_folder(&self.folder)?;
        let secret = self.secret(&files, None);
        match bounded(self.secrets.create(&PostParams::default(), &secret)).await {
            Ok(created) => {
                self.note(created, files);
                Ok(())
            }
            Err(error) if is_conflict(&error) => self.fetch().await.map(|_| ()),
            Err(error) => Err(AuthorityError::Keep(self.display(OWN), Box::new(error))),
        }
    }

    /// Follows the Secret for ever: what an operator changes in it takes effect in the running process, and a root that the
    /// process has renewed is kept.
    pub async fn follow(mut self) {
        let mut told = String::new();
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            match self.look().await {
                Ok(()) => told.clear(),
                Err(error) => {
                    let message = with_causes(&error);
                    if message != told {
                        tracing::warn!(error = message, "the authority stays as it is");
                        told = message;
                    }
                }
            }
        }
    }

    async fn look(&mut self) -> Result<(), AuthorityError> {
        let kept = self.read().await?;
        match next_step(
            self.last.as_ref(),
            kept.as_ref(),
            &read_folder(&self.folder)?,
        ) {
            Step::Rest => Ok(()),
            Step::Fetch => self.fetch().await.map(|_| ()),
            Step::Keep(version) => self.replace(version).await,
        }
    }

    /// Keeps a renewed authority in place of the version that it was made from.
    async fn replace(&mut self, version: Option<String>) -> Result<(), AuthorityError> {
        let files = read_folder(&self.folder)?;
        let secret = self.secret(&files, version);
        match bounded(self.secrets.replace(OWN, &PostParams::default(), &secret)).await {
            Ok(replaced) => {
                self.note(replaced, files);
                Ok(())
            }
            // Another process has renewed it too, and was faster.
            Err(error) if is_conflict(&error) => self.fetch().await.map(|_| ()),
            Err(error) => Err(AuthorityError::Keep(self.display(OWN), Box::new(error))),
        }
    }

    async fn read(&self) -> Result<Option<Kept>, AuthorityError> {
        for name in [PLUGGED_IN, OWN] {
            let secret = bounded(self.secrets.get_opt(name)).await;
            let secret = secret
                .map_err(|error| AuthorityError::Read(self.display(name), Box::new(error)))?;
            if let Some(secret) = secret {
                return Ok(Some(Kept {
                    secret: name,
                    version: secret.metadata.resource_version,
                    files: files(&secret.data.unwrap_or_default(), &self.display(name))?,
                }));
            }
        }
        Ok(None)
    }

    fn secret(&self, files: &Files, version: Option<String>) -> Secret {
        let data = files
            .iter()
            .map(|(name, content)| ((*name).to_owned(), ByteString(content.clone())));
        Secret {
            metadata: ObjectMeta {
                name: Some(OWN.to_owned()),
                namespace: Some(self.namespace.clone()),
                resource_version: version,
                ..ObjectMeta::default()
            },
            type_: Some(OWN_TYPE.to_owned()),
            data: Some(data.collect()),
            ..Secret::default()
        }
    }

    fn note(&mut self, secret: Secret, files: Files) {
        self.last = Some(Kept {
            secret: OWN,
            version: secret.metadata.resource_version,
            files,
        });
    }

    fn display(&self, name: &str) -> String {
        format!("{}/{name}", self.namespace)
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Step {
    Rest,
    /// The Secret says something new.
    Fetch,
    /// The folder does; the Secret has had this version.
    Keep(Option<String>),
}

/// An operator's change wins over a renewal. What an operator plugged in is the operator's to renew.
fn next_step(last: Option<&Kept>, kept: Option<&Kept>, folder: &Files) -> Step {
    let Some(kept) = kept else {
        return Step::Rest;
    };
    let is_known =
        last.is_some_and(|last| (last.secret, &last.files) == (kept.secret, &kept.files));
    match (is_known, kept.files == *folder) {
        (_, true) => Step::Rest,
        (true, false) if kept.secret == OWN => Step::Keep(kept.version.clone()),
        _ => Step::Fetch,
    }
}

fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 409)
}

fn failed<'a>(action: &'static str, path: &'a Path) -> impl Fn(io::Error) -> AuthorityError + 'a {
    move |source| AuthorityError::Folder {
        action,
        path: path.to_owned(),
        source,
    }
}

fn read_folder(folder: &Path) -> Result<Files, AuthorityError> {
    let mut files = Files::new();
    for (name, _) in FILES {
        let path = folder.join(name);
        match fs::read(&path) {
            Ok(content) => drop(files.insert(name, content)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("reading", &path)(error)),
        }
    }
    Ok(files)
}

/// Files that are as they should be are left alone, and those that the authority does not have are removed.
fn write_folder(folder: &Path, files: &Files) -> Result<(), AuthorityError> {
    let mut builder = fs::DirBuilder::new();
    let made = builder.recursive(true).mode(0o700).create(folder);
    made.map_err(failed("creating", folder))?;
    let present = read_folder(folder)?;
    for (name, _) in FILES {
        let path = folder.join(name);
        match (files.get(name), present.get(name)) {
            (Some(content), present) if present != Some(content) => {
                replace(&path, content).map_err(failed("writing", &path))?;
            }
            (None, Some(_)) => fs::remove_file(&path).map_err(failed("removing", &path))?,
            _ => {}
        }
    }
    Ok(())
}

fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension("pem.new");
    let mut open = OpenOptions::new();
    let mut file = open
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(temporary, path)
}

/// The files of a Secret; an empty one is as good as none. An authority that signed its own certificate is its own root.
fn files(data: &BTreeMap<String, ByteString>, secret: &str) -> Result<Files, AuthorityError> {
    let content = |file: &str| {
        let content = data.get(file).map(|content| content.0.clone());
        content.filter(|content| !content.trim_ascii().is_empty())
    };
    let mut files = Files::new();
    for (file, is_required) in FILES {
        let own = || content("ca-cert.pem").filter(|_| file == "root-cert.pem");
        match content(file).or_else(own) {
            Some(content) => drop(files.insert(file, content)),
            None if is_required => {
                let secret = secret.to_owned();
                return Err(AuthorityError::Incomplete { secret, file });
            }
            None => {}
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(names: &[(&str, &str)]) -> BTreeMap<String, ByteString> {
        let entry = |(name, text): &(&str, &str)| {
            ((*name).to_owned(), ByteString(text.as_bytes().to_vec()))
        };
        names.iter().map(entry).collect()
    }

    #[test]
    fn an_authority_needs_key_and_certificate() {
        let own = files(&data(&[("ca-key.pem", "k"), ("ca-cert.pem", "c")]), "s").unwrap();
        assert_eq!(own["root-cert.pem"], b"c");
        let istios = data(&[
            ("ca-key.pem", "k"),
            ("ca-cert.pem", "c"),
            ("root-cert.pem", ""),
            ("cert-chain.pem", ""),
        ]);
        assert_eq!(files(&istios, "s").unwrap(), own);
        let error = files(&data(&[("ca-cert.pem", "c"), ("ca-key.pem", "\n")]), "s").unwrap_err();
        assert!(error.to_string().contains("has no ca-key.pem"), "{error}");
    }

    #[test]
    fn a_folder_holds_what_the_secret_holds() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("ca");
        let first = Files::from([
            ("ca-key.pem", b"k".to_vec()),
            ("cert-chain.pem", b"c".to_vec()),
        ]);
        write_folder(&folder, &first).unwrap();
        let second = Files::from([("ca-key.pem", b"k2".to_vec())]);
        write_folder(&folder, &second).unwrap();
        assert_eq!(read_folder(&folder).unwrap(), second);
    }

    #[test]
    fn renewals_are_kept_and_operators_win() {
        let files = |text: &str| Files::from([("ca-cert.pem", text.as_bytes().to_vec())]);
        let kept = |secret: &'static str, text: &str| Kept {
            secret,
            version: Some("7".to_owned()),
            files: files(text),
        };
        let (old, new) = (kept(OWN, "old"), kept(OWN, "new"));
        let step = |last: &Kept, kept: &Kept, folder: &str| {
            next_step(Some(last), Some(kept), &files(folder))
        };
        assert_eq!(step(&old, &old, "old"), Step::Rest);
        assert_eq!(
            step(&old, &old, "renewed"),
            Step::Keep(Some("7".to_owned()))
        );
        assert_eq!(step(&old, &new, "old"), Step::Fetch);
        assert_eq!(step(&old, &new, "renewed"), Step::Fetch);
        assert_eq!(step(&old, &kept(PLUGGED_IN, "old2"), "old"), Step::Fetch);
        let plugged_in = kept(PLUGGED_IN, "theirs");
        assert_eq!(step(&plugged_in, &plugged_in, "renewed"), Step::Fetch);
        assert_eq!(next_step(Some(&old), None, &files("old")), Step::Rest);
    }
}
