//! What a call to a gateway meets: Gateways merged by port, VirtualServices by their common hosts.

use meltemi_api::Kind as ObjectKind;

use super::*;
use meltemi_model::ChangeSet;

use crate::{ProxyState, ProxyView, Role, Shelf, generate};

/// A gateway in `edge` whose Service maps 80 to 8080 and 443 to 8443, and two services to route to.
const EDGE: &str = "
apiVersion: v1
kind: Service
metadata: {name: ingress, namespace: edge}
spec:
  selector: {istio: ingress}
  ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443, targetPort: 8443}]
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ingress, namespace: edge}
spec: {selector: {matchLabels: {istio: ingress}}, template: {metadata: {labels: {istio: ingress, sidecar.istio.io/inject: 'false'}}, spec: {serviceAccountName: ingress, containers: [{name: a, image: a}]}}}
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: db}
spec: {selector: {app: web}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: a}]}}}
";

/// Objects get their age from the order in which they are written.
struct Edge {
    yaml: String,
    age: u32,
}

impl Edge {
    fn new() -> Self {
        Self {
            yaml: EDGE.to_owned(),
            age: 0,
        }
    }

    fn object(mut self, kind: &str, name: &str, namespace: &str, spec: &str) -> Self {
        self.age += 1;
        self.yaml += &format!(
            "---\napiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}, creationTimestamp: '2026-01-01T00:00:{:02}Z'}}\nspec: {spec}\n",
            self.age
        );
        self
    }

    fn gateway(self, name: &str, servers: &str) -> Self {
        let spec = format!("{{selector: {{istio: ingress}}, servers: [{servers}]}}");
        self.object("Gateway", name, "default", &spec)
    }

    /// A VirtualService with one route named like it.
    fn routed(self, name: &str, hosts: &str, gateways: &str) -> Self {
        let spec = format!(
            "{{hosts: [{hosts}], gateways: [{gateways}], http: [{{name: {name}, route: [{{destination: {{host: web}}}}]}}]}}"
        );
        self.object("VirtualService", name, "default", &spec)
    }

    fn world(&self) -> World {
        World::new(&self.yaml)
    }

    fn proxy(&self) -> Proxy {
        let world = self.world();
        let view = world.router("ingress", Flavour::Meltemi);
        Proxy::new(&generate(&view, &world.mesh.snapshot()))
    }
}

const HTTP_80: &str = "{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}";

fn server(number: u16, name: &str, protocol: &str, hosts: &str, rest: &str) -> String {
    format!(
        "{{port: {{number: {number}, name: {name}, protocol: {protocol}}}, hosts: [{hosts}]{rest}}}"
    )
}

fn https(name: &str, hosts: &str, mode: &str) -> String {
    let tls = format!(", tls: {{mode: {mode}, credentialName: {name}}}");
    server(443, name, "HTTPS", hosts, &tls)
}

impl Proxy {
    fn edge(&self, call: Call<'_>) -> String {
        match self.listeners.find(call.to.parse().unwrap()) {
            Some(listener) => outcome(self, listener, &call),
            None => "refused".to_owned(),
        }
    }

    fn plain(&self, authority: &str, path: &str) -> String {
        self.edge(Call {
            to: "10.244.0.1:8080",
            application: &[],
            authority,
            path,
            ..HTTP
        })
    }

    fn secure(&self, sni: &str, authority: &str) -> String {
        self.edge(Call {
            to: "10.244.0.1:8443",
            sni: Some(sni),
            authority,
            ..OTHER_TLS
        })
    }
}

const WEB: &str = "outbound|80||web.default.svc.cluster.local";

#[test]
fn http_goes_by_the_hosts_that_server_and_virtual_service_have_in_common() {
    for (server_hosts, hosts, gateways, host, expected) in [
        ("'*'", "a.com", "g", "a.com", true),
        ("'*'", "a.com", "g", "a.com:8080", true),
        ("'*'", "a.com", "g", "b.com", false),
        ("'*'", "'*'", "g", "anything", true),
        ("'*.com'", "'*'", "g", "a.com", true),
        ("'*.com'", "'*'", "g", "a.org", false),
        ("a.com", "'*.com'", "g", "b.com", false),
        ("a.com", "a.com, b.com", "g", "b.com", false),
        ("default/a.com", "a.com", "g", "a.com", true),
        ("./a.com", "a.com", "g", "a.com", true),
        ("other/a.com", "a.com", "g", "a.com", false),
        ("'*/a.com'", "a.com", "g", "a.com", true),
        ("'*'", "a.com", "default/g", "a.com", true),
        ("'*'", "a.com", "./g, mesh", "a.com", true),
        ("'*'", "a.com", "other/g", "a.com", false),
        ("'*'", "a.com", "mesh", "a.com", false),
    ] {
        let server = server(80, "http", "HTTP", server_hosts, "");
        let proxy = Edge::new()
            .gateway("g", &server)
            .routed("v", hosts, gateways)
            .proxy();
        let expected = if expected {
            format!("http > v > {WEB}")
        } else {
            "http > 404".to_owned()
        };
        let case = format!("{server_hosts} {hosts} {gateways} {host}");
        assert_eq!(proxy.plain(host, "/"), expected, "{case}");
    }
}

