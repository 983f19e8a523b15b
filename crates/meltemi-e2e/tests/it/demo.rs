//! The tour, as the person for whom it was made runs it: without root.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use meltemi_e2e::programs;

/// The uid and gid of `nobody`.
const NOBODY: u32 = 65534;

#[test]
fn every_proof_of_the_demo_holds_without_root() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    std::fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o755))
        .expect("a temporary folder can be opened");
    for program in ["meltemi", "meltemi-proxy", "meltemi-apps"] {
        std::fs::copy(programs().join(program), folder.path().join(program))
            .expect("the programs are built");
    }
    let mut demo = Command::new(folder.path().join("meltemi"));
    demo.args(["demo", "--once"])
        .stdin(Stdio::null())
        .current_dir("/")
        .env_remove("XDG_RUNTIME_DIR");
    if std::fs::metadata("/proc/self").expect("this process").uid() == 0 {
        demo.uid(NOBODY).gid(NOBODY).env("HOME", "/nonexistent");
    }
    let output = demo.output().expect("the demo starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success(),
        "{text}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(text.contains("7 of 7 proofs held"), "{text}");
}
