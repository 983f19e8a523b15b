use super::*;
use crate::istio::{MeshConfig, OutboundTrafficPolicyMode, ProxyConfig, SimpleLb};
use crate::object::{Kind, Resource};

const GOOD_RULE: &str = "\
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: ok}
spec:
  host: reviews
  traffic_policy:
    loadBalancer: {simple: LEAST_CONN}
";

/// `code line:column field: message` of every problem.
fn problems(parsed: &Parsed) -> Vec<String> {
    parsed
        .diagnostics
        .iter()
        .map(|d| {
            let at = d.location.as_ref().unwrap();
            format!(
                "{} {}:{} {}: {}",
                d.code, at.line, at.column, d.field, d.message
            )
        })
        .collect()
}

fn parse_text(text: &str) -> Parsed {
    parse("mesh.yaml", text, "default")
}

#[test]
fn a_broken_document_hides_no_other() {
    let text = format!(
        "# three objects\nkind: [\n---\n{GOOD_RULE}---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: p}}\nspec: {{mtls: {{mode: STRCT}}}}\n"
    );
    let parsed = parse_text(&text);
    assert_eq!(parsed.objects.len(), 1);
    assert!(parsed.is_partial);
    assert_eq!(
        parsed.rejected,
        [ObjectKey::new(Kind::PeerAuthentication, "default", "p")]
    );
    let problems = problems(&parsed);
    assert_eq!(problems.len(), 2, "{problems:?}");
    assert!(problems[0].starts_with("MEL0001 "), "{problems:?}");
    assert_eq!(
        problems[1],
        "IST0106 15:21 spec.mtls.mode: unknown value \"STRCT\""
    );
}

#[test]
fn an_alias_of_a_version_and_snake_case_are_accepted() {
    for version in ["v1", "v1beta1", "v1alpha3"] {
        let text = GOOD_RULE.replace("/v1", &format!("/{version}"));
        let parsed = parse_text(&text);
        assert_eq!(problems(&parsed), Vec::<String>::new());
        let Resource::DestinationRule(rule) = &parsed.objects[0].resource else {
            panic!("a DestinationRule");
        };
        let policy = rule.traffic_policy.as_ref().unwrap();
        let simple = policy.load_balancer.as_ref().unwrap().simple;
        assert_eq!(simple, Some(SimpleLb::LeastRequest));
    }
}

#[test]
fn lists_are_flattened_and_keep_their_places() {
    let text = "\
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Namespace
  metadata: {name: a, namespace: ignored}
- apiVersion: v1
  kind: Service
  metadata:
    name: web
    namespace: a
  spec:
    selector: {app: web}
    ports:
    - port: 99999
      name: http
";
    let parsed = parse_text(text);
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(
        parsed.objects[0].key(),
        ObjectKey::new(Kind::Namespace, "", "a")
    );
    assert_eq!(
        problems(&parsed),
        ["IST0106 15:13 spec.ports[0].port: a port is between 1 and 65535, not 99999"]
    );
}

#[test]
fn wrong_kinds_and_groups_name_the_remedy() {
    let check = |api_version: &str, kind: &str, code: &str, hint: &str| {
        let text = format!("apiVersion: {api_version}\nkind: {kind}\nmetadata: {{name: x}}\n");
        let parsed = parse_text(&text);
        assert_eq!(parsed.objects.len(), 0);
        let diagnostic = &parsed.diagnostics[0];
        assert_eq!(
            (diagnostic.code.as_str(), diagnostic.hint.as_str()),
            (code, hint)
        );
    };
    check(
        "security.istio.io/v1",
        "PeerAuthenticaton",
        "MEL0003",
        "did you mean \"PeerAuthentication\"?",
    );
    check(
        "networking.istio.io/v1",
        "PeerAuthentication",
        "MEL0003",
        "write apiVersion: security.istio.io/v1",
    );
    check(
        "networking.istio.io/v2",
        "VirtualService",
        "MEL0003",
        "write apiVersion: networking.istio.io/v1",
    );
    check("v1", "Deployment", "MEL0003", "write apiVersion: apps/v1");
    check(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        "MEL0004",
        "do not rely on it; PeerAuthentication, RequestAuthentication and AuthorizationPolicy are enforced",
    );
    check("cert-manager.io/v1", "Certificate", "MEL0009", "");
}

