//! An ingress gateway as Istio's demo profile has it: a pod that injection completes, with a certificate out of a Secret.

use meltemi_e2e::{Cluster, Namespace, eventually, istio, sample};

const HOST: &str = "echo.example.com";

/// The gateway's own objects, gone at the end of the test.
struct Edge(&'static Cluster);

impl Drop for Edge {
    fn drop(&mut self) {
        let gateway = sample("ingress-gateway/ingress-gateway.yaml");
        let delete = [
            "delete",
            "-f",
            &gateway,
            "--ignore-not-found",
            "--wait=false",
        ];
        drop(self.0.kubectl(&delete));
        let secret = [
            "-n",
            "istio-system",
            "delete",
            "secret",
            "echo-edge",
            "--ignore-not-found",
        ];
        drop(self.0.kubectl(&secret));
    }
}

/// From outside of the mesh, in plain text and by TLS, to a service in it.
#[test]
fn a_gateway_lets_the_outside_in() {
    let cluster = Cluster::shared();
    let shop = Namespace::injected("edge");
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    let edge = Edge(cluster);
    let gateway = sample("ingress-gateway/ingress-gateway.yaml");
    cluster.kubectl(&["apply", "-f", &gateway]).ok();
    let certified = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    let (chain, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "echo-edge"}, "stringData": {"tls.crt": chain, "tls.key": key}});
    let of_gateway = ["-n", "istio-system"];
    cluster.apply(&of_gateway, &secret.to_string()).ok();
    shop.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  selector: {{istio: ingressgateway}}\n  servers:\n  \
         - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{HOST}]}}\n  \
         - {{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [{HOST}], tls: {{mode: SIMPLE, credentialName: echo-edge}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: edge}}\n\
         spec: {{hosts: [{HOST}], gateways: [edge], http: [{{route: [{{destination: {{host: echo, port: {{number: 8080}}}}}}]}}]}}\n"
    ))
    .ok();
    let rollout = [
        "rollout",
        "status",
        "deploy/istio-ingressgateway",
        "--timeout=60s",
    ];
    cluster.kubectl(&[&of_gateway[..], &rollout].concat()).ok();
    shop.wait_ready();
    shop.wait_for(
        "condition=Programmed",
        "gateway.networking.istio.io/edge",
        30,
    );

    let outside = Namespace::new("edge-outside", &[]);
    outside
        .kubectl(&["apply", "-f", &istio("curl/curl.yaml")])
        .ok();
    outside.wait_ready();
    let service = [
        "get",
        "service",
        "istio-ingressgateway",
        "-o",
        "jsonpath={.spec.clusterIP}",
    ];
    let address = cluster.kubectl(&[&of_gateway[..], &service].concat()).ok();
    let identity = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account";
    for (scheme, port) in [("http", 80), ("https", 443)] {
        let resolve = format!("{HOST}:{port}:{}", address.trim());
        let url = format!("{scheme}://{HOST}/");
        let curl = [
            "curl",
            "-sSk",
            "--max-time",
            "5",
            "--resolve",
            &resolve,
            &url,
        ];
        let answer = eventually(&format!("{url} answers"), || {
            let called = outside.exec("deploy/curl", "curl", &curl);
            called.stdout.contains("hostname").then_some(called.stdout)
        });
        assert!(
            answer.contains(identity),
            "{url} was not called with mutual TLS: {answer}"
        );
    }
    let status = cluster.meltemi(&["proxy-status"]).ok();
    assert!(status.contains("istio-ingressgateway"), "{status}");
    drop(edge);
}
