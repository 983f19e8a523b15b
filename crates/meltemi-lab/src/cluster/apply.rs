//! Manifests into objects: what is sound is stored, the rest is told.

use k8s_openapi::api::core::v1::Pod;
use meltemi_api::{Kind, ObjectKey, Parsed, Scope};
use meltemi_core::{Diagnostic, FieldPath, ObjectRef, Severity};
use serde_json::{Value, json};

use super::admission::set_defaults;
use super::commands::change;
use super::{Cluster, analysis, is_deleted};
use crate::store::{Applied, display};
use crate::unsupported;
use crate::wire::{Report, Validation};

/// The code of objects that a mesh has no use for.
const UNUSED_KIND: &str = "MEL0009";

/// The code of fields that a Kubernetes kind does not have.
const UNKNOWN_FIELD: &str = "MEL0008";

/// Why an object that reads well is not taken.
struct Refused {
    field: FieldPath,
    message: String,
    hint: String,
}

impl Cluster {
    /// Applies every document of one file, as far as each is sound.
    pub(crate) fn apply(
        &mut self,
        namespace: &str,
        file: &str,
        text: &str,
        validate: Validation,
    ) -> Report {
        let parsed = read(file, text, namespace, validate);
        self.take(parsed, Self::apply_object)
    }

    /// What [`Self::apply`] would answer now, and changes nothing.
    pub(crate) fn judge(
        &mut self,
        namespace: &str,
        file: &str,
        text: &str,
        validate: Validation,
    ) -> Report {
        let parsed = read(file, text, namespace, validate);
        self.take(parsed, |cluster, key, written| {
            cluster.judge_object(key, written)
        })
    }

    /// As [`Self::apply`], but what is there already is refused, as by `kubectl create`.
    pub(crate) fn create(
        &mut self,
        namespace: &str,
        file: &str,
        text: &str,
        validate: Validation,
    ) -> Report {
        let parsed = read(file, text, namespace, validate);
        self.take(parsed, |cluster, key, written| {
            match cluster.store.get(key) {
                None => cluster.apply_object(key, written),
                Some(_) => Err(Refused {
                    field: FieldPath::new("metadata").field("name"),
                    message: format!("{} already exists", display(key)),
                    hint: "`meltemi lab apply` changes what is there".to_owned(),
                }),
            }
        })
    }

    fn take(
        &mut self,
        parsed: Parsed,
        act: fn(&mut Self, &ObjectKey, Value) -> Result<Applied, Refused>,
    ) -> Report {
        let mut report = Report {
            rejected: refused(&parsed),
            diagnostics: parsed.diagnostics,
            ..Report::default()
        };
        report.diagnostics.iter_mut().for_each(does_not_run);
        let mut ignored = Vec::new();
        for object in &parsed.objects {
            let key = object.key();
            let Some(written) = object.source.as_ref().map(|source| source.to_json()) else {
                continue;
            };
            let mut problems = unsupported::check(&key, &written, self.machine.single_id);
            for problem in &mut problems {
                problem.location = object.locate(&problem.field);
            }
            ignored.append(&mut problems);
            match act(self, &key, written) {
                Ok(applied) => report.results.push(change(&key, applied.as_str())),
                Err(refused) => {
                    let mut error = Diagnostic::error("MEL0501", refused.message)
                        .object(key.reference())
                        .field(refused.field.clone())
                        .hint(refused.hint);
                    error.location = object.locate(&refused.field);
                    report.diagnostics.push(error);
                    report.rejected += 1;
                }
            }
        }
        report.diagnostics.extend(unsupported::grouped(ignored));
        report
            .diagnostics
            .extend(analysis::between(&self.store, &parsed.objects));
        report
    }

    /// What every object must meet, as an API server's admission.
    fn admit(&self, key: &ObjectKey) -> Result<(), Refused> {
        let metadata = FieldPath::new("metadata");
        let namespace = ObjectKey::new(Kind::Namespace, "", &key.namespace);
        if key.kind.scope() == Scope::Namespaced && self.store.get(&namespace).is_none() {
            return Err(Refused {
                field: metadata.field("namespace"),
                message: format!("namespaces {:?} not found", key.namespace),
                hint: format!(
                    "apply a Namespace {} before it, or name one that exists",
                    key.namespace
                ),
            });
        }
        if self.store.get(key).is_some_and(is_deleted) {
            return Err(Refused {
                field: metadata.field("name"),
                message: "the object is being deleted".to_owned(),
                hint: format!("apply it again once {} is gone", display(key)),
            });
        }
        Ok(())
    }

