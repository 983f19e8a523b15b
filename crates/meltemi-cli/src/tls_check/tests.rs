use serde_json::{Value, json};

use crate::fake::{Fake, Output};

const HOST: &str = "ratings.default.svc.cluster.local";
const PROBE: &str = "productpage-v1-7d4c9f5b6c-x2b4k POST \
    /tls/probe?cluster=outbound%7C9080%7C%7Cratings%2Edefault%2Esvc%2Ecluster%2Elocal";
const SOURCE: &str = "productpage-v1-7d4c9f5b6c-x2b4k";
const FIRST: &str = "ratings-v1-7d4c9f5b6c-ccccc";
const SECOND: &str = "ratings-v1-7d4c9f5b6c-bbbbb";

fn mtls(endpoint: &str) -> Value {
    json!({
        "cluster": format!("outbound|9080||{HOST}"), "endpoint": endpoint, "mode": "mtls",
        "local_identity": "spiffe://cluster.local/ns/default/sa/productpage",
        "peer_identity": "spiffe://cluster.local/ns/default/sa/ratings",
        "tls_version": "TLSv1.3", "cipher": "TLS13_AES_128_GCM_SHA256", "key_exchange": "X25519MLKEM768",
        "alpn": "istio", "handshakes": 3, "connections": 3, "last_handshake": "2026-06-01T11:59:58Z", "last_error": ""
    })
}

fn plaintext(endpoint: &str) -> Value {
    json!({"cluster": format!("outbound|9080||{HOST}"), "endpoint": endpoint, "mode": "plaintext"})
}

fn row(server: &str, client: &str, status: &str) -> Value {
    json!({
        "host": HOST, "port": 9080, "authentication_policy_name": "default/default",
        "destination_rule_name": "default/ratings", "server_protocol": server, "client_protocol": client,
        "TLS_conflict_status": status
    })
}

/// A mesh in which productpage calls two pods of ratings; what each part says is up to the test.
struct Setup {
    row: Value,
    traffic: Vec<Value>,
    probe: Vec<Value>,
    first: &'static str,
    second: &'static str,
    second_has_sidecar: bool,
    hosts: &'static [&'static str],
}

impl Default for Setup {
    fn default() -> Self {
        let handshakes = || vec![mtls("10.244.0.2:9080"), mtls("10.244.0.3:9080")];
        Self {
            row: row("STRICT", "ISTIO_MUTUAL", "OK"),
            traffic: handshakes(),
            probe: handshakes(),
            first: "STRICT",
            second: "STRICT",
            second_has_sidecar: true,
            hosts: &["10.244.0.2", "10.244.0.3"],
        }
    }
}

impl Setup {
    fn mesh(&self) -> Fake {
        let inbound = |mode: &str| json!({"inbound": [{"port": 9080, "mode": mode}], "upstream": [], "downstream": []});
        let second = if self.second_has_sidecar {
            &["ratings", "istio-proxy"][..]
        } else {
            &["ratings"]
        };
        let other = json!({"cluster": "outbound|9080||reviews.default.svc.cluster.local", "endpoint": "10.244.0.9:9080", "mode": "plaintext"});
        let traffic: Vec<Value> = self.traffic.iter().cloned().chain([other]).collect();
        let host = |address: &&str| json!({"address": {"socket_address": {"address": address, "port_value": 9080}}});
        let hosts: Vec<Value> = self.hosts.iter().map(host).collect();
        let clusters = json!({"cluster_statuses": [{"name": format!("outbound|9080||{HOST}"), "host_statuses": hosts}]});
        Fake::default()
            .answer(&format!("{SOURCE} GET /clusters?format=json"), &clusters)
            .pod(SOURCE, "10.244.0.1", &["productpage", "istio-proxy"])
            .pod(FIRST, "10.244.0.2", &["ratings", "istio-proxy"])
            .pod(SECOND, "10.244.0.3", second)
            .answer(
                &format!("istiod GET /debug/authenticationz?proxyID={SOURCE}.default"),
                &json!([self.row]),
            )
            .answer(
                &format!("{SOURCE} GET /tls"),
                &json!({"inbound": [], "upstream": traffic}),
            )
            .answer(PROBE, &json!({"upstream": self.probe}))
            .answer(&format!("{FIRST} GET /tls"), &inbound(self.first))
            .answer(&format!("{SECOND} GET /tls"), &inbound(self.second))
    }

