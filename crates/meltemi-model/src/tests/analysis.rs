use super::{mesh, shop};
use crate::{Mesh, SecretsOf, analyze};

/// `CODE kind namespace/name: field: message (hint) @line` of every finding.
fn findings(yaml: &str) -> Vec<String> {
    analyze(&mesh(&[&shop(), yaml].concat()))
        .into_iter()
        .map(|found| {
            let line = found.location.as_ref().map_or(0, |location| location.line);
            assert!(line > 0, "{found}");
            format!(
                "{} {}: {}: {} ({})",
                found.code,
                found.object.unwrap(),
                found.field,
                found.message,
                found.hint
            )
        })
        .collect()
}

#[test]
fn what_is_right_is_silent() {
    assert_eq!(findings(""), Vec::<String>::new());
}

#[test]
fn unknown_hosts_and_subsets_are_told_with_their_likely_meaning() {
    let yaml = "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: r, namespace: default}\n\
                spec: {host: reviews, subsets: [{name: v1, labels: {version: v1}}, {name: v9, labels: {version: v9}}]}\n---\n\
                apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: gone, namespace: default}\nspec: {host: review}\n---\n\
                apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: default}\n\
                spec: {hosts: [reviews], http: [{route: [{destination: {host: reviewz}, weight: 1}, {destination: {host: reviews, subset: v3}, weight: 1}]}]}\n";
    assert_eq!(
        findings(yaml),
        [
            "IST0174 DestinationRule default/gone: spec.host: the host review defined in the DestinationRule does not match any services in the mesh (did you mean \"reviews\"?)",
            "IST0173 DestinationRule default/r: spec.subsets[1]: the subset v9 defined in the DestinationRule does not select any pods (give the pods of reviews the labels version=v9, or remove the subset)",
            "IST0101 VirtualService default/v: spec.http[0].route[0].destination.host: referenced host not found: \"reviewz\" (did you mean \"reviews\"?)",
            "IST0101 VirtualService default/v: spec.http[0].route[1].destination.subset: referenced host+subset in destinationrule not found: \"reviews+v3\" (subsets of reviews: v1, v9)",
        ]
    );
}

#[test]
fn a_route_by_claims_needs_someone_who_verifies_them() {
    let gateway = "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {name: g, namespace: default}\n\
                   spec: {selector: {app: reviews}, servers: [{port: {number: 9080, name: http, protocol: HTTP}, hosts: ['*']}]}\n";
    let route = |gateways: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: v, namespace: default}}\n\
             spec: {{hosts: [a.example], gateways: {gateways}, http: [{{match: [{{headers: {{'@request.auth.claims.groups': {{exact: a}}}}}}], route: [{{destination: {{host: reviews}}}}]}}]}}\n"
        )
    };
    let policy = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: p, namespace: default}\n\
                  spec: {selector: {matchLabels: {app: reviews}}, jwtRules: [{issuer: i}]}\n";
    let field = "IST0149 VirtualService default/v: spec.http[0].match[0].headers[\"@request.auth.claims.groups\"]";
    let of = |yaml: &str| -> Vec<String> {
        let all = findings(yaml).into_iter();
        all.filter(|found| found.starts_with("IST0149")).collect()
    };
    assert_eq!(
        of(&[gateway, &route("[g]")].concat()),
        [format!(
            "{field}: the virtual service uses the JWT claim based routing (key: @request.auth.claims.groups) but found no request authentication for the gateway (default/g) in default (apply a RequestAuthentication for the gateway's pods in default)"
        )]
    );
    assert_eq!(
        of(&[gateway, &route("[g]"), policy].concat()),
        Vec::<String>::new()
    );
    assert_eq!(
        of(&route("[mesh]")),
        [format!(
            "{field}: the route depends on a claim (@request.auth.claims.groups), which is known at gateways only (bind the VirtualService to a Gateway: gateways)"
        )]
    );
}

