//! Which endpoints are preferred by a client at some place.

use meltemi_core::Locality;

use super::*;
use crate::ProxyView;

/// One endpoint at each place; `z1/b` has two.
const MESH_OF_PLACES: &str = "
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: api, namespace: default}
spec:
  hosts: [api.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  location: MESH_INTERNAL
  endpoints:
  - {address: 10.1.0.1, locality: r1/z1/a, labels: {version: v1, tier: gold}}
  - {address: 10.1.0.2, locality: r1/z1/b, labels: {version: v1}, weight: 2}
  - {address: 10.1.0.3, locality: r1/z1/b, labels: {version: v2}}
  - {address: 10.1.0.4, locality: r1/z2, labels: {version: v2, tier: gold}}
  - {address: 10.2.0.1, locality: r2/z1/a, labels: {version: v1}}
  - {address: 10.3.0.1, locality: r3, labels: {version: v2}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: client, namespace: default}
spec: {selector: {matchLabels: {app: client}}, template: {metadata: {labels: {app: client, version: v1}}, spec: {containers: [{name: a, image: a}]}}}
";
const API: &str = "outbound|80||api.example.com";
const OUTLIER: &str = "outlierDetection: {consecutive5xxErrors: 5}";

fn rule(policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: r, namespace: default}}\n\
         spec: {{host: api.example.com, trafficPolicy: {{{policy}}}}}\n"
    )
}

/// `priority: last part of the address*weight of its locality`, in order.
fn preferred(world: &World, at: &str) -> Vec<String> {
    let view = ProxyView {
        locality: Locality::from(at),
        ..world.view("client", Flavour::Meltemi)
    };
    let proxy = Proxy::new(&crate::generate(&view, &world.mesh.snapshot()));
    let localities = proxy.assignments[API].localities.iter();
    localities
        .map(|locality| {
            let hosts = locality.endpoints.iter();
            let hosts = hosts.map(|one| {
                let ip = one.socket_addr().unwrap().ip().to_string();
                ip.strip_prefix("10.").unwrap().to_owned()
            });
            format!(
                "{}: {}*{}",
                locality.priority,
                hosts.collect::<Vec<_>>().join(","),
                locality.weight.unwrap()
            )
        })
        .collect()
}

fn check(policy: &str, at: &str, expected: &[&str]) {
    let world = World::new(&format!("{MESH_OF_PLACES}{}", rule(policy)));
    assert_eq!(preferred(&world, at), expected, "{policy} at {at}");
}

#[test]
fn the_nearest_come_first_where_failures_are_seen() {
    check(
        OUTLIER,
        "r1/z1/a",
        &[
            "0: 1.0.1*1",
            "1: 1.0.2,1.0.3*3",
            "2: 1.0.4*1",
            "3: 2.0.1*1",
            "3: 3.0.1*1",
        ],
    );
    // Numbers are left out where nothing is.
    check(
        OUTLIER,
        "r2/z9",
        &[
            "0: 2.0.1*1",
            "1: 1.0.1*1",
            "1: 1.0.2,1.0.3*3",
            "1: 1.0.4*1",
            "1: 3.0.1*1",
        ],
    );
    let alike = [
        "0: 1.0.1*1",
        "0: 1.0.2,1.0.3*3",
        "0: 1.0.4*1",
        "0: 2.0.1*1",
        "0: 3.0.1*1",
    ];
    // Without outlier detection nothing would ever fail over, so nothing is preferred.
    check("loadBalancer: {simple: RANDOM}", "r1/z1/a", &alike);
    check(
        &format!("{OUTLIER}, loadBalancer: {{localityLbSetting: {{enabled: false}}}}"),
        "r1/z1/a",
        &alike,
    );
}

#[test]
fn a_region_fails_over_to_the_one_that_is_named_first() {
    let to = |region: &str| {
        format!(
            "{OUTLIER}, loadBalancer: {{localityLbSetting: {{failover: [{{from: r1, to: {region}}}]}}}}"
        )
    };
    check(
        &to("r3"),
        "r1/z1/a",
        &[
            "0: 1.0.1*1",
            "1: 1.0.2,1.0.3*3",
            "2: 1.0.4*1",
            "3: 3.0.1*1",
            "4: 2.0.1*1",
        ],
    );
    check(
        &to("r2"),
        "r1/z1/a",
        &[
            "0: 1.0.1*1",
            "1: 1.0.2,1.0.3*3",
            "2: 1.0.4*1",
            "3: 2.0.1*1",
            "4: 3.0.1*1",
        ],
    );
}

#[test]
fn labels_order_endpoints_by_the_first_in_which_they_differ() {
    let by = |labels: &str, more: &str| {
        format!(
            "{OUTLIER}, loadBalancer: {{localityLbSetting: {{failoverPriority: [{labels}]{more}}}}}"
        )
    };
    // The client is of version v1; a locality is divided where its endpoints differ.
    check(
        &by("version", ""),
        "r1/z1/a",
        &[
            "0: 1.0.1*1",
            "0: 1.0.2*2",
            "0: 2.0.1*1",
            "1: 1.0.3*1",
            "1: 1.0.4*1",
            "1: 3.0.1*1",
        ],
    );
    check(
        &by("topology.kubernetes.io/region, tier=gold", ""),
        "r1/z1/a",
        &[
            "0: 1.0.1*1",
            "0: 1.0.4*1",
            "1: 1.0.2,1.0.3*3",
            "2: 2.0.1*1",
            "2: 3.0.1*1",
        ],
    );
    check(
        &by("version", ", failover: [{from: r1, to: r3}]"),
        "r1/z1/a",
        &[
            "0: 1.0.1*1",
            "1: 1.0.2*2",
            "2: 2.0.1*1",
            "3: 1.0.3*1",
            "4: 1.0.4*1",
            "5: 3.0.1*1",
        ],
    );
}

