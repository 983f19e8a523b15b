//! The beginner's guide with kubectl, word for word, with Istio's own manifests.

use meltemi_e2e::{Cluster, Namespace, eventually, istio, sample};

const BOOKINFO: [&str; 6] = [
    "details-v1",
    "productpage-v1",
    "ratings-v1",
    "reviews-v1",
    "reviews-v2",
    "reviews-v3",
];

#[test]
fn the_guide_works_word_for_word() {
    let cluster = Cluster::shared();
    let shop = Namespace::injected("guide");
    let bookinfo = istio("bookinfo/platform/kube/bookinfo.yaml");
    shop.kubectl(&["apply", "-f", &bookinfo]).ok();
    shop.wait_ready();
    let pods = shop.kubectl(&["get", "pods", "--no-headers"]).ok();
    assert_eq!(pods.lines().count(), BOOKINFO.len(), "{pods}");
    assert!(pods.lines().all(|pod| pod.contains("2/2")), "{pods}");

    answers(&shop, "http://reviews:9080/reviews/0");
    answers(&shop, "http://productpage:9080/productpage");

    let status = cluster.meltemi(&["proxy-status"]).ok();
    for name in BOOKINFO {
        assert!(status.contains(name), "{name} is not connected:\n{status}");
    }
    strict(cluster, &shop);
    plaintext_is_refused(&shop);
    weights_are_obeyed(&shop);
    injected_by_hand(cluster);
}

/// A call from the proxy's container, which goes through the mesh like the application's own.
fn answers(shop: &Namespace, url: &str) {
    let curl = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", url];
    let code = eventually(&format!("{url} answers"), || {
        let called = shop.exec("deploy/productpage-v1", "istio-proxy", &curl);
        (called.status == 0).then_some(called.stdout)
    });
    assert_eq!(code, "200", "{url}");
}

/// `PeerAuthentication` STRICT and the DestinationRules of mutual TLS; tls-check reports what is.
fn strict(cluster: &Cluster, shop: &Namespace) {
    let strict = "apiVersion: security.istio.io/v1beta1\nkind: PeerAuthentication\nmetadata: {name: default}\n\
                  spec: {mtls: {mode: STRICT}}\n";
    shop.apply(strict).ok();
    let rules = sample("bookinfo/networking/destination-rule-all-mtls.yaml");
    shop.kubectl(&["apply", "-f", &rules]).ok();
    let ratings = format!("ratings.{}.svc.cluster.local", shop.name);
    let check = eventually("the verdict is STRICT", || {
        let check = [
            "authn",
            "tls-check",
            "ratings-v1",
            &ratings,
            "-n",
            &shop.name,
        ];
        let check = cluster.meltemi(&check).ok();
        check.contains("MODE: mTLS (STRICT)").then_some(check)
    });
    let identity = format!(
        "spiffe://cluster.local/ns/{}/sa/bookinfo-ratings",
        shop.name
    );
    for part in ["HOST:PORT", "ISTIO_MUTUAL", "TLSv1.3", &identity] {
        assert!(check.contains(part), "tls-check lacks {part}:\n{check}");
    }
    answers(shop, "http://productpage:9080/productpage");
    let pod = shop.kubectl(&[
        "get",
        "pod",
        "-l",
        "app=productpage",
        "-o",
        "jsonpath={.items[0].metadata.name}",
    ]);
    let clusters = cluster.meltemi(&["proxy-config", "clusters", &pod.ok(), "-n", &shop.name]);
    let clusters = clusters.ok();
    assert!(
        clusters.contains(&ratings) && clusters.contains("SERVICE FQDN"),
        "{clusters}"
    );
}

fn plaintext_is_refused(shop: &Namespace) {
    let outside = Namespace::new("outside", &[]);
    outside
        .kubectl(&["apply", "-f", &istio("curl/curl.yaml")])
        .ok();
    outside.wait_ready();
    let pods = outside.kubectl(&["get", "pods", "--no-headers"]).ok();
    assert!(pods.contains("1/1"), "{pods}");
    let url = format!("http://details.{}:9080/details/0", shop.name);
    let refused = outside.exec(
        "deploy/curl",
        "curl",
        &["curl", "-sS", "--max-time", "10", &url],
    );
    // 56: reset while reading; 52: closed without an answer.
    assert!([56, 52].contains(&refused.status), "{refused:?}");
}

/// 90 to 10, as the guide's canary.
fn weights_are_obeyed(shop: &Namespace) {
    let route = "apiVersion: networking.istio.io/v1beta1\nkind: VirtualService\nmetadata: {name: reviews}\n\
                 spec: {hosts: [reviews], http: [{route: [\
                 {destination: {host: reviews, subset: v1}, weight: 90}, {destination: {host: reviews, subset: v3}, weight: 10}]}]}\n";
    shop.apply(route).ok();
    shop.kubectl(&["apply", "-f", &istio("curl/curl.yaml")])
        .ok();
    shop.wait_ready();
    let script = "i=0; while [ $i -lt 200 ]; do curl -s http://reviews:9080/reviews/0; echo; i=$((i+1)); done";
    let count = || {
        let answers = shop.exec("deploy/curl", "curl", &["sh", "-c", script]);
        let answers = answers.ok();
        let of = |version: &str| {
            answers
                .lines()
                .filter(|line| line.contains(version))
                .count()
        };
        (of("reviews-v1-"), of("reviews-v2-"), of("reviews-v3-"))
    };
    // v2 is not named: once nothing goes there, the route is in force.
    let (first, second, third) = eventually("the route is in force", || {
        let counts = count();
        (counts.1 == 0).then_some(counts)
    });
    assert_eq!((first + third, second), (200, 0));
    assert!((160..=196).contains(&first), "{first} of 200 went to v1");
}

/// `kubectl get deploy -o yaml | istioctl kube-inject -f - | kubectl apply -f -`
fn injected_by_hand(cluster: &Cluster) {
    let plain = Namespace::new("by-hand", &[]);
    plain
        .kubectl(&["apply", "-f", &istio("curl/curl.yaml")])
        .ok();
    plain.wait_ready();
    let written = plain.kubectl(&["get", "deploy", "-o", "yaml"]).ok();
    let injected = cluster.meltemi_with(&["kube-inject", "-f", "-"], &written);
    assert!(injected.stderr.contains("injected"), "{}", injected.stderr);
    plain.apply(&injected.ok()).ok();
    plain
        .kubectl(&["rollout", "status", "deploy/curl", "--timeout=60s"])
        .ok();
    eventually("the pod has a sidecar", || {
        let pods = plain.kubectl(&["get", "pods", "--no-headers"]).ok();
        pods.contains("2/2").then_some(())
    });
}
