//! `cargo xtask test`: every tier, streamed as it runs, counted at the end.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use crate::{kube, setup, shell};

/// The module of the tests that keep traffic up for minutes.
const ENDURANCE: &str = "endurance::";

/// The tiers in the order in which they are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Tier {
    Unit,
    Golden,
    Simulation,
    Protocol,
    Proxy,
    Lab,
    ApiServer,
    Cluster,
}

impl Tier {
    const ALL: [Self; 8] = [
        Self::Unit,
        Self::Golden,
        Self::Simulation,
        Self::Protocol,
        Self::Proxy,
        Self::Lab,
        Self::ApiServer,
        Self::Cluster,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Golden => "golden",
            Self::Simulation => "simulation",
            Self::Protocol => "protocol",
            Self::Proxy => "proxy in memory",
            Self::Lab => "lab end to end",
            Self::ApiServer => "API server",
            Self::Cluster => "cluster end to end",
        }
    }

    /// Which tier a test belongs to, by its crate and its module path.
    fn of(crate_name: &str, test: &str) -> Self {
        match crate_name {
            "meltemi_e2e" | "it" => Self::Lab,
            "api_server" => Self::ApiServer,
            "kube" => Self::Cluster,
            _ if test.contains("golden") || crate_name == "golden" => Self::Golden,
            _ if test.contains("simulation") || crate_name == "simulation" => Self::Simulation,
            "meltemi_xds" | "protocol" | "conformance" => Self::Protocol,
            "meltemi_proxy" | "proxy" => Self::Proxy,
            _ => Self::Unit,
        }
    }
}

#[derive(Default)]
struct Count {
    passed: u32,
    failed: u32,
}

/// # Errors
/// Set-up or build fails, a test fails, or a tier ran no test although none was filtered.
pub(crate) fn run(args: &[String]) -> Result<(), String> {
    let filters: Vec<String> = args.iter().filter(|arg| *arg != "--").cloned().collect();
    setup::run()?;
    let envoy = setup::envoy()?;
    let helm = setup::helm()?;
    let programs = shell::build_programs()?;

    let mut tally = Tally::default();
    let mut inner = shell::cargo();
    inner
        .args([
            "test",
            "--locked",
            "--no-fail-fast",
            "--workspace",
            "--exclude",
            "meltemi-e2e",
            "--",
        ])
        .args(&filters);
    inner.env("ENVOY_BINARY", &envoy).env("HELM_BINARY", &helm);
    tally.run(&mut inner)?;
    let mut lab = |arguments: &[&str]| {
        let mut lab = shell::cargo();
        lab.args([
            "test",
            "--locked",
            "--no-fail-fast",
            "-p",
            "meltemi-e2e",
            "--",
        ]);
        lab.args(arguments).args(&filters);
        lab.env("MELTEMI_PROGRAMS", &programs)
            .env("MELTEMI_ENVOY", &envoy);
        tally.run(&mut lab)
    };
    if filters.is_empty() {
        // One lab at a time: some of these measure times. Endurance tests wait for most of theirs.
        lab(&["--test-threads=1", "--skip", ENDURANCE])?;
        lab(&["--test-threads=2", ENDURANCE])?;
    } else {
        lab(&["--test-threads=1"])?;
    }
    if filters.is_empty() || kube::test::any_named(&filters)? {
        kube::test::run_with(&filters, &mut |tests| tally.run(tests))?;
    }
    tally.report(filters.is_empty())
}

/// What the runs so far have shown.
#[derive(Default)]
struct Tally {
    counts: BTreeMap<Tier, Count>,
    failures: Vec<String>,
}

