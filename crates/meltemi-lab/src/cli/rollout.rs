//! `rollout`: kubectl's words for how far a workload's pods have been replaced.

use std::process::ExitCode;
use std::time::Duration;

use anstream::println;
use clap::{Args, Subcommand};
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::kinds::Kind;
use super::{Namespace, duration, objects};
use crate::client::LabClient;
use crate::wire;

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab rollout restart deployment/reviews-v1\n  meltemi lab rollout restart deployment\n  \
                  meltemi lab rollout status deployment/reviews-v1 --timeout 60s"
)]
pub(super) struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replace the pods of workloads, new ones ready before old ones go.
    Restart {
        #[command(flatten)]
        workloads: Workloads,
    },
    /// Wait until the pods of workloads are new and ready.
    Status {
        #[command(flatten)]
        workloads: Workloads,
        /// Tell how far it is and do not wait.
        #[arg(long, default_value_t = true, num_args = 0..=1, default_missing_value = "true", action = clap::ArgAction::Set)]
        watch: bool,
        /// Give up after that long; 0s waits for ever.
        #[arg(long, value_parser = duration, default_value = "0s")]
        timeout: Duration,
    },
}

#[derive(Debug, Args)]
struct Workloads {
    /// KIND/NAME, KIND NAME, or KIND for all of them.
    #[arg(required = true)]
    words: Vec<String>,
    #[command(flatten)]
    namespace: Namespace,
}

pub(super) async fn rollout(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    match &options.command {
        Command::Restart { workloads } => {
            for (kind, name) in workloads.named(client).await? {
                let restart = wire::Restart {
                    kind: kind.kind.to_owned(),
                    name,
                    namespace: workloads.namespace.namespace.clone(),
                };
                objects::print(&client.restart(&restart).await?)?;
            }
        }
        Command::Status {
            workloads,
            watch,
            timeout,
        } => {
            let deadline = (!timeout.is_zero()).then(|| Instant::now() + *timeout);
            for (kind, name) in workloads.named(client).await? {
                let namespace = &workloads.namespace.namespace;
                status(client, kind, namespace, &name, *watch, deadline).await?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

impl Workloads {
    /// What the words mean; a kind alone means all of that kind.
    async fn named(&self, client: &LabClient) -> anyhow::Result<Vec<(&'static Kind, String)>> {
        let [only] = self.words.as_slice() else {
            return objects::targets(&self.words);
        };
        if only.contains('/') {
            return objects::targets(&self.words);
        }
        let kind = super::kinds::find(only)?;
        let all = client
            .objects(kind.kind, Some(&self.namespace.namespace))
            .await?;
        let name = |object: &Value| Some(object["metadata"]["name"].as_str()?.to_owned());
        Ok(all
            .iter()
            .filter_map(name)
            .map(|name| (kind, name))
            .collect())
    }
}

async fn status(
    client: &LabClient,
    kind: &Kind,
    namespace: &str,
    name: &str,
    watch: bool,
    deadline: Option<Instant>,
) -> anyhow::Result<()> {
    let mut said = String::new();
    loop {
        let (all, revision) = client.objects_at(kind.kind, Some(namespace)).await?;
        let object = all.iter().find(|object| object["metadata"]["name"] == name);
        let object =
            object.ok_or_else(|| anyhow::anyhow!("{} \"{name}\" not found", kind.resource))?;
        let Stage { done, text } = stage(kind, name, object)?;
        if text != said {
            println!("{text}");
            said = text;
        }
        if done || !watch {
            return Ok(());
        }
        let changed = client.changed(revision);
        match deadline {
            None => drop(changed.await?),
            Some(deadline) => match timeout_at(deadline, changed).await {
                Ok(revision) => drop(revision?),
                Err(_) => anyhow::bail!("timed out waiting for the condition"),
            },
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Stage {
    done: bool,
    text: String,
}

/// How far a rollout is, in kubectl's words.
fn stage(kind: &Kind, name: &str, object: &Value) -> anyhow::Result<Stage> {
    let number = |path: &str| object.pointer(path).and_then(Value::as_u64);
    let status = |field: &str| number(&format!("/status/{field}")).unwrap_or(0);
    let desired = number("/spec/replicas").unwrap_or(1);
    let going = |text: String| Ok(Stage { done: false, text });
    let done = |text: String| Ok(Stage { done: true, text });
    let waiting = |what: String| going(format!("Waiting for {what}..."));
    let observed = status("observedGeneration") >= number("/metadata/generation").unwrap_or(0);
    let (updated, ready) = (status("updatedReplicas"), status("readyReplicas"));
    match kind.kind {
        "Deployment" => {
            let rollout =
                |what: String| waiting(format!("deployment \"{name}\" rollout to finish: {what}"));
            let (all, available) = (status("replicas"), status("availableReplicas"));
            if !observed {
                waiting("deployment spec update to be observed".to_owned())
            } else if updated < desired {
                rollout(format!(
                    "{updated} out of {desired} new replicas have been updated"
                ))
            } else if all > updated {
                rollout(format!(
                    "{} old replicas are pending termination",
                    all - updated
                ))
            } else if available < updated {
                rollout(format!(
                    "{available} of {updated} updated replicas are available"
                ))
            } else {
                done(format!("deployment \"{name}\" successfully rolled out"))
            }
        }
        "StatefulSet" => {
            if !observed {
                waiting("statefulset spec update to be observed".to_owned())
            } else if ready < desired {
                waiting(format!("{} pods to be ready", desired - ready))
            } else if updated < desired {
                waiting(format!(
                    "statefulset rolling update to complete {updated} pods"
                ))
            } else {
                done(format!(
                    "statefulset rolling update complete {updated} pods"
                ))
            }
        }
        _ => anyhow::bail!(
            "no status viewer has been implemented for {}",
            kind.resource
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(kind: &str, status: Value, expected: &str) {
        let object =
            json!({"metadata": {"generation": 2}, "spec": {"replicas": 3}, "status": status});
        let found = stage(super::super::kinds::find(kind).unwrap(), "a", &object).unwrap();
        assert_eq!(found.text, expected);
        assert_eq!(found.done, !expected.starts_with("Waiting"));
    }

    #[test]
    fn stages_of_a_rollout() {
        let deployment = |observed, all, updated, available| json!({"observedGeneration": observed, "replicas": all, "updatedReplicas": updated, "availableReplicas": available});
        for (status, expected) in [
            (
                deployment(1, 3, 3, 3),
                "Waiting for deployment spec update to be observed...",
            ),
            (
                deployment(2, 4, 1, 3),
                "Waiting for deployment \"a\" rollout to finish: 1 out of 3 new replicas have been updated...",
            ),
            (
                deployment(2, 4, 3, 3),
                "Waiting for deployment \"a\" rollout to finish: 1 old replicas are pending termination...",
            ),
            (
                deployment(2, 3, 3, 2),
                "Waiting for deployment \"a\" rollout to finish: 2 of 3 updated replicas are available...",
            ),
            (
                deployment(2, 3, 3, 3),
                "deployment \"a\" successfully rolled out",
            ),
        ] {
            check("deploy", status, expected);
        }
        let set = |ready, updated| json!({"observedGeneration": 2, "readyReplicas": ready, "updatedReplicas": updated});
        check("sts", set(2, 3), "Waiting for 1 pods to be ready...");
        check(
            "sts",
            set(3, 1),
            "Waiting for statefulset rolling update to complete 1 pods...",
        );
        check(
            "sts",
            set(3, 3),
            "statefulset rolling update complete 3 pods",
        );
    }
}
