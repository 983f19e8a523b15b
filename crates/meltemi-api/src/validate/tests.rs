use crate::parse;

/// The fields and messages of a spec's errors and warnings.
fn problems(kind: &str, spec: &str) -> Vec<String> {
    let group = match kind {
        "PeerAuthentication" | "RequestAuthentication" | "AuthorizationPolicy" => {
            "security.istio.io/v1"
        }
        "Deployment" | "StatefulSet" => "apps/v1",
        "Service" => "v1",
        _ => "networking.istio.io/v1",
    };
    let text = format!("apiVersion: {group}\nkind: {kind}\nmetadata: {{name: x}}\nspec: {spec}\n");
    parse("t", &text, "default")
        .diagnostics
        .iter()
        .map(|d| {
            format!(
                "{}: {}",
                d.field.as_str().trim_start_matches("spec."),
                d.message
            )
        })
        .collect()
}

fn check(kind: &str, spec: &str, expected: &[&str]) {
    assert_eq!(problems(kind, spec), expected, "{kind} {spec}");
}

#[test]
fn peer_authentication() {
    let kind = "PeerAuthentication";
    check(kind, "{mtls: {mode: STRICT}}", &[]);
    check(
        kind,
        "{selector: {matchLabels: {app: a}}, portLevelMtls: {8080: {mode: DISABLE}}}",
        &[],
    );
    check(
        kind,
        "{portLevelMtls: {8080: {mode: DISABLE}}}",
        &["portLevelMtls: port settings need a selector"],
    );
    check(
        kind,
        "{selector: {matchLabels: {app: 'a*'}}, portLevelMtls: {70000: {mode: STRICT}}}",
        &["portLevelMtls[\"70000\"]: \"70000\" is not a number in range"],
    );
    check(
        kind,
        "{selector: {matchLabels: {app: 'a*'}}}",
        &["selector.matchLabels[\"app\"]: a selector compares for equality, it has no wildcards"],
    );
}

/// What is said of one rule of an ALLOW policy.
fn check_rule(rule: &str, expected: &[&str]) {
    let expected: Vec<String> = expected
        .iter()
        .map(|text| format!("rules[0]{text}"))
        .collect();
    let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
    let spec = format!("{{rules: [{rule}]}}");
    check("AuthorizationPolicy", &spec, &expected);
}

#[test]
fn authorization_policy() {
    let kind = "AuthorizationPolicy";
    check(kind, "{}", &[]);
    check(kind, "{rules: [{}]}", &[]);
    check(kind, "{action: AUDIT, rules: [{}]}", &[]);
    for action in ["DENY", "CUSTOM"] {
        let expected =
            format!("rules: {action} without rules matches nothing, so that it does nothing");
        check(kind, &format!("{{action: {action}}}"), &[&expected]);
    }
    check(
        kind,
        "{action: CUSTOM, rules: [{}]}",
        &["provider.name: CUSTOM needs the name of a provider"],
    );
    check(
        kind,
        "{action: DENY, provider: {name: x}, rules: [{}]}",
        &["provider: DENY asks no provider"],
    );
    check(kind, "{action: ALOW}", &["action: unknown value \"ALOW\""]);
    check(
        kind,
        "{selector: {matchLabels: {app: 'a*'}}}",
        &["selector.matchLabels[\"app\"]: a selector compares for equality, it has no wildcards"],
    );
    let gateway = "{group: gateway.networking.k8s.io, kind: Gateway, name: edge}";
    check(kind, &format!("{{targetRefs: [{gateway}]}}"), &[]);
    check(
        kind,
        &format!("{{selector: {{}}, targetRef: {gateway}}}"),
        &["spec: only one of selector, targetRef and targetRefs can be set"],
    );
    check(
        kind,
        "{targetRefs: [{kind: Service, name: web}, {kind: Gateway, name: a, namespace: b}]}",
        &[
            "targetRefs[0].kind: no proxy enforces a policy for a Service: waypoints are not supported yet",
            "targetRefs[1].kind: no proxy enforces a policy for a Gateway: waypoints are not supported yet",
            "targetRefs[1].namespace: a policy is for objects of its own namespace",
        ],
    );
    check(
        kind,
        "{targetRefs: [{}]}",
        &[
            "targetRefs[0].kind: a reference needs a kind",
            "targetRefs[0].name: a reference needs a name",
        ],
    );
    check(
        kind,
        "{action: CUSTOM, provider: {name: x}, rules: [{from: [{source: {namespaces: [a]}}, {source: {ipBlocks: [10.0.0.1]}}], when: [{key: source.principal, values: [a]}]}]}",
        &[
            "rules[0].from[0].source: CUSTOM knows callers by their address only",
            "rules[0].when[0].key: CUSTOM knows callers by their address only",
        ],
    );
}