    fn check(&self) -> Output {
        self.mesh()
            .run(&["authn", "tls-check", "productpage-v1", "ratings"])
    }

    fn verdict(&self) -> String {
        let output = self.check();
        assert_eq!((output.status, output.stderr.as_str()), (0, ""));
        output.stdout.lines().last().unwrap().to_owned()
    }
}

#[test]
fn the_table_the_evidence_and_the_verdict() {
    insta::assert_snapshot!(Setup::default().check().stdout);
}

/// Six meshes whose words are not what they do.
mod lies {
    use super::*;

    #[test]
    fn strict_by_policy_but_a_destination_without_sidecar() {
        let setup = Setup {
            probe: vec![mtls("10.244.0.2:9080"), plaintext("10.244.0.3:9080")],
            second_has_sidecar: false,
            ..Setup::default()
        };
        assert_eq!(
            setup.verdict(),
            "MODE: MIXED (1 of 2 mTLS (STRICT), 1 of 2 PLAINTEXT (no sidecar at the destination))"
        );
    }

    #[test]
    fn strict_by_policy_but_the_proxies_still_take_plaintext() {
        let setup = Setup {
            first: "PERMISSIVE",
            second: "PERMISSIVE",
            ..Setup::default()
        };
        let output = setup.check().stdout;
        assert!(
            output.contains("NOTE: The policies say otherwise"),
            "{output}"
        );
        assert!(output.ends_with("\nMODE: mTLS (PERMISSIVE)\n"), "{output}");
    }

    #[test]
    fn mtls_by_policy_but_the_source_sends_plaintext() {
        let setup = Setup {
            probe: vec![plaintext("10.244.0.2:9080"), plaintext("10.244.0.3:9080")],
            ..Setup::default()
        };
        assert_eq!(
            setup.verdict(),
            "MODE: CONFLICT (the source sends plaintext, the destination requires mTLS and resets it)"
        );
    }

    #[test]
    fn a_good_handshake_of_yesterday_that_fails_today() {
        let mut failing = mtls("10.244.0.2:9080");
        failing["last_error"] = json!("certificate expired");
        let setup = Setup {
            probe: vec![failing],
            hosts: &["10.244.0.2"],
            ..Setup::default()
        };
        assert_eq!(
            setup.verdict(),
            "MODE: CONFLICT (the connection fails: certificate expired)"
        );
    }

    #[test]
    fn mtls_claimed_without_any_handshake() {
        let claim = json!({"cluster": format!("outbound|9080||{HOST}"), "endpoint": "10.244.0.2:9080", "mode": "mtls"});
        let setup = Setup {
            traffic: vec![],
            probe: vec![claim],
            hosts: &["10.244.0.2"],
            ..Setup::default()
        };
        assert_eq!(
            setup.verdict(),
            "MODE: UNKNOWN (mtls is configured, no handshake has been made)"
        );
    }

    #[test]
    fn disabled_by_policy_but_encrypted_and_enforced() {
        let setup = Setup {
            row: row("DISABLE", "DISABLE", "OK"),
            ..Setup::default()
        };
        let output = setup.check().stdout;
        assert!(
            output.contains("NOTE: The policies say otherwise"),
            "{output}"
        );
        assert!(output.ends_with("\nMODE: mTLS (STRICT)\n"), "{output}");
    }

    #[test]
    fn a_conflict_by_policy_that_works() {
        let setup = Setup {
            row: row("STRICT", "DISABLE", "CONFLICT"),
            ..Setup::default()
        };
        assert_eq!(setup.verdict(), "MODE: mTLS (STRICT)");
    }
}

#[test]
fn disabled_is_plaintext() {
    let setup = Setup {
        row: row("DISABLE", "-", "OK"),
        probe: vec![plaintext("10.244.0.2:9080")],
        first: "DISABLE",
        hosts: &["10.244.0.2"],
        ..Setup::default()
    };
    assert_eq!(setup.verdict(), "MODE: PLAINTEXT (DISABLE)");
}

#[test]
fn endpoints_that_are_gone_do_not_count_and_new_ones_do() {
    let setup = Setup {
        probe: vec![mtls("10.244.0.2:9080"), plaintext("10.244.0.99:9080")],
        ..Setup::default()
    };
    assert_eq!(
        setup.verdict(),
        "MODE: MIXED (1 of 2 mTLS (STRICT), 1 of 2 UNKNOWN (no connection was made to this endpoint))"
    );
}

