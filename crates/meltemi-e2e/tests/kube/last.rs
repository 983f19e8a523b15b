//! What takes something of the cluster away for good: run when all else has been.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use meltemi_e2e::{Cluster, Namespace, Summary, project_root, sample};

/// Kinds that come and go by themselves.
const RESTLESS: [&str; 3] = ["Event", "Lease", "Endpoints"];

/// What `kubectl` prints in a column without a value.
const NONE: &str = "<none>";

/// What a cluster holds at one moment.
#[derive(PartialEq)]
struct Holdings {
    /// Every object, by kind, namespace and name.
    objects: BTreeSet<String>,
    /// Those that are on their way out: deleted and still there, or of an owner that is gone, which the garbage collector
    /// has yet to delete.
    leaving: BTreeSet<String>,
}

fn holdings(cluster: &Cluster) -> Holdings {
    let kinds = cluster
        .kubectl(&["api-resources", "--verbs=list", "-o", "name"])
        .ok();
    let kinds: Vec<&str> = kinds.lines().collect();
    let all = [
        "get",
        &kinds.join(","),
        "-A",
        "--ignore-not-found",
        "--no-headers",
    ];
    let columns = "-o=custom-columns=:kind,:metadata.namespace,:metadata.name,:metadata.uid,:metadata.deletionTimestamp,:metadata.ownerReferences[*].uid";
    let listed = cluster.kubectl(&[&all[..], &[columns]].concat()).ok();
    let rows: Vec<[&str; 6]> = listed
        .lines()
        .filter_map(|line| line.split_whitespace().collect::<Vec<_>>().try_into().ok())
        .collect();
    let present: HashSet<&str> = rows.iter().map(|[_, _, _, uid, ..]| *uid).collect();
    let mut held = Holdings {
        objects: BTreeSet::new(),
        leaving: BTreeSet::new(),
    };
    for [kind, namespace, name, _, deleted, owners] in rows {
        if RESTLESS.contains(&kind) {
            continue;
        }
        let object = format!("{kind} {namespace} {name}");
        let orphan = owners != NONE && owners.split(',').all(|owner| !present.contains(owner));
        if deleted != NONE || orphan {
            held.leaving.insert(object.clone());
        }
        held.objects.insert(object);
    }
    held
}

/// Waits until nothing changes any more: what is deleted, and what it owned, ends some time later.
fn at_rest(cluster: &Cluster) -> BTreeSet<String> {
    let mut before = holdings(cluster);
    let end = Instant::now() + Duration::from_secs(180);
    while Instant::now() < end {
        std::thread::sleep(Duration::from_secs(3));
        let now = holdings(cluster);
        if now == before && now.leaving.is_empty() {
            return now.objects;
        }
        before = now;
    }
    let Holdings { objects, leaving } = before;
    panic!("the cluster does not come to rest, leaving: {leaving:#?}, of {objects:#?}");
}

/// Installs the mesh, which each of these tests leaves or needs: one that fails does not take the next with it.
fn install(cluster: &Cluster) {
    let install = ["install", "--wait", "--timeout", "90s", "-y"];
    cluster.meltemi(&install).ok();
}

/// The lines of the README's quick start in a cluster, the first of which brings the cluster up.
fn quick_start() -> Vec<String> {
    let readme = std::fs::read_to_string(project_root().join("README.md")).expect("a README");
    let (_, section) = readme
        .split_once("\n## In Kubernetes\n")
        .expect("a section");
    let (section, _) = section.split_once("\n## ").expect("another section");
    let lines = section.lines().filter_map(|line| line.strip_prefix("    "));
    lines.map(str::to_owned).collect()
}

/// Line by line, as a reader types it.
#[test]
#[ignore = "leaves no mesh: `cargo xtask kube test` runs it last"]
fn a_readers_quick_start_works() {
    let cluster = Cluster::shared();
    let lines = quick_start();
    let up = "cargo xtask kube up && cargo xtask kube images && eval \"$(cargo xtask kube env)\"";
    assert_eq!(lines.first().map(String::as_str), Some(up));
    assert!(lines.len() > 5, "{lines:?}");
    for line in &lines[1..] {
        let output = cluster.shell(line);
        println!("$ {line}\n{}", output.stdout);
        output.ok();
    }
    let bookinfo = sample("bookinfo/platform/kube/bookinfo.yaml");
    cluster.kubectl(&["delete", "-f", &bookinfo]).ok();
    let label = ["label", "namespace", "default", "istio-injection-"];
    cluster.kubectl(&label).ok();
}

