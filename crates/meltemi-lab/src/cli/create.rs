//! `create`: objects that must not be there yet.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde_json::json;

use super::files::{self, Input};
use super::{Namespace, kinds, objects, up};
use crate::client::LabClient;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab create namespace foo\n  meltemi lab create sa -n foo sleep\n  meltemi lab create -f policy.yaml"
)]
pub(super) struct Create {
    /// `namespace NAME` or `serviceaccount NAME`.
    #[arg(conflicts_with = "filename", required_unless_present = "filename")]
    words: Vec<String>,
    /// A file, a folder, or `-` for standard input; may be given again.
    #[arg(short, long = "filename")]
    filename: Vec<PathBuf>,
    /// Only say what would happen; with `-o yaml` the object.
    #[arg(long, value_enum, num_args = 0..=1, default_value = "none", hide_default_value = true, default_missing_value = "client", require_equals = true)]
    dry_run: objects::DryRun,
    #[command(flatten)]
    validate: objects::Validate,
    /// yaml or json: the object instead of a line.
    #[arg(short, long, value_parser = ["yaml", "json"], requires = "words")]
    output: Option<String>,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn create(client: &LabClient, options: &Create) -> anyhow::Result<ExitCode> {
    let namespace = &options.namespace.namespace;
    let inputs = if options.words.is_empty() {
        files::read_all(&options.filename)?
    } else {
        vec![named(&options.words, namespace, options.output.as_deref())?]
    };
    let dry_run = options.dry_run.remark();
    if dry_run.is_some() && options.output.is_some() {
        print_texts(&inputs)?;
        return Ok(ExitCode::SUCCESS);
    }
    up::ensure_any(client).await?;
    let validate = options.validate.validate;
    let (mut created, mut rejected, mut told) = (0, 0, 0);
    for input in inputs {
        let text = input.text.clone();
        let mut report = match dry_run {
            None => {
                client
                    .create(namespace, &input.name, text, validate)
                    .await?
            }
            Some(_) => client.judge(namespace, &input.name, text, validate).await?,
        };
        for change in &mut report.results {
            change.action += &dry_run.map_or_else(String::new, |remark| format!(" ({remark})"));
        }
        created += report.results.len();
        rejected += report.rejected;
        told += report.diagnostics.len();
        if options.output.is_some() && rejected == 0 {
            print_texts(&[input])?;
            report.results.clear();
        }
        objects::print(&report)?;
    }
    anyhow::ensure!(created + rejected + told > 0, "no objects passed to create");
    Ok(if rejected == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print_texts(inputs: &[Input]) -> std::io::Result<()> {
    use std::io::Write as _;
    let mut out = anstream::stdout().lock();
    for input in inputs {
        out.write_all(input.text.as_bytes())?;
    }
    out.flush()
}

/// The manifest of `KIND NAME`.
fn named(words: &[String], namespace: &str, output: Option<&str>) -> anyhow::Result<Input> {
    let [kind, name] = words else {
        anyhow::bail!("write KIND NAME, such as `create namespace foo`, or -f FILE");
    };
    let kind = kinds::find(kind)?;
    let metadata = match kind.kind {
        "Namespace" => json!({"name": name}),
        "ServiceAccount" => json!({"name": name, "namespace": namespace}),
        other => anyhow::bail!(
            "create knows namespace and serviceaccount; write the {other} to a file and use -f"
        ),
    };
    let object = json!({"apiVersion": "v1", "kind": kind.kind, "metadata": metadata});
    let text = match output {
        Some("json") => serde_json::to_string_pretty(&object)? + "\n",
        _ => serde_saphyr::to_string(&object)?,
    };
    Ok(Input {
        name: format!("create {}", words.join(" ")),
        text,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_and_accounts_by_name() {
        let text = |words: &str| {
            let words: Vec<String> = words.split(' ').map(str::to_owned).collect();
            named(&words, "foo", None).map(|input| input.text)
        };
        assert!(text("ns bar").unwrap().contains("name: bar"));
        let account = text("sa sleep").unwrap();
        assert!(account.contains("kind: ServiceAccount"), "{account}");
        assert!(account.contains("namespace: foo"), "{account}");
        assert!(text("deployment a").is_err() && text("ns").is_err());
    }
}