    fn apply_object(&mut self, key: &ObjectKey, mut written: Value) -> Result<Applied, Refused> {
        self.admit(key)?;
        if key.kind == Kind::Pod {
            return self.apply_pod(key, &written);
        }
        self.default(key, &mut written);
        let applied = self.store.apply(key, &written);
        if key.kind == Kind::Namespace {
            self.store.edit(key, |namespace| {
                namespace["status"] = json!({"phase": "Active"})
            });
        }
        Ok(applied)
    }

    fn judge_object(&mut self, key: &ObjectKey, mut written: Value) -> Result<Applied, Refused> {
        self.admit(key)?;
        if key.kind != Kind::Pod {
            self.default(key, &mut written);
            return Ok(self.store.would_apply(key, &written));
        }
        let Some(live) = self.store.get(key) else {
            self.admitted_pod(key, read_pod(&written)?)
                .map_err(not_admitted)?;
            return Ok(Applied::Created);
        };
        let mut changed = live.clone();
        relabel(&mut changed, &written);
        Ok(if changed == *live {
            Applied::Unchanged
        } else {
            Applied::Configured
        })
    }

    /// Defaults go into what was written, so that applying the same file twice changes nothing.
    fn default(&mut self, key: &ObjectKey, written: &mut Value) {
        let live = self
            .store
            .get(key)
            .and_then(|live| Some(live.pointer("/spec/clusterIP")?.as_str()?.to_owned()));
        let address = live.unwrap_or_else(|| self.service_address());
        set_defaults(key, written, || address);
    }

    /// A pod's spec is fixed when it is created; later only labels and annotations change.
    fn apply_pod(&mut self, key: &ObjectKey, written: &Value) -> Result<Applied, Refused> {
        if self.store.get(key).is_none() {
            self.create_pod(key, read_pod(written)?)
                .map_err(not_admitted)?;
            return Ok(Applied::Created);
        }
        let changed = self.store.edit(key, |pod| relabel(pod, written));
        Ok(if changed {
            Applied::Configured
        } else {
            Applied::Unchanged
        })
    }
}

fn read_pod(written: &Value) -> Result<Pod, Refused> {
    serde_json::from_value(written.clone()).map_err(|error| Refused {
        field: FieldPath::default(),
        message: format!("the pod cannot be read: {error}"),
        hint: "compare it with `meltemi lab get pod -o yaml` of another".to_owned(),
    })
}

fn not_admitted(message: String) -> Refused {
    let spec = FieldPath::new("spec");
    if message.contains("service account") {
        return Refused {
            field: spec.field("serviceAccountName"),
            message,
            hint: "apply the ServiceAccount before the pod, or name one that exists".to_owned(),
        };
    }
    Refused {
        field: spec,
        message,
        hint: "mend this and apply the pod again".to_owned(),
    }
}

fn relabel(pod: &mut Value, written: &Value) {
    for field in ["labels", "annotations"] {
        for (name, value) in written["metadata"][field].as_object().into_iter().flatten() {
            pod["metadata"][field][name] = value.clone();
        }
    }
}

fn read(file: &str, text: &str, namespace: &str, validate: Validation) -> Parsed {
    let mut parsed = meltemi_api::parse(file, text, namespace);
    enforce(&mut parsed, validate);
    parsed
}

/// What becomes of objects with unknown fields (Kubernetes, "Server side field validation").
fn enforce(parsed: &mut Parsed, validate: Validation) {
    match validate {
        Validation::Warn => {}
        Validation::Ignore => parsed
            .diagnostics
            .retain(|diagnostic| diagnostic.code != UNKNOWN_FIELD),
        Validation::Strict => {
            let mut strange = Vec::new();
            for diagnostic in &mut parsed.diagnostics {
                if diagnostic.code == UNKNOWN_FIELD {
                    refuse_field(diagnostic);
                    strange.extend(diagnostic.object.clone());
                }
            }
            let is_strange = |object: &ObjectRef| strange.contains(object);
            let refused = parsed
                .objects
                .extract_if(.., |object| is_strange(&object.reference()));
            parsed.rejected.extend(refused.map(|object| object.key()));
        }
    }
}

