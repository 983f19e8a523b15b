use jiff::{SignedDuration, Timestamp};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};

use super::facts::Facts;
use super::{AFTER, BEFORE, Section, judge};
use crate::fake::{Fake, FakeCluster};

const NOW: &str = "2026-06-01T12:00:00Z";

fn now() -> Timestamp {
    NOW.parse().unwrap()
}

/// A certificate that is good until so many days from now.
fn pem(days: i64) -> String {
    let until = now() + SignedDuration::from_hours(24 * days);
    let time = |at: Timestamp| {
        let since = std::time::Duration::from_secs(at.as_second().unsigned_abs());
        rcgen::date_time_ymd(1970, 1, 1) + since
    };
    let mut parameters = CertificateParams::new(vec!["ca".to_owned()]).unwrap();
    parameters.not_before = time(now() - SignedDuration::from_hours(24));
    parameters.not_after = time(until);
    let key = KeyPair::generate().unwrap();
    parameters.self_signed(&key).unwrap().pem()
}

fn object(kind: &str, namespace: &str, name: &str, labels: Value, rest: Value) -> Value {
    let mut object = rest;
    object["kind"] = kind.into();
    object["metadata"]["name"] = name.into();
    object["metadata"]["labels"] = labels;
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = namespace.into();
    }
    object
}

/// A mesh in which nothing is wrong: made of what an installation makes.
fn healthy() -> Facts {
    let values = crate::manifest::read_values(&[]).unwrap();
    let made = meltemi_install::generate(&values).unwrap();
    let of = |kind: &str| -> Vec<Value> {
        let made = made.iter().filter(|object| object.kind == kind);
        made.map(|object| object.content.clone()).collect()
    };
    let root = pem(3650);
    let mut facts = Facts {
        now: now(),
        place: "istio-system".to_owned(),
        version: "v1.36.3".to_owned(),
        wanted: made.clone(),
        definitions: of("CustomResourceDefinition"),
        deployments: of("Deployment"),
        services: of("Service"),
        maps: of("ConfigMap"),
        injectors: of("MutatingWebhookConfiguration"),
        validators: of("ValidatingWebhookConfiguration"),
        autoscalers: of("HorizontalPodAutoscaler"),
        instances: vec![("istiod-1".to_owned(), env!("CARGO_PKG_VERSION").to_owned())],
        proxies: Some(vec![json!({"proxy": "web.shop"})]),
        ..Facts::default()
    };
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    facts.nodes.push(object("Node", "", "n1", json!({}), ready));
    for (name, labels) in [
        ("istio-system", json!({})),
        ("kube-system", json!({})),
        ("shop", json!({"istio-injection": "enabled"})),
    ] {
        facts
            .namespaces
            .push(object("Namespace", "", name, labels, json!({})));
        if name != "kube-system" {
            let data = json!({"data": {"root-cert.pem": root}});
            let labels = json!({"istio.io/config": "true"});
            let map = object("ConfigMap", name, "istio-ca-root-cert", labels, data);
            facts.roots.push(map);
        }
    }
    for definition in &mut facts.definitions {
        definition["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
    }
    facts.deployments[0]["status"] =
        json!({"replicas": 1, "updatedReplicas": 1, "availableReplicas": 1});
    let slice = json!({"endpoints": [{"conditions": {"ready": true}}]});
    let labels = json!({"kubernetes.io/service-name": "istiod"});
    facts.slices.push(object(
        "EndpointSlice",
        "istio-system",
        "istiod-x",
        labels,
        slice,
    ));
    let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &root);
    for configuration in facts.injectors.iter_mut().chain(&mut facts.validators) {
        for webhook in configuration["webhooks"].as_array_mut().unwrap() {
            webhook["clientConfig"]["caBundle"] = bundle.as_str().into();
            webhook["failurePolicy"] = "Fail".into();
        }
    }
    let image = format!("meltemi/proxyv2:{}", env!("CARGO_PKG_VERSION"));
    let pod = json!({
        "metadata": {
            "annotations": {"istio.io/rev": "default"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "web-5d4"}],
        },
        "spec": {
            "containers": [{"name": "web"}],
            "initContainers": [{"name": "istio-proxy", "image": image}],
        },
        "status": {"phase": "Running", "initContainerStatuses": [{"name": "istio-proxy", "ready": true}]},
    });
    facts
        .pods
        .push(object("Pod", "shop", "web", json!({}), pod));
    let made = json!({"spec": {"containers": [{"name": "istio-proxy"}]}});
    facts.injected.push(("default".to_owned(), Ok(made)));
    facts
}

