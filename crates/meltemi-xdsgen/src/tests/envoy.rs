//! A stock Envoy as the judge: `ENVOY_BINARY=/path/to/envoy` makes it read everything we generate for it.

mod balance;

use std::io::Write;
use std::process::Command;

use serde_json::{Value, json};

use super::support::{World, to_json};
use crate::{Flavour, Generated, Kind, ProxyView, Role, generate};

const CASES: [(&str, &str, &str); 9] = [
    (
        "authorization",
        "web",
        include_str!("../../testdata/authorization/in.yaml"),
    ),
    (
        "external-authorization",
        "web",
        include_str!("../../testdata/external-authorization/in.yaml"),
    ),
    (
        "external-authorization-grpc",
        "web",
        include_str!("../../testdata/external-authorization-grpc/in.yaml"),
    ),
    (
        "gateway",
        "ingress",
        include_str!("../../testdata/gateway-envoy/in.yaml"),
    ),
    (
        "request-authentication",
        "httpbin",
        include_str!("../../testdata/request-authentication/in.yaml"),
    ),
    (
        "bookinfo",
        "reviews-v1",
        include_str!("../../testdata/bookinfo/in.yaml"),
    ),
    (
        "canary",
        "client-v1",
        include_str!("../../testdata/canary-strict/in.yaml"),
    ),
    (
        "protocols",
        "server",
        include_str!("../../testdata/protocols/in.yaml"),
    ),
    (
        "routes",
        "client-v1",
        include_str!("../../testdata/routes/in.yaml"),
    ),
];

#[test]
fn a_stock_envoy_accepts_everything() {
    let Some(envoy) = std::env::var_os("ENVOY_BINARY") else {
        assert!(
            std::env::var_os("CI").is_none(),
            "ENVOY_BINARY names no stock Envoy"
        );
        eprintln!(
            "SKIPPED: `cargo xtask test` fetches a stock Envoy to judge what is generated; or set ENVOY_BINARY"
        );
        return;
    };
    let log = "accessLogFile: /dev/stdout\n";
    for (case, pod, input) in CASES {
        for config in [
            "",
            log,
            "accessLogFile: /dev/stdout\naccessLogEncoding: JSON\n",
        ] {
            let providers = input.lines().find_map(|line| line.strip_prefix("# mesh: "));
            let providers = providers.unwrap_or_default().trim_matches(['{', '}']);
            let world = World::new(input).config(&format!("{config}{providers}"));
            let view = ProxyView {
                role: match case {
                    "gateway" => Role::Router,
                    _ => Role::Sidecar,
                },
                ..world.view(pod, Flavour::Envoy)
            };
            let bootstrap = bootstrap(&generate(&view, &world.mesh.snapshot()));
            let mut file = tempfile::NamedTempFile::with_suffix(".json").unwrap();
            write!(file, "{bootstrap:#}").unwrap();
            let output = Command::new(&envoy)
                .args(["--mode", "validate", "--log-level", "warning", "-c"])
                .arg(file.path())
                .output()
                .unwrap();
            assert!(
                output.status.success(),
                "{case}: {}{}",
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr),
            );
        }
    }
}

/// Everything as static resources: load assignments in clusters and routes in listeners of their own.
fn bootstrap(generated: &Generated) -> Value {
    let of = |kind| {
        let all = generated.of(kind).values();
        all.map(|resource| {
            let mut json = to_json(resource);
            json.as_object_mut().unwrap().remove("@type");
            json
        })
        .collect::<Vec<Value>>()
    };
    let assignments = of(Kind::Endpoints).into_iter().enumerate().map(|(i, assignment)| {
        json!({"name": format!("assignment-{i}"), "type": "STATIC", "connectTimeout": "1s", "loadAssignment": assignment})
    });
    let routes = of(Kind::Route).into_iter().enumerate().map(|(i, routes)| {
        json!({
            "name": format!("routes-{i}"), "bindToPort": false,
            "address": {"socketAddress": {"address": "127.0.0.1", "portValue": 20000 + i}},
            "filterChains": [{"filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typedConfig": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
                    "statPrefix": "routes", "routeConfig": routes,
                    "httpFilters": [
                        {"name": "envoy.filters.http.fault", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault"}},
                        {"name": "envoy.filters.http.cors", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors"}},
                        {"name": "envoy.filters.http.router", "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}},
                    ],
                },
            }]}],
        })
    });
    let grpc = |name: &str| {
        json!({
            "name": name, "type": "STATIC", "connectTimeout": "1s",
            "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicitHttpConfig": {"http2ProtocolOptions": {}},
            }},
            "loadAssignment": {"clusterName": name, "endpoints": [{"lbEndpoints": [{"endpoint": {"address": {"socketAddress": {"address": "127.0.0.1", "portValue": 1}}}}]}]},
        })
    };
    let clusters: Vec<Value> = of(Kind::Cluster)
        .into_iter()
        .chain(assignments)
        .chain([grpc("xds-grpc"), grpc("sds-grpc")])
        .collect();
    let listeners: Vec<Value> = of(Kind::Listener).into_iter().chain(routes).collect();
    json!({
        "node": {"id": "sidecar~10.244.0.1~a.default~default.svc.cluster.local", "cluster": "a"},
        "dynamicResources": {"adsConfig": {
            "apiType": "DELTA_GRPC", "transportApiVersion": "V3",
            "grpcServices": [{"envoyGrpc": {"clusterName": "xds-grpc"}}],
        }},
        "staticResources": {"clusters": clusters, "listeners": listeners},
    })
}
