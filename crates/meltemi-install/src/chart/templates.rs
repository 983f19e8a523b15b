//! The places of each object that values decide, and the expressions that stand there instead.

use serde_json::{Value, json};

use super::MADE;
use super::emit::{block, condition, either, expression, literal, only_if, put, text};
use crate::values::UNREAD;
use crate::{Layer, Object, Values, generate};

/// Values that are easy to find again in an object, one for each place that is there only if a value is.
const MARKED: &str = "
revision: chart-revision
global:
  istioNamespace: chart-namespace
  imagePullPolicy: Always
  imagePullSecrets: [marked]
  logAsJson: true
  priorityClassName: marked
pilot:
  nodeSelector: {marked: marked}
  serviceAccountAnnotations: {marked: marked}
  serviceAnnotations: {marked: marked}
  tolerations: [{key: marked}]
";
const REVISION: &str = "chart-revision";
const NAMESPACE: &str = "chart-namespace";
const IS_DEFAULT: &str = r#"eq (include "istiod.revision" .) "default""#;

/// The names of the templates, which are those of Istio's chart, and their texts.
pub(super) fn all() -> Vec<(&'static str, String)> {
    let scaled = objects(&[]);
    let object = |kind: &str| find(&scaled, kind);
    let mut autoscaler = object("HorizontalPodAutoscaler");
    autoscaling(&mut autoscaler);
    let autoscale = only(".Values.pilot.autoscaleEnabled", &autoscaler);
    let budget = object("PodDisruptionBudget");
    let is_budgeted = ".Values.global.defaultPodDisruptionBudget.enabled";
    let mut account = object("ServiceAccount");
    annotations(&mut account, "serviceAccountAnnotations");
    pull_secrets(&mut account, "/imagePullSecrets");
    let mut service = object("Service");
    annotations(&mut service, "serviceAnnotations");
    vec![
        ("autoscale", autoscale),
        ("clusterrole", file(&object("ClusterRole"))),
        ("clusterrolebinding", file(&object("ClusterRoleBinding"))),
        ("configmap", file(&mesh(&scaled))),
        ("deployment", file(&deployment())),
        ("istiod-injector-configmap", file(&injection(&scaled))),
        ("mutatingwebhook", file(&injector(&scaled))),
        ("poddisruptionbudget", only(is_budgeted, &budget)),
        ("role", file(&object("Role"))),
        ("rolebinding", file(&object("RoleBinding"))),
        ("service", file(&service)),
        ("serviceaccount", file(&account)),
        ("validatingwebhookconfiguration", file(&validator(&scaled))),
    ]
}

fn objects(set: &[&str]) -> Vec<Object> {
    let marked = Layer::File {
        name: "marked".to_owned(),
        text: MARKED.to_owned(),
    };
    let set = set.iter().map(|set| Layer::Set((*set).to_owned()));
    let layers: Vec<Layer> = std::iter::once(marked).chain(set).collect();
    generate(&Values::read(&layers).unwrap().0).unwrap()
}

fn find(objects: &[Object], kind: &str) -> Value {
    let mut objects = objects.iter();
    objects
        .find(|object| object.kind == kind)
        .unwrap()
        .content
        .clone()
}

fn config_map(objects: &[Object], name: &str) -> Value {
    let name = format!("{name}-{REVISION}");
    let mut objects = objects.iter();
    let found = objects.find(|object| object.kind == "ConfigMap" && object.name == name);
    found.unwrap().content.clone()
}

fn file(object: &Value) -> String {
    format!("{{{{- /* {MADE} */}}}}\n{}", written(object))
}

/// The whole object under a condition.
fn only(condition: &str, object: &Value) -> String {
    format!(
        "{{{{- /* {MADE} */}}}}\n{{{{- if {condition} }}}}\n{}{{{{- end }}}}\n",
        written(object)
    )
}

