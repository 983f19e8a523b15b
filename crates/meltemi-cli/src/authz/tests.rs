use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::Rule;
use crate::exit;
use crate::fake::Fake;

/// `web` behind a Service on port 8080, called by `sleep` with a sidecar and `legacy` without one.
const MESH: &str = "
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-x, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: http, port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.1], targetRef: {kind: Pod, name: web}, conditions: {ready: true}}]
";

fn pod(name: &str, address: &str, labels: &str) -> String {
    format!(
        "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, labels: {{app: {name}{labels}}}}}\n\
         spec: {{serviceAccountName: {name}, containers: [{{name: app, image: a}}]}}\n\
         status: {{phase: Running, podIP: {address}, conditions: [{{type: Ready, status: 'True'}}]}}\n"
    )
}

fn policy(name: &str, more: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}{more}}}\nspec: {spec}\n"
    )
}

fn mesh(policies: &[String]) -> Fake {
    let sidecar = ", security.istio.io/tlsMode: istio";
    let objects = [
        MESH.to_owned(),
        pod("web", "10.244.0.1", sidecar),
        pod("sleep", "10.244.0.2", sidecar),
        pod("legacy", "10.244.0.3", ""),
    ];
    Fake {
        objects: [&objects[..], policies].concat().concat(),
        ..Fake::default()
    }
    .pod("web", "10.244.0.1", &["app", "istio-proxy"])
    .pod("sleep", "10.244.0.2", &["app", "istio-proxy"])
    .pod("legacy", "10.244.0.3", &["app"])
}

/// Exit status and answer.
fn can(fake: &Fake, words: &[&str]) -> (u8, String) {
    let line = [&["authz", "can"], words].concat();
    let output = fake.run(&line);
    (output.status, output.stdout + &output.stderr)
}

#[test]
fn a_call_is_judged_by_the_policies_that_reach_it() {
    let viewer = "{selector: {matchLabels: {app: web}}, rules: [{to: [{operation: {methods: [PUT]}}]}, \
        {from: [{source: {principals: [cluster.local/ns/default/sa/sleep]}}], to: [{operation: {paths: ['/info*'], ports: ['8080']}}]}]}";
    let fake = mesh(&[policy("viewer", "", viewer)]);
    assert_eq!(
        can(&fake, &["sleep", "web", "--path", "/info?x=1"]),
        (
            0,
            "ALLOW: GET /info?x=1 from sleep.default to web.default:8080\n\
             \x20 because: AuthorizationPolicy default/viewer, spec.rules[1], ALLOW\n\
             \x20 caller:  cluster.local/ns/default/sa/sleep (mutual TLS)\n"
                .to_owned()
        )
    );
    assert_eq!(
        can(&fake, &["legacy", "web", "--path", "/info"]),
        (
            exit::DENIED,
            "DENY: GET /info from legacy.default to web.default:8080\n\
             \x20 because: no rule of an ALLOW policy matches\n\
             \x20 caller:  unknown (plain text)\n"
                .to_owned()
        )
    );
    // What is hidden in a path is found as the proxy finds it.
    let hidden = can(&fake, &["sleep", "web", "--path", "/info/../admin"]);
    assert_eq!(hidden.0, exit::DENIED, "{}", hidden.1);
    assert_eq!(can(&fake, &["sleep", "web", "--method", "PUT"]).0, 0);
    let plain = can(&fake, &["sleep", "web", "--path", "/info", "--plain"]);
    assert_eq!(plain.0, exit::DENIED, "{}", plain.1);
    // The port has no chains of its own, and what listens there is no HTTP that is known of.
    assert_eq!(
        can(&fake, &["sleep", "web", "--path", "/info", "--port", "1"]).0,
        exit::DENIED
    );
}

#[test]
fn without_policies_and_with_strict_ones() {
    let open = can(&mesh(&[]), &["legacy", "web"]);
    assert_eq!(open.0, 0);
    assert!(
        open.1
            .contains("because: no policy denies it, and there is none of ALLOW"),
        "{}",
        open.1
    );
    let strict = "---\napiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: a}\nspec: {mtls: {mode: STRICT}}\n";
    let fake = mesh(&[strict.to_owned()]);
    let refused = can(&fake, &["legacy", "web"]);
    assert_eq!(refused.0, exit::DENIED);
    assert!(
        refused
            .1
            .contains("because: the connection is refused: it needs mutual TLS"),
        "{}",
        refused.1
    );
    assert_eq!(can(&fake, &["sleep", "web"]).0, 0);
}

/// As it would be sent; nobody looks at its signature.
fn token(claims: &Value) -> String {
    let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
    let header = json!({"alg": "RS256", "kid": "a"});
    format!("{}.{}.c2lnbmVk", encode(&header), encode(claims))
}

