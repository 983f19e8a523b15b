use super::*;

/// Compares with `testdata/<name>.nft`; `UPDATE_GOLDEN=1` rewrites it.
fn check(name: &str, settings: &Settings) {
    let path = format!("{}/testdata/{name}.nft", env!("CARGO_MANIFEST_DIR"));
    let actual = ruleset(settings);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&path, &actual).unwrap();
    }
    assert_eq!(actual, std::fs::read_to_string(&path).unwrap(), "{path}");
}

#[test]
fn injection_defaults() {
    check("defaults", &Settings::default());
}

#[test]
fn exempt_by_mark() {
    check("mark", &Settings::exempt_by_mark());
}

#[test]
fn every_exclusion() {
    check(
        "exclusions",
        &Settings {
            excluded_inbound_ports: [22, 9090].into(),
            excluded_outbound_ports: [25, 3306].into(),
            excluded_outbound_ranges: vec![
                "169.254.169.254/32".parse().unwrap(),
                "fd00:ec2::/32".parse().unwrap(),
            ],
            excluded_interfaces: vec!["docker0".into()],
            ..Settings::default()
        },
    );
}

#[test]
fn listed_ports_and_ranges() {
    check(
        "lists",
        &Settings {
            outbound_port: 16001,
            inbound_port: 16006,
            inbound_ports: Ports::Only([80, 9080].into()),
            outbound_ranges: Ranges::Only(vec![
                "10.96.3.7/16".parse().unwrap(),
                "fd00::/8".parse().unwrap(),
            ]),
            outbound_ports: Ports::Only([443].into()),
            ..Settings::default()
        },
    );
}

#[test]
fn nothing_captured() {
    let none = Settings {
        inbound_ports: Ports::Only(BTreeSet::new()),
        outbound_ranges: Ranges::Only(Vec::new()),
        exemptions: Vec::new(),
        ..Settings::default()
    };
    assert!(
        !ruleset(&none).contains("jump ISTIO_IN_REDIRECT"),
        "{}",
        ruleset(&none)
    );
    assert!(
        !ruleset(&none).contains("jump ISTIO_REDIRECT"),
        "{}",
        ruleset(&none)
    );
}
