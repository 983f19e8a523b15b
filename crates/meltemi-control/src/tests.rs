//! A whole control plane on loopback, with a real xDS client and real certificates.

mod harness;

use meltemi_core::{Identity, TrustDomain};
use meltemi_proto::any;
use meltemi_proto::envoy::config::cluster::v3::Cluster;
use meltemi_proto::type_url::{CLUSTER, ENDPOINT, LISTENER};
use tonic::Code;

use crate::keys::tests::{KEYS, ok, server};
use harness::{Harness, NODE};

const SERVICE: &str = "\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: 8080}]}
";

fn rule(timeout: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{host: web, trafficPolicy: {{connectionPool: {{tcp: {{connectTimeout: {timeout}}}}}}}}}\n"
    )
}

const WEB: &str = "outbound|80||web.shop.svc.cluster.local";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_a_file_reaches_the_proxy_and_a_broken_one_does_not() {
    let harness = Harness::start(&[("web.yaml", SERVICE), ("rule.yaml", &rule("1s"))]).await;
    let token = harness.token("shop", "client");
    let mut proxy = harness.proxy(NODE, Some(&token));
    proxy.subscriptions.subscribe_all(CLUSTER);
    let first = proxy.until(CLUSTER, WEB).await;

    harness.write("rule.yaml", &rule("2s"));
    let second = proxy.until(CLUSTER, WEB).await;
    assert_ne!(first.version, second.version);
    let rows = harness.json("/debug/syncz").await;
    let row = &rows[0];
    assert_eq!(row["proxy"], "client-1.shop");
    assert_ne!(row["cluster_sent"], "");
    assert_eq!(row["listener_sent"], "");

    harness.write("rule.yaml", &rule("never"));
    let diagnostics = harness.until_diagnostic("IST0106").await;
    assert_eq!(diagnostics["location"]["line"], 4);
    assert_eq!(diagnostics["object"]["name"], "web");
    let dump = harness
        .json("/debug/config_dump?proxyID=client-1.shop")
        .await;
    let clusters = dump["configs"][0]["dynamic_active_clusters"]
        .as_array()
        .unwrap();
    let web = clusters
        .iter()
        .find(|c| c["cluster"]["name"] == WEB)
        .unwrap();
    assert_eq!(
        web["cluster"]["connect_timeout"], "2s",
        "the last good one: {web}"
    );

    // Good again: only now something new arrives.
    harness.write("rule.yaml", &rule("3s"));
    let third = proxy.until(CLUSTER, WEB).await;
    assert_ne!(second.version, third.version);
    proxy.subscriptions.subscribe(ENDPOINT, [WEB]);
    proxy.until(ENDPOINT, WEB).await;
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_for_the_identity_of_the_token_and_authenticate_in_turn() {
    let harness = Harness::start(&[("web.yaml", SERVICE)]).await;
    let client = Identity::new(TrustDomain::default(), "shop", "client").unwrap();
    let token = harness.token("shop", "client");
    let certificate = harness.certificate(Some(&token), &client).await.unwrap();
    let validity = certificate.validity();
    let lifetime = validity.not_after.duration_since(validity.not_before);
    let lifetime = lifetime.unwrap().as_secs();
    assert!(
        lifetime <= 60 + 120,
        "capped to the configured lifetime: {lifetime} s"
    );

    // What the request asks for is not believed: the answer names the token's identity, which the client refuses.
    let other = Identity::new(TrustDomain::default(), "bank", "vault").unwrap();
    let refused = harness.certificate(Some(&token), &other).await.unwrap_err();
    assert!(refused.contains("ns/shop/sa/client"), "{refused}");
    let refused = harness.certificate(None, &client).await.unwrap_err();
    assert!(
        refused.contains("Unauthenticated") || refused.contains("authentication"),
        "{refused}"
    );

    let mut proxy = harness.proxy_with_certificate(NODE, &certificate);
    proxy.subscriptions.subscribe_all(CLUSTER);
    proxy.until(CLUSTER, WEB).await;
    let metrics = harness.text("/metrics").await;
    for line in [
        "pilot_xds 1",
        "pilot_xds_pushes_total{type=\"cds\"} ",
        "citadel_server_success_cert_issuance_count 2",
        "pilot_services 1",
        "pilot_info{version=",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_does_not_prove_its_claims_gets_nothing() {
    let harness = Harness::start(&[("web.yaml", SERVICE)]).await;
    let nobody = harness.proxy(NODE, None).until_refused().await;
    assert_eq!(nobody, Code::Unauthenticated);
    let token = harness.token("bank", "vault");
    let other = harness.proxy(NODE, Some(&token)).until_refused().await;
    assert_eq!(other, Code::PermissionDenied);
    assert_eq!(
        harness.json("/debug/syncz").await.as_array().unwrap().len(),
        0
    );
    assert!(
        harness
            .text("/debug/config_dump?proxyID=x.y")
            .await
            .contains("no proxy x.y")
    );
    assert!(
        harness
            .text("/metrics")
            .await
            .contains("pilot_total_xds_refused_total 2")
    );
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn people_see_problems_between_objects_and_what_tls_is_spoken() {
    let route = "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {name: web, namespace: shop}\n\
                 spec:\n  hosts: [web]\n  http:\n  - route:\n    - destination: {host: wbe}\n";
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\n\
                  metadata: {name: default, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n";
    let files = [
        ("web.yaml", SERVICE),
        ("route.yaml", route),
        ("pa.yaml", strict),
    ];
    let harness = Harness::start(&files).await;
    let unknown = harness.until_diagnostic("IST0101").await;
    assert_eq!(unknown["location"]["line"], 8);
    assert!(
        unknown["location"]["file"]
            .as_str()
            .unwrap()
            .ends_with("route.yaml")
    );

    let token = harness.token("shop", "client");
    let mut proxy = harness.proxy(NODE, Some(&token));
    proxy.subscriptions.subscribe_all(CLUSTER);
    proxy.until(CLUSTER, WEB).await;
    let rows = harness
        .json("/debug/authenticationz?proxyID=client-1.shop")
        .await;
    let row = &rows[0];
    assert_eq!(row["host"], "web.shop.svc.cluster.local");
    assert_eq!(row["server_protocol"], "STRICT");
    assert_eq!(row["authentication_policy_name"], "shop/default");
    assert_eq!(row["TLS_conflict_status"], "AUTO");
    harness.stop().await;
}

/// Every change but the last may be merged with the next; the last must arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_changes_ends_in_the_last() {
    let harness = Harness::start(&[("web.yaml", SERVICE), ("rule.yaml", &rule("1s"))]).await;
    let token = harness.token("shop", "client");
    let mut proxy = harness.proxy(NODE, Some(&token));
    proxy.subscriptions.subscribe_all(CLUSTER);
    proxy.until(CLUSTER, WEB).await;
    for seconds in 2..=100 {
        harness.write("rule.yaml", &rule(&format!("{seconds}s")));
    }
    loop {
        let web = proxy.until(CLUSTER, WEB).await;
        let cluster: Cluster = any::unpack(&web.body, CLUSTER).unwrap();
        if cluster.connect_timeout.unwrap().seconds == 100 {
            break;
        }
    }
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_mesh_configuration_map_is_live() {
    let map = |mode: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data:\n  mesh: |\n    connectTimeout: {mode}\n    trustDomain: example.org\n"
        )
    };
    let harness = Harness::start(&[("web.yaml", SERVICE), ("mesh.yaml", &map("1s"))]).await;
    let token = harness.token("shop", "client");
    let client = Identity::new(TrustDomain::new("example.org").unwrap(), "shop", "client").unwrap();
    harness.certificate(Some(&token), &client).await.unwrap();
    let mut proxy = harness.proxy(NODE, Some(&token));
    proxy.subscriptions.subscribe_all(CLUSTER);
    let first = proxy.until(CLUSTER, WEB).await;
    harness.write("mesh.yaml", &map("2s"));
    let second = proxy.until(CLUSTER, WEB).await;
    assert_ne!(first.version, second.version);
    harness.write("mesh.yaml", &map("soon"));
    let diagnostic = harness.until_diagnostic("IST0106").await;
    assert_eq!(diagnostic["object"]["kind"], "ConfigMap");
    assert_eq!(diagnostic["field"], "connectTimeout");
    let location = &diagnostic["location"];
    assert_eq!(
        (&location["line"], &location["column"]),
        (&6.into(), &21.into())
    );
    assert_eq!(location["snippet"], "    connectTimeout: soon");
    harness.stop().await;
}

/// Told of nothing, proxies would drop STRICT with the rest: no answer is better than that one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_configuration_that_was_lost_is_not_served() {
    let harness = Harness::start(&[("web.yaml", SERVICE)]).await;
    let token = harness.token("shop", "client");
    harness.remove("web.yaml");
    let harness = harness.restart(&[]).await;
    harness.until_waiting_for("Services or Pods").await;
    let refused = harness.proxy(NODE, Some(&token)).until_refused().await;
    assert_eq!(refused, Code::Unavailable);
    let client = Identity::new(TrustDomain::default(), "shop", "client").unwrap();
    harness.certificate(Some(&token), &client).await.unwrap();
    assert!(
        harness
            .text("/metrics")
            .await
            .contains("meltemi_config_held 1")
    );

    harness.write("web.yaml", SERVICE);
    harness.until_ready().await;
    let mut proxy = harness.proxy(NODE, Some(&token));
    proxy.subscriptions.subscribe_all(CLUSTER);
    proxy.until(CLUSTER, WEB).await;
    assert!(
        harness
            .text("/metrics")
            .await
            .contains("meltemi_config_held 0")
    );

    // Emptied on purpose.
    harness.remove("web.yaml");
    let harness = harness.restart(&["--accept-empty-config"]).await;
    harness.until_ready().await;
    harness.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_access_log_format_that_proxies_would_refuse_keeps_the_last() {
    let map = |format: &str, timeout: &str| {
        format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\n\
             data:\n  mesh: |\n    accessLogFile: /dev/stdout\n    accessLogFormat: \"{format}\"\n    connectTimeout: {timeout}\n"
        )
    };
    let good = map("%PROTOCOL% good", "1s");
    let harness = Harness::start(&[("web.yaml", SERVICE), ("mesh.yaml", &good)]).await;
    let token = harness.token("shop", "client");
    let mut proxy = harness.proxy(NODE, Some(&token));
    proxy.subscriptions.subscribe_all(CLUSTER);
    proxy.subscriptions.subscribe_all(LISTENER);
    proxy.until(CLUSTER, WEB).await;
    harness.write("mesh.yaml", &map("%PROTOCOLS%", "2s"));
    // The rest of the configuration counts.
    loop {
        let web = proxy.until(CLUSTER, WEB).await;
        let cluster: Cluster = any::unpack(&web.body, CLUSTER).unwrap();
        if cluster.connect_timeout.unwrap().seconds == 2 {
            break;
        }
    }
    let diagnostic = harness.until_diagnostic("IST0106").await;
    assert_eq!(diagnostic["field"], "accessLogFormat");
    assert_eq!(diagnostic["location"]["line"], 7);
    let dump = harness
        .text("/debug/config_dump?proxyID=client-1.shop")
        .await;
    assert!(dump.contains("%PROTOCOL% good") && !dump.contains("PROTOCOLS"));
    harness.stop().await;
}

fn tokens(url: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: tokens, namespace: shop}}\n\
         spec: {{jwtRules: [{{issuer: i, jwksUri: '{url}'}}]}}\n"
    )
}

