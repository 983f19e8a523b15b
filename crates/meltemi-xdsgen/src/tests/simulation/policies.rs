//! What DestinationRules and VirtualServices say of connections, names and hosts.

use std::time::Duration;

use meltemi_api::{Change, format, parse};
use meltemi_core::Severity;
use meltemi_proxy_core::access_log;
use meltemi_proxy_core::runtime::HashSource;

use super::*;
use crate::Kind;
use crate::tests::support::to_json;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: api}
spec: {selector: {app: web}, ports: [{name: http, port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: database}
spec: {selector: {app: web}, ports: [{name: tcp, port: 5432}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web-v1}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: a}]}}}
";
const WEB: &str = "outbound|80||web.default.svc.cluster.local";

fn virtual_service(host: &str, http: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {host}}}\n\
         spec: {{hosts: [{host}], http: [{http}]}}\n"
    )
}

fn rule(host: &str, policy: &str) -> String {
    format!(
        "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}}}\n\
         spec: {{host: {host}, trafficPolicy: {policy}}}\n"
    )
}

fn shop(more: &[String]) -> World {
    World::new(&format!("{SHOP}{}", more.concat()))
}

fn to_web(authority: &str) -> Call<'_> {
    Call {
        to: "10.96.0.1:80",
        authority,
        ..HTTP
    }
}

/// The route that a call to the host `web` takes.
fn forward(proxy: &Proxy) -> Arc<runtime::Route> {
    let host = virtual_host::select(&proxy.routes["80"], "web").unwrap();
    let headers = HeaderMap::new();
    let head = RequestHead {
        method: "GET",
        path: "/",
        authority: "web",
        scheme: "http",
        headers: &headers,
    };
    Arc::clone(routing::select(host, &head, 0).unwrap())
}

fn action(route: &runtime::Route) -> &runtime::ForwardAction {
    match &route.action {
        RouteAction::Forward(action) => action,
        other => panic!("{other:?}"),
    }
}