#[test]
fn authorization_policy_sources() {
    let all = "{principals: [a/ns/b/sa/c, '*'], requestPrincipals: ['*'], namespaces: [a, 'a*', '*-b', '*'], trustDomains: ['*.x'], ipBlocks: [10.0.0.1, 10.0.0.0/8, '::1/64'], remoteIpBlocks: ['::1']}";
    check_rule(&format!("{{from: [{{source: {all}}}]}}"), &[]);
    check_rule("{from: [{source: {serviceAccounts: [a, b/c.d]}}]}", &[]);
    check_rule(
        "{from: []}",
        &[".from: a list that is written is not empty: from would match everything"],
    );
    check_rule("{from: [{}]}", &[".from[0].source: a source is required"]);
    check_rule(
        "{from: [{source: {}}]}",
        &[".from[0].source: a source says something of the caller"],
    );
    check_rule(
        "{from: [{source: {serviceAccounts: ['a*', b/c/d, ''], namespaces: [a]}}]}",
        &[
            ".from[0].source: serviceAccounts stand without namespaces and principals",
            ".from[0].source.serviceAccounts[0]: \"a*\" is no service account",
            ".from[0].source.serviceAccounts[1]: \"b/c/d\" is no service account",
            ".from[0].source.serviceAccounts[2]: a value must not be empty",
        ],
    );
    check_rule(
        "{from: [{source: {principals: ['spiffe://a/ns/b/sa/c', 'a*c'], notNamespaces: [A, a*c, '']}}]}",
        &[
            ".from[0].source.principals[0]: a principal is written without spiffe://",
            ".from[0].source.principals[1]: a * inside of \"a*c\" is compared as it stands",
            ".from[0].source.notNamespaces[0]: \"A\" can be no namespace",
            ".from[0].source.notNamespaces[1]: \"a*c\" can be no namespace",
            ".from[0].source.notNamespaces[2]: a value must not be empty",
        ],
    );
    check_rule(
        "{from: [{source: {ipBlocks: [10.0.0.0/33, a, 10.0.0.1/, '::/129'], notRemoteIpBlocks: [10.0.0.256]}}]}",
        &[
            ".from[0].source.ipBlocks[0]: \"10.0.0.0/33\" is no address and no range of addresses",
            ".from[0].source.ipBlocks[1]: \"a\" is no address and no range of addresses",
            ".from[0].source.ipBlocks[2]: \"10.0.0.1/\" is no address and no range of addresses",
            ".from[0].source.ipBlocks[3]: \"::/129\" is no address and no range of addresses",
            ".from[0].source.notRemoteIpBlocks[0]: \"10.0.0.256\" is no address and no range of addresses",
        ],
    );
    check_rule(
        "{from: [{source: {principal: [a]}}]}",
        &[
            ".from[0].source: a source says something of the caller",
            ".from[0].source.principal: unknown field \"principal\"",
        ],
    );
}

#[test]
fn authorization_policy_operations() {
    check_rule(
        "{to: [{operation: {hosts: [a], methods: [GET, '*'], paths: [/a, '*', '/{*}/b/{**}'], ports: ['80']}}]}",
        &[],
    );
    check_rule(
        "{to: [{}]}",
        &[".to[0].operation: an operation is required"],
    );
    check_rule(
        "{to: [{operation: {}}]}",
        &[".to[0].operation: an operation says something of the request"],
    );
    check_rule(
        "{to: []}",
        &[".to: a list that is written is not empty: to would match everything"],
    );
    check_rule(
        "{to: [{operation: {ports: ['70000', http, '-1', ''], methods: [get, 'G*T'], paths: ['/a?b', a, '/a*b', '/{x}/{*}'], notHosts: ['']}}]}",
        &[
            ".to[0].operation.ports[0]: \"70000\" is no port",
            ".to[0].operation.ports[1]: \"http\" is no port",
            ".to[0].operation.ports[2]: \"-1\" is no port",
            ".to[0].operation.ports[3]: a value must not be empty",
            ".to[0].operation.methods[0]: \"get\" matches no usual request: methods are upper-case",
            ".to[0].operation.methods[1]: a * inside of \"G*T\" is compared as it stands",
            ".to[0].operation.paths[0]: \"/a?b\" matches no usual request: a path is compared without its query",
            ".to[0].operation.paths[1]: \"a\" matches no usual request: a path begins with a slash",
            ".to[0].operation.paths[2]: \"/a*b\" matches no usual request: a * inside of a path is compared as it stands",
            ".to[0].operation.paths[3]: a template has no other braces, no * of its own, no query and no spaces",
            ".to[0].operation.notHosts[0]: a value must not be empty",
        ],
    );
}

#[test]
fn authorization_policy_conditions() {
    let of = |condition: &str, expected: &[&str]| {
        let expected: Vec<String> = expected
            .iter()
            .map(|text| format!(".when[0]{text}"))
            .collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check_rule(&format!("{{when: [{{{condition}}}]}}"), &expected);
    };
    for good in [
        "key: 'request.headers[x-a]', values: ['*']",
        "key: 'request.auth.claims[a][b]', notValues: [x]",
        "key: source.ip, values: [10.0.0.0/8]",
        "key: destination.port, values: ['80']",
    ] {
        of(good, &[]);
    }
    of("values: [a]", &[".key: a condition needs a key"]);
    of(
        "key: source.ip",
        &[": a condition needs values or notValues"],
    );
    of(
        "key: source.ip, values: [a], notValues: ['']",
        &[
            ".values[0]: \"a\" is no address and no range of addresses",
            ".notValues[0]: a value must not be empty",
        ],
    );
    of(
        "key: destination.port, values: [http]",
        &[".values[0]: \"http\" is no port"],
    );
    of(
        "key: 'request.headers[a b]', values: [x]",
        &[".key: \"a b\" is not the name of a header"],
    );
    for unknown in [
        "source.namespaces",
        "request.headers",
        "request.headers[]",
        "request.auth.claims[a",
        "destination.labels[app]",
        "request.experimental.inline.headers[a]",
    ] {
        let expected = format!(".key: unknown attribute \"{unknown}\"");
        of(&format!("key: '{unknown}', values: [x]"), &[&expected]);
    }
    of(
        "key: 'experimental.envoy.filters.network.mysql_proxy[db]', values: [x]",
        &[".key: no filter of ours leaves metadata that a policy could look at"],
    );
}

