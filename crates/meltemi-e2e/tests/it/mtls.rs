//! Modes of mutual TLS: what is refused, what is lost while they change.

use meltemi_e2e::Lab;

fn received_bytes(lab: &Lab) -> u64 {
    let counters = lab
        .exec(
            "deploy/echo",
            "echo",
            &["curl", "-sS", "http://127.0.0.1:8080/counters"],
        )
        .json();
    counters["ports"]["8080"]["received_bytes"]
        .as_u64()
        .expect("the echo app counts the bytes it received")
}

#[test]
fn strict_refuses_plaintext_before_a_byte_reaches_the_app() {
    let lab = Lab::up("strict", &[]);
    lab.add_echo_and_outsider();

    lab.set_mode("PERMISSIVE", "deploy/echo");
    let (status, code, output) = lab.curl(
        "deploy/curl.outside",
        "curl",
        &["http://echo.default:8080/"],
    );
    assert_eq!(
        (status, code.as_str()),
        (0, "200"),
        "PERMISSIVE takes plaintext: {output:?}"
    );
    let seen = lab.meltemi(&["mtls", "status", "-A"]).ok();
    let edge = seen.lines().find(|line| line.starts_with("curl-"));
    assert!(
        edge.is_some_and(|edge| edge.contains("plaintext") && edge.ends_with("BREAKS")),
        "what STRICT breaks is known before: {seen}"
    );

    lab.set_mode("STRICT", "deploy/echo");
    // The counter's own request passes over loopback and is counted too: its size is the same each time.
    let (first, second) = (received_bytes(&lab), received_bytes(&lab));
    for _ in 0..5 {
        let (status, _, output) = lab.curl(
            "deploy/curl.outside",
            "curl",
            &["http://echo.default:8080/"],
        );
        assert!(
            [52, 56].contains(&status),
            "STRICT resets plaintext: {output:?}"
        );
    }
    assert_eq!(
        received_bytes(&lab) - second,
        second - first,
        "bytes of a refused client reached the app"
    );

    lab.apply_file(&meltemi_e2e::istio("httpbin/httpbin.yaml"));
    lab.wait_ready();
    let echoed = lab
        .exec(
            "deploy/httpbin",
            "httpbin",
            &["curl", "-sS", "http://echo:8080/"],
        )
        .ok();
    assert!(
        echoed.contains("URI=spiffe://cluster.local/ns/default/sa/httpbin"),
        "XFCC names the caller: {echoed}"
    );
    let seen = lab
        .meltemi(&["mtls", "status", "httpbin", "-o", "json"])
        .json();
    assert_eq!(seen["edges"][0]["mode"], "mtls", "{seen}");
    assert_eq!(
        seen["edges"][0]["callerIdentity"], "spiffe://cluster.local/ns/default/sa/httpbin",
        "{seen}"
    );
}

/// A sidecar on demand holds nothing of a service that was never called; the probe has it asked for.
#[test]
fn tls_check_answers_for_a_service_that_was_never_called() {
    let lab = Lab::up("uncalled", &[]);
    lab.add_echo_and_outsider();
    lab.apply(
        "
apiVersion: v1
kind: Pod
metadata:
  name: idle
  annotations: {proxy.istio.io/config: '{\"proxyMetadata\": {\"ISTIO_META_ON_DEMAND\": \"true\"}}'}
spec: {containers: [{name: idle, image: busybox, command: [sleep, infinity]}]}
",
    );
    lab.wait_ready();
    for port in ["8080", "9000"] {
        let service = format!("echo.default.svc.cluster.local:{port}");
        let told = lab.meltemi(&["authn", "tls-check", "idle", &service]).ok();
        assert!(told.contains("MODE: mTLS (PERMISSIVE)"), "{told}");
    }
}