/// The object with expressions for revision and namespace, which stand in many places.
fn written(object: &Value) -> String {
    let text = text(object);
    let revision = r#"{{ include "istiod.revision" . | quote }}"#;
    let namespace = r#"{{ include "istiod.namespace" . | quote }}"#;
    let injector = format!("istio-sidecar-injector-{REVISION}-{NAMESPACE}");
    let text = text
        .replace(&injector, r#"{{ include "istiod.injector" . }}"#)
        .replace(&format!(": {REVISION}\n"), &format!(": {revision}\n"))
        .replace(&format!("- {REVISION}\n"), &format!("- {revision}\n"))
        .replace(
            &format!("-{REVISION}"),
            r#"{{ include "istiod.suffix" . }}"#,
        )
        .replace(&format!(": {NAMESPACE}\n"), &format!(": {namespace}\n"))
        .replace(NAMESPACE, r#"{{ include "istiod.namespace" . }}"#);
    assert!(
        !text.contains(REVISION) && !text.contains("marked"),
        "{text}"
    );
    text
}

/// An optional field that a value fills with lines.
fn optional(object: &mut Value, pointer: &str, value: &str, lines: &str) {
    put(object, pointer, only_if(value, block(lines)));
}

fn annotations(object: &mut Value, name: &str) {
    let value = format!(".Values.pilot.{name}");
    let lines = format!(r#"include "istiod.texts" {value} | trim"#);
    optional(object, "/metadata/annotations", &value, &lines);
}

fn pull_secrets(object: &mut Value, pointer: &str) {
    let lines = r#"include "istiod.pullSecrets" . | trim"#;
    optional(object, pointer, ".Values.global.imagePullSecrets", lines);
}

/// A mapping of texts that values add to, and maybe something that they cannot change.
fn over(object: &mut Value, pointer: &str, value: &str, fixed: &str) {
    let there = object.pointer(pointer).unwrap().as_object().unwrap();
    let mut words = String::new();
    for (name, value) in there {
        words += &match value.as_str().unwrap() {
            REVISION => format!(r#" "{name}" (include "istiod.revision" .)"#),
            NAMESPACE => format!(r#" "{name}" (include "istiod.namespace" .)"#),
            text => format!(r#" "{name}" "{text}""#),
        };
    }
    let lines = format!(
        r#"include "istiod.over" (list (dict{words}) .Values.pilot.{value}{fixed}) | trim"#
    );
    put(object, pointer, block(&lines));
}

fn autoscaling(autoscaler: &mut Value) {
    for (pointer, value) in [
        ("/spec/minReplicas", "autoscaleMin"),
        ("/spec/maxReplicas", "autoscaleMax"),
        (
            "/spec/metrics/0/resource/target/averageUtilization",
            "cpu.targetAverageUtilization",
        ),
    ] {
        put(
            autoscaler,
            pointer,
            expression(&format!("int .Values.pilot.{value}")),
        );
    }
}

fn deployment() -> Value {
    let fixed = objects(&["pilot.autoscaleEnabled=false"]);
    let mut all = find(&fixed, "Deployment");
    over(&mut all, "/metadata/labels", "deploymentLabels", "");
    let replicas = expression("int .Values.pilot.replicaCount");
    let replicas = only_if("not .Values.pilot.autoscaleEnabled", replicas);
    put(&mut all, "/spec/replicas", replicas);
    for (field, value) in [
        ("maxSurge", "rollingMaxSurge"),
        ("maxUnavailable", "rollingMaxUnavailable"),
    ] {
        let amount = format!(r#"include "istiod.amount" .Values.pilot.{value}"#);
        let pointer = format!("/spec/strategy/rollingUpdate/{field}");
        put(&mut all, &pointer, expression(&amount));
    }
    let pod = all.pointer_mut("/spec/template").unwrap();
    over(pod, "/metadata/annotations", "podAnnotations", "");
    let uninjected = r#" (dict "sidecar.istio.io/inject" "false")"#;
    over(pod, "/metadata/labels", "podLabels", uninjected);
    let class = ".Values.global.priorityClassName";
    let quoted = expression(&format!("{class} | quote"));
    put(pod, "/spec/priorityClassName", only_if(class, quoted));
    pull_secrets(pod, "/spec/imagePullSecrets");
    for name in ["nodeSelector", "tolerations"] {
        let value = format!(".Values.pilot.{name}");
        optional(
            pod,
            &format!("/spec/{name}"),
            &value,
            &format!("toYaml {value}"),
        );
    }
    let affinity = ".Values.pilot.affinity";
    let apart = pod["spec"]["affinity"].clone();
    let own = block(&format!("toYaml {affinity}"));
    put(pod, "/spec/affinity", either(affinity, own, apart));
    container(pod.pointer_mut("/spec/containers/0").unwrap());
    all
}

fn container(container: &mut Value) {
    let args = container["args"].as_array_mut().unwrap();
    for arg in args {
        if arg.as_str().unwrap().starts_with("--log_output_level=") {
            *arg = expression(
                r#"printf "--log_output_level=%s" .Values.global.logging.level | quote"#,
            );
        } else if arg == "--log_as_json" {
            *arg = only_if(".Values.global.logAsJson", arg.clone());
        }
    }
    let pilot = "list . .Values.pilot.image .Values.pilot.hub .Values.pilot.tag";
    let image = format!(r#"include "istiod.image" ({pilot}) | quote"#);
    put(container, "/image", expression(&image));
    let policy = ".Values.global.imagePullPolicy";
    put(
        container,
        "/imagePullPolicy",
        only_if(policy, expression(policy)),
    );
    let resources = r#"include "istiod.resources" .Values.pilot.resources | trim"#;
    put(container, "/resources", block(resources));
    let env = container["env"].as_array_mut().unwrap();
    env.retain(|variable| variable["value"].is_null());
    env.push(block(r#"include "istiod.env" . | trim"#));
}

fn mesh(objects: &[Object]) -> Value {
    let mut map = config_map(objects, "istio");
    put(
        &mut map,
        "/data",
        json!({"mesh": literal(r#"include "istiod.mesh" ."#)}),
    );
    map
}

fn injection(objects: &[Object]) -> Value {
    let mut map = config_map(objects, "istio-sidecar-injector");
    let data = json!({
        "config": literal(r#"include "istiod.policy" ."#),
        "values": literal(r#"include "istiod.injection" ."#),
    });
    put(&mut map, "/data", data);
    map
}

/// Of a revision, with what the default one has besides.
fn webhooks(objects: &[Object], kind: &str) -> Value {
    let mut configuration = find(objects, kind);
    let default = "revision=default,sidecarInjectorWebhook.enableNamespacesByDefault=true";
    let default = find(&self::objects(&[default]), kind);
    let webhooks = configuration["webhooks"].as_array_mut().unwrap();
    let others = &default["webhooks"].as_array().unwrap()[webhooks.len()..];
    webhooks.extend(
        others
            .iter()
            .map(|webhook| only_if(IS_DEFAULT, webhook.clone())),
    );
    configuration
}

fn injector(objects: &[Object]) -> Value {
    let mut configuration = webhooks(objects, "MutatingWebhookConfiguration");
    let policy = ".Values.sidecarInjectorWebhook.reinvocationPolicy";
    for webhook in configuration["webhooks"].as_array_mut().unwrap() {
        let is_default = webhook.get("$then").is_some();
        let inside = if is_default { "/$then" } else { "" };
        let pointer = format!("{inside}/reinvocationPolicy");
        put(webhook, &pointer, only_if(policy, expression(policy)));
    }
    let webhooks = configuration["webhooks"].as_array().unwrap();
    let last = format!("/webhooks/{}", webhooks.len() - 1);
    let by_default = ".Values.sidecarInjectorWebhook.enableNamespacesByDefault";
    condition(&mut configuration, &last, by_default);
    configuration
}

fn validator(objects: &[Object]) -> Value {
    webhooks(objects, "ValidatingWebhookConfiguration")
}

/// A helper that lists the values that are set and that nothing reads.
pub(super) fn unread() -> String {
    let names: String = UNREAD.iter().map(|name| format!("\n  {name:?}")).collect();
    format!(
        r#"{{{{- /* {MADE} */}}}}
{{{{- define "istiod.unread" -}}}}
{{{{- $values := .Values -}}}}
{{{{- $found := list -}}}}
{{{{- range $path := list{names} -}}}}
{{{{- $at := $values -}}}}
{{{{- $is := true -}}}}
{{{{- range $step := splitList "." $path -}}}}
{{{{- if and $is (kindIs "map" $at) (hasKey $at $step) }}}}{{{{ $at = index $at $step }}}}{{{{ else }}}}{{{{ $is = false }}}}{{{{ end -}}}}
{{{{- end -}}}}
{{{{- if $is }}}}{{{{ $found = append $found $path }}}}{{{{ end -}}}}
{{{{- end -}}}}
{{{{- toYaml $found -}}}}
{{{{- end -}}}}
"#
    )
}
