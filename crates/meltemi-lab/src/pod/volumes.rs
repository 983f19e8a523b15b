//! Volumes as directories: what they hold (pure), and bringing a directory to that state.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use k8s_openapi::api::core::v1::{
    DownwardAPIVolumeFile, KeyToPath, Pod, ServiceAccountTokenProjection, Volume, VolumeProjection,
};

use super::env::{
    ReferenceError, References, config_map_data, container_resource, pod_field, secret_data,
};

/// Kubernetes' default mode of projected files.
const DEFAULT_MODE: i32 = 0o644;
/// The default lifetime of a projected token (Kubernetes, `serviceAccountToken.expirationSeconds`).
const TOKEN_SECONDS: i64 = 3600;

/// What a volume holds; paths are relative to it.
pub(crate) type Files = BTreeMap<String, Content>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    pub(crate) bytes: Vec<u8>,
    pub(crate) mode: u32,
}

/// Makes the token that a projection asks for: audience and lifetime in seconds.
pub(crate) type IssueToken<'a> = &'a dyn Fn(&str, i64) -> Result<String, TokenError>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("cannot issue a service account token: {0}")]
pub(crate) struct TokenError(pub(crate) String);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum VolumeError {
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error(transparent)]
    Token(#[from] TokenError),
    #[error("references non-existent config key: {0}")]
    Key(String),
    #[error("path {0:?} leaves the volume")]
    Path(String),
}

/// Lists a volume's files; `None` for one that only the container writes (`emptyDir`).
pub(crate) fn files(
    volume: &Volume,
    pod: &Pod,
    host: Ipv4Addr,
    references: &References,
    token: IssueToken<'_>,
) -> Result<Option<Files>, VolumeError> {
    let mut files = Files::new();
    if let Some(source) = &volume.config_map {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let data = optional(
            references.config_map(&source.name).map(config_map_data),
            source.optional,
        )?;
        pick(
            &mut files,
            &data,
            source.items.as_deref(),
            mode,
            source.optional,
        )?;
    } else if let Some(source) = &volume.secret {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        let name = source.secret_name.as_deref().unwrap_or_default();
        let data = optional(references.secret(name).map(secret_data), source.optional)?;
        pick(
            &mut files,
            &data,
            source.items.as_deref(),
            mode,
            source.optional,
        )?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward(
            &mut files,
            source.items.as_deref().unwrap_or_default(),
            pod,
            host,
            mode,
        )?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for projection in source.sources.iter().flatten() {
            project(&mut files, projection, pod, host, references, token, mode)?;
        }
    } else {
        return Ok(None);
    }
    match files.keys().find(|path| leaves(path)) {
        Some(path) => Err(VolumeError::Path(path.clone())),
        None => Ok(Some(files)),
    }
}

fn project(
    files: &mut Files,
    source: &VolumeProjection,
    pod: &Pod,
    host: Ipv4Addr,
    references: &References,
    token: IssueToken<'_>,
    mode: i32,
) -> Result<(), VolumeError> {
    if let Some(source) = &source.config_map {
        let data = optional(
            references.config_map(&source.name).map(config_map_data),
            source.optional,
        )?;
        pick(files, &data, source.items.as_deref(), mode, source.optional)?;
    }
    if let Some(source) = &source.secret {
        let data = optional(
            references.secret(&source.name).map(secret_data),
            source.optional,
        )?;
        pick(files, &data, source.items.as_deref(), mode, source.optional)?;
    }
    if let Some(source) = &source.downward_api {
        downward(
            files,
            source.items.as_deref().unwrap_or_default(),
            pod,
            host,
            mode,
        )?;
    }
    if let Some(ServiceAccountTokenProjection {
        audience,
        expiration_seconds,
        path,
    }) = &source.service_account_token
    {
        let text = token(
            audience.as_deref().unwrap_or_default(),
            expiration_seconds.unwrap_or(TOKEN_SECONDS),
        )?;
        insert(files, path, text.into_bytes(), mode);
    }
    Ok(())
}

fn optional(
    data: Result<BTreeMap<String, Vec<u8>>, ReferenceError>,
    optional: Option<bool>,
) -> Result<BTreeMap<String, Vec<u8>>, ReferenceError> {
    match data {
        Err(_) if optional == Some(true) => Ok(BTreeMap::new()),
        other => other,
    }
}

/// Every key, or the listed ones at their paths.
fn pick(
    files: &mut Files,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: Option<bool>,
) -> Result<(), VolumeError> {
    let Some(items) = items else {
        for (key, bytes) in data {
            insert(files, key, bytes.clone(), mode);
        }
        return Ok(());
    };
    for item in items {
        match data.get(&item.key) {
            Some(bytes) => insert(files, &item.path, bytes.clone(), item.mode.unwrap_or(mode)),
            None if optional == Some(true) => {}
            None => return Err(VolumeError::Key(item.key.clone())),
        }
    }
    Ok(())
}

fn downward(
    files: &mut Files,
    items: &[DownwardAPIVolumeFile],
    pod: &Pod,
    host: Ipv4Addr,
    mode: i32,
) -> Result<(), VolumeError> {
    for item in items {
        let text = match (&item.field_ref, &item.resource_field_ref) {
            (Some(field), _) => pod_field(pod, &field.field_path, host)?,
            (None, Some(selector)) => container_resource(pod, selector)?,
            (None, None) => continue,
        };
        insert(
            files,
            &item.path,
            text.into_bytes(),
            item.mode.unwrap_or(mode),
        );
    }
    Ok(())
}