impl Tally {
    /// Runs `cargo test`, passes its output on and counts each line `test NAME ... ok`.
    fn run(&mut self, command: &mut Command) -> Result<(), String> {
        let line = shell::display(command);
        // Cargo names the test program on stderr, libtest its tests on stdout: one pipe keeps them in order.
        let script = "exec \"$@\" 2>&1";
        let mut merged = Command::new("sh");
        merged
            .args(["-c", script, "sh"])
            .arg(command.get_program())
            .args(command.get_args());
        merged.envs(
            command
                .get_envs()
                .filter_map(|(key, value)| value.map(|value| (key, value))),
        );
        merged
            .current_dir(shell::project_root())
            .stdout(Stdio::piped());
        let mut child = merged
            .spawn()
            .map_err(|error| format!("cannot start `{line}`: {error}"))?;
        let output = child
            .stdout
            .take()
            .ok_or("the output of cargo test is not piped")?;
        let mut crate_name = String::new();
        // A test whose own output stands between its name and its verdict.
        let mut begun: Option<String> = None;
        let failures_before = self.failures.len();
        for text in BufReader::new(output).lines() {
            let text =
                text.map_err(|error| format!("cannot read the output of `{line}`: {error}"))?;
            println!("{text}");
            if let Some(name) = running(&text) {
                crate_name = name;
            } else if let Some((test, passed)) = outcome(&text) {
                match passed {
                    Some(passed) => self.count(&crate_name, test, passed),
                    None => begun = Some(test.to_owned()),
                }
            } else if let (Some(test), Some(passed)) = (&begun, verdict(&text)) {
                self.count(&crate_name, test, passed);
                begun = None;
            }
        }
        let status = child.wait().map_err(|error| format!("`{line}`: {error}"))?;
        if !status.success() && self.failures.len() == failures_before {
            self.failures.push(format!("`{line}` ended with {status}"));
        }
        Ok(())
    }

    fn count(&mut self, crate_name: &str, test: &str, passed: bool) {
        let count = self.counts.entry(Tier::of(crate_name, test)).or_default();
        if passed {
            count.passed += 1;
        } else {
            count.failed += 1;
            self.failures.push(format!("{crate_name}: {test}"));
        }
    }

    fn report(&self, complete: bool) -> Result<(), String> {
        let (mut passed, mut failed, mut empty) = (0, 0, Vec::new());
        println!("\nTests per tier");
        for tier in Tier::ALL {
            let count = self.counts.get(&tier);
            let (ok, bad) = count.map_or((0, 0), |count| (count.passed, count.failed));
            println!("  {:<18} {ok:>5} passed {bad:>3} failed", tier.name());
            passed += ok;
            failed += bad;
            if ok + bad == 0 {
                empty.push(tier.name());
            }
        }
        for failure in &self.failures {
            println!("  FAILED {failure}");
        }
        println!("{passed} passed, {failed} failed");
        if !self.failures.is_empty() {
            return Err(format!("{} failures", self.failures.len()));
        }
        if complete && !empty.is_empty() {
            return Err(format!("no test ran in: {}", empty.join(", ")));
        }
        Ok(())
    }
}

/// The crate of a line such as `     Running unittests src/lib.rs (target/debug/deps/meltemi_xds-0123456789abcdef)`.
fn running(line: &str) -> Option<String> {
    let line = line.trim_start();
    if !line.starts_with("Running ") && !line.starts_with("Doc-tests ") {
        return None;
    }
    let file = line.rsplit(['/', ' ']).next()?.trim_end_matches(')');
    Some(
        file.rsplit_once('-')
            .map_or(file, |(name, _hash)| name)
            .to_owned(),
    )
}

/// The test of a line such as `test golden::bookinfo ... ok`, and whether it passed if the line says so.
fn outcome(line: &str) -> Option<(&str, Option<bool>)> {
    let (test, result) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((test, verdict(result)))
}

fn verdict(text: &str) -> Option<bool> {
    match text.trim() {
        "ok" => Some(true),
        "FAILED" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_lines_of_cargo_test() {
        let line =
            "     Running unittests src/lib.rs (/x/target/debug/deps/meltemi_xds-0123456789abcdef)";
        assert_eq!(running(line).as_deref(), Some("meltemi_xds"));
        assert_eq!(running("running 3 tests"), None);
        assert_eq!(
            outcome("test golden::a ... ok"),
            Some(("golden::a", Some(true)))
        );
        assert_eq!(outcome("test a ... FAILED"), Some(("a", Some(false))));
        assert_eq!(outcome("test a ... "), Some(("a", None)));
        assert_eq!(verdict("FAILED"), Some(false));
        assert_eq!(verdict("Session terminated, killing shell..."), None);
        assert_eq!(outcome("test result: ok. 1 passed"), None);
    }

    #[test]
    fn sorts_tests_into_tiers() {
        assert_eq!(Tier::of("meltemi_xds", "server::nack"), Tier::Protocol);
        assert_eq!(Tier::of("meltemi_xdsgen", "golden::bookinfo"), Tier::Golden);
        assert_eq!(Tier::of("it", "guide::inject"), Tier::Lab);
        assert_eq!(Tier::of("kube", "guide::the_guide"), Tier::Cluster);
        assert_eq!(Tier::of("meltemi_core", "hostname::tests::x"), Tier::Unit);
    }
}