#[test]
fn a_token_is_taken_for_genuine_and_judged_otherwise() {
    let request = "---\napiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {name: a}\n\
        spec: {jwtRules: [{issuer: me@example.com, audiences: [web], jwksUri: 'https://example.com/keys'}]}\n";
    let groups = "{rules: [{from: [{source: {requestPrincipals: ['me@example.com/*']}}], \
        when: [{key: 'request.auth.claims[groups]', values: [ops]}]}]}";
    let fake = mesh(&[request.to_owned(), policy("groups", "", groups)]);
    let claims =
        json!({"iss": "me@example.com", "sub": "joe", "aud": "web", "groups": ["dev", "ops"]});
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims.clone();
        change(&mut claims);
        can(&fake, &["sleep", "web", "--jwt", &token(&claims)])
    };
    let allowed = with(&|_| {});
    assert_eq!(allowed.0, 0, "{}", allowed.1);
    assert!(
        allowed
            .1
            .contains("AuthorizationPolicy default/groups, spec.rules[0], ALLOW")
    );
    assert_eq!(can(&fake, &["sleep", "web"]).0, exit::DENIED);
    let other = with(&|claims| claims["groups"] = json!(["dev"]));
    assert!(
        other.1.contains("no rule of an ALLOW policy matches"),
        "{}",
        other.1
    );
    for (claim, value, why) in [
        (
            "iss",
            json!("you@example.com"),
            "Jwt issuer is not configured",
        ),
        ("aud", json!("api"), "Audiences in Jwt are not allowed"),
        ("exp", json!(1), "Jwt is expired"),
    ] {
        let refused = with(&|claims| claims[claim] = value.clone());
        assert_eq!(refused.0, exit::DENIED);
        let because = format!("because: the token is refused: {why}");
        assert!(refused.1.contains(&because), "{}", refused.1);
    }
    let nonsense = can(&fake, &["sleep", "web", "--jwt", "nonsense"]);
    assert!(
        nonsense
            .1
            .contains("the token is refused: Jwt is not in the form"),
        "{}",
        nonsense.1
    );
}

#[test]
fn a_file_is_judged_as_if_it_were_applied() {
    let file = tempfile::NamedTempFile::with_suffix(".yaml").unwrap();
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: deny\nspec:\n  action: DENY\n  rules:\n  \
        - when:\n    - key: request.headers[x-role]\n      notValues: [admin]\n";
    std::fs::write(file.path(), deny).unwrap();
    let path = file.path().to_str().unwrap();
    let fake = mesh(&[]);
    let denied = can(&fake, &["sleep", "web", "-f", path]);
    assert_eq!(denied.0, exit::DENIED);
    let place = format!("AuthorizationPolicy default/deny, spec.rules[0], DENY ({path}:8)");
    assert!(denied.1.contains(&place), "{}", denied.1);
    assert_eq!(
        can(&fake, &["sleep", "web", "-f", path, "-H", "x-role: admin"]).0,
        0
    );
    let output = fake.run(&["authz", "can", "sleep", "web", "-f", path, "-o", "json"]);
    let answer: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        answer,
        json!({
            "allowed": false, "from": "sleep.default", "to": "web.default:8080", "http": true,
            "caller": "cluster.local/ns/default/sa/sleep", "reason": null, "dryRuns": [], "asks": null,
            "decidedBy": {"action": "DENY", "allowed": false, "policy": "default/deny", "rule": 0, "location": format!("{path}:8")},
        })
    );
    std::fs::write(file.path(), deny.replace("notValues", "noValues")).unwrap();
    let broken = can(&fake, &["sleep", "web", "-f", path]);
    assert!(
        broken.0 == exit::DATA && broken.1.contains("a condition needs values or notValues"),
        "{}",
        broken.1
    );
}

/// What an authorizer says nobody knows before it is asked.
#[test]
fn an_authorizer_is_told_of() {
    let spec =
        "{action: CUSTOM, provider: {name: opa}, rules: [{to: [{operation: {methods: [GET]}}]}]}";
    let config = "extensionProviders: [{name: opa, envoyExtAuthzGrpc: {service: web.default.svc.cluster.local, port: 80}}]";
    let config = format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata: {{mesh: '{config}'}}\n"
    );
    let fake = mesh(&[policy("ask", "", spec), config]);
    let (status, text) = can(&fake, &["sleep", "web"]);
    assert_eq!(status, 0, "{text}");
    assert!(
        text.starts_with("ALLOW if the authorizer does: GET / "),
        "{text}"
    );
    let line = "  asks:    by AuthorizationPolicy default/ask, spec.rules[0], CUSTOM\n";
    assert!(text.contains(line), "{text}");
    // Without it, the same rules deny.
    let fake = mesh(&[policy("ask", "", spec)]);
    let (status, text) = can(&fake, &["sleep", "web"]);
    assert_eq!(status, exit::DENIED, "{text}");
}

