//! The configuration in use, on disk: a proxy that is started again serves before, and without, the control plane.
//!
//! The file is a sequence of length-delimited `DeltaDiscoveryResponse`s, one per type, as they could have come from the
//! control plane: resources, and in `removed_resources` the names that do not exist. Secrets are never in it. It is
//! replaced by a rename, so that a reader sees one whole version or another.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use meltemi_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use prost::Message as _;

const FILE: &str = "configuration.pb";
/// What is read at most: far above any set in use, and far below a machine's memory.
const SIZE_LIMIT_BYTES: u64 = 64 << 20;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SavedError {
    #[error("{verb} {}", path.display())]
    Io {
        verb: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{} holds something else", .0.display())]
    Malformed(PathBuf, #[source] prost::DecodeError),
    #[error("{} is larger than {SIZE_LIMIT_BYTES} bytes", .0.display())]
    TooLarge(PathBuf),
    #[error("{path} is of {of}", path = path.display())]
    Foreign { path: PathBuf, of: String },
}

/// Where a proxy keeps its configuration.
#[derive(Clone, Debug)]
pub(crate) struct Saved {
    directory: PathBuf,
    /// Whose it is: another workload's is not taken.
    node_id: String,
}

impl Saved {
    pub(crate) fn new(directory: &Path, node_id: &str) -> Self {
        Self {
            directory: directory.to_owned(),
            node_id: node_id.to_owned(),
        }
    }

    /// Replaces what is kept.
    ///
    /// # Errors
    /// The directory cannot be written to; what was kept before is still there.
    pub(crate) fn write(&self, types: &[DeltaDiscoveryResponse]) -> Result<(), SavedError> {
        let path = self.directory.join(FILE);
        let temporary = self.directory.join(format!(".{FILE}"));
        let mut bytes = Vec::new();
        for of_type in types {
            let marked = DeltaDiscoveryResponse {
                system_version_info: self.node_id.clone(),
                ..of_type.clone()
            };
            bytes.extend(marked.encode_length_delimited_to_vec());
        }
        let write = || {
            let mut options = OpenOptions::new();
            let options = options.write(true).create(true).truncate(true).mode(0o600);
            let mut file = options.open(&temporary)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            std::fs::rename(&temporary, &path)
        };
        write().map_err(|source| SavedError::Io {
            verb: "writing",
            path: path.clone(),
            source,
        })
    }

    /// What was kept; nothing if there is none.
    ///
    /// # Errors
    /// The file cannot be read, or is not this proxy's.
    pub(crate) fn read(&self) -> Result<Vec<DeltaDiscoveryResponse>, SavedError> {
        let path = self.directory.join(FILE);
        let failed = |source| SavedError::Io {
            verb: "reading",
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(failed(error)),
        };
        let mut bytes = Vec::new();
        let read = file.take(SIZE_LIMIT_BYTES + 1).read_to_end(&mut bytes);
        if read.map_err(failed)? as u64 > SIZE_LIMIT_BYTES {
            return Err(SavedError::TooLarge(path));
        }
        let mut rest = bytes.as_slice();
        let mut types = Vec::new();
        while !rest.is_empty() {
            let of_type = DeltaDiscoveryResponse::decode_length_delimited(&mut rest)
                .map_err(|error| SavedError::Malformed(path.clone(), error))?;
            if of_type.system_version_info != self.node_id {
                let of = of_type.system_version_info;
                return Err(SavedError::Foreign { path, of });
            }
            types.push(of_type);
        }
        Ok(types)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_by_the_same_workload_only() {
        let directory = tempfile::tempdir().unwrap();
        let saved = Saved::new(directory.path(), "a");
        assert_eq!(saved.read().unwrap(), []);
        let types = ["x", "y"].map(|url| DeltaDiscoveryResponse {
            type_url: url.to_owned(),
            removed_resources: vec!["gone".to_owned()],
            ..DeltaDiscoveryResponse::default()
        });
        saved.write(&types).unwrap();
        let urls: Vec<String> = saved
            .read()
            .unwrap()
            .into_iter()
            .map(|t| t.type_url)
            .collect();
        assert_eq!(urls, ["x", "y"]);
        let other = Saved::new(directory.path(), "b").read().unwrap_err();
        assert!(other.to_string().ends_with("is of a"), "{other}");
        std::fs::write(directory.path().join(FILE), [0xff; 5]).unwrap();
        assert!(matches!(saved.read(), Err(SavedError::Malformed(..))));
    }
}
