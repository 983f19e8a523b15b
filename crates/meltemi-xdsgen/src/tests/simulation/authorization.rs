//! What AuthorizationPolicies let through: Istio's reference "Authorization Policy" and its tasks, as tables.

mod envoy;
mod naive;
mod property;

use std::net::IpAddr;

use meltemi_core::ObjectRef;
use meltemi_proxy_core::rbac::{self, RbacRequest};
use meltemi_proxy_core::runtime::{HttpFilterKind, NetworkFilter, RbacFilter};
use serde_json::{Value, json};

use super::*;
use crate::tests::support::to_json;
use crate::{Kind, ProxyState, ProxyView, Role, Shelf, generate};
use meltemi_model::ChangeSet;

/// `web` serves HTTP on 8080 and bytes on 9000; `gateway` is there for the edge.
const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: gateway, namespace: shop}
spec: {selector: {app: gateway}, ports: [{name: http, port: 80}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web, version: v1}}, spec: {containers: [{name: a, image: a}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: gateway, namespace: shop}
spec: {selector: {matchLabels: {app: gateway}}, template: {metadata: {labels: {app: gateway, gateway.networking.k8s.io/gateway-name: edge}}, spec: {containers: [{name: a, image: a}]}}}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop}
spec: {selector: {app: gateway}, servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']}, {port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: edge, namespace: shop}
spec: {hosts: ['*'], gateways: [edge], tcp: [{route: [{destination: {host: web.shop.svc.cluster.local, port: {number: 9000}}}]}]}
";

fn policy(name: &str, spec: &str) -> String {
    object(&format!("name: {name}, namespace: shop"), spec)
}

fn object(meta: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{{meta}}}\nspec: {{{spec}}}\n"
    )
}

fn shop(policies: &[String]) -> World {
    World::new(&format!("{SHOP}{}", policies.concat()))
}

/// Who calls what.
#[derive(Clone)]
pub(super) struct Ask<'a> {
    /// Without `spiffe://`; none in plain text.
    principal: Option<&'a str>,
    source: &'a str,
    /// As `x-forwarded-for` has it.
    remote: &'a str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    headers: &'a [(&'static str, &'a str)],
    port: u16,
    server_name: Option<&'a str>,
    token: Option<Value>,
}

const SLEEP: &str = "cluster.local/ns/default/sa/sleep";

pub(super) fn ask<'a>() -> Ask<'a> {
    Ask {
        principal: Some(SLEEP),
        source: "10.244.9.9",
        remote: "192.0.2.7",
        method: "GET",
        host: "web.shop",
        path: "/info?id=1",
        headers: &[],
        port: 8080,
        server_name: None,
        token: None,
    }
}

/// What an RBAC filter is asked of a request.
fn with_request<T>(ask: &Ask<'_>, is_http: bool, then: impl Fn(&RbacRequest<'_>) -> T) -> T {
    let mut headers = HeaderMap::new();
    for (name, value) in ask.headers {
        headers.append(*name, value.parse().unwrap());
    }
    let head = RequestHead {
        method: ask.method,
        path: ask.path,
        authority: ask.host,
        scheme: "http",
        headers: &headers,
    };
    let ip = |text: &str| text.parse::<IpAddr>().unwrap();
    let san = ask.principal.map(|name| format!("spiffe://{name}"));
    let verified = ask.token.as_ref().map(|token| json!({"payload": token}));
    then(&RbacRequest {
        head: is_http.then_some(&head),
        destination: SocketAddr::new(ip("10.244.0.1"), ask.port),
        direct_remote: ip(ask.source),
        remote: if is_http {
            ip(ask.remote)
        } else {
            ip(ask.source)
        },
        requested_server_name: ask.server_name,
        peer_uri_san: san.as_deref(),
        verified: verified.as_ref().and_then(Value::as_object),
    })
}

/// The verdict of filters in their order: `allowed`, or `denied` and by which rule.
fn judge(filters: &[Arc<RbacFilter>], ask: &Ask<'_>, is_http: bool) -> String {
    with_request(ask, is_http, |request| {
        for filter in filters {
            let (verdict, _) = rbac::evaluate(filter, request);
            if !verdict.is_allowed {
                return format!("denied {}", verdict.policy.map_or("none", |name| name));
            }
        }
        "allowed".to_owned()
    })
}

/// The RBAC filters before a connection's end, and whether requests are looked into.
fn guards(chain: &runtime::FilterChain) -> (Vec<Arc<RbacFilter>>, bool) {
    let network = chain.filters.iter().filter_map(|filter| match filter {
        NetworkFilter::Rbac(config) => Some(config.clone()),
        _ => None,
    });
    let mut all: Vec<Arc<RbacFilter>> = network.collect();
    let Terminal::Http(manager) = &chain.terminal else {
        return (all, false);
    };
    assert!(all.is_empty(), "requests are judged once");
    let http = manager.http_filters.iter();
    all.extend(http.filter_map(|filter| match &filter.kind {
        HttpFilterKind::Rbac(config) => Some(config.clone()),
        _ => None,
    }));
    (all, true)
}

