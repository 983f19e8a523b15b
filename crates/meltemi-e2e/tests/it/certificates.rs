//! Certificates turn over while requests run.

use meltemi_e2e::Lab;

#[test]
fn renewal_under_load_loses_nothing() {
    let lab = Lab::bookinfo("renewal", &["--workload-cert-ttl", "8s"]);
    let before = serial(&lab);
    let load = lab.load(
        "deploy/productpage-v1",
        "productpage",
        &[
            "--rps",
            "500",
            "--duration",
            "30s",
            "--connections",
            "16",
            "http://ratings:9080/ratings/0",
        ],
    );
    load.finish().assert_none_failed(14_500);
    assert_ne!(serial(&lab), before);
    for pod in ["deploy/productpage-v1", "deploy/ratings-v1"] {
        let stats = lab
            .exec(
                pod,
                "istio-proxy",
                &["pilot-agent", "request", "GET", "stats/prometheus"],
            )
            .ok();
        let renewals = stats
            .lines()
            .find_map(|line| line.strip_prefix("istio_agent_cert_renewals_total"))
            .and_then(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
            .expect("the proxy counts its renewals");
        assert!(renewals >= 5.0, "{pod} renewed {renewals} times");
    }
}

fn serial(lab: &Lab) -> String {
    let certs = lab.admin("deploy/ratings-v1", "certs");
    certs["certificates"][0]["cert_chain"][0]["serial_number"]
        .as_str()
        .expect("a certificate has a serial number")
        .to_owned()
}
