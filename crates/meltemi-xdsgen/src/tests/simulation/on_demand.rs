//! The same calls by a proxy that holds everything and by one that asks as it goes: nothing may come out differently.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::rc::Rc;

use super::*;
use meltemi_model::ChangeSet;

use crate::{Asked, Kind, ProxyState, Shelf, virtual_host_name};

/// A mesh of everything that is found in an unusual way.
const UNUSUAL: &str = include_str!("unusual.yaml");

/// A proxy that holds what it asked for.
struct Asking {
    world: World,
    shelf: RefCell<Shelf>,
    state: RefCell<ProxyState>,
    asked: RefCell<Asked>,
}

impl Asking {
    fn new(input: &str, config: &str, pod: &str) -> Rc<Self> {
        let world = World::new(input).config(config);
        let mut view = world.view(pod, Flavour::Meltemi);
        view.on_demand = true;
        let mut shelf = Shelf::default();
        let snapshot = world.mesh.snapshot();
        let state = ProxyState::new(view, &mut shelf.round(&snapshot, &ChangeSet::default()));
        Rc::new(Self {
            world,
            shelf: RefCell::new(shelf),
            state: RefCell::new(state),
            asked: RefCell::default(),
        })
    }

    fn ask(&self, kind: Kind, names: impl IntoIterator<Item = String>) {
        let mut asked = self.asked.borrow_mut();
        let of_kind: &mut BTreeSet<String> = asked.entry(kind.type_url().to_owned()).or_default();
        of_kind.extend(names);
        let snapshot = self.world.mesh.snapshot();
        let mut shelf = self.shelf.borrow_mut();
        let mut round = shelf.round(&snapshot, &ChangeSet::default());
        self.state.borrow_mut().want(&asked, &mut round);
    }

    fn host(&self, routes: &str, authority: &str) -> Arc<VirtualHost> {
        let name = virtual_host_name(routes, authority);
        self.ask(Kind::VirtualHost, [name.clone()]);
        let generated = self.state.borrow().generated();
        let host = compile::virtual_host(decode(&generated.virtual_hosts[name.as_str()]), 1 << 20);
        Arc::new(host.unwrap())
    }

    /// Asks as the proxy does: listeners of the address, the routes they name.
    fn proxy(self: &Rc<Self>, to: SocketAddr) -> Proxy {
        let port = to.port();
        self.ask(
            Kind::Listener,
            [format!("{}_{port}", to.ip()), format!("0.0.0.0_{port}")],
        );
        let first = Proxy::new(&self.state.borrow().generated());
        let named: Vec<String> = first
            .listeners
            .iter()
            .flat_map(|listener| listener.route_names())
            .map(ToString::to_string)
            .collect();
        self.ask(Kind::Route, named);
        let asking = Rc::clone(self);
        Proxy {
            ask: Some(Box::new(move |routes, authority| {
                asking.host(routes, authority)
            })),
            ..Proxy::new(&self.state.borrow().generated())
        }
    }
}

/// Where calls may go: every address that any service, pod or range has, some that nobody has.
fn destinations(world: &World) -> BTreeSet<SocketAddr> {
    let snapshot = world.mesh.snapshot();
    let ports: BTreeSet<u16> = snapshot.service_ports().chain([1234]).collect();
    let mut ips: BTreeSet<std::net::IpAddr> =
        ["192.0.2.77", "10.9.0.77", "10.244.0.1", "10.244.0.2"]
            .map(|ip| ip.parse().unwrap())
            .into();
    ips.extend(
        snapshot
            .services()
            .flat_map(|s| s.addresses.iter().map(|a| a.ip)),
    );
    ips.extend(snapshot.workloads().flat_map(|w| w.addresses.clone()));
    let all = ips
        .iter()
        .flat_map(|ip| ports.iter().map(|port| SocketAddr::new(*ip, *port)));
    all.collect()
}

/// What requests may call their host: every form of every name, names below them, addresses, strangers.
fn authorities(world: &World) -> BTreeSet<String> {
    let snapshot = world.mesh.snapshot();
    let mut all = BTreeSet::from(
        [
            "stranger.example.com",
            "a.b.c.wild.example.com",
            "wild.example.com",
            "192.0.2.77",
            "x",
        ]
        .map(str::to_owned),
    );
    for service in snapshot.services() {
        let host = service
            .hostname
            .as_str()
            .trim_start_matches("*.")
            .to_owned();
        let (name, namespace) = (&service.name, &service.namespace);
        all.extend([
            format!("{host}."),
            format!("pod-0.{host}"),
            format!("a.b.{host}"),
            name.clone(),
            format!("{name}.{namespace}"),
            format!("{name}.{namespace}.svc"),
            host,
        ]);
        all.extend(service.addresses.iter().map(|address| match address.ip {
            std::net::IpAddr::V4(ip) => ip.to_string(),
            std::net::IpAddr::V6(ip) => format!("[{ip}]"),
        }));
    }
    for routed in snapshot.virtual_services("default") {
        let hosts = routed
            .hosts
            .iter()
            .map(|host| host.as_str().replace('*', "any"));
        all.extend(hosts);
    }
    all
}

