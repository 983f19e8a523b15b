use meltemi_api::istio::{ClientTlsMode, SimpleLb, TlsMode};
use meltemi_api::{Change, Kind, ObjectKey};
use meltemi_core::Labels;

use super::{apply, host, labels, mesh, shop};
use crate::{
    EndpointAddress, Health, Mesh, Part, Protocol, Resolution, TargetPort, authentication_rows,
};

#[test]
fn endpoints_join_slices_with_pods() {
    let snapshot = mesh(&shop()).snapshot();
    let service = snapshot.service(&host("reviews")).unwrap();
    assert_eq!(service.ports[0].protocol, Protocol::Http);
    assert_eq!(service.ports[0].target_port, TargetPort::Name("web".into()));
    let endpoints = &snapshot.endpoints(&host("reviews")).unwrap().endpoints;
    assert_eq!(endpoints.len(), 2);
    assert_eq!(endpoints[0].port, 8080);
    assert!(endpoints[0].accepts_mtls);
    assert_eq!(
        endpoints[0].identity.as_ref().unwrap().to_string(),
        "spiffe://cluster.local/ns/default/sa/sa-reviews-v1"
    );
    assert_eq!(endpoints[1].health, Health::NotReady);
    let legacy = &snapshot.endpoints(&host("legacy")).unwrap().endpoints;
    assert!(!legacy[0].accepts_mtls);
    let own: Vec<_> = snapshot
        .services_of("10.244.0.2".parse().unwrap())
        .map(|service| service.name.as_str())
        .collect();
    assert_eq!(own, ["reviews"]);
}

#[test]
fn service_entries_become_services() {
    let snapshot = mesh(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: ext, namespace: default}\n\
         spec:\n  hosts: [api.example.com]\n  resolution: DNS\n  exportTo: ['.']\n  ports: [{number: 443, name: https, protocol: TLS}]\n---\n\
         apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: vm, namespace: default}\n\
         spec:\n  hosts: [vm.example.com]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  addresses: [240.0.0.1]\n\
         \x20 ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]\n  workloadSelector: {labels: {app: vm}}\n---\n\
         apiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm1, namespace: default}\n\
         spec: {address: 10.1.1.1, labels: {app: vm}, serviceAccount: vm, ports: {http: 8081}}\n",
    )
    .snapshot();
    let external = snapshot.service(&host("api.example.com")).unwrap();
    assert_eq!(external.resolution, Resolution::StrictDns);
    assert!(external.mesh_external);
    assert!(external.visible_to("default") && !external.visible_to("other"));
    let own = &snapshot
        .endpoints(&host("api.example.com"))
        .unwrap()
        .endpoints[0];
    assert_eq!(own.address, EndpointAddress::Name(host("api.example.com")));
    assert_eq!(own.port, 443);
    let vm = &snapshot
        .endpoints(&host("vm.example.com"))
        .unwrap()
        .endpoints[0];
    assert_eq!(vm.address, EndpointAddress::Ip("10.1.1.1".parse().unwrap()));
    assert_eq!(vm.port, 8081);
    assert!(vm.identity.is_some());
}

fn external_name(name: &str, target: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
         spec: {{type: ExternalName, externalName: {target}}}\n"
    )
}

#[test]
fn an_external_name_is_another_name_of_its_target() {
    let books = host("books.default.svc.cluster.local");
    let aliases = |mesh: &Mesh| -> Vec<String> {
        let snapshot = mesh.snapshot();
        let service = snapshot.service(&host("reviews")).unwrap();
        let names = service.aliases.iter().map(|alias| alias.name.clone());
        names.collect()
    };
    let mut mesh = mesh(&shop());
    assert_eq!(aliases(&mesh), [""; 0]);
    let reviews = "reviews.default.svc.cluster.local";
    let changes = apply(&mut mesh, &external_name("books", reviews));
    assert!(changes.contains(&Part::Service(host("reviews"))));
    assert!(changes.contains(&Part::Service(books.clone())));
    assert_eq!(aliases(&mesh), ["books"]);
    assert_eq!(mesh.snapshot().alias(&books), Some(&host("reviews")));
    assert!(
        mesh.snapshot().service(&books).is_none(),
        "an alias is no service of its own"
    );
    // By way of another alias, and then in a circle, which leads nowhere.
    apply(&mut mesh, &external_name("tomes", books.as_str()));
    assert_eq!(aliases(&mesh), ["books", "tomes"]);
    apply(
        &mut mesh,
        &external_name("books", "tomes.default.svc.cluster.local"),
    );
    assert_eq!(aliases(&mesh), [""; 0]);
}

