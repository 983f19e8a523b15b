//! Istio's task "External Authorization", over HTTP and over gRPC, on requests and on connections.

use meltemi_e2e::{Lab, eventually};

const CURL: (&str, &str) = ("deploy/curl", "curl");
const DENIAL: &str = "denied by ext_authz for not found header `x-ext-authz: allow` in the request";

pub(crate) fn policy(name: &str, provider: &str, app: &str, rules: &str) -> String {
    format!(
        "---\napiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata:\n  name: {name}\n  namespace: default\n\
         spec: {{selector: {{matchLabels: {{app: {app}}}}}, action: CUSTOM, provider: {{name: {provider}}}, rules: {rules}}}\n"
    )
}

/// What MeshConfig says, with these providers.
pub(crate) fn mesh(providers: &str) -> String {
    format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: istio\n  namespace: istio-system\ndata:\n  mesh: |\n    \
         accessLogFile: /dev/stdout\n    extensionProviders: [{providers}]\n"
    )
}

pub(crate) const PROVIDERS: &str = "{name: sample-ext-authz-grpc, envoyExtAuthzGrpc: {service: ext-authz.default.svc.cluster.local, port: 9000}}, \
    {name: sample-ext-authz-http, envoyExtAuthzHttp: {service: ext-authz.default.svc.cluster.local, port: 8000, includeRequestHeadersInCheck: [x-ext-authz], \
    headersToUpstreamOnAllow: [x-ext-authz-check-result], headersToDownstreamOnDeny: [x-ext-authz-check-result]}}, \
    {name: nobody, envoyExtAuthzGrpc: {service: gone.default.svc.cluster.local, port: 9000}}";

fn get(lab: &Lab, path: &str, headers: &[&str]) -> (String, String) {
    let url = format!("http://httpbin:8000{path}");
    let mut call = vec!["curl", "-sS", "-i", "-m", "5", &url];
    for header in headers {
        call.extend(["-H", header]);
    }
    let answer = lab.exec(CURL.0, CURL.1, &call).ok();
    let status = answer.split_whitespace().nth(1).unwrap_or_default();
    (status.to_owned(), answer)
}

#[track_caller]
fn until(lab: &Lab, path: &str, headers: &[&str], expected: &str) -> String {
    eventually(
        &format!("{path} with {headers:?} is answered {expected}"),
        || {
            let (status, answer) = get(lab, path, headers);
            (status == expected).then_some(answer)
        },
    )
}

#[test]
fn an_authorizer_of_ones_own_decides() {
    let lab = Lab::up("ext-authz", &[]);
    lab.apply_file(&meltemi_e2e::istio("extauthz/ext-authz.yaml"));
    lab.apply_file(&meltemi_e2e::istio("httpbin/httpbin.yaml"));
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.wait_ready();
    until(&lab, "/ip", &[], "200");
    lab.apply(&mesh(PROVIDERS));

    let headers_only = "[{to: [{operation: {paths: [/headers]}}]}]";
    for kind in ["grpc", "http"] {
        let provider = format!("sample-ext-authz-{kind}");
        lab.apply(&policy("ext-authz", &provider, "httpbin", headers_only));
        // The policy before was for the other one.
        let face = if kind == "grpc" { "gRPCv3" } else { "HTTP" };
        let denied = eventually("the authorizer denies", || {
            let (status, answer) = get(&lab, "/headers", &["x-ext-authz: deny"]);
            let logs = lab.meltemi(&["lab", "logs", "deploy/ext-authz", "-c", "ext-authz"]);
            let is_asked = logs.stdout.contains(&format!("[{face}][denied]"));
            (status == "403" && answer.contains(DENIAL) && is_asked).then_some(answer)
        });
        assert!(
            denied.contains("x-ext-authz-check-result: denied"),
            "{denied}"
        );
        let (status, allowed) = get(&lab, "/headers", &["x-ext-authz: allow"]);
        assert_eq!(status, "200", "{allowed}");
        // The application is told what the authorizer said.
        let told = allowed.to_lowercase();
        assert!(told.contains("x-ext-authz-check-result"), "{allowed}");
        assert_eq!(get(&lab, "/ip", &[]).0, "200");
        eventually("the access log tells who denied", || {
            let logs = ["lab", "logs", "deploy/httpbin", "-c", "istio-proxy"];
            let line = "403 UAEX ext_authz_denied";
            lab.meltemi(&logs).stdout.contains(line).then_some(())
        });
    }

    // Who is not there allows nothing, and the author is told.
    lab.apply(&policy("ext-authz", "nobody", "httpbin", headers_only));
    let denied = eventually("nobody is asked", || {
        let (status, answer) = get(&lab, "/headers", &["x-ext-authz: allow"]);
        (status == "403").then_some(answer)
    });
    assert!(denied.contains("RBAC: access denied"), "{denied}");
    let told = lab.meltemi(&["analyze"]);
    assert!(told.stdout.contains("MEL0212"), "{told:?}");

    // An authorizer that has gone away allows nothing, either.
    lab.apply(&policy(
        "ext-authz",
        "sample-ext-authz-grpc",
        "httpbin",
        headers_only,
    ));
    until(&lab, "/headers", &["x-ext-authz: allow"], "200");
    lab.meltemi(&["lab", "scale", "deploy/ext-authz", "--replicas", "0"])
        .ok();
    let denied = eventually("the authorizer is gone", || {
        let (status, answer) = get(&lab, "/headers", &["x-ext-authz: allow"]);
        (status == "403").then_some(answer)
    });
    assert!(!denied.contains("RBAC"), "{denied}");
}

