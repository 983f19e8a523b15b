//! A stock Envoy as the sidecar of one pod, against our control plane and our proxies.

use std::io::Write;

use meltemi_e2e::{Lab, eventually, istio};

use crate::{external_authorization, tokens};

/// productpage with a stock Envoy in the place of our proxy: the agent fetches the certificate, serves it to Envoy and starts it.
const PRODUCTPAGE: &str = "
apiVersion: apps/v1
kind: Deployment
metadata:
  name: productpage-v1
  labels: {app: productpage, version: v1}
spec:
  replicas: 1
  selector:
    matchLabels: {app: productpage, version: v1}
  template:
    metadata:
      labels: {app: productpage, version: v1}
    spec:
      serviceAccountName: bookinfo-productpage
      containers:
      - name: istio-proxy
        image: envoyproxy/envoy:v1.40.0
        command: [pilot-agent, envoy]
      - name: productpage
        image: meltemi/examples-bookinfo-productpage-v1:dev
        ports:
        - containerPort: 9080
";

#[test]
fn a_stock_envoy_talks_mutual_tls_with_our_proxies() {
    let envoy = std::env::var("MELTEMI_ENVOY")
        .expect("MELTEMI_ENVOY names the stock Envoy; `cargo xtask test` fetches it");
    let mut images = tempfile::NamedTempFile::new().expect("a temporary file");
    writeln!(images, "\"envoyproxy/envoy:*\": {envoy}").expect("a temporary file is writable");
    let lab = Lab::up("envoy", &["--images", &images.path().to_string_lossy()]);
    lab.apply_file(&istio("bookinfo/platform/kube/bookinfo.yaml"));
    lab.apply(PRODUCTPAGE);
    lab.wait_ready();
    eventually(
        "the pod with the stock Envoy has replaced the other",
        || (lab.pods("default").len() == 6).then_some(()),
    );
    let version = lab.admin("deploy/productpage-v1", "server_info")["version"].to_string();
    assert!(version.contains("1.40.0"), "{version}");
    lab.set_mode("STRICT", "deploy/reviews-v1");

    let call = |url: &str| lab.curl("deploy/productpage-v1", "productpage", &[url]).1;
    eventually("the stock Envoy calls our proxies", || {
        (call("http://reviews:9080/reviews/0") == "200").then_some(())
    });
    for url in [
        "http://details:9080/details/0",
        "http://ratings:9080/ratings/0",
        "http://productpage:9080/productpage",
    ] {
        assert_eq!(call(url), "200", "{url}");
    }
    let (_, code, output) = lab.curl(
        "deploy/ratings-v1",
        "ratings",
        &["http://productpage:9080/productpage"],
    );
    assert_eq!(code, "200", "our proxy calls the stock Envoy: {output:?}");

    // It judges tokens by what our control plane tells it.
    let issuer = tokens::Issuer::new();
    let rule = format!("jwks: '{}'", issuer.keys);
    lab.apply(&tokens::policy("default", "app: productpage", &rule));
    let page = |token: &str| {
        let line = format!("Authorization: Bearer {token}");
        let url = "http://productpage:9080/productpage";
        lab.curl("deploy/ratings-v1", "ratings", &["-H", &line, url])
            .1
    };
    let good = issuer.token(&serde_json::json!({}));
    eventually("the stock Envoy judges tokens", || {
        (page(&good) == "200" && page("x") == "401").then_some(())
    });

    let check = lab
        .meltemi(&["authn", "tls-check", "productpage-v1", "details"])
        .ok();
    for part in [
        "spiffe://cluster.local/ns/default/sa/bookinfo-details",
        "as Envoy counts them",
        "MODE: mTLS (STRICT)",
    ] {
        assert!(check.contains(part), "{check}");
    }

    let seen = lab.admin("deploy/details-v1", "tls")["downstream"].to_string();
    assert!(
        seen.contains("spiffe://cluster.local/ns/default/sa/bookinfo-productpage"),
        "{seen}"
    );
    eventually("the control plane lists six proxies", || {
        let status = lab.meltemi(&["proxy-status"]).ok();
        (status.lines().skip(1).count() == 6).then_some(())
    });

    // It enforces what our proxies would: callers by identity, namespace and account, and paths.
    lab.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: page}\nspec:\n  \
         selector: {matchLabels: {app: productpage}}\n  rules:\n  - from:\n    - source: {principals: ['*/sa/bookinfo-ratings'], namespaces: [def*]}\n    \
         - source: {serviceAccounts: [bookinfo-reviews]}\n    to:\n    - operation: {hosts: [productpage], paths: ['/{*}page']}\n    \
         - operation: {paths: [/productpage], methods: [GET]}\n",
    );
    let page = |app: &str, path: &str| {
        let url = format!("http://productpage:9080{path}");
        lab.curl(&format!("deploy/{app}-v1"), app, &[&url]).1
    };
    eventually("the stock Envoy denies a stranger", || {
        (page("details", "/productpage") == "403").then_some(())
    });
    for (app, path, expected) in [
        ("ratings", "/productpage?u=normal", "200"),
        ("reviews", "/productpage", "200"),
        ("reviews", "/health", "403"),
        ("details", "/productpage", "403"),
    ] {
        assert_eq!(page(app, path), expected, "{app} {path}");
    }

    // It asks the authorizer of a CUSTOM policy, as our proxies do.
    lab.apply_file(&istio("extauthz/ext-authz.yaml"));
    lab.apply(&external_authorization::mesh(
        external_authorization::PROVIDERS,
    ));
    let asked = |header: &str| {
        let url = "http://productpage:9080/productpage";
        lab.curl("deploy/ratings-v1", "ratings", &["-H", header, url])
            .1
    };
    for provider in ["sample-ext-authz-grpc", "sample-ext-authz-http"] {
        let policy = external_authorization::policy("asked", provider, "productpage", "[{}]");
        lab.apply(&policy);
        eventually(&format!("the stock Envoy does as {provider} says"), || {
            let answers = (asked("x-ext-authz: allow"), asked("x-ext-authz: deny"));
            (answers == ("200".to_owned(), "403".to_owned())).then_some(())
        });
        lab.meltemi(&["lab", "delete", "ap", "asked"]).ok();
        eventually("nobody is asked any more", || {
            (asked("x-ext-authz: deny") == "200").then_some(())
        });
    }
}
