//! Proxies share what was generated: none of them may get anything else than it would alone.

use std::net::IpAddr;
use std::sync::Arc;

use meltemi_core::Labels;
use meltemi_model::ChangeSet;

use super::support::World;
use crate::{Flavour, Kind, ProxyState, ProxyView, Role, Shelf};

const CANARY: &str = include_str!("../../testdata/canary-strict/in.yaml");
const UNUSUAL: &str = include_str!("simulation/unusual.yaml");

/// Changes of which some concern a namespace, some label, or some kind of proxy alone.
const STEPS: [&str; 14] = [
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: own, namespace: other}\n\
     spec: {hosts: [reviews.default.svc.cluster.local], exportTo: [.], http: [{route: [{destination: {host: reviews.default.svc.cluster.local}}], timeout: 1s}]}\n",
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: by-label, namespace: default}\n\
     spec: {host: reviews, workloadSelector: {matchLabels: {app: client}}, trafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}}\n",
    "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: private, namespace: other}\n\
     spec: {host: reviews.default.svc.cluster.local, exportTo: [.], trafficPolicy: {connectionPool: {tcp: {maxConnections: 9}}}}\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: by-source, namespace: default}\n\
     spec: {hosts: [reviews], http: [{match: [{sourceLabels: {app: client}}], route: [{destination: {host: reviews, subset: v2}}]}, {route: [{destination: {host: reviews, subset: v1}}]}]}\n",
    "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default, namespace: other}\nspec: {mtls: {mode: DISABLE}}\n",
    "apiVersion: v1\nkind: Service\nmetadata: {name: hidden, annotations: {networking.istio.io/exportTo: .}}\nspec: {selector: {app: client}, ports: [{name: http, port: 80}]}\n",
    "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: outside, namespace: other}\n\
     spec: {hosts: [api.example.com], exportTo: [other], ports: [{number: 9080, name: http, protocol: HTTP}], resolution: DNS}\n",
    "apiVersion: v1\nkind: Service\nmetadata: {name: late, namespace: other}\nspec: {ports: [{name: tcp, port: 9080}]}\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: by-source, namespace: default}\n\
     spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}}]}]}\n",
    "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: by-label, namespace: default}\n\
     spec: {workloadSelector: {labels: {app: client}}, egress: [{port: {number: 9080}, hosts: ['~/*']}, {hosts: ['./*']}]}\n",
    "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: all, namespace: istio-system}\n\
     spec: {egress: [{hosts: ['./*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}\n",
    "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: leads-out, namespace: other}\n\
     spec: {hosts: [late.other.svc.cluster.local], tcp: [{route: [{destination: {host: reviews.default.svc.cluster.local, port: {number: 9080}}}]}]}\n",
    "apiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: default}\n\
     spec: {selector: {app: client}, servers: [{port: {number: 443, name: https, protocol: HTTPS}, hosts: ['*'], tls: {mode: SIMPLE, credentialName: own}}]}\n",
    "apiVersion: v1\nkind: Secret\nmetadata: {name: own, namespace: default}\ntype: kubernetes.io/tls\nstringData: {tls.crt: chain, tls.key: key}\n",
];

fn views() -> Vec<ProxyView> {
    let labels = |app: &str| Labels::from([("app", app)]);
    let mut views = Vec::new();
    for namespace in ["default", "other"] {
        for app in ["client", "reviews"] {
            for last in [1, 2] {
                let address = IpAddr::from([10, 0, 0, last]);
                views.push(ProxyView::new(address, namespace, app, labels(app)));
            }
        }
    }
    // Gateways: of other namespaces, and of other accounts than the pod at the address has.
    for index in [0, 1, 4] {
        let view: &ProxyView = &views[index];
        let router = ProxyView {
            role: Role::Router,
            ..view.clone()
        };
        views.push(ProxyView {
            service_account: "another".to_owned(),
            ..router.clone()
        });
        views.push(router);
    }
    let first = views[0].clone();
    views.push(ProxyView {
        flavour: Flavour::Envoy,
        ..first.clone()
    });
    views.push(ProxyView {
        http10: true,
        ..first.clone()
    });
    views.push(ProxyView {
        dns_domain: "default.svc.example.org".to_owned(),
        ..first
    });
    views
}

