//! What the API server asks before it makes an object.

use meltemi_e2e::{Cluster, Namespace, eventually, istio};

/// Every mistake is told by the API server itself, with field and remedy; what was there stays.
#[test]
fn mistakes_are_refused_with_their_remedy() {
    let shop = Namespace::new("mistakes", &[]);
    let rule = |host: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r}}\n\
             spec: {{host: {host}, trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: c}}}}}}\n"
        )
    };
    shop.apply(&rule("reviews")).ok();
    // The schema cannot say this one: the webhook does, once it is believed.
    let refused = eventually("the webhook refuses", || {
        let refused = shop.apply(&rule("\"a b\""));
        (refused.status != 0).then_some(refused)
    });
    assert!(refused.stderr.contains("spec.host"), "{refused:?}");
    let misspelt = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p}\nspec: {mtls: {mode: STRICTEST}}\n";
    let refused = shop.apply(misspelt);
    assert_ne!(refused.status, 0);
    assert!(refused.stderr.contains("spec.mtls.mode"), "{refused:?}");
    let host = shop.kubectl(&["get", "destinationrule", "r", "-o", "jsonpath={.spec.host}"]);
    assert_eq!(host.ok(), "reviews");
}

/// Pods that must not be redirected are let alone, and a Job beside a sidecar completes.
#[test]
fn who_needs_no_sidecar_gets_none_and_jobs_end() {
    let shop = Namespace::injected("kinds");
    let image = "docker.io/curlimages/curl:8.16.0";
    let manifest = format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: host}}\n\
         spec: {{hostNetwork: true, terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{image}', command: [sleep, '600']}}]}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: asked-out, annotations: {{sidecar.istio.io/inject: 'false'}}}}\n\
         spec: {{terminationGracePeriodSeconds: 0, containers: [{{name: c, image: '{image}', command: [sleep, '600']}}]}}\n---\n\
         apiVersion: batch/v1\nkind: Job\nmetadata: {{name: once}}\n\
         spec: {{template: {{spec: {{restartPolicy: Never, containers: [{{name: c, image: '{image}', command: [sh, -c, 'true']}}]}}}}}}\n"
    );
    shop.apply(&manifest).ok();
    shop.kubectl(&[
        "wait",
        "--for=condition=Complete",
        "job/once",
        "--timeout=90s",
    ])
    .ok();
    let containers = |pod: &str| {
        let names = "jsonpath={.spec.containers[*].name} {.spec.initContainers[*].name}";
        shop.kubectl(&["get", "pod", pod, "-o", names]).ok()
    };
    assert_eq!(containers("host").trim(), "c");
    assert_eq!(containers("asked-out").trim(), "c");
    let of_job = shop
        .kubectl(&["get", "pod", "-l", "job-name=once", "-o", "name"])
        .ok();
    assert!(containers(of_job.trim().trim_start_matches("pod/")).contains("istio-proxy"));
}

/// A new namespace gets the root of the mesh, and gets it again when somebody takes it away.
#[test]
fn every_namespace_has_the_root() {
    let cluster = Cluster::shared();
    let namespace = Namespace::new("root", &[]);
    let root = || {
        let get = [
            "get",
            "cm",
            "istio-ca-root-cert",
            "-o",
            "jsonpath={.data.root-cert\\.pem}",
        ];
        let found = namespace.kubectl(&get);
        (found.status == 0 && found.stdout.contains("BEGIN CERTIFICATE")).then_some(found.stdout)
    };
    let first = eventually("the root is there", root);
    namespace
        .kubectl(&["delete", "cm", "istio-ca-root-cert"])
        .ok();
    assert_eq!(eventually("the root is there again", root), first);
    let secret = [
        "-n",
        "istio-system",
        "get",
        "secret",
        "istio-ca-secret",
        "-o",
        "name",
    ];
    cluster.kubectl(&secret).ok();
    // Its own samples are what people bring.
    assert!(istio("curl/curl.yaml").ends_with("curl.yaml"));
}