/// Istio's warning.
#[test]
fn a_denial_by_requests_alone_is_one_of_all_connections() {
    let warning =
        "rules[0]: on TCP ports the rule denies every connection: it looks at requests only";
    for (rule, warns) in [
        ("{to: [{operation: {methods: [GET]}}]}", true),
        ("{from: [{source: {requestPrincipals: ['*']}}]}", true),
        ("{when: [{key: 'request.headers[a]', values: [b]}]}", true),
        ("{}", false),
        (
            "{to: [{operation: {methods: [GET], ports: ['80']}}]}",
            false,
        ),
        ("{from: [{source: {namespaces: [a]}}]}", false),
        (
            "{to: [{operation: {methods: [GET]}}], when: [{key: source.ip, values: [10.0.0.1]}]}",
            false,
        ),
    ] {
        let spec = format!("{{action: DENY, rules: [{rule}]}}");
        let expected: &[&str] = if warns { &[warning] } else { &[] };
        check("AuthorizationPolicy", &spec, expected);
        check_rule(rule, &[]);
    }
}

#[test]
fn a_dry_run_is_true_or_false() {
    let told = |value: &str, spec: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\n\
             metadata: {{name: x, annotations: {{istio.io/dry-run: '{value}'}}}}\nspec: {spec}\n"
        );
        let told = parse("t", &text, "default").diagnostics;
        let told = told.iter().map(|d| format!("{} {}", d.code, d.message));
        told.collect::<Vec<_>>()
    };
    let none: [String; 0] = [];
    assert_eq!(told("true", "{}"), none);
    assert_eq!(told("F", "{action: AUDIT}"), none);
    assert_eq!(
        told("yes", "{}"),
        ["IST0125 \"yes\" is neither true nor false: the policy is enforced"]
    );
    let custom = told("true", "{action: CUSTOM, provider: {name: a}, rules: [{}]}");
    assert_eq!(
        custom,
        ["MEL0012 CUSTOM has no dry run: the policy is enforced"]
    );
}

#[test]
fn request_authentication() {
    let kind = "RequestAuthentication";
    check(kind, "{}", &[]);
    let key = "{\"keys\": [{\"kty\": \"oct\", \"k\": \"AQAB\"}]}";
    check(
        kind,
        &format!(
            "{{selector: {{matchLabels: {{app: a}}}}, jwtRules: [{{issuer: a, jwks: '{key}', presence: REQUIRED}}, {{issuer: b, jwks_uri: 'https://b/keys', timeout: 2s}}, {{issuer: c}}]}}"
        ),
        &[],
    );
    check(
        kind,
        "{jwtRules: [{jwks: '{}', jwksUri: 'ftp://a', audiences: [''], fromParams: [a, a], fromCookies: [''], fromHeaders: [{}, {name: 'a b'}, {name: a, prefix: x}, {name: a, prefix: x}]}]}",
        &[
            "jwtRules[0].issuer: an issuer is required",
            "jwtRules[0].jwks: only one of jwks and jwksUri can be set",
            "jwtRules[0].jwks: has no list \"keys\"",
            "jwtRules[0].jwksUri: \"ftp://a\" is not an http:// or https:// URL",
            "jwtRules[0].audiences[0]: must not be empty",
            "jwtRules[0].fromParams[1]: \"a\" is there before",
            "jwtRules[0].fromCookies[0]: must not be empty",
            "jwtRules[0].fromHeaders[0].name: \"\" is not the name of a header",
            "jwtRules[0].fromHeaders[1].name: \"a b\" is not the name of a header",
            "jwtRules[0].fromHeaders[3]: this location is there before",
        ],
    );
    check(
        kind,
        "{jwtRules: [{issuer: a, jwks: '{\"keys\": [{\"kty\": \"EC\"}]}', outputPayloadToHeader: ':path', outputClaimToHeaders: [{header: 'a.b', claim: ''}], timeout: 0s, presence: MAYBE, jwksURI: x}]}",
        &[
            "jwtRules[0].presence: unknown value \"MAYBE\"",
            "jwtRules[0].jwksURI: unknown field \"jwksURI\"",
        ],
    );
    check(
        kind,
        "{jwtRules: [{issuer: a, jwks: '{\"keys\": [{\"kty\": \"EC\"}]}', outputPayloadToHeader: ':path', outputClaimToHeaders: [{header: 'a.b', claim: ''}], timeout: 0s}]}",
        &[
            "jwtRules[0].jwks: has no key that can check a signature (RSA, EC P-256 or P-384, Ed25519, oct)",
            "jwtRules[0].outputPayloadToHeader: \":path\" is not the name of a header",
            "jwtRules[0].outputClaimToHeaders[0].header: \"a.b\" is not the name of a header",
            "jwtRules[0].outputClaimToHeaders[0].claim: the name of a claim is required",
            "jwtRules[0].timeout: a duration is at least 1ms",
        ],
    );
    check(
        kind,
        "{selector: {matchLabels: {a: 'x*'}}, targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: g}, {kind: Service, name: s, namespace: other}]}",
        &[
            "spec: only one of targetRefs or selector can be set",
            "selector.matchLabels[\"a\"]: a selector compares for equality, it has no wildcards",
            "targetRefs[1].kind: only a Gateway of gateway.networking.k8s.io can be the target",
            "targetRefs[1].namespace: an object of another namespace cannot be the target",
        ],
    );
}

