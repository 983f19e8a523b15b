//! The settings of an installation, in the words of Istio's charts.

mod set;
mod text;
mod unread;

use std::borrow::Cow;
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Affinity, Toleration};
use meltemi_api::istio::MeshConfig;
use meltemi_api::schema::{self, Schema};
use meltemi_api::{Message, parse_message};
use meltemi_core::names::{DEFAULT_REVISION, of_revision};
use meltemi_core::{Diagnostic, FieldPath, Severity};
use serde::Deserialize;
use serde_json::{Map, Value};

pub(crate) use text::{Amounts, Text};
pub(crate) use unread::UNREAD;

/// The chart's own file: by either way an installation starts from the same defaults.
const DEFAULTS: &str =
    include_str!("../../../manifests/charts/istio-control/istio-discovery/values.yaml");

/// What a diagnostic calls the values of a command line.
const COMMAND_LINE: &str = "--set";

/// Why no objects can be made.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    #[error("--set {text}: {message}")]
    Set { text: String, message: String },
    #[error("these values are not understood:{}", lines(.0))]
    Values(Vec<Diagnostic>),
    #[error("an object does not serialise")]
    Serialise(#[from] serde_json::Error),
}

fn lines(diagnostics: &[Diagnostic]) -> String {
    let lines = diagnostics.iter();
    lines.map(|diagnostic| format!("\n{diagnostic}")).collect()
}

/// Where values come from. Later ones override earlier ones, field by field; a list replaces a list.
#[derive(Clone, Debug)]
pub enum Layer {
    File {
        name: String,
        text: String,
    },
    /// `path=value`, as Helm reads it: `a.b=c`, `a.list[0].b=c`, `a.list={b,c}`, `a=b,c=d`. istioctl's `values.` may lead.
    Set(String),
}