fn chain<'a>(listener: &'a Listener, ask: &Ask<'_>) -> &'a runtime::FilterChain {
    let is_mutual = ask.principal.is_some();
    let transport = match is_mutual {
        true => TransportProtocol::Tls,
        false => TransportProtocol::RawBuffer,
    };
    let source: IpAddr = ask.source.parse().unwrap();
    let facts = ConnectionFacts {
        destination: SocketAddr::new("10.244.0.1".parse().unwrap(), ask.port),
        source: SocketAddr::new(source, 40000),
        direct_source: source,
        server_name: ask.server_name,
        transport,
        application_protocols: if is_mutual { &["istio"] } else { &[] },
    };
    match_filter_chain(listener, &facts).unwrap()
}

impl Proxy {
    fn authorise(&self, ask: &Ask<'_>) -> String {
        let (filters, is_http) = guards(chain(&self.capture["inbound"], ask));
        judge(&filters, ask, is_http)
    }
}

fn at_web(policies: &[String], ask: &Ask<'_>) -> String {
    Proxy::of(&shop(policies), "web").authorise(ask)
}

fn tcp<'a>() -> Ask<'a> {
    Ask {
        port: 9000,
        ..ask()
    }
}

fn plain<'a>() -> Ask<'a> {
    Ask {
        principal: None,
        ..ask()
    }
}

#[test]
fn without_policies_everything_is_allowed() {
    assert_eq!(at_web(&[], &ask()), "allowed");
    assert_eq!(at_web(&[], &tcp()), "allowed");
}

/// Istio, "Authorization Policy": an empty spec denies all, one empty rule allows all.
#[test]
fn no_rules_match_nothing_and_an_empty_rule_everything() {
    let nothing = [policy("nothing", "")];
    assert_eq!(at_web(&nothing, &ask()), "denied none");
    assert_eq!(at_web(&nothing, &tcp()), "denied none");
    let all = [policy("all", "rules: [{}]")];
    assert_eq!(at_web(&all, &plain()), "allowed");
    assert_eq!(at_web(&all, &tcp()), "allowed");
    let none = [policy("none", "action: DENY, rules: [{}]")];
    assert_eq!(
        at_web(&none, &ask()),
        "denied ns[shop]-policy[none]-rule[0]"
    );
    assert_eq!(
        at_web(&none, &tcp()),
        "denied ns[shop]-policy[none]-rule[0]"
    );
}

#[test]
fn policies_of_one_action_add_up() {
    let both = [
        policy("nothing", ""),
        policy("get", "rules: [{to: [{operation: {methods: [GET]}}]}]"),
    ];
    assert_eq!(at_web(&both, &ask()), "allowed");
    let post = Ask {
        method: "POST",
        ..ask()
    };
    assert_eq!(at_web(&both, &post), "denied none");
}

/// CUSTOM, DENY, ALLOW; AUDIT decides nothing.
#[test]
fn a_denial_comes_before_what_allows() {
    let on = |path: &str| format!("rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]");
    let policies = [
        policy("allow", "rules: [{}]"),
        policy("deny", &format!("action: DENY, {}", on("/denied"))),
        policy("audit", &format!("action: AUDIT, {}", on("/audited"))),
        policy(
            "ask",
            &format!(
                "action: CUSTOM, provider: {{name: opa}}, {}",
                on("'/*sked'")
            ),
        ),
    ];
    let at = |path| at_web(&policies, &Ask { path, ..ask() });
    assert_eq!(at("/info"), "allowed");
    assert_eq!(at("/audited"), "allowed");
    assert_eq!(at("/denied"), "denied ns[shop]-policy[deny]-rule[0]");
    let policies = [
        policy("deny", "action: DENY, rules: [{}]"),
        policy("ask", "action: CUSTOM, provider: {name: opa}, rules: [{}]"),
    ];
    assert_eq!(
        at_web(&policies, &ask()),
        "denied istio-ext-authz-opa-ns[shop]-policy[ask]-rule[0]-deny-due-to-bad-CUSTOM-action"
    );
}

/// A policy that denies whoever it reaches.
fn reach(meta: &str, spec: &str) -> String {
    let reach = format!("{spec}action: DENY, rules: [{{}}]");
    let (web, edge) = {
        let world = shop(&[object(meta, &reach)]);
        let gateway = generate(
            &world.router("gateway", Flavour::Meltemi),
            &world.mesh.snapshot(),
        );
        let web = Proxy::of(&world, "web").authorise(&ask());
        (web, at_edge(&gateway, 80))
    };
    let name = |verdict: &str| verdict.starts_with("denied");
    match (name(&web), name(&edge)) {
        (true, true) => "both",
        (true, false) => "web",
        (false, true) => "gateway",
        (false, false) => "nobody",
    }
    .to_owned()
}

fn at_edge(gateway: &Generated, port: u16) -> String {
    let resource = &gateway.listeners[&*format!("0.0.0.0_{port}")];
    let listener = compile::listener(decode(resource)).unwrap();
    let stranger = Ask { port, ..plain() };
    let (filters, is_http) = guards(chain(&listener, &stranger));
    judge(&filters, &stranger, is_http)
}

