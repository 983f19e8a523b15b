use std::net::IpAddr;

use meltemi_api::Kind;
use meltemi_api::istio::MeshConfig;

use super::{SHOP, apply, changes, delete, host, mesh, pod, shop};
use crate::{ChangeSet, Mesh, MeshSnapshot, Part};

fn parts(changes: &ChangeSet) -> Vec<Part> {
    changes.iter().cloned().collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_same_objects_again_change_nothing() {
    let mut mesh = mesh(&shop());
    assert!(apply(&mut mesh, &shop()).is_empty());
    assert!(mesh.set_config(MeshConfig::default()).is_empty());
}

#[test]
fn a_slice_touches_the_endpoints_of_its_service_only() {
    let mut mesh = mesh(&shop());
    let without = SHOP.replace("- {addresses: [10.244.0.2], targetRef: {kind: Pod, name: reviews-v2}, conditions: {ready: false}}\n", "");
    assert_ne!(without, SHOP);
    assert_eq!(
        parts(&apply(&mut mesh, &without)),
        [
            Part::Endpoints(host("reviews")),
            Part::Identities(host("reviews")),
            Part::Workload(ip("10.244.0.2")),
        ]
    );
    let unready = without.replace("ready: true", "ready: false");
    assert_eq!(
        parts(&apply(&mut mesh, &unready)),
        [Part::Endpoints(host("reviews"))]
    );
}

#[test]
fn an_endpoint_comes_and_goes_with_its_pod() {
    let mut mesh = mesh(SHOP);
    let before = mesh.snapshot();
    let seen = apply(
        &mut mesh,
        &pod("legacy", "10.244.0.9", "security.istio.io/tlsMode: istio"),
    );
    assert_eq!(
        parts(&seen),
        [
            Part::Endpoints(host("legacy")),
            Part::Identities(host("legacy")),
            Part::Workload(ip("10.244.0.9")),
        ]
    );
    let accepts_mtls = |snapshot: &MeshSnapshot| -> Vec<bool> {
        let legacy = snapshot.endpoints(&host("legacy")).unwrap();
        let endpoints = legacy.endpoints.iter();
        endpoints.map(|endpoint| endpoint.accepts_mtls).collect()
    };
    assert_eq!(accepts_mtls(&mesh.snapshot()), [true]);
    // What was handed out does not move: nobody was sent to a pod of which only the address was known.
    assert!(accepts_mtls(&before).is_empty());
    delete(&mut mesh, Kind::Pod, "legacy");
    assert!(accepts_mtls(&mesh.snapshot()).is_empty());
}

#[test]
fn policies_touch_the_services_they_cover() {
    let mut mesh = mesh(&shop());
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: default}\nspec: {host: reviews}\n";
    assert_eq!(
        parts(&apply(&mut mesh, rule)),
        [Part::DestinationRule(host("reviews"))]
    );
    let routed = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: r, namespace: default}\n\
                  spec: {hosts: [legacy, other.example.com], http: [{route: [{destination: {host: reviews}}]}]}\n";
    assert_eq!(
        parts(&apply(&mut mesh, routed)),
        [
            Part::VirtualService(host("legacy")),
            Part::VirtualServices,
            Part::ForeignVirtualServices,
        ]
    );
    let policy = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    assert_eq!(
        parts(&apply(&mut mesh, policy)),
        [Part::PeerAuthentication("default".into())]
    );
    assert_eq!(
        parts(&delete(&mut mesh, Kind::PeerAuthentication, "p")),
        [Part::PeerAuthentication("default".into())]
    );
}

#[test]
fn a_service_that_goes_takes_its_names_along() {
    let mut mesh = mesh(&shop());
    let seen = delete(&mut mesh, Kind::Service, "legacy");
    for part in [
        Part::ServiceNames,
        Part::Service(host("legacy")),
        Part::ServicePort(5432),
        Part::Endpoints(host("legacy")),
        Part::Workload(ip("10.244.0.9")),
    ] {
        assert!(seen.contains(&part), "{part:?}");
    }
    assert!(!seen.contains(&Part::Service(host("reviews"))));
    let snapshot = mesh.snapshot();
    assert!(snapshot.service(&host("legacy")).is_none());
    assert_eq!(snapshot.service_ports().collect::<Vec<_>>(), [9080]);
}

/// Applied one by one, in either order, the objects give what they give together.
#[test]
fn order_does_not_matter() {
    let together = mesh(&shop()).snapshot();
    let mut forwards = changes(&shop());
    for _ in 0..2 {
        let mut mesh = Mesh::default();
        for change in &forwards {
            mesh.apply(std::slice::from_ref(change));
        }
        let snapshot = mesh.snapshot();
        assert_eq!(snapshot.services, together.services);
        assert_eq!(snapshot.endpoints, together.endpoints);
        assert_eq!(snapshot.workloads, together.workloads);
        assert_eq!(snapshot.memberships, together.memberships);
        forwards.reverse();
    }
}

#[test]
fn a_new_trust_domain_reaches_every_identity() {
    let mut mesh = mesh(&shop());
    let config = MeshConfig {
        trust_domain: "example.org".to_owned(),
        ..MeshConfig::default()
    };
    let seen = mesh.set_config(config);
    assert!(seen.contains(&Part::MeshConfig) && seen.contains(&Part::Identities(host("reviews"))));
    let endpoints = &mesh
        .snapshot()
        .endpoints(&host("reviews"))
        .unwrap()
        .endpoints
        .clone();
    let identity = endpoints[0].identity.as_ref().unwrap().to_string();
    assert_eq!(identity, "spiffe://example.org/ns/default/sa/sa-reviews-v1");
}

#[test]
fn pods_that_no_slice_names_any_more_are_forgotten() {
    let mut mesh = mesh(&shop());
    let kept = mesh.pod_users.clone();
    assert!(!kept.is_empty());
    for generation in 0..3 {
        let rolled = SHOP.replace(
            "name: reviews-v2}",
            &format!("name: reviews-{generation}}}"),
        );
        assert_ne!(rolled, SHOP);
        apply(&mut mesh, &rolled);
        assert_eq!(mesh.pod_users.len(), kept.len(), "{:?}", mesh.pod_users);
    }
    apply(&mut mesh, SHOP);
    assert_eq!(mesh.pod_users, kept);
    delete(&mut mesh, Kind::Service, "reviews");
    let of_reviews = |users: &std::collections::BTreeSet<_>| users.contains(&host("reviews"));
    assert!(!mesh.pod_users.values().any(of_reviews));
    assert!(!mesh.pods_used.contains_key(&host("reviews")));
}

#[test]
fn an_authorization_policy_touches_its_namespace() {
    let mut mesh = mesh(&shop());
    let policy = |namespace: &str, spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let part = |namespace: &str| Part::AuthorizationPolicy(namespace.to_owned());
    let seen = apply(&mut mesh, &policy("default", "{}"));
    assert_eq!(parts(&seen), [part("default")]);
    assert!(apply(&mut mesh, &policy("default", "{}")).is_empty());
    let seen = apply(&mut mesh, &policy("default", "{rules: [{}]}"));
    assert_eq!(parts(&seen), [part("default")]);
    let seen = apply(&mut mesh, &policy("other", "{}"));
    assert_eq!(parts(&seen), [part("other")]);
    let seen = delete(&mut mesh, Kind::AuthorizationPolicy, "p");
    assert_eq!(parts(&seen), [part("default")]);
    assert!(delete(&mut mesh, Kind::AuthorizationPolicy, "p").is_empty());
}