#[test]
fn an_unenforced_security_policy_is_an_error_and_other_unread_kinds_are_not() {
    let severity = |group: &str, kind: &str| {
        let text = format!("apiVersion: {group}/v1\nkind: {kind}\nmetadata: {{name: x}}\n");
        parse_text(&text).diagnostics[0].severity
    };
    assert_eq!(
        severity("networking.k8s.io", "NetworkPolicy"),
        Severity::Error
    );
    assert_eq!(
        severity("networking.istio.io", "EnvoyFilter"),
        Severity::Warning
    );
    assert_eq!(severity("apps", "DaemonSet"), Severity::Info);
}

#[test]
fn secrets_are_never_quoted() {
    let text = "\
apiVersion: v1
kind: Secret
metadata: {name: s}
data: {key: \"?hunter2?\"}
stringData: {pin: 5318008, word: swordfish}
";
    let parsed = parse_text(text);
    assert_eq!(parsed.objects.len(), 0);
    let shown = format!("{:?}", parsed.diagnostics);
    assert_eq!(parsed.diagnostics.len(), 2, "{shown}");
    for secret in ["hunter2", "5318008", "swordfish"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn string_data_of_a_secret_is_data() {
    let text =
        "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: YQ==}\nstringData: {b: b}\n";
    let parsed = parse_text(text);
    let Resource::Secret(secret) = &parsed.objects[0].resource else {
        panic!("a Secret");
    };
    let data = secret.data.as_ref().unwrap();
    assert_eq!(
        (data["a"].0.as_slice(), data["b"].0.as_slice()),
        (&b"a"[..], &b"b"[..])
    );
}

#[test]
fn unknown_fields_reject_a_policy_but_not_a_service() {
    let parsed = parse_text(&GOOD_RULE.replace("  host:", "  hots:"));
    assert_eq!(parsed.objects.len(), 0);
    assert_eq!(
        problems(&parsed),
        [
            "IST0106 4:1 spec.host: a host is required",
            "IST0106 5:3 spec.hots: unknown field \"hots\""
        ]
    );
    let parsed =
        parse_text("apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIp: None}\n");
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(
        problems(&parsed),
        ["MEL0008 4:8 spec.clusterIp: unknown field \"clusterIp\""]
    );
    assert_eq!(parsed.diagnostics[0].hint, "did you mean \"clusterIP\"?");
}

#[test]
fn what_is_not_supported_is_named_and_ignored() {
    let parsed =
        parse_text(&GOOD_RULE.replace("simple: LEAST_CONN", "warmup: {duration: nonsense}"));
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(
        problems(&parsed),
        ["MEL0005 7:20 spec.traffic_policy.loadBalancer.warmup: not supported yet, ignored"]
    );
}

#[test]
fn a_second_definition_in_one_file_is_refused() {
    let parsed = parse_text(&format!("{GOOD_RULE}---\n{GOOD_RULE}"));
    assert_eq!(parsed.objects.len(), 1);
    assert_eq!(parsed.diagnostics[0].code, "MEL0006");
}

#[test]
fn later_problems_find_their_place_again() {
    let parsed = parse_text(&format!("\n\n---\n{GOOD_RULE}"));
    let location = parsed.objects[0]
        .locate(&FieldPath::new("spec.host"))
        .unwrap();
    assert_eq!((location.line, location.column), (8, 9));
    assert_eq!(location.snippet, "  host: reviews");
}

#[test]
fn places_inside_a_text_are_found_in_the_file() {
    let map = |value: &str| {
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: c}}\ndata:\n  mesh: {value}"
        );
        let parsed = parse_text(&text);
        let source = parsed.objects[0].source.as_ref().unwrap();
        let at = source.locate_inside(&FieldPath::new("data.mesh"), 2, 3);
        (at.line, at.column, at.snippet)
    };
    let block = map("|-\n    a: 1\n    b: {c: 2}\n");
    assert_eq!(block, (7, 7, "    b: {c: 2}".to_owned()));
    assert_eq!(map("\"a: 1\"\n"), (5, 9, "  mesh: \"a: 1\"".to_owned()));
}

