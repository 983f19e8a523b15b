//! What a person is told about a mistake, and that nothing else stops working.

use meltemi_e2e::Lab;

fn check(lab: &Lab, yaml: &str, parts: &[&str]) {
    let output = lab.feed(&["lab", "apply", "-f", "-"], yaml);
    for part in parts {
        assert!(
            output.stderr.contains(part),
            "the message lacks \"{part}\": {}",
            output.stderr
        );
    }
    let (status, code, _) = lab.curl(
        "deploy/productpage-v1",
        "productpage",
        &["http://reviews:9080/reviews/0"],
    );
    assert_eq!(
        (status, code.as_str()),
        (0, "200"),
        "the mesh stopped working after:\n{yaml}"
    );
}

#[test]
fn mistakes_are_explained_and_harmless() {
    let lab = Lab::bookinfo("mistakes", &[]);
    check(
        &lab,
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata:\n  name: a\n  namespace: default\nspec:\n  mtls:\n    mode: STRCT\n",
        &[
            "PeerAuthentication default/a",
            "spec.mtls.mode",
            "STRCT",
            "STRICT",
            ":8:",
        ],
    );
    check(
        &lab,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: b\n  namespace: default\nspec:\n  hosts: [b]\n  http:\n  \
         - rout:\n    - destination: {host: reviews}\n",
        &[
            "VirtualService default/b",
            "spec.http[0]",
            "rout",
            "route",
            ":9:",
        ],
    );
    check(
        &lab,
        "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: c\n  namespace: default\nspec:\n  hosts: [ratings]\n  http:\n  \
         - match: [{uri: {prefix: /never}}]\n    route:\n    - destination: {host: reviewz}\n  - route:\n    - destination: {host: ratings}\n",
        &[
            "IST0101",
            "VirtualService default/c",
            "spec.http[0].route[0].destination",
            "reviewz",
            "reviews",
        ],
    );
    let twin = |name: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata:\n  name: {name}\n  namespace: default\nspec:\n  \
             hosts: [details]\n  http:\n  - route:\n    - destination: {{host: details}}\n"
        )
    };
    check(&lab, &twin("d1"), &[]);
    check(&lab, &twin("d2"), &["IST0109", "d1", "d2"]);
}