/// A cluster in which the mesh was installed and uninstalled is what it was before.
#[test]
#[ignore = "leaves no mesh: `cargo xtask kube test` runs it last"]
fn b_uninstalling_leaves_nothing() {
    let cluster = Cluster::shared();
    let uninstall = ["uninstall", "--purge", "-y"];
    cluster.meltemi(&uninstall).ok();
    let before = at_rest(cluster);
    let left: Vec<&String> = before
        .iter()
        .filter(|line| line.contains("istio") || line.contains("meltemi"))
        .collect();
    assert!(left.is_empty(), "{left:#?}");

    install(cluster);
    let shop = Namespace::injected("leaves");
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    shop.wait_ready();
    let policy = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
    shop.apply(policy).ok();
    cluster
        .kubectl(&["delete", "namespace", &shop.name, "--timeout=60s"])
        .ok();
    cluster.meltemi(&uninstall).ok();
    let after = at_rest(cluster);
    let came: Vec<&String> = after.difference(&before).collect();
    let went: Vec<&String> = before.difference(&after).collect();
    assert!(
        came.is_empty() && went.is_empty(),
        "came: {came:#?}\nwent: {went:#?}"
    );
    drop(shop);
    install(cluster);
}

/// A node ends without a word: requests to its pods alone fail, and none once the endpoints are without them.
#[test]
#[ignore = "takes a node away: `cargo xtask kube test` runs it last"]
fn c_node_that_dies_takes_its_own_requests_with_it() {
    let cluster = Cluster::shared();
    install(cluster);
    // A control plane that dies with the node tells nobody of it.
    let istiod = ["-n", "istio-system"];
    let scale = ["scale", "deploy/istiod", "--replicas=2"];
    cluster.kubectl(&[&istiod[..], &scale].concat()).ok();
    let status = ["rollout", "status", "deploy/istiod", "--timeout=60s"];
    cluster.kubectl(&[&istiod[..], &status].concat()).ok();
    let nodes = [
        "get",
        "pods",
        "-l",
        "app=istiod",
        "-o",
        "jsonpath={.items[*].spec.nodeName}",
    ];
    let nodes = cluster.kubectl(&[&istiod[..], &nodes].concat()).ok();
    assert!(
        nodes.contains("n1"),
        "no control plane outlives the node: {nodes}"
    );
    let shop = Namespace::injected("dies");
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    let spread = "{\"spec\":{\"replicas\":4,\"template\":{\"spec\":{\"topologySpreadConstraints\":[{\"maxSkew\":1,\"topologyKey\":\"kubernetes.io/hostname\",\"whenUnsatisfiable\":\"DoNotSchedule\",\"labelSelector\":{\"matchLabels\":{\"app\":\"echo\"}}}]}}}}";
    shop.kubectl(&["patch", "deploy", "echo", "-p", spread])
        .ok();
    shop.kubectl(&["rollout", "status", "deploy/echo", "--timeout=90s"])
        .ok();
    let url = "http://echo:8080/";
    let load = |duration: &'static str| {
        [
            "--rps",
            "50",
            "--connections",
            "16",
            "--timeout",
            "2s",
            "--duration",
            duration,
            url,
        ]
    };
    let during = shop.load_on("n1", "during", &load("75s"));
    let dead = "jsonpath={.items[*].endpoints[?(@.nodeName==\"n2\")].conditions.ready}";
    let slices = [
        "get",
        "endpointslices",
        "-l",
        "kubernetes.io/service-name=echo",
        "-o",
        dead,
    ];
    let ready = shop.kubectl(&slices).ok();
    assert!(ready.contains("true"), "no pod is on the node: {ready}");
    // Process 1 of the node: every other one ends with it.
    cluster.on_node("n2", "kill 1");
    let end = Instant::now() + Duration::from_secs(120);
    loop {
        let ready = shop.kubectl(&slices).ok();
        if !ready.contains("true") {
            break;
        }
        assert!(Instant::now() < end, "the node's pods stay ready: {ready}");
        std::thread::sleep(Duration::from_millis(500));
    }
    // What the slices say is with the proxies a moment later; one of them had to find another control plane first.
    std::thread::sleep(Duration::from_secs(5));
    let survivor = shop.kubectl(&[
        "get",
        "pods",
        "-l",
        "app=echo",
        "--field-selector=spec.nodeName=n1",
        "-o",
        "name",
    ]);
    let survivor = survivor.ok();
    let survivor = survivor.lines().next().expect("a pod is on the other node");
    let client = ["/usr/local/bin/meltemi-apps", "client"];
    let after = shop.exec(survivor, "echo", &[&client[..], &load("10s")].concat());
    Summary::read(&after.line, &after.stdout, &after.stderr).assert_none_failed(400);
    let during = during.finish(120);
    // Half of the pods were on the node; a request to one of them is tried again elsewhere where that is safe.
    let failed = during.sent - during.ok;
    assert!(
        during.sent > 0 && failed * 2 <= during.sent,
        "{failed} of {} failed",
        during.sent
    );
}