fn found(sections: &[Section], facts: &Facts) -> Vec<(&'static str, String)> {
    let judged = judge(sections, facts).into_iter();
    judged
        .flat_map(|judged| {
            let id = judged.id;
            let findings = judged.findings.into_iter();
            findings.map(move |finding| (id, format!("{} | {}", finding.reason, finding.fix)))
        })
        .collect()
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(found(AFTER, &healthy()), []);
    let mut before = healthy();
    before.deployments.clear();
    before.injectors.clear();
    assert_eq!(found(BEFORE, &before), []);
}

#[test]
fn ids_are_used_once_and_there_are_many() {
    let sections = BEFORE.iter().chain(&AFTER[1..]);
    let mut ids: Vec<&str> = sections
        .flat_map(|section| section.checks.iter().map(|check| check.id))
        .collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count);
    assert!(count >= 25, "{count}");
}

/// Breaks a healthy mesh, and expects one check to say so in these words, and no other to say anything.
fn breaks(id: &str, words: &[&str], how: impl FnOnce(&mut Facts)) {
    let mut facts = healthy();
    how(&mut facts);
    let is_before = BEFORE[1].checks.iter().any(|check| check.id == id);
    let found = found(if is_before { BEFORE } else { AFTER }, &facts);
    assert!(!found.is_empty(), "{id} finds nothing");
    for (by, said) in &found {
        assert_eq!(*by, id, "{said}");
    }
    for word in words {
        let is_said = found.iter().any(|(_, said)| said.contains(word));
        assert!(is_said, "{word} in {found:?}");
    }
}

#[test]
fn the_cluster_is_judged() {
    breaks("kubernetes-version", &["v1.27.1", "1.29"], |facts| {
        facts.version = "v1.27.1".to_owned();
    });
    breaks("may-look", &["forbidden"], |facts| {
        facts.refused.push("nodes is forbidden".to_owned());
    });
    breaks("nodes-ready", &["kubectl describe node n1"], |facts| {
        facts.nodes[0]["status"]["conditions"][0]["status"] = "False".into();
    });
}

