use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn pod(value: Value) -> Pod {
    serde_json::from_value(value).unwrap()
}

fn reviews(annotations: Value) -> Pod {
    pod(json!({
        "metadata": {
            "name": "reviews-v1-5d4c-x", "labels": {"app": "reviews", "version": "v1"}, "annotations": annotations
        },
        "spec": {
            "containers": [{"name": "reviews", "image": "r", "ports": [{"containerPort": 9080}]}],
            "initContainers": [{"name": "migrate", "image": "m"}]
        }
    }))
}

fn injected(pod: &Pod, settings: &InjectionSettings) -> PodSpec {
    let injection = inject(pod, "default", settings).unwrap();
    assert_eq!(injection.warnings, []);
    injection.object.spec.unwrap()
}

fn container_names(spec: &PodSpec) -> (Vec<&str>, Vec<&str>) {
    (
        spec.init_containers
            .iter()
            .flatten()
            .map(|c| c.name.as_str())
            .collect(),
        spec.containers.iter().map(|c| c.name.as_str()).collect(),
    )
}

fn variable<'a>(container: &'a Container, name: &str) -> &'a str {
    let env = container.env.as_ref().unwrap();
    let found = env.iter().find(|variable| variable.name == name);
    found.unwrap().value.as_deref().unwrap()
}

#[test]
fn native_sidecars_come_before_the_users_init_containers() {
    let spec = injected(&reviews(json!({})), &InjectionSettings::default());
    let expected = (
        vec!["istio-init", "istio-proxy", "migrate"],
        vec!["reviews"],
    );
    assert_eq!(container_names(&spec), expected);
    let proxy = &spec.init_containers.as_ref().unwrap()[1];
    assert_eq!(proxy.restart_policy.as_deref(), Some("Always"));
    assert_eq!(variable(proxy, "ISTIO_META_APP_CONTAINERS"), "reviews");
    assert_eq!(
        variable(proxy, "ISTIO_META_POD_PORTS"),
        r#"[{"containerPort":9080}]"#
    );
}

#[test]
fn classic_sidecars_are_last_unless_the_application_waits_for_them() {
    let settings = InjectionSettings {
        native_sidecars: false,
        ..InjectionSettings::default()
    };
    let spec = injected(&reviews(json!({})), &settings);
    let expected = (
        vec!["migrate", "istio-init"],
        vec!["reviews", "istio-proxy"],
    );
    assert_eq!(container_names(&spec), expected);
    assert_eq!(spec.containers[1].lifecycle, None);
    let hold = json!({"proxy.istio.io/config": "holdApplicationUntilProxyStarts: true"});
    let spec = injected(&reviews(hold), &settings);
    assert_eq!(container_names(&spec).1, ["istio-proxy", "reviews"]);
    let hook = spec.containers[0]
        .lifecycle
        .clone()
        .unwrap()
        .post_start
        .unwrap();
    assert_eq!(hook.exec.unwrap().command.unwrap(), ["pilot-agent", "wait"]);
}

#[test]
fn the_capture_rules_are_asked_for_as_istio_asks() {
    let args = |annotations| {
        let spec = injected(&reviews(annotations), &InjectionSettings::default());
        spec.init_containers.unwrap()[0]
            .args
            .clone()
            .unwrap()
            .join(" ")
    };
    assert_eq!(
        args(json!({})),
        "istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x  -b * -d 15090,15021,15020 --log_output_level=default:info"
    );
    assert_eq!(
        args(json!({
            "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.96.0.0/16",
            "traffic.sidecar.istio.io/excludeInboundPorts": "22",
            "traffic.sidecar.istio.io/excludeOutboundPorts": "3306",
        })),
        "istio-iptables -p 15001 -z 15006 -u 1337 -m REDIRECT -i 10.96.0.0/16 -x  -b * -d 15090,15021,22,15020 -o 3306 \
         --log_output_level=default:info"
    );
}

#[test]
fn without_interception_there_is_no_init_container() {
    let annotations = json!({"sidecar.istio.io/interceptionMode": "NONE"});
    let spec = injected(&reviews(annotations), &InjectionSettings::default());
    assert_eq!(container_names(&spec).0, ["istio-proxy", "migrate"]);
}

#[test]
fn a_mark_and_extra_variables_reach_the_containers() {
    let settings = InjectionSettings {
        proxy_mark: Some(1337),
        proxy_env: [("SECRET_TTL".to_owned(), "20s".to_owned())].into(),
        ..InjectionSettings::default()
    };
    let spec = injected(&reviews(json!({})), &settings);
    let inits = spec.init_containers.unwrap();
    assert_eq!(variable(&inits[0], "MELTEMI_SOCKET_MARK"), "1337");
    assert_eq!(variable(&inits[1], "MELTEMI_SOCKET_MARK"), "1337");
    assert_eq!(variable(&inits[1], "SECRET_TTL"), "20s");
}