#[test]
fn destination_rule() {
    let kind = "DestinationRule";
    check(
        kind,
        "{host: '*.default.svc.cluster.local', trafficPolicy: {tls: {mode: ISTIO_MUTUAL}}}",
        &[],
    );
    check(kind, "{}", &["host: a host is required"]);
    check(kind, "{host: a b}", &["host: \"a b\" is not a DNS name"]);
    check(
        kind,
        "{host: a, subsets: [{name: v1}, {name: v1}, {labels: {a: b}}, {name: V_2}]}",
        &[
            "subsets[1].name: subset \"v1\" is defined twice",
            "subsets[2].name: a subset needs a name",
            "subsets[3].name: \"V_2\" is not a name of lower-case letters, digits and dashes",
        ],
    );
    check(
        kind,
        "{host: a, trafficPolicy: {tls: {mode: ISTIO_MUTUAL, privateKey: /k}, portLevelSettings: [{}, {port: {number: 0}}]}}",
        &[
            "trafficPolicy.tls.privateKey: ISTIO_MUTUAL uses the workload's own certificate",
            "trafficPolicy.portLevelSettings[0].port: port.number is required",
            "trafficPolicy.portLevelSettings[1].port.number: a port is between 1 and 65535, not 0",
        ],
    );
    check(
        kind,
        "{host: a, trafficPolicy: {outlierDetection: {maxEjectionPercent: 101, interval: 0s}, connectionPool: {tcp: {maxConnections: -1}}}}",
        &[
            "trafficPolicy.outlierDetection.maxEjectionPercent: a percentage is between 0 and 100",
            "trafficPolicy.outlierDetection.interval: a duration is at least 1ms",
            "trafficPolicy.connectionPool.tcp.maxConnections: must not be negative",
        ],
    );
    check(
        kind,
        "{host: a, exportTo: ['*', Default]}",
        &[
            "exportTo[0]: \"*\" must stand alone",
            "exportTo[1]: write \".\", \"*\" or the name of a namespace",
        ],
    );
}

#[test]
fn places() {
    let problems = |setting: &str, outlier: &str| {
        let spec = format!(
            "{{host: a, trafficPolicy: {{loadBalancer: {{localityLbSetting: {setting}}}{outlier}}}}}"
        );
        let all = problems("DestinationRule", &spec).into_iter();
        let own = all.map(|one| one.replace("trafficPolicy.loadBalancer.localityLbSetting", "it"));
        own.collect::<Vec<_>>()
    };
    let outlier = ", outlierDetection: {}";
    let none: [&str; 0] = [];
    assert_eq!(problems("{enabled: false}", ""), none);
    assert_eq!(
        problems(
            "{failover: [{from: a, to: b}], failoverPriority: [x, y=z]}",
            outlier
        ),
        none
    );
    assert_eq!(
        problems(
            "{distribute: [{from: 'a/*', to: {a/b: 30, 'b/*': 70}}]}",
            ""
        ),
        none
    );
    assert_eq!(
        problems("{failoverPriority: [x]}", ""),
        ["it: has no effect without outlierDetection: nobody would tell that endpoints fail"]
    );
    assert_eq!(
        problems(
            "{distribute: [{from: a/b/c/d, to: {'a/*/b': 0, a: 60, 'a/b': 30}}], failover: [{from: a, to: a}, {from: '*', to: b/c}]}",
            outlier
        ),
        [
            "it: distribute stands without failover and failoverPriority",
            "it.distribute[0].from: \"a/b/c/d\" is no place",
            "it.distribute[0].to: the shares add up to 90, not to 100",
            "it.distribute[0].to[\"a/*/b\"]: \"a/*/b\" is no place",
            "it.distribute[0].to[\"a/*/b\"]: a share is between 1 and 100, not 0",
            "it.distribute[0].to[\"a/*/b\"]: \"a\" covers it already",
            "it.distribute[0].to[\"a/b\"]: \"a\" covers it already",
            "it.failover[0]: a region does not fail over to itself",
            "it.failover[1].from: \"*\" is no region",
            "it.failover[1].to: \"b/c\" is no region",
        ]
    );
}

