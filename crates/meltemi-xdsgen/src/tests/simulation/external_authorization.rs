//! What CUSTOM policies ask about, and whom: Istio's task "External Authorization" and its reference, as tables.

use meltemi_proxy_core::rbac::{self, RbacRequest};
use meltemi_proxy_core::record::AuthorizationRecord;
use meltemi_proxy_core::runtime::{Authorizer, HttpFilterKind, NetworkFilter};

use super::*;

const SHOP: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {selector: {app: web}, ports: [{name: http, port: 8080}, {name: tcp, port: 9000}]}
---
apiVersion: v1
kind: Service
metadata: {name: ext-authz, namespace: authz}
spec: {selector: {app: ext-authz}, ports: [{name: http, port: 8000}, {name: grpc, port: 9000}]}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec: {selector: {matchLabels: {app: web}}, template: {metadata: {labels: {app: web}}, spec: {containers: [{name: a, image: a}]}}}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: ext-authz, namespace: authz}
spec: {selector: {matchLabels: {app: ext-authz}}, template: {metadata: {labels: {app: ext-authz}}, spec: {containers: [{name: a, image: a}]}}}
";
const PROVIDERS: &str = "extensionProviders:
- {name: http, envoyExtAuthzHttp: {service: ext-authz.authz.svc.cluster.local, port: 8000}}
- {name: grpc, envoyExtAuthzGrpc: {service: authz/ext-authz.authz.svc.cluster.local, port: 9000}}
- {name: elsewhere, envoyExtAuthzGrpc: {service: shop/ext-authz.authz.svc.cluster.local, port: 9000}}
- {name: short, envoyExtAuthzGrpc: {service: ext-authz, port: 9000}}
- {name: closed, envoyExtAuthzGrpc: {service: ext-authz.authz.svc.cluster.local, port: 9001}}
- {name: log, zipkin: {service: z, port: 1}}
- {name: twice, envoyExtAuthzGrpc: {service: ext-authz.authz.svc.cluster.local, port: 9000}}
- {name: twice, envoyExtAuthzGrpc: {service: ext-authz.authz.svc.cluster.local, port: 9000}}
";
const HTTP_PORT: u16 = 8080;
const TCP_PORT: u16 = 9000;

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec: {{{spec}}}\n"
    )
}

fn custom(provider: &str) -> String {
    policy(
        &format!("ask-{provider}"),
        &format!(
            "action: CUSTOM, provider: {{name: {provider}}}, rules: [{{to: [{{operation: {{paths: [/admin]}}}}]}}]"
        ),
    )
}

fn world(policies: &[String]) -> World {
    let world = World::new(&format!("{SHOP}{}", policies.concat()));
    let (config, _) = meltemi_api::parse_message("mesh", PROVIDERS);
    let mut world = world;
    world.mesh.set_config(config.unwrap());
    world
}