/// An API server's words, with what can be done.
fn refuse_field(unknown: &mut Diagnostic) {
    unknown.severity = Severity::Error;
    unknown.message = format!("strict decoding error: unknown field \"{}\"", unknown.field);
    let remedy = "--validate=warn applies the object without it";
    unknown.hint = if unknown.hint.is_empty() {
        format!("mend or remove it; {remedy}")
    } else {
        format!("{} {remedy}", unknown.hint)
    };
}

/// What a cluster would run and the lab does not is missed by someone: a warning, where to a mesh it is nothing.
fn does_not_run(diagnostic: &mut Diagnostic) {
    let kind = diagnostic
        .object
        .as_ref()
        .map(|object| object.kind.as_str());
    let consequence = match kind {
        Some("DaemonSet" | "CronJob" | "ReplicationController") => "it makes no pods",
        Some("PersistentVolumeClaim") => "a pod's volume of it is an emptyDir, gone with the pod",
        _ => return,
    };
    if diagnostic.code == UNUSED_KIND {
        let kind = kind.unwrap_or_default();
        diagnostic.message = format!("the lab does not run {kind}: {consequence}");
        diagnostic.severity = Severity::Warning;
    }
}

/// How many documents did not become objects; one without a name or kind is known by its errors alone.
fn refused(parsed: &Parsed) -> usize {
    let is_object = |diagnostic: &Diagnostic| {
        let object = diagnostic.object.as_ref();
        object.is_some_and(|object| parsed.objects.iter().any(|o| o.reference() == *object))
    };
    let errors = parsed.diagnostics.iter();
    let without_object = errors
        .filter(|diagnostic| diagnostic.severity == Severity::Error && !is_object(diagnostic))
        .count();
    without_object.max(parsed.rejected.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_field_refuses_its_object_and_no_other() {
        let text = "apiVersion: v1\nkind: Service\nmetadata: {name: odd}\nspec:\n  ports: [{port: 80}]\n  clusterIp: None\n---\n\
                    apiVersion: v1\nkind: Service\nmetadata: {name: sound}\nspec: {ports: [{port: 80}]}\n";
        let told = |validate: Validation| {
            let parsed = read("x.yaml", text, "default", validate);
            let names: Vec<String> = parsed.objects.iter().map(|one| one.key().name).collect();
            let told: Vec<String> = parsed
                .diagnostics
                .iter()
                .filter(|one| one.code == UNKNOWN_FIELD)
                .map(|one| format!("{} {}", one.severity, one.message))
                .collect();
            (names.join(","), refused(&parsed), told.join(";"))
        };
        let (both, sound) = ("odd,sound".to_owned(), "sound".to_owned());
        let strict = "error strict decoding error: unknown field \"spec.clusterIp\"";
        assert_eq!(told(Validation::Strict), (sound, 1, strict.to_owned()));
        let warning = "warning unknown field \"clusterIp\"".to_owned();
        assert_eq!(told(Validation::Warn), (both.clone(), 0, warning));
        assert_eq!(told(Validation::Ignore), (both, 0, String::new()));
    }

    #[test]
    fn what_a_cluster_would_run_is_warned_of() {
        let told = |kind: &str, api: &str| {
            let text = format!("{{apiVersion: {api}, kind: {kind}, metadata: {{name: x}}}}");
            let mut parsed = meltemi_api::parse("x.yaml", &text, "default");
            parsed.diagnostics.iter_mut().for_each(does_not_run);
            let found = parsed.diagnostics.remove(0);
            (found.severity, found.message)
        };
        for (kind, api) in [
            ("DaemonSet", "apps/v1"),
            ("CronJob", "batch/v1"),
            ("PersistentVolumeClaim", "v1"),
        ] {
            let (severity, message) = told(kind, api);
            assert_eq!(severity, Severity::Warning, "{message}");
            assert!(message.starts_with("the lab does not run"), "{message}");
        }
        assert_eq!(
            told("Role", "rbac.authorization.k8s.io/v1").0,
            Severity::Info
        );
    }
}