fn peer_authentication(namespace: &str, name: &str, created: u8, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\nspec: {spec}\n"
    )
}

#[test]
fn the_narrowest_peer_authentication_decides_and_unset_inherits() {
    let mut mesh = Mesh::default();
    let mode = |mesh: &Mesh, port| {
        let modes = mesh
            .snapshot()
            .workload_tls("default", &labels([("app", "a")]));
        let decided = modes.of_port(port);
        let by = decided
            .decided_by
            .as_ref()
            .map_or("-", |object| object.name.as_str());
        (decided.mode, by.to_owned())
    };
    assert_eq!(mode(&mesh, 80), (TlsMode::Permissive, "-".into()));
    apply(
        &mut mesh,
        &peer_authentication("istio-system", "mesh", 1, "{mtls: {mode: STRICT}}"),
    );
    assert_eq!(mode(&mesh, 80), (TlsMode::Strict, "mesh".into()));
    apply(
        &mut mesh,
        &peer_authentication("default", "unset", 1, "{mtls: {mode: UNSET}}"),
    );
    assert_eq!(mode(&mesh, 80), (TlsMode::Strict, "mesh".into()));
    // The younger of two for the namespace does not count.
    apply(
        &mut mesh,
        &peer_authentication("default", "younger", 2, "{mtls: {mode: DISABLE}}"),
    );
    assert_eq!(mode(&mesh, 80), (TlsMode::Strict, "mesh".into()));
    apply(
        &mut mesh,
        &peer_authentication(
            "default",
            "workload",
            3,
            "{selector: {matchLabels: {app: a}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {80: {mode: DISABLE}, 81: {mode: UNSET}}}",
        ),
    );
    assert_eq!(mode(&mesh, 80), (TlsMode::Disable, "workload".into()));
    assert_eq!(mode(&mesh, 81), (TlsMode::Permissive, "workload".into()));
    assert_eq!(mode(&mesh, 82), (TlsMode::Permissive, "workload".into()));
    let other = mesh
        .snapshot()
        .workload_tls("default", &labels([("app", "b")]));
    assert_eq!(other.of_port(80).mode, TlsMode::Strict);
}

fn destination_rule(namespace: &str, name: &str, created: u8, spec: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\nspec: {spec}\n"
    )
}

#[test]
fn rules_of_one_namespace_merge_and_those_of_others_do_not() {
    let yaml = [
        shop(),
        destination_rule("default", "old", 1, "{host: reviews, trafficPolicy: {tls: {mode: DISABLE}}, subsets: [{name: v1, labels: {version: v1}}]}"),
        destination_rule("default", "new", 2, "{host: reviews, trafficPolicy: {tls: {mode: SIMPLE}}, subsets: [{name: v1, labels: {version: x}}, {name: v2, labels: {version: v2}}]}"),
        destination_rule("istio-system", "mesh", 1, "{host: '*.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}"),
        destination_rule("client", "own", 1, "{host: reviews.default.svc.cluster.local, workloadSelector: {matchLabels: {app: c}}}"),
    ]
    .concat();
    let snapshot = mesh(&yaml).snapshot();
    let find = |namespace, app| {
        let rule = snapshot.destination_rule(namespace, &labels([("app", app)]), &host("reviews"));
        rule.unwrap().clone()
    };
    let rule = find("default", "x");
    assert_eq!(rule.from.len(), 2);
    assert_eq!(
        rule.policy(9080, None).tls.unwrap().mode,
        ClientTlsMode::Disable
    );
    let names: Vec<_> = rule.rule.subsets.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(names, ["v1", "v2"]);
    assert_eq!(
        rule.subset("v1").unwrap().labels,
        labels([("version", "v1")])
    );
    // A client with a rule of its own sees nothing of the service's.
    assert_eq!(find("client", "c").origin().unwrap().name, "own");
    assert_eq!(find("client", "other").origin().unwrap().name, "old");
    let legacy = snapshot.destination_rule("client", &labels([]), &host("legacy"));
    assert_eq!(legacy.unwrap().origin().unwrap().name, "mesh");
}