#[test]
fn a_gateway_listens_where_its_service_leads_and_has_what_its_routes_need() {
    let edge = Edge::new()
        .gateway(
            "g",
            &[HTTP_80, &server(9000, "http-direct", "HTTP", "'*'", "")].join(", "),
        )
        .routed("v", "a.com", "g");
    let world = edge.world();
    let view = world.router("ingress", Flavour::Meltemi);
    let generated = generate(&view, &world.mesh.snapshot());
    let names = |resources: &crate::Resources| {
        resources
            .keys()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        names(&generated.listeners),
        ["0.0.0.0_8080", "0.0.0.0_9000"]
    );
    assert_eq!(names(&generated.routes), ["http.8080", "http.9000"]);
    assert_eq!(names(&generated.clusters), ["BlackHoleCluster", WEB]);
    assert_eq!(names(&generated.endpoints), [WEB]);
    let proxy = Proxy::new(&generated);
    assert_eq!(
        proxy.endpoints(WEB),
        ["10.244.0.2:80 mtls outbound_.80_._.web.default.svc.cluster.local"]
    );
    // Another pod, and one that no Gateway selects, listens to nothing.
    for view in [
        world.router("web", Flavour::Meltemi),
        ProxyView {
            labels: [("istio", "egress")].into_iter().collect(),
            addresses: vec!["10.9.9.9".parse().unwrap()],
            ..world.router("ingress", Flavour::Meltemi)
        },
    ] {
        let generated = generate(&view, &world.mesh.snapshot());
        assert_eq!(generated.listeners.len(), 0);
        assert_eq!(names(&generated.clusters), ["BlackHoleCluster"]);
    }
}

#[test]
fn virtual_services_of_one_host_are_joined_at_gateways_and_the_rest_comes_last() {
    let exact = |name: &str, path: &str| {
        format!(
            "{{hosts: [a.com], gateways: [g], http: [{{name: {name}, match: [{{uri: {{prefix: {path}}}}}], route: [{{destination: {{host: web}}}}]}}]}}"
        )
    };
    let proxy = Edge::new()
        .gateway("g", HTTP_80)
        .routed("everything", "a.com", "g")
        .object("VirtualService", "older", "default", &exact("older", "/x"))
        .object(
            "VirtualService",
            "newer",
            "default",
            &exact("newer", "/x/y"),
        )
        .proxy();
    for (path, route) in [("/x/y", "older"), ("/x", "older"), ("/z", "everything")] {
        let expected = format!("http > {route} > {WEB}");
        assert_eq!(proxy.plain("a.com", path), expected, "{path}");
    }
}

#[test]
fn a_match_may_be_for_a_gateway_or_port_alone() {
    let spec = "{hosts: [a.com], gateways: [g, h, mesh], http: [\
                {name: g-only, match: [{gateways: [g], uri: {prefix: /g}}], route: [{destination: {host: web}}]},\
                {name: h-only, match: [{gateways: [default/h], uri: {prefix: /h}}], route: [{destination: {host: web}}]},\
                {name: mesh-only, match: [{gateways: [mesh], uri: {prefix: /mesh}}], route: [{destination: {host: web}}]},\
                {name: port-80, match: [{port: 80, uri: {prefix: /port}}], route: [{destination: {host: web}}]},\
                {name: port-8080, match: [{port: 8080, uri: {prefix: /port}}], route: [{destination: {host: web}}]}]}";
    let proxy = Edge::new()
        .gateway("g", HTTP_80)
        .object("VirtualService", "v", "default", spec)
        .proxy();
    // By the number that the Gateway has, not by the one that is listened on.
    for (path, expected) in [
        ("/g", format!("http > g-only > {WEB}")),
        ("/h", "http > 404".to_owned()),
        ("/mesh", "http > 404".to_owned()),
        ("/port", format!("http > port-80 > {WEB}")),
    ] {
        assert_eq!(proxy.plain("a.com", path), expected, "{path}");
    }
}