#[test]
fn a_delegate_that_is_not_there_is_told() {
    let root = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: default}\n\
                spec: {hosts: [reviews], http: [{delegate: {name: part}}]}\n";
    let part = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: part, namespace: default}\n\
                spec: {http: [{route: [{destination: {host: reviews}}]}]}\n";
    assert_eq!(
        findings(root),
        [
            "IST0101 VirtualService default/v: spec.http[0].delegate: referenced delegate not found: \"default/part\" (name a VirtualService without hosts that is exported to this namespace)"
        ]
    );
    assert_eq!(findings(&[root, part].concat()), Vec::<String>::new());
    assert_eq!(
        findings(part),
        [
            "MEL0222 VirtualService default/part: spec.hosts: has no hosts, and no VirtualService leads to it: it has no effect (name its hosts, or let another VirtualService delegate to it)"
        ]
    );
}

#[test]
fn sidecars_that_compete_or_import_nothing_are_told() {
    let sidecar = |name: &str, created: u8, spec: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
             metadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\nspec: {spec}\n"
        )
    };
    let all = "{egress: [{hosts: ['./*']}]}";
    let of_reviews = "{workloadSelector: {labels: {app: reviews}}, egress: [{hosts: ['./*']}]}";
    let of_v1 = "{workloadSelector: {labels: {version: v1}}, egress: [{hosts: ['./*']}]}";
    assert_eq!(
        findings(&[sidecar("a", 1, all), sidecar("b", 1, of_reviews)].concat()),
        Vec::<String>::new()
    );
    assert_eq!(
        findings(&[sidecar("b", 1, all), sidecar("a", 2, all)].concat()),
        [
            "IST0111 Sidecar default/b: spec: the Sidecars b, a in namespace default have no workload selector (this one, the oldest, counts)",
            "IST0111 Sidecar default/a: spec: the Sidecars b, a in namespace default have no workload selector (only the oldest, default/b, counts: merge them into one)",
        ]
    );
    assert_eq!(
        findings(&[sidecar("a", 1, of_v1), sidecar("b", 2, of_reviews)].concat()),
        [
            "IST0110 Sidecar default/a: spec.workloadSelector: the Sidecars a, b in namespace default select the same workload pods (this one, the oldest, counts)",
            "IST0110 Sidecar default/b: spec.workloadSelector: the Sidecars a, b in namespace default select the same workload pods (only the oldest, default/a, counts: merge them into one)",
        ]
    );
    let vain = "{workloadSelector: {labels: {app: nobody}}, egress: [{port: {number: 9080, protocol: TCP, name: a}, \
                hosts: ['./reviews.default.svc.cluster.local']}, {port: {number: 1, protocol: TCP, name: b}, \
                hosts: ['*/legacy.default.svc.cluster.local']}, {hosts: ['*/review.default.svc.cluster.local', '~/*', '*/*']}]}";
    assert_eq!(
        findings(&sidecar("a", 1, vain)),
        [
            "IST0101 Sidecar default/a: spec.workloadSelector: referenced selector not found: \"app=nobody\" (no pod of default has these labels)",
            "MEL0221 Sidecar default/a: spec.egress[0].port.protocol: TCP is not what port 9080 of reviews.default.svc.cluster.local is declared to speak, which counts (change the port's name or appProtocol in the Service, or leave the protocol out)",
            "MEL0220 Sidecar default/a: spec.egress[1].port.number: legacy.default.svc.cluster.local has no port 1: the host imports nothing (its ports: 5432)",
            "MEL0220 Sidecar default/a: spec.egress[2].hosts[0]: no service is called review.default.svc.cluster.local: the host imports nothing (did you mean \"reviews.default.svc.cluster.local\"?)",
        ]
    );
}

