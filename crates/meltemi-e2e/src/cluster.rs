use std::io::Write as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use crate::{Output, Summary, eventually, programs, project_root};

/// A Kubernetes cluster with the mesh in it: the one of `KUBECONFIG`, in which the control plane is installed once.
#[derive(Debug)]
pub struct Cluster(());

static CLUSTER: OnceLock<Cluster> = OnceLock::new();

impl Cluster {
    /// # Panics
    /// There is no cluster, or the control plane does not get ready in it.
    pub fn shared() -> &'static Self {
        CLUSTER.get_or_init(|| {
            assert!(
                std::env::var_os("KUBECONFIG").is_some(),
                "these tests need a cluster: `cargo xtask kube test` brings one up"
            );
            let cluster = Self(());
            let install = ["install", "--wait", "--timeout", "90s", "-y"];
            cluster.meltemi(&install).ok();
            cluster
        })
    }

    pub fn kubectl(&self, args: &[&str]) -> Output {
        run(Command::new("kubectl").args(args), None)
    }

    /// The program, under its own name.
    pub fn meltemi(&self, args: &[&str]) -> Output {
        run(Command::new(programs().join("meltemi")).args(args), None)
    }

    pub fn meltemi_with(&self, args: &[&str], input: &str) -> Output {
        run(
            Command::new(programs().join("meltemi")).args(args),
            Some(input),
        )
    }

    /// Helm, as `cargo xtask test` makes it.
    pub fn helm(&self, args: &[&str]) -> Output {
        let program = std::env::var_os("HELM_BINARY").unwrap_or_else(|| "helm".into());
        run(Command::new(program).args(args), None)
    }

    /// A line of a shell, in the project's folder and with its programs at hand, as somebody types it who reads about it.
    pub fn shell(&self, line: &str) -> Output {
        let path = std::env::var("PATH").unwrap_or_default();
        let path = format!("{}:{path}", programs().display());
        let mut shell = Command::new("sh");
        shell.current_dir(project_root()).env("PATH", path);
        run(shell.args(["-c", line]), None)
    }

    /// A command inside of one of the test bed's nodes.
    ///
    /// # Panics
    /// The cluster is not the test bed's.
    pub fn on_node(&self, node: &str, script: &str) -> Output {
        assert!(
            std::env::var_os("MELTEMI_KUBE_DIR").is_some(),
            "this test needs the cluster of `cargo xtask kube test`"
        );
        let words = ["node", node, "--", "sh", "-c", script];
        run(
            Command::new(programs().join("meltemi-testbed")).args(words),
            None,
        )
    }

    /// `kubectl apply` of a text.
    pub fn apply(&self, flags: &[&str], manifest: &str) -> Output {
        let apply = ["apply", "-f", "-"];
        let mut kubectl = Command::new("kubectl");
        run(kubectl.args(apply).args(flags), Some(manifest))
    }
}

/// A namespace of one test, gone at its end.
#[derive(Debug)]
pub struct Namespace {
    pub name: String,
    cluster: &'static Cluster,
}

impl Namespace {
    /// # Panics
    /// It cannot be made.
    pub fn new(name: &str, labels: &[&str]) -> Self {
        let cluster = Cluster::shared();
        let namespace = Self {
            name: format!("{name}-{}", std::process::id()),
            cluster,
        };
        cluster
            .kubectl(&["create", "namespace", &namespace.name])
            .ok();
        if !labels.is_empty() {
            let label = [&["label", "namespace", &namespace.name], labels].concat();
            cluster.kubectl(&label).ok();
        }
        namespace
    }

    /// One with `istio-injection=enabled`.
    pub fn injected(name: &str) -> Self {
        Self::new(name, &["istio-injection=enabled"])
    }

    pub fn kubectl(&self, args: &[&str]) -> Output {
        self.cluster.kubectl(&[&["-n", &self.name], args].concat())
    }

    pub fn apply(&self, manifest: &str) -> Output {
        self.cluster.apply(&["-n", &self.name], manifest)
    }