/// What becomes of a request: `allowed`, `denied by RULE`, or `asks CLUSTER`, the first that says something.
fn verdict(world: &World, port: u16, path: &str) -> String {
    let proxy = Proxy::of(world, "web");
    let facts = ConnectionFacts {
        destination: format!("10.244.0.1:{port}").parse().unwrap(),
        source: "10.244.9.9:40000".parse().unwrap(),
        direct_source: "10.244.9.9".parse().unwrap(),
        server_name: None,
        transport: TransportProtocol::Tls,
        application_protocols: &["istio"],
    };
    let chain = match_filter_chain(&proxy.capture["inbound"], &facts).unwrap();
    let headers = HeaderMap::new();
    let head = RequestHead {
        method: "GET",
        path,
        authority: "web",
        scheme: "http",
        headers: &headers,
    };
    let manager = match &chain.terminal {
        Terminal::Http(manager) => Some(manager),
        _ => None,
    };
    let request = RbacRequest {
        head: manager.map(|_| &head),
        destination: facts.destination,
        direct_remote: facts.direct_source,
        remote: facts.direct_source,
        requested_server_name: None,
        peer_uri_san: Some("spiffe://cluster.local/ns/a/sa/b"),
        verified: None,
    };
    let mut record = AuthorizationRecord::default();
    let mut judge = |config: &runtime::RbacFilter| {
        let (verdict, shadow) = rbac::evaluate(config, &request);
        record.note(config, verdict, shadow);
        let denied = (!verdict.is_allowed).then(|| verdict.policy.map_or("none", |name| name));
        let id = record.metadata("istio_ext_authz_shadow_effective_policy_id");
        (
            denied.map(|rule| format!("denied by {rule}")),
            id.map(str::to_owned),
        )
    };
    let mut selected = None;
    let asks =
        |wanted: &Option<runtime::PolicyMatcher>, selected: &Option<String>, cluster: &str| {
            let wanted = wanted.as_ref().unwrap();
            assert_eq!(&*wanted.key, "istio_ext_authz_shadow_effective_policy_id");
            wanted.matches(selected.as_deref()).then(|| {
                assert!(proxy.clusters.contains_key(cluster), "{cluster}");
                format!("asks {cluster}")
            })
        };
    for filter in &chain.filters {
        let said = match filter {
            NetworkFilter::Rbac(config) => {
                let (said, id) = judge(config);
                selected = id;
                said
            }
            NetworkFilter::ExtAuthz(config) => {
                asks(&config.enabled, &selected, &config.authorizer.cluster)
            }
            _ => None,
        };
        if let Some(said) = said {
            return said;
        }
    }
    for filter in manager
        .into_iter()
        .flat_map(|manager| &manager.http_filters)
    {
        let said = match &filter.kind {
            HttpFilterKind::Rbac(config) => {
                let (said, id) = judge(config);
                selected = id;
                said
            }
            HttpFilterKind::ExtAuthz(config) => {
                let kind = match config.authorizer {
                    Authorizer::Http(_) => "over HTTP ",
                    Authorizer::Grpc(_) => "",
                };
                asks(&config.enabled, &selected, config.authorizer.cluster())
                    .map(|said| said.replacen(' ', &format!(" {kind}"), 1))
            }
            _ => None,
        };
        if let Some(said) = said {
            return said;
        }
    }
    "allowed".to_owned()
}

const GRPC: &str = "asks outbound|9000||ext-authz.authz.svc.cluster.local";
const HTTP: &str = "asks over HTTP outbound|8000||ext-authz.authz.svc.cluster.local";

#[test]
fn what_the_rules_select_is_asked_about() {
    for (provider, asks) in [("grpc", GRPC), ("http", HTTP)] {
        let world = world(&[custom(provider)]);
        assert_eq!(verdict(&world, HTTP_PORT, "/admin"), asks);
        assert_eq!(verdict(&world, HTTP_PORT, "/open"), "allowed");
    }
}

/// Of a connection only what is below requests is known: the rest of a rule is left out, and more is asked about. An authorizer
/// over HTTP cannot be, and nothing that the rules select passes unasked.
#[test]
fn connections_are_asked_about_over_grpc_and_else_denied() {
    assert_eq!(verdict(&world(&[custom("grpc")]), TCP_PORT, ""), GRPC);
    assert_eq!(
        verdict(&world(&[custom("http")]), TCP_PORT, ""),
        "denied by istio-ext-authz-http-ns[shop]-policy[ask-http]-rule[0]-deny-due-to-bad-CUSTOM-action"
    );
    let of_requests = policy(
        "ask",
        "action: CUSTOM, provider: {name: http}, rules: [{to: [{operation: {ports: ['8080']}}]}]",
    );
    assert_eq!(verdict(&world(&[of_requests]), TCP_PORT, ""), "allowed");
}

#[test]
fn an_authorizer_that_cannot_be_asked_denies_what_it_is_for() {
    for provider in ["nobody", "elsewhere", "short", "closed", "log", "twice"] {
        let world = world(&[custom(provider)]);
        let denied = format!(
            "denied by istio-ext-authz-{provider}-ns[shop]-policy[ask-{provider}]-rule[0]-deny-due-to-bad-CUSTOM-action"
        );
        assert_eq!(verdict(&world, HTTP_PORT, "/admin"), denied);
        assert_eq!(verdict(&world, HTTP_PORT, "/open"), "allowed", "{provider}");
        assert!(verdict(&world, TCP_PORT, "").starts_with("denied"));
    }
}

#[test]
fn two_authorizers_for_one_workload_are_none() {
    let world = world(&[custom("grpc"), custom("http")]);
    let denied = verdict(&world, HTTP_PORT, "/admin");
    assert!(denied.starts_with("denied by istio-ext-authz-"), "{denied}");
    assert_eq!(verdict(&world, HTTP_PORT, "/open"), "allowed");
}