fn compare(input: &str, config: &str, pod: &str) -> BTreeSet<String> {
    let world = World::new(input).config(config);
    let whole = Proxy::of(&world, pod);
    let asking = Asking::new(input, config, pod);
    let mut outcomes = BTreeSet::new();
    for to in destinations(&world) {
        let part = asking.proxy(to);
        let to = to.to_string();
        for call in [
            BYTES,
            OTHER_TLS,
            Call {
                sni: Some("api.example.com"),
                ..OTHER_TLS
            },
        ] {
            let call = Call { to: &to, ..call };
            assert_eq!(
                part.outbound(call),
                whole.outbound(call),
                "{to} {:?}",
                call.sni
            );
            outcomes.insert(whole.outbound(call));
        }
        for authority in authorities(&world) {
            for path in ["/", "/exact", "/api/v1"] {
                let call = Call {
                    to: &to,
                    authority: &authority,
                    path,
                    ..HTTP
                };
                assert_eq!(
                    part.outbound(call),
                    whole.outbound(call),
                    "{to} {authority} {path}"
                );
                outcomes.insert(whole.outbound(call));
            }
        }
    }
    let clusters = outcomes
        .iter()
        .filter_map(|outcome| outcome.rsplit_once(" > "));
    let clusters: BTreeSet<String> = clusters.map(|(_, name)| name.to_owned()).collect();
    asking.ask(Kind::Cluster, clusters.clone());
    asking.ask(Kind::Endpoints, clusters.clone());
    let (all, generated) = (
        world.generate(pod, Flavour::Meltemi),
        asking.state.borrow().generated(),
    );
    for name in &clusters {
        assert_eq!(
            generated.clusters.get(name.as_str()),
            all.clusters.get(name.as_str()),
            "{name}"
        );
        assert_eq!(
            generated.endpoints.get(name.as_str()),
            all.endpoints.get(name.as_str()),
            "{name}"
        );
    }
    clusters
}

#[test]
fn calls_end_where_they_do_with_the_full_set() {
    for (input, pod, at_least) in [
        (BOOKINFO, "reviews-v1", 2),
        (CANARY, "client-v1", 2),
        (PROTOCOLS, "server", 4),
        (ROUTES, "client-v1", 2),
        (UNUSUAL, "client-v1", 7),
    ] {
        for config in ["", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"] {
            let clusters = compare(input, config, pod);
            assert!(
                clusters.len() >= at_least,
                "the calls reach something: {clusters:?}"
            );
        }
    }
}

/// Nor does it with a Sidecar: what it leaves out cannot be asked for.
#[test]
fn a_sidecar_bounds_what_can_be_asked_for() {
    let scoped = |egress: &str| {
        format!(
            "{UNUSUAL}\n---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: own, namespace: default}}\nspec: {{egress: {egress}}}\n"
        )
    };
    for config in ["", "outboundTrafficPolicy: {mode: REGISTRY_ONLY}\n"] {
        let reached = [
            "[{hosts: ['*/*']}]",
            "[{hosts: ['./*']}]",
            "[{port: {number: 80}, hosts: ['./*']}, {hosts: ['*/*', '~./*']}]",
            "[{hosts: ['~/*']}]",
        ]
        .map(|egress| compare(&scoped(egress), config, "client-v1").len());
        let whole = compare(UNUSUAL, config, "client-v1").len();
        assert_eq!(reached[0], whole);
        assert!(reached.is_sorted_by(|a, b| a >= b), "{reached:?}");
        assert!(reached[2] < whole && reached[3] < reached[2], "{reached:?}");
    }
}

#[test]
fn what_is_asked_for_follows_the_mesh_and_nothing_else_is_made() {
    let asking = Asking::new(UNUSUAL, "", "client-v1");
    let mut state = asking.state.borrow().clone();
    let mut shelf = asking.shelf.borrow_mut();
    let mut world = World::new(UNUSUAL);
    let asked: Asked = [
        (Kind::Listener, "0.0.0.0_80"),
        (Kind::Route, "80"),
        (Kind::VirtualHost, "80/later"),
        (
            Kind::Cluster,
            "outbound|80||later.default.svc.cluster.local",
        ),
        (
            Kind::Endpoints,
            "outbound|80||later.default.svc.cluster.local",
        ),
    ]
    .map(|(kind, name)| {
        (
            kind.type_url().to_owned(),
            BTreeSet::from([name.to_owned()]),
        )
    })
    .into();
    let standing = state.generated().iter().count();
    let none = ChangeSet::default();
    state.want(&asked, &mut shelf.round(&world.mesh.snapshot(), &none));
    assert_eq!(
        state.generated().iter().count(),
        standing + 3,
        "no such cluster yet"
    );
    let name = |state: &ProxyState| {
        let resource = state.generated().virtual_hosts["80/later"].clone();
        compile::virtual_host(decode(&resource), 0)
            .unwrap()
            .name
            .to_string()
    };
    assert_eq!(name(&state), "allow_any");

    let changes = world.apply("apiVersion: v1\nkind: Service\nmetadata: {name: later}\nspec: {selector: {app: client}, ports: [{name: http, port: 80}]}\n");
    let report = state.update(&mut shelf.round(&world.mesh.snapshot(), &changes));
    assert_eq!(name(&state), "later.default.svc.cluster.local:80");
    assert_eq!(
        report.changed,
        3 + 2,
        "host, cluster, endpoints; listener and cluster of the inbound side: {report:?}"
    );

    // A service that nobody asked for makes nothing of this proxy's again.
    let changes = world.apply("apiVersion: v1\nkind: Service\nmetadata: {name: other}\nspec: {ports: [{name: http, port: 81}]}\n");
    assert_eq!(
        state
            .update(&mut shelf.round(&world.mesh.snapshot(), &changes))
            .regenerated,
        0
    );

    let snapshot = world.mesh.snapshot();
    state.want(&Asked::new(), &mut shelf.round(&snapshot, &none));
    assert_eq!(state.generated().virtual_hosts.len(), 0);
    assert!(
        state
            .generated()
            .clusters
            .keys()
            .all(|name| !name.starts_with("outbound|"))
    );
}