#[test]
fn the_users_own_proxy_container_wins_field_by_field() {
    let mut pod = reviews(json!({}));
    let declared = json!({
        "name": "istio-proxy", "image": "auto", "imagePullPolicy": "Always",
        "env": [{"name": "POD_NAME", "value": "fixed"}, {"name": "MINE", "value": "1"}],
        "readinessProbe": {"exec": {"command": ["true"]}},
        "resources": {"limits": {"cpu": "1"}}
    });
    let declared: Container = serde_json::from_value(declared).unwrap();
    pod.spec.as_mut().unwrap().containers.push(declared);
    let once = inject(&pod, "default", &InjectionSettings::default())
        .unwrap()
        .object;
    let spec = once.spec.clone().unwrap();
    let expected = (
        vec!["istio-init", "istio-proxy", "migrate"],
        vec!["reviews"],
    );
    assert_eq!(container_names(&spec), expected);
    let proxy = &spec.init_containers.as_ref().unwrap()[1];
    assert_eq!(proxy.image, Some(InjectionSettings::default().proxy_image));
    // Of an image without a tag, which it no longer is.
    assert_ne!(proxy.image_pull_policy.as_deref(), Some("Always"));
    assert_eq!(
        (variable(proxy, "POD_NAME"), variable(proxy, "MINE")),
        ("fixed", "1")
    );
    let probe = proxy.readiness_probe.as_ref().unwrap();
    assert!(probe.exec.is_some() && probe.http_get.is_none());
    assert_eq!(probe.period_seconds, Some(15));
    let limits = proxy.resources.as_ref().unwrap().limits.as_ref().unwrap();
    assert_eq!(
        (limits["cpu"].0.as_str(), limits["memory"].0.as_str()),
        ("1", "1024Mi")
    );

    let mut back = once.clone();
    assert!(uninject(&mut back));
    assert!(
        back.spec
            .unwrap()
            .containers
            .iter()
            .any(|c| c.image.as_deref() == Some("auto"))
    );
    let twice = inject(&once, "default", &InjectionSettings::default())
        .unwrap()
        .object;
    assert_eq!(twice, once);
}

#[test]
fn labels_follow_the_canonical_service_rules() {
    let check = |labels: Value, name: &str, revision: &str| {
        let pod = pod(json!({
            "metadata": {"name": "p-".to_owned() + &"x".repeat(80), "labels": labels},
            "spec": {"containers": [{"name": "c"}]}
        }));
        let pod = inject(&pod, "default", &InjectionSettings::default())
            .unwrap()
            .object;
        let labels = pod.metadata.labels.unwrap();
        assert_eq!(labels["service.istio.io/canonical-name"], name);
        assert_eq!(labels["service.istio.io/canonical-revision"], revision);
        assert_eq!(labels["security.istio.io/tlsMode"], "istio");
    };
    check(json!({"app": "a", "version": "v1"}), "a", "v1");
    check(
        json!({"app": "a", "app.kubernetes.io/name": "b", "app.kubernetes.io/version": "2"}),
        "b",
        "2",
    );
    check(
        json!({"service.istio.io/canonical-name": "c"}),
        "c",
        "latest",
    );
    check(json!({}), &format!("p-{}", "x".repeat(61)), "latest");
}

#[test]
fn bad_annotations_deny_the_pod_with_all_reasons() {
    let annotations =
        json!({"sidecar.istio.io/proxyCPU": "much", "sidecar.istio.io/interceptionMode": "TPROXY"});
    let error = inject(
        &reviews(annotations),
        "default",
        &InjectionSettings::default(),
    )
    .unwrap_err();
    assert_eq!(error.0.len(), 2);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "cannot inject the sidecar: error IST0125 Pod default/reviews-v1-5d4c-x: "
        ),
        "{text}"
    );
}

#[test]
fn an_application_with_the_proxys_uid_is_warned_of() {
    let mut pod = reviews(json!({}));
    let context = json!({"runAsUser": 1337});
    pod.spec.as_mut().unwrap().security_context = serde_json::from_value(context).unwrap();
    let warnings = inject(&pod, "default", &InjectionSettings::default())
        .unwrap()
        .warnings;
    assert_eq!(warnings.len(), 1);
    assert_eq!(warnings[0].code, "IST0144");
}

#[test]
fn the_users_volume_of_the_same_name_stays_his() {
    let mut pod = reviews(json!({}));
    let volumes = json!([{"name": "istio-data", "emptyDir": {"sizeLimit": "1Gi"}}]);
    pod.spec.as_mut().unwrap().volumes = serde_json::from_value(volumes).unwrap();
    let mut done = inject(&pod, "default", &InjectionSettings::default())
        .unwrap()
        .object;
    let same = |pod: &Pod| {
        let volumes = pod.spec.as_ref().unwrap().volumes.as_ref().unwrap();
        volumes.iter().filter(|v| v.name == "istio-data").count()
    };
    assert_eq!(same(&done), 1);
    uninject(&mut done);
    assert_eq!(done.spec, pod.spec);
}

