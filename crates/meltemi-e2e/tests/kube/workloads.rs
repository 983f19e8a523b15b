//! Workloads of every kind, each as its users write it.

use meltemi_e2e::{Namespace, eventually, istio, sample};

/// Any image that the cluster has with a client in it.
const CURL: &str = "docker.io/curlimages/curl:8.16.0";
const ECHO: &str = "meltemi/echo:dev";

/// The answer of an echo server to a call out of a pod: who called, by its certificate, stands in it.
fn call(from: &Namespace, pod: &str, container: &str, url: &str) -> String {
    let curl = ["curl", "-sS", "--max-time", "5", url];
    eventually(&format!("{url} answers {pod}"), || {
        let called = from.exec(pod, container, &curl);
        (called.status == 0 && called.stdout.contains("hostname")).then_some(called.stdout)
    })
}

fn caller(namespace: &Namespace) {
    namespace
        .kubectl(&["apply", "-f", &istio("curl/curl.yaml")])
        .ok();
}

/// Pods of a StatefulSet are called by their own names and by that of their headless Service, with mutual TLS.
#[test]
fn pods_of_a_stateful_set_are_called_by_their_names() {
    let shop = Namespace::injected("stateful");
    caller(&shop);
    shop.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: db}}\nspec: {{clusterIP: None, selector: {{app: db}}, ports: [{{name: http, port: 8080}}]}}\n---\n\
         apiVersion: apps/v1\nkind: StatefulSet\nmetadata: {{name: db}}\nspec:\n  serviceName: db\n  replicas: 2\n  selector: {{matchLabels: {{app: db}}}}\n  \
         template: {{metadata: {{labels: {{app: db}}}}, spec: {{terminationGracePeriodSeconds: 2, containers: [{{name: db, image: '{ECHO}', args: ['--http', '8080'], ports: [{{containerPort: 8080}}]}}]}}}}\n"
    ))
    .ok();
    shop.kubectl(&["rollout", "status", "statefulset/db", "--timeout=90s"])
        .ok();
    shop.wait_ready();
    let identity = format!("spiffe://cluster.local/ns/{}/sa/curl", shop.name);
    for (url, answering) in [
        ("http://db-0.db:8080/", "db-0"),
        ("http://db-1.db:8080/", "db-1"),
        ("http://db:8080/", "db-"),
    ] {
        let answer = call(&shop, "deploy/curl", "curl", url);
        assert!(
            answer.contains(&format!("\"hostname\":\"{answering}")),
            "{url}: {answer}"
        );
        assert!(
            answer.contains(&identity),
            "{url} is not called with mutual TLS: {answer}"
        );
    }
}

/// A DaemonSet on its nodes' own network is left alone, and still reached.
#[test]
fn a_daemon_on_the_nodes_network_is_left_alone_and_reached() {
    let shop = Namespace::injected("daemon");
    caller(&shop);
    shop.apply(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: agent}}\nspec: {{selector: {{app: agent}}, ports: [{{name: http, port: 80, targetPort: 18080}}]}}\n---\n\
         apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec:\n  selector: {{matchLabels: {{app: agent}}}}\n  \
         template: {{metadata: {{labels: {{app: agent}}}}, spec: {{hostNetwork: true, terminationGracePeriodSeconds: 2, containers: [{{name: agent, image: '{ECHO}', args: ['--http', '18080', '--tcp', '18081', '--server-first', '18082']}}]}}}}\n"
    ))
    .ok();
    shop.kubectl(&["rollout", "status", "daemonset/agent", "--timeout=90s"])
        .ok();
    shop.wait_ready();
    let names =
        "jsonpath={.items[*].spec.containers[*].name} {.items[*].spec.initContainers[*].name}";
    let containers = shop
        .kubectl(&["get", "pods", "-l", "app=agent", "-o", names])
        .ok();
    assert_eq!(containers.trim(), "agent agent");
    call(&shop, "deploy/curl", "curl", "http://agent/");
}

/// A container that runs before the application has the network, and the mesh; an application that asks for less than
/// nothing of its node runs beside a sidecar.
#[test]
fn what_runs_first_has_the_mesh_and_strict_settings_are_kept() {
    let shop = Namespace::injected("first");
    shop.kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
        .ok();
    shop.wait_ready();
    let call = "for i in 1 2 3 4 5 6 7 8 9 10; do curl -sS --max-time 5 http://echo:8080/ > /out/answer && exit 0; sleep 1; done; exit 1";
    shop.apply(&format!(
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {{name: first}}\n---\n\
         apiVersion: v1\nkind: Pod\nmetadata: {{name: first, labels: {{app: first}}}}\nspec:\n  serviceAccountName: first\n  terminationGracePeriodSeconds: 1\n  \
         securityContext: {{runAsUser: 1000, runAsGroup: 1000, runAsNonRoot: true, fsGroup: 2000, seccompProfile: {{type: RuntimeDefault}}}}\n  \
         volumes: [{{name: out, emptyDir: {{}}}}]\n  \
         initContainers: [{{name: migrate, image: '{CURL}', command: [sh, -c, '{call}'], volumeMounts: [{{name: out, mountPath: /out}}]}}]\n  \
         containers: [{{name: app, image: '{CURL}', command: [sh, -c, 'cat /out/answer; echo; sleep 600'], volumeMounts: [{{name: out, mountPath: /out}}], \
         securityContext: {{allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {{drop: [ALL]}}}}}}]\n"
    ))
    .ok();
    shop.wait_for("condition=Ready", "pod/first", 60);
    let said = shop.kubectl(&["logs", "first", "-c", "app"]).ok();
    let identity = format!("spiffe://cluster.local/ns/{}/sa/first", shop.name);
    assert!(
        said.contains(&identity),
        "the init container's call had no identity: {said}"
    );
    let ids = shop
        .exec("pod/first", "app", &["sh", "-c", "cat /proc/self/status"])
        .ok();
    assert!(ids.contains("Uid:\t1000"), "{ids}");
}

/// Two namespaces, two modes: who has no certificate is refused by one and served by the other.
#[test]
fn two_namespaces_have_two_modes() {
    let (strict, lax) = (Namespace::injected("strict"), Namespace::injected("lax"));
    let outside = Namespace::new("no-mesh", &[]);
    for (namespace, mode) in [(&strict, "STRICT"), (&lax, "DISABLE")] {
        namespace
            .kubectl(&["apply", "-f", &sample("echo/echo.yaml")])
            .ok();
        namespace
            .apply(&format!(
                "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: default}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
            ))
            .ok();
    }
    caller(&outside);
    caller(&lax);
    for namespace in [&strict, &lax, &outside] {
        namespace.wait_ready();
    }
    let url = |namespace: &Namespace| format!("http://echo.{}:8080/", namespace.name);
    let plain = call(&outside, "deploy/curl", "curl", &url(&lax));
    assert!(!plain.contains("spiffe://"), "{plain}");
    eventually("plaintext is refused", || {
        let target = url(&strict);
        let curl = ["curl", "-sS", "--max-time", "5", &target];
        let refused = outside.exec("deploy/curl", "curl", &curl);
        [52, 56].contains(&refused.status).then_some(())
    });
    let meshed = call(&lax, "deploy/curl", "curl", &url(&strict));
    assert!(meshed.contains("spiffe://"), "{meshed}");
    let meshed = call(&lax, "deploy/curl", "curl", &url(&lax));
    assert!(!meshed.contains("spiffe://"), "{meshed}");
}