#[test]
fn mesh_config_has_istios_defaults_and_reports() {
    let text = "\
outboundTrafficPolicy: {mode: REGISTRY_ONLY}
enableAutoMtls: false
defaultConfig:
  drainDuration: 1m30s
  tracing: {sampling: 10}
trustDomian: x
";
    let (mesh, diagnostics) = parse_message::<MeshConfig>("mesh", text);
    let mesh = mesh.unwrap();
    assert_eq!(
        mesh.outbound_traffic_policy.mode,
        OutboundTrafficPolicyMode::RegistryOnly
    );
    assert!(!mesh.enable_auto_mtls && mesh.enable_prometheus_merge);
    assert_eq!(mesh.root_namespace, "istio-system");
    let fields: Vec<&str> = diagnostics.iter().map(|d| d.field.as_str()).collect();
    assert_eq!(fields, ["defaultConfig.tracing", "trustDomian"]);
    assert_eq!(diagnostics[1].hint, "did you mean \"trustDomain\"?");
    let json = serde_json::to_string(&mesh.default_config).unwrap();
    assert_eq!(json, r#"{"drainDuration":"90s"}"#);

    let (empty, diagnostics) = parse_message::<MeshConfig>("mesh", "");
    assert_eq!((empty, diagnostics), (Some(MeshConfig::default()), vec![]));
    let (broken, diagnostics) = parse_message::<ProxyConfig>("annotation", "concurrency: many");
    assert!(broken.is_none());
    assert_eq!(diagnostics[0].field.as_str(), "concurrency");
}

/// The other fields stay usable: the last good format goes with them.
#[test]
fn what_proxies_would_refuse_of_a_mesh_config_is_told_and_replaced() {
    let read = |text: &str| {
        let (mesh, diagnostics) = parse_message::<MeshConfig>("mesh", text);
        let told: Vec<String> = diagnostics
            .iter()
            .map(|d| format!("{}: {}", d.field, d.message))
            .collect();
        (mesh.unwrap(), told)
    };
    let (good, told) = read("accessLogFormat: '%PROTOCOL% %HOSTNAME%'\nconnectTimeout: 1s\n");
    assert!(told.is_empty(), "{told:?}");
    let nested =
        "accessLogEncoding: JSON\naccessLogFormat: '{\"a\": {\"b\": [1, true, \"%DURATION%\"]}}'\n";
    assert!(read(nested).1.is_empty());
    for (bad, expected) in [
        (
            "accessLogFormat: '%PROTOKOL%'",
            "accessLogFormat: %PROTOKOL% is no operator that proxies know",
        ),
        (
            "accessLogEncoding: JSON\naccessLogFormat: '[1]'",
            "accessLogFormat: with accessLogEncoding JSON the format is an object",
        ),
        (
            "accessLogEncoding: JSON\naccessLogFormat: '{\"a\": {\"b\": \"%X%\"}}'",
            "accessLogFormat: %X% is no operator that proxies know",
        ),
        (
            "defaultHttpRetryPolicy: {attempts: 1, retryOn: sometimes}",
            "defaultHttpRetryPolicy.retryOn: \"sometimes\" is neither a retry condition nor a status",
        ),
    ] {
        let (mut mesh, told) = read(&format!("{bad}\nconnectTimeout: 2s\n"));
        assert_eq!(told, [expected]);
        mesh.keep_sound(&good);
        assert!(mesh.problems().is_empty());
        assert_eq!(
            mesh.connect_timeout,
            Some(std::time::Duration::from_secs(2))
        );
        let is_log = expected.starts_with("accessLog");
        assert_eq!(mesh.access_log_format == good.access_log_format, is_log);
    }
}

#[test]
fn hostile_nesting_is_an_error_not_a_crash() {
    let text = format!("kind: {}{}", "[".repeat(5000), "]".repeat(5000));
    let parsed = parse_text(&text);
    assert!(parsed.is_partial);
    assert_eq!(parsed.diagnostics[0].code, "MEL0001");
}

/// `object: field: message (hint)` of every problem.
fn told(text: &str) -> Vec<String> {
    parse_text(text)
        .diagnostics
        .iter()
        .map(|d| {
            assert!(d.location.is_some(), "{d}");
            let object = d.object.as_ref().map(ToString::to_string);
            format!(
                "{}: {}: {} ({})",
                object.unwrap_or_default(),
                d.field,
                d.message,
                d.hint
            )
        })
        .collect()
}

#[test]
fn a_field_that_is_written_twice_is_told_with_its_object() {
    let text = "apiVersion: v1\nkind: Service\nmetadata: {name: a, name: b}\nspec:\n  ports:\n  - {port: 80, name: http, port: 81}\n";
    assert_eq!(
        told(text),
        [
            "Service default/a: metadata.name: the field is written twice (keep one of the two)",
            "Service default/a: spec.ports[0].port: the field is written twice (keep one of the two)",
        ]
    );
    assert!(parse_text(text).objects.is_empty());
}

#[test]
fn text_that_is_no_yaml_is_told_in_words_of_yaml_with_object_and_remedy() {
    let head = "apiVersion: v1\nkind: Service\nmetadata:\n  name: a\nspec:\n";
    for (rest, expected) in [
        ("\tports: []\n", "a tab stands where blanks must"),
        ("  ports: [\n", "a [ or { is not closed"),
        ("  a: b: c\n", "a \":\" stands where no field can begin"),
        ("  a: \"b\n", "a quotation mark is never closed"),
        (" a: b\n  c: d\n", "a \":\" stands where no field can begin"),
        (
            "  a: *b\n",
            "a value begins with * or & and names no anchor",
        ),
        ("  a: .inf\n", "a number must be finite"),
        ("  ? [a]\n  : b\n", "the name of a field must be a text"),
    ] {
        let told = told(&format!("{head}{rest}"));
        let begin = format!("Service default/a: : not valid YAML: {expected} (");
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with(&begin), "{told:?} for {rest:?}");
        assert!(!told[0].ends_with("()"), "{told:?} has no remedy");
    }
}

