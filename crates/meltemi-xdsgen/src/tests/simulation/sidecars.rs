//! What a Sidecar leaves of a mesh, and what it says of the workload's own ports.

use super::*;

/// `web` and `cache` of the client's namespace, `api` and `db` of another, and a client.
const MESH_OF_TWO: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {selector: {app: server}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: cache, namespace: default}
spec: {selector: {app: server}, ports: [{name: tcp, port: 6379}]}
---
apiVersion: v1
kind: Service
metadata: {name: api, namespace: other}
spec: {selector: {app: server}, ports: [{name: http, port: 80}, {name: http-admin, port: 81}]}
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: other}
spec: {selector: {app: server}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: default}
spec: {selector: {matchLabels: {app: client}}, template: {metadata: {labels: {app: client}}, spec: {containers: [{name: a, image: a}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: server, namespace: default}
spec: {selector: {matchLabels: {app: server}}, template: {metadata: {labels: {app: server}}, spec: {containers: [{name: a, image: a}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: far, namespace: other}
spec: {selector: {matchLabels: {app: server}}, template: {metadata: {labels: {app: server}}, spec: {containers: [{name: a, image: a}]}}}
";
const WEB: (&str, &str) = ("10.96.0.1:80", "web");
const CACHE: &str = "10.96.0.2:6379";
const API: (&str, &str) = ("10.96.0.3:80", "api.other");
const ADMIN: (&str, &str) = ("10.96.0.3:81", "api.other");
const DB: &str = "10.96.0.4:5432";

fn sidecar(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn world(more: &[String]) -> World {
    World::new(&format!("{MESH_OF_TWO}{}", more.concat()))
}

fn http(proxy: &Proxy, (to, authority): (&str, &str)) -> String {
    proxy.outbound(Call {
        to,
        authority,
        ..HTTP
    })
}

fn bytes(proxy: &Proxy, to: &str) -> String {
    proxy.outbound(Call { to, ..BYTES })
}

fn clusters(proxy: &Proxy) -> Vec<&str> {
    let mut names: Vec<&str> = proxy.clusters.keys().map(String::as_str).collect();
    names.retain(|name| name.starts_with("outbound|"));
    names.sort_unstable();
    names
}

#[test]
fn a_proxy_has_what_its_sidecar_imports() {
    let own = sidecar("default", "own", "{egress: [{hosts: ['./*']}]}");
    let proxy = Proxy::of(&world(&[own]), "client");
    assert_eq!(
        clusters(&proxy),
        [
            "outbound|6379||cache.default.svc.cluster.local",
            "outbound|80||web.default.svc.cluster.local",
        ]
    );
    let web = "http > default > outbound|80||web.default.svc.cluster.local";
    assert_eq!(http(&proxy, WEB), web);
    assert_eq!(
        bytes(&proxy, CACHE),
        "tcp > outbound|6379||cache.default.svc.cluster.local"
    );
    // On a port that something imported has it is an unknown host, on others an unknown address.
    assert_eq!(http(&proxy, API), "http > allow_any > PassthroughCluster");
    assert_eq!(http(&proxy, ADMIN), "tcp > PassthroughCluster");
    assert_eq!(bytes(&proxy, DB), "tcp > PassthroughCluster");
}

#[test]
fn the_sidecars_policy_for_unknown_destinations_counts_before_the_meshs() {
    let refusing = "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n";
    for (policy, mesh, expected) in [
        (
            "",
            "",
            [
                "http > allow_any > PassthroughCluster",
                "tcp > PassthroughCluster",
            ],
        ),
        ("", refusing, ["http > 502", "tcp > BlackHoleCluster"]),
        (
            ", outboundTrafficPolicy: {mode: REGISTRY_ONLY}",
            "",
            ["http > 502", "tcp > BlackHoleCluster"],
        ),
        // The word that Istio's enumeration begins with.
        (
            ", outboundTrafficPolicy: {}",
            "",
            ["http > 502", "tcp > BlackHoleCluster"],
        ),
        (
            ", outboundTrafficPolicy: {mode: ALLOW_ANY}",
            refusing,
            [
                "http > allow_any > PassthroughCluster",
                "tcp > PassthroughCluster",
            ],
        ),
        (
            ", outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: api.other.svc.cluster.local, port: {number: 81}}}",
            "",
            [
                "http > allow_any > outbound|81||api.other.svc.cluster.local",
                "tcp > outbound|81||api.other.svc.cluster.local",
            ],
        ),
    ] {
        let own = sidecar(
            "default",
            "own",
            &format!("{{egress: [{{hosts: ['./*']}}]{policy}}}"),
        );
        let proxy = Proxy::of(&world(&[own]).config(mesh), "client");
        assert_eq!(
            [http(&proxy, API), bytes(&proxy, DB)],
            expected,
            "{policy} {mesh}"
        );
        if policy.contains("egressProxy") {
            assert!(
                proxy
                    .clusters
                    .contains_key("outbound|81||api.other.svc.cluster.local")
            );
        }
    }
}

#[test]
fn each_port_has_one_egress_listener() {
    let spec = "{egress: [{port: {number: 80, protocol: HTTP, name: a}, hosts: ['other/*']}, {port: {number: 6379}, hosts: ['~/*']}, {hosts: ['*/*', '~other/api.other.svc.cluster.local']}]}";
    let proxy = Proxy::of(&world(&[sidecar("default", "own", spec)]), "client");
    assert_eq!(http(&proxy, WEB), "http > allow_any > PassthroughCluster");
    assert_eq!(
        http(&proxy, API),
        "http > default > outbound|80||api.other.svc.cluster.local"
    );
    assert_eq!(bytes(&proxy, CACHE), "tcp > PassthroughCluster");
    // Left out of everything.
    assert_eq!(http(&proxy, ADMIN), "tcp > PassthroughCluster");
    assert_eq!(
        bytes(&proxy, DB),
        "tcp > outbound|5432||db.other.svc.cluster.local"
    );
}

#[test]
fn ports_that_are_not_imported_have_no_cluster() {
    let spec = "{egress: [{port: {number: 80}, hosts: ['other/*']}]}";
    let proxy = Proxy::of(&world(&[sidecar("default", "own", spec)]), "client");
    assert_eq!(
        clusters(&proxy),
        ["outbound|80||api.other.svc.cluster.local"]
    );
}

#[test]
fn routes_are_obeyed_where_they_are_imported_and_lead_beyond() {
    let routed = |namespace: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r, namespace: {namespace}}}\n\
             spec: {{hosts: [web.default.svc.cluster.local], http: [{{name: away, route: [{{destination: {{host: api.other.svc.cluster.local, port: {{number: 81}}}}}}]}}]}}\n"
        )
    };
    let own = sidecar("default", "own", "{egress: [{hosts: ['./*']}]}");
    let proxy = Proxy::of(&world(&[own.clone(), routed("default")]), "client");
    assert_eq!(
        http(&proxy, WEB),
        "http > away > outbound|81||api.other.svc.cluster.local"
    );
    assert!(
        proxy
            .clusters
            .contains_key("outbound|81||api.other.svc.cluster.local")
    );
    assert_eq!(
        proxy
            .endpoints("outbound|81||api.other.svc.cluster.local")
            .len(),
        1
    );
    // It is no host that may be called.
    assert_eq!(http(&proxy, ADMIN), "tcp > PassthroughCluster");
    // Routes of a namespace that is not imported are not obeyed.
    let proxy = Proxy::of(&world(&[own, routed("other")]), "client");
    let web = "http > default > outbound|80||web.default.svc.cluster.local";
    assert_eq!(http(&proxy, WEB), web);
    assert_eq!(clusters(&proxy).len(), 2);
}

/// A host outside the scope is as good as no service: a VirtualService of the scope gives it routes.
#[test]
fn routes_of_a_host_that_is_not_imported_are_obeyed() {
    let routed = |timeout: u32| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: r, namespace: default}}\n\
             spec: {{hosts: [api.other.svc.cluster.local], http: [{{name: own, timeout: {timeout}s, route: [{{destination: {{host: api.other.svc.cluster.local, port: {{number: 80}}}}}}]}}]}}\n"
        )
    };
    let own = sidecar(
        "default",
        "own",
        "{egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
    );
    let mut world = world(&[own, routed(7)]);
    let called = ("10.96.0.3:80", "api.other.svc.cluster.local");
    let proxy = Proxy::of(&world, "client");
    assert_eq!(
        http(&proxy, called),
        "http > own > outbound|80||api.other.svc.cluster.local"
    );
    // Only by the name that the VirtualService has.
    assert_eq!(http(&proxy, API), "http > 502");

    let view = world.view("client", Flavour::Meltemi);
    let mut shelf = crate::Shelf::default();
    let snapshot = world.mesh.snapshot();
    let none = meltemi_model::ChangeSet::default();
    let mut state = crate::ProxyState::new(view.clone(), &mut shelf.round(&snapshot, &none));
    let everything = sidecar("default", "own", "{egress: [{hosts: ['*/*']}]}");
    for change in [routed(9), everything] {
        let before = state.generated();
        let changes = world.apply(&change);
        let snapshot = world.mesh.snapshot();
        state.update(&mut shelf.round(&snapshot, &changes));
        assert_eq!(state.generated(), crate::generate(&view, &snapshot));
        assert!(before != state.generated());
    }
}