#[test]
fn gateways_share_a_plain_port() {
    let proxy = Edge::new()
        .gateway("g", &server(80, "http", "HTTP", "a.com", ""))
        .gateway("h", &server(80, "http", "HTTP", "b.com", ""))
        .routed("v", "a.com, b.com", "g")
        .routed("w", "a.com, b.com", "h")
        .proxy();
    assert_eq!(proxy.plain("a.com", "/"), format!("http > v > {WEB}"));
    assert_eq!(proxy.plain("b.com", "/"), format!("http > w > {WEB}"));
    assert_eq!(proxy.plain("c.com", "/"), "http > 404");
    // An older server of another protocol keeps the port.
    let proxy = Edge::new()
        .gateway("g", &server(80, "tcp", "TCP", "'*'", ""))
        .gateway("h", HTTP_80)
        .routed("v", "a.com", "h")
        .proxy();
    assert_eq!(proxy.plain("a.com", "/"), "refused");
}

#[test]
fn https_redirect_answers_before_routes_do() {
    let redirecting = server(
        80,
        "http",
        "HTTP",
        "a.com, b.com",
        ", tls: {httpsRedirect: true}",
    );
    let proxy = Edge::new()
        .gateway("g", &redirecting)
        .gateway("h", &server(80, "http", "HTTP", "c.com", ""))
        .routed("v", "a.com, c.com", "g, h")
        .proxy();
    assert_eq!(proxy.plain("a.com", "/"), "http > redirect");
    assert_eq!(
        proxy.plain("b.com", "/"),
        "http > redirect",
        "no route at all"
    );
    assert_eq!(proxy.plain("c.com", "/"), format!("http > v > {WEB}"));
}

#[test]
fn tls_ends_by_server_name_and_what_is_for_another_server_is_misdirected() {
    let proxy = Edge::new()
        .gateway("simple", &https("one", "a.com", "SIMPLE"))
        .gateway("mutual", &https("two", "b.com", "MUTUAL"))
        .gateway("wide", &https("three", "'*.c.com'", "OPTIONAL_MUTUAL"))
        .routed("a", "a.com", "simple")
        .routed("b", "b.com", "mutual")
        .routed("c", "x.c.com", "wide")
        .proxy();
    for (sni, authority, expected) in [
        ("a.com", "a.com", format!("tls http > a > {WEB}")),
        ("A.com", "a.com:443", format!("tls http > a > {WEB}")),
        ("b.com", "b.com", format!("mtls http > b > {WEB}")),
        ("x.c.com", "x.c.com", format!("tls http > c > {WEB}")),
        ("y.c.com", "y.c.com", "tls http > 404".to_owned()),
        // A name that nobody serves finds no chain, and another's name is told so.
        ("d.com", "a.com", "closed".to_owned()),
        ("a.com", "b.com", "tls http > 421".to_owned()),
        ("a.com", "x.c.com", "tls http > 421".to_owned()),
        ("b.com", "a.com", "mtls http > 421".to_owned()),
        ("a.com", "d.com", "tls http > 404".to_owned()),
    ] {
        assert_eq!(proxy.secure(sni, authority), expected, "{sni} {authority}");
    }
    let plain = Call {
        to: "10.244.0.1:8443",
        authority: "a.com",
        ..HTTP
    };
    assert_eq!(proxy.edge(plain), "closed");
}

#[test]
fn routes_of_tls_servers_are_their_own() {
    let edge = Edge::new()
        .gateway(
            "g",
            &[
                https("one", "a.com", "SIMPLE"),
                https("two", "b.com", "SIMPLE"),
            ]
            .join(", "),
        )
        .routed("v", "'*'", "g");
    let world = edge.world();
    let view = world.router("ingress", Flavour::Meltemi);
    let generated = generate(&view, &world.mesh.snapshot());
    let names: Vec<&str> = generated.routes.keys().map(AsRef::as_ref).collect();
    assert_eq!(
        names,
        ["https.443.one.g.default", "https.443.two.g.default"]
    );
    let proxy = Proxy::new(&generated);
    assert_eq!(
        proxy.secure("a.com", "a.com"),
        format!("tls http > v > {WEB}")
    );
    assert_eq!(proxy.secure("a.com", "b.com"), "tls http > 421");
}

