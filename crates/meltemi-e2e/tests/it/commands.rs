//! What kubectl's users type, and what they expect to see: workloads of every kind, terminals, logs, watches.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::Stdio;

use meltemi_e2e::{Lab, eventually, programs, sample};

const KINDS: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: None, selector: {app: web}, ports: [{name: http, port: 8080}]}
---
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: web}
spec:
  replicas: 2
  serviceName: web
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: web, image: 'meltemi/echo:dev', ports: [{containerPort: 8080}]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: once}
spec:
  template:
    spec:
      restartPolicy: Never
      containers: [{name: once, image: busybox, command: [sh, -c, 'curl -sS -o /dev/null -w %{http_code} http://echo:8080/']}]
---
apiVersion: v1
kind: Service
metadata: {name: parrot}
spec: {type: ExternalName, externalName: echo.default.svc.cluster.local, ipFamilyPolicy: PreferDualStack}
---
apiVersion: v1
kind: Pod
metadata: {name: reader, labels: {app: reader}}
spec:
  containers:
  - name: reader
    image: busybox
    command: [sleep, infinity]
    tty: true
    volumeMounts: [{name: token, mountPath: /token}]
  volumes:
  - name: token
    projected: {sources: [{serviceAccountToken: {path: t, audience: books, expirationSeconds: 3600}}]}
";

const TALKER: &str = "
apiVersion: v1
kind: Pod
metadata: {name: talker, labels: {app: talker, sidecar.istio.io/inject: 'false'}}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: talker
    image: busybox
    command: [sh, -c, 'n=0; while true; do n=$((n+1)); echo line $n; sleep 0.2; done']
";

fn lab(name: &str) -> Lab {
    let lab = Lab::up(name, &[]);
    lab.apply_file(&sample("echo/echo.yaml"));
    lab.wait_ready();
    lab
}

#[test]
fn every_kind_of_workload_lives_as_in_a_cluster() {
    let lab = lab("kinds");
    let applied = lab.feed(&["lab", "apply", "-f", "-"], KINDS);
    for field in ["spec.containers[0].tty", "spec.ipFamilyPolicy"] {
        assert!(
            applied.stderr.contains(field),
            "no warning about {field}: {applied:?}"
        );
    }
    applied.ok();
    lab.wait_ready();
    lab.set_mode("STRICT", "deploy/echo");

    let rollout = lab.meltemi(&["lab", "rollout", "status", "sts/web"]).ok();
    assert_eq!(rollout.trim(), "statefulset rolling update complete 2 pods");
    let get = |args: &[&str]| lab.meltemi(&[&["lab", "get"], args].concat()).ok();
    let names = get(&["pod", "-l", "app in (web)", "-o", "name"]);
    assert_eq!(names, "pod/web-0\npod/web-1\n");
    let call = |url: &str| lab.curl("deploy/echo", "echo", &[url]).1;
    assert_eq!(call("http://web-1.web:8080/"), "200", "a pod by its name");
    assert_eq!(call("http://parrot:8080/"), "200", "mTLS by an alias");

    for forward in [
        &["forward", "0:echo.default:8080"][..],
        &[
            "port-forward",
            "svc/echo",
            "0:8080",
            "--address",
            "localhost",
        ],
    ] {
        assert!(forwarded(&lab, forward).starts_with("HTTP/1.1 200"));
    }
    let nowhere = lab.meltemi(&["lab", "forward", "0:echo:81"]);
    assert!(
        nowhere.status != 0 && nowhere.stderr.contains("does not have a service port 81"),
        "{nowhere:?}"
    );

    eventually("the job has ended, its sidecar with it", || {
        let table = get(&["jobs"]);
        (table.contains("Complete") && table.contains("1/1")).then_some(())
    });
    let pod = get(&["pod", "-l", "job-name=once"]);
    assert!(pod.contains("Completed") && pod.contains("0/2"), "{pod}");
    let logs = lab.meltemi(&["lab", "logs", "job/once", "-c", "once"]).ok();
    assert_eq!(logs, "200");

    let port = "jsonpath={.spec.ports[?(@.name==\"http\")].port}";
    assert_eq!(get(&["svc", "web", "-o", port]), "8080");
    assert!(get(&["endpoints", "web"]).contains(":8080"));
    let some = lab.meltemi(&["lab", "get", "svc", "nothing", "web"]);
    assert!(some.status == 1 && some.stdout.contains("web"), "{some:?}");
    assert!(some.stderr.contains("\"nothing\" not found"), "{some:?}");

    // Its pods have their names again although those of before have not ended yet.
    let deleted = lab.meltemi(&["lab", "delete", "sts", "web"]).ok();
    assert_eq!(deleted, "statefulset.apps \"web\" deleted\n");
    lab.feed(&["lab", "apply", "-f", "-"], KINDS).ok();
    lab.wait_ready();
    let deleted = lab.meltemi(&["lab", "delete", "pod", "-l", "app=reader", "--now"]);
    assert_eq!(deleted.ok(), "pod \"reader\" deleted\n");
    assert_eq!(get(&["pod", "--ignore-not-found=true", "reader"]), "");
    lab.feed(&["lab", "apply", "-f", "-"], KINDS).ok();
    lab.wait_ready();

    let token = lab.exec("reader", "reader", &["cat", "/token/t"]).ok();
    let claims = token.split('.').nth(1).expect("a token has three parts");
    let claims = lab.exec(
        "reader",
        "reader",
        &[
            "sh",
            "-c",
            &format!("echo {claims}== | base64 -d 2>/dev/null || true"),
        ],
    );
    let claims = claims.ok();
    for part in [
        "\"aud\":[\"books\"]",
        "system:serviceaccount:default:default",
    ] {
        assert!(claims.contains(part), "{claims}");
    }
}

