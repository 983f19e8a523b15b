use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Load, Output};

/// A lab of its own for one test, gone when the test ends.
#[derive(Debug)]
pub struct Lab {
    name: String,
}

impl Lab {
    /// The name of a lab that the first command will start.
    pub fn unborn(name: &str) -> Self {
        Self {
            name: format!("it-{name}-{}", std::process::id()),
        }
    }

    /// Starts an empty lab whose default namespace is labelled for injection.
    ///
    /// # Panics
    /// The lab does not start: a tier that cannot run fails.
    #[track_caller]
    pub fn up(name: &str, flags: &[&str]) -> Self {
        let lab = Self::unborn(name);
        let mesh = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/mesh.yaml");
        let mut args = vec!["lab", "up", "--wait", "--mesh-config", mesh];
        args.extend(flags);
        lab.meltemi(&args).ok();
        lab.meltemi(&[
            "lab",
            "label",
            "namespace",
            "default",
            "istio-injection=enabled",
        ])
        .ok();
        lab
    }

    /// Starts a lab with Istio's own bookinfo in it and waits until all is ready.
    #[track_caller]
    pub fn bookinfo(name: &str, flags: &[&str]) -> Self {
        let lab = Self::up(name, flags);
        lab.apply_file(&crate::istio("bookinfo/platform/kube/bookinfo.yaml"));
        lab.wait_ready();
        lab
    }

    /// A meshed echo server and an unmeshed client in the namespace `outside`.
    #[track_caller]
    pub fn add_echo_and_outsider(&self) {
        self.apply_file(&crate::sample("echo/echo.yaml"));
        self.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: outside\n");
        self.meltemi(&[
            "lab",
            "apply",
            "-n",
            "outside",
            "-f",
            &crate::istio("curl/curl.yaml"),
        ])
        .ok();
        self.wait_ready();
    }

    /// Runs one of the project's commands against this lab.
    pub fn meltemi(&self, args: &[&str]) -> Output {
        self.feed(args, "")
    }

    pub fn feed(&self, args: &[&str], input: &str) -> Output {
        let mut command = self.command("meltemi", args);
        let line = format!("meltemi {}", args.join(" "));
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
        let mut stdin = child.stdin.take().expect("stdin is piped");
        if let Err(error) = stdin.write_all(input.as_bytes()) {
            println!("`{line}` did not read its input: {error}");
        }
        drop(stdin);
        let output = child
            .wait_with_output()
            .expect("a started command can be waited for");
        Output::new(line, output.status, &output.stdout, &output.stderr)
    }

    #[track_caller]
    pub fn apply(&self, yaml: &str) -> String {
        self.feed(&["lab", "apply", "-f", "-"], yaml).ok()
    }

    #[track_caller]
    pub fn apply_file(&self, path: &str) -> String {
        self.meltemi(&["lab", "apply", "-f", path]).ok()
    }

    /// Waits until every pod of the lab is ready.
    #[track_caller]
    pub fn wait_ready(&self) {
        self.meltemi(&["lab", "up", "--wait"]).ok();
    }

    pub fn exec(&self, target: &str, container: &str, call: &[&str]) -> Output {
        let (target, namespace) = target.split_once('.').unwrap_or((target, "default"));
        let mut args = vec![
            "lab", "exec", target, "-n", namespace, "-c", container, "--",
        ];
        args.extend(call);
        self.meltemi(&args)
    }

    /// Calls a URL with curl from an application container; returns curl's exit status and the HTTP status.
    pub fn curl(&self, target: &str, container: &str, args: &[&str]) -> (i32, String, Output) {
        let mut call = vec![
            "curl",
            "-sS",
            "-m",
            "5",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ];
        call.extend(args);
        let output = self.exec(target, container, &call);
        (output.status, output.stdout.trim().to_owned(), output)
    }

    /// The answer of a proxy's admin port.
    #[track_caller]
    pub fn admin(&self, target: &str, path: &str) -> Value {
        self.exec(
            target,
            "istio-proxy",
            &["pilot-agent", "request", "GET", path],
        )
        .json()
    }

