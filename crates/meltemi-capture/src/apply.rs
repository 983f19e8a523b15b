use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use crate::{Settings, removal, ruleset};

#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    #[error("the program `nft` was not found; install the package nftables")]
    NftMissing,
    #[error("cannot run nft")]
    Run(#[source] io::Error),
    #[error("nft refused the rules: {0}")]
    Refused(String),
}

/// Puts the rules into the network namespace of this process, in one transaction.
///
/// # Errors
/// When `nft` cannot run or refuses; then nothing has changed.
pub fn apply(settings: &Settings) -> Result<(), ApplyError> {
    transact(&ruleset(settings))
}

/// Takes the rules out of the network namespace of this process. There need not be any.
///
/// # Errors
/// When `nft` cannot run or refuses; then nothing has changed.
pub fn remove() -> Result<(), ApplyError> {
    transact(&removal())
}

fn transact(rules: &str) -> Result<(), ApplyError> {
    let mut child = Command::new("nft")
        .args(["-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => ApplyError::NftMissing,
            _ => ApplyError::Run(error),
        })?;
    let written = child
        .stdin
        .take()
        .map_or(Ok(()), |mut stdin| stdin.write_all(rules.as_bytes()));
    let output = child.wait_with_output().map_err(ApplyError::Run)?;
    if output.status.success() {
        return written.map_err(ApplyError::Run);
    }
    // nft's own words before a broken pipe: they say why it stopped reading.
    Err(ApplyError::Refused(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}