#[test]
fn opaque_tls_goes_by_the_names_that_both_have() {
    let spec = "{hosts: [a.com, b.com, '*.d.com'], gateways: [g], tls: [\
                {match: [{sniHosts: [a.com]}], route: [{destination: {host: web, port: {number: 80}}}]},\
                {match: [{port: 444, sniHosts: [x.d.com]}, {sniHosts: ['*.d.com', b.com]}], route: [{destination: {host: db}}]}]}";
    let passthrough = server(
        443,
        "tls",
        "TLS",
        "a.com, '*.d.com'",
        ", tls: {mode: PASSTHROUGH}",
    );
    let proxy = Edge::new()
        .gateway("g", &passthrough)
        .object("VirtualService", "v", "default", spec)
        .proxy();
    let db = "tcp > outbound|5432||db.default.svc.cluster.local";
    for (sni, expected) in [
        ("a.com", format!("tcp > {WEB}")),
        ("x.d.com", db.to_owned()),
        // The VirtualService has it, and the server does not.
        ("b.com", "closed".to_owned()),
        ("e.com", "closed".to_owned()),
    ] {
        assert_eq!(proxy.secure(sni, ""), expected, "{sni}");
    }
    // Beside a server that ends TLS, on the same port.
    let proxy = Edge::new()
        .gateway(
            "g",
            &[passthrough, https("one", "c.com", "SIMPLE")].join(", "),
        )
        .object("VirtualService", "v", "default", spec)
        .routed("w", "c.com", "g")
        .proxy();
    assert_eq!(proxy.secure("a.com", ""), format!("tcp > {WEB}"));
    assert_eq!(
        proxy.secure("c.com", "c.com"),
        format!("tls http > w > {WEB}")
    );
    assert_eq!(proxy.secure("c.com", "a.com"), "tls http > 421");
}

#[test]
fn connections_go_where_a_tcp_route_says() {
    let spec = |port: u16| {
        format!(
            "{{hosts: ['*'], gateways: [g], tcp: [{{match: [{{port: {port}}}], route: [{{destination: {{host: db}}}}]}}]}}"
        )
    };
    let tcp = server(5432, "tcp", "TCP", "'*'", "");
    let ended = server(
        5433,
        "tls",
        "TLS",
        "a.com",
        ", tls: {mode: SIMPLE, credentialName: c}",
    );
    let proxy = Edge::new()
        .gateway("g", &[tcp, ended].join(", "))
        .object("VirtualService", "other", "default", &spec(1))
        .object("VirtualService", "plain", "default", &spec(5432))
        .object("VirtualService", "ended", "default", &spec(5433))
        .proxy();
    let to = |to, call: Call<'_>| proxy.edge(Call { to, ..call });
    let db = "tcp > outbound|5432||db.default.svc.cluster.local";
    assert_eq!(to("10.244.0.1:5432", BYTES), db);
    let named = Call {
        sni: Some("a.com"),
        ..OTHER_TLS
    };
    assert_eq!(to("10.244.0.1:5433", named), format!("tls {db}"));
    // Without a route there is nothing to listen for.
    let proxy = Edge::new()
        .gateway("g", &server(5432, "tcp", "TCP", "'*'", ""))
        .proxy();
    let call = Call {
        to: "10.244.0.1:5432",
        ..BYTES
    };
    assert_eq!(proxy.edge(call), "refused");
}

const SECRET: &str = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: one, namespace: edge}\ntype: kubernetes.io/tls\n\
                      stringData: {tls.crt: chain, tls.key: key, ca.crt: roots}\n---\n\
                      apiVersion: v1\nkind: Secret\nmetadata: {name: one, namespace: default}\nstringData: {cert: other, key: other}\n---\n\
                      apiVersion: v1\nkind: Secret\nmetadata: {name: private, namespace: edge}\nstringData: {tls.crt: chain, tls.key: key}\n";

/// Names of the secrets that a proxy is given.
fn secrets(world: &World, view: &ProxyView) -> Vec<String> {
    let generated = generate(view, &world.mesh.snapshot());
    generated.secrets.keys().map(ToString::to_string).collect()
}