    /// Waits until a condition of an object holds, such as `condition=Ready` or `jsonpath={.status.phase}=Succeeded`.
    ///
    /// # Panics
    /// It does not, within the time.
    pub fn wait_for(&self, condition: &str, object: &str, seconds: u32) {
        let condition = format!("--for={condition}");
        let timeout = format!("--timeout={seconds}s");
        self.kubectl(&["wait", &condition, object, &timeout]).ok();
    }

    /// Traffic from a pod of the namespace: the load generator with these arguments. It needs no API server once it runs.
    ///
    /// # Panics
    /// The pod does not get ready.
    pub fn load(&self, name: &str, arguments: &[&str]) -> PodLoad<'_> {
        self.load_where("", name, arguments)
    }

    /// The same, on a node.
    ///
    /// # Panics
    /// As [`Self::load`].
    pub fn load_on(&self, node: &str, name: &str, arguments: &[&str]) -> PodLoad<'_> {
        self.load_where(&format!("nodeName: {node}, "), name, arguments)
    }

    fn load_where(&self, node: &str, name: &str, arguments: &[&str]) -> PodLoad<'_> {
        let arguments: Vec<String> = arguments.iter().map(|word| format!("{word:?}")).collect();
        let pod = format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\n\
             spec: {{{node}restartPolicy: Never, terminationGracePeriodSeconds: 1, containers: [{{name: load, image: 'meltemi/echo:dev', command: [/usr/local/bin/meltemi-apps, client, {}]}}]}}\n",
            arguments.join(", ")
        );
        self.apply(&pod).ok();
        let pod = format!("pod/{name}");
        self.wait_for("condition=Ready", &pod, 60);
        PodLoad {
            namespace: self,
            pod,
        }
    }

    pub fn exec(&self, target: &str, container: &str, command: &[&str]) -> Output {
        let exec = ["exec", target, "-c", container, "--"];
        self.kubectl(&[&exec, command].concat())
    }

    /// Every pod is ready.
    ///
    /// # Panics
    /// It is not, within two minutes.
    pub fn wait_ready(&self) {
        // A deployment that was just made has no pods to wait for yet.
        eventually("there are pods", || {
            let pods = self.kubectl(&["get", "pods", "-o", "name"]).ok();
            (!pods.trim().is_empty()).then_some(())
        });
        let wait = [
            "wait",
            "--for=condition=Available",
            "deploy",
            "--all",
            "--timeout=120s",
        ];
        self.kubectl(&wait).ok();
    }
}

/// Traffic that runs in a pod of its own.
#[derive(Debug)]
pub struct PodLoad<'a> {
    namespace: &'a Namespace,
    pod: String,
}

impl PodLoad<'_> {
    /// Waits for the load to end by itself.
    ///
    /// # Panics
    /// It does not end within the time, or printed no summary.
    #[track_caller]
    pub fn finish(self, seconds: u32) -> Summary {
        // A summary is printed whether all went well or not.
        let done = "jsonpath={.status.containerStatuses[0].state.terminated.reason}";
        self.namespace.wait_for(done, &self.pod, seconds);
        let logs = ["logs", &self.pod, "-c", "load"];
        let output = self.namespace.kubectl(&logs);
        Summary::read(&output.line, &output.stdout, &output.stderr)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let delete = ["delete", "namespace", &self.name, "--wait=false"];
        let deleted = self.cluster.kubectl(&delete);
        if deleted.status != 0 {
            println!("namespace {} stays: {}", self.name, deleted.stderr);
        }
    }
}

fn run(command: &mut Command, input: Option<&str>) -> Output {
    let words = command.get_args().map(|word| word.to_string_lossy());
    let line = std::iter::once(command.get_program().to_string_lossy())
        .chain(words)
        .collect::<Vec<_>>()
        .join(" ");
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start `{line}`: {error}"));
    let mut stdin = child.stdin.take().expect("it is piped");
    let input = input.unwrap_or_default().to_owned();
    // Whoever does not read it has ended already, and says why.
    let feeder = std::thread::spawn(move || drop(stdin.write_all(input.as_bytes())));
    let output = child.wait_with_output();
    let output = output.unwrap_or_else(|error| panic!("cannot wait for `{line}`: {error}"));
    drop(feeder.join());
    Output::new(line, output.status, &output.stdout, &output.stderr)
}