#[test]
fn the_root_namespaces_sidecar_means_the_workloads_own_namespace() {
    let root = sidecar("istio-system", "all", "{egress: [{hosts: ['./*']}]}");
    let world = world(&[root]);
    let proxy = Proxy::of(&world, "far");
    assert_eq!(
        clusters(&proxy),
        [
            "outbound|5432||db.other.svc.cluster.local",
            "outbound|80||api.other.svc.cluster.local",
            "outbound|81||api.other.svc.cluster.local",
        ]
    );
    // Gateways obey none: they have what their routes lead to, which is nothing here.
    let gateway = crate::generate(
        &world.router("far", Flavour::Meltemi),
        &world.mesh.snapshot(),
    );
    assert!(
        !gateway
            .clusters
            .keys()
            .any(|name| name.starts_with("outbound|"))
    );
}

#[test]
fn a_sidecar_says_what_the_workload_serves() {
    let spec = "{workloadSelector: {labels: {app: server}}, inboundConnectionPool: {tcp: {maxConnections: 7}}, ingress: [\
                {port: {number: 9000, protocol: HTTP, name: a}, defaultEndpoint: '127.0.0.1:8080'}, \
                {port: {number: 9001, protocol: TCP, name: b}, defaultEndpoint: '0.0.0.0:8081', connectionPool: {tcp: {maxConnections: 3}}}, \
                {port: {number: 9002, protocol: TCP, name: d}, defaultEndpoint: '[::]:8082'}, \
                {port: {number: 80, protocol: HTTP, name: c}}]}";
    let world = world(&[sidecar("default", "own", spec)]);
    let proxy = Proxy::of(&world, "server");
    let inbound = |port: u16, call: Call<'_>| {
        let to = format!("10.244.0.2:{port}");
        proxy.inbound(Call { to: &to, ..call })
    };
    assert_eq!(inbound(9000, HTTP), "http > default > inbound|9000||");
    assert_eq!(inbound(9001, BYTES), "tcp > inbound|9001||");
    assert_eq!(inbound(80, MESH), "mtls http > default > inbound|80||");
    // A port of a service that is not listed is none of its own.
    assert_eq!(inbound(6379, BYTES), "tcp > InboundPassthroughCluster");
    let generated = world.generate("server", Flavour::Envoy);
    let cluster = |name: &str| {
        let cluster = crate::tests::support::to_json(&generated.clusters[name]);
        let endpoint = "/loadAssignment/endpoints/0/lbEndpoints/0/endpoint/address/socketAddress";
        format!(
            "{} {} {} {}",
            cluster["type"].as_str().unwrap(),
            cluster.pointer(endpoint).map_or_else(
                || "-".to_owned(),
                |at| format!("{}:{}", at["address"].as_str().unwrap(), at["portValue"])
            ),
            cluster["upstreamBindConfig"]["sourceAddress"]["address"]
                .as_str()
                .unwrap_or("-"),
            cluster["circuitBreakers"]["thresholds"][0]["maxConnections"],
        )
    };
    assert_eq!(cluster("inbound|9000||"), "STATIC 127.0.0.1:8080 - 7");
    assert_eq!(
        cluster("inbound|9001||"),
        "STATIC 10.244.0.2:8081 127.0.0.6 3"
    );
    assert_eq!(
        cluster("inbound|9002||"),
        "STATIC 10.244.0.2:8082 127.0.0.6 7"
    );
    assert_eq!(cluster("inbound|80||"), "ORIGINAL_DST - 127.0.0.6 7");
    // Others of the namespace are not spoken of.
    assert_eq!(
        Proxy::of(&world, "client")
            .clusters
            .keys()
            .filter(|name| name.starts_with("inbound|"))
            .count(),
        0
    );
}