#[test]
fn sidecar() {
    let kind = "Sidecar";
    check(
        kind,
        "{egress: [{port: {number: 80, protocol: HTTP, name: a}, hosts: ['./*']}, {hosts: ['shop/a.b', '*/*', '~/*', '~shop/c.d']}]}",
        &[],
    );
    check(
        kind,
        "{ingress: [{port: {number: 80, protocol: HTTP, name: a}, defaultEndpoint: '127.0.0.1:8080'}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
        &[],
    );
    check(
        kind,
        "{workloadSelector: {labels: {app: a}}}",
        &["spec: the Sidecar says nothing"],
    );
    check(
        kind,
        "{egress: [{hosts: []}, {port: {number: 0, protocol: HTTQ}, hosts: [a, 'B!/a.b', 'x/-a..', './short', '*/a.b', '*/a.b']}]}",
        &[
            "egress[0].port: only the last egress listener can be without a port",
            "egress[0].hosts: an egress listener has at least one host",
            "egress[1].port.number: a port is between 1 and 65535, not 0",
            "egress[1].port.protocol: unknown protocol \"HTTQ\"",
            "egress[1].hosts[0]: \"a\" does not say of which namespace",
            "egress[1].hosts[1]: \"B!\" before the slash is no namespace, \".\", \"*\" or \"~\"",
            "egress[1].hosts[2]: \"-a..\" is not a DNS name",
            "egress[1].hosts[3]: \"short\" is a short name, which no service has here",
            "egress[1].hosts[5]: \"*/a.b\" is there before",
        ],
    );
    check(
        kind,
        "{ingress: [{port: {number: 80}, defaultEndpoint: '10.0.0.1:80'}, {port: {number: 80}, defaultEndpoint: 'unix:///a', captureMode: NONE, \
          tls: {mode: SIMPLE}}, {}], inboundConnectionPool: {}}",
        &[
            "ingress[0].defaultEndpoint: \"10.0.0.1:80\" is no address of the application",
            "ingress[1].port: the port has a listener already",
            "ingress[1].defaultEndpoint: Unix sockets are not connected to yet",
            "ingress[1].captureMode: NONE is not supported yet: the listener serves captured connections only",
            "ingress[1].tls: TLS for clients outside the mesh is not ended at sidecars yet",
            "ingress[2].port: an ingress listener needs a port",
            "inboundConnectionPool: set tcp, http or both",
        ],
    );
    check(
        kind,
        "{ingress: [{port: {number: 15006, protocol: HTTP}}, {port: {number: 15090}}, {port: {number: 53, protocol: UDP}}]}",
        &[
            "ingress[0].port.number: the proxy itself listens on port 15006",
            "ingress[1].port.number: the proxy itself listens on port 15090",
            "ingress[2].port.protocol: UDP is not captured: the listener has no effect",
        ],
    );
    check(
        kind,
        "{outboundTrafficPolicy: {egressProxy: {host: a.b}}, egress: [{bind: 127.0.0.1, hosts: ['*/*']}]}",
        &[
            "outboundTrafficPolicy.egressProxy.port: the port of the egress proxy is required",
            "outboundTrafficPolicy.egressProxy: only mode ALLOW_ANY has an egress proxy",
            "egress[0].bind: not supported yet, ignored",
        ],
    );
}

#[test]
fn virtual_service() {
    let kind = "VirtualService";
    let route = "{route: [{destination: {host: a}}]}";
    check(kind, &format!("{{hosts: [a], http: [{route}]}}"), &[]);
    check(
        kind,
        "{hosts: []}",
        &["spec: http, tcp or tls must be provided"],
    );
    check(kind, "{hosts: [a], http: [{delegate: {name: b}}]}", &[]);
    check(
        kind,
        "{gateways: [g], tcp: [{route: [{destination: {host: a}}]}], http: [{delegate: {name: b}}]}",
        &[
            "gateways: a VirtualService without hosts, a delegate, has no gateways",
            "tcp: a VirtualService without hosts, a delegate, has no tcp",
            "http[0].delegate: a delegate has no delegates of its own",
        ],
    );
    check(
        kind,
        &format!("{{hosts: ['*', A.b, a.b], http: [{route}]}}"),
        &[
            "hosts[0]: the host \"*\" is not allowed for sidecars",
            "hosts[2]: the host is listed twice",
        ],
    );
    check(
        kind,
        "{hosts: [a], http: [{route: [{destination: {host: a}, weight: 0}, {destination: {host: '*.a'}, weight: -1}]}]}",
        &[
            "http[0].route[1].destination.host: a destination must not be a wildcard",
            "http[0].route[1].weight: a weight must not be negative",
        ],
    );
    check(
        kind,
        "{hosts: [a], http: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]}",
        &["http[0].route: the weights of the destinations sum to 0"],
    );
    check(
        kind,
        "{hosts: [a], http: [{match: [{uri: {prefix: /}}], route: []}, {match: [{uri: {prefix: /}}], redirect: {uri: /x}, route: [{destination: {host: a}}]}]}",
        &[
            "http[0].route: at least one destination is required",
            "http[1]: only one of route and redirect can be set",
        ],
    );
    check(
        kind,
        "{hosts: [a], http: [{match: [{uri: {regex: '('}, headers: {'b c': {}}}], route: [{destination: {host: a}}], timeout: 0s, retries: {attempts: 1, retryOn: '5xx,503,conect-failure'}}]}",
        &[
            "http[0].match[0].uri.regex: not an RE2 regular expression: unclosed group",
            "http[0].match[0].headers[\"b c\"]: \"b c\" is not the name of a header",
            "http[0].timeout: a duration is at least 1ms",
            "http[0].retries.retryOn: \"conect-failure\" is neither a retry condition nor a status",
        ],
    );
    check(
        kind,
        &format!("{{hosts: [a], http: [{route}, {route}]}}"),
        &["http[1]: never reached: http[0] takes every request"],
    );
    check(
        kind,
        "{hosts: ['*.a.com'], tls: [{match: [{port: 443, sniHosts: [x.a.com, x.b.com]}], route: [{destination: {host: x}}]}]}",
        &["tls[0].match[0].sniHosts[1]: \"x.b.com\" is not among the hosts"],
    );
}

