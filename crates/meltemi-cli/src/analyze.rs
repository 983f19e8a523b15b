//! `analyze`: mistakes in files or in the running mesh, each object alone and all together.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anstyle::AnsiColor;
use meltemi_api::istio::MeshConfig;
use meltemi_api::{Change, Object};
use meltemi_core::{Diagnostic, ObjectRef, Severity};
use meltemi_model::{Mesh, SecretsOf};
use serde::Deserialize as _;
use serde_json::{Value, json};

use crate::command::AnalyzeArgs;
use crate::control_plane;
use crate::output::structured;
use crate::{Access, AccessError, CliError, Format, Io};

/// The deepest folder that is looked into.
const FOLDER_DEPTH: usize = 16;

pub(crate) async fn run(
    args: &AnalyzeArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let mut files = Vec::new();
    for path in args.files.iter().chain(&args.filenames) {
        collect(path, 0, &mut files)?;
    }
    let namespace = args.namespace.namespace.as_deref().unwrap_or("default");
    let mut diagnostics = if args.files.is_empty() && args.filenames.is_empty() {
        let within = (!args.all_namespaces).then_some(namespace);
        of_mesh(
            &control_plane::any("/debug/diagnostics", access).await?,
            within,
        )?
    } else if files.is_empty() {
        let hint = format!(
            "Name files or folders: {} analyze -f samples/bookinfo/networking",
            io.called
        );
        return Err(CliError::usage("there is nothing to analyze", hint));
    } else {
        let live = running(args.use_kube, access, io).await?;
        diagnose(&files, &live, namespace, io)?
    };
    let shown = severity(&args.output_threshold);
    let failing = severity(&args.failure_threshold);
    let failures = diagnostics
        .iter()
        .filter(|diagnostic| diagnostic.severity >= failing)
        .count();
    diagnostics.retain(|diagnostic| diagnostic.severity >= shown);
    diagnostics.sort_by_key(|diagnostic| std::cmp::Reverse(diagnostic.severity));
    let place = if args.all_namespaces {
        "all namespaces".to_owned()
    } else {
        format!("namespace: {namespace}")
    };
    print(&diagnostics, args.output, &place, io)?;
    if failures == 0 {
        return Ok(());
    }
    Err(CliError::IssuesFound(format!(
        "Analyzers found issues when analyzing {place}."
    )))
}

/// What the control plane says of its objects, of all or of one namespace's; a problem of no object is everybody's.
fn of_mesh(answer: &Value, namespace: Option<&str>) -> Result<Vec<Diagnostic>, CliError> {
    let mut found: Vec<Diagnostic> = Vec::<Diagnostic>::deserialize(answer).map_err(|error| {
        CliError::answer(format!(
            "the control plane's diagnostics cannot be read: {error}"
        ))
    })?;
    found.retain(|diagnostic| {
        let of = diagnostic.object.as_ref();
        let of = of.map(|object| object.namespace.as_str());
        namespace.is_none_or(|wanted| of.is_none_or(|of| of.is_empty() || of == wanted))
    });
    for diagnostic in &mut found {
        // A file that was made of the object itself is no place to mend it.
        let is_own = |object: &ObjectRef| {
            let namespace = if object.namespace.is_empty() {
                "_"
            } else {
                &object.namespace
            };
            let kind = object.kind.to_ascii_lowercase();
            let own = format!("/{kind}.{namespace}.{}.json", object.name);
            let place = diagnostic.location.as_ref();
            place.is_some_and(|place| place.file.ends_with(&own))
        };
        if diagnostic.object.as_ref().is_some_and(is_own) {
            diagnostic.location = None;
        }
    }
    Ok(found)
}

/// Manifests below a path, in the order of their names.
pub(crate) fn collect(path: &Path, depth: usize, files: &mut Vec<PathBuf>) -> Result<(), CliError> {
    let error = |source| CliError::Read {
        path: path.display().to_string(),
        source,
    };
    if path == Path::new("-") || !std::fs::metadata(path).map_err(error)?.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    if depth == FOLDER_DEPTH {
        let message = format!(
            "{} lies more than {FOLDER_DEPTH} folders deep",
            path.display()
        );
        return Err(CliError::data(message, "Name it itself."));
    }
    let entries = std::fs::read_dir(path).map_err(error)?;
    let mut entries: Vec<PathBuf> = entries
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(error)?;
    entries.sort();
    let is_manifest = |path: &Path| {
        path.extension()
            .is_some_and(|end| ["yaml", "yml", "json"].iter().any(|e| end == *e))
    };
    for entry in entries {
        if entry.is_dir() || is_manifest(&entry) {
            collect(&entry, depth + 1, files)?;
        }
    }
    Ok(())
}