#[test]
fn what_is_in_the_way_of_an_installation_is_found() {
    breaks(
        "may-install",
        &["create ClusterRole", "cluster-admin"],
        |facts| {
            facts.denied.push("create ClusterRole".to_owned());
        },
    );
    breaks(
        "namespace-lives",
        &["kubectl wait --for=delete namespace/istio-system"],
        |facts| {
            facts.namespaces[0]["metadata"]["deletionTimestamp"] = NOW.into();
        },
    );
    breaks(
        "no-other-owner",
        &["Deployment istio-system/istiod is Helm's", "helm upgrade"],
        |facts| {
            facts.deployments[0]["metadata"]["labels"]["app.kubernetes.io/managed-by"] =
                "Helm".into();
        },
    );
    breaks("no-other-owner", &["has not installed"], |facts| {
        facts.deployments[0]["metadata"]["labels"] = json!({"app": "istiod"});
    });
    breaks(
        "definitions-free",
        &["stored in version v0", "is being deleted"],
        |facts| {
            facts.definitions[0]["status"]["storedVersions"] = json!(["v0", "v1"]);
            facts.definitions[0]["metadata"]["deletionTimestamp"] = NOW.into();
        },
    );
    breaks("one-injector", &["istio-sidecar-injector does"], |facts| {
        let webhooks = facts.injectors[0]["webhooks"].as_array_mut().unwrap();
        for webhook in webhooks {
            webhook["clientConfig"]["service"]["namespace"] = "elsewhere".into();
        }
    });
    breaks(
        "pod-security",
        &[
            "namespace shop enforces \"restricted\"",
            "enforce=privileged",
        ],
        |facts| {
            facts.namespaces[2]["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] =
                "restricted".into();
        },
    );
    breaks(
        "pods-can-be-injected",
        &[
            "container web of pod shop/web runs as uid 1337",
            "node's network",
        ],
        |facts| {
            facts.pods[0]["spec"]["containers"][0]["securityContext"]["runAsUser"] = 1337.into();
            facts.pods[0]["spec"]["hostNetwork"] = true.into();
        },
    );
}

#[test]
fn the_control_plane_is_judged() {
    breaks(
        "installed",
        &["meltemi install --wait --revision canary"],
        |facts| {
            facts.revision = Some("canary".to_owned());
        },
    );
    breaks(
        "definitions",
        &["is not there", "is not served", "has no version v1"],
        |facts| {
            facts.definitions.remove(0);
            facts.definitions[0]["status"]["conditions"][0]["status"] = "False".into();
            facts.definitions[1]["spec"]["versions"] = json!([]);
        },
    );
    breaks("rolled-out", &["0 of 1 pods to be ready"], |facts| {
        facts.deployments[0]["status"]["availableReplicas"] = 0.into();
    });
    breaks(
        "pods-stable",
        &["7 times", "logs --previous istiod-1"],
        |facts| {
            let status = json!({"status": {"containerStatuses": [{"restartCount": 7}]}});
            let labels = json!({"app": "istiod"});
            facts
                .pods
                .push(object("Pod", "istio-system", "istiod-1", labels, status));
        },
    );
    breaks(
        "one-version",
        &["istiod-1 is of version 9.9", "meltemi upgrade"],
        |facts| {
            facts.instances[0].1 = "9.9".to_owned();
        },
    );
    breaks("one-version", &["no instance answers"], |facts| {
        facts.instances.clear()
    });
    breaks(
        "service",
        &["has no port 443", "no endpoint that is ready"],
        |facts| {
            facts.services[0]["spec"]["ports"][1]["port"] = 444.into();
            facts.slices.clear();
        },
    );
    breaks(
        "mesh-config",
        &[
            "acessLogFile",
            "kubectl -n istio-system edit configmap istio",
        ],
        |facts| {
            let map = facts
                .maps
                .iter_mut()
                .find(|map| map["metadata"]["name"] == "istio");
            map.unwrap()["data"]["mesh"] = "acessLogFile: /dev/stdout".into();
        },
    );
    breaks("injection-config", &["key values"], |facts| {
        let map = facts.maps.iter_mut();
        let mut map = map.filter(|map| map["metadata"]["name"] == "istio-sidecar-injector");
        map.next().unwrap()["data"]["values"] = "{[".into();
    });
    breaks("autoscaler", &["metrics-server"], |facts| {
        facts.autoscalers[0]["status"]["conditions"] =
            json!([{"type": "ScalingActive", "status": "False"}]);
    });
}

#[test]
fn webhooks_are_judged() {
    breaks(
        "webhooks-there",
        &["has no ValidatingWebhookConfiguration"],
        |facts| {
            facts.validators.clear();
        },
    );
    breaks(
        "webhooks-served",
        &[
            "Service gone/istiod-old",
            "kubectl delete mutatingwebhookconfiguration",
        ],
        |facts| {
            let mut lost = facts.injectors[0].clone();
            lost["metadata"]["name"] = "lost".into();
            for webhook in lost["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"]["service"] =
                    json!({"name": "istiod-old", "namespace": "gone"});
                webhook["namespaceSelector"] = json!({});
            }
            facts.injectors.push(lost);
        },
    );
    breaks(
        "tags",
        &["tag prod points at revision old", "meltemi tag set prod"],
        |facts| {
            let labels = json!({"istio.io/tag": "prod", "istio.io/rev": "old"});
            let tag = object(
                "MutatingWebhookConfiguration",
                "",
                "istio-revision-tag-prod",
                labels,
                json!({}),
            );
            facts.injectors.push(tag);
        },
    );
    breaks(
        "one-owner",
        &["istio-injection=enabled is selected by istio-sidecar-injector and other"],
        |facts| {
            let mut other = facts.injectors[0].clone();
            other["metadata"]["name"] = "other".into();
            facts.injectors.push(other);
        },
    );
    breaks("validation-binds", &["is not"], |facts| {
        facts.validators[0]["webhooks"][0]["failurePolicy"] = "Ignore".into();
    });
    breaks(
        "injection-answers",
        &["asks revision default gets none"],
        |facts| {
            facts.injected[0].1 = Ok(json!({"spec": {"containers": [{"name": "check"}]}}));
        },
    );
    breaks("injection-answers", &["failed calling webhook"], |facts| {
        facts.injected[0].1 = Err("failed calling webhook".to_owned());
    });
    breaks(
        "validation-answers",
        &["failed calling webhook", "endpointslices"],
        |facts| {
            facts.validated = Some("failed calling webhook".to_owned());
        },
    );
}