/// The way of a key from its issuer to a proxy, and what is known where there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_token_issuers_reach_proxies_and_failures_reach_people() {
    let issuer = server(|_| [("/keys", ok(KEYS))].into()).await;
    let (good, bad) = (
        format!("http://{issuer}/keys"),
        format!("http://{issuer}/absent"),
    );
    let allowed = ["--jwks-allowed-cidrs", "127.0.0.1/32"];
    let harness = Harness::start(&[("tokens.yaml", &tokens(&good))]).await;
    // Unless it is told to, the control plane does not talk to its own machine.
    let refused = harness.until_diagnostic("MEL0301").await;
    assert_eq!(refused["field"], "spec.jwtRules[0].jwksUri");
    let harness = harness.restart(&allowed).await;
    harness.until_ready().await;
    let token = harness.token("shop", "client");
    let mut proxy = harness.proxy(NODE, Some(&token));
    proxy.subscriptions.subscribe_all(LISTENER);
    let has = |listener: &meltemi_xds::Resource, key: &str| {
        let text = String::from_utf8_lossy(&listener.body.value);
        text.contains(key)
    };
    let (ours, nobodys) = ("c2VjcmV0", "\"kid\":\"nobody\"");
    // The first that a proxy gets has the keys: a control plane that starts takes none away.
    let listener = proxy.until(LISTENER, "virtualInbound").await;
    assert!(has(&listener, ours) && !has(&listener, nobodys));
    let rows = harness.json("/debug/jwksz").await;
    assert_eq!(
        (&rows[0]["source"], &rows[0]["failure"]),
        (&good.clone().into(), &serde_json::Value::Null)
    );
    let metrics = harness.text("/metrics").await;
    assert!(
        metrics.contains("pilot_jwks_resolver_network_fetch_success_total 1"),
        "{metrics}"
    );
    harness.write("tokens.yaml", &tokens(&bad));
    let listener = proxy.until(LISTENER, "virtualInbound").await;
    assert!(has(&listener, nobodys) && !has(&listener, ours));
    harness.until_diagnostic("MEL0301").await;
    harness.write("tokens.yaml", &tokens(&good));
    let mut listener = proxy.until(LISTENER, "virtualInbound").await;
    while !has(&listener, ours) {
        listener = proxy.until(LISTENER, "virtualInbound").await;
    }
    harness.stop().await;
}