#[test]
fn egress_hosts_that_import_nothing_are_told_by_what_imports() {
    let outside = "---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {name: all, namespace: default}\n\
                   spec: {hosts: ['*.example.com'], ports: [{number: 80, name: http, protocol: HTTP}]}\n";
    let sidecar = |namespace: &str, hosts: &str| {
        format!(
            "{outside}---\napiVersion: networking.istio.io/v1\nkind: Sidecar\n\
             metadata: {{name: a, namespace: {namespace}}}\nspec: {{egress: [{{hosts: [{hosts}]}}]}}\n"
        )
    };
    let wrong = "prod/reviews.default.svc.cluster.local, '*/api.example.com', './reviews.default.svc.cluster.local'";
    assert_eq!(
        findings(&sidecar("prod", wrong)),
        [
            "MEL0220 Sidecar prod/a: spec.egress[0].hosts[0]: no service of prod is called reviews.default.svc.cluster.local: the host imports nothing (write default/reviews.default.svc.cluster.local)",
            "MEL0220 Sidecar prod/a: spec.egress[0].hosts[1]: no service is called api.example.com: the host imports nothing (write default/*.example.com)",
            "MEL0220 Sidecar prod/a: spec.egress[0].hosts[2]: no service of the workload's namespace is called reviews.default.svc.cluster.local: the host imports nothing (write default/reviews.default.svc.cluster.local)",
        ]
    );
    let right = "default/reviews.default.svc.cluster.local, '*/*.example.com', './reviews.default.svc.cluster.local'";
    assert_eq!(
        findings(&sidecar("istio-system", right)),
        Vec::<String>::new()
    );
}

#[test]
fn traffic_distribution_of_a_service_is_told_as_ignored() {
    let near = "---\napiVersion: v1\nkind: Service\nmetadata: {name: near, namespace: default}\n\
                spec: {selector: {app: reviews}, trafficDistribution: PreferClose, ports: [{name: http, port: 80}]}\n";
    assert_eq!(
        findings(near),
        [
            "MEL0005 Service default/near: spec.trafficDistribution: not supported yet, ignored: calls from the mesh go to all endpoints alike (set outlierDetection in a DestinationRule of the host: near endpoints then come first)"
        ]
    );
}

#[test]
fn a_port_that_the_service_does_not_have_is_told() {
    let yaml = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: default}\n\
                spec: {hosts: [reviews], http: [{route: [{destination: {host: reviews, port: {number: 99}}}]}]}\n";
    assert_eq!(
        findings(yaml),
        [
            "MEL0206 VirtualService default/v: spec.http[0].route[0].destination.port.number: the destination \"reviews\" has no port 99: requests that are routed there fail (its ports: 9080)",
        ]
    );
}

#[test]
fn a_tls_mode_that_the_workloads_refuse_is_told_at_both_objects() {
    let rule = |host: &str, policy: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {host}, namespace: default}}\n\
             spec: {{host: {host}, trafficPolicy: {policy}, subsets: [{{name: v1, labels: {{}}}}]}}\n"
        )
    };
    let policy = |spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p, namespace: default}}\nspec: {spec}\n"
        )
    };
    let mutual = rule("reviews", "{tls: {mode: ISTIO_MUTUAL}}");
    assert_eq!(
        findings(&[mutual.as_str(), &policy("{mtls: {mode: DISABLE}}")].concat()),
        [
            "MEL0207 DestinationRule default/reviews: spec.trafficPolicy.tls.mode: calls to reviews.default.svc.cluster.local:9080 fail: the rule says ISTIO_MUTUAL, the PeerAuthentication default/p says DISABLE (leave out the rule's tls settings: mutual TLS is then used wherever the workload takes it; or change the policy)",
            "MEL0207 PeerAuthentication default/p: spec.mtls.mode: calls to reviews.default.svc.cluster.local:9080 fail: the policy says DISABLE, the DestinationRule default/reviews says ISTIO_MUTUAL (leave out the rule's tls settings, or change the mode)",
        ]
    );
    let plain = rule(
        "reviews",
        "{portLevelSettings: [{port: {number: 9080}, tls: {mode: DISABLE}}]}",
    );
    let strict_port =
        "{selector: {matchLabels: {app: reviews}}, portLevelMtls: {8080: {mode: STRICT}}}";
    let found = findings(&[plain.as_str(), &policy(strict_port)].concat());
    let fields = [
        "DestinationRule default/reviews: spec.trafficPolicy.portLevelSettings[0].tls.mode:",
        "PeerAuthentication default/p: spec.portLevelMtls.8080.mode:",
    ];
    assert_eq!(found.len(), fields.len(), "{found:?}");
    for (found, field) in found.iter().zip(fields) {
        assert!(found.contains(field), "{found}");
    }
    let [without_sidecar] = &findings(&rule("legacy", "{tls: {mode: ISTIO_MUTUAL}}"))[..] else {
        panic!("one finding")
    };
    assert!(without_sidecar.contains("a pod behind it has no sidecar"));
    for fitting in [
        [mutual.as_str(), &policy("{mtls: {mode: STRICT}}")].concat(),
        [plain.as_str(), &policy("{mtls: {mode: PERMISSIVE}}")].concat(),
        rule("legacy", "{tls: {mode: DISABLE}}"),
    ] {
        assert_eq!(findings(&fitting), Vec::<String>::new(), "{fitting}");
    }
}

