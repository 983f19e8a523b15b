//! The core of the cases in every test run: the program as people call it, against the proxy that was just built.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The proxy of this build: named by `MELTEMI_PROGRAMS`, or beside this test.
fn proxy() -> PathBuf {
    let beside = || {
        let program = Path::new(env!("CARGO_BIN_EXE_meltemi-conformance"));
        program.parent().map(Path::to_owned)
    };
    let folder = std::env::var_os("MELTEMI_PROGRAMS")
        .map(PathBuf::from)
        .or_else(beside)
        .expect("programs lie in a folder");
    let proxy = folder.join("meltemi-proxy");
    assert!(
        proxy.is_file(),
        "{} is not there: `cargo build --bin meltemi-proxy`, or `cargo xtask test`",
        proxy.display()
    );
    proxy
}

fn holds(group: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_meltemi-conformance"))
        .args(["http", "--core", "--only", group, "--proxy"])
        .arg(proxy())
        .env_remove("ENVOY_BINARY")
        .output()
        .expect("the program starts");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn no_request_comes_out_of_another() {
    holds("smuggling");
}

#[test]
fn frames_out_of_line_are_answered_as_the_rfc_says() {
    holds("http2");
}