#[test]
fn a_plaintext_connection_does_not_borrow_an_old_handshake() {
    let mut now_plain = mtls("10.244.0.2:9080");
    now_plain["mode"] = json!("plaintext");
    let setup = Setup {
        probe: vec![now_plain],
        first: "PERMISSIVE",
        hosts: &["10.244.0.2"],
        ..Setup::default()
    };
    let output = setup.check().stdout;
    assert!(
        output.ends_with("MODE: PLAINTEXT (PERMISSIVE)\n"),
        "{output}"
    );
    assert!(!output.contains("spiffe://"), "{output}");
}

#[test]
fn the_listeners_of_a_stock_envoy_tell_its_mode() {
    let chain = |tls: bool| {
        let mut chain = json!({"filter_chain_match": {"destination_port": 9080, "transport_protocol": if tls { "tls" } else { "raw_buffer" }}});
        if tls {
            chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls"});
        }
        chain
    };
    for (chains, expected) in [
        (vec![chain(true)], "STRICT"),
        (vec![chain(true), chain(false)], "PERMISSIVE"),
        (vec![chain(false)], "DISABLE"),
    ] {
        let listener = json!({"name": "virtualInbound", "traffic_direction": "INBOUND", "filter_chains": chains});
        let dump = json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ListenersConfigDump",
            "dynamic_listeners": [{"active_state": {"listener": listener}}]
        }]});
        let setup = Setup {
            hosts: &["10.244.0.2"],
            ..Setup::default()
        };
        let mut mesh = setup
            .mesh()
            .answer(&format!("{FIRST} GET /config_dump"), &dump);
        mesh.answers.remove(&format!("{FIRST} GET /tls"));
        let output = mesh
            .run(&["authn", "tls-check", "productpage-v1", "ratings"])
            .stdout;
        assert!(
            output.contains(&format!("inbound {expected}\n")),
            "{expected}: {output}"
        );
    }
}

#[test]
fn without_probing_the_traffic_is_the_evidence() {
    let setup = Setup {
        probe: vec![],
        ..Setup::default()
    };
    let output = setup.mesh().run(&[
        "authn",
        "tls-check",
        "productpage-v1",
        "ratings",
        "--no-probe",
    ]);
    assert!(
        output.stdout.ends_with("\nMODE: mTLS (STRICT)\n"),
        "{}",
        output.stdout
    );
}

#[test]
fn json_keeps_the_old_names() {
    let mesh = Setup::default().mesh();
    let output = mesh.run(&[
        "authn",
        "tls-check",
        "productpage-v1",
        "ratings:9080",
        "-o",
        "json",
    ]);
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    let row = &json[0];
    for (field, expected) in [
        ("host", json!(HOST)),
        ("port", json!(9080)),
        ("authentication_policy_name", json!("default/default")),
        ("destination_rule_name", json!("default/ratings")),
        ("server_protocol", json!("STRICT")),
        ("client_protocol", json!("ISTIO_MUTUAL")),
        ("TLS_conflict_status", json!("OK")),
        ("mode", json!("mTLS (STRICT)")),
    ] {
        assert_eq!(row[field], expected, "{field}");
    }
    assert_eq!(row["endpoints"][1]["pod"], format!("{SECOND}.default"));
    assert_eq!(
        row["endpoints"][0]["peer_identity"],
        "spiffe://cluster.local/ns/default/sa/ratings"
    );
}