#[test]
fn a_refused_tls_mode_is_told_before_there_are_pods() {
    let yaml = "---\napiVersion: v1\nkind: Service\nmetadata: {name: new, namespace: default}\nspec: {clusterIP: 10.96.0.7, selector: {app: new}, ports: [{name: http, port: 80}]}\n\
                ---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: new, namespace: default}\n\
                spec: {selector: {matchLabels: {app: new}}, template: {metadata: {labels: {app: new}}, spec: {containers: [{name: a, image: a}]}}}\n\
                ---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\nspec: {mtls: {mode: STRICT}}\n\
                ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: new, namespace: default}\nspec: {host: new, trafficPolicy: {tls: {mode: SIMPLE}}}\n";
    assert_eq!(findings(yaml).len(), 2);
}

#[test]
fn what_an_older_destination_rule_says_is_not_said_again() {
    let rule = |name: &str, created: u8, version: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\n\
             spec: {{host: reviews, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}, subsets: [{{name: v1, labels: {{version: {version}}}}}]}}\n"
        )
    };
    assert_eq!(
        findings(&[rule("young", 2, "v1"), rule("old", 1, "v1")].concat()),
        [
            "MEL0203 DestinationRule default/young: spec.subsets[0]: has no effect: default/old is older and has a subset v1 for the host reviews (merge the two rules into one)",
            "MEL0203 DestinationRule default/young: spec.trafficPolicy: has no effect: default/old is older and has a traffic policy for the host reviews (merge the two rules into one)",
        ]
    );
}

#[test]
fn objects_that_compete_name_each_other() {
    let routed = |name: &str, created: u8| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\n\
             spec: {{hosts: [reviews], http: [{{route: [{{destination: {{host: reviews}}}}]}}]}}\n"
        )
    };
    let policy = |name: &str, created: u8| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: default, creationTimestamp: '2026-01-0{created}T00:00:00Z'}}\n\
             spec: {{mtls: {{mode: STRICT}}}}\n"
        )
    };
    let yaml = [
        routed("b", 1),
        routed("a", 2),
        policy("wide", 1),
        policy("late", 2),
    ]
    .concat();
    let both = "the VirtualServices default/b, default/a associated with mesh gateway define the same host reviews.default.svc.cluster.local";
    assert_eq!(
        findings(&yaml),
        [
            format!("IST0109 VirtualService default/b: spec.hosts: {both} (this one, the oldest, counts)"),
            format!("IST0109 VirtualService default/a: spec.hosts: {both} (only the oldest, default/b, counts: merge them into one)"),
            "MEL0201 PeerAuthentication default/late: spec: has no effect: default/wide also applies to all workloads of the namespace and is older (delete one of them, or give one a selector)".to_owned(),
        ]
    );
}

