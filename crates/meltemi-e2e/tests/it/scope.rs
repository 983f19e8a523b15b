//! What a workload may call, and which endpoints it prefers.

use meltemi_e2e::{Lab, eventually};

const CLIENT: (&str, &str) = ("deploy/productpage-v1", "productpage");
const DETAILS: &str = "http://details:9080/details/0";
const REVIEWS: &str = "http://reviews:9080/reviews/0";

#[test]
fn a_sidecar_bounds_what_its_workload_calls() {
    let lab = Lab::bookinfo("scope", &[]);
    let code = |url: &str| lab.curl(CLIENT.0, CLIENT.1, &[url]).1;
    for url in [DETAILS, REVIEWS] {
        eventually("productpage calls everything", || {
            (code(url) == "200").then_some(())
        });
    }
    lab.apply(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: productpage, namespace: default}\n\
         spec: {workloadSelector: {labels: {app: productpage}}, outboundTrafficPolicy: {mode: REGISTRY_ONLY}, \
         egress: [{hosts: ['./details.default.svc.cluster.local', 'istio-system/*']}]}\n",
    );
    eventually("reviews is refused", || {
        (code(REVIEWS) == "502").then_some(())
    });
    assert_eq!(code(DETAILS), "200");
    let clusters = lab.meltemi(&["proxy-config", "clusters", CLIENT.0]).ok();
    let has = |service: &str| clusters.contains(&format!("{service}.default.svc"));
    assert!(has("details") && !has("reviews"), "{clusters}");
    // Others of the namespace call what they called.
    let (_, other, output) = lab.curl("deploy/ratings-v1", "ratings", &[REVIEWS]);
    assert_eq!(other, "200", "{output:?}");
    lab.meltemi(&["lab", "delete", "sidecar", "productpage"])
        .ok();
    eventually("reviews answers again", || {
        (code(REVIEWS) == "200").then_some(())
    });
}