#[test]
fn a_policy_reaches_its_namespace_or_the_mesh_or_whom_it_selects() {
    for (meta, spec, expected) in [
        ("name: p, namespace: shop", "", "both"),
        ("name: p, namespace: istio-system", "", "both"),
        ("name: p, namespace: other", "", "nobody"),
        (
            "name: p, namespace: shop",
            "selector: {matchLabels: {app: web}}, ",
            "web",
        ),
        (
            "name: p, namespace: shop",
            "selector: {matchLabels: {app: web, version: v2}}, ",
            "nobody",
        ),
        (
            "name: p, namespace: shop",
            "selector: {matchLabels: {}}, ",
            "both",
        ),
        (
            "name: p, namespace: istio-system",
            "selector: {matchLabels: {app: gateway}}, ",
            "gateway",
        ),
        (
            "name: p, namespace: shop",
            "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}], ",
            "gateway",
        ),
        (
            "name: p, namespace: shop",
            "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: other}, ",
            "nobody",
        ),
        // References are to objects of the policy's own namespace.
        (
            "name: p, namespace: istio-system",
            "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: edge}, ",
            "nobody",
        ),
    ] {
        assert_eq!(reach(meta, spec), expected, "{meta} {spec}");
    }
    // A mesh may have another root namespace.
    let everywhere = object("name: p, namespace: other", "action: DENY, rules: [{}]");
    let world = shop(&[everywhere]).config("rootNamespace: other\n");
    assert!(
        Proxy::of(&world, "web")
            .authorise(&ask())
            .starts_with("denied")
    );
}

#[test]
fn a_gateway_judges_connections_that_it_relays() {
    let world = shop(&[policy(
        "edge",
        "action: DENY, selector: {matchLabels: {app: gateway}}, rules: [{to: [{operation: {ports: ['9000']}}]}]",
    )]);
    let gateway = generate(
        &world.router("gateway", Flavour::Meltemi),
        &world.mesh.snapshot(),
    );
    assert_eq!(at_edge(&gateway, 80), "allowed");
    assert_eq!(
        at_edge(&gateway, 9000),
        "denied ns[shop]-policy[edge]-rule[0]"
    );
}