#[test]
fn a_header_that_lacks_something_names_the_object_as_far_as_it_is_known() {
    for (text, expected) in [
        (
            "apiVersion: v1\nkind: Service\nmetadata: {labels: {a: b}}\n",
            "Service default/?: metadata.name: this Service has no name (write name: below metadata:)",
        ),
        (
            "kind: VirtualService\nmetadata: {name: v}\n",
            "VirtualService default/v: apiVersion: apiVersion is required (write apiVersion: networking.istio.io/v1)",
        ),
        (
            "apiVersion: apps/v1\nmetadata: {name: v}\n",
            "? default/v: kind: kind is required (write kind: and one of Deployment, StatefulSet, ReplicaSet)",
        ),
        (
            "apiVersion: v1\nkind: Namespace\nmetadata: {name: A_b}\n",
            "Namespace A_b: metadata.name: a name is lower-case letters, digits, dashes and dots, at most 253 bytes (write for instance \"a-b\")",
        ),
    ] {
        assert_eq!(told(text), [expected]);
    }
}

#[test]
fn a_value_of_the_wrong_type_comes_with_the_right_way_to_write_it() {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {a: '%%'}\n";
    assert_eq!(
        told(text),
        [
            "Secret default/s: data[\"a\"]: the value is not base64 (encode it, or write it as plain text (stringData of a Secret))"
        ]
    );
    let text = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: v}\nspec: {hosts: a}\n";
    assert_eq!(
        told(text)[0],
        "VirtualService default/v: spec.hosts: expected a list, found a string (begin each entry with \"- \", or write [a, b])"
    );
}