#[test]
fn mistakes_end_with_what_to_do() {
    let mesh = Setup::default()
        .mesh()
        .pod("legacy-0", "10.244.0.8", &["legacy"]);
    let fails = |line: &[&str], status: u8, text: &str| {
        let output = mesh.run(line);
        assert_eq!(output.status, status, "{line:?}: {}", output.stderr);
        assert_eq!(output.stderr, text, "{line:?}");
    };
    fails(
        &["authn", "tls-check"],
        64,
        "Error: tls-check requires pod name\nName the calling pod and the service it calls: \
         meltemi authn tls-check ratings-v1 ratings.default.svc.cluster.local\n",
    );
    fails(
        &["authn", "tls-check", "productpage-v1", "rating"],
        65,
        "Error: the pod's proxy knows no service \"rating\"\nDid you mean ratings.default.svc.cluster.local?\n",
    );
    fails(
        &["authn", "tls-check", "ratings-v1", "ratings"],
        65,
        "Error: the control plane knows no proxy ratings-v1-7d4c9f5b6c-bbbbb.default\n\
         Is it connected? See proxy-status, and the log of its istio-proxy container.\n",
    );
    let unmeshed = mesh.run(&["authn", "tls-check", "legacy", "ratings"]);
    assert_eq!(
        unmeshed.stdout,
        "MODE: PLAINTEXT (no sidecar at the source)\n"
    );
    let nobody = Fake {
        unreachable: true,
        ..Fake::default()
    };
    let output = nobody.run(&["authn", "tls-check", "a", "b"]);
    assert_eq!(
        (output.status, output.stderr.as_str()),
        (69, "Error: no lab is running\nStart one: meltemi lab up\n")
    );
}

/// A stock Envoy as the source: counters in the place of handshakes.
mod stock {
    use super::*;

    const STATS: &str =
        "/stats?usedonly&format=json&filter=upstream_cx_(total|connect_fail)$|%5C.ssl%5C.";

    fn verdict(made: u64, handshakes: u64, to_first: u64) -> String {
        let cluster = format!("outbound|9080||{HOST}");
        let stat = |name: &str, value: u64| json!({"name": format!("cluster.{cluster}.{name}"), "value": value});
        let stats = json!({"stats": [
            stat("upstream_cx_total", made), stat("ssl.handshake", handshakes), stat("ssl.versions.TLSv1.3", handshakes)
        ]});
        let host = |address: &str, connections: u64| {
            json!({
                "address": {"socket_address": {"address": address, "port_value": 9080}},
                "stats": [{"name": "cx_total", "value": connections.to_string()}]
            })
        };
        let statuses = json!({"cluster_statuses": [{"name": cluster, "host_statuses": [host("10.244.0.2", to_first)]}]});
        let tls = json!({"common_tls_context": {
            "tls_certificate_sds_secret_configs": [{"name": "default"}],
            "combined_validation_context": {"default_validation_context": {"match_typed_subject_alt_names": [
                {"san_type": "URI", "matcher": {"exact": "spiffe://cluster.local/ns/default/sa/ratings"}}
            ]}}
        }});
        let config = json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump",
            "dynamic_active_clusters": [{"cluster": {"name": cluster, "transport_socket_matches": [{
                "name": "tlsMode-istio", "match": {"tlsMode": "istio"}, "transport_socket": {"typed_config": tls}
            }]}}]
        }]});
        let own = json!({"certificates": [{"cert_chain": [{"subject_alt_names": [{"uri": "spiffe://cluster.local/ns/default/sa/productpage"}]}]}]});
        let mut mesh = Setup::default().mesh();
        mesh.answers.remove(&format!("{SOURCE} GET /tls"));
        let output = mesh
            .answer(&format!("{SOURCE} GET /clusters?format=json"), &statuses)
            .answer(&format!("{SOURCE} GET /config_dump"), &config)
            .answer(&format!("{SOURCE} GET /certs"), &own)
            .answer(&format!("{SOURCE} GET {STATS}"), &stats)
            .run(&["authn", "tls-check", "productpage-v1", "ratings"]);
        assert_eq!((output.status, output.stderr.as_str()), (0, ""));
        if output.stdout.contains("MODE: mTLS") {
            for part in [
                "sa/productpage",
                "sa/ratings",
                "TLSv1.3",
                "3 handshakes in the 3 connections",
            ] {
                assert!(output.stdout.contains(part), "{}", output.stdout);
            }
        }
        output.stdout.lines().last().unwrap().to_owned()
    }

    #[test]
    fn counters_prove_what_they_can() {
        assert_eq!(verdict(3, 3, 2), "MODE: mTLS (STRICT)");
        assert!(verdict(3, 0, 3).starts_with("MODE: CONFLICT (the source sends plaintext"));
        assert_eq!(
            verdict(5, 3, 5),
            "MODE: UNKNOWN (3 of 5 connections of the source's Envoy were encrypted; it does not tell which)"
        );
        assert_eq!(
            verdict(3, 3, 0),
            "MODE: UNKNOWN (no connection was made to this endpoint)"
        );
    }
}