/// What a rule matches among requests: the same as ALLOW and as DENY.
fn check(rule: &str, asks: &[(Ask<'_>, bool)]) {
    let allow = Proxy::of(&shop(&[policy("p", &format!("rules: [{rule}]"))]), "web");
    let deny = policy("p", &format!("action: DENY, rules: [{rule}]"));
    let deny = Proxy::of(&shop(&[deny]), "web");
    for (index, (ask, matches)) in asks.iter().enumerate() {
        let allowed = allow.authorise(ask) == "allowed";
        let denied = deny.authorise(ask) != "allowed";
        assert_eq!(
            (allowed, denied),
            (*matches, *matches),
            "{rule}, case {index}"
        );
    }
}

fn from(source: &str, asks: &[(Ask<'_>, bool)]) {
    check(&format!("{{from: [{{source: {{{source}}}}}]}}"), asks);
}

fn to(operation: &str, asks: &[(Ask<'_>, bool)]) {
    check(&format!("{{to: [{{operation: {{{operation}}}}}]}}"), asks);
}

fn when(condition: &str, asks: &[(Ask<'_>, bool)]) {
    check(&format!("{{when: [{{{condition}}}]}}"), asks);
}

fn by(principal: &str) -> Ask<'_> {
    Ask {
        principal: Some(principal),
        ..ask()
    }
}

#[test]
fn callers_by_identity() {
    let other = by("cluster.local/ns/default/sa/other");
    let abroad = by("example.org/ns/default/sa/sleep");
    let table = |value: &str, matching: [bool; 4]| {
        let asks = [ask(), other.clone(), abroad.clone(), plain()];
        let asks: Vec<_> = asks.into_iter().zip(matching).collect();
        from(&format!("principals: ['{value}']"), &asks);
        when(
            &format!("key: source.principal, values: ['{value}']"),
            &asks,
        );
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        from(&format!("notPrincipals: ['{value}']"), &reversed);
        when(
            &format!("key: source.principal, notValues: ['{value}']"),
            &reversed,
        );
    };
    table(SLEEP, [true, false, false, false]);
    table("cluster.local/ns/default/*", [true, true, false, false]);
    table("*/sa/sleep", [true, false, true, false]);
    table("*", [true, true, true, false]);
    table(
        "cluster.local/ns/default/sa/sle",
        [false, false, false, false],
    );
    from(
        &format!("principals: ['{SLEEP}', 'example.org/*']"),
        &[
            (ask(), true),
            (other, false),
            (abroad, true),
            (plain(), false),
        ],
    );
}

#[test]
fn callers_by_namespace() {
    let table = |value: &str, asks: &[(&str, bool)]| {
        let asks = asks.iter().map(|(principal, is)| (by(principal), *is));
        let asks: Vec<_> = asks.chain([(plain(), false)]).collect();
        from(&format!("namespaces: ['{value}']"), &asks);
        when(
            &format!("key: source.namespace, values: ['{value}']"),
            &asks,
        );
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        from(&format!("notNamespaces: ['{value}']"), &reversed);
        when(
            &format!("key: source.namespace, notValues: ['{value}']"),
            &reversed,
        );
    };
    table(
        "team-a",
        &[
            ("cluster.local/ns/team-a/sa/x", true),
            ("old/ns/team-a/sa/x", true),
            ("cluster.local/ns/team-ab/sa/x", false),
            ("cluster.local/ns/my-team-a/sa/x", false),
            ("cluster.local/ns/other/sa/team-a", false),
        ],
    );
    table(
        "team-*",
        &[
            ("cluster.local/ns/team-ab/sa/x", true),
            ("cluster.local/ns/my-team-a/sa/x", false),
        ],
    );
    table(
        "*-a",
        &[
            ("cluster.local/ns/my-team-a/sa/x", true),
            ("cluster.local/ns/team-ab/sa/x", false),
            ("cluster.local/ns/other/sa/x-a", false),
        ],
    );
    table("*", &[("cluster.local/ns/any/sa/x", true)]);
}

/// CVE-2026-39350: a dot in a name is a dot.
#[test]
fn callers_by_service_account() {
    let table = |value: &str, asks: &[(&str, bool)]| {
        let asks = asks.iter().map(|(principal, is)| (by(principal), *is));
        let asks: Vec<_> = asks.chain([(plain(), false)]).collect();
        from(&format!("serviceAccounts: ['{value}']"), &asks);
        when(
            &format!("key: source.serviceAccount, values: ['{value}']"),
            &asks,
        );
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        from(&format!("notServiceAccounts: ['{value}']"), &reversed);
    };
    table(
        "team.a",
        &[
            ("cluster.local/ns/shop/sa/team.a", true),
            ("cluster.local/ns/shop/sa/teamxa", false),
            ("cluster.local/ns/shop/sa/my-team.a", false),
            ("cluster.local/ns/other/sa/team.a", false),
        ],
    );
    table(
        "default/sleep",
        &[
            (SLEEP, true),
            ("cluster.local/ns/default/sa/sleep-2", false),
            ("cluster.local/ns/shop/sa/sleep", false),
        ],
    );
}

#[test]
fn callers_by_trust_domain() {
    let table = |value: &str, asks: &[(&str, bool)]| {
        let asks = asks.iter().map(|(principal, is)| (by(principal), *is));
        let asks: Vec<_> = asks.chain([(plain(), false)]).collect();
        from(&format!("trustDomains: ['{value}']"), &asks);
        when(
            &format!("key: source.trustDomain, values: ['{value}']"),
            &asks,
        );
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        from(&format!("notTrustDomains: ['{value}']"), &reversed);
    };
    table(
        "cluster.local",
        &[
            (SLEEP, true),
            ("cluster.local.evil/ns/default/sa/sleep", false),
            ("evil/ns/cluster.local/sa/sleep", false),
        ],
    );
    table("cluster*", &[(SLEEP, true), ("local/ns/a/sa/b", false)]);
    table("*.local", &[(SLEEP, true), ("a.b/ns/a/sa/x.local", false)]);
    table("*", &[(SLEEP, true)]);
}

#[test]
fn a_policy_outlives_the_name_of_the_trust_domain() {
    let rule = "rules: [{from: [{source: {principals: ['old/ns/default/sa/sleep']}}]}]";
    let mut world = shop(&[policy("p", rule)]);
    let (config, _) = meltemi_api::parse_message::<meltemi_api::istio::MeshConfig>(
        "mesh",
        "trustDomain: new\ntrustDomainAliases: [old]\n",
    );
    world.mesh.set_config(config.unwrap());
    let proxy = Proxy::of(&world, "web");
    assert_eq!(proxy.authorise(&by("new/ns/default/sa/sleep")), "allowed");
    assert_eq!(proxy.authorise(&by("old/ns/default/sa/sleep")), "allowed");
    assert_eq!(
        proxy.authorise(&by("third/ns/default/sa/sleep")),
        "denied none"
    );
}

#[test]
fn callers_by_address() {
    let near = Ask {
        source: "10.244.1.2",
        remote: "203.0.113.9",
        ..ask()
    };
    let far = Ask {
        source: "203.0.113.9",
        remote: "10.244.1.2",
        ..ask()
    };
    let six = Ask {
        source: "2001:db8::1",
        remote: "2001:db8::1",
        ..ask()
    };
    for (field, key, is) in [
        ("ipBlocks: ", "source.ip", [true, false, false]),
        ("remoteIpBlocks: ", "remote.ip", [false, true, false]),
    ] {
        let asks = |is: [bool; 3]| {
            let all = [near.clone(), far.clone(), six.clone()];
            all.into_iter().zip(is).collect::<Vec<_>>()
        };
        from(&format!("{field}[10.244.0.0/16]"), &asks(is));
        from(&format!("{field}['10.244.1.2', '192.0.2.1']"), &asks(is));
        from(
            &format!("{field}['2001:db8::/32']"),
            &asks([false, false, true]),
        );
        when(&format!("key: {key}, values: [10.244.0.0/16]"), &asks(is));
        when(
            &format!("key: {key}, notValues: [10.244.0.0/16]"),
            &asks(is.map(|is| !is)),
        );
    }
    from(
        "notIpBlocks: [10.244.0.0/16], notRemoteIpBlocks: [192.0.2.0/24]",
        &[(near, false), (far, true), (ask(), false)],
    );
}

#[test]
fn operations_by_method_and_port() {
    let with = |method| Ask { method, ..ask() };
    let table = |value: &str, is: [bool; 3]| {
        let asks = [with("GET"), with("POST"), with("PUT")];
        let asks: Vec<_> = asks.into_iter().zip(is).collect();
        to(&format!("methods: [{value}]"), &asks);
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        to(&format!("notMethods: [{value}]"), &reversed);
    };
    table("GET", [true, false, false]);
    table("GET, PUT", [true, false, true]);
    table("'P*'", [false, true, true]);
    table("'*T'", [true, true, true]);
    table("'*ST'", [false, true, false]);
    table("'*'", [true, true, true]);
    table("get", [false, false, false]);
    to("ports: ['8080']", &[(ask(), true), (tcp(), false)]);
    to("notPorts: ['8080']", &[(ask(), false), (tcp(), true)]);
    when(
        "key: destination.port, values: ['8080', '1']",
        &[(ask(), true), (tcp(), false)],
    );
    when(
        "key: destination.ip, values: [10.244.0.1]",
        &[(ask(), true)],
    );
    when(
        "key: destination.ip, notValues: [10.0.0.0/8]",
        &[(ask(), false)],
    );
}

/// CVE-2021-39155 and ISTIO-SECURITY-2021-008: in any case, on every port, with the dot of a full name.
#[test]
fn operations_by_host() {
    let at = |host| Ask { host, ..ask() };
    to(
        "hosts: [secret.com]",
        &[
            (at("secret.com"), true),
            (at("Secret.COM"), true),
            (at("secret.com:8443"), true),
            (at("secret.com."), true),
            (at("secret.com.:80"), true),
            (at("secret.com.evil"), false),
            (at("notsecret.com"), false),
            (at("secretxcom"), false),
        ],
    );
    to(
        "hosts: ['*.secret.com']",
        &[
            (at("a.secret.com"), true),
            (at("A.Secret.com:80"), true),
            (at("a.secret.com."), true),
            (at("secret.com"), false),
            (at("a.secretxcom:80"), false),
            (at("a.secret.com.evil:80"), false),
        ],
    );
    to(
        "hosts: ['secret*']",
        &[(at("SECRET.com:80"), true), (at("a.secret"), false)],
    );
    to(
        "hosts: ['secret.com:8443']",
        &[(at("secret.com:8443"), true), (at("secret.com"), false)],
    );
    to("hosts: ['*']", &[(at("anything"), true)]);
    to(
        "notHosts: [secret.com]",
        &[(at("SECRET.com:1"), false), (at("other"), true)],
    );
}

/// CVE-2021-39156, CVE-2026-73511: the query is no part of a path, and parameters of a segment hide nothing.
#[test]
fn operations_by_path() {
    let at = |path| Ask { path, ..ask() };
    to(
        "paths: [/admin]",
        &[
            (at("/admin"), true),
            (at("/admin?x=/y"), true),
            (at("/admin/"), false),
            (at("/x?/admin"), false),
            (at("/ADMIN"), false),
        ],
    );
    to(
        "paths: ['/admin*']",
        &[(at("/admin/x"), true), (at("/a/admin"), false)],
    );
    to(
        "paths: ['*/admin']",
        &[(at("/a/admin?x"), true), (at("/admin/a"), false)],
    );
    to("paths: ['*']", &[(at("/"), true)]);
    to(
        "notPaths: [/admin]",
        &[(at("/admin"), false), (at("/other;x"), true)],
    );
    // What a rule names with its parameters is found with them.
    to("paths: ['/a;b']", &[(at("/a;b"), true), (at("/a"), false)]);
    // What applications read in different ways is let through by no rule, and stopped by each.
    for (paths, path) in [
        ("paths: [/admin]", "/admin;a=b"),
        ("paths: [/admin]", "/admin;a=b?x"),
        ("paths: ['/admin*']", "/;a/admin"),
        ("paths: ['*/admin']", "/a/admin;v=1"),
        ("paths: ['*.css']", "/admin;.css"),
        ("notPaths: [/admin]", "/admin;x"),
        ("notPaths: ['*.css']", "/admin;.css"),
    ] {
        for action in ["ALLOW", "DENY"] {
            let rule = format!("action: {action}, rules: [{{to: [{{operation: {{{paths}}}}}]}}]");
            let proxy = Proxy::of(&shop(&[policy("p", &rule)]), "web");
            assert_ne!(proxy.authorise(&at(path)), "allowed", "{rule} {path}");
        }
    }
}

#[test]
fn operations_by_path_template() {
    let at = |path| Ask { path, ..ask() };
    to(
        "paths: ['/items/{*}/price']",
        &[
            (at("/items/7/price?x"), true),
            (at("/items/a.b-c/price"), true),
            (at("/items/7;x=y/price"), true),
            (at("/items//price"), false),
            (at("/items/7/8/price"), false),
            (at("/items/7/prices"), false),
        ],
    );
    to(
        "paths: ['/items/{**}']",
        &[
            (at("/items/"), true),
            (at("/items/a/b"), true),
            (at("/items"), false),
            (at("/itemsx/a"), false),
        ],
    );
    to(
        "paths: ['/{*}/a.c/{**}']",
        &[(at("/x/a.c/"), true), (at("/x/abc/"), false)],
    );
    to(
        "notPaths: ['/public/{**}']",
        &[(at("/public/a/b"), false), (at("/private/a"), true)],
    );
}

/// CVE-2026-26308: every line of a header counts by itself.
#[test]
fn conditions_on_headers() {
    let with = |headers| Ask { headers, ..ask() };
    let user: &[_] = &[("x-role", "user")];
    let both: &[_] = &[("x-role", "user"), ("x-role", "admin")];
    let table = |value: &str, is: [bool; 3]| {
        let asks = [with(user), with(both), ask()];
        let asks: Vec<_> = asks.into_iter().zip(is).collect();
        when(
            &format!("key: 'request.headers[X-Role]', values: {value}"),
            &asks,
        );
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        when(
            &format!("key: 'request.headers[x-role]', notValues: {value}"),
            &reversed,
        );
    };
    table("[admin]", [false, true, false]);
    table("['adm*']", [false, true, false]);
    table("['*er']", [true, true, false]);
    table("['*']", [true, true, false]);
    table("[Admin]", [false, false, false]);
    when(
        "key: connection.sni, values: ['*.shop']",
        &[
            (
                Ask {
                    server_name: Some("web.shop"),
                    ..ask()
                },
                true,
            ),
            (
                Ask {
                    server_name: Some("web.other"),
                    ..ask()
                },
                false,
            ),
            (ask(), false),
        ],
    );
}

fn user(token: Value) -> Ask<'static> {
    Ask {
        token: Some(token),
        ..ask()
    }
}

/// Without a token nothing of it matches, so that `notRequestPrincipals: ["*"]` is whoever has none (Istio, "Require a valid
/// token").
#[test]
fn users_by_their_token() {
    let alice = || {
        user(
            json!({"iss": "https://id.example/x", "sub": "alice", "aud": ["shop", "bank"], "azp": "app",
            "groups": ["staff", "admin"], "level": 3, "realm": {"roles": ["writer"], "name": "r.1"}}),
        )
    };
    let bob = || user(json!({"iss": "https://id.example/x", "sub": "bob", "aud": "shop"}));
    let table = |value: &str, is: [bool; 3]| {
        let asks: Vec<_> = [alice(), bob(), ask()].into_iter().zip(is).collect();
        from(&format!("requestPrincipals: ['{value}']"), &asks);
        when(
            &format!("key: request.auth.principal, values: ['{value}']"),
            &asks,
        );
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        from(&format!("notRequestPrincipals: ['{value}']"), &reversed);
        when(
            &format!("key: request.auth.principal, notValues: ['{value}']"),
            &reversed,
        );
    };
    table("https://id.example/x/alice", [true, false, false]);
    table("https://id.example/x/*", [true, true, false]);
    table("*/bob", [false, true, false]);
    table("*example/x/bob", [false, true, false]);
    table("*", [true, true, false]);
    table("https://id.example/x/al*", [true, false, false]);
    table("alice", [false, false, false]);
    let claims = |key: &str, value: &str, is: [bool; 3]| {
        let asks: Vec<_> = [alice(), bob(), ask()].into_iter().zip(is).collect();
        when(&format!("key: '{key}', values: {value}"), &asks);
        let reversed: Vec<_> = asks.into_iter().map(|(ask, is)| (ask, !is)).collect();
        when(&format!("key: '{key}', notValues: {value}"), &reversed);
    };
    claims("request.auth.audiences", "[bank]", [true, false, false]);
    claims("request.auth.audiences", "[shop]", [true, true, false]);
    claims(
        "request.auth.presenter",
        "[app, other]",
        [true, false, false],
    );
    claims(
        "request.auth.claims[groups]",
        "[admin]",
        [true, false, false],
    );
    claims(
        "request.auth.claims[groups]",
        "['st*']",
        [true, false, false],
    );
    claims("request.auth.claims[groups]", "['*']", [true, false, false]);
    claims(
        "request.auth.claims[realm][roles]",
        "[writer]",
        [true, false, false],
    );
    claims(
        "request.auth.claims[realm][name]",
        "['*.1']",
        [true, false, false],
    );
    claims("request.auth.claims[realm]", "['*']", [false, false, false]);
    claims("request.auth.claims[level]", "['3']", [false, false, false]);
}

#[test]
fn lists_are_alternatives_and_fields_are_not() {
    let rule = "{from: [{source: {namespaces: [default]}}, {source: {ipBlocks: [192.0.2.1]}}], \
        to: [{operation: {methods: [GET], paths: ['/a*']}}, {operation: {ports: ['9000']}}], \
        when: [{key: 'request.headers[x]', values: ['1']}, {key: 'request.headers[y]', values: ['2']}]}";
    let headers: &[_] = &[("x", "1"), ("y", "2")];
    let good = || Ask {
        headers,
        path: "/a",
        ..ask()
    };
    let stranger = || Ask {
        principal: Some("cluster.local/ns/other/sa/sleep"),
        ..good()
    };
    let known = Ask {
        source: "192.0.2.1",
        ..stranger()
    };
    check(
        rule,
        &[
            (good(), true),
            (stranger(), false),
            (known, true),
            (
                Ask {
                    method: "PUT",
                    ..good()
                },
                false,
            ),
            (
                Ask {
                    path: "/b",
                    ..good()
                },
                false,
            ),
            (
                Ask {
                    headers: &[("x", "1")],
                    ..good()
                },
                false,
            ),
        ],
    );
}

/// Istio: a rule of ALLOW that looks at requests is ignored on TCP ports; one of DENY keeps what is left of it.
#[test]
fn rules_on_requests_where_there_are_none() {
    for (allow, deny) in [
        ("to: [{operation: {methods: [GET]}}]", true),
        ("to: [{operation: {paths: [/x], ports: ['9000']}}]", true),
        ("to: [{operation: {notPaths: [/x], ports: ['1']}}]", false),
        ("to: [{operation: {hosts: [a]}}]", true),
        (
            "from: [{source: {requestPrincipals: ['*'], namespaces: [default]}}]",
            true,
        ),
        (
            "from: [{source: {notRequestPrincipals: ['*'], namespaces: [other]}}]",
            false,
        ),
        ("when: [{key: 'request.headers[x]', values: [a]}]", true),
        (
            "when: [{key: 'request.auth.claims[x]', notValues: [a]}, {key: source.ip, values: [192.0.2.1]}]",
            false,
        ),
    ] {
        let rule = |action: &str| policy("p", &format!("{action}rules: [{{{allow}}}]"));
        assert_eq!(at_web(&[rule("")], &tcp()), "denied none", "{allow}");
        let denied = at_web(&[rule("action: DENY, ")], &tcp()) != "allowed";
        assert_eq!(denied, deny, "{allow}");
    }
    // CVE-2020-16844: a principal with a star at the front is the same on TCP.
    let rule = |action: &str| {
        policy(
            "p",
            &format!("{action}rules: [{{from: [{{source: {{principals: ['*/sa/sleep']}}}}]}}]"),
        )
    };
    assert_eq!(at_web(&[rule("")], &tcp()), "allowed");
    assert!(at_web(&[rule("action: DENY, ")], &tcp()).starts_with("denied"));
    let other = Ask {
        port: 9000,
        ..by("cluster.local/ns/default/sa/other")
    };
    assert_eq!(at_web(&[rule("")], &other), "denied none");
}

/// The verdicts of a dry run, by the prefix of their statistics.
fn dry_run(proxy: &Proxy, ask: &Ask<'_>) -> Vec<(String, bool)> {
    let (filters, is_http) = guards(chain(&proxy.capture["inbound"], ask));
    with_request(ask, is_http, |request| {
        let shadows = filters.iter().filter_map(|filter| {
            let shadow = rbac::evaluate(filter, request).1?;
            Some((filter.shadow_prefix.to_string(), shadow.is_allowed))
        });
        shadows.collect()
    })
}

#[test]
fn a_dry_run_is_judged_and_decides_nothing() {
    let meta = |name: &str| {
        format!("name: {name}, namespace: shop, annotations: {{istio.io/dry-run: 'true'}}")
    };
    let world = shop(&[
        object(
            &meta("allow"),
            "rules: [{to: [{operation: {methods: [PUT]}}]}]",
        ),
        object(
            &meta("deny"),
            "action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]",
        ),
        policy(
            "enforced",
            "action: DENY, rules: [{to: [{operation: {methods: [PUT]}}]}]",
        ),
    ]);
    let proxy = Proxy::of(&world, "web");
    let put = Ask {
        method: "PUT",
        ..ask()
    };
    assert_eq!(proxy.authorise(&ask()), "allowed");
    assert_eq!(
        proxy.authorise(&put),
        "denied ns[shop]-policy[enforced]-rule[0]"
    );
    let verdicts = |deny, allow| {
        vec![
            ("istio_dry_run_deny_".to_owned(), deny),
            ("istio_dry_run_allow_".to_owned(), allow),
        ]
    };
    assert_eq!(dry_run(&proxy, &ask()), verdicts(false, false));
    assert_eq!(dry_run(&proxy, &put), verdicts(true, true));
    // What is no truth value is no dry run.
    let odd = object(
        "name: p, namespace: shop, annotations: {istio.io/dry-run: maybe}",
        "action: DENY, rules: [{}]",
    );
    assert!(at_web(&[odd], &ask()).starts_with("denied"));
}

/// Istio's order: CUSTOM before users are known, then AUDIT, DENY, ALLOW, and CORS after them.
#[test]
fn filters_stand_in_istios_order() {
    let world = shop(&[
        policy("a", "rules: [{}]"),
        policy("b", "action: DENY, rules: [{}]"),
        policy("c", "action: AUDIT, rules: [{}]"),
        policy("d", "action: CUSTOM, provider: {name: x}, rules: [{}]"),
    ]);
    for flavour in [Flavour::Meltemi, Flavour::Envoy] {
        let generated = world.generate("web", flavour);
        let listener = to_json(&generated.listeners["virtualInbound"]);
        let chains = listener["filterChains"].as_array().unwrap();
        let http = chains
            .iter()
            .flat_map(|chain| chain["filters"].as_array().unwrap());
        let http = http
            .filter_map(|filter| filter["typedConfig"]["httpFilters"].as_array())
            .next()
            .unwrap();
        let rules = |filter: &Value| {
            let rules = &filter["typedConfig"]["rules"];
            let action = rules["action"].as_str().unwrap_or("ALLOW").to_owned();
            let names = rules["policies"].as_object()?.keys().next()?;
            Some(format!("{action} {names}"))
        };
        let names: Vec<String> = http.iter().filter_map(rules).collect();
        assert_eq!(
            names,
            [
                "DENY istio-ext-authz-x-ns[shop]-policy[d]-rule[0]-deny-due-to-bad-CUSTOM-action",
                "LOG ns[shop]-policy[c]-rule[0]",
                "DENY ns[shop]-policy[b]-rule[0]",
                "ALLOW ns[shop]-policy[a]-rule[0]",
            ]
        );
        let position = |name: &str| {
            let found = http.iter().rposition(|filter| filter["name"] == name);
            found.unwrap()
        };
        assert!(position("envoy.filters.http.rbac") < position("envoy.filters.http.cors"));
    }
}

/// What is called is not guarded by what guards the caller.
#[test]
fn outbound_listeners_have_no_guard() {
    let world = shop(&[policy("a", "")]);
    for resource in world.generate("web", Flavour::Meltemi).listeners.values() {
        let has = to_json(resource).to_string().contains("filters.http.rbac");
        assert_eq!(
            has,
            &*resource.name == "virtualInbound",
            "{}",
            resource.name
        );
    }
}

#[test]
fn a_policy_touches_the_listeners_of_those_that_it_reaches() {
    let mut world = shop(&[]);
    let mut shelf = Shelf::default();
    let snapshot = world.mesh.snapshot();
    let view = world.view("web", Flavour::Meltemi);
    let mut state = ProxyState::new(view, &mut shelf.round(&snapshot, &ChangeSet::default()));
    let mut step = |yaml: &str| {
        let before = state.generated();
        let changes = world.apply(yaml);
        let snapshot = world.mesh.snapshot();
        let report = state.update(&mut shelf.round(&snapshot, &changes));
        let after = state.generated();
        assert_eq!(after, generate(state.view(), &snapshot));
        let mut differing: Vec<String> = Kind::ALL
            .into_iter()
            .flat_map(|kind| {
                let (before, after) = (before.of(kind).clone(), after.of(kind).clone());
                after
                    .iter()
                    .filter(|(name, resource)| before.get(*name) != Some(*resource))
                    .map(|(name, _)| name.to_string())
                    .collect::<Vec<_>>()
            })
            .collect();
        differing.dedup();
        let mut policies: Vec<ObjectRef> = state
            .origins()
            .filter(|origin| origin.kind == "AuthorizationPolicy")
            .cloned()
            .collect();
        policies.dedup();
        (differing, report.regenerated, policies.len())
    };
    let own = ["virtualInbound".to_owned()];
    assert_eq!(step(&policy("a", "rules: [{}]")).0, own);
    let elsewhere = object("name: p, namespace: other", "");
    assert_eq!(step(&elsewhere), (vec![], 0, 1));
    // One that selects others is looked at, and changes nothing.
    let (differing, _, policies) = step(&policy("b", "selector: {matchLabels: {app: x}}"));
    assert_eq!((differing.len(), policies), (0, 1));
    let (differing, _, policies) = step(&object("name: p, namespace: istio-system", ""));
    assert_eq!((&differing[..], policies), (&own[..], 2));
}

#[test]
fn equal_policies_have_equal_bytes() {
    let many: Vec<String> = (0..20)
        .map(|index| {
            policy(
                &format!("p{index}"),
                "rules: [{}, {to: [{operation: {methods: [GET]}}]}]",
            )
        })
        .collect();
    let world = shop(&many);
    let one = world.generate("web", Flavour::Meltemi);
    for _ in 0..10 {
        assert_eq!(world.generate("web", Flavour::Meltemi), one);
    }
    let view: ProxyView = world.view("web", Flavour::Meltemi);
    assert_eq!(view.role, Role::Sidecar);
}
