use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, PodTemplateSpec, Sysctl, Volume};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use meltemi_core::names::{INIT_CONTAINER, PROXY_CONTAINER, PROXY_UID, label};
use meltemi_core::{Diagnostic, FieldPath, ObjectRef, Severity};
use serde::Serialize;

use crate::options::{self, Interception, Options, Template};
use crate::overlay::Overrides;
use crate::status::{Status, strip};
use crate::workload::Workload;
use crate::{InjectionSettings, annotation, env, probes, prometheus, template, volumes};

/// The lowest port that a process without privileges may listen on.
const LOW_PORTS: &str = "net.ipv4.ip_unprivileged_port_start";

/// An injected pod (or template) and what its author should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Injection<T> {
    pub object: T,
    pub warnings: Vec<Diagnostic>,
}

/// Why a pod was denied: at least one error, and the warnings that came with it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("cannot inject the sidecar: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub struct Rejection(pub Vec<Diagnostic>);

/// Injects a pod whose workload its owner reference names.
///
/// # Errors
/// An annotation cannot be read or asks for what is not supported, or the pod has no `spec`.
pub fn inject(
    pod: &Pod,
    namespace: &str,
    settings: &InjectionSettings,
) -> Result<Injection<Pod>, Rejection> {
    inject_pod(pod.clone(), &Workload::of_pod(pod, namespace), settings)
}

/// Injects the template of a workload.
///
/// # Errors
/// As [`inject`].
pub fn inject_template(
    template: &PodTemplateSpec,
    workload: &Workload,
    settings: &InjectionSettings,
) -> Result<Injection<PodTemplateSpec>, Rejection> {
    let had_metadata = template.metadata.clone();
    let pod = Pod {
        metadata: had_metadata.unwrap_or_default(),
        spec: template.spec.clone(),
        status: None,
    };
    let Injection { object, warnings } = inject_pod(pod, workload, settings)?;
    let object = PodTemplateSpec {
        metadata: Some(object.metadata),
        spec: object.spec,
    };
    Ok(Injection { object, warnings })
}

/// Takes an injection back, except for labels; says whether there was one.
pub fn uninject(pod: &mut Pod) -> bool {
    strip(pod)
}

fn inject_pod(
    mut pod: Pod,
    workload: &Workload,
    settings: &InjectionSettings,
) -> Result<Injection<Pod>, Rejection> {
    let object = ObjectRef::new(&workload.kind, &workload.namespace, &workload.name);
    strip(&mut pod);
    let mut annotations = pod.metadata.annotations.take().unwrap_or_default();
    let (options, mut diagnostics) = options::read(&annotations, settings);
    match pod.spec.as_mut() {
        None => diagnostics.push(
            Diagnostic::error("IST0106", "the pod has no spec").field(FieldPath::new("spec")),
        ),
        Some(spec) => {
            let template = options.template;
            let status = inject_spec(
                spec,
                &mut annotations,
                workload,
                options,
                settings,
                &mut diagnostics,
            );
            annotate(&mut annotations, spec, &status);
            label(&mut pod.metadata, template, workload, settings);
        }
    }
    pod.metadata.annotations = Some(annotations);
    for diagnostic in &mut diagnostics {
        diagnostic.object = Some(object.clone());
    }
    if diagnostics.iter().any(|d| d.severity == Severity::Error) {
        return Err(Rejection(diagnostics));
    }
    Ok(Injection {
        object: pod,
        warnings: diagnostics,
    })
}

fn inject_spec(
    spec: &mut PodSpec,
    annotations: &mut BTreeMap<String, String>,
    workload: &Workload,
    mut options: Options,
    settings: &InjectionSettings,
    diagnostics: &mut Vec<Diagnostic>,
) -> Status {
    let overrides = Overrides::take(spec);
    options.native |= overrides.is_native() && options.template == Template::Sidecar;
    warn_of_uid(spec, diagnostics);
    let probers = if options.rewrite_probes {
        probes::rewrite(spec, options.status_port, diagnostics)
    } else {
        probes::Probers::new()
    };
    let scrape = options
        .merge_metrics
        .then(|| prometheus::rewrite(annotations, options.status_port))
        .flatten();
    let mut proxy = overrides.apply(template::proxy(spec, workload, &options, settings));
    if !options.native {
        proxy.restart_policy = None;
    }
    let variables = proxy.env.get_or_insert_default();
    if let Some(scrape) = &scrape {
        env::set(variables, env::value(prometheus::ENV, &json(scrape)));
    }
    if !probers.is_empty() {
        env::set(variables, env::value(probes::ENV, &json(&probers)));
    }
    let is_captured =
        options.template == Template::Sidecar && options.interception == Interception::Redirect;
    let init = is_captured.then(|| overrides.apply(template::init(&options, settings)));
    if !overrides.is_empty() {
        annotations.insert(annotation::OVERRIDES.to_owned(), json(&overrides));
    }
    let with_init = init.is_some();
    place(spec, init, proxy, &options);
    if options.template == Template::Gateway {
        open_low_ports(spec);
    }
    let volumes = add_volumes(spec, &options);
    let init_names = with_init.then_some(INIT_CONTAINER);
    let native = options.native.then_some(PROXY_CONTAINER);
    let classic = (!options.native).then_some(PROXY_CONTAINER);
    Status {
        init_containers: names(init_names.into_iter().chain(native)),
        containers: names(classic),
        volumes: names(volumes.iter().map(String::as_str)),
        image_pull_secrets: None,
        revision: settings.revision.clone(),
    }
}