#[test]
fn faults() {
    check(
        "VirtualService",
        "{hosts: [a], http: [{fault: {delay: {fixedDelay: 7s, percentage: {value: 101}}, abort: {grpcStatus: BROKEN}}, route: [{destination: {host: a}}]}]}",
        &[
            "http[0].fault.delay.percentage.value: a percentage is between 0 and 100",
            "http[0].fault.abort.grpcStatus: not the name or number of a gRPC status",
        ],
    );
    check(
        "VirtualService",
        "{hosts: [a], http: [{fault: {abort: {httpStatus: 500, grpcStatus: '14'}}, route: [{destination: {host: a}}]}]}",
        &["http[0].fault.abort: set exactly one of httpStatus and grpcStatus"],
    );
    let abort = |status: &str| {
        format!(
            "{{hosts: [a], http: [{{fault: {{abort: {{grpcStatus: '{status}'}}}}, route: [{{destination: {{host: a}}}}]}}]}}"
        )
    };
    for status in ["OK", "UNAUTHENTICATED", "0", "16"] {
        check("VirtualService", &abort(status), &[]);
    }
    for status in ["17", "-1", "unavailable", ""] {
        check(
            "VirtualService",
            &abort(status),
            &["http[0].fault.abort.grpcStatus: not the name or number of a gRPC status"],
        );
    }
}

#[test]
fn the_size_of_a_regular_expression_is_bounded() {
    let regex = "a".repeat(1025);
    check(
        "VirtualService",
        &format!(
            "{{hosts: [a], http: [{{match: [{{uri: {{regex: {regex}}}}}], route: [{{destination: {{host: a}}}}]}}]}}"
        ),
        &["http[0].match[0].uri.regex: a regular expression has at most 1024 bytes"],
    );
}

#[test]
fn service_entry_and_workload_entry() {
    let kind = "ServiceEntry";
    check(
        kind,
        "{hosts: [a.com], ports: [{number: 443, name: tls, protocol: TLS}], resolution: DNS}",
        &[],
    );
    check(
        kind,
        "{hosts: [a.com], addresses: [10.0.0.0/33, 10.0.0.0/8], ports: [{number: 1, name: a, protocol: HTP}, {number: 1, name: b}], resolution: DNS}",
        &[
            "addresses[0]: \"10.0.0.0/33\" is neither an IP nor a CIDR range",
            "addresses[1]: CIDR ranges need resolution NONE or STATIC",
            "ports[0].protocol: unknown protocol \"HTP\"",
            "ports[1].number: the port is listed twice",
        ],
    );
    check(
        kind,
        "{hosts: [a.com], ports: [], resolution: STATIC}",
        &["resolution: STATIC needs endpoints or a workloadSelector"],
    );
    check(
        kind,
        "{hosts: [a.com], endpoints: [{address: a.b}], workloadSelector: {labels: {a: b}}, resolution: STATIC}",
        &[
            "endpoints: only one of workloadSelector and endpoints can be set",
            "endpoints[0].address: with resolution STATIC an address is an IP",
        ],
    );
    check(
        "WorkloadEntry",
        "{address: 10.0.0.1, ports: {http: 80}}",
        &[],
    );
    check("WorkloadEntry", "{}", &["address: an address is required"]);
    check(
        "WorkloadEntry",
        "{address: 'unix://relative', ports: {http: 80}}",
        &[
            "address: a socket is an absolute path or an abstract name (@)",
            "ports: a socket has no ports",
        ],
    );
}

#[test]
fn kubernetes_kinds() {
    check(
        "Service",
        "{ports: [{port: 80}, {port: 80, name: http-a}]}",
        &[
            "ports[0].name: the ports of a Service with several need names",
            "ports[0].name: the port's name does not begin with its protocol: it is detected from the traffic",
            "ports[1].port: the port is listed twice",
        ],
    );
    check(
        "Deployment",
        "{selector: {matchLabels: {app: a}}, template: {metadata: {labels: {app: b}}, spec: {containers: [{name: c, image: i}]}}}",
        &["selector.matchLabels[\"app\"]: does not match the pods of the template: app=a"],
    );
}

#[test]
fn the_claims_of_a_stateful_set_are_volumes_of_its_pods() {
    let set = |volume: &str| {
        format!(
            "{{serviceName: s, selector: {{matchLabels: {{a: b}}}}, volumeClaimTemplates: [{{metadata: {{name: data}}}}], \
             template: {{metadata: {{labels: {{a: b}}}}, spec: {{containers: [{{name: c, image: i, \
             volumeMounts: [{{name: {volume}, mountPath: /d}}]}}]}}}}}}"
        )
    };
    assert!(problems("StatefulSet", &set("data")).is_empty());
    assert_eq!(
        problems("StatefulSet", &set("date")),
        ["template.spec.containers[0].volumeMounts[0].name: the pod has no volume \"date\""]
    );
}