#[test]
fn a_selector_that_finds_nothing_is_told() {
    let service = |name: &str, app: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{selector: {{app: {app}}}, ports: [{{port: 80, name: http}}]}}\n"
        )
    };
    // What will make pods counts as well as the pods.
    let soon = "---\napiVersion: apps/v1\nkind: Deployment\nmetadata: {name: soon, namespace: default}\n\
                spec: {selector: {matchLabels: {app: soon}}, template: {metadata: {labels: {app: soon, version: v1}}, \
                spec: {containers: [{name: c, image: i}]}}}\n---\n\
                apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: soon, namespace: default}\n\
                spec: {host: soon, subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]}\n";
    let yaml = [
        service("a", "soon"),
        service("b", "revews"),
        service("soon", "soon"),
        service("z", "nothing"),
        soon.to_owned(),
    ]
    .concat();
    assert_eq!(
        findings(&yaml),
        [
            "MEL0204 Service default/b: spec.selector: the selector finds no pod, and no workload that makes one (did you mean app=reviews?)",
            "MEL0204 Service default/z: spec.selector: the selector finds no pod, and no workload that makes one (give the pods of default the labels app=nothing, or change the selector)",
            "IST0173 DestinationRule default/soon: spec.subsets[1]: the subset v2 defined in the DestinationRule does not select any pods (give the pods of soon the labels version=v2, or remove the subset)",
        ]
    );
}

#[test]
fn policies_for_the_same_workloads_and_unknown_gateways_are_told() {
    let policy = |name: &str, app: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{selector: {{matchLabels: {{app: {app}}}}}, mtls: {{mode: STRICT}}}}\n"
        )
    };
    let routed = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: default}\n\
                  spec: {hosts: [reviews], gateways: [mesh, edge], http: [{route: [{destination: {host: reviews}}]}]}\n";
    let yaml = [
        policy("a", "reviews"),
        policy("b", "reviews"),
        policy("c", "legacy"),
        routed.to_owned(),
    ]
    .concat();
    assert_eq!(
        findings(&yaml),
        [
            "IST0101 VirtualService default/v: spec.gateways[1]: referenced gateway not found: \"edge\" (create the Gateway default/edge; the gateway \"mesh\" stands for calls between pods)",
            "MEL0201 PeerAuthentication default/b: spec.selector: has no effect: default/a also applies to the workloads app=reviews and is older (delete one of them, or merge the two)",
        ]
    );
}

#[test]
fn an_external_name_that_nobody_knows_is_told() {
    let service = |name: &str, target: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{type: ExternalName, externalName: {target}}}\n"
        )
    };
    let host = "reviews.default.svc.cluster.local";
    let yaml = [
        service("known", host),
        service("alias", "known.default.svc.cluster.local"),
    ]
    .concat();
    assert_eq!(findings(&yaml), Vec::<String>::new());
    assert_eq!(
        findings(&service("out", "db.example.com")),
        [
            "MEL0205 Service default/out: spec.externalName: \"db.example.com\" is no service of the mesh: calls are let through as they are, or refused under REGISTRY_ONLY (define db.example.com with a ServiceEntry to route calls to it)"
        ]
    );
}

