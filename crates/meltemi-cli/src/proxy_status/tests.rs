use serde_json::{Value, json};

use crate::fake::Fake;

fn proxy(name: &str, route: (&str, &str)) -> Value {
    json!({
        "proxy": name, "cluster_id": "Kubernetes", "proxy_type": "sidecar", "istio_version": "0.1.0",
        "cluster_sent": "n1", "cluster_acked": "n1", "listener_sent": "n2", "listener_acked": "n2",
        "endpoint_sent": "n3", "endpoint_acked": "n3", "route_sent": route.0, "route_acked": route.1
    })
}

fn mesh() -> Fake {
    let mut broken = proxy("ratings-v1-b.shop", ("n9", "n8"));
    broken["listener_error"] = json!("virtualInbound: filter_chains[0]: bad");
    let proxies = json!([
        proxy("reviews-v1-a.default", ("", "")),
        broken,
        proxy("details-v1-c.default", ("n7", "n7"))
    ]);
    Fake::default().answer("istiod GET /debug/syncz", &proxies)
}

#[test]
fn columns() {
    insta::assert_snapshot!("default", mesh().run(&["proxy-status"]).stdout);
    insta::assert_snapshot!("verbose", mesh().run(&["ps", "-v", "1"]).stdout);
    insta::assert_snapshot!("namespace", mesh().run(&["ps", "-n", "shop"]).stdout);
}

#[test]
fn structured_output_is_what_the_control_plane_says_and_which_instance_says_it() {
    let json: Value = serde_json::from_str(&mesh().run(&["ps", "-o", "json"]).stdout).unwrap();
    let mut expected = proxy("details-v1-c.default", ("n7", "n7"));
    expected["istiod"] = "istiod".into();
    assert_eq!(json[0], expected);
}

#[test]
fn nobody_connected_and_nobody_home() {
    let empty = Fake::default().answer("istiod GET /debug/syncz", &json!([]));
    let output = empty.run(&["ps"]);
    assert_eq!((output.status, output.stdout.as_str()), (0, ""));
    assert!(output.stderr.starts_with("No proxy is connected."));
    let down = Fake {
        unreachable: true,
        ..Fake::default()
    };
    assert_eq!(down.run(&["ps"]).status, 69);
}

fn dump(clusters: &Value, routes: &Value) -> Value {
    json!({"configs": [
        {"@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump", "dynamic_active_clusters": clusters},
        {"@type": "type.googleapis.com/envoy.admin.v3.RoutesConfigDump", "dynamic_route_configs": routes}
    ]})
}

#[test]
fn a_proxy_against_the_control_plane() {
    let cluster = |name: &str, timeout: &str| json!({"version_info": name, "cluster": {"name": name, "connect_timeout": timeout}});
    let route = json!([{"route_config": {"name": "9080", "virtual_hosts": []}}]);
    let meant = dump(
        &json!([
            cluster("outbound|80||a", "10s"),
            cluster("outbound|80||b", "10s")
        ]),
        &route,
    );
    let held = dump(
        &json!([
            cluster("outbound|80||a", "1s"),
            cluster("outbound|80||c", "10s"),
            cluster("agent", "1s")
        ]),
        &route,
    );
    let mesh = |held: &Value| {
        Fake::default()
            .pod("web-0", "10.0.0.1", &["web", "istio-proxy"])
            .answer("web-0 GET /config_dump", held)
            .answer(
                "istiod GET /debug/config_dump?proxyID=web-0.default",
                &meant,
            )
    };
    assert_eq!(
        mesh(&held).run(&["proxy-status", "web"]).stdout,
        "Clusters Don't Match\n  outbound|80||a: differs at /connectTimeout\n  outbound|80||b: the proxy does not hold it\n  \
         outbound|80||c: the proxy holds it, the control plane no longer sends it\nListeners Match\nRoutes Match\n"
    );
    assert_eq!(
        mesh(&meant).run(&["ps", "web-0"]).stdout,
        "Clusters Match\nListeners Match\nRoutes Match\n"
    );
}