fn any_probe() -> impl Strategy<Value = Option<Value>> {
    prop::option::of(prop_oneof![
        Just(json!({"httpGet": {"path": "/x", "port": 80}, "timeoutSeconds": 2})),
        Just(json!({"httpGet": {"port": "http"}})),
        Just(json!({"tcpSocket": {"port": 81}})),
        Just(json!({"grpc": {"port": 82}})),
        Just(json!({"exec": {"command": ["true"]}})),
    ])
}

fn any_container(index: usize) -> impl Strategy<Value = Value> {
    (
        any_probe(),
        any_probe(),
        any::<bool>(),
        prop::option::of(1_i64..3000),
    )
        .prop_map(move |(readiness, liveness, port, uid)| {
            let mut container = json!({"name": format!("c{index}"), "image": "i"});
            container["readinessProbe"] = readiness.unwrap_or(Value::Null);
            container["livenessProbe"] = liveness.unwrap_or(Value::Null);
            if port {
                container["ports"] = json!([{"name": "http", "containerPort": 8080}]);
            }
            if let Some(uid) = uid {
                container["securityContext"] = json!({"runAsUser": uid});
            }
            container
        })
}

fn any_annotations() -> impl Strategy<Value = BTreeMap<String, String>> {
    let pairs = [
        ("prometheus.io/scrape", "true"),
        ("prometheus.io/port", "9090"),
        ("prometheus.io/path", "/m"),
        ("sidecar.istio.io/nativeSidecar", "false"),
        ("sidecar.istio.io/interceptionMode", "NONE"),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "false"),
        ("status.sidecar.istio.io/port", "0"),
        (
            "proxy.istio.io/config",
            "holdApplicationUntilProxyStarts: true",
        ),
        ("sidecar.istio.io/userVolume", r#"{"mine":{"emptyDir":{}}}"#),
        ("example.com/a", "b"),
    ];
    prop::sample::subsequence(pairs.to_vec(), 0..=pairs.len()).prop_map(|chosen| {
        let owned = |(key, value): (&str, &str)| (key.to_owned(), value.to_owned());
        chosen.into_iter().map(owned).collect()
    })
}

fn any_pod() -> impl Strategy<Value = Pod> {
    let containers = (any_container(0), prop::option::of(any_container(1)));
    let own = prop::option::of(prop_oneof![Just("auto"), Just("own/proxy:1")]);
    (containers, any_annotations(), any::<bool>(), own).prop_map(|((first, second), annotations, init, own)| {
        let own = own.map(|image| json!({"name": "istio-proxy", "image": image}));
        let containers: Vec<Value> = [Some(first), second, own].into_iter().flatten().collect();
        let inits = if init { json!([{"name": "migrate"}]) } else { Value::Null };
        pod(json!({
            "metadata": {"name": "p", "labels": {"app": "a"}, "annotations": annotations},
            "spec": {"containers": containers, "initContainers": inits, "nodeSelector": {"a": "b"}}
        }))
    })
}

/// Everything that injection may touch, set aside.
fn untouchable(mut pod: Pod) -> Pod {
    uninject(&mut pod);
    pod.metadata.labels = None;
    if let Some(annotations) = &mut pod.metadata.annotations {
        annotations.retain(|key, _| !key.starts_with("kubectl.kubernetes.io/"));
    }
    if pod
        .metadata
        .annotations
        .as_ref()
        .is_some_and(BTreeMap::is_empty)
    {
        pod.metadata.annotations = None;
    }
    let mut spec = pod.spec.take().unwrap();
    let at_the_end = Overrides::take(&mut spec);
    at_the_end.put_back(&mut spec);
    // Port names of probes come back as numbers.
    for container in &mut spec.containers {
        let ports = container.ports.clone();
        let named = ports.iter().flatten().any(|port| port.name.is_some());
        for probe in [
            &mut container.readiness_probe,
            &mut container.liveness_probe,
        ]
        .into_iter()
        .flatten()
        {
            if let (true, Some(get)) = (named, &mut probe.http_get)
                && get.path.is_none()
            {
                get.port = k8s_openapi::apimachinery::pkg::util::intstr::IntOrString::Int(8080);
            }
        }
    }
    pod.spec = Some(spec);
    pod
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn twice_is_once_and_nothing_of_the_users_is_lost(pod in any_pod(), native: bool) {
        let settings = InjectionSettings { native_sidecars: native, ..InjectionSettings::default() };
        let once = inject(&pod, "default", &settings).unwrap();
        let twice = inject(&once.object, "default", &settings).unwrap();
        prop_assert_eq!(&twice.object, &once.object);
        prop_assert_eq!(&twice.warnings, &once.warnings);
        prop_assert_eq!(untouchable(once.object), untouchable(pod));
    }
}