/// The objects of the running mesh that files are judged with. Without a mesh files are judged alone, unless one was
/// asked for.
pub(crate) async fn running(
    wanted: Option<bool>,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<Vec<Arc<Object>>, CliError> {
    if wanted == Some(false) {
        return Ok(Vec::new());
    }
    let text = match access.objects().await {
        Err(AccessError::Unreachable { message, .. }) if wanted.is_none() => {
            io.note(&format!("{message}: the files are judged alone"))?;
            String::new()
        }
        objects => objects?,
    };
    let mut objects = meltemi_api::parse("the running mesh", &text, "default").objects;
    for object in &mut objects {
        Arc::make_mut(object).source = None;
    }
    Ok(objects)
}

/// What is wrong with the objects of the files, and what they would newly make wrong with those that run.
fn diagnose(
    files: &[PathBuf],
    live: &[Arc<Object>],
    namespace: &str,
    io: &mut Io<'_>,
) -> Result<Vec<Diagnostic>, CliError> {
    // Secrets are not looked at, so that none of them can be missed.
    let mut mesh = Mesh::new(MeshConfig::default());
    mesh.set_secrets_of(SecretsOf::Unseen);
    mesh.apply(&changes(live.to_vec()));
    let before = meltemi_model::analyze(&mesh);
    let mut diagnostics = Vec::new();
    let mut own = BTreeSet::new();
    for file in files {
        let text = crate::kube_inject::read(file, io)?;
        let parsed = meltemi_api::parse(&file.display().to_string(), &text, namespace);
        diagnostics.extend(parsed.diagnostics);
        let mut objects = parsed.objects;
        for object in &mut objects {
            let runs = mesh.object(&object.key());
            let created = runs.and_then(|runs| runs.meta.created);
            let meta = &mut Arc::make_mut(object).meta;
            meta.created = meta.created.or(created);
            own.insert(object.reference());
        }
        mesh.apply(&changes(objects));
    }
    let after = meltemi_model::analyze(&mesh);
    diagnostics.extend(after.into_iter().filter(|found| {
        let is_own = found
            .object
            .as_ref()
            .is_some_and(|object| own.contains(object));
        is_own || !before.contains(found)
    }));
    Ok(diagnostics)
}

pub(crate) fn changes(objects: Vec<Arc<Object>>) -> Vec<Change> {
    objects.into_iter().map(Change::Upsert).collect()
}

fn severity(name: &str) -> Severity {
    match name.to_ascii_lowercase().as_str() {
        "error" => Severity::Error,
        "warning" => Severity::Warning,
        _ => Severity::Info,
    }
}

fn print(
    diagnostics: &[Diagnostic],
    format: Format,
    place: &str,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let json = diagnostics.iter().map(to_json).collect();
    if let Some(text) = structured(&json, format)? {
        return io.print(&text);
    }
    if diagnostics.is_empty() {
        return io.note(&format!(
            "\u{2714} No validation issues found when analyzing {place}."
        ));
    }
    for diagnostic in diagnostics {
        let color = match diagnostic.severity {
            Severity::Error => AnsiColor::Red,
            Severity::Warning => AnsiColor::Yellow,
            Severity::Info => AnsiColor::Cyan,
        };
        let (word, text) = (diagnostic.severity.to_string(), diagnostic.to_string());
        let rest = text.strip_prefix(&word).unwrap_or(&text);
        let line = format!("{}{rest}", io.paint(color, &word));
        io.print(&line)?;
    }
    Ok(())
}

/// istioctl's names.
fn to_json(diagnostic: &Diagnostic) -> Value {
    let level = match diagnostic.severity {
        Severity::Error => "Error",
        Severity::Warning => "Warning",
        Severity::Info => "Info",
    };
    let mut json = json!({"code": diagnostic.code, "level": level, "message": diagnostic.message});
    if let Some(object) = &diagnostic.object {
        json["origin"] = json!(object.to_string());
    }
    if let Some(place) = &diagnostic.location {
        json["reference"] = json!(format!("{}:{}:{}", place.file, place.line, place.column));
    }
    if !diagnostic.field.is_empty() {
        json["field"] = json!(diagnostic.field.to_string());
    }
    if !diagnostic.hint.is_empty() {
        json["hint"] = json!(diagnostic.hint);
    }
    json
}
