//! `delete`: objects by file, name or label, and waiting until they are gone.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anstream::eprintln;
use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::chosen::{Choice, chosen};
use super::{Namespace, duration, files};
use crate::client::{ClientError, LabClient};
use crate::wire::{Change, Report};

/// How long the end of pods is waited for unless `--timeout` says otherwise; no pod of a guide has a grace period near it.
const WAIT_LIMIT: Duration = Duration::from_secs(600);
/// `--now` is this grace period, in seconds (kubectl).
const NOW_SECONDS: u64 = 1;
/// What [`Report`] says of an object that is not there.
const NOT_FOUND: &str = "MEL0502";

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab delete -f policy.yaml\n  meltemi lab delete virtualservice reviews\n  \
                        meltemi lab delete vs,dr -l app=reviews\n  meltemi lab delete pod/curl-6b7f9-x2k4p -n outside --now"
)]
pub(super) struct Delete {
    /// A file, a folder, or `-` for standard input; may be given again.
    #[arg(short, long = "filename", conflicts_with_all = ["selector", "all"])]
    filename: Vec<PathBuf>,
    /// KIND[,KIND...] NAME... or KIND/NAME...; with -l or --all only KIND.
    #[arg(conflicts_with = "filename", required_unless_present = "filename")]
    objects: Vec<String>,
    #[command(flatten)]
    choice: Choice,
    /// Do not fail when an object is not there.
    #[arg(long)]
    ignore_not_found: bool,
    /// Seconds that pods have to end in; their own period otherwise.
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true)]
    grace_period: Option<i64>,
    /// Pods have one second to end in.
    #[arg(long, conflicts_with_all = ["grace_period", "force"])]
    now: bool,
    /// Pods are killed at once.
    #[arg(long)]
    force: bool,
    /// Return only when the objects are gone.
    #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", require_equals = true, hide_possible_values = true, value_name = "BOOL", action = clap::ArgAction::Set)]
    wait: bool,
    /// How long to wait, such as 30s; 0s is ten minutes.
    #[arg(long, value_parser = duration, default_value = "0s", hide_default_value = true)]
    timeout: Duration,
    #[command(flatten)]
    namespace: Namespace,
}

impl Delete {
    fn grace(&self) -> Option<u64> {
        if self.now {
            return Some(NOW_SECONDS);
        }
        // Below zero it is each pod's own; zero without --force is one second (kubectl).
        match self.grace_period.map(u64::try_from) {
            Some(Ok(0)) if !self.force => Some(NOW_SECONDS),
            Some(Ok(seconds)) => Some(seconds),
            Some(Err(_)) => None,
            None => self.force.then_some(0),
        }
    }

    fn limit(&self) -> Duration {
        if self.timeout.is_zero() {
            WAIT_LIMIT
        } else {
            self.timeout
        }
    }
}

