use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{CertificateParams, KeyPair, SerialNumber};
use serde_json::{Value, json};

use super::dump::camel;
use crate::fake::Fake;

const POD: &str = "productpage-v1-7d4c9f5b6c-x2b4k";

fn recorded(name: &str) -> Value {
    let path = format!("{}/testdata/{name}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn mesh() -> Fake {
    let mut dump = recorded("config_dump.json");
    let secrets = json!({
        "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
        "dynamic_active_secrets": [
            {"name": "default", "secret": {"name": "default", "tls_certificate": {"certificate_chain": {"inline_bytes": pem(2026)}}}},
            {"name": "ROOTCA", "secret": {"name": "ROOTCA", "validation_context": {"trusted_ca": {"inline_bytes": pem(2020)}}}}
        ],
        "dynamic_warming_secrets": [{"name": "late", "secret": {"name": "late"}}]
    });
    dump["configs"].as_array_mut().unwrap().push(secrets);
    Fake::default()
        .pod(POD, "10.244.0.1", &["productpage", "istio-proxy"])
        .pod("legacy-0", "10.244.0.8", &["legacy"])
        .answer(&format!("{POD} GET /config_dump?include_eds"), &dump)
        .answer(
            &format!("{POD} GET /clusters?format=json"),
            &recorded("clusters.json"),
        )
}

/// A certificate of half a year in base64 of PEM.
fn pem(year: i32) -> String {
    let mut params = CertificateParams::default();
    params.serial_number = Some(SerialNumber::from(vec![0x0a, 0xbc]));
    params.not_before = rcgen::date_time_ymd(year, 1, 1);
    params.not_after = rcgen::date_time_ymd(year, 7, 1);
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    STANDARD.encode(certificate.pem())
}

fn table(line: &[&str]) -> String {
    let words: Vec<&str> = ["proxy-config"]
        .into_iter()
        .chain(line.iter().copied())
        .collect();
    let output = mesh().run(&words);
    assert_eq!((output.status, output.stderr.as_str()), (0, ""), "{line:?}");
    output.stdout
}

#[test]
fn tables() {
    insta::assert_snapshot!("clusters", table(&["clusters", "productpage-v1"]));
    insta::assert_snapshot!("listeners", table(&["listeners", "productpage-v1"]));
    insta::assert_snapshot!("routes", table(&["routes", "productpage-v1"]));
    insta::assert_snapshot!("endpoints", table(&["endpoints", "productpage-v1"]));
    insta::assert_snapshot!("secrets", table(&["secret", "productpage-v1"]));
}

#[test]
fn filters_take_away_what_is_not_asked_for() {
    let rows = |line: &[&str]| table(line).lines().count() - 1;
    let ratings = "ratings.default.svc.cluster.local";
    for (line, expected) in [
        (&["cluster", POD, "--fqdn", ratings][..], 2),
        (&["cluster", POD, "--fqdn", ratings, "--subset", "v1"], 1),
        (&["cluster", POD, "--direction", "inbound"], 1),
        (
            &["cluster", POD, "--port", "9080", "--direction", "outbound"],
            2,
        ),
        (&["cluster", POD, "--fqdn", "BlackHoleCluster"], 1),
        (&["listener", POD, "--port", "15006"], 2),
        (&["listener", POD, "--address", "10.96.0.9"], 1),
        (&["listener", POD, "--type", "TCP"], 3),
        (&["route", POD, "--name", "9080"], 3),
        (&["endpoint", POD, "--status", "unhealthy"], 1),
        (
            &["endpoint", POD, "--address", "10.244.0.2", "--port", "9080"],
            1,
        ),
        (&["endpoint", POD, "--cluster", "agent"], 1),
    ] {
        assert_eq!(rows(line), expected, "{line:?}");
    }
}

#[test]
fn json_has_the_shapes_of_istioctl() {
    let json = |line: &[&str]| -> Value {
        let line = [line, &["-o", "json"]].concat();
        serde_json::from_str(&table(&line)).unwrap()
    };
    let secrets = json(&["secret", POD]);
    assert_eq!(secrets["dynamicActiveSecrets"][0]["name"], "default");
    assert!(secrets.get("@type").is_none(), "{secrets}");
    let clusters = json(&["endpoint", POD, "--status", "unhealthy"]);
    let [cluster] = &clusters.as_array().unwrap()[..] else {
        panic!("one cluster has such an endpoint: {clusters}")
    };
    assert!(cluster["hostStatuses"].is_array() && cluster["name"].is_string());
}

#[test]
fn filters_that_come_by_themselves_have_a_table() {
    let filter = json!({"name": "wasm", "typed_config": {"@type": "type.googleapis.com/a.Wasm"}});
    let dump = json!({"configs": [{
        "@type": "type.googleapis.com/envoy.admin.v3.EcdsConfigDump",
        "ecds_filters": [{"ecds_filter": filter}],
    }]});
    let mesh = mesh().answer(&format!("{POD} GET /config_dump?include_eds"), &dump);
    let output = mesh.run(&["proxy-config", "ecds", POD]);
    let lines: Vec<&str> = output.stdout.lines().collect();
    assert!(lines[0].starts_with("ECDS NAME"), "{lines:?}");
    assert!(
        lines[1].starts_with("wasm") && lines[1].ends_with("a.Wasm"),
        "{lines:?}"
    );
}

#[test]
fn yaml_shows_the_tls_context_in_camel_case() {
    let yaml = table(&[
        "clusters",
        POD,
        "--fqdn",
        "ratings.default.svc.cluster.local",
        "--subset",
        "v1",
        "-o",
        "yaml",
    ]);
    for part in [
        "commonTlsContext:",
        "sni: outbound_.9080_.v1_.ratings.default.svc.cluster.local",
        "tlsMode: istio",
    ] {
        assert!(yaml.contains(part), "{part}: {yaml}");
    }
    assert!(!yaml.contains("common_tls_context"), "{yaml}");
}

#[test]
fn camel_case_spares_what_users_named() {
    assert_eq!(
        camel(json!({
            "connect_timeout": "1s",
            "metadata": {"filter_metadata": {"my_filter": {"a_b": 1}}},
            "transport_socket_matches": [{"match": {"my_key": "x"}}],
            "routes": [{"match": {"path_separated_prefix": "/a"}}],
            "typed_per_filter_config": {"my.filter_name": {"stat_prefix": "x"}},
            "node": {"user_agent_name": "envoy", "metadata": {"MY_KEY": 1, "a_b": 2}},
            "socket": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "type_url": "t", "value": {"a_b": 1}}
        })),
        json!({
            "connectTimeout": "1s",
            "metadata": {"filterMetadata": {"my_filter": {"a_b": 1}}},
            "transportSocketMatches": [{"match": {"my_key": "x"}}],
            "routes": [{"match": {"pathSeparatedPrefix": "/a"}}],
            "typedPerFilterConfig": {"my.filter_name": {"statPrefix": "x"}},
            "node": {"userAgentName": "envoy", "metadata": {"MY_KEY": 1, "a_b": 2}},
            "socket": {"@type": "type.googleapis.com/xds.type.v3.TypedStruct", "typeUrl": "t", "value": {"a_b": 1}}
        })
    );
}

