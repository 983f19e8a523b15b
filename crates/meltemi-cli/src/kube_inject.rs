//! `kube-inject`: the sidecar in a manifest. YAML on standard output, the report on standard error.

use std::path::{Path, PathBuf};

use meltemi_api::istio::MeshConfig;
use meltemi_core::names::DEFAULT_REVISION;
use meltemi_core::{Diagnostic, Severity};
use meltemi_inject::{
    InjectionSettings, Outcome, Report, inject_document, take_inject_config, take_values,
};
use serde_json::Value;

use crate::command::KubeInjectArgs;
use crate::output::yaml;
use crate::{Access, CliError, Io};

/// The kinds that are looked at before they are injected.
const WORKLOADS: [&str; 5] = ["Pod", "Deployment", "StatefulSet", "ReplicaSet", "Job"];

/// What became of a workload, and whether its document is another than before.
struct Told {
    report: Report,
    changed: bool,
}

pub(crate) async fn run(
    args: &KubeInjectArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let settings = settings(args, access, io).await?;
    let text = read(&args.file, io)?;
    let namespace = args.namespace.namespace.as_deref().unwrap_or("default");
    judge(&text, &args.file, namespace, io)?;
    let mut documents = documents(&text, &args.file)?;
    let mut reports: Vec<Told> = Vec::new();
    for document in &mut documents {
        let before = document.clone();
        let told = inject_document(document, namespace, &settings);
        let changed = *document != before;
        reports.extend(told.into_iter().map(|report| Told { report, changed }));
    }
    let rejected = report(&reports, io)?;
    if rejected > 0 {
        let message = format!(
            "{rejected} of {} objects cannot be injected; nothing is printed",
            reports.len()
        );
        return Err(CliError::data(message, ""));
    }
    let written: Vec<String> = documents.iter().map(yaml).collect::<Result<_, _>>()?;
    let written = written.join("---\n");
    match &args.output {
        None => io.print(&written),
        Some(file) => std::fs::write(file, written).map_err(|error| {
            CliError::data(format!("{} cannot be written: {error}", file.display()), "")
        }),
    }
}

/// The mesh's own settings, or the mesh configuration of a file; then the other files, and last what the command line says.
async fn settings(
    args: &KubeInjectArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<InjectionSettings, CliError> {
    let mut settings = match &args.mesh_config {
        None => {
            let revision = args.revision.as_deref().unwrap_or(DEFAULT_REVISION);
            let settings = access.injection_settings(revision).await;
            settings.unwrap_or_default()
        }
        Some(file) => of_mesh_config(file, io)?,
    };
    type Take = fn(&mut InjectionSettings, Value) -> Vec<String>;
    let files: [(&Option<PathBuf>, Take); 2] = [
        (&args.inject_config, take_inject_config),
        (&args.values, take_values),
    ];
    for (file, take) in files {
        let Some(file) = file else { continue };
        let content = documents(&read(file, io)?, file)?;
        for unused in content.into_iter().map(|one| take(&mut settings, one)) {
            if !unused.is_empty() {
                io.note(&format!(
                    "{}: not used: {}",
                    file.display(),
                    unused.join(", ")
                ))?;
            }
        }
    }
    if let Some(revision) = &args.revision {
        settings.revision.clone_from(revision);
    }
    Ok(settings)
}

fn of_mesh_config(file: &Path, io: &mut Io<'_>) -> Result<InjectionSettings, CliError> {
    let text = read(file, io)?;
    let (mesh, diagnostics) =
        meltemi_api::parse_message::<MeshConfig>(&file.display().to_string(), &text);
    for diagnostic in &diagnostics {
        io.note(&diagnostic.to_string())?;
    }
    let mesh =
        mesh.ok_or_else(|| CliError::data(format!("{} is no MeshConfig", file.display()), ""))?;
    Ok(InjectionSettings::of_mesh(&mesh))
}

/// The text of a file; `-` is standard input.
pub(crate) fn read(file: &Path, io: &mut Io<'_>) -> Result<String, CliError> {
    let done = if file == Path::new("-") {
        let mut text = String::new();
        io.stdin.read_to_string(&mut text).map(|_| text)
    } else {
        std::fs::read_to_string(file)
    };
    done.map_err(|source| CliError::Read {
        path: file.display().to_string(),
        source,
    })
}

/// Tells what is wrong with the workloads of a text. What cannot be read is not injected; the rest is for whoever applies it
/// to refuse.
fn judge(text: &str, file: &Path, namespace: &str, io: &mut Io<'_>) -> Result<(), CliError> {
    let name = if file == Path::new("-") {
        "<stdin>".to_owned()
    } else {
        file.display().to_string()
    };
    let parsed = meltemi_api::parse(&name, text, namespace);
    let concerns_pods = |diagnostic: &&Diagnostic| {
        let kind = diagnostic
            .object
            .as_ref()
            .map(|object| object.kind.as_str());
        let is_workload = kind.is_some_and(|kind| WORKLOADS.contains(&kind));
        diagnostic.code == "MEL0001" || is_workload && diagnostic.severity != Severity::Info
    };
    let mut unreadable = 0;
    for diagnostic in parsed.diagnostics.iter().filter(concerns_pods) {
        io.note(&diagnostic.to_string())?;
        unreadable += usize::from(diagnostic.code == "MEL0001");
    }
    if unreadable == 0 {
        return Ok(());
    }
    let message = format!("{name} has {unreadable} errors; nothing is printed");
    Err(CliError::data(message, ""))
}

/// The documents of a YAML or JSON text; empty ones are left out.
fn documents(text: &str, file: &Path) -> Result<Vec<Value>, CliError> {
    let options = serde_saphyr::options! {
        // As Kubernetes reads: `defaultMode: 0644` is octal.
        legacy_octal_numbers: true,
    };
    let read = serde_saphyr::from_multiple_with_options(text, options);
    let documents: Vec<Value> = read.map_err(|error| {
        CliError::data(format!("{} cannot be read: {error}", file.display()), "")
    })?;
    Ok(documents
        .into_iter()
        .filter(|document| !document.is_null())
        .collect())
}

/// Tells what became of each workload, and returns how many were refused.
fn report(reports: &[Told], io: &mut Io<'_>) -> Result<usize, CliError> {
    let mut rejected = 0;
    for Told { report, changed } in reports {
        let Report {
            object,
            outcome,
            warnings,
        } = report;
        match outcome {
            Outcome::Injected if !changed => {
                io.note(&format!("{object}: already injected, unchanged"))?;
            }
            Outcome::Injected => io.note(&format!("{object}: injected"))?,
            Outcome::Skipped(reason) => io.note(&format!("{object}: skipped, {reason}"))?,
            Outcome::NoPods => {}
            Outcome::Rejected(diagnostics) => {
                rejected += 1;
                let errors = diagnostics
                    .iter()
                    .filter(|diagnostic| diagnostic.severity == Severity::Error);
                for diagnostic in errors {
                    io.note(&format!("{object}: refused\n  {diagnostic}"))?;
                }
            }
        }
        for warning in warnings {
            io.note(&format!("  {warning}"))?;
        }
    }
    Ok(rejected)
}
