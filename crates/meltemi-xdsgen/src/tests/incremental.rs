use meltemi_api::Kind as ObjectKind;

use super::support::World;
use meltemi_model::ChangeSet;

use crate::{Flavour, Generated, Kind, ProxyState, Shelf, UpdateReport};

const CANARY: &str = include_str!("../../testdata/canary-strict/in.yaml");

/// Names of resources that differ between two generations.
fn differing(before: &Generated, after: &Generated) -> Vec<String> {
    let mut names = Vec::new();
    for kind in Kind::ALL {
        let (before, after) = (before.of(kind), after.of(kind));
        for name in before.keys().chain(after.keys()) {
            if before.get(name) != after.get(name) {
                names.push(name.to_string());
            }
        }
    }
    names.sort();
    names.dedup();
    names
}

/// A step updates the state to exactly what a fresh generation gives, and touches what is expected.
struct Checked {
    world: World,
    shelf: Shelf,
    state: ProxyState,
}

impl Checked {
    fn new(yaml: &str, pod: &str) -> Self {
        let world = World::new(yaml);
        let view = world.view(pod, Flavour::Meltemi);
        let mut shelf = Shelf::default();
        let snapshot = world.mesh.snapshot();
        let state = ProxyState::new(view, &mut shelf.round(&snapshot, &ChangeSet::default()));
        Self {
            world,
            shelf,
            state,
        }
    }

    fn step(
        &mut self,
        change: impl FnOnce(&mut World) -> ChangeSet,
    ) -> (UpdateReport, Vec<String>) {
        let before = self.state.generated();
        let changes = change(&mut self.world);
        let snapshot = self.world.mesh.snapshot();
        let report = self
            .state
            .update(&mut self.shelf.round(&snapshot, &changes));
        let after = self.state.generated();
        let fresh = crate::generate(self.state.view(), &snapshot);
        assert_eq!(
            after, fresh,
            "an incremental update equals a fresh generation"
        );
        (report, differing(&before, &after))
    }
}

#[test]
fn generation_is_deterministic() {
    let world = World::new(CANARY);
    let one = world.generate("client-v1", Flavour::Meltemi);
    for _ in 0..10 {
        assert_eq!(world.generate("client-v1", Flavour::Meltemi), one);
    }
}

#[test]
fn an_empty_change_makes_nothing() {
    let mut checked = Checked::new(CANARY, "client-v1");
    let (report, differing) = checked.step(|world| world.apply(""));
    assert_eq!(report, UpdateReport::default());
    assert!(differing.is_empty());
}

#[test]
fn a_weight_regenerates_one_route_configuration() {
    let mut checked = Checked::new(CANARY, "client-v1");
    let (report, differing) = checked.step(|world| {
        world.apply(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: reviews}\n\
             spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, subset: v1}, weight: 50}, {destination: {host: reviews, subset: v2}, weight: 50}]}]}\n",
        )
    });
    assert_eq!(differing, ["9080"]);
    assert_eq!(report.changed, 1);
    // The listeners of the port read the VirtualService only for TCP ports, which this one has not.
    assert_eq!(report.regenerated, 1);
}

#[test]
fn an_endpoint_touches_load_assignments_only() {
    let mut checked = Checked::new(CANARY, "client-v1");
    let (report, differing) = checked.step(|world| world.kill("reviews-v2"));
    assert_eq!(
        differing,
        [
            "outbound|9080|v2|reviews.default.svc.cluster.local",
            "outbound|9080||reviews.default.svc.cluster.local",
        ]
    );
    // The three assignments of the service are made again, of which two differ; its identities stayed.
    assert_eq!((report.regenerated, report.changed), (3, 2));
    let generated = checked.state.generated();
    assert!(
        generated
            .clusters
            .contains_key("outbound|9080|v2|reviews.default.svc.cluster.local")
    );
}

#[test]
fn a_rule_touches_the_clusters_of_its_host() {
    let mut checked = Checked::new(CANARY, "client-v1");
    let (_, differing) = checked.step(|world| world.delete(ObjectKind::DestinationRule, "reviews"));
    assert_eq!(
        differing,
        [
            "outbound|9080|v1|reviews.default.svc.cluster.local",
            "outbound|9080|v2|reviews.default.svc.cluster.local",
            "outbound|9080||reviews.default.svc.cluster.local",
        ]
    );
    let gone = "outbound|9080|v1|reviews.default.svc.cluster.local";
    assert!(!checked.state.generated().clusters.contains_key(gone));
}

#[test]
fn a_mode_touches_the_inbound_side_and_automatic_clusters() {
    let mut checked = Checked::new(CANARY, "client-v1");
    let (_, differing) = checked.step(|world| {
        world.apply("apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: default}\nspec: {mtls: {mode: PERMISSIVE}}\n")
    });
    // The DestinationRule decides for reviews; only the proxy's own listener changes.
    assert_eq!(differing, ["virtualInbound"]);
}

#[test]
fn services_come_and_go() {
    let mut checked = Checked::new(CANARY, "client-v1");
    let service = "apiVersion: v1\nkind: Service\nmetadata: {name: extra}\nspec:\n  selector: {app: client}\n  ports: [{name: tcp, port: 4000}]\n";
    let (_, differing) = checked.step(|world| world.apply(service));
    assert_eq!(
        differing,
        [
            "10.96.0.2_4000",
            "inbound|4000||",
            "outbound|4000||extra.default.svc.cluster.local",
            "virtualInbound",
        ]
    );
    let (report, differing) = checked.step(|world| world.delete(ObjectKind::Service, "extra"));
    assert_eq!(differing.len(), 4);
    // The listener, the inbound and outbound cluster and the assignment.
    assert_eq!(report.removed, 4);
}