#[test]
fn proxies_that_share_get_what_they_would_get_alone() {
    for input in [CANARY, UNUSUAL] {
        let mut world = World::new(input);
        let mut shelf = Shelf::default();
        let mut states: Vec<ProxyState> = Vec::new();
        for view in views() {
            let snapshot = world.mesh.snapshot();
            let mut round = shelf.round(&snapshot, &ChangeSet::default());
            states.push(ProxyState::new(view, &mut round));
        }
        for step in STEPS {
            let changes = world.apply(step);
            let snapshot = world.mesh.snapshot();
            let mut round = shelf.round(&snapshot, &changes);
            for state in &mut states {
                state.update(&mut round);
            }
            for state in &states {
                let alone = crate::generate(state.view(), &snapshot);
                assert_eq!(state.generated(), alone, "{:?} after {step}", state.view());
            }
        }
    }
}

#[test]
fn pods_of_a_workload_hold_the_same_maps() {
    let world = World::new(CANARY);
    let snapshot = world.mesh.snapshot();
    let mut shelf = Shelf::default();
    let mut round = shelf.round(&snapshot, &ChangeSet::default());
    let all = views();
    let states = [&all[0], &all[1]].map(|view| ProxyState::new(view.clone(), &mut round));
    let [one, other] = states.map(|state| state.generated());
    for kind in Kind::ALL {
        assert!(Arc::ptr_eq(one.of(kind), other.of(kind)), "{kind:?}");
    }
}

/// A Sidecar concerns those who obey it: others share as if there were none, and those who obey it share whatever else differs.
#[test]
fn proxies_share_by_the_sidecar_that_they_obey() {
    let sidecar = |namespace: &str, name: &str, spec: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
        )
    };
    let unit_count = |more: &str, views: &[ProxyView]| {
        let mut world = World::new(CANARY);
        world.apply(more);
        let snapshot = world.mesh.snapshot();
        let mut shelf = Shelf::default();
        let mut round = shelf.round(&snapshot, &ChangeSet::default());
        let states: Vec<_> = views
            .iter()
            .map(|view| ProxyState::new(view.clone(), &mut round))
            .collect();
        let count = shelf.unit_count();
        drop(states);
        count
    };
    // Of addresses that no pod has.
    let view = |namespace: &str, app: &str| {
        let address = IpAddr::from([10, 9, 9, 9]);
        ProxyView::new(address, namespace, app, Labels::from([("app", app)]))
    };
    let everywhere = ["a", "b", "c", "d"].map(|namespace| view(namespace, "x"));
    let without = unit_count("", &everywhere);
    let elsewhere = sidecar("other", "own", "{egress: [{hosts: ['./*']}]}");
    assert_eq!(unit_count(&elsewhere, &everywhere), without);
    // One of the root namespace that does not speak of the client's is the same for all, but for what routes concern.
    let of_root = sidecar("istio-system", "own", "{egress: [{hosts: ['*/*']}]}");
    assert_eq!(unit_count(&of_root, &everywhere), without);
    // Pods that differ in labels which the Sidecar does not ask for.
    let by_label = "{workloadSelector: {labels: {app: x}}, egress: [{hosts: ['*/*']}]}";
    let pods = ["0", "1", "2"].map(|index| ProxyView {
        labels: Labels::from([("app", "x"), ("index", index)]),
        ..view("a", "x")
    });
    let selected = sidecar("a", "own", by_label);
    assert_eq!(unit_count(&selected, &pods), unit_count("", &pods));
}