#[test]
fn shares_are_kept_and_places_without_one_get_nothing() {
    let shares = "loadBalancer: {localityLbSetting: {distribute: [{from: r9, to: {r1: 100}}, \
                  {from: 'r1/*', to: {'r1/z1/*': 70, r3: 30}}]}}";
    check(
        shares,
        "r1/z7",
        &["0: 1.0.1*18", "0: 1.0.2,1.0.3*53", "0: 3.0.1*30"],
    );
    check(
        shares,
        "r9",
        &["0: 1.0.1*20", "0: 1.0.2,1.0.3*60", "0: 1.0.4*20"],
    );
    // A client elsewhere has no shares.
    let world = World::new(&format!("{MESH_OF_PLACES}{}", rule(shares)));
    assert_eq!(preferred(&world, "r5").len(), 5);
    let cluster = |at: &str| {
        let view = ProxyView {
            locality: Locality::from(at),
            ..world.view("client", Flavour::Meltemi)
        };
        Proxy::new(&crate::generate(&view, &world.mesh.snapshot())).clusters[API].locality_weighted
    };
    assert!(cluster("r9"));
    assert!(!cluster("r5"));
}

#[test]
fn the_meshs_setting_counts_where_no_rule_has_one() {
    let mesh = "localityLbSetting: {distribute: [{from: '*', to: {r2: 100}}]}\n";
    let world = World::new(&format!("{MESH_OF_PLACES}{}", rule(OUTLIER))).config(mesh);
    assert_eq!(preferred(&world, "r1"), ["0: 2.0.1*100"]);
    let world = World::new(&format!("{MESH_OF_PLACES}{}", rule(OUTLIER)))
        .config("localityLbSetting: {enabled: false}\n");
    assert_eq!(preferred(&world, "r1/z1/a").len(), 5);
    assert!(
        preferred(&world, "r1/z1/a")
            .iter()
            .all(|one| one.starts_with("0:"))
    );
    let own = format!("{OUTLIER}, loadBalancer: {{localityLbSetting: {{enabled: true}}}}");
    let world = World::new(&format!("{MESH_OF_PLACES}{}", rule(&own))).config(mesh);
    assert_eq!(preferred(&world, "r3")[0], "0: 3.0.1*1");
}

/// What the objects say of where the client is counts, as soon as they say it.
#[test]
fn a_client_is_where_its_node_is() {
    let mut world = World::new(&format!("{MESH_OF_PLACES}{}", rule(OUTLIER)));
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: client, namespace: default, labels: {app: client}}\n\
               spec: {nodeName: n1, containers: [{name: app, image: app}]}\n\
               status: {phase: Running, podIP: 10.244.0.1, conditions: [{type: Ready, status: 'True'}]}\n";
    let node = |zone: &str| {
        format!(
            "apiVersion: v1\nkind: Node\nmetadata: {{name: n1, labels: {{topology.kubernetes.io/region: r1, topology.kubernetes.io/zone: {zone}}}}}\n"
        )
    };
    let mut shelf = crate::Shelf::default();
    let snapshot = world.mesh.snapshot();
    let view = world.view("client", Flavour::Meltemi);
    let none = meltemi_model::ChangeSet::default();
    let mut state = crate::ProxyState::new(view, &mut shelf.round(&snapshot, &none));
    let mut first = |yaml: &str| {
        let changes = super::super::support::objects(yaml);
        let changes: Vec<_> = changes
            .into_iter()
            .map(meltemi_api::Change::Upsert)
            .collect();
        let changes = world.mesh.apply(&changes);
        let snapshot = world.mesh.snapshot();
        state.update(&mut shelf.round(&snapshot, &changes));
        let generated = state.generated();
        assert_eq!(generated, crate::generate(state.view(), &snapshot));
        let assignment =
            compile::cluster_load_assignment(decode(&generated.endpoints[API])).unwrap();
        let nearest = assignment.localities.iter().filter(|one| one.priority == 0);
        nearest
            .map(|one| one.locality.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let all = "r1/z1/a r1/z1/b r1/z2 r2/z1/a r3";
    assert_eq!(first(pod), all);
    assert_eq!(first(&node("z2")), "r1/z2");
    assert_eq!(first(&node("z1")), "r1/z1/a r1/z1/b");
    let labelled = pod.replace("app: client}", "app: client, istio-locality: r2.z1.a}");
    assert_eq!(first(&labelled), "r2/z1/a");
}

/// Envoy refuses a cluster of one name that has no endpoint.
#[test]
fn a_cluster_of_one_name_keeps_its_endpoint() {
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: far, namespace: default}\n\
                 spec: {hosts: [far.example.com], ports: [{number: 80, name: http, protocol: HTTP}], resolution: DNS_ROUND_ROBIN}\n";
    let shares = "localityLbSetting: {distribute: [{from: '*', to: {r1: 100}}]}\n";
    let world = World::new(&format!("{MESH_OF_PLACES}{entry}")).config(shares);
    let generated = world.generate("client", Flavour::Meltemi);
    let cluster =
        crate::tests::support::to_json(&generated.clusters["outbound|80||far.example.com"]);
    assert_eq!(cluster["type"], "LOGICAL_DNS");
    let endpoints = cluster.pointer("/loadAssignment/endpoints");
    assert_eq!(
        endpoints.and_then(|all| all.as_array()).map(Vec::len),
        Some(1)
    );
}
