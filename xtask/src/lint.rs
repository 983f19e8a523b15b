//! `cargo xtask lint`: formatting and clippy, with warnings as errors.

use crate::shell;

/// # Errors
/// A file is not formatted, or clippy has something to say.
pub(crate) fn run() -> Result<(), String> {
    shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
    shell::run(shell::cargo().args([
        "clippy",
        "--locked",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]))
}