#[test]
fn gateways_that_are_not_served_as_written_are_told() {
    let gateway = |name: &str, selector: &str, servers: &str| {
        format!(
            "---\napiVersion: networking.istio.io/v1\nkind: Gateway\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{selector: {{{selector}}}, servers: [{servers}]}}\n"
        )
    };
    let http = "{port: {number: 80, name: http, protocol: HTTP}, hosts: [a.com]}";
    let tls = |name: &str, host: &str, mode: &str| {
        format!(
            "{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [{host}], tls: {{mode: {mode}, credentialName: {name}}}}}"
        )
    };
    let service = "---\napiVersion: v1\nkind: Service\nmetadata: {name: ingress, namespace: edge}\n\
                   spec: {clusterIP: 10.96.0.8, selector: {istio: ingress}, ports: [{name: http, port: 80, targetPort: 8080}, {name: https, port: 443}]}\n\
                   ---\napiVersion: v1\nkind: Pod\nmetadata: {name: ingress, namespace: edge, labels: {istio: ingress}}\n\
                   spec: {containers: [{name: a, image: a}]}\nstatus: {phase: Running, podIP: 10.244.0.20}\n\
                   ---\napiVersion: v1\nkind: Secret\nmetadata: {name: whole, namespace: edge}\ndata: {tls.crt: YQ==, tls.key: YQ==, ca.crt: YQ==}\n\
                   ---\napiVersion: v1\nkind: Secret\nmetadata: {name: bare, namespace: edge}\ndata: {cert: YQ==, key: YQ==}\n";
    let ours = "istio: ingress";
    let routed = "---\napiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v, namespace: default}\n\
                  spec: {hosts: [a.com, b.com], gateways: [good], http: [{route: [{destination: {host: reviews}}]}]}\n";
    let good = [
        service.to_owned(),
        gateway("good", ours, http),
        gateway("tls", ours, &tls("whole", "a.com", "MUTUAL")),
        routed.replace(", b.com", ""),
    ];
    assert_eq!(findings(&good.concat()), Vec::<String>::new());
    let bad = [
        service.to_owned(),
        gateway("good", ours, http),
        gateway("tls", ours, &tls("whole", "a.com", "SIMPLE")),
        gateway("tls-again", ours, &tls("whole", "a.com", "SIMPLE")),
        gateway("bare", ours, &tls("bare", "b.com", "MUTUAL")),
        gateway("gone", ours, &tls("gone", "c.com", "SIMPLE")),
        gateway("lost", "istio: nobody", http),
        gateway(
            "far",
            ours,
            "{port: {number: 9000, name: tcp, protocol: TCP}, hosts: ['*']}",
        ),
        routed.to_owned(),
    ];
    let found = findings(&bad.concat());
    let starts: Vec<String> = found
        .iter()
        .map(|line| line.split(" (").next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(
        starts,
        [
            "IST0132 VirtualService default/v: spec.hosts[1]: one or more host \"b.com\" defined in VirtualService default/v not found in Gateway default/good",
            "IST0161 Gateway default/bare: spec.servers[0].tls.credentialName: the credential referenced by the Gateway bare in namespace edge is invalid: the Secret bare-cacert has no authority to verify clients by",
            "IST0162 Gateway default/far: spec.servers[0].port.number: the gateway is listening on a target port",
            "IST0101 Gateway default/gone: spec.servers[0].tls.credentialName: referenced credentialName not found: \"edge/gone\"",
            "IST0101 Gateway default/lost: spec.selector: referenced selector not found: \"istio=nobody\"",
            "IST0145 Gateway default/tls-again: spec.servers[0]: conflict with gateways default/tls",
        ]
    );
    let mut mesh = mesh(&[&*shop(), &bad[0], &bad[5]].concat());
    let codes = |mesh: &Mesh| -> Vec<String> {
        let found = analyze(mesh).into_iter();
        found
            .map(|diagnostic| diagnostic.code.to_string())
            .collect()
    };
    assert_eq!(codes(&mesh), ["IST0101"]);
    mesh.set_secrets_of(SecretsOf::Only(["default".to_owned()].into()));
    assert_eq!(codes(&mesh), ["MEL0211"]);
    mesh.set_secrets_of(SecretsOf::Unseen);
    assert!(codes(&mesh).is_empty());
}

#[test]
fn authorization_policies_that_reach_nobody_or_ask_in_vain() {
    let policy = |spec: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {spec}\n"
        )
    };
    let strict = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    let off = strict.replace("STRICT", "DISABLE");
    let of = |policies: &[&str]| findings(&policies.concat());
    let check = |spec: &str, more: &str, expected: &[&str]| {
        let found = of(&[&policy(spec), more]);
        assert_eq!(found.len(), expected.len(), "{spec}: {found:#?}");
        for (found, expected) in found.iter().zip(expected) {
            assert!(found.starts_with(expected), "{found}");
        }
    };
    check("{rules: [{}]}", "", &[]);
    check("{selector: {matchLabels: {app: reviews}}}", "", &[]);
    check(
        "{selector: {matchLabels: {app: review}}}",
        "",
        &[
            "IST0127 AuthorizationPolicy default/p: spec.selector.matchLabels: no matching workloads for this resource with the following labels: app=review",
        ],
    );
    check(
        "{targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: edge}]}",
        "",
        &["IST0127 AuthorizationPolicy default/p: spec.targetRefs[0].name: no matching workloads"],
    );
    let by_port =
        |port: &str| format!("{{rules: [{{to: [{{operation: {{ports: ['{port}']}}}}]}}]}}");
    check(&by_port("8080"), "", &[]);
    check(&by_port("1234"), "", &[]);
    check(
        &by_port("9080"),
        "",
        &[
            "MEL0210 AuthorizationPolicy default/p: spec.rules[0].to[0].operation.ports[0]: 9080 is a port of the Service reviews, which calls reach at the workload's port 8080",
        ],
    );
    let by_namespace = |action: &str, namespace: &str| {
        format!("{{{action}rules: [{{from: [{{source: {{namespaces: [{namespace}]}}}}]}}]}}")
    };
    check(&by_namespace("", "default, 'def*', '*'"), "", &[]);
    check(
        &by_namespace("", "defalt"),
        "",
        &[
            "IST0101 AuthorizationPolicy default/p: spec.rules[0].from[0].source.namespaces[0]: referenced namespace not found: \"defalt\" (did you mean \"default\"?)",
        ],
    );
    check(
        &by_namespace("", "default"),
        &off,
        &[
            "MEL0208 AuthorizationPolicy default/p: spec.rules[0].from[0].source.namespaces: the workloads accept no mutual TLS",
        ],
    );
    check(
        &by_namespace("action: DENY, ", "default"),
        "",
        &[
            "MEL0208 AuthorizationPolicy default/p: spec.rules[0].from[0].source.namespaces: the workloads accept plain text too",
        ],
    );
    check(&by_namespace("action: DENY, ", "default"), strict, &[]);
    check(
        "{rules: [{when: [{key: source.principal, values: [a]}]}]}",
        &off,
        &["MEL0208 AuthorizationPolicy default/p: spec.rules[0].when[0].key:"],
    );
    // Whoever is unknown is none of those that are named.
    check(
        "{rules: [{from: [{source: {notNamespaces: [a]}}]}]}",
        &off,
        &[],
    );
    for (rule, field) in [
        (
            "from: [{source: {requestPrincipals: ['*']}}]",
            "from[0].source.requestPrincipals",
        ),
        (
            "from: [{source: {notRequestPrincipals: ['*']}}]",
            "from[0].source.notRequestPrincipals",
        ),
        (
            "when: [{key: 'request.auth.claims[a]', values: [b]}]",
            "when[0].key",
        ),
    ] {
        let expected = format!(
            "MEL0209 AuthorizationPolicy default/p: spec.rules[0].{field}: no RequestAuthentication"
        );
        let policy = format!("{{rules: [{{{rule}}}]}}");
        check(&policy, "", &[&expected]);
        let verified = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: r, namespace: default}\n\
                        spec: {jwtRules: [{issuer: a, jwks: '{\"keys\": [{\"kty\": \"EC\", \"crv\": \"P-256\", \
                        \"x\": \"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4\", \"y\": \"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM\"}]}'}]}\n";
        check(&policy, verified, &[]);
    }
}