#[test]
fn what_stands_for_a_broken_policy_lets_nothing_through_where_it_would_have_counted() {
    let stand_ins = |spec: &str, metadata: &str| {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop{metadata}}}\nspec: {spec}\n"
        );
        let parsed = parse_text(&text);
        assert_eq!(parsed.objects.len(), 0, "{spec}");
        parsed.stand_ins
    };
    let broken = stand_ins(
        "{selector: {matchLabels: {app: web}}, action: DENY, rules: [{form: []}]}",
        "",
    );
    let [object] = &broken[..] else {
        panic!("one object")
    };
    let Resource::AuthorizationPolicy(policy) = &object.resource else {
        panic!("a policy")
    };
    let selector = policy.selector.clone().unwrap().match_labels;
    assert_eq!(selector.get("app"), Some("web"));
    assert!(policy.rules.is_empty() && policy.action == Default::default());
    assert_eq!(object.key().to_string(), "AuthorizationPolicy shop/p");
    for (spec, metadata) in [
        ("{action: AUDIT, rules: [{form: []}]}", ""),
        (
            "{rules: [{form: []}]}",
            ", annotations: {istio.io/dry-run: 'true'}",
        ),
        (
            "{targetRefs: [{kind: Service, name: a}], rules: [{form: []}]}",
            "",
        ),
    ] {
        assert!(stand_ins(spec, metadata).is_empty(), "{spec}");
    }
}

#[test]
fn what_stands_for_a_broken_sidecar_opens_nothing_that_it_closed() {
    let stand_in = |spec: &str| {
        let text = format!(
            "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: s, namespace: shop}}\nspec: {spec}\n"
        );
        let parsed = parse_text(&text);
        assert_eq!(parsed.objects.len(), 0, "{spec}");
        parsed.stand_ins.first().map(|object| {
            let Resource::Sidecar(sidecar) = &object.resource else {
                panic!("a Sidecar")
            };
            assert_eq!(object.key().to_string(), "Sidecar shop/s");
            sidecar.as_ref().clone()
        })
    };
    let ingress = "ingress: [{port: {number: 80, protocol: HTTP}, defaultEndpoint: 'unix:///a'}]";
    let broken = stand_in(&format!(
        "{{workloadSelector: {{labels: {{app: web}}}}, {ingress}, egress: [{{port: {{number: 80}}, hosts: [./*]}}, {{hosts: [a/*]}}], outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}}}"
    ))
    .unwrap();
    let selector = broken.workload_selector.unwrap().labels;
    assert_eq!(selector.get("app"), Some("web"));
    assert!(broken.ingress.is_empty());
    let policy = broken.outbound_traffic_policy.unwrap();
    assert_eq!(policy.mode(), OutboundTrafficPolicyMode::RegistryOnly);
    let hosts = |egress: &str| {
        let spec = format!("{{egress: {egress}, {ingress}}}");
        let listeners = stand_in(&spec).unwrap().egress.into_iter();
        let of_port = listeners.map(|one| (one.port.map(|port| port.number), one.hosts.join(" ")));
        of_port.collect::<Vec<_>>()
    };
    let nothing = "~/*".to_owned();
    assert_eq!(
        hosts("[{port: {number: 80}, hosts: [./*]}, {hosts: [a/*]}]"),
        [(Some(80), "./*".to_owned()), (None, "a/*".to_owned())]
    );
    assert_eq!(hosts("[{hosts: [./*, all]}]"), [(None, "./*".to_owned())]);
    // What is left out, or of which port, cannot be read.
    for egress in [
        "everything",
        "[{hosts: ['*/*', '~a']}]",
        "[{hosts: ['*/*', '~A_B/*']}]",
        "[{hosts: []}]",
        "[{hosts: 7}]",
        "[{port: {number: 0}, hosts: ['*/*']}]",
    ] {
        assert_eq!(hosts(egress), [(None, nothing.clone())], "{egress}");
    }
    let twice = hosts("[{hosts: ['*/*']}, {hosts: [./*]}]");
    assert_eq!(twice, [(None, nothing.clone()), (None, nothing)]);
    for policy in [
        "7",
        "{mode: ALLOW}",
        "{mode: ALLOW_ANY, egressProxy: {host: a}}",
    ] {
        let sidecar = stand_in(&format!("{{outboundTrafficPolicy: {policy}}}")).unwrap();
        let policy_read = sidecar.outbound_traffic_policy.unwrap();
        assert_eq!(policy_read, Default::default(), "{policy}");
    }
    assert_eq!(stand_in(&format!("{{{ingress}}}")), None);
}