    /// Sets the mTLS mode of the default namespace and waits until the proxy of `target` runs in it, and its callers know.
    #[track_caller]
    pub fn set_mode(&self, mode: &str, target: &str) {
        self.apply(&format!(
            "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata:\n  name: default\n  namespace: default\n\
             spec:\n  mtls:\n    mode: {mode}\n"
        ));
        eventually(&format!("{target} runs in {mode}"), || {
            let tls = self.admin(target, "tls");
            let ports = tls["inbound"].as_array().cloned().unwrap_or_default();
            (!ports.is_empty() && ports.iter().all(|port| port["mode"] == mode)).then_some(())
        });
        self.wait_ready();
    }

    /// Starts the load generator in an application container.
    #[track_caller]
    pub fn load(&self, target: &str, container: &str, args: &[&str]) -> Load {
        let mut call = vec![
            "lab",
            "exec",
            target,
            "-c",
            container,
            "--",
            "meltemi-apps",
            "client",
        ];
        call.extend(args);
        let line = format!("meltemi {}", call.join(" "));
        let child = self
            .command("meltemi", &call)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
        Load { child, line }
    }

    #[track_caller]
    pub fn pods(&self, namespace: &str) -> Vec<Value> {
        let list = self
            .meltemi(&["lab", "get", "pods", "-n", namespace, "-o", "json"])
            .json();
        list["items"].as_array().cloned().unwrap_or_default()
    }

    /// A program of the machine that will run one of ours against this lab.
    pub fn command_outside(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("MELTEMI_LAB", &self.name);
        command
    }

    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(programs().join(program));
        command.args(args).env("MELTEMI_LAB", &self.name);
        command
    }
}

/// Lines of a sidecar's log that a report shows.
const REPORTED: usize = 12;

impl Lab {
    /// What the sidecars' access logs say of requests that failed, and the last that they said of themselves.
    fn print_failed_requests(&self) {
        let path = "jsonpath={.items[*].metadata.name}";
        let pods = self.meltemi(&["lab", "get", "pods", "-o", path]).stdout;
        for pod in pods.split_whitespace() {
            let log = self.meltemi(&["lab", "logs", pod, "-c", "istio-proxy"]);
            let (requests, own): (Vec<&str>, Vec<&str>) =
                log.stdout.lines().partition(|line| line.starts_with('['));
            println!("--- {pod}");
            let failed = requests.into_iter().filter(|line| is_failed(line));
            let last = own.len().saturating_sub(REPORTED);
            for line in failed.take(REPORTED).chain(own.into_iter().skip(last)) {
                println!("{line}");
            }
        }
    }
}

/// Whether a line of Istio's default format has a response flag.
fn is_failed(line: &str) -> bool {
    let mut behind_request = line.splitn(3, '"').skip(2).flat_map(str::split_whitespace);
    behind_request.nth(1).is_some_and(|flags| flags != "-")
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for args in [
                &["lab", "get", "pods", "-A", "-o", "wide"][..],
                &["lab", "status"],
            ] {
                println!("--- {}\n{}", args.join(" "), self.meltemi(args).stdout);
            }
            self.print_failed_requests();
        }
        let down = self.meltemi(&["lab", "down"]);
        if down.status != 0 {
            println!("the lab did not go down: {}", down.stderr);
        }
    }
}

/// Where the built programs lie: named by the runner, else beside the test program.
///
/// # Panics
/// The test program has no path.
pub fn programs() -> PathBuf {
    std::env::var_os("MELTEMI_PROGRAMS").map_or_else(
        || {
            let test = std::env::current_exe().expect("a test program has a path");
            test.ancestors()
                .nth(2)
                .expect("it lies in target/debug/deps")
                .to_owned()
        },
        PathBuf::from,
    )
}

/// Asks again and again until there is an answer, for a time that a loaded machine needs, too.
///
/// # Panics
/// Time runs out.
#[track_caller]
pub fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within a minute: {what}");
        std::thread::park_timeout(Duration::from_millis(50));
    }
}
