//! Istio's tasks "Authorization": HTTP traffic, TCP traffic, explicit deny, dry run, as its documentation walks through them.

use meltemi_e2e::{Lab, eventually};

fn policy(name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: default\nspec: {spec}\n"
    )
}

/// The status that a container gets from a URL.
fn status(lab: &Lab, from: &str, container: &str, args: &[&str]) -> String {
    lab.curl(from, container, args).1
}

/// Waits until a call is answered so: a policy is at work as soon as the proxy of the workload has it.
#[track_caller]
fn until(lab: &Lab, from: &str, container: &str, args: &[&str], expected: &str) {
    eventually(&format!("{from} gets {expected} of {args:?}"), || {
        (status(lab, from, container, args) == expected).then_some(())
    });
}

/// "HTTP Traffic": nothing is allowed, then the product page for everybody, then each service for the one before it.
#[test]
fn bookinfo_opens_service_by_service() {
    let lab = Lab::bookinfo("authz-http", &[]);
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.wait_ready();
    let page = ["http://productpage:9080/productpage"];
    let reviews = ["http://reviews:9080/reviews/0"];
    let ratings = ["http://ratings:9080/ratings/0"];
    let curl = ("deploy/curl", "curl");
    let productpage = ("deploy/productpage-v1", "productpage");
    until(&lab, curl.0, curl.1, &page, "200");

    lab.apply(&policy("allow-nothing", "{}"));
    until(&lab, curl.0, curl.1, &page, "403");
    let text = lab.exec(curl.0, curl.1, &["curl", "-sS", page[0]]).ok();
    assert_eq!(text, "RBAC: access denied");

    lab.apply(&policy(
        "productpage-viewer",
        "{selector: {matchLabels: {app: productpage}}, action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]}",
    ));
    until(&lab, curl.0, curl.1, &page, "200");
    let post = ["-X", "POST", page[0]];
    assert_eq!(status(&lab, curl.0, curl.1, &post), "403");
    assert_eq!(status(&lab, productpage.0, productpage.1, &reviews), "403");

    let from = |app: &str, account: &str| {
        policy(
            &format!("{app}-viewer"),
            &format!(
                "{{selector: {{matchLabels: {{app: {app}}}}}, action: ALLOW, rules: [{{from: [{{source: {{principals: \
                 [cluster.local/ns/default/sa/{account}]}}}}], to: [{{operation: {{methods: [GET]}}}}]}}]}}"
            ),
        )
    };
    lab.apply(&from("reviews", "bookinfo-productpage"));
    until(&lab, productpage.0, productpage.1, &reviews, "200");
    assert_eq!(status(&lab, curl.0, curl.1, &reviews), "403");

    lab.apply(&from("ratings", "bookinfo-reviews"));
    until(&lab, "deploy/reviews-v2", "reviews", &ratings, "200");
    assert_eq!(status(&lab, productpage.0, productpage.1, &ratings), "403");

    // The log is written behind the answer.
    let denied = "403 - rbac_access_denied_matched_policy[none]";
    eventually("the access log tells of the denial", || {
        let logs = ["lab", "logs", "deploy/ratings-v1", "-c", "istio-proxy"];
        lab.meltemi(&logs).stdout.contains(denied).then_some(())
    });
    let listed = lab
        .meltemi(&["lab", "get", "authorizationpolicy", "productpage-viewer"])
        .ok();
    let columns: Vec<&str> = listed.split_whitespace().take(5).collect();
    assert_eq!(
        columns,
        ["NAME", "ACTION", "AGE", "productpage-viewer", "ALLOW"]
    );

    // What is asked before a call agrees with what the call gets.
    let can = |from: &str, to: &str| lab.meltemi(&["authz", "can", from, to]);
    let denied = can("deploy/curl", "deploy/ratings-v1");
    assert_eq!(denied.status, 77, "{denied:?}");
    let allowed = can("deploy/reviews-v2", "deploy/ratings-v1").ok();
    let because = "because: AuthorizationPolicy default/ratings-viewer, spec.rules[0], ALLOW";
    assert!(allowed.contains(because), "{allowed}");
    let enforced = lab
        .meltemi(&["x", "authz", "check", "deploy/ratings-v1"])
        .ok();
    let rows: Vec<Vec<&str>> = enforced
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(
        rows,
        [
            ["ACTION", "AuthorizationPolicy", "RULES"],
            ["ALLOW", "allow-nothing.default", "0"],
            ["ALLOW", "ratings-viewer.default", "1"],
        ]
    );

    // What goes is gone.
    lab.meltemi(&["lab", "delete", "ap", "allow-nothing", "productpage-viewer"])
        .ok();
    eventually("the page is open to everything", || {
        (status(&lab, curl.0, curl.1, &post) != "403").then_some(())
    });
}

