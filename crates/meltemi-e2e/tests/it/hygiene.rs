//! What a lab leaves behind: nothing.

use std::process::Command;

use meltemi_e2e::{Lab, eventually};

fn machine() -> String {
    let run = |program: &str, args: &[&str]| {
        let output = Command::new(program)
            .args(args)
            .output()
            .unwrap_or_else(|error| panic!("cannot start {program}: {error}"));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let links = std::fs::read_to_string("/proc/net/dev").expect("the machine lists its links");
    let names: Vec<&str> = links
        .lines()
        .skip(2)
        .filter_map(|line| line.split(':').next())
        .collect();
    let routes = std::fs::read_to_string("/proc/net/route").expect("the machine lists its routes");
    let mounts = std::fs::read_to_string("/proc/mounts").expect("the machine lists its mounts");
    let forward = std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
        .expect("the machine has the setting");
    format!(
        "{names:?}\n{routes}\n{mounts}\n{forward}\n{}",
        run("nft", &["list", "ruleset"])
    )
}

fn lab_processes(name: &str) -> usize {
    let processes = std::fs::read_dir("/proc")
        .expect("the machine lists its processes")
        .flatten();
    let marker = format!("MELTEMI_LAB={name}");
    processes
        .filter_map(|process| std::fs::read(process.path().join("environ")).ok())
        .filter(|environ| {
            environ
                .split(|byte| *byte == 0)
                .any(|entry| entry == marker.as_bytes())
        })
        .count()
}

#[test]
fn nothing_survives_down_or_a_crash() {
    let before = machine();
    let lab = Lab::bookinfo("hygiene", &[]);
    assert_eq!(
        machine(),
        before,
        "a running lab changes nothing of the machine's network or mounts"
    );
    let status = lab.meltemi(&["lab", "status", "-o", "json"]).json();
    let supervisor = status["supervisor_pid"]
        .as_u64()
        .expect("status names the supervisor")
        .to_string();
    let name = status["name"]
        .as_str()
        .expect("status names the lab")
        .to_owned();
    Command::new("kill")
        .args(["-9", &supervisor])
        .status()
        .expect("kill runs");
    eventually("the kernel ended every process of the lab", || {
        (lab_processes(&name) == 0).then_some(())
    });
    assert_eq!(machine(), before);
}