#[test]
fn the_objects_say_which_sidecar_a_proxy_obeys() {
    let of_server = sidecar(
        "default",
        "own",
        "{workloadSelector: {labels: {app: server}}, egress: [{hosts: ['other/*']}]}",
    );
    let world = world(&[of_server]);
    let whole = world.generate("client", Flavour::Meltemi);
    // Its pod has no such label, whatever the proxy says.
    let client = world.view("client", Flavour::Meltemi);
    let server = world.view("server", Flavour::Meltemi);
    let generate = |view| crate::generate(&view, &world.mesh.snapshot());
    let lying = generate(crate::ProxyView {
        labels: server.labels.clone(),
        ..client.clone()
    });
    assert!(lying.clusters == whole.clusters);
    let narrow = generate(server.clone());
    assert!(narrow.clusters != whole.clusters);
    let lying = generate(crate::ProxyView {
        labels: client.labels,
        ..server
    });
    assert!(lying.clusters == narrow.clusters);
}

#[test]
fn datagrams_are_no_ingress() {
    let of_datagrams = sidecar(
        "default",
        "own",
        "{workloadSelector: {labels: {app: server}}, ingress: [{port: {number: 53, protocol: UDP, name: a}}]}",
    );
    let proxy = Proxy::of(&world(&[of_datagrams]), "server");
    let to = "10.244.0.2:80";
    let called = proxy.inbound(Call { to, ..HTTP });
    assert_eq!(called, "http > default > inbound|80||");
}

#[test]
fn what_a_proxy_has_follows_its_sidecar() {
    let mut world = world(&[]);
    let view = Arc::new(world.view("client", Flavour::Meltemi));
    let mut shelf = crate::Shelf::default();
    let snapshot = world.mesh.snapshot();
    let none = meltemi_model::ChangeSet::default();
    let mut state =
        crate::ProxyState::new(view.as_ref().clone(), &mut shelf.round(&snapshot, &none));
    let whole = state.generated();
    for spec in [
        Some("{egress: [{hosts: ['./*']}]}"),
        Some("{egress: [{hosts: ['other/*']}]}"),
        None,
    ] {
        let changes = match spec {
            Some(spec) => world.apply(&sidecar("default", "own", spec)),
            None => world.delete(meltemi_api::Kind::Sidecar, "own"),
        };
        let snapshot = world.mesh.snapshot();
        state.update(&mut shelf.round(&snapshot, &changes));
        assert_eq!(
            state.generated(),
            crate::generate(&view, &snapshot),
            "{spec:?}"
        );
        assert_eq!(state.generated() == whole, spec.is_none());
    }
}
