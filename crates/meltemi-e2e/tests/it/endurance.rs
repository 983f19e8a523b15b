//! Minutes of steady traffic while certificates turn over, the control plane is dead, modes change and pods are replaced:
//! not one request fails.
//!
//! Each test runs 500 requests per second between two meshed pods. They wait for most of their time, so that the runner
//! has them side by side.

use meltemi_e2e::{Lab, Load, eventually};

const CLIENT: (&str, &str) = ("deploy/productpage-v1", "productpage");
const RATINGS: &str = "http://ratings:9080/ratings/0";

/// Requests of a test that sends for so many seconds, less what the last moment may cut off.
fn at_least(seconds: u64) -> u64 {
    500 * seconds - 100
}

fn steady(lab: &Lab, seconds: u64) -> Load {
    let duration = format!("{seconds}s");
    let flags = [
        "--rps",
        "500",
        "--duration",
        &duration,
        "--connections",
        "16",
        RATINGS,
    ];
    lab.load(CLIENT.0, CLIENT.1, &flags)
}

#[test]
fn certificates_of_20_seconds_turn_over_for_two_minutes() {
    let lab = Lab::bookinfo("renewal", &["--workload-cert-ttl", "20s"]);
    let pods = [
        "deploy/productpage-v1",
        "deploy/details-v1",
        "deploy/reviews-v1",
        "deploy/reviews-v2",
        "deploy/reviews-v3",
        "deploy/ratings-v1",
    ];
    let before = pods.map(|pod| (serial(&lab, pod), renewals(&lab, pod)));
    steady(&lab, 120).finish().assert_none_failed(at_least(120));
    for (pod, (serial_before, renewals_before)) in pods.iter().zip(before) {
        assert_ne!(serial(&lab, pod), serial_before, "{pod}");
        let renewals = renewals(&lab, pod) - renewals_before;
        assert!(renewals >= 5.0, "{pod} renewed {renewals} times");
    }
}

fn serial(lab: &Lab, pod: &str) -> String {
    let certs = lab.admin(pod, "certs");
    certs["certificates"][0]["cert_chain"][0]["serial_number"]
        .as_str()
        .expect("a certificate has a serial number")
        .to_owned()
}

fn renewals(lab: &Lab, pod: &str) -> f64 {
    let call = ["pilot-agent", "request", "GET", "stats/prometheus"];
    let stats = lab.exec(pod, "istio-proxy", &call).ok();
    stats
        .lines()
        .find_map(|line| line.strip_prefix("istio_agent_cert_renewals_total"))
        .and_then(|rest| rest.rsplit(' ').next()?.parse().ok())
        .expect("the proxy counts its renewals")
}

#[test]
fn a_control_plane_that_is_dead_for_a_minute_costs_no_request() {
    let lab = Lab::bookinfo("istiod", &[]);
    let load = steady(&lab, 75);
    let killed = lab.meltemi(&["lab", "kill", "control-plane", "--for", "60s"]);
    assert_eq!(killed.status, 0, "{killed:?}");
    let gone = lab.meltemi(&["proxy-status"]);
    assert_ne!(gone.status, 0, "the control plane answers: {gone:?}");
    load.finish().assert_none_failed(at_least(75));
    eventually("every proxy is SYNCED again", || {
        let status = lab.meltemi(&["proxy-status", "-v", "1"]);
        let rows = status
            .stdout
            .lines()
            .skip(1)
            .filter(|row| row.contains("SYNCED") && !row.contains("STALE"))
            .count();
        (status.status == 0 && rows == 6).then_some(())
    });
}

/// Back to DISABLE no promise is made: a server that takes no TLS from one moment to the next fails whoever has not heard.
#[test]
fn changing_the_mode_loses_nothing() {
    let lab = Lab::bookinfo("modes", &[]);
    lab.set_mode("DISABLE", "deploy/ratings-v1");
    let load = steady(&lab, 30);
    for mode in [
        "PERMISSIVE",
        "STRICT",
        "PERMISSIVE",
        "STRICT",
        "PERMISSIVE",
        "STRICT",
    ] {
        lab.set_mode(mode, "deploy/ratings-v1");
    }
    load.finish().assert_none_failed(at_least(30));
}

/// The application ends by itself once nobody asks it any more, and its sidecar after it (Kubernetes, "Sidecar
/// containers"): callers hear of the new pod first.
#[test]
fn replacing_pods_loses_nothing() {
    let lab = Lab::bookinfo("rollout", &[]);
    let load = steady(&lab, 45);
    for _ in 0..3 {
        let before = names(&lab);
        let restarted = lab.meltemi(&["lab", "rollout", "restart", "deployment/ratings-v1"]);
        assert_eq!(
            restarted.ok().trim(),
            "deployment.apps/ratings-v1 restarted"
        );
        let status = lab
            .meltemi(&[
                "lab",
                "rollout",
                "status",
                "deployment/ratings-v1",
                "--timeout",
                "60s",
            ])
            .ok();
        assert!(
            status.contains("deployment \"ratings-v1\" successfully rolled out"),
            "{status}"
        );
        eventually("the replaced pod has ended", || {
            let now = names(&lab);
            (now.len() == 1 && now != before).then_some(())
        });
    }
    load.finish().assert_none_failed(at_least(45));
}

fn names(lab: &Lab) -> Vec<String> {
    let path = "jsonpath={.items[*].metadata.name}";
    let names = lab.meltemi(&["lab", "get", "pods", "-l", "app=ratings", "-o", path]);
    names.ok().split_whitespace().map(str::to_owned).collect()
}