const DATABASE: &str = "
apiVersion: v1
kind: Service
metadata: {name: mongodb}
spec: {selector: {app: mongodb}, ports: [{name: mongo, port: 27017}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: mongodb-v1}
spec:
  selector: {matchLabels: {app: mongodb}}
  template:
    metadata: {labels: {app: mongodb, version: v1}}
    spec:
      containers:
      - {name: mongodb, image: 'istio/examples-bookinfo-mongodb:1.20.3', args: [--ipv6, --bind_ip_all], ports: [{containerPort: 27017}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ratings-v2}
spec:
  selector: {matchLabels: {app: ratings}}
  template:
    metadata: {labels: {app: ratings, version: v2}}
    spec:
      containers:
      - {name: ratings, image: 'istio/examples-bookinfo-ratings-v2:1.20.3', env: [{name: MONGO_DB_URL, value: 'mongodb://mongodb:27017/test'}]}
";

#[test]
fn ratings_asks_its_database_over_the_mesh() {
    let lab = lab("database");
    lab.apply(DATABASE);
    lab.wait_ready();
    let stars = || {
        let url = "http://localhost:9080/ratings/0";
        lab.exec("deploy/ratings-v2", "ratings", &["curl", "-s", url])
            .stdout
    };
    assert!(stars().contains("\"Reviewer2\":4"), "{}", stars());
    lab.meltemi(&["lab", "scale", "deploy/mongodb-v1", "--replicas", "0"])
        .ok();
    eventually("ratings misses its database", || {
        stars()
            .contains("could not connect to ratings database")
            .then_some(())
    });
}

/// The answer of a forwarded port: it leads past the sidecar, so that STRICT does not refuse it.
fn forwarded(lab: &Lab, forward: &[&str]) -> String {
    let mut child = lab
        .command("meltemi", &[&["lab"], forward].concat())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program is built");
    let mut said = String::new();
    BufReader::new(child.stdout.take().expect("stdout is piped"))
        .read_line(&mut said)
        .expect("it says where it listens");
    let address = said
        .split_whitespace()
        .nth(2)
        .expect("Forwarding from A -> T");
    let mut stream = TcpStream::connect(address).expect("it listens there");
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: echo\r\nConnection: close\r\n\r\n")
        .expect("it takes a request");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the answer is text");
    child.kill().expect("a child of ours");
    child.wait().expect("a child of ours");
    answer
}

/// `exec -it`: a terminal of the command's own, with job control, size and exit status.
#[test]
fn a_shell_in_a_pod_has_a_terminal() {
    let lab = lab("terminal");
    let line = format!(
        "{} lab exec -it deploy/echo -- sh",
        programs().join("meltemi").display()
    );
    // script(1) is the person's terminal.
    let mut command = lab.command_outside("timeout");
    command.args(["60", "script", "-qec", &line, "/dev/null"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script and timeout are part of every Debian");
    let mut typed = child.stdin.take().expect("stdin is piped");
    let mut screen = child.stdout.take().expect("stdout is piped");
    let mut shown = String::new();
    for (line, expected) in [
        (
            "stty rows 33 cols 99; echo size $(stty size)\n",
            "size 33 99",
        ),
        // What says "go" is already the terminal's foreground: a signal finds it.
        ("sh -c 'echo; echo go; exec sleep 1000'\n", "\ngo"),
        ("\x03", "\n"),
        ("echo interrupted $?\n", "interrupted 130"),
        ("tty -s && exit 7\n", "exit code 7"),
    ] {
        typed
            .write_all(line.as_bytes())
            .expect("the terminal takes what is typed");
        let from = shown.len();
        while !shown.get(from..).is_some_and(|new| new.contains(expected)) {
            let mut buffer = [0; 1024];
            let read = screen.read(&mut buffer).expect("the screen can be read");
            assert!(read > 0, "\"{expected}\" is not shown:\n{shown}");
            shown += &String::from_utf8_lossy(buffer.get(..read).unwrap_or_default());
        }
    }
    let status = child.wait().expect("script ends with its command");
    assert!(!shown.contains("job control"), "{shown}");
    assert_eq!(status.code(), Some(7), "{shown}");
}

#[test]
fn logs_and_tables_are_followed() {
    let lab = Lab::up("follow", &[]);
    lab.apply(TALKER);
    lab.wait_ready();
    let follow = |args: &[&str]| {
        let mut command = lab.command_outside("timeout");
        command.arg("60").arg(programs().join("meltemi")).args(args);
        let child = command.stdout(Stdio::piped()).spawn();
        let mut child = child.expect("timeout is part of every Debian");
        let lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        (child, lines.map_while(Result::ok))
    };
    let (mut logs, mut logged) = follow(&["lab", "logs", "-f", "talker", "--tail", "1"]);
    let number = |line: Option<String>| -> u64 {
        let line = line.expect("the log goes on");
        let number = line
            .strip_prefix("line ")
            .and_then(|text| text.parse().ok());
        number.unwrap_or_else(|| panic!("\"{line}\" was never said"))
    };
    let first = number(logged.next());
    assert_eq!(number(logged.next()), first + 1);
    assert_eq!(number(logged.next()), first + 2);

    let (mut watch, mut shown) = follow(&["lab", "get", "pods", "-w", "-l", "app=talker"]);
    assert!(shown.next().is_some_and(|line| line.starts_with("NAME")));
    assert!(shown.next().is_some_and(|line| line.contains("Running")));
    lab.meltemi(&["lab", "delete", "pod", "talker"]).ok();
    assert!(
        shown.any(|line| line.contains("Terminating")),
        "the table is not followed"
    );
    for child in [&mut logs, &mut watch] {
        // The log's end may have ended it already.
        child.kill().ok();
        child.wait().expect("a child of ours");
    }
}
