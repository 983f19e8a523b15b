//! Everything that is replaced while requests are on their way.

use meltemi_e2e::{Cluster, Namespace, sample};

/// A service of three replicas, then the control plane, then the callers' own sidecars are started anew under 300 requests a
/// second, and no request fails.
#[test]
fn a_service_and_the_control_plane_start_anew_without_a_failed_request() {
    let cluster = Cluster::shared();
    let shop = Namespace::injected("rollout");
    let echo = sample("echo/echo.yaml");
    shop.kubectl(&["apply", "-f", &echo]).ok();
    shop.kubectl(&["scale", "deploy/echo", "--replicas=3"]).ok();
    shop.kubectl(&["rollout", "status", "deploy/echo", "--timeout=90s"])
        .ok();

    let load = ["--rps", "300", "--duration", "45s", "--connections", "8"];
    let load = shop.load("load", &[&load[..], &["http://echo:8080/"]].concat());
    let restart = |namespace: &str, deployment: &str| {
        let of = ["-n", namespace, "rollout"];
        cluster
            .kubectl(&[&of[..], &["restart", deployment]].concat())
            .ok();
        cluster
            .kubectl(&[&of[..], &["status", deployment, "--timeout=90s"]].concat())
            .ok();
    };
    restart(&shop.name, "deploy/echo");
    restart("istio-system", "deploy/istiod");
    load.finish(120).assert_none_failed(12_000);
}