/// Istio: the own namespace is one like the others to `exportTo`.
#[test]
fn a_rule_for_others_is_not_for_its_own_namespace() {
    let rule = |name, export: &str| {
        destination_rule("default", name, 1, &format!("{{host: reviews, {export}}}"))
    };
    let found = |rules: &[String], namespace: &str| {
        let yaml = [shop(), rules.concat()].concat();
        let snapshot = mesh(&yaml).snapshot();
        let rule = snapshot.destination_rule(namespace, &labels([]), &host("reviews"));
        rule.map(|rule| rule.origin().unwrap().name.clone())
    };
    let others = rule("others", "exportTo: [client]");
    assert_eq!(found(std::slice::from_ref(&others), "default"), None);
    let own = Some("own".to_owned());
    for export in [
        "exportTo: ['.']",
        "exportTo: [default]",
        "exportTo: ['*']",
        "",
    ] {
        let rules = [others.clone(), rule("own", export)];
        assert_eq!(found(&rules, "default"), own, "{export}");
    }
    assert_eq!(found(&[others], "client"), Some("others".to_owned()));
}

#[test]
fn port_settings_replace_every_block_and_subsets_override_by_block() {
    let yaml = [
        shop(),
        destination_rule(
            "default",
            "r",
            1,
            "{host: reviews, trafficPolicy: {tls: {mode: ISTIO_MUTUAL}, loadBalancer: {simple: RANDOM}, \
              portLevelSettings: [{port: {number: 9080}, loadBalancer: {simple: ROUND_ROBIN}}]}, \
              subsets: [{name: v1, labels: {version: v1}, trafficPolicy: {tls: {mode: DISABLE}}}]}",
        ),
    ]
    .concat();
    let snapshot = mesh(&yaml).snapshot();
    let rule = snapshot
        .destination_rule("default", &labels([]), &host("reviews"))
        .unwrap();
    let simple = |policy: crate::EffectivePolicy<'_>| policy.load_balancer.and_then(|lb| lb.simple);
    let other_port = rule.policy(1, None);
    assert_eq!(simple(other_port), Some(SimpleLb::Random));
    assert_eq!(other_port.tls.unwrap().mode, ClientTlsMode::IstioMutual);
    let port = rule.policy(9080, None);
    assert_eq!(simple(port), Some(SimpleLb::RoundRobin));
    assert!(port.tls.is_none());
    let subset = rule.policy(9080, rule.subset("v1"));
    assert_eq!(simple(subset), Some(SimpleLb::RoundRobin));
    assert_eq!(subset.tls.unwrap().mode, ClientTlsMode::Disable);
}

#[test]
fn the_oldest_virtual_service_of_the_most_specific_host_counts() {
    let virtual_service = |name: &str, created: u8, hosts: &str, rest: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\n\
             spec: {{hosts: [{hosts}], {rest} http: [{{route: [{{destination: {{host: reviews}}}}]}}]}}\n"
        )
    };
    let yaml = [
        shop(),
        virtual_service("wild", 1, "'*.default.svc.cluster.local'", ""),
        virtual_service("private", 2, "reviews", "exportTo: ['.'],"),
        virtual_service("young", 3, "reviews.default.svc.cluster.local", ""),
        virtual_service("gateway", 1, "reviews", "gateways: [default/gw],"),
    ]
    .concat();
    let snapshot = mesh(&yaml).snapshot();
    let name = |target: &str, namespace| {
        let routed = snapshot.virtual_service(&host(target), |routed| routed.visible_to(namespace));
        routed.unwrap().object.meta.name.clone()
    };
    assert_eq!(name("reviews", "default"), "private");
    assert_eq!(name("reviews", "other"), "young");
    assert_eq!(name("legacy", "other"), "wild");
}