/// A native sidecar starts before the user's init containers, which then have a network. A classic one cannot, so the rules
/// come after them.
fn place(spec: &mut PodSpec, init: Option<Container>, proxy: Container, options: &Options) {
    let mut inits = spec.init_containers.take().unwrap_or_default();
    if options.native {
        inits.splice(0..0, init.into_iter().chain([proxy]));
    } else {
        inits.extend(init);
        let first = if options.hold_application {
            0
        } else {
            spec.containers.len()
        };
        spec.containers.insert(first, proxy);
    }
    spec.init_containers = (!inits.is_empty()).then_some(inits);
}

/// Lets a gateway listen on ports such as 80 and 443 without a privilege (Istio's gateway template).
fn open_low_ports(spec: &mut PodSpec) {
    let sysctls = spec
        .security_context
        .get_or_insert_default()
        .sysctls
        .get_or_insert_default();
    if !sysctls.iter().any(|sysctl| sysctl.name == LOW_PORTS) {
        sysctls.push(Sysctl {
            name: LOW_PORTS.to_owned(),
            value: "0".to_owned(),
        });
    }
}

/// Adds the volumes that the pod does not define itself, and returns their names.
fn add_volumes(spec: &mut PodSpec, options: &Options) -> Vec<String> {
    let present = spec.volumes.get_or_insert_default();
    let wanted = volumes::volumes()
        .into_iter()
        .chain(options.volumes.iter().cloned());
    let known = |name: &str, list: &[Volume]| list.iter().any(|volume| volume.name == name);
    let mut added = Vec::new();
    for volume in wanted {
        if !known(&volume.name, present) {
            added.push(volume.name.clone());
            present.push(volume);
        }
    }
    added
}

/// Traffic of the proxy's uid is not redirected, so an application with that uid is outside the mesh.
fn warn_of_uid(spec: &PodSpec, diagnostics: &mut Vec<Diagnostic>) {
    let uid = i64::from(PROXY_UID);
    let of_pod = spec
        .security_context
        .as_ref()
        .and_then(|context| context.run_as_user);
    for (index, container) in spec.containers.iter().enumerate() {
        let own = container
            .security_context
            .as_ref()
            .and_then(|context| context.run_as_user);
        if own.or(of_pod) == Some(uid) {
            let path = FieldPath::new("spec").field("containers").index(index);
            let message = format!(
                "container {} runs as uid {uid}, the sidecar's; its traffic bypasses the mesh",
                container.name
            );
            diagnostics.push(
                Diagnostic::warning("IST0144", message)
                    .field(path.field("securityContext").field("runAsUser"))
                    .hint("choose another uid"),
            );
        }
    }
}

fn annotate(annotations: &mut BTreeMap<String, String>, spec: &PodSpec, status: &Status) {
    annotations.insert(annotation::STATUS.to_owned(), json(status));
    annotations.insert(annotation::REVISION.to_owned(), status.revision.clone());
    let Some(first) = env::app_containers(spec).first().copied() else {
        return;
    };
    for name in [
        annotation::DEFAULT_CONTAINER,
        annotation::DEFAULT_LOGS_CONTAINER,
    ] {
        annotations
            .entry(name.to_owned())
            .or_insert_with(|| first.to_owned());
    }
}

/// Labels that telemetry and auto-mTLS read; the user's own values stay. A gateway ends no mutual TLS of the mesh on its own.
fn label(
    metadata: &mut ObjectMeta,
    template: Template,
    workload: &Workload,
    settings: &InjectionSettings,
) {
    let labels = metadata.labels.get_or_insert_default();
    let first = |labels: &BTreeMap<String, String>, keys: [&str; 2]| {
        keys.iter().find_map(|key| labels.get(*key).cloned())
    };
    let name =
        first(labels, [label::K8S_APP_NAME, label::APP]).unwrap_or_else(|| workload.name.clone());
    let revision = first(labels, [label::K8S_APP_VERSION, label::VERSION])
        .unwrap_or_else(|| "latest".to_owned());
    let mut add = |key: &str, value: String| {
        labels.entry(key.to_owned()).or_insert(value);
    };
    if template == Template::Sidecar {
        add(label::TLS_MODE, "istio".to_owned());
    }
    add(label::CANONICAL_NAME, as_label_value(&name));
    add(label::CANONICAL_REVISION, revision);
    if !settings.network.is_empty() {
        add("topology.istio.io/network", settings.network.clone());
    }
}

/// Cuts to the 63 characters of a label value, which must end in a letter or digit.
fn as_label_value(name: &str) -> String {
    let cut: String = name.chars().take(63).collect();
    cut.trim_end_matches(|c: char| !c.is_ascii_alphanumeric())
        .to_owned()
}

fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> Option<Vec<String>> {
    let names: Vec<String> = names.into_iter().map(str::to_owned).collect();
    (!names.is_empty()).then_some(names)
}

/// JSON of plain data, which always has one.
fn json<T: Serialize>(data: &T) -> String {
    serde_json::to_value(data).unwrap_or_default().to_string()
}

#[cfg(test)]
mod tests;
