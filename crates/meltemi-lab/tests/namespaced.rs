//! A lab in real namespaces: two pods behind a Service, a pod that asks, and what is left afterwards.
//!
//! Runs as whoever runs it: as root with real uids, otherwise in a user namespace. As root it runs a second time as
//! `nobody`. Says so when the machine allows no namespaces.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failure here is the test's result"
)]

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::process::{Command, ExitCode};
use std::time::Duration;

use http::Method;
use http_body_util::BodyExt as _;
use meltemi_lab::client::LabClient;
use meltemi_lab::launch::{self, LaunchError, Options};
use meltemi_lab::wire::{Handover, Mark, MarkField, Outcome, Restart, Validation};
use tokio::time::{Instant, sleep};

const MANIFEST: &str = r#"
apiVersion: v1
kind: ConfigMap
metadata: {name: page}
data: {index: "hello from $(POD)"}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: http}]
---
apiVersion: v1
kind: Service
metadata: {name: nobody}
spec:
  selector: {app: none}
  ports: [{name: http, port: 80}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 3
      initContainers:
      - {name: prepare, image: busybox, command: [sh, -c, "echo $POD >/data/who"], env: [{name: POD, valueFrom: {fieldRef: {fieldPath: metadata.name}}}], volumeMounts: [{name: data, mountPath: /data}]}
      containers:
      - name: web
        image: nginx
        command: [sh, -c, 'cd /data && cp /page/index index && exec python3 -m http.server $PORT']
        env: [{name: PORT, value: "8080"}]
        ports: [{name: http, containerPort: 8080}]
        readinessProbe: {httpGet: {path: /who, port: http}, periodSeconds: 1}
        # As in a cluster: a connection that was on its way when the endpoint left needs a server that has not ended yet.
        lifecycle: {preStop: {exec: {command: [sleep, "1"]}}}
        volumeMounts: [{name: data, mountPath: /data}, {name: page, mountPath: /page}]
      volumes:
      - {name: data, emptyDir: {}}
      - {name: page, configMap: {name: page}}
---
apiVersion: v1
kind: Service
metadata: {name: set}
spec:
  clusterIP: None
  selector: {app: set}
  ports: [{name: http, port: 8080}]
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: set}
spec:
  replicas: 2
  serviceName: set
  selector: {matchLabels: {app: set}}
  template:
    metadata: {labels: {app: set}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - {name: main, image: busybox, command: [sleep, infinity]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    spec:
      restartPolicy: Never
      containers:
      - {name: main, image: busybox, command: [sh, -c, "echo first; echo second"]}
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  containers:
  - {name: main, image: busybox, command: [sleep, infinity]}
"#;

/// The one test of this program.
const NAME: &str = "a_lab_in_namespaces";

fn main() -> ExitCode {
    if let Some(code) = launch::intercept() {
        return code;
    }
    if std::env::args().any(|argument| argument == "--list") {
        println!("{NAME}: test");
        return ExitCode::SUCCESS;
    }
    if !is_wanted(std::env::args().skip(1)) {
        return ExitCode::SUCCESS;
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let name = format!("test-{}", std::process::id());
    let options = Options {
        name: name.clone(),
        images: None,
        workload_cert_ttl: None,
        mesh_config: None,
    };
    match launch::start(&options) {
        Ok(()) => {}
        Err(LaunchError::Refused(why)) if why.contains("namespaces") => {
            println!("NOT RUN: {why}");
            // Where everything must hold, what cannot be tried has failed.
            return ExitCode::from(u8::from(std::env::var_os("CI").is_some()));
        }
        Err(error) => panic!("{error}"),
    }
    let client = LabClient::new(&name);
    let outcome = runtime.block_on(async { tokio::spawn(story(client.clone())).await });
    runtime.block_on(client.down()).unwrap();
    runtime.block_on(gone(&client));
    outcome.unwrap();
    for victim in [Victim::Supervisor, Victim::Outer] {
        launch::start(&options).unwrap();
        runtime.block_on(crash(&client, victim));
    }
    println!(
        "test {NAME} ({}) ... ok",
        if is_root() { "root" } else { "user namespace" }
    );
    if is_root() {
        as_nobody()
    } else {
        ExitCode::SUCCESS
    }
}

/// As libtest reads its arguments: any of the filters, or none given, and none of the skipped.
fn is_wanted(arguments: impl Iterator<Item = String>) -> bool {
    let (mut filters, mut skipped) = (Vec::new(), Vec::new());
    let mut arguments = arguments;
    while let Some(argument) = arguments.next() {
        if argument == "--skip" {
            skipped.extend(arguments.next());
        } else if let Some(skip) = argument.strip_prefix("--skip=") {
            skipped.push(skip.to_owned());
        } else if !argument.starts_with('-') {
            filters.push(argument);
        }
    }
    let names = |filter: &String| NAME.contains(filter.as_str());
    (filters.is_empty() || filters.iter().any(names)) && !skipped.iter().any(names)
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Runs this test again without any privilege, from a copy that everyone can read.
fn as_nobody() -> ExitCode {
    let folder = tempfile::tempdir().unwrap();
    let program = folder.path().join("namespaced");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    std::fs::set_permissions(
        folder.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    let status = Command::new("setpriv")
        .args([
            "--reuid",
            "65534",
            "--regid",
            "65534",
            "--clear-groups",
            "--",
        ])
        .arg(&program)
        .env_remove("XDG_RUNTIME_DIR")
        .current_dir("/")
        .status();
    match status {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(status) => panic!("as nobody: {status}"),
        Err(error) => {
            println!("NOT RUN as nobody: {error}");
            ExitCode::SUCCESS
        }
    }
}

async fn story(client: LabClient) {
    let report = client
        .apply(
            "default",
            "test.yaml",
            MANIFEST.to_owned(),
            Validation::Strict,
        )
        .await
        .unwrap();
    assert_eq!(
        (report.rejected, report.results.len()),
        (0, 8),
        "{:?}",
        report.diagnostics
    );
    let again = client
        .apply(
            "default",
            "test.yaml",
            MANIFEST.to_owned(),
            Validation::Strict,
        )
        .await
        .unwrap();
    assert!(
        again
            .results
            .iter()
            .all(|change| change.action == "unchanged"),
        "{:?}",
        again.results
    );
    ready(&client, 5).await;

    // Names, addresses and the balance between two pods.
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..40 {
        for host in [
            "web",
            "web.default",
            "web.default.svc",
            "web.default.svc.cluster.local",
        ] {
            let (status, text) = run(
                &client,
                "client",
                &format!("curl -sS -m 5 http://{host}/who"),
            );
            assert_eq!(status, 0, "{text}");
            seen.insert(text);
        }
        if seen.len() == 2 {
            break;
        }
    }
    assert_eq!(seen.len(), 2, "{seen:?}");
    // A Service without endpoints refuses, an unknown name does not exist, each at once.
    assert_eq!(run(&client, "client", "curl -s -m 5 http://nobody/").0, 7);
    assert_eq!(run(&client, "client", "curl -s -m 5 http://nowhere/").0, 6);

    // The container's own world.
    assert_eq!(run(&client, "client", "exit 42").0, 42);
    assert_eq!(run(&client, "client", "hostname").1, "client\n");
    assert_eq!(
        run(&client, "client", "grep CapEff /proc/self/status").1,
        "CapEff:\t0000000000000000\n"
    );
    assert_ne!(run(&client, "client", "touch /etc/x || touch /usr/x").0, 0);
    assert_eq!(run(&client, "client", "ls /run /tmp").1, "/run:\n\n/tmp:\n");
    let uid = if is_root() { "65532\n" } else { "0\n" };
    assert_eq!(run(&client, "client", "id -u").1, uid);
    assert_eq!(
        run(&client, "deploy/web", "cat /page/index").1,
        "hello from $(POD)"
    );

    // Pods of a StatefulSet have names; a Job ends, and its output stays.
    let name = "set-1.set.default.svc.cluster.local";
    assert!(
        run(&client, "client", &format!("getent hosts {name}"))
            .1
            .contains(name)
    );
    let job = || async {
        client.objects("Job", Some("default")).await.unwrap()[0]["status"]["succeeded"] == 1
    };
    let deadline = Instant::now() + Duration::from_secs(10);
    while !job().await {
        assert!(Instant::now() < deadline, "the job ends");
        sleep(Duration::from_millis(20)).await;
    }
    let log = client
        .stream("/logs?pod=job/once&tail=1")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap();
    assert_eq!(log.to_bytes(), "second\n");

    // A capture sees what passes the pod's link.
    let frames = client
        .stream("/capture?pod=client&millis=1500")
        .await
        .unwrap();
    let frames = tokio::spawn(frames.collect());
    assert_eq!(
        run(
            &client,
            "client",
            "curl -s -m 5 http://web/who -H 'x-marker: 7d1f0a'"
        )
        .0,
        0
    );
    let frames = frames.await.unwrap().unwrap().to_bytes();
    assert_eq!(frames[..4], [0xa1, 0xb2, 0xc3, 0xd4]);
    assert!(
        frames.windows(6).any(|bytes| bytes == b"7d1f0a"),
        "{} bytes",
        frames.len()
    );

    // Live changes: a ConfigMap reaches its volume.
    let map = "{apiVersion: v1, kind: ConfigMap, metadata: {name: page}, data: {index: changed}}";
    client
        .apply("default", "map.yaml", map.to_owned(), Validation::Strict)
        .await
        .unwrap();
    until("the volume follows", || {
        run(&client, "deploy/web", "cat /page/index").1 == "changed"
    })
    .await;

    // A rollout replaces every pod, and no request meets one that has ended.
    let before = pod_names(&client).await;
    let restart = Restart {
        kind: "Deployment".into(),
        name: "web".into(),
        namespace: "default".into(),
    };
    client.restart(&restart).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let (status, said) = run(&client, "client", "curl -sS -m 5 http://web/who");
        assert_eq!(status, 0, "{said}");
        let now = pod_names(&client).await;
        if now.len() == 2 && now.is_disjoint(&before) {
            break;
        }
        assert!(Instant::now() < deadline, "{before:?} -> {now:?}");
    }

    // A StatefulSet that is deleted and applied again has its pods again, new ones of the old names.
    let uids = set_uids(&client).await;
    assert_eq!(uids.len(), 2);
    let deleted = client.delete_object("StatefulSet", "default", "set", None);
    assert_eq!(deleted.await.unwrap().results[0].action, "deleted");
    let applied = client.apply(
        "default",
        "test.yaml",
        MANIFEST.to_owned(),
        Validation::Strict,
    );
    assert_eq!(applied.await.unwrap().rejected, 0);
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let now = set_uids(&client).await;
        if now.len() == 2 && now.is_disjoint(&uids) {
            break;
        }
        assert!(Instant::now() < deadline, "{uids:?} -> {now:?}");
        sleep(Duration::from_millis(50)).await;
    }
    ready(&client, 5).await;

    // Labels, and the port of a pod's own loopback.
    let values = [("istio-injection".to_owned(), Some("enabled".to_owned()))].into();
    let label = Mark {
        kind: "namespace".into(),
        name: "default".into(),
        namespace: String::new(),
        field: MarkField::Labels,
        values,
    };
    assert_eq!(
        client.mark(&label).await.unwrap().results[0].action,
        "labeled"
    );
    let pod = pod_names(&client).await.into_iter().next().unwrap();
    let (status, body) = client
        .pod_http("default", &pod, 8080, Method::GET, "/who")
        .await
        .unwrap();
    assert_eq!(
        (status.as_u16(), String::from_utf8_lossy(&body).trim()),
        (200, pod.as_str())
    );
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Supervisor,
    Outer,
}

/// A lab whose supervisor, or the process that watches over it, is killed leaves nothing behind.
async fn crash(client: &LabClient, victim: Victim) {
    let status = client.status().await.unwrap();
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", status.supervisor_pid)).unwrap();
    let parent = stat
        .rsplit_once(") ")
        .unwrap()
        .1
        .split(' ')
        .nth(1)
        .unwrap()
        .to_owned();
    let pid = match victim {
        Victim::Supervisor => status.supervisor_pid.to_string(),
        Victim::Outer => parent,
    };
    assert!(
        Command::new("kill")
            .args(["-9", &pid])
            .status()
            .unwrap()
            .success()
    );
    gone(client).await;
    assert!(!client.is_up().await, "{victim:?}");
}

async fn ready(client: &LabClient, pods: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = client.objects("Pod", Some("default")).await.unwrap();
        let is_ready = |pod: &&serde_json::Value| {
            let conditions = pod["status"]["conditions"]
                .as_array()
                .cloned()
                .unwrap_or_default();
            conditions
                .iter()
                .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
        };
        if found.iter().filter(is_ready).count() == pods {
            return;
        }
        let progress = client.progress().await.unwrap();
        assert!(Instant::now() < deadline, "{:?}", progress.waiting);
        sleep(Duration::from_millis(50)).await;
    }
}

async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !holds() {
        assert!(Instant::now() < deadline, "{what}");
        sleep(Duration::from_millis(20)).await;
    }
}

async fn pod_names(client: &LabClient) -> std::collections::BTreeSet<String> {
    let pods = client.objects("Pod", Some("default")).await.unwrap();
    let web = pods
        .iter()
        .filter(|pod| pod["metadata"]["labels"]["app"] == "web");
    web.map(|pod| pod["metadata"]["name"].as_str().unwrap().to_owned())
        .collect()
}

/// The pods of the StatefulSet that are not ending.
async fn set_uids(client: &LabClient) -> std::collections::BTreeSet<String> {
    let pods = client.objects("Pod", Some("default")).await.unwrap();
    let stays = |pod: &&serde_json::Value| {
        let metadata = &pod["metadata"];
        metadata["labels"]["app"] == "set" && metadata["deletionTimestamp"].is_null()
    };
    pods.iter()
        .filter(stays)
        .map(|pod| pod["metadata"]["uid"].as_str().unwrap().to_owned())
        .collect()
}

/// Runs a shell line in a pod; answers its status and output.
fn run(client: &LabClient, target: &str, line: &str) -> (i32, String) {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let output = OwnedFd::from(writer);
    let null = File::open("/dev/null").unwrap();
    let exec = Handover::Exec {
        namespace: "default".into(),
        target: target.into(),
        container: None,
        command: vec!["sh".into(), "-c".into(), line.into()],
        tty: false,
    };
    let outcome = tokio::task::block_in_place(|| {
        client
            .hand_over(&exec, &[null.as_fd(), output.as_fd(), output.as_fd()])
            .unwrap()
    });
    drop(output);
    let mut text = String::new();
    std::io::Read::read_to_string(&mut reader, &mut text).unwrap();
    match outcome {
        Outcome::Exited { status } => (status, text),
        other => panic!("{target}: {line}: {other:?}"),
    }
}

/// Nothing of the lab is left: no process, no folder.
async fn gone(client: &LabClient) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while client.run_dir().exists() {
        assert!(Instant::now() < deadline, "the lab's folder is still there");
        sleep(Duration::from_millis(20)).await;
    }
    let mark = client.run_dir().display().to_string();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let own = std::process::id().to_string();
    // The supervisor is PID 1 of all others: when it is gone, so are they.
    let left: Vec<String> = processes
        .filter(|entry| entry.file_name() != own.as_str() && entry.path().join("cmdline").exists())
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("cmdline")).ok())
        .filter(|line| line.contains(&mark) && line.contains("__lab-inner"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
    assert!(!Path::new("/sys/class/net/mv2").exists());
}