#[test]
fn a_secret_is_given_to_the_gateway_that_is_to_show_it_and_to_nobody_else() {
    let mut edge = Edge::new()
        .gateway("g", &https("one", "a.com", "MUTUAL"))
        .routed("v", "a.com", "g");
    edge.yaml += SECRET;
    let world = edge.world();
    let own = world.router("ingress", Flavour::Meltemi);
    assert_eq!(
        secrets(&world, &own),
        ["kubernetes://one", "kubernetes://one-cacert"]
    );
    let nothing: [String; 0] = [];
    let labels = own.labels.clone();
    let liars = [
        // A sidecar, whatever its labels are.
        world.view("ingress", Flavour::Meltemi),
        // A workload of another namespace that says it is a gateway and has its labels.
        ProxyView {
            labels: labels.clone(),
            ..world.router("web", Flavour::Meltemi)
        },
        // One of the gateway's namespace with another account, at its own address and at the gateway's.
        ProxyView {
            service_account: "other".to_owned(),
            addresses: vec!["10.244.0.77".parse().unwrap()],
            ..own.clone()
        },
        ProxyView {
            service_account: "other".to_owned(),
            ..own.clone()
        },
    ];
    for liar in liars {
        assert_eq!(secrets(&world, &liar), nothing, "{liar:?}");
    }
    // Its own account, but the objects do not give the labels that it says it has.
    let mut world = world;
    world.apply(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: tool, namespace: edge}\n\
         spec: {selector: {matchLabels: {app: tool}}, template: {metadata: {labels: {app: tool}}, spec: {serviceAccountName: ingress, containers: [{name: a, image: a}]}}}\n",
    );
    let tool = ProxyView {
        labels,
        ..world.router("tool", Flavour::Meltemi)
    };
    assert_eq!(secrets(&world, &tool), nothing);
}

#[test]
fn a_secret_that_changes_changes_nothing_else() {
    let mut edge = Edge::new()
        .gateway("g", &https("one", "a.com", "SIMPLE"))
        .routed("v", "a.com", "g");
    edge.yaml += SECRET;
    let mut world = edge.world();
    let view = world.router("ingress", Flavour::Meltemi);
    let mut shelf = Shelf::default();
    let mut state = started(&mut shelf, view.clone(), &world);
    let before = state.generated();
    let changes = world.apply(&SECRET.replace("tls.crt: chain", "tls.crt: renewed"));
    let report = state.update(&mut shelf.round(&world.mesh.snapshot(), &changes));
    let after = state.generated();
    assert_eq!((report.changed, report.removed), (1, 0));
    assert_ne!(before.secrets, after.secrets);
    assert_eq!(before.listeners, after.listeners);
    // What is in it is no one's to read in a log.
    assert!(!format!("{after:?}").contains("renewed"));
    let shown = format!("{:?}", world.mesh.snapshot());
    assert!(!shown.contains("renewed"));
    // One that nobody names is no news.
    let changes = world.apply(
        &SECRET
            .replace("name: one", "name: unnamed")
            .replace("name: private", "name: unnamed-too"),
    );
    assert_eq!(
        state
            .update(&mut shelf.round(&world.mesh.snapshot(), &changes))
            .changed,
        0
    );
    assert_eq!(view.role, Role::Router);
}

#[test]
fn gateways_come_and_go_as_a_fresh_start_would_have_it() {
    let edge = Edge::new().gateway("g", HTTP_80).routed("v", "a.com", "g");
    let mut world = World::new(EDGE);
    let view = world.router("ingress", Flavour::Meltemi);
    let mut shelf = Shelf::default();
    let mut state = started(&mut shelf, view.clone(), &world);
    let mut check = |world: &World, changes: &ChangeSet| {
        state.update(&mut shelf.round(&world.mesh.snapshot(), changes));
        let fresh = generate(&view, &world.mesh.snapshot());
        assert_eq!(state.generated(), fresh);
        state.generated().listeners.len()
    };
    let added = edge.yaml.strip_prefix(EDGE).expect("what is there already");
    let changes = world.apply(added);
    assert_eq!(check(&world, &changes), 1);
    let changes = world.delete(ObjectKind::VirtualService, "v");
    assert_eq!(check(&world, &changes), 1);
    let changes = world.delete(ObjectKind::Gateway, "g");
    assert_eq!(check(&world, &changes), 0);
}

fn started(shelf: &mut Shelf, view: ProxyView, world: &World) -> ProxyState {
    let snapshot = world.mesh.snapshot();
    ProxyState::new(view, &mut shelf.round(&snapshot, &ChangeSet::default()))
}