/// To delete the webhooks would not bring the control plane back.
#[test]
fn a_service_that_is_gone_is_made_again() {
    let mut facts = healthy();
    facts.services.clear();
    let said = found(AFTER, &facts);
    assert_eq!(said.len(), 3, "{said:?}");
    let is_mended = |(_, said): &(&str, String)| said.ends_with("| meltemi install");
    assert!(said.iter().all(is_mended), "{said:?}");
}

#[test]
fn roots_that_end_or_differ_are_found() {
    let given = |facts: &mut Facts, root: &str| {
        for map in &mut facts.roots {
            map["data"]["root-cert.pem"] = root.into();
        }
        let bundle = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, root);
        for found in facts.injectors.iter_mut().chain(&mut facts.validators) {
            for webhook in found["webhooks"].as_array_mut().unwrap() {
                webhook["clientConfig"]["caBundle"] = bundle.as_str().into();
            }
        }
    };
    let ids = |facts: &Facts| -> Vec<&str> {
        let mut ids: Vec<&str> = found(AFTER, facts).into_iter().map(|(id, _)| id).collect();
        ids.dedup();
        ids
    };
    let mut facts = healthy();
    given(&mut facts, &pem(10));
    assert_eq!(ids(&facts), ["root-valid", "webhooks-bundled"]);
    assert!(found(AFTER, &facts)[0].1.contains("expires at 2026-06-11"));
    given(&mut facts, &pem(0));
    assert!(found(AFTER, &facts)[0].1.contains("has expired"));
    breaks(
        "root-published",
        &["istio-system/istio-ca-root-cert is not there"],
        |facts| {
            facts.roots.remove(0);
        },
    );
    breaks("root-everywhere", &["namespace shop has none"], |facts| {
        facts
            .roots
            .retain(|map| map["metadata"]["namespace"] != "shop");
    });
    breaks(
        "root-everywhere",
        &["namespace shop has another one"],
        |facts| {
            facts.roots[1]["data"]["root-cert.pem"] = pem(100).into();
        },
    );
    breaks("webhooks-bundled", &["has none"], |facts| {
        facts.injectors[0]["webhooks"][0]["clientConfig"]["caBundle"] = "".into();
    });
    breaks(
        "webhooks-trust",
        &["trusts another one", "rollout restart"],
        |facts| {
            let other =
                base64::Engine::encode(&base64::engine::general_purpose::STANDARD, pem(100));
            facts.injectors[0]["webhooks"][0]["clientConfig"]["caBundle"] = other.into();
        },
    );
}

