//! What a pod that does not start shows, how it is waited for, and the tools that guides call inside of pods.

use meltemi_e2e::{Lab, eventually};

const STUCK: &str = "
apiVersion: v1
kind: Pod
metadata: {name: novolume, labels: {sidecar.istio.io/inject: 'false'}}
spec:
  volumes: [{name: settings, configMap: {name: missing}}]
  initContainers: [{name: before, image: busybox, command: ['true']}]
  containers:
  - {name: app, image: busybox, command: [sleep, infinity], volumeMounts: [{name: settings, mountPath: /settings}]}
---
apiVersion: v1
kind: Pod
metadata: {name: crash, labels: {sidecar.istio.io/inject: 'false'}}
spec:
  containers: [{name: app, image: busybox, command: [sh, -c, 'exit 3']}]
";

const ECHO: &str = "
apiVersion: v1
kind: Service
metadata: {name: tcp-echo}
spec: {selector: {app: tcp-echo}, ports: [{name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Pod
metadata: {name: tcp-echo, labels: {app: tcp-echo}}
spec:
  containers: [{name: tcp-echo, image: 'istio/tcp-echo-server:1.3', args: ['9000', one]}]
---
apiVersion: v1
kind: Pod
metadata: {name: caller, labels: {sidecar.istio.io/inject: 'false'}}
spec:
  containers: [{name: caller, image: busybox, command: [sleep, infinity]}]
";

#[test]
fn a_pod_that_does_not_start_says_why() {
    let lab = Lab::up("stuck", &[]);
    lab.apply(STUCK);
    let row = |name: &str| {
        let row = lab
            .meltemi(&["lab", "get", "pod", name, "--no-headers"])
            .ok();
        let cells: Vec<String> = row.split_whitespace().map(str::to_owned).collect();
        cells.get(2..4).map(<[String]>::to_vec)
    };
    // The first restart comes at once; the second is waited for, and not counted yet.
    eventually("the crash is told", || {
        (row("crash")? == ["CrashLoopBackOff", "1"]).then_some(())
    });
    assert_eq!(row("novolume").unwrap(), ["Init:0/1", "0"]);
    let events = lab.meltemi(&["lab", "get", "events"]).ok();
    for told in [
        "FailedMount   pod/novolume",
        "configmap \"missing\" not found",
        "BackOff       pod/crash",
    ] {
        assert!(events.contains(told), "{told:?} is not in\n{events}");
    }

    let late = lab.meltemi(&["lab", "up", "--timeout", "4s"]);
    for told in [
        "waiting: ",
        "not ready after 4s",
        "default/novolume: before: PodInitializing",
    ] {
        assert!(
            late.stderr.contains(told),
            "{told:?} is not in\n{}",
            late.stderr
        );
    }
    lab.apply("{apiVersion: v1, kind: ConfigMap, metadata: {name: missing}}");
    let wait = [
        "lab",
        "wait",
        "--for=condition=Ready",
        "pod/novolume",
        "--timeout=60s",
    ];
    assert_eq!(lab.meltemi(&wait).ok(), "pod/novolume condition met\n");
}

#[test]
fn tcp_and_names_are_tried_from_inside() {
    let lab = Lab::up("tools", &[]);
    lab.apply(ECHO);
    lab.wait_ready();
    let run = |command: &str| lab.exec("caller", "caller", &["sh", "-c", command]);
    assert_eq!(run("echo hello | nc tcp-echo 9000").ok(), "one hello\n");
    run("nc -z -w 2 tcp-echo 9000").ok();
    assert_ne!(run("nc -z -w 2 tcp-echo 9001").status, 0);
    let found = run("nslookup tcp-echo").ok();
    assert!(
        found.contains("tcp-echo.default.svc.cluster.local"),
        "{found}"
    );
    assert_ne!(run("nslookup nobody").status, 0);
}
