use super::*;

fn read_one(name: &str, value: &str) -> (Options, Vec<String>) {
    let annotations = [(name.to_owned(), value.to_owned())].into();
    let (options, diagnostics) = read(&annotations, &InjectionSettings::default());
    (
        options,
        diagnostics.iter().map(ToString::to_string).collect(),
    )
}

#[test]
fn good_annotations_take_effect() {
    let good = |name: &str, value: &str| {
        let (options, diagnostics) = read_one(name, value);
        assert_eq!(diagnostics, Vec::<String>::new(), "{name}");
        options
    };
    assert!(!good("sidecar.istio.io/rewriteAppHTTPProbers", "false").rewrite_probes);
    assert!(!good("sidecar.istio.io/nativeSidecar", "false").native);
    assert!(!good("prometheus.istio.io/merge-metrics", "false").merge_metrics);
    assert_eq!(good("sidecar.istio.io/proxyImage", "a/b:1").image, "a/b:1");
    assert!(
        good("sidecar.istio.io/proxyImageType", "debug")
            .image
            .ends_with("-debug")
    );
    assert_eq!(
        good("sidecar.istio.io/logLevel", "debug").log_level,
        "debug"
    );
    assert_eq!(
        good("sidecar.istio.io/interceptionMode", "NONE").interception,
        Interception::None
    );
    assert_eq!(good("status.sidecar.istio.io/port", "0").readiness, None);
    assert_eq!(
        good("status.sidecar.istio.io/port", "15999").status_port,
        15999
    );
    let readiness = good("readiness.status.sidecar.istio.io/failureThreshold", "9").readiness;
    assert_eq!(readiness.unwrap().failure_threshold, 9);
    let capture =
        |name: &str, value: &str| good(&format!("traffic.sidecar.istio.io/{name}"), value).capture;
    assert_eq!(
        capture("includeOutboundIPRanges", "10.0.0.0/8, ::1").include_outbound_ranges,
        "10.0.0.0/8,::1"
    );
    assert_eq!(capture("includeInboundPorts", "").include_inbound_ports, "");
    assert_eq!(
        capture("excludeOutboundPorts", "3306,25").exclude_outbound_ports,
        "3306,25"
    );
    assert_eq!(
        capture("excludeInterfaces", "eth1").exclude_interfaces,
        "eth1"
    );
}

#[test]
fn one_resource_annotation_replaces_all_defaults() {
    let (options, _) = read_one("sidecar.istio.io/proxyCPU", "50m");
    let expected = ProxyResources {
        cpu: Some("50m".into()),
        memory: None,
        cpu_limit: None,
        memory_limit: None,
    };
    assert_eq!(options.resources, expected);
}

#[test]
fn volumes_are_a_list_or_a_map() {
    for json in [
        r#"[{"name":"certs","emptyDir":{}}]"#,
        r#"{"certs":{"emptyDir":{}}}"#,
    ] {
        let (options, diagnostics) = read_one("sidecar.istio.io/userVolume", json);
        assert!(diagnostics.is_empty());
        assert_eq!(options.volumes[0].name, "certs");
        assert!(options.volumes[0].empty_dir.is_some());
    }
}

#[test]
fn proxy_config_lies_over_the_mesh() {
    let mut settings = InjectionSettings::default();
    settings
        .default_config
        .proxy_metadata
        .insert("A".into(), "1".into());
    settings.default_config.concurrency = Some(2);
    let text = "holdApplicationUntilProxyStarts: true\nproxyMetadata:\n  B: \"2\"\n";
    let annotations = [(annotation::PROXY_CONFIG.to_owned(), text.to_owned())].into();
    let (options, diagnostics) = read(&annotations, &settings);
    assert_eq!(diagnostics, []);
    assert!(options.hold_application);
    assert_eq!(options.proxy_config.concurrency, Some(2));
    let metadata = &options.proxy_config.proxy_metadata;
    assert_eq!((metadata["A"].as_str(), metadata["B"].as_str()), ("1", "2"));
}

#[test]
fn every_bad_annotation_is_an_error_that_names_it() {
    for (name, value) in [
        ("sidecar.istio.io/proxyCPU", "lots"),
        ("sidecar.istio.io/proxyImageType", "tiny"),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "maybe"),
        ("sidecar.istio.io/interceptionMode", "TPROXY"),
        ("sidecar.istio.io/interceptionMode", "redirect"),
        ("sidecar.istio.io/logLevel", "debug --danger"),
        ("sidecar.istio.io/userVolume", "[{]"),
        ("sidecar.istio.io/userVolumeMount", "[{\"mountPath\":1}]"),
        (
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "10.0.0.0/40",
        ),
        ("traffic.sidecar.istio.io/excludeOutboundIPRanges", "*"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "80,http"),
        ("status.sidecar.istio.io/port", "70000"),
        ("readiness.status.sidecar.istio.io/periodSeconds", "-1"),
        ("inject.istio.io/templates", "waypoint"),
        ("inject.istio.io/templates", "sidecar,gateway"),
        ("proxy.istio.io/config", "concurrency: [}"),
        ("proxy.istio.io/config", "concurrency: many"),
    ] {
        let (_, diagnostics) = read_one(name, value);
        assert_eq!(diagnostics.len(), 1, "{name}={value}: {diagnostics:?}");
        let prefix = format!("metadata.annotations[{name:?}]: ");
        assert!(diagnostics[0].starts_with("error "), "{diagnostics:?}");
        assert!(diagnostics[0].contains(&prefix), "{diagnostics:?}");
    }
}

#[test]
fn unknown_and_unsupported_annotations_warn() {
    let (_, unknown) = read_one("sidecar.istio.io/proxyCpu", "1");
    assert_eq!(
        unknown,
        [
            "warning IST0108: metadata.annotations[\"sidecar.istio.io/proxyCpu\"]: unknown annotation; it has no effect \
          (hint: did you mean \"sidecar.istio.io/proxyCPU\"?)"
        ]
    );
    for (name, _) in UNSUPPORTED {
        let (_, diagnostics) = read_one(name, "x");
        assert_eq!(diagnostics.len(), 1, "{name}");
        assert!(
            diagnostics[0].starts_with("warning MEL0401"),
            "{diagnostics:?}"
        );
    }
    let (_, misspelt) = read_one("proxy.istio.io/config", "concurency: 2");
    assert_eq!(misspelt.len(), 1);
    assert!(misspelt[0].starts_with("warning "), "{misspelt:?}");
    assert!(
        misspelt[0].contains("did you mean \"concurrency\"?"),
        "{misspelt:?}"
    );
    let (_, others) = read_one("example.com/whatever", "x");
    assert!(others.is_empty());
}
