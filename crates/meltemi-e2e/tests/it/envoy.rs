//! A stock Envoy as the sidecar of one pod, against our control plane and our proxies.

use meltemi_e2e::Lab;

/// The test needs the real Envoy: without it, it fails.
fn envoy() -> String {
    std::env::var("MELTEMI_ENVOY").expect("MELTEMI_ENVOY names the stock Envoy; `cargo xtask test` fetches it")
}

#[test]
fn a_stock_envoy_talks_mutual_tls_with_our_proxies() {
    let lab = Lab::bookinfo("envoy", &[]);
    assert!(!envoy().is_empty());
    lab.wait_ready();
}