fn insert(files: &mut Files, path: &str, bytes: Vec<u8>, mode: i32) {
    files.insert(
        path.to_owned(),
        Content {
            bytes,
            mode: mode.unsigned_abs() & 0o777,
        },
    );
}

fn leaves(path: &str) -> bool {
    path.starts_with('/') || path.split('/').any(|part| part == "..")
}

/// Makes a directory in a volume, with its parents, that every container may write to.
pub(crate) fn make_directory(directory: &Path) -> io::Result<()> {
    if directory.is_dir() {
        return Ok(());
    }
    if let Some(parent) = directory.parent() {
        make_directory(parent)?;
    }
    fs::create_dir(directory)?;
    fs::set_permissions(directory, Permissions::from_mode(0o777))
}

/// Brings a directory to the state of `files`; a file is replaced whole, and only if it changed.
pub(crate) fn write(directory: &Path, files: &Files, before: &Files) -> io::Result<()> {
    for (path, content) in files
        .iter()
        .filter(|(path, content)| before.get(*path) != Some(*content))
    {
        let target = directory.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        let staged = target.with_file_name(format!(
            ".{}.new",
            target.file_name().unwrap_or_default().display()
        ));
        fs::write(&staged, &content.bytes)?;
        fs::set_permissions(&staged, Permissions::from_mode(content.mode))?;
        fs::rename(&staged, &target)?;
    }
    for path in before.keys().filter(|path| !files.contains_key(*path)) {
        fs::remove_file(directory.join(path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Path, text, mode.
    type Expected<'a> = &'a [(&'a str, &'a str, u32)];

    fn check(volume: serde_json::Value, expected: Result<Option<Expected<'_>>, &str>) {
        let mut volume = volume;
        volume["name"] = json!("v");
        let volume = serde_json::from_value(volume).unwrap();
        let pod =
            serde_json::from_value(json!({"metadata": {"name": "p", "labels": {"app": "a"}}}))
                .unwrap();
        let map =
            serde_json::from_value(json!({"metadata": {}, "data": {"k": "v", "l": "w"}})).unwrap();
        let references = References {
            config_maps: BTreeMap::from([("m".to_owned(), std::sync::Arc::new(map))]),
            ..References::default()
        };
        let token = |audience: &str, seconds: i64| Ok(format!("{audience}/{seconds}"));
        let actual = files(&volume, &pod, Ipv4Addr::LOCALHOST, &references, &token).map(|files| {
            let show = |(path, content): (String, Content)| {
                (
                    path,
                    String::from_utf8(content.bytes).unwrap(),
                    content.mode,
                )
            };
            files.map(|files| files.into_iter().map(show).collect::<Vec<_>>())
        });
        let owned = |list: Expected<'_>| {
            list.iter()
                .map(|(path, text, mode)| (path.to_string(), text.to_string(), *mode))
                .collect::<Vec<_>>()
        };
        let expected = expected
            .map(|files| files.map(owned))
            .map_err(str::to_owned);
        assert_eq!(actual.map_err(|error| error.to_string()), expected);
    }

    #[test]
    fn every_source() {
        check(json!({"emptyDir": {}}), Ok(None));
        check(
            json!({"configMap": {"name": "m"}}),
            Ok(Some(&[("k", "v", 0o644), ("l", "w", 0o644)])),
        );
        check(
            json!({"configMap": {"name": "m", "defaultMode": 256, "items": [{"key": "k", "path": "d/x"}]}}),
            Ok(Some(&[("d/x", "v", 0o400)])),
        );
        check(
            json!({"configMap": {"name": "z", "optional": true}}),
            Ok(Some(&[])),
        );
        check(
            json!({"projected": {"sources": [
                {"serviceAccountToken": {"audience": "istio-ca", "expirationSeconds": 43200, "path": "istio-token"}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
                {"configMap": {"name": "m", "items": [{"key": "l", "path": "l"}]}}
            ]}}),
            Ok(Some(&[
                ("istio-token", "istio-ca/43200", 0o644),
                ("l", "w", 0o644),
                ("labels", "app=\"a\"", 0o644),
            ])),
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        check(
            json!({"configMap": {"name": "z"}}),
            Err("configmap \"z\" not found"),
        );
        check(
            json!({"configMap": {"name": "m", "items": [{"key": "z", "path": "x"}]}}),
            Err("references non-existent config key: z"),
        );
        check(
            json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "../x"}]}}),
            Err("path \"../x\" leaves the volume"),
        );
    }

    #[test]
    fn a_directory_follows_its_files() {
        let directory = tempfile::tempdir().unwrap();
        let file = |text: &str| Content {
            bytes: text.into(),
            mode: 0o600,
        };
        let first = Files::from([("a".to_owned(), file("1")), ("d/b".to_owned(), file("2"))]);
        write(directory.path(), &first, &Files::new()).unwrap();
        let second = Files::from([("a".to_owned(), file("3"))]);
        write(directory.path(), &second, &first).unwrap();
        assert_eq!(fs::read(directory.path().join("a")).unwrap(), b"3");
        assert_eq!(
            fs::metadata(directory.path().join("a"))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert!(!directory.path().join("d/b").exists());
    }
}