#[test]
fn pods_are_judged_as_an_api_server_does() {
    let template = |spec: &str| {
        format!(
            "{{selector: {{matchLabels: {{a: b}}}}, template: {{metadata: {{labels: {{a: b}}}}, spec: {spec}}}}}"
        )
    };
    let check = |spec: &str, expected: &[&str]| {
        let found = problems("Deployment", &template(spec));
        let found: Vec<&str> = found
            .iter()
            .map(|problem| problem.trim_start_matches("template.spec."))
            .collect();
        assert_eq!(found, expected, "{spec}");
    };
    check("{containers: [{name: c, image: i}]}", &[]);
    check("{}", &["containers: a pod has at least one container"]);
    check(
        "{containers: []}",
        &["containers: a pod has at least one container"],
    );
    check(
        "{restartPolicy: Sometimes, containers: [{name: C, image: i}, {name: d}, {name: d, image: i, imagePullPolicy: Nevr}]}",
        &[
            "restartPolicy: unknown value \"Sometimes\"",
            "containers[0].name: \"C\" is not the name of a container",
            "containers[1].image: a container has an image",
            "containers[2].name: another container of the pod has that name",
            "containers[2].imagePullPolicy: unknown value \"Nevr\"",
        ],
    );
    check(
        "{volumes: [{name: data, emptyDir: {}}], containers: [{name: c, image: i, volumeMounts: [{name: dta, mountPath: /d}], \
         ports: [{containerPort: 70000, protocol: TPC}], readinessProbe: {httpGet: {port: web}}, livenessProbe: {}}]}",
        &[
            "containers[0].volumeMounts[0].name: the pod has no volume \"dta\"",
            "containers[0].ports[0].containerPort: a port is between 1 and 65535, not 70000",
            "containers[0].ports[0].protocol: unknown value \"TPC\"",
            "containers[0].readinessProbe.httpGet.port: the container has no port named \"web\": the probe will fail",
            "containers[0].livenessProbe: a probe has one way to ask",
        ],
    );
}

#[test]
fn ports_of_services_have_names_of_their_own_and_known_words() {
    check(
        "Service",
        "{type: Loadbalancer, ports: [{port: 80, name: http, protocol: TPC}, {port: 81, name: http, targetPort: -5}, {port: 81, name: http-b}]}",
        &[
            "type: unknown value \"Loadbalancer\"",
            "ports[0].protocol: unknown value \"TPC\"",
            "ports[1].name: another port of the Service has that name",
            "ports[1].targetPort: a port is between 1 and 65535, not -5",
            "ports[2].port: the port is listed twice",
        ],
    );
}

/// What proxies would refuse, with the configuration of everybody else.
#[test]
fn what_no_proxy_takes_is_refused_here() {
    let route = |more: &str| {
        format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], {more}}}]}}")
    };
    let kind = "VirtualService";
    for good in [
        "headers: {request: {set: {x-a: '100%%', Host: b, ':authority': c}, remove: [x-b]}}",
        "headers: {response: {add: {x-a: '%PROTOCOL% %REQ(:PATH)%'}}}",
        "rewrite: {uriRegexRewrite: {match: '/(a)/(b)', rewrite: '/\\2/\\\\/\\0'}}",
        "retries: {attempts: 1, retryOn: 'retriable-4xx,503,unavailable'}",
    ] {
        check(kind, &route(good), &[]);
    }
    for (bad, expected) in [
        (
            "headers: {request: {set: {x-a: '100%'}}}",
            "http[0].headers.request.set[\"x-a\"]: a % begins an operator that no other % ends",
        ),
        (
            "headers: {response: {add: {x-a: '%POD_NAME%'}}}",
            "http[0].headers.response.add[\"x-a\"]: %POD_NAME% is no operator that proxies know",
        ),
        (
            r#"headers: {request: {set: {x-a: "a\nb"}}}"#,
            "http[0].headers.request.set[\"x-a\"]: the value of a header has no control characters",
        ),
        (
            "headers: {request: {set: {'x:a': b}}}",
            "http[0].headers.request.set[\"x:a\"]: \"x:a\" is not the name of a header",
        ),
        (
            "headers: {request: {remove: [':path']}}",
            "http[0].headers.request.remove[0]: \":path\" is not the name of a header that can be removed",
        ),
        (
            "match: [{headers: {'@request.auth.principal': {exact: a}}}]",
            "http[0].match[0].headers[\"@request.auth.principal\"]: \"@request.auth.principal\" is not the name of a header",
        ),
        (
            "rewrite: {uriRegexRewrite: {match: '/(a)', rewrite: '/\\2'}}",
            "http[0].rewrite.uriRegexRewrite.rewrite: \"\\2\" is no group of the match, which has 1",
        ),
        (
            "retries: {attempts: 1, retryOn: 'reset,http3-post-connect-failure'}",
            "http[0].retries.retryOn: \"http3-post-connect-failure\" is not supported: upstreams are not reached by HTTP/3",
        ),
        (
            r#"corsPolicy: {allowHeaders: ["a\r\nb"]}"#,
            "http[0].corsPolicy.allowHeaders[0]: the value of a header has no control characters",
        ),
    ] {
        check(kind, &route(bad), &[expected]);
    }
    let hash = |hash: &str| {
        format!("{{host: a, trafficPolicy: {{loadBalancer: {{consistentHash: {hash}}}}}}}")
    };
    let path = "trafficPolicy.loadBalancer.consistentHash";
    let kind = "DestinationRule";
    check(
        kind,
        &hash("{useSourceIp: true, maglev: {tableSize: 65537}}"),
        &[],
    );
    check(kind, &hash("{useSourceIp: true, maglev: {}}"), &[]);
    check(
        kind,
        &hash("{useSourceIp: true, ringHash: {minimumRingSize: 8388608}}"),
        &[],
    );
    check(
        kind,
        &hash("{useSourceIp: true, maglev: {tableSize: 65536}}"),
        &[&format!(
            "{path}.maglev.tableSize: the size of the table is a prime up to 5000011, not 65536"
        )],
    );
    check(
        kind,
        &hash("{useSourceIp: true, maglev: {tableSize: 5000077}}"),
        &[&format!(
            "{path}.maglev.tableSize: the size of the table is a prime up to 5000011, not 5000077"
        )],
    );
    check(
        kind,
        &hash("{useSourceIp: true, minimumRingSize: 8388609}"),
        &[&format!(
            "{path}.minimumRingSize: a ring has at most 8388608 entries"
        )],
    );
    check(
        kind,
        &hash("{httpHeaderName: 'x user'}"),
        &[&format!(
            "{path}.httpHeaderName: \"x user\" is not the name of a header"
        )],
    );
}

