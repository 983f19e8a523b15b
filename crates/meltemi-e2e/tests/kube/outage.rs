//! What happens to traffic while the mesh's own parts go and come.

use meltemi_e2e::{Cluster, Namespace, istio};

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