#[test]
fn custom_policies_whose_authorizer_cannot_be_asked() {
    use meltemi_api::istio::MeshConfig;
    let providers = "extensionProviders:\n\
        - {name: good, envoyExtAuthzGrpc: {service: reviews.default.svc.cluster.local, port: 9080}}\n\
        - {name: http, envoyExtAuthzHttp: {service: default/reviews.default.svc.cluster.local, port: 9080}}\n\
        - {name: short, envoyExtAuthzGrpc: {service: reviews, port: 9080}}\n\
        - {name: other, envoyExtAuthzGrpc: {service: shop/reviews.default.svc.cluster.local, port: 9080}}\n\
        - {name: port, envoyExtAuthzGrpc: {service: reviews.default.svc.cluster.local, port: 1}}\n";
    let policy = |name: &str, provider: &str, rules: &str| {
        format!(
            "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: default}}\n\
             spec: {{action: CUSTOM, provider: {{name: {provider}}}, rules: {rules}}}\n"
        )
    };
    let check_in = |shop: &str, policies: &[String]| -> Vec<String> {
        let mut mesh = mesh(&[shop, &policies.concat()].concat());
        let (config, _) = meltemi_api::parse_message::<MeshConfig>("mesh", providers);
        mesh.set_config(config.unwrap());
        analyze(&mesh)
            .iter()
            .map(|found| {
                format!(
                    "{} {}: {} ({})",
                    found.code, found.field, found.message, found.hint
                )
            })
            .collect()
    };
    let check = |policies: &[String], expected: &[&str]| {
        let found = check_in(&shop(), policies);
        let expected: Vec<String> = expected
            .iter()
            .map(|text| text.replacen(' ', " spec.provider.name: ", 1))
            .collect();
        assert_eq!(found, expected);
    };
    check(&[policy("p", "good", "[{}]")], &[]);
    check(
        &[policy("p", "goood", "[{}]")],
        &[
            "MEL0212 meshConfig.extensionProviders has no provider \"goood\": whatever the rules match is denied (did you mean \"good\"?)",
        ],
    );
    check(
        &[policy("p", "short", "[{}]")],
        &[
            "MEL0212 the provider \"short\" of meshConfig: no service has the host \"reviews\": whatever the rules match is denied (did you mean \"reviews.default.svc.cluster.local\"?)",
        ],
    );
    check(
        &[policy("p", "other", "[{}]")],
        &[
            "MEL0212 the provider \"other\" of meshConfig: \"reviews.default.svc.cluster.local\" is no service of the namespace shop: whatever the rules match is denied (write default/reviews.default.svc.cluster.local)",
        ],
    );
    check(
        &[policy("p", "port", "[{}]")],
        &[
            "MEL0212 the provider \"port\" of meshConfig: 1 is no port of reviews.default.svc.cluster.local: whatever the rules match is denied (its ports: 9080)",
        ],
    );
    check(
        &[policy("p", "http", "[{}]")],
        &[
            "MEL0214 an authorizer over HTTP cannot be asked about connections of port 5432 of legacy.default.svc.cluster.local: those that the rules match are denied (name a provider with envoyExtAuthzGrpc, or restrict the rules to the ports of requests (operation.ports))",
        ],
    );
    let private = shop().replacen(
        "metadata: {name: reviews, namespace: default}",
        "metadata: {name: reviews, namespace: default, annotations: {networking.istio.io/exportTo: other}}",
        1,
    );
    let hidden = check_in(&private, &[policy("p", "good", "[{}]")]);
    assert!(
        hidden[0].starts_with("MEL0212 spec.provider.name: the provider \"good\" of meshConfig: reviews.default.svc.cluster.local is not exported to the namespace default"),
        "{hidden:?}"
    );
    let several = "a workload asks one provider, and policies for one of default name another, too";
    let hint = "(let all CUSTOM policies of a workload name one provider)";
    let one_port = "[{to: [{operation: {ports: ['8080']}}]}]";
    check(
        &[policy("a", "good", "[{}]"), policy("b", "http", one_port)],
        &[
            &format!("MEL0213 {several} (http): whatever the rules match is denied {hint}"),
            &format!("MEL0213 {several} (good): whatever the rules match is denied {hint}"),
        ],
    );
}