#[test]
fn labels_of_namespaces_are_judged() {
    let labels =
        |facts: &mut Facts, labels: Value| facts.namespaces[2]["metadata"]["labels"] = labels;
    breaks(
        "one-label",
        &["kubectl label namespace shop istio-injection-"],
        |facts| {
            labels(
                facts,
                json!({"istio-injection": "enabled", "istio.io/rev": "default"}),
            );
        },
    );
    breaks("label-understood", &["says \"true\""], |facts| {
        labels(facts, json!({"istio-injection": "true"}));
        let shop = json!({"istio.io/rev": "default"});
        facts
            .namespaces
            .push(object("Namespace", "", "other", shop, json!({})));
        let mut root = facts.roots[1].clone();
        root["metadata"]["namespace"] = "other".into();
        facts.roots.push(root);
    });
    breaks(
        "revision-there",
        &["chooses defalt", "istio.io/rev=default"],
        |facts| {
            labels(facts, json!({"istio.io/rev": "defalt"}));
        },
    );
    breaks(
        "some-injected",
        &["kubectl label namespace default istio-injection=enabled"],
        |facts| {
            labels(facts, json!({}));
        },
    );
}

#[test]
fn pods_and_proxies_are_judged() {
    breaks(
        "pods-injected",
        &["pod shop/web has none", "rollout restart deployment/web"],
        |facts| {
            facts.pods[0]["spec"]["initContainers"] = json!([]);
        },
    );
    breaks(
        "sidecars-wanted",
        &["has one of revision \"old\""],
        |facts| {
            facts.pods[0]["metadata"]["annotations"]["istio.io/rev"] = "old".into();
        },
    );
    breaks("sidecars-current", &["meltemi/proxyv2:0.0.1"], |facts| {
        facts.pods[0]["spec"]["initContainers"][0]["image"] = "meltemi/proxyv2:0.0.1".into();
    });
    breaks(
        "sidecars-ready",
        &["kubectl -n shop logs web -c istio-proxy"],
        |facts| {
            facts.pods[0]["status"]["initContainerStatuses"][0]["ready"] = false.into();
        },
    );
    breaks("sidecars-stable", &["proxyMemoryLimit"], |facts| {
        facts.pods[0]["status"]["initContainerStatuses"][0]["lastState"]["terminated"]["reason"] =
            "OOMKilled".into();
    });
    breaks(
        "proxies-connected",
        &["that of pod shop/web is not"],
        |facts| {
            facts.proxies = Some(Vec::new());
        },
    );
    breaks("proxies-accept", &["web.shop: no such cluster"], |facts| {
        facts.proxies = Some(vec![
            json!({"proxy": "web.shop", "listener_error": "no such cluster"}),
        ]);
    });
}

#[test]
fn a_person_reads_marks_and_a_program_reads_json() {
    let cluster = FakeCluster::default();
    let fake = Fake {
        cluster: Some(cluster.clone()),
        ..Fake::default()
    };
    let output = fake.run(&["x", "precheck"]);
    assert_eq!(output.status, 0, "{}", output.stdout);
    assert!(
        output
            .stdout
            .starts_with("Kubernetes\n  ✔ the API server's version is supported\n")
    );
    assert!(output.stdout.ends_with("safe to install or upgrade!\n"));
    let output = fake.run(&["check"]);
    assert_eq!(
        (output.status, output.stderr.as_str()),
        (1, "Error: 1 check failed\n")
    );
    assert!(output.stdout.contains(
        "  ✘ a control plane is installed [installed]\n      no Deployment with app=istiod is in the cluster\n        fix: meltemi install --wait\n"
    ), "{}", output.stdout);
    let mut forbidding = fake.clone();
    forbidding.cluster.as_mut().unwrap().forbidden = "clusterroles".to_owned();
    let output = forbidding.run(&["check", "--pre", "-o", "json"]);
    assert_eq!(output.status, 1);
    let json: Value = serde_json::from_str(&output.stdout).unwrap();
    assert_eq!(json["success"], false);
    let checks = json["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["id"] == "may-install")
        .unwrap();
    assert_eq!(check["result"], "error");
    assert_eq!(
        check["findings"][0]["reason"],
        "you may not create ClusterRole"
    );
}
