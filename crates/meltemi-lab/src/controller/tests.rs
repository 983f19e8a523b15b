use serde_json::json;

use super::*;

const ROLLING: Strategy = Strategy::Rolling {
    surge: 1,
    unavailable: 0,
};

/// `N`/`n`: new, ready or not; `O`/`o`: old.
fn check(desired: usize, strategy: Strategy, replicas: &str, create: usize, delete: &[usize]) {
    let parse = |c: char| Replica {
        current: c.eq_ignore_ascii_case(&'n'),
        ready: c.is_uppercase(),
    };
    let replicas_list: Vec<Replica> = replicas.chars().map(parse).collect();
    let expected = Rollout {
        create,
        delete: delete.to_vec(),
    };
    assert_eq!(
        rollout(desired, strategy, &replicas_list),
        expected,
        "{desired} of {replicas}"
    );
}

#[test]
fn a_rolling_update_keeps_the_ready_count() {
    check(1, ROLLING, "", 1, &[]);
    check(1, ROLLING, "n", 0, &[]);
    check(1, ROLLING, "N", 0, &[]);
    check(1, ROLLING, "O", 1, &[]);
    check(1, ROLLING, "On", 0, &[]);
    check(1, ROLLING, "ON", 0, &[0]);
    check(3, ROLLING, "OOO", 1, &[]);
    check(3, ROLLING, "OOON", 0, &[0]);
    check(3, ROLLING, "oON", 1, &[0]);
}

#[test]
fn a_failed_update_leaves_the_old_ones() {
    check(2, ROLLING, "OOn", 0, &[]);
    check(2, ROLLING, "Oon", 0, &[1]);
}

#[test]
fn scaling_prefers_those_that_do_not_serve() {
    check(1, ROLLING, "Nn", 0, &[1]);
    check(0, ROLLING, "NN", 0, &[1, 0]);
    check(3, ROLLING, "N", 2, &[]);
}

#[test]
fn recreate_ends_the_old_first() {
    check(2, Strategy::Recreate, "OO", 0, &[0, 1]);
    check(2, Strategy::Recreate, "", 2, &[]);
}

#[test]
fn shares_round_as_kubernetes_does() {
    let text = |text: &str| IntOrString::String(text.to_owned());
    assert_eq!(share(None, 25, 1, true), 1);
    assert_eq!(share(None, 25, 1, false), 0);
    assert_eq!(share(Some(&text("50%")), 25, 3, true), 2);
    assert_eq!(share(Some(&IntOrString::Int(2)), 25, 3, false), 2);
}

#[test]
fn names_are_stable_and_speakable() {
    let one = template_hash(&json!({"a": 1}));
    assert_eq!(one, template_hash(&json!({"a": 1})));
    assert_ne!(one, template_hash(&json!({"a": 2})));
    assert_eq!((one.len(), suffix().len()), (10, 5));
    assert!(one.bytes().all(|letter| LETTERS.contains(&letter)));
}

fn pod(name: &str, address: &str, ready: bool) -> Arc<Pod> {
    let pod = serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "default", "labels": {"app": "web"}},
        "spec": {"subdomain": "web", "hostname": name, "containers": [
            {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}
        ]},
        "status": {"phase": "Running", "podIP": address, "conditions": [
            {"type": "Ready", "status": if ready { "True" } else { "False" }}
        ]}
    }));
    Arc::new(pod.unwrap())
}

fn routed(cluster_ip: &str) -> Routed {
    let service: Arc<Service> = Arc::new(
        serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "default"},
            "spec": {"clusterIP": cluster_ip, "selector": {"app": "web"},
                     "ports": [{"name": "http", "port": 80, "targetPort": "http"}]}
        }))
        .unwrap(),
    );
    let pods = [
        pod("web-0", "10.244.0.5", true),
        pod("web-1", "10.244.0.6", false),
    ];
    let backends = backends(&service, &pods).unwrap();
    Routed { service, backends }
}

#[test]
fn an_address_leads_to_ready_pods_only() {
    let vips = vips(&[routed("10.96.0.20")]);
    let vip = Vip {
        address: Ipv4Addr::new(10, 96, 0, 20),
        protocol: Protocol::Tcp,
        port: 80,
    };
    assert_eq!(vips[&vip], ["10.244.0.5:8080".parse().unwrap()]);
}

#[test]
fn names_of_services_and_of_their_pods() {
    let zone = zone(&[routed("10.96.0.20")]);
    assert_eq!(
        zone.addresses.keys().collect::<Vec<_>>(),
        ["web.default.svc.cluster.local"]
    );
    let target = zone.services["_http._tcp.web.default.svc.cluster.local"]
        .first()
        .unwrap();
    assert_eq!(
        (target.host.as_str(), target.port),
        ("web.default.svc.cluster.local", 80)
    );
}

#[test]
fn a_headless_service_names_its_pods() {
    let zone = zone(&[routed("None")]);
    assert_eq!(
        zone.addresses.keys().collect::<Vec<_>>(),
        [
            "web-0.web.default.svc.cluster.local",
            "web.default.svc.cluster.local"
        ]
    );
    let target = zone.services["_http._tcp.web.default.svc.cluster.local"]
        .first()
        .unwrap();
    assert_eq!(
        (target.host.as_str(), target.port),
        ("web-0.web.default.svc.cluster.local", 8080)
    );
    assert!(vips(&[routed("None")]).is_empty());
}

#[test]
fn an_external_name_has_no_address_of_its_own() {
    let service = serde_json::from_value(json!({
        "metadata": {"name": "books", "namespace": "default"},
        "spec": {"type": "ExternalName", "externalName": "Ratings.default.svc.cluster.local."}
    }));
    let routed = Routed {
        service: Arc::new(service.unwrap()),
        backends: Vec::new(),
    };
    let zone = zone(&[routed]);
    assert_eq!(
        zone.aliases["books.default.svc.cluster.local"],
        "ratings.default.svc.cluster.local"
    );
    assert!(zone.addresses.is_empty());
}