#[test]
fn a_dry_run_is_told_and_decides_nothing() {
    let spec = "{action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]}";
    let fake = mesh(&[policy(
        "tried",
        ", annotations: {istio.io/dry-run: 'true'}",
        spec,
    )]);
    let (status, text) = can(&fake, &["sleep", "web"]);
    assert_eq!(status, 0);
    let line = "  dry run: would deny: AuthorizationPolicy default/tried, spec.rules[0], DENY\n";
    assert!(text.contains(line), "{text}");
}

#[test]
fn questions_that_cannot_be_answered() {
    let fake = mesh(&[]);
    let (status, text) = can(&fake, &["sleep", "legacy"]);
    assert!(
        status == exit::DATA && text.contains("legacy.default has no proxy"),
        "{text}"
    );
    let (status, text) = can(&fake, &["sleep", "sleep"]);
    assert!(
        status == exit::USAGE && text.contains("Name one with --port"),
        "{text}"
    );
    assert_eq!(can(&fake, &["sleep", "nobody"]).0, exit::DATA);
    assert_eq!(
        can(&fake, &["sleep", "web", "--path", "/a%zz"]).0,
        exit::DATA
    );
    let away = Fake {
        unreachable: true,
        ..Fake::default()
    };
    assert_eq!(can(&away, &["a", "b"]).0, exit::UNREACHABLE);
}

#[test]
fn names_of_rules_name_policies() {
    let rule =
        Rule::parse("istio-ext-authz-opa-ns[a]-policy[b]-rule[12]-deny-due-to-bad-CUSTOM-action");
    let rule = rule.unwrap();
    assert_eq!(
        (rule.policy.to_string(), rule.index, rule.is_custom),
        ("AuthorizationPolicy a/b".to_owned(), 12, true)
    );
    for other in ["", "p", "ns[a]-policy[b]", "ns[a]-policy[b]-rule[x]"] {
        assert_eq!(Rule::parse(other), None, "{other}");
    }
}

/// istioctl's columns.
#[test]
fn check_lists_what_a_proxy_enforces() {
    let rule = |names: &[&str]| -> Value {
        let any = json!({"permissions": [{"andRules": {"rules": [{"any": true}]}}]});
        names
            .iter()
            .map(|name| ((*name).to_owned(), any.clone()))
            .collect()
    };
    let rbac = |rules: Value, shadow: Value| {
        json!({"name": "envoy.filters.http.rbac", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": rules, "shadowRules": shadow}})
    };
    let never = json!({"ns[default]-policy[nothing]-rule[0]": {"permissions": [{"notRule": {"any": true}}]}});
    let filters = json!([
        // Evaluated like a dry run, and enforced by the authorizer behind it.
        rbac(
            Value::Null,
            json!({"action": "DENY", "policies": rule(&["istio-ext-authz-opa-ns[default]-policy[asked]-rule[0]"])}),
        ),
        rbac(
            json!({"action": "LOG", "policies": rule(&["ns[istio-system]-policy[audit]-rule[0]"])}),
            Value::Null
        ),
        rbac(
            json!({"action": "DENY", "policies": rule(&["ns[default]-policy[a]-rule[0]", "ns[default]-policy[a]-rule[1]"])}),
            json!({"action": "DENY", "policies": rule(&["ns[default]-policy[tried]-rule[0]"])}),
        ),
        rbac(json!({"policies": never}), Value::Null),
    ]);
    let manager = json!({"filters": [{"typedConfig": {"httpFilters": filters}}]});
    // The same filters stand in every chain.
    let listener = json!({"name": "virtualInbound", "filterChains": [manager, manager]});
    let dump = json!({"configs": [{
        "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
        "dynamicListeners": [{"name": "virtualInbound", "activeState": {"listener": listener}}]}]});
    let fake = mesh(&[]).answer("web GET /config_dump?include_eds", &dump);
    let output = fake.run(&["x", "authz", "check", "web"]);
    let rows: Vec<Vec<&str>> = output
        .stdout
        .lines()
        .map(|line| {
            line.split("  ")
                .map(str::trim)
                .filter(|word| !word.is_empty())
                .collect()
        })
        .collect();
    assert_eq!(
        rows,
        [
            vec!["ACTION", "AuthorizationPolicy", "RULES"],
            vec!["CUSTOM", "asked.default", "1"],
            vec!["AUDIT", "audit.istio-system", "1"],
            vec!["DENY", "a.default", "2"],
            vec!["DENY (dry run)", "tried.default", "1"],
            vec!["ALLOW", "nothing.default", "0"],
        ],
        "{}",
        output.stderr
    );
    let output = fake.run(&["authz", "check", "web", "-o", "json"]);
    let list: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(
        list[3],
        json!({"action": "DENY", "authorizationPolicy": "tried.default", "rules": 1, "dryRun": true})
    );
}
