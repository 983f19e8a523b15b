//! Two control planes side by side, a name that moves between them, and what `check` says of all that.

use meltemi_e2e::{Cluster, Namespace, eventually, istio};

/// The revision that the pods of a namespace were injected by.
fn revisions(namespace: &Namespace) -> Vec<String> {
    let path = r"jsonpath={range .items[*]}{.metadata.annotations.istio\.io/rev}{'\n'}{end}";
    let pods = namespace.kubectl(&["get", "pods", "-o", path]).ok();
    let mut revisions: Vec<String> = pods.lines().map(str::to_owned).collect();
    revisions.dedup();
    revisions
}

fn started(namespace: &Namespace) {
    for manifest in ["curl/curl.yaml", "httpbin/httpbin.yaml"] {
        namespace.kubectl(&["apply", "-f", &istio(manifest)]).ok();
    }
    namespace.wait_ready();
}

#[test]
fn revisions_inject_side_by_side_and_tags_move_between_them() {
    let cluster = Cluster::shared();
    let install = ["install", "-y", "--wait", "--revision", "canary"];
    cluster.meltemi(&install).ok();
    cluster
        .meltemi(&["tag", "set", "prod", "--revision", "default"])
        .ok();
    let stable = Namespace::injected("stable");
    let canary = Namespace::new("canary", &["istio.io/rev=canary"]);
    let tagged = Namespace::new("tagged", &["istio.io/rev=prod"]);
    for namespace in [&stable, &canary, &tagged] {
        started(namespace);
    }
    assert_eq!(revisions(&stable), ["default"]);
    assert_eq!(revisions(&canary), ["canary"]);
    assert_eq!(revisions(&tagged), ["default"]);

    // Both know their proxies, and these trust each other.
    let status = cluster.meltemi(&["proxy-status"]).ok();
    for namespace in [&stable, &canary] {
        assert!(status.contains(&format!(".{}", namespace.name)), "{status}");
    }
    let own = cluster
        .meltemi(&["proxy-status", "--revision", "canary"])
        .ok();
    assert!(
        !own.contains(&stable.name) && own.contains(&canary.name),
        "{own}"
    );
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
    stable.apply(strict).ok();
    let url = format!("http://httpbin.{}:8000/status/200", stable.name);
    let curl = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", &url];
    assert_eq!(canary.exec("deploy/curl", "curl", &curl).ok(), "200");

    let move_tag = ["tag", "set", "prod", "--revision", "canary"];
    assert_eq!(cluster.meltemi(&move_tag).status, 65);
    cluster
        .meltemi(&[&move_tag[..], &["--overwrite"]].concat())
        .ok();
    let list = cluster.meltemi(&["tag", "list"]).ok();
    let row: Vec<&str> = list
        .lines()
        .nth(1)
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    assert_eq!(row, ["prod", "canary", &tagged.name], "{list}");
    tagged.kubectl(&["rollout", "restart", "deploy"]).ok();
    for deployment in ["deploy/curl", "deploy/httpbin"] {
        let status = ["rollout", "status", deployment, "--timeout=120s"];
        tagged.kubectl(&status).ok();
    }
    eventually("the tag's pods are the canary's", || {
        (revisions(&tagged) == ["canary"]).then_some(())
    });
    tagged.wait_ready();

    eventually("nothing is wrong", || {
        let check = cluster.meltemi(&["check"]);
        (check.status == 0).then_some(()).or_else(|| {
            println!("{}{}", check.stdout, check.stderr);
            None
        })
    });
    let broken = Namespace::new("broken", &["istio.io/rev=canry"]);
    let check = cluster.meltemi(&["check"]);
    assert_eq!(check.status, 1);
    let said = format!("namespace {} chooses canry", broken.name);
    assert!(check.stdout.contains(&said), "{}", check.stdout);

    let uninstall = ["uninstall", "-y", "--revision", "canary"];
    assert_eq!(cluster.meltemi(&uninstall).status, 65, "a tag points at it");
    cluster.meltemi(&["tag", "remove", "prod", "-y"]).ok();
    cluster.meltemi(&uninstall).ok();
    cluster.meltemi(&["upgrade", "-y", "--wait"]).ok();
}