#[test]
fn gateway() {
    let kind = "Gateway";
    let http = "port: {number: 80, name: http, protocol: HTTP}, hosts: ['*']";
    check(kind, &format!("{{servers: [{{{http}}}]}}"), &[]);
    check(
        kind,
        &format!("{{servers: [{{{http}, tls: {{httpsRedirect: true}}}}]}}"),
        &[],
    );
    check(kind, "{}", &["servers: a gateway has at least one server"]);
    check(
        kind,
        "{servers: [{port: {number: 0, protocol: UDP}, bind: here, hosts: [A_b/c, x/, '*/*', ./a.b, 'a b']}]}",
        &[
            "servers[0].port.name: a port needs a name",
            "servers[0].port.number: a port is between 1 and 65535, not 0",
            "servers[0].port.protocol: UDP is not served at gateways",
            "servers[0].bind: \"here\" is not an IP address to listen on",
            "servers[0].hosts[0]: \"A_b\" before the slash is no namespace, \".\" or \"*\"",
            "servers[0].hosts[1]: \"\" is not a DNS name",
            "servers[0].hosts[4]: \"a b\" is not a DNS name",
        ],
    );
    check(
        kind,
        &format!("{{servers: [{{{http}}}, {{{http}, tls: {{mode: SIMPLE}}}}]}}"),
        &[
            "servers[1].port.name: port names are unique in a gateway, and \"http\" is used before",
            "servers[1].tls: HTTP is plain text, for which tls has httpsRedirect only",
        ],
    );
}

#[test]
fn tls_of_a_gateway() {
    let tls = |settings: &str| {
        format!(
            "{{servers: [{{port: {{number: 443, name: https, protocol: HTTPS}}, hosts: [a.b]{settings}}}]}}"
        )
    };
    let problems = |settings: &str, expected: &[&str]| {
        let at = |text: &&str| format!("servers[0].tls{text}");
        let expected: Vec<String> = expected.iter().map(at).collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check("Gateway", &tls(settings), &expected);
    };
    problems("", &[": HTTPS needs TLS settings"]);
    for good in [
        "{mode: SIMPLE, credentialName: c}",
        "{mode: SIMPLE, serverCertificate: /c, privateKey: /k}",
        "{mode: MUTUAL, serverCertificate: /c, privateKey: /k, caCertificates: /r}",
        "{mode: OPTIONAL_MUTUAL, credentialName: c, caCertCredentialName: r, subjectAltNames: [x]}",
        "{mode: ISTIO_MUTUAL}",
        "{mode: PASSTHROUGH}",
        "{mode: SIMPLE, credentialName: c, minProtocolVersion: TLSV1_2, maxProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES128-GCM-SHA256]}",
    ] {
        problems(&format!(", tls: {good}"), &[]);
    }
    problems(
        ", tls: {mode: MUTUAL}",
        &[
            ".serverCertificate: MUTUAL needs a credentialName, or the path of a file here",
            ".privateKey: MUTUAL needs a credentialName, or the path of a file here",
            ".caCertificates: MUTUAL needs a credentialName, or the path of a file here",
        ],
    );
    problems(
        ", tls: {mode: ISTIO_MUTUAL, credentialName: c}",
        &[".credentialName: ISTIO_MUTUAL uses the gateway's own certificate"],
    );
    problems(
        ", tls: {mode: SIMPLE, credentialName: other/c, verifyCertificateHash: [ab], subjectAltNames: [x]}",
        &[
            ".credentialName: names a Secret in the namespace of the gateway's pods, without a namespace",
            ".verifyCertificateHash: SIMPLE asks clients for no certificate",
            ".verifyCertificateHash[0]: a SHA-256 in 64 hexadecimal digits, with or without colons",
            ".subjectAltNames: SIMPLE asks clients for no certificate",
        ],
    );
    problems(
        ", tls: {mode: SIMPLE, credentialName: c, maxProtocolVersion: TLSV1_1, httpsRedirect: true}",
        &[
            ".maxProtocolVersion: no version before TLS 1.2 is spoken",
            ".httpsRedirect: the server speaks TLS already: redirect where HTTP is plain text",
        ],
    );
    problems(
        ", tls: {mode: AUTO_PASSTHROUGH}",
        &[".mode: AUTO_PASSTHROUGH is not supported yet: the server is not served"],
    );
}
