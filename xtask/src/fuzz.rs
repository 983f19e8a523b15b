//! `cargo xtask fuzz`: a target of `fuzz/` for a bounded time, with the stable toolchain.

use std::path::Path;
use std::process::Command;

use crate::shell;

/// What libFuzzer needs to see where an input leads. `cargo fuzz --sanitizer none` passes the same.
const INSTRUMENTATION: &str = "-Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";
/// Instrumented artefacts lie below it, apart from those of daily work.
#[cfg(target_arch = "aarch64")]
const TRIPLE: &str = "aarch64-unknown-linux-gnu";
#[cfg(not(target_arch = "aarch64"))]
const TRIPLE: &str = "x86_64-unknown-linux-gnu";
const TARGETS: [&str; 8] = [
    "request_head",
    "path",
    "xds",
    "route_match",
    "sniff",
    "chunked_body",
    "wire_head",
    "jwt",
];
const INPUT_LIMIT_SECONDS: u32 = 10;
const MEMORY_LIMIT_MIB: u32 = 2048;
const DEFAULT_SECONDS: u64 = 60;

/// `TARGET [--for DURATION]`.
///
/// # Errors
/// There is no such target, the build fails, or an input breaks a property: libFuzzer names the file that holds it.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let (target, seconds) = parse(args)?;
    let name = TARGETS
        .into_iter()
        .find(|name| *name == target)
        .ok_or_else(|| format!("no target \"{target}\"; there are: {}", names()))?;
    let root = shell::project_root();
    let target_dir = shell::target_dir()?;
    let mut build = shell::cargo();
    build
        .args(["build", "--release", "--locked", "--target", TRIPLE])
        .args(["--bin", name])
        .arg("--target-dir")
        .arg(&target_dir)
        .current_dir(root.join("fuzz"))
        .env("RUSTFLAGS", INSTRUMENTATION);
    shell::run(&mut build)?;
    // New inputs are kept beside the build; what is worth keeping for good is copied to fuzz/corpus by hand, small.
    let found = target_dir.join("fuzz").join(name);
    let broken = root.join("fuzz/artifacts").join(name);
    for folder in [&found, &broken] {
        std::fs::create_dir_all(folder)
            .map_err(|error| format!("cannot make {}: {error}", folder.display()))?;
    }
    let program = target_dir.join(TRIPLE).join("release").join(name);
    shell::run(
        Command::new(program)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={INPUT_LIMIT_SECONDS}"))
            .arg(format!("-rss_limit_mb={MEMORY_LIMIT_MIB}"))
            .arg(format!("-artifact_prefix={}/", broken.display()))
            .arg("-print_final_stats=1")
            .arg(&found)
            .arg(corpus(&root, name)),
    )
}

fn corpus(root: &Path, name: &str) -> std::path::PathBuf {
    root.join("fuzz/corpus").join(name)
}

fn names() -> String {
    TARGETS.join(", ")
}

fn parse(args: &[String]) -> Result<(&str, u64), String> {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [target] => Ok((target, DEFAULT_SECONDS)),
        [target, "--for", time] => seconds(time)
            .map(|seconds| (*target, seconds))
            .ok_or_else(|| format!("\"{time}\" is no duration such as 90s or 10m")),
        _ => Err(format!(
            "usage: cargo xtask fuzz TARGET [--for 10m]; targets: {}",
            names()
        )),
    }
}

/// `90s`, `10m`, `1h`.
fn seconds(time: &str) -> Option<u64> {
    let unit = match time.chars().last()? {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        _ => return None,
    };
    let number = time.get(..time.len() - 1)?.parse::<u64>().ok()?;
    number.checked_mul(unit).filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_its_arguments() {
        let args = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(parse(&args(&["xds"])), Ok(("xds", 60)));
        assert_eq!(parse(&args(&["xds", "--for", "10m"])), Ok(("xds", 600)));
        assert!(parse(&args(&["xds", "--for", "long"])).is_err());
        assert!(parse(&[]).is_err());
    }
}
