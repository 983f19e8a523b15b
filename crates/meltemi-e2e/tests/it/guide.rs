//! The beginner's guide, step by step, with Istio's own manifests.

use meltemi_e2e::{Lab, eventually, istio};

const PRODUCTPAGE: &str = "deploy/productpage-v1";

/// `label namespace default istio-injection=enabled`: pods made from then on hold app and sidecar.
#[test]
fn a_labelled_namespace_is_injected() {
    let lab = Lab::bookinfo("inject", &[]);
    lab.apply("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: outside\n");
    lab.meltemi(&[
        "lab",
        "apply",
        "-n",
        "outside",
        "-f",
        &istio("curl/curl.yaml"),
    ])
    .ok();
    lab.wait_ready();
    let table = lab.meltemi(&["lab", "get", "pods"]).ok();
    let rows: Vec<&str> = table.lines().skip(1).collect();
    assert_eq!(rows.len(), 6, "{table}");
    assert!(
        rows.iter()
            .all(|row| row.contains("2/2") && row.contains("Running")),
        "{table}"
    );
    let outside = lab.meltemi(&["lab", "get", "pods", "-n", "outside"]).ok();
    assert!(outside.contains("1/1"), "{outside}");

    let (status, code, output) = lab.curl(
        PRODUCTPAGE,
        "productpage",
        &["http://reviews:9080/reviews/0"],
    );
    assert_eq!((status, code.as_str()), (0, "200"), "{output:?}");
    let page = lab
        .exec(
            PRODUCTPAGE,
            "productpage",
            &["curl", "-sS", "http://productpage:9080/productpage"],
        )
        .ok();
    assert!(
        page.contains("Book Details") && page.contains("Book Reviews"),
        "{page}"
    );

    identity(&lab);
    strict_and_verify(&lab);
    curl_from_the_proxy_container(&lab);
}

/// Each pod has a certificate with its service account's SPIFFE id.
fn identity(lab: &Lab) {
    let secret = lab.meltemi(&["proxy-config", "secret", PRODUCTPAGE]).ok();
    assert!(
        secret.contains("default") && secret.contains("Cert Chain") && secret.contains("ACTIVE"),
        "{secret}"
    );
    assert!(secret.contains("ROOTCA"), "{secret}");
    let certs = lab.admin(PRODUCTPAGE, "certs").to_string();
    assert!(
        certs.contains("spiffe://cluster.local/ns/default/sa/bookinfo-productpage"),
        "{certs}"
    );
}

/// PeerAuthentication STRICT, DestinationRule ISTIO_MUTUAL, then the guide's two verification commands.
fn strict_and_verify(lab: &Lab) {
    lab.set_mode("STRICT", "deploy/ratings-v1");
    lab.apply(
        "apiVersion: networking.istio.io/v1beta1\nkind: DestinationRule\nmetadata:\n  name: default\n  namespace: default\n\
         spec:\n  host: '*.default.svc.cluster.local'\n  trafficPolicy:\n    tls:\n      mode: ISTIO_MUTUAL\n",
    );
    lab.apply_file(&istio("bookinfo/networking/destination-rule-all-mtls.yaml"));
    let (status, code, output) = lab.curl(
        "deploy/ratings-v1",
        "ratings",
        &["http://ratings:9080/ratings/0"],
    );
    assert_eq!((status, code.as_str()), (0, "200"), "{output:?}");

    let check = eventually("tls-check sees the handshake", || {
        let output = lab.meltemi(&[
            "authn",
            "tls-check",
            "ratings-v1",
            "ratings.default.svc.cluster.local",
        ]);
        (output.status == 0 && output.stdout.contains("MODE: mTLS (STRICT)"))
            .then_some(output.stdout)
    });
    for part in [
        "HOST:PORT",
        "AUTHN POLICY",
        "DESTINATION RULE",
        "ISTIO_MUTUAL",
        "spiffe://cluster.local/ns/default/sa/bookinfo-ratings",
    ] {
        assert!(check.contains(part), "tls-check lacks \"{part}\":\n{check}");
    }

    let clusters = lab.meltemi(&["proxy-config", "clusters", PRODUCTPAGE]).ok();
    assert!(
        clusters.contains("SERVICE FQDN") && clusters.contains("reviews.default.svc.cluster.local"),
        "{clusters}"
    );
    let yaml = lab
        .meltemi(&[
            "proxy-config",
            "clusters",
            PRODUCTPAGE,
            "--fqdn",
            "ratings.default.svc.cluster.local",
            "-o",
            "yaml",
        ])
        .ok();
    assert!(
        yaml.contains("commonTlsContext")
            && yaml.contains("outbound_.9080_._.ratings.default.svc.cluster.local"),
        "{yaml}"
    );
    let listeners = lab
        .meltemi(&["proxy-config", "listeners", PRODUCTPAGE])
        .ok();
    assert!(
        listeners.contains("Inline Route: /healthz/ready*"),
        "{listeners}"
    );
    let status = lab.meltemi(&["proxy-status"]).ok();
    assert!(
        status.contains("productpage-v1") && status.contains("CDS,LDS,EDS,RDS"),
        "{status}"
    );
}

/// `exec -c istio-proxy -- curl http://<service>`: encrypted like everything else, so it works under STRICT.
fn curl_from_the_proxy_container(lab: &Lab) {
    let call = [
        "curl",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code}",
        "http://ratings.default:9080/ratings/0",
    ];
    let output = lab.exec(PRODUCTPAGE, "istio-proxy", &call);
    assert_eq!(output.clone().ok().trim(), "200", "{output:?}");
}

/// `get deploy -o yaml | kube-inject -f - | apply -f -`, twice: the second time changes nothing.
#[test]
fn manual_injection_is_idempotent() {
    let lab = Lab::up("kube-inject", &[]);
    lab.meltemi(&["lab", "label", "namespace", "default", "istio-injection-"])
        .ok();
    lab.apply_file(&istio("bookinfo/platform/kube/bookinfo.yaml"));
    lab.wait_ready();
    let table = lab.meltemi(&["lab", "get", "pods"]).ok();
    assert!(
        table.lines().skip(1).all(|row| row.contains("1/1")),
        "{table}"
    );
    let deployments = lab.meltemi(&["lab", "get", "deploy", "-o", "yaml"]).ok();
    let once = lab.feed(&["kube-inject", "-f", "-"], &deployments).ok();
    let twice = lab.feed(&["kube-inject", "-f", "-"], &once).ok();
    assert_eq!(once, twice);
    lab.apply(&once);
    lab.wait_ready();
    eventually("all pods hold a sidecar", || {
        let table = lab.meltemi(&["lab", "get", "pods"]).ok();
        let rows: Vec<&str> = table.lines().skip(1).collect();
        (rows.len() == 6 && rows.iter().all(|row| row.contains("2/2"))).then_some(())
    });
    let (status, code, output) = lab.curl(
        PRODUCTPAGE,
        "productpage",
        &["http://reviews:9080/reviews/0"],
    );
    assert_eq!((status, code.as_str()), (0, "200"), "{output:?}");
}
