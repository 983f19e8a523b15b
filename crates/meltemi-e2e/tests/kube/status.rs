//! What an object's status says, and `kubectl wait` hears.

use meltemi_e2e::{Namespace, sample};

fn message(shop: &Namespace, object: &str, condition: &str) -> String {
    let path = format!("jsonpath={{.status.conditions[?(@.type==\"{condition}\")].message}}");
    shop.kubectl(&["get", object, "-o", &path]).ok()
}

/// A rule is programmed when the proxies that it concerns run it, and says how many they are.
#[test]
fn a_rule_says_how_many_proxies_run_it() {
    let shop = Namespace::injected("status");
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    shop.wait_ready();
    let rule = |timeout: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: echo}}\n\
             spec: {{hosts: [echo], exportTo: ['.'], http: [{{route: [{{destination: {{host: echo, port: {{number: 8080}}}}}}], timeout: {timeout}}}]}}\n"
        )
    };
    for timeout in ["3s", "4s"] {
        shop.apply(&rule(timeout)).ok();
        shop.wait_for("condition=Programmed", "virtualservice/echo", 30);
        shop.wait_for("condition=Accepted", "virtualservice/echo", 5);
    }
    // The namespace has one sidecar, and nobody else sees the rule.
    let said = message(&shop, "virtualservice/echo", "Programmed");
    assert_eq!(said, "1 of 1 proxy runs it");
}

/// What is wrong with an object stands in its status, by field, where the API server cannot see it.
#[test]
fn a_mistake_between_objects_is_told() {
    let shop = Namespace::injected("mistaken");
    // Nobody is in the namespace, and nobody calls it.
    let none = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: STRICT}}\n";
    shop.apply(none).ok();
    shop.wait_for("condition=Programmed", "peerauthentication/default", 30);
    let said = message(&shop, "peerauthentication/default", "Programmed");
    assert!(said.contains("no connected proxy"), "{said}");
    let rule = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: nowhere}\n\
                spec: {hosts: [nowhere], http: [{route: [{destination: {host: nowhere}}]}]}\n";
    shop.apply(rule).ok();
    shop.wait_for("condition=Accepted=false", "virtualservice/nowhere", 30);
    let said = message(&shop, "virtualservice/nowhere", "Accepted");
    assert!(
        said.contains("IST0101") && said.contains("spec.http[0]"),
        "{said}"
    );
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: nowhere}\nspec: {ports: [{name: http, port: 80}]}\n";
    shop.apply(service).ok();
    shop.wait_for("condition=Accepted", "virtualservice/nowhere", 30);
}