pub(super) async fn delete(client: &LabClient, options: &Delete) -> anyhow::Result<ExitCode> {
    let namespace = &options.namespace.namespace;
    let mut deleted = Vec::new();
    let mut missing = 0;
    for input in files::read_all(&options.filename)? {
        let report = client.delete(namespace, &input.name, input.text, options.grace());
        let mut report = report.await?;
        if options.ignore_not_found {
            report.diagnostics.retain(|found| found.code != NOT_FOUND);
        }
        print(&report, options.force)?;
        missing += report.rejected;
        deleted.append(&mut report.results);
    }
    let objects = chosen(
        client,
        &options.objects,
        &options.choice,
        &options.namespace,
    );
    for (kind, name) in objects.await? {
        let report = client.delete_object(kind.kind, namespace, &name, options.grace());
        match report.await {
            Ok(mut report) => {
                print(&report, options.force)?;
                deleted.append(&mut report.results);
            }
            Err(ClientError::Refused(_)) if options.ignore_not_found => {}
            Err(ClientError::Refused(error)) => {
                eprintln!("Error: {error}");
                missing += 1;
            }
            Err(error) => return Err(error.into()),
        }
    }
    if options.wait {
        until_gone(client, &deleted, options.limit()).await?;
    }
    Ok(if missing == 0 || options.ignore_not_found {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn print(report: &Report, forced: bool) -> std::io::Result<()> {
    let mut out = anstream::stdout().lock();
    for change in &report.results {
        writeln!(out, "{}", line(change, forced))?;
    }
    out.flush()?;
    for diagnostic in &report.diagnostics {
        eprintln!("{diagnostic}");
    }
    Ok(())
}

/// As kubectl says it: `service "details" deleted`.
fn line(change: &Change, forced: bool) -> String {
    let (resource, name) = parts(change);
    let forced = if forced { "force " } else { "" };
    format!("{resource} \"{name}\" {forced}{}", change.action)
}

fn parts(change: &Change) -> (&str, &str) {
    change
        .object
        .split_once('/')
        .unwrap_or(("", &change.object))
}

/// Waits for what does not go at once: pods, and a namespace's pods. Another pod that has taken the name is not waited for.
async fn until_gone(client: &LabClient, deleted: &[Change], limit: Duration) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    let is_waited_for = |pod: &Value| deleted.iter().any(|change| is_meant(change, pod));
    let (mut pods, mut revision) = client.objects_at("Pod", None).await?;
    pods.retain(|pod| !pod["metadata"]["deletionTimestamp"].is_null() && is_waited_for(pod));
    loop {
        let Some(first) = pods.first() else {
            return Ok(());
        };
        anyhow::ensure!(
            Instant::now() < deadline,
            "timed out waiting for the condition on pods/{}",
            first["metadata"]["name"].as_str().unwrap_or_default()
        );
        // Where the question fails, the next one tells why.
        drop(timeout_at(deadline, client.changed(revision)).await);
        let (live, now) = client.objects_at("Pod", None).await?;
        revision = now;
        let uid = |pod: &Value| pod["metadata"]["uid"].clone();
        pods.retain(|pod| live.iter().any(|live| uid(live) == uid(pod)));
    }
}

fn is_meant(change: &Change, pod: &Value) -> bool {
    let metadata = &pod["metadata"];
    match parts(change) {
        ("pod", name) => metadata["name"] == name && metadata["namespace"] == *change.namespace,
        ("namespace", name) => metadata["namespace"] == name,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn deleted(object: &str, namespace: &str) -> Change {
        Change {
            object: object.to_owned(),
            namespace: namespace.to_owned(),
            action: "deleted".to_owned(),
        }
    }

    #[test]
    fn deletions_are_told_as_kubectl_does() {
        let service = deleted("service/details", "default");
        assert_eq!(line(&service, false), "service \"details\" deleted");
        let deployment = deleted("deployment.apps/a", "default");
        assert_eq!(
            line(&deployment, true),
            "deployment.apps \"a\" force deleted"
        );
    }

    #[test]
    fn pods_and_the_pods_of_namespaces_are_waited_for() {
        let pod = json!({"metadata": {"name": "a", "namespace": "x"}});
        assert!(is_meant(&deleted("pod/a", "x"), &pod));
        assert!(is_meant(&deleted("namespace/x", ""), &pod));
        assert!(!is_meant(&deleted("pod/a", "y"), &pod));
        assert!(!is_meant(&deleted("deployment.apps/a", "x"), &pod));
    }

    #[test]
    fn grace_periods_follow_kubectl() {
        use clap::{Args as _, FromArgMatches as _};
        let grace = |words: &str| {
            let command = Delete::augment_args(clap::Command::new("delete"));
            let matches = command.try_get_matches_from(words.split(' ')).unwrap();
            Delete::from_arg_matches(&matches).unwrap().grace()
        };
        for (words, expected) in [
            ("delete pod a", None),
            ("delete pod a --now", Some(1)),
            ("delete pod a --force", Some(0)),
            ("delete pod a --force --grace-period=0", Some(0)),
            ("delete pod a --grace-period 0", Some(1)),
            ("delete pod a --grace-period=30", Some(30)),
            ("delete pod a --grace-period=-1", None),
        ] {
            assert_eq!(grace(words), expected, "{words}");
        }
    }
}
