//! Ingress gateways: the one of Istio's demo profile, and one by its chart in a namespace of its own.

use meltemi_e2e::{Cluster, Namespace, eventually, istio, project_root, sample};

const HOST: &str = "echo.example.com";
const SECRET: &str = "echo-edge";

/// What a test leaves outside of its namespaces, gone at its end.
struct Gone(&'static Cluster, Vec<String>);

impl Drop for Gone {
    fn drop(&mut self) {
        let words: Vec<&str> = self.1.iter().map(String::as_str).collect();
        let flags = ["--ignore-not-found", "--wait=false"];
        drop(self.0.kubectl(&[&["delete"], &words[..], &flags].concat()));
    }
}

fn gone(words: &[&str]) -> Gone {
    let words = words.iter().map(|word| (*word).to_owned());
    Gone(Cluster::shared(), words.collect())
}

/// A certificate for the host, where the gateway's pods are.
fn certify(namespace: &str) {
    let certified = rcgen::generate_simple_self_signed([HOST.to_owned()]).expect("a certificate");
    let (chain, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
    let secret = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": SECRET}, "stringData": {"tls.crt": chain, "tls.key": key}});
    Cluster::shared()
        .apply(&["-n", namespace], &secret.to_string())
        .ok();
}

/// The echo service, and what leads to it from the pods labelled `istio=SELECTED`.
fn served(shop: &Namespace, selected: &str) {
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    shop.apply(&format!(
        "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: edge}}\nspec:\n  selector: {{istio: {selected}}}\n  servers:\n  \
         - {{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{HOST}]}}\n  \
         - {{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [{HOST}], tls: {{mode: SIMPLE, credentialName: {SECRET}}}}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: edge}}\n\
         spec: {{hosts: [{HOST}], gateways: [edge], http: [{{route: [{{destination: {{host: echo, port: {{number: 8080}}}}}}]}}]}}\n"
    ))
    .ok();
}

/// Both ports of the gateway lead from outside of the mesh to the echo service, by mutual TLS with this identity.
fn is_reached(namespace: &str, name: &str, identity: &str) {
    let cluster = Cluster::shared();
    let outside = Namespace::new(&format!("{name}-outside"), &[]);
    outside
        .kubectl(&["apply", "-f", &istio("curl/curl.yaml")])
        .ok();
    outside.wait_ready();
    let address = "jsonpath={.spec.clusterIP}";
    let service = ["-n", namespace, "get", "service", name, "-o", address];
    let address = cluster.kubectl(&service).ok();
    for (scheme, port) in [("http", 80), ("https", 443)] {
        let resolve = format!("{HOST}:{port}:{}", address.trim());
        let url = format!("{scheme}://{HOST}/");
        let limit = ["--max-time", "5"];
        let curl = [&["curl", "-sSk", "--resolve", &resolve, &url], &limit[..]].concat();
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
    assert!(status.contains(name), "{status}");
}

fn rolled_out(namespace: &str, name: &str) {
    let deployment = format!("deploy/{name}");
    let rollout = ["rollout", "status", &deployment, "--timeout=60s"];
    let of = ["-n", namespace];
    Cluster::shared()
        .kubectl(&[&of[..], &rollout].concat())
        .ok();
}

/// From outside of the mesh, in plain text and by TLS, to a service in it.
#[test]
fn a_gateway_lets_the_outside_in() {
    let shop = Namespace::injected("edge");
    let gateway = sample("ingress-gateway/ingress-gateway.yaml");
    let _gateway = gone(&["-f", &gateway]);
    let _secret = gone(&["-n", "istio-system", "secret", SECRET]);
    Cluster::shared().kubectl(&["apply", "-f", &gateway]).ok();
    certify("istio-system");
    served(&shop, "ingressgateway");
    rolled_out("istio-system", "istio-ingressgateway");
    shop.wait_ready();
    let edge = "gateway.networking.istio.io/edge";
    shop.wait_for("condition=Programmed", edge, 30);
    let identity = "spiffe://cluster.local/ns/istio-system/sa/istio-ingressgateway-service-account";
    is_reached("istio-system", "istio-ingressgateway", identity);
}

/// As Istio's documentation installs one. The chart opens the Secrets of the namespace to the control plane, which looks for
/// them from the gateway's first pod on; before, it says what is missing.
#[test]
fn a_gateway_by_its_chart_has_the_certificates_of_its_namespace() {
    let shop = Namespace::injected("chart-shop");
    let edge = Namespace::new("chart-edge", &[]);
    let chart = project_root().join("manifests/charts/gateway");
    let chart = chart.display().to_string();
    let gateway = |verb: &str, rbac: &str| {
        let values = format!("service.type=ClusterIP,rbac.enabled={rbac}");
        let words = [
            verb,
            "istio-edge",
            &chart,
            "-n",
            &edge.name,
            "--set",
            &values,
        ];
        Cluster::shared().helm(&words).ok();
    };
    gateway("install", "false");
    certify(&edge.name);
    served(&shop, "edge");
    let told = "gateway.networking.istio.io/edge";
    let told = ["get", told, "-o", "jsonpath={.status.validationMessages}"];
    eventually("the Secrets are closed to the control plane", || {
        let messages = shop.kubectl(&told).ok();
        messages.contains("MEL0211").then_some(())
    });
    gateway("upgrade", "true");
    rolled_out(&edge.name, "istio-edge");
    shop.wait_ready();
    let identity = format!("spiffe://cluster.local/ns/{}/sa/istio-edge", edge.name);
    is_reached(&edge.name, "istio-edge", &identity);
    eventually("nothing is left to say", || {
        let messages = shop.kubectl(&told).ok();
        matches!(messages.trim(), "" | "[]").then_some(())
    });
}