/// "Explicit Deny": a denial beats what is allowed, and a header may lift it.
#[test]
fn a_denial_lifts_for_a_header() {
    let lab = Lab::up("authz-deny", &[]);
    lab.apply_file(&meltemi_e2e::istio("httpbin/httpbin.yaml"));
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.wait_ready();
    let get = |more: &[&'static str]| {
        let mut args = more.to_vec();
        args.push("http://httpbin:8000/get");
        args
    };
    let curl = ("deploy/curl", "curl");
    until(&lab, curl.0, curl.1, &get(&[]), "200");
    lab.apply(&policy(
        "deny-method-get",
        "{selector: {matchLabels: {app: httpbin}}, action: DENY, rules: [{to: [{operation: {methods: [GET]}}], \
         when: [{key: 'request.headers[x-token]', notValues: [admin]}]}]}",
    ));
    until(&lab, curl.0, curl.1, &get(&[]), "403");
    assert_eq!(
        status(&lab, curl.0, curl.1, &get(&["-H", "x-token: admin"])),
        "200"
    );
    assert_eq!(
        status(&lab, curl.0, curl.1, &get(&["-H", "x-token: guest"])),
        "403"
    );
    lab.apply(&policy(
        "allow-path-ip",
        "{selector: {matchLabels: {app: httpbin}}, action: ALLOW, rules: [{to: [{operation: {paths: [/ip]}}]}]}",
    ));
    let token = ["-H", "x-token: admin"];
    until(&lab, curl.0, curl.1, &get(&token), "403");
    let ip = ["-H", "x-token: admin", "http://httpbin:8000/ip"];
    assert_eq!(status(&lab, curl.0, curl.1, &ip), "200");
    assert_eq!(
        status(&lab, curl.0, curl.1, &["http://httpbin:8000/ip"]),
        "403"
    );
}

/// "Dry Run": the policy decides nothing, and its numbers and its name say what it would.
#[test]
fn a_dry_run_counts_what_it_would_deny() {
    let lab = Lab::up("authz-dry", &[]);
    lab.apply_file(&meltemi_e2e::istio("httpbin/httpbin.yaml"));
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.wait_ready();
    let headers = ["http://httpbin:8000/headers"];
    until(&lab, "deploy/curl", "curl", &headers, "200");
    lab.apply(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: deny-path-headers\n  namespace: default\n  \
         annotations:\n    istio.io/dry-run: 'true'\nspec:\n  selector:\n    matchLabels:\n      app: httpbin\n  action: DENY\n  \
         rules:\n  - to:\n    - operation:\n        paths: [/headers]\n",
    );
    let would = "authz_dry_run_action=\"deny\",authz_dry_run_result=\"denied\"} ";
    let metrics = eventually("the dry run counts", || {
        assert_eq!(status(&lab, "deploy/curl", "curl", &headers), "200");
        let path = "stats/prometheus";
        let call = ["pilot-agent", "request", "GET", path];
        let metrics = lab.exec("deploy/httpbin", "istio-proxy", &call).ok();
        metrics.contains(would).then_some(metrics)
    });
    let line = metrics.lines().find(|line| line.contains(would)).unwrap();
    assert!(
        line.starts_with("envoy_http_inbound_0_0_0_0_8080_rbac{"),
        "{line}"
    );
    lab.meltemi(&[
        "lab",
        "annotate",
        "ap",
        "deny-path-headers",
        "istio.io/dry-run=false",
        "--overwrite",
    ])
    .ok();
    until(&lab, "deploy/curl", "curl", &headers, "403");
}

/// What an echo server on a port answers a line.
fn echoed(lab: &Lab, port: u16) -> String {
    let call = format!("echo 'port {port}' | nc -w 5 tcp-echo {port}");
    let output = lab.exec("deploy/curl", "curl", &["sh", "-c", &call]);
    output.stdout.trim().to_owned()
}

/// "TCP Traffic": ports are allowed one by one; what looks at requests allows nothing, and denies everything.
#[test]
fn connections_are_allowed_and_denied_by_port() {
    let lab = Lab::up("authz-tcp", &[]);
    lab.apply_file(&meltemi_e2e::istio("tcp-echo/tcp-echo.yaml"));
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.wait_ready();
    let answers = |ports: [bool; 2]| {
        let expected = [(9000, ports[0]), (9001, ports[1])];
        eventually(&format!("ports 9000 and 9001 answer {ports:?}"), || {
            let is = |(port, answers): (u16, bool)| {
                let expected = format!("hello port {port}");
                echoed(&lab, port) == if answers { expected.as_str() } else { "" }
            };
            expected.into_iter().all(is).then_some(())
        });
    };
    answers([true, true]);
    let tcp = |action: &str, operation: &str| {
        policy(
            "tcp-policy",
            &format!(
                "{{selector: {{matchLabels: {{app: tcp-echo}}}}, action: {action}, rules: [{{to: [{{operation: {{{operation}}}}}]}}]}}"
            ),
        )
    };
    lab.apply(&tcp("ALLOW", "ports: ['9000']"));
    answers([true, false]);
    lab.apply(&tcp("ALLOW", "methods: [GET], ports: ['9000']"));
    answers([false, false]);
    lab.apply(&tcp("DENY", "methods: [GET], ports: ['9000']"));
    answers([false, true]);
}