/// All settings of an installation, with the defaults filled in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Values {
    pub revision: Text,
    pub global: Global,
    pub pilot: Pilot,
    pub sidecar_injector_webhook: SidecarInjectorWebhook,
    /// As users write it; it has been judged as a MeshConfig.
    pub mesh_config: Map<String, Value>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Global {
    pub hub: Text,
    pub tag: Text,
    pub image_pull_policy: String,
    pub image_pull_secrets: Vec<String>,
    pub istio_namespace: String,
    pub priority_class_name: String,
    pub log_as_json: bool,
    pub logging: Logging,
    #[serde(rename = "meshID")]
    pub mesh_id: Text,
    pub network: Text,
    pub multi_cluster: MultiCluster,
    pub default_pod_disruption_budget: Enabled,
    pub proxy: Proxy,
    #[serde(rename = "proxy_init")]
    pub proxy_init: ProxyInit,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Logging {
    pub level: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MultiCluster {
    pub cluster_name: Text,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Enabled {
    pub enabled: bool,
}

/// The sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Proxy {
    pub image: String,
    pub cluster_domain: String,
    pub log_level: String,
    pub component_log_level: String,
    pub resources: Amounts,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct ProxyInit {
    pub image: String,
}

/// The control plane.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Pilot {
    pub hub: Text,
    pub tag: Text,
    pub image: String,
    pub autoscale_enabled: bool,
    pub autoscale_min: i32,
    pub autoscale_max: i32,
    pub replica_count: i32,
    pub cpu: CpuTarget,
    pub rolling_max_surge: Text,
    pub rolling_max_unavailable: Text,
    pub resources: Amounts,
    pub env: BTreeMap<String, Text>,
    pub node_selector: BTreeMap<String, String>,
    pub tolerations: Vec<Toleration>,
    pub affinity: Option<Affinity>,
    pub pod_annotations: BTreeMap<String, Text>,
    pub pod_labels: BTreeMap<String, Text>,
    pub deployment_labels: BTreeMap<String, Text>,
    pub service_annotations: BTreeMap<String, Text>,
    pub service_account_annotations: BTreeMap<String, Text>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CpuTarget {
    pub target_average_utilization: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct SidecarInjectorWebhook {
    pub enable_namespaces_by_default: bool,
    pub reinvocation_policy: String,
    #[serde(rename = "rewriteAppHTTPProbe")]
    pub rewrite_app_http_probe: bool,
    pub never_inject_selector: Vec<Value>,
    pub always_inject_selector: Vec<Value>,
}

impl Message for Values {
    fn is_unsupported(field: &FieldPath) -> bool {
        UNREAD.contains(&field.as_str())
    }

    fn problems(&self) -> Vec<Diagnostic> {
        let problem = |field: &str, message: &str, hint: &str| {
            Diagnostic::error("MEL0030", message)
                .field(FieldPath::new(field))
                .hint(hint)
        };
        let mut problems = Vec::new();
        let revision = self.revision.as_str();
        let sound = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        // It becomes a part of names and the value of labels.
        if !revision.chars().all(sound) || revision.starts_with('-') || revision.ends_with('-') {
            let hint = "use lower-case letters, digits and - inside, such as \"1-30-0\"";
            problems.push(problem(
                "revision",
                &format!("\"{revision}\" cannot be a part of a name"),
                hint,
            ));
        }
        let policies = ["", "Always", "IfNotPresent", "Never"];
        if !policies.contains(&self.global.image_pull_policy.as_str()) {
            let hint = "use Always, IfNotPresent or Never";
            problems.push(problem("global.imagePullPolicy", "no such policy", hint));
        }
        if !["", "Never", "IfNeeded"]
            .contains(&self.sidecar_injector_webhook.reinvocation_policy.as_str())
        {
            let field = "sidecarInjectorWebhook.reinvocationPolicy";
            problems.push(problem(field, "no such policy", "use Never or IfNeeded"));
        }
        problems
    }
}

impl Values {
    /// The defaults with the layers over them, and what a user should know of them.
    ///
    /// # Errors
    /// A value has the wrong form or a name that nobody knows. All such are told at once.
    pub fn read(layers: &[Layer]) -> Result<(Self, Vec<Diagnostic>), InstallError> {
        let mut told = Vec::new();
        for (name, layer) in in_order(layers)? {
            let judged = judge(name, &layer);
            told.extend(judged);
        }
        let (errors, warnings): (Vec<_>, Vec<_>) = told
            .into_iter()
            .partition(|diagnostic| diagnostic.severity == Severity::Error);
        if !errors.is_empty() {
            return Err(InstallError::Values(errors));
        }
        let merged = Self::merged(layers)?;
        let taken = taken_away(&merged);
        if !taken.is_empty() {
            return Err(InstallError::Values(taken));
        }
        let (values, problems) = parse_message::<Self>("values", &merged.to_string());
        match values {
            Some(values) => Ok((values, warnings)),
            None => Err(InstallError::Values(problems)),
        }
    }

    /// The defaults with the layers over them, as they are written.
    ///
    /// # Errors
    /// A `--set` has no form.
    pub(crate) fn merged(layers: &[Layer]) -> Result<Value, InstallError> {
        let mut merged = document(DEFAULTS);
        for (_, layer) in in_order(layers)? {
            merge(&mut merged, document(&layer));
        }
        Ok(merged)
    }

    /// The name that unmarked workloads go by is `default`.
    pub fn revision(&self) -> &str {
        match self.revision.as_str() {
            "" => DEFAULT_REVISION,
            revision => revision,
        }
    }

    pub(crate) fn is_default_revision(&self) -> bool {
        self.revision() == DEFAULT_REVISION
    }

    /// `istiod`, or `istiod-canary` for a revision besides the default one.
    pub(crate) fn named(&self, name: &str) -> String {
        of_revision(name, self.revision())
    }

    /// Of the control plane.
    pub fn namespace(&self) -> &str {
        &self.global.istio_namespace
    }

    /// A whole name stays; a bare one is completed (Istio, `global.proxy.image`).
    pub(crate) fn image(&self, name: &str, hub: &Text, tag: &Text) -> String {
        if name.contains('/') {
            return name.to_owned();
        }
        let hub = hub.or(&self.global.hub);
        let tag = match tag.or(&self.global.tag) {
            "" => env!("CARGO_PKG_VERSION"),
            tag => tag,
        };
        format!("{hub}/{name}:{tag}")
    }
}

/// Names and texts of the layers: files first, then all of the command line as one.
fn in_order(layers: &[Layer]) -> Result<Vec<(&str, Cow<'_, str>)>, InstallError> {
    let mut texts = Vec::new();
    let mut set = Value::Object(Map::new());
    for layer in layers {
        match layer {
            Layer::File { name, text } => texts.push((name.as_str(), Cow::Borrowed(text.as_str()))),
            Layer::Set(text) => set::apply(&mut set, text)?,
        }
    }
    texts.push((COMMAND_LINE, Cow::Owned(set.to_string())));
    Ok(texts)
}

/// What is wrong with one layer. A name that nobody knows is an error: what it was meant for would not happen.
fn judge(name: &str, text: &str) -> Vec<Diagnostic> {
    let (_, mut told) = parse_message::<Values>(name, text);
    for diagnostic in &mut told {
        if diagnostic.code == "MEL0008" {
            diagnostic.severity = Severity::Error;
        }
        if name == COMMAND_LINE {
            diagnostic.location = None;
        }
    }
    let mesh = document(text).get("meshConfig").map(Value::to_string);
    let mesh = mesh.map(|mesh| parse_message::<MeshConfig>(name, &mesh).1);
    told.extend(mesh.into_iter().flatten().map(|mut diagnostic| {
        if diagnostic.code == "MEL0008" {
            diagnostic.severity = Severity::Error;
        }
        diagnostic.field = FieldPath::new(&format!("meshConfig.{}", diagnostic.field));
        unplaced(diagnostic)
    }));
    told
}

/// The place in a text that no user has written says nothing.
fn unplaced(mut diagnostic: Diagnostic) -> Diagnostic {
    diagnostic.location = None;
    diagnostic
}

/// The mapping that a text holds; whatever else it is has been told of.
fn document(text: &str) -> Value {
    serde_saphyr::from_str::<Value>(text)
        .ok()
        .filter(Value::is_object)
        .unwrap_or_else(|| Value::Object(Map::new()))
}

/// The mappings among the defaults whose fields are read by name: `null` takes none of them away.
pub(crate) fn needed() -> Vec<FieldPath> {
    fn below(schema: &Schema, defaults: &Value, path: &str, found: &mut Vec<FieldPath>) {
        let Schema::Message(message) = schema else {
            return;
        };
        for (name, schema) in &message.fields {
            if let (Schema::Message(_), Some(defaults)) = (schema, defaults.get(name)) {
                let path = format!("{path}{name}");
                below(schema, defaults, &format!("{path}."), found);
                found.push(FieldPath::new(&path));
            }
        }
    }
    let mut found = Vec::new();
    let schema = schema::of::<Values>();
    below(&schema, &document(DEFAULTS), "", &mut found);
    found
}

fn taken_away(merged: &Value) -> Vec<Diagnostic> {
    let is_there = |path: &str| {
        let found = path.split('.').try_fold(merged, |at, step| at.get(step));
        found.is_some()
    };
    let needed = needed().into_iter();
    let missing = needed.filter(|path| {
        let above = path.as_str().rsplit_once('.');
        !is_there(path.as_str()) && above.is_none_or(|(above, _)| is_there(above))
    });
    missing
        .map(|path| {
            let message = "null takes away fields that are needed";
            let hint = "leave it out, or say null for single fields below it";
            Diagnostic::error("MEL0030", message).field(path).hint(hint)
        })
        .collect()
}

/// Puts one mapping over another; `null` takes a default away (Helm, "Deleting a default key").
fn merge(base: &mut Value, over: Value) {
    match (base, over) {
        (Value::Object(base), Value::Object(over)) => {
            for (key, value) in over {
                if value.is_null() {
                    base.remove(&key);
                } else {
                    merge(base.entry(key).or_insert(Value::Null), value);
                }
            }
        }
        (base, over) => *base = over,
    }
}

#[cfg(test)]
mod tests;