#[test]
fn the_narrowest_sidecar_counts_and_of_equals_the_oldest() {
    let sidecar = |namespace: &str, name: &str, created: u8, selector: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
             metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\n\
             spec: {{{selector} egress: [{{hosts: ['./*']}}]}}\n"
        )
    };
    let by = |label: &str| format!("workloadSelector: {{labels: {{{label}}}}},");
    let all = [
        sidecar("istio-system", "mesh", 3, ""),
        sidecar("istio-system", "of-root", 1, &by("app: a")),
        sidecar("default", "namespace", 2, ""),
        sidecar("default", "younger", 3, ""),
        sidecar("default", "v1", 5, &by("version: v1")),
        sidecar("default", "a", 4, &by("app: a")),
    ]
    .concat();
    let mut mesh = mesh(&[shop(), all].concat());
    let of = |mesh: &Mesh, namespace, labels: &Labels| {
        let snapshot = mesh.snapshot();
        let sidecar = snapshot.sidecar(namespace, labels);
        sidecar.map(|own| own.object.meta.name.clone())
    };
    let a = labels([("app", "a"), ("version", "v1")]);
    assert_eq!(of(&mesh, "default", &a).unwrap(), "a");
    let v1 = labels([("version", "v1")]);
    assert_eq!(of(&mesh, "default", &v1).unwrap(), "v1");
    assert_eq!(of(&mesh, "default", &labels([])).unwrap(), "namespace");
    // What is selected in the root namespace is selected there alone.
    assert_eq!(of(&mesh, "other", &a).unwrap(), "mesh");
    assert_eq!(of(&mesh, "istio-system", &a).unwrap(), "of-root");
    let gone = ObjectKey::new(Kind::Sidecar, "istio-system", "mesh");
    let changes = mesh.apply(&[Change::Delete(gone)]);
    let parts: Vec<_> = changes.iter().cloned().collect();
    assert_eq!(parts, [Part::Sidecar("istio-system".to_owned())]);
    assert_eq!(of(&mesh, "other", &a), None);
}

#[test]
fn authentication_rows_tell_who_decides_and_whether_it_fits() {
    let mut mesh = mesh(&shop());
    let rows = |mesh: &Mesh| {
        authentication_rows(&mesh.snapshot(), "default", &labels([]))
            .into_iter()
            .map(|row| {
                format!(
                    "{}:{} {} {} {} {} {} {:?}",
                    row.host,
                    row.port,
                    row.tls_conflict_status,
                    row.server_protocol,
                    row.client_protocol,
                    row.authentication_policy_name,
                    row.destination_rule_name,
                    row.endpoints.iter().map(|e| e.mtls).collect::<Vec<_>>(),
                )
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(
        rows(&mesh),
        [
            "legacy.default.svc.cluster.local:5432 AUTO PERMISSIVE - - - [false]",
            "reviews.default.svc.cluster.local:9080 AUTO PERMISSIVE - - - [true, true]",
        ]
    );
    apply(
        &mut mesh,
        &peer_authentication("default", "default", 1, "{mtls: {mode: STRICT}}"),
    );
    apply(
        &mut mesh,
        &destination_rule(
            "default",
            "all",
            1,
            "{host: '*.default.svc.cluster.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}",
        ),
    );
    assert_eq!(
        rows(&mesh),
        [
            "legacy.default.svc.cluster.local:5432 CONFLICT STRICT ISTIO_MUTUAL default/default default/all [true]",
            "reviews.default.svc.cluster.local:9080 OK STRICT ISTIO_MUTUAL default/default default/all [true, true]",
        ]
    );
}