/// CUSTOM is asked before what denies, and that before what allows.
#[test]
fn an_authorizer_is_asked_first() {
    let others = [
        policy("deny", "action: DENY, rules: [{}]"),
        policy("allow", "rules: [{}]"),
        custom("grpc"),
    ];
    let world = world(&others);
    assert_eq!(verdict(&world, HTTP_PORT, "/admin"), GRPC);
    assert_eq!(
        verdict(&world, HTTP_PORT, "/open"),
        "denied by ns[shop]-policy[deny]-rule[0]"
    );
}

/// A Sidecar that imports nothing does not take the authorizer away; without its policy the cluster is not there.
#[test]
fn the_authorizer_is_called_whatever_is_imported() {
    let nothing = "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {name: default, namespace: shop}\n\
                   spec: {egress: [{hosts: [shop/none.example]}]}\n";
    let both = world(&[custom("grpc"), nothing.to_owned()]);
    assert_eq!(verdict(&both, HTTP_PORT, "/admin"), GRPC);
    let alone = Proxy::of(&world(&[nothing.to_owned()]), "web");
    assert!(!alone.clusters.keys().any(|name| name.contains("ext-authz")));
}

/// A gateway has the clusters of its routes only, and the authorizer's.
#[test]
fn a_gateway_can_ask_too() {
    let gateway = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: edge, namespace: shop}\n\
                   spec: {selector: {app: web}, servers: [{port: {number: 8080, name: http, protocol: HTTP}, hosts: ['*']}]}\n";
    let world = world(&[custom("grpc"), gateway.to_owned()]);
    let generated = crate::generate(
        &world.router("web", Flavour::Meltemi),
        &world.mesh.snapshot(),
    );
    let cluster = "outbound|9000||ext-authz.authz.svc.cluster.local";
    assert!(generated.clusters.contains_key(cluster));
    assert!(generated.endpoints.contains_key(cluster));
    let listener = crate::tests::support::to_json(&generated.listeners["0.0.0.0_8080"]);
    let text = listener.to_string();
    assert!(
        text.contains("envoy.filters.http.ext_authz") && text.contains(cluster),
        "{text}"
    );
}

/// A service that is not for the workload's namespace cannot be asked.
#[test]
fn an_authorizer_must_be_exported() {
    let mut private = world(&[custom("grpc")]);
    private.apply(
        "apiVersion: v1\nkind: Service\nmetadata: {name: ext-authz, namespace: authz, annotations: {networking.istio.io/exportTo: '.'}}\n\
         spec: {selector: {app: ext-authz}, ports: [{name: http, port: 8000}, {name: grpc, port: 9000}]}\n",
    );
    assert!(verdict(&private, HTTP_PORT, "/admin").starts_with("denied"));
}

/// A service that comes, and a provider that changes, reach whom they guard.
#[test]
fn changes_reach_who_is_guarded() {
    let (web, ext_authz) = (
        world(&[custom("grpc")]),
        "apiVersion: v1\nkind: Service\nmetadata: {name: ext-authz, namespace: authz}\n\
         spec: {selector: {app: ext-authz}, ports: [{name: http, port: 8000}, {name: grpc, port: 9001}]}\n",
    );
    let mut world = web;
    let mut shelf = crate::Shelf::default();
    let view = world.view("web", Flavour::Meltemi);
    let none = meltemi_model::ChangeSet::default();
    let snapshot = world.mesh.snapshot();
    let mut state = crate::ProxyState::new(view, &mut shelf.round(&snapshot, &none));
    let guards = |state: &crate::ProxyState| {
        let listener = &state.generated().listeners["virtualInbound"];
        let text = crate::tests::support::to_json(listener).to_string();
        text.contains("envoy.filters.http.ext_authz")
    };
    assert!(guards(&state));
    // Its port is another now.
    let changes = world.apply(ext_authz);
    let snapshot = world.mesh.snapshot();
    state.update(&mut shelf.round(&snapshot, &changes));
    assert!(!guards(&state));
    let (config, _) = meltemi_api::parse_message("mesh", &PROVIDERS.replace("9000", "9001"));
    let changes = world.mesh.set_config(config.unwrap());
    let snapshot = world.mesh.snapshot();
    state.update(&mut shelf.round(&snapshot, &changes));
    assert!(guards(&state));
}