#[test]
fn a_saved_dump_serves_as_a_pod() {
    let all = table(&["all", POD, "-o", "json"]);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("dump.json");
    std::fs::write(&file, all).unwrap();
    let file = file.to_str().unwrap();
    for kind in ["clusters", "listeners", "routes", "secret"] {
        assert_eq!(table(&[kind, "-f", file]), table(&[kind, POD]), "{kind}");
    }
    let offline = Fake {
        unreachable: true,
        ..Fake::default()
    };
    assert_eq!(offline.run(&["pc", "bootstrap", "-f", file]).status, 0);
    assert!(table(&["all", POD]).contains("OUTLIER CHECK"));
}

#[test]
fn log_levels_are_set_and_shown() {
    let mut mesh = mesh();
    let answer = "active loggers:\n  http: trace\n";
    for path in [
        "/logging",
        "/logging?level=warning",
        "/logging?paths=http:trace,tls:debug",
    ] {
        mesh.answers
            .insert(format!("{POD} POST {path}"), answer.to_owned());
    }
    for line in [&[][..], &["--reset"], &["--level", "http:trace, tls:debug"]] {
        let words = [&["pc", "log", POD], line].concat();
        let output = mesh.run(&words);
        assert_eq!(
            output.stdout,
            format!("{POD}.default:\n{answer}"),
            "{line:?}"
        );
    }
    for (levels, hint) in [
        ("loud", "Levels are trace, debug, info"),
        ("debug,http:trace", "Set all first"),
    ] {
        let wrong = mesh.run(&["pc", "log", POD, "--level", levels]);
        assert_eq!(wrong.status, 64);
        assert!(wrong.stderr.contains(hint), "{}", wrong.stderr);
    }
}

#[test]
fn mistakes_end_with_what_to_do() {
    let output = mesh().run(&["pc", "clusters", "legacy-0"]);
    assert_eq!(output.status, 65);
    assert!(
        output
            .stderr
            .contains("has no sidecar\nLabel its namespace"),
        "{}",
        output.stderr
    );
    let silent = Fake::default().pod("mute-0", "10.0.0.1", &["istio-proxy"]);
    let output = silent.run(&["pc", "clusters", "mute-0"]);
    assert_eq!(output.status, 1);
    assert!(
        output.stderr.contains("answered 404 to /config_dump"),
        "{}",
        output.stderr
    );
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.json");
    std::fs::write(&file, "{}").unwrap();
    let output = mesh().run(&["pc", "clusters", "-f", file.to_str().unwrap()]);
    assert_eq!(output.status, 65);
    assert!(
        output.stderr.contains("this is no config_dump"),
        "{}",
        output.stderr
    );
}