/// What no proxy takes stops here, by itself: the rules beside it act, and every proxy takes the whole.
#[test]
fn one_bad_rule_freezes_nothing() {
    let good = virtual_service("api", "{name: good, route: [{destination: {host: api}}]}");
    let web = |more: &str| {
        let route = format!("{{name: bad, route: [{{destination: {{host: web}}}}], {more}}}");
        virtual_service("web", &route)
    };
    for bad in [
        web("headers: {request: {set: {x: '100%'}}}"),
        web("headers: {response: {add: {x: '%POD%'}}}"),
        web(r#"headers: {request: {set: {x: "a\rb"}}}"#),
        web("headers: {request: {set: {'x:y': a}}}"),
        web("headers: {request: {remove: [':path']}}"),
        web("match: [{headers: {'@request.auth.principal': {exact: a}}}]"),
        web("rewrite: {uriRegexRewrite: {match: /a, rewrite: '/\\1'}}"),
        web("retries: {attempts: 1, retryOn: http3-post-connect-failure}"),
        web(r#"corsPolicy: {allowMethods: ["a\nb"]}"#),
        rule(
            "web",
            "{loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 4}}}}",
        ),
        rule(
            "web",
            "{loadBalancer: {consistentHash: {useSourceIp: true, ringHash: {minimumRingSize: 8388609}}}}",
        ),
        rule(
            "web",
            "{loadBalancer: {consistentHash: {httpHeaderName: 'a:b'}}}",
        ),
    ] {
        let parsed = parse("in.yaml", &format!("{good}{bad}"), "default");
        let errors = parsed.diagnostics.iter();
        let errors = errors.filter(|found| found.severity == Severity::Error);
        assert_eq!(errors.count(), 1, "{bad}: {:?}", parsed.diagnostics);
        assert!(
            parsed
                .diagnostics
                .iter()
                .all(|found| !found.hint.is_empty()),
            "{bad}"
        );
        assert_eq!(
            (parsed.objects.len(), parsed.rejected.len()),
            (1, 1),
            "{bad}"
        );
        let mut world = shop(&[]);
        let changes: Vec<_> = parsed.objects.into_iter().map(Change::Upsert).collect();
        world.mesh.apply(&changes);
        let proxy = Proxy::of(&world, "web-v1");
        assert_eq!(
            proxy.outbound(to_web("api")),
            "http > good > outbound|80||api.default.svc.cluster.local"
        );
        assert_eq!(
            proxy.outbound(to_web("web")),
            format!("http > default > {WEB}")
        );
    }
}

/// The two halves judge formats apart, and must not differ.
#[test]
fn validation_and_proxies_know_the_same_operators() {
    let alone = format::PLAIN.iter().chain(format::OPTIONAL);
    let alone = alone.map(|name| format!("%{name}%"));
    let argument = |name: &str| if name.contains("TIME") { "%F" } else { "a" };
    let with = format::WITH_ARGUMENT.iter().chain(format::OPTIONAL);
    let with = with.map(|name| format!("%{name}({}):9%", argument(name)));
    for text in alone.chain(with) {
        assert_eq!(format::problem(&text), None, "{text}");
        assert!(access_log::parse(&text).is_ok(), "{text}");
    }
    for text in [
        "%",
        "a%b",
        "%REQ%",
        "%RESP",
        "%X%",
        "%PROTOCOL:%",
        "%PROTOCOL:x%",
        "%REQ(a%",
        "%START_TIME(%q)%",
        "%PROTOCOL(a)%",
        "% %",
        "%REQ(a):%",
        "%CEL(a)%",
    ] {
        assert!(format::problem(text).is_some(), "{text}");
        assert!(access_log::parse(text).is_err(), "{text}");
    }
}

#[test]
fn a_json_access_log_is_as_it_is_written() {
    let config = "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n\
                  accessLogFormat: '{\"request\": {\"path\": \"%REQ(:PATH)%\", \"tries\": [1, true, null]}}'\n";
    let world = shop(&[]).config(config);
    Proxy::of(&world, "web-v1");
    let generated = world.generate("web-v1", Flavour::Meltemi);
    let listener = to_json(&generated.listeners["virtualOutbound"]).to_string();
    let expected = r#""jsonFormat":{"request":{"path":"%REQ(:PATH)%","tries":[1.0,true,null]}}"#;
    assert!(listener.contains(expected), "{listener}");
}

#[test]
fn weighted_routes_are_hashed_by_the_rules_of_all_who_get_requests() {
    let route = "{route: [{destination: {host: web}, weight: 90}, {destination: {host: api}, weight: 10}, \
                 {destination: {host: database, port: {number: 5432}}, weight: 0}]}";
    let hash = |host: &str, header: &str| {
        rule(
            host,
            &format!("{{loadBalancer: {{consistentHash: {{httpHeaderName: {header}}}}}}}"),
        )
    };
    let rules = [
        virtual_service("web", route),
        hash("web", "x-user"),
        hash("api", "x-tenant"),
        hash("database", "x-none"),
    ];
    let route = forward(&Proxy::of(&shop(&rules), "web-v1"));
    let sources: Vec<String> = action(&route)
        .hash
        .iter()
        .map(|policy| match &policy.source {
            HashSource::Header { source, .. } => format!("{source:?}"),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(sources.len(), 2);
    assert!(
        sources[0].contains("x-user") && sources[1].contains("x-tenant"),
        "{sources:?}"
    );
}

#[test]
fn a_rewritten_authority_comes_before_a_host_header() {
    let headers =
        |host: &str| format!("headers: {{request: {{set: {{Host: {host}, x: {host}}}}}}}");
    let (of_route, of_destination) = (headers("of-route"), headers("of-destination"));
    let rewrite = "rewrite: {authority: rewritten}";
    for (destination, route, expected) in [
        ("", format!("{rewrite}, {of_route}"), "rewritten"),
        (of_destination.as_str(), of_route.clone(), "of-route"),
        (&of_destination, "name: a".to_owned(), "of-destination"),
        (&of_destination, rewrite.to_owned(), "rewritten"),
    ] {
        let http = format!("{{route: [{{destination: {{host: web}}, {destination}}}], {route}}}");
        let route = forward(&Proxy::of(
            &shop(&[virtual_service("web", &http)]),
            "web-v1",
        ));
        let rewritten = format!("{:?}", action(&route).host_rewrite);
        assert!(rewritten.contains(expected), "{http}: {rewritten}");
        // The headers of the only destination are the route's, and come last.
        let last = route
            .request_headers
            .add
            .last()
            .map(|last| format!("{last:?}"));
        let own = if destination.is_empty() {
            "of-route"
        } else {
            "of-destination"
        };
        assert!(last.unwrap().contains(own), "{http}");
    }
}

#[test]
fn rules_act_on_relayed_connections() {
    let policy = "{connectionPool: {tcp: {idleTimeout: 5m, maxConnectionDuration: 1h}}, \
                  loadBalancer: {consistentHash: {useSourceIp: true}}}";
    let world = shop(&[rule("database", policy), rule("web", policy)]);
    let proxy = Proxy::of(&world, "web-v1");
    let listener = proxy
        .listeners
        .find("10.96.0.3:5432".parse().unwrap())
        .unwrap();
    let chain = listener
        .default_filter_chain
        .iter()
        .chain(&listener.filter_chains)
        .next();
    let Terminal::Tcp(tcp) = &chain.unwrap().terminal else {
        panic!("no TCP");
    };
    assert_eq!(tcp.idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!(
        tcp.max_downstream_connection_duration,
        Some(Duration::from_secs(3600))
    );
    assert!(tcp.hash_source_ip);
    let generated = world.generate("web-v1", Flavour::Meltemi);
    let cluster = to_json(&generated.clusters[WEB]).to_string();
    assert!(
        cluster.contains(r#""maxConnectionDuration":"3600s""#),
        "{cluster}"
    );
}

/// Istio: of a rule only the connection pool acts on those who serve the host.
#[test]
fn a_connection_pool_acts_on_the_inbound_side_too() {
    let policy = "{connectionPool: {tcp: {maxConnections: 7, connectTimeout: 3s}, http: {http1MaxPendingRequests: 5, h2UpgradePolicy: UPGRADE}}, \
                  outlierDetection: {consecutive5xxErrors: 1}, tls: {mode: ISTIO_MUTUAL}}";
    let world = shop(&[rule("api", policy)]);
    let generated = world.generate("web-v1", Flavour::Meltemi);
    let cluster = to_json(&generated.of(Kind::Cluster)["inbound|80||"]);
    let limits = &cluster["circuitBreakers"]["thresholds"][0];
    assert_eq!(
        (&limits["maxConnections"], &limits["maxPendingRequests"]),
        (&7.into(), &5.into())
    );
    assert_eq!(cluster["connectTimeout"], "3s");
    for outbound in [
        "outlierDetection",
        "transportSocket",
        "typedExtensionProtocolOptions",
    ] {
        assert!(cluster[outbound].is_null(), "{cluster}");
    }
    // A rule for some clients is for clients.
    let selected = rule("api", policy).replace(
        "spec: {",
        "spec: {workloadSelector: {matchLabels: {app: web}}, ",
    );
    let generated = shop(&[selected]).generate("web-v1", Flavour::Meltemi);
    let cluster = to_json(&generated.of(Kind::Cluster)["inbound|80||"]);
    assert_ne!(cluster["connectTimeout"], "3s");
}

#[test]
fn a_port_for_udp_hides_no_routes() {
    let dns = "---\napiVersion: v1\nkind: Service\nmetadata: {name: dns}\n\
               spec: {selector: {app: web}, ports: [{name: dns, port: 80, protocol: UDP}, {name: http-dns, port: 80}]}\n";
    let proxy = Proxy::of(&shop(&[dns.to_owned()]), "web-v1");
    assert_eq!(
        proxy.outbound(to_web("dns")),
        "http > default > outbound|80||dns.default.svc.cluster.local"
    );
}

/// Istio: outside of Kubernetes a service account tells that somebody there has a certificate.
#[test]
fn entries_with_a_service_account_are_called_with_mutual_tls() {
    let entry = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: vm}\n\
                 spec: {hosts: [vm.internal], location: MESH_INTERNAL, resolution: STATIC, ports: [{name: http, number: 80}], \
                 endpoints: [{address: 10.0.0.1, serviceAccount: vm}, {address: 10.0.0.2}, \
                 {address: 10.0.0.3, serviceAccount: vm, labels: {security.istio.io/tlsMode: disabled}}]}\n";
    let workload = "---\napiVersion: networking.istio.io/v1\nkind: WorkloadEntry\nmetadata: {name: vm, labels: {app: api}}\n\
                    spec: {address: 10.0.0.9, serviceAccount: vm}\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: old}\n\
                    spec: {selector: {app: api}, ports: [{name: http, port: 80}]}\n";
    let proxy = Proxy::of(&shop(&[entry.to_owned(), workload.to_owned()]), "web-v1");
    let sni = "outbound_.80_._.vm.internal";
    assert_eq!(
        proxy.endpoints("outbound|80||vm.internal"),
        [
            format!("10.0.0.1:80 mtls {sni}"),
            "10.0.0.2:80 plain".to_owned(),
            "10.0.0.3:80 plain".to_owned()
        ]
    );
    let old = "old.default.svc.cluster.local";
    assert_eq!(
        proxy.endpoints(&format!("outbound|80||{old}")),
        [format!("10.0.0.9:80 mtls outbound_.80_._.{old}")]
    );
}

/// Which names a server outside the mesh is checked for.
#[test]
fn servers_outside_are_checked_as_istio_has_it() {
    let entry = |names: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out}}\n\
             spec: {{hosts: [api.example.com], resolution: DNS, ports: [{{name: http, number: 443}}], subjectAltNames: [{names}]}}\n"
        )
    };
    let check = |names: &str, tls: &str, expected: &[&str], auto_san: bool| {
        let tls = format!("{{tls: {{mode: SIMPLE{tls}}}}}");
        let world = shop(&[entry(names), rule("api.example.com", &tls)]);
        let generated = world.generate("web-v1", Flavour::Meltemi);
        let cluster = to_json(&generated.of(Kind::Cluster)["outbound|443||api.example.com"]);
        let context =
            &cluster["transportSocket"]["typedConfig"]["commonTlsContext"]["validationContext"];
        let matchers = context["matchTypedSubjectAltNames"].as_array().cloned();
        let found: Vec<String> = matchers
            .into_iter()
            .flatten()
            .map(|one| {
                format!(
                    "{} {}",
                    one["sanType"].as_str().unwrap(),
                    one["matcher"]["exact"].as_str().unwrap()
                )
            })
            .collect();
        assert_eq!(found, expected, "{tls}");
        let options = &cluster["typedExtensionProtocolOptions"].to_string();
        assert_eq!(
            options.contains("autoSanValidation"),
            auto_san,
            "{tls} {options}"
        );
        let endpoint = &cluster["loadAssignment"]["endpoints"][0]["lbEndpoints"][0]["endpoint"];
        assert_eq!(endpoint["hostname"], "api.example.com");
        context.clone()
    };
    let typed = [
        "URI spiffe://a/ns/b/sa/c",
        "IP_ADDRESS 192.0.2.1",
        "DNS a.example.com",
    ];
    check(
        "",
        ", subjectAltNames: ['spiffe://a/ns/b/sa/c', 192.0.2.1, a.example.com]",
        &typed,
        false,
    );
    check(
        "b.example.com",
        ", subjectAltNames: [a.example.com]",
        &typed[2..],
        false,
    );
    check("a.example.com", "", &typed[2..], true);
    check("", "", &[], true);
    check("", ", sni: x.example.com", &[], false);
    let context = check("a.example.com", ", insecureSkipVerify: true", &[], false);
    assert_eq!(context, serde_json::json!({}));
}

/// A delegate's routes stand where its root leads to it, for what both match; its short names are of its own namespace.
#[test]
fn a_root_leaves_routes_to_its_delegates() {
    let root = virtual_service(
        "web",
        "{name: r, match: [{uri: {prefix: /a}}], delegate: {name: part, namespace: other}}, \
         {match: [{uri: {prefix: /gone}}], delegate: {name: nobody}}, {name: last, route: [{destination: {host: web}}]}",
    );
    let delegate = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: part, namespace: other}\n\
                    spec: {http: [{name: x, match: [{uri: {prefix: /a/x}}, {uri: {prefix: /b}}], route: [{destination: {host: api}}]}, \
                    {name: never, match: [{uri: {prefix: /c}}], route: [{destination: {host: api}}]}, \
                    {name: all, route: [{destination: {host: api.default.svc.cluster.local}}]}]}\n";
    let mut world = shop(&[root, delegate.to_owned()]);
    let paths = |world: &World| {
        let proxy = Proxy::of(world, "web-v1");
        ["/a/x", "/a/y", "/b", "/c", "/gone"].map(|path| {
            proxy.outbound(Call {
                path,
                ..to_web("web")
            })
        })
    };
    let last = format!("http > last > {WEB}");
    let api = "outbound|80||api.default.svc.cluster.local";
    assert_eq!(
        paths(&world),
        [
            "http > r-x > outbound|80||api.other.svc.cluster.local",
            &format!("http > r-all > {api}"),
            &last,
            &last,
            &last,
        ]
    );
    world.apply(&delegate.replace("{http:", "{exportTo: ['.'], http:"));
    assert_eq!(paths(&world), [(); 5].map(|()| last.as_str()));
}

/// What a root says of all its delegates' routes is theirs, unless they say it themselves; its short names are of its own namespace.
#[test]
fn a_roots_mirrors_are_those_of_its_delegates() {
    let root = virtual_service(
        "web",
        "{mirrors: [{destination: {host: copy}}], delegate: {name: part, namespace: other}}",
    );
    let delegate = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: part, namespace: other}\n\
                    spec: {http: [{match: [{uri: {prefix: /own}}], mirrors: [{destination: {host: own}}], route: [{destination: {host: api}}]}, \
                    {route: [{destination: {host: api}}]}]}\n";
    let world = shop(&[root, delegate.to_owned()]);
    let mesh = world.mesh.snapshot();
    let mut routed = mesh.virtual_services("default");
    let routed = routed.find(|routed| !routed.spec.http.is_empty()).unwrap();
    let mirrors = routed.spec.http.iter().map(|http| &http.mirrors[0]);
    let hosts: Vec<&str> = mirrors.map(|to| &*to.destination.host).collect();
    assert_eq!(
        hosts,
        [
            "own.other.svc.cluster.local",
            "copy.default.svc.cluster.local"
        ]
    );
}
