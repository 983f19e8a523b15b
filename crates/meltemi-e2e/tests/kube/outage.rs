//! What happens to traffic while the mesh's own parts go and come.

use std::time::{Duration, Instant};

use meltemi_e2e::{Cluster, Namespace, eventually, istio, sample};

/// How long the API server stays away, in seconds; by default no longer than a test may take.
const AWAY: &str = "MELTEMI_TEST_API_SERVER_AWAY";

/// The control plane's pod is deleted under traffic: no request fails, and new pods get a sidecar from its successor.
#[test]
fn a_control_plane_that_is_replaced_costs_no_request() {
    let cluster = Cluster::shared();
    let shop = Namespace::injected("outage");
    for sample in ["curl/curl.yaml", "httpbin/httpbin.yaml"] {
        shop.kubectl(&["apply", "-f", &istio(sample)]).ok();
    }
    shop.wait_ready();
    let script = "i=0; while [ $i -lt 300 ]; do curl -s -o /dev/null -w '%{http_code}\\n' http://httpbin:8000/status/200; \
                  i=$((i+1)); sleep 0.02; done";
    let codes = std::thread::scope(|scope| {
        let traffic = scope.spawn(|| shop.exec("deploy/curl", "curl", &["sh", "-c", script]));
        let delete = [
            "-n",
            "istio-system",
            "delete",
            "pod",
            "-l",
            "app=istiod",
            "--wait=false",
        ];
        cluster.kubectl(&delete).ok();
        traffic.join().expect("traffic runs").ok()
    });
    let failed: Vec<&str> = codes.lines().filter(|code| *code != "200").collect();
    assert_eq!((codes.lines().count(), failed), (300, Vec::new()));

    let rollout = [
        "-n",
        "istio-system",
        "rollout",
        "status",
        "deploy/istiod",
        "--timeout=90s",
    ];
    cluster.kubectl(&rollout).ok();
    shop.kubectl(&["rollout", "restart", "deploy/curl"]).ok();
    shop.kubectl(&["rollout", "status", "deploy/curl", "--timeout=90s"])
        .ok();
    let call = [
        "curl",
        "-s",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://httpbin:8000/status/200",
    ];
    assert_eq!(shop.exec("deploy/curl", "curl", &call).ok(), "200");
}

/// Sends a signal to the API server. The pattern is one that the script's own words do not match.
fn signal_api_server(cluster: &Cluster, signal: &str) {
    let script = format!(
        "for process in /proc/[0-9]*; do \
           case \"$(tr '\\0' ' ' 2>/dev/null <$process/cmdline)\" in *kube-apiserve[r]*--etcd-server[s]*) kill -{signal} ${{process#/proc/}}; found=1;; esac; \
         done; test -n \"$found\""
    );
    cluster.on_node("n1", &script).ok();
}

/// An API server that does not answer is not noticed by pods that run, whatever happens to the control plane meanwhile.
#[test]
fn running_pods_do_not_notice_that_the_api_server_is_away() {
    let cluster = Cluster::shared();
    let away = std::env::var(AWAY).map_or(20, |text| text.parse().expect("seconds"));
    let shop = Namespace::injected("away");
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    shop.kubectl(&["scale", "deploy/echo", "--replicas=2"]).ok();
    shop.kubectl(&["rollout", "status", "deploy/echo", "--timeout=90s"])
        .ok();
    let duration = format!("{}s", away + 20);
    let url = "http://echo:8080/";
    let load = [
        "--rps",
        "100",
        "--connections",
        "4",
        "--duration",
        &duration,
        url,
    ];
    let load = shop.load("load", &load);
    signal_api_server(cluster, "STOP");
    // Whoever runs reads what was read before.
    std::thread::sleep(Duration::from_secs(away));
    signal_api_server(cluster, "CONT");
    load.finish(120).assert_none_failed(100 * away);

    // What comes afterwards is seen.
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: echo}\n\
                 spec: {hosts: [echo], exportTo: ['.'], http: [{rewrite: {uri: /after}, route: [{destination: {host: echo, port: {number: 8080}}}]}]}\n";
    shop.apply(route).ok();
    shop.wait_for("condition=Programmed", "virtualservice/echo", 60);
}

/// Objects come and go at five a second, and a namespace cannot end: no request fails, and what is asked for takes effect.
#[test]
fn churn_disturbs_nobody() {
    let cluster = Cluster::shared();
    let shop = Namespace::injected("churn");
    let stuck = Namespace::new("stuck", &[]);
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    shop.wait_ready();
    stuck
        .apply("apiVersion: v1\nkind: ConfigMap\nmetadata: {name: held, finalizers: [example.com/held]}\n")
        .ok();
    cluster
        .kubectl(&["delete", "namespace", &stuck.name, "--wait=false"])
        .ok();
    let url = "http://echo:8080/";
    let load = [
        "--rps",
        "100",
        "--connections",
        "4",
        "--duration",
        "25s",
        url,
    ];
    let load = shop.load("load", &load);
    let end = Instant::now() + Duration::from_secs(20);
    let mut round = 0_u32;
    while Instant::now() < end {
        let started = Instant::now();
        let objects: String = (0..5)
            .map(|index| {
                format!(
                    "apiVersion: v1\nkind: Service\nmetadata: {{name: churn-{index}}}\nspec: {{selector: {{round: '{round}'}}, ports: [{{name: http, port: {}}}]}}\n---\n\
                     apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: churn-{index}}}\nspec: {{host: churn-{index}, subsets: [{{name: v{round}, labels: {{a: b}}}}]}}\n---\n",
                    8000 + round % 3
                )
            })
            .collect();
        shop.apply(&objects).ok();
        if round % 2 == 1 {
            let delete = [
                "delete",
                "service,destinationrule",
                "churn-0",
                "--wait=false",
            ];
            shop.kubectl(&delete).ok();
        }
        round += 1;
        std::thread::sleep(Duration::from_secs(2).saturating_sub(started.elapsed()));
    }
    load.finish(90).assert_none_failed(2_000);
    let last = format!("outbound|{}|v{}|churn-1", 8000 + (round - 1) % 3, round - 1);
    eventually("the last round is in force", || {
        let clusters = [
            "proxy-config",
            "clusters",
            "deploy/echo",
            "-n",
            &shop.name,
            "-o",
            "json",
        ];
        cluster
            .meltemi(&clusters)
            .ok()
            .contains(&last)
            .then_some(())
    });
    let release = [
        "patch",
        "configmap",
        "held",
        "--type=merge",
        "-p",
        "{\"metadata\":{\"finalizers\":null}}",
    ];
    stuck.kubectl(&release).ok();
    cluster
        .kubectl(&[
            "wait",
            "--for=delete",
            &format!("namespace/{}", stuck.name),
            "--timeout=60s",
        ])
        .ok();
}
