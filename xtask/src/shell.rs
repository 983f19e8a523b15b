//! Running other programs, and where things are.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The programs of the project that the lab starts.
pub(crate) const PROGRAMS: [&str; 3] = ["meltemi", "meltemi-proxy", "meltemi-apps"];

pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(project_root());
    command
}

/// Runs a command to its end.
///
/// # Errors
/// It could not be started, or its exit status is not 0.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let line = display(command);
    let status = command
        .status()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if status.success() {
        Ok(())
    } else {
        Err(format!("`{line}` ended with {status}"))
    }
}

/// What a command prints on its standard output.
///
/// # Errors
/// It could not be started, or its exit status is not 0.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let line = display(command);
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("cannot start `{line}`: {error}"))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("`{line}` ended with {}", output.status))
    }
}

pub(crate) fn display(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

pub(crate) fn project_root() -> PathBuf {
    let xtask = Path::new(env!("CARGO_MANIFEST_DIR"));
    xtask.parent().unwrap_or(xtask).to_owned()
}

/// Builds the programs and returns the folder that holds them.
///
/// # Errors
/// The build fails.
pub(crate) fn build_programs() -> Result<PathBuf, String> {
    build(&PROGRAMS)
}

/// Builds some programs and returns the folder that holds them.
///
/// # Errors
/// The build fails.
pub(crate) fn build(programs: &[&str]) -> Result<PathBuf, String> {
    build_profile(programs, "dev")
}

/// The same, with one of cargo's profiles.
///
/// # Errors
/// The build fails.
pub(crate) fn build_profile(programs: &[&str], profile: &str) -> Result<PathBuf, String> {
    let mut build = cargo();
    build.args(["build", "--locked", "--profile", profile]);
    for program in programs {
        build.args(["--bin", program]);
    }
    run(&mut build)?;
    let folder = if profile == "dev" { "debug" } else { profile };
    target_dir().map(|target| target.join(folder))
}

/// Cargo's target folder: this very program lies in it.
pub(crate) fn target_dir() -> Result<PathBuf, String> {
    let exe = std::env::current_exe()
        .map_err(|error| format!("cannot find this program's own path: {error}"))?;
    let target = exe.parent().and_then(Path::parent);
    target
        .map(Path::to_owned)
        .ok_or_else(|| format!("{} does not lie in a target folder", exe.display()))
}

/// The folder for what is fetched once and used by many runs.
pub(crate) fn cache_dir() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/tmp"), PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME")
        .map_or_else(|| home.join(".cache"), PathBuf::from)
        .join("meltemi")
}