/// Of a connection the authorizer knows who makes it.
#[test]
fn an_authorizer_judges_connections() {
    let lab = Lab::up("ext-authz-tcp", &[]);
    lab.apply_file(&meltemi_e2e::istio("extauthz/ext-authz.yaml"));
    lab.apply_file(&meltemi_e2e::istio("tcp-echo/tcp-echo.yaml"));
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.wait_ready();
    lab.apply(&mesh(PROVIDERS));
    let says = |lab: &Lab| {
        let call = "echo port 9000 | nc -w 2 tcp-echo 9000";
        lab.exec(CURL.0, CURL.1, &["sh", "-c", call]).stdout
    };
    eventually("tcp-echo answers", || {
        says(&lab).contains("hello port 9000").then_some(())
    });
    // The sample's authorizer allows the service account `a`, which nobody has.
    lab.apply(&policy(
        "tcp",
        "sample-ext-authz-grpc",
        "tcp-echo",
        "[{to: [{operation: {ports: ['9000']}}]}]",
    ));
    eventually("connections are refused", || {
        says(&lab).is_empty().then_some(())
    });
    let logs = lab.meltemi(&["lab", "logs", "deploy/ext-authz", "-c", "ext-authz"]);
    let asked = "principal: spiffe://cluster.local/ns/default/sa/curl";
    assert!(logs.stdout.contains(asked), "{logs:?}");
}

/// The task's other way: the authorizer is a container of the pod, behind ServiceEntries of the pod's own address, and the proxy
/// holds only what it needs.
#[test]
fn an_authorizer_in_the_pod_is_found_whatever_is_imported() {
    let lab = Lab::up("ext-authz-local", &[]);
    lab.apply_file(&meltemi_e2e::sample("extauthz/local-ext-authz.yaml"));
    lab.apply_file(&meltemi_e2e::istio("curl/curl.yaml"));
    lab.apply(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata:\n  name: httpbin\n  namespace: default\n\
         spec: {workloadSelector: {labels: {app: httpbin}}, egress: [{hosts: ['./curl.default.svc.cluster.local']}]}\n",
    );
    lab.wait_ready();
    lab.apply(&mesh(
        "{name: grpc, envoyExtAuthzGrpc: {service: ext-authz-grpc.local, port: 9000}}, \
         {name: http, envoyExtAuthzHttp: {service: default/ext-authz-http.local, port: 8000, includeRequestHeadersInCheck: [x-ext-authz]}}",
    ));
    for provider in ["grpc", "http"] {
        lab.apply(&policy("ext-authz", provider, "httpbin", "[{}]"));
        eventually(&format!("the authorizer over {provider} denies"), || {
            let (status, answer) = get(&lab, "/headers", &[]);
            (status == "403" && answer.contains(DENIAL)).then_some(())
        });
        until(&lab, "/headers", &["x-ext-authz: allow"], "200");
        lab.meltemi(&["lab", "delete", "ap", "ext-authz"]).ok();
        until(&lab, "/headers", &[], "200");
    }
}
