//! `wait`: until objects have a condition, a value or an end, as kubectl does.

use std::process::ExitCode;
use std::str::FromStr;
use std::time::Duration;

use anstream::{eprintln, println};
use clap::Args;
use serde_json::Value;
use tokio::time::{Instant, timeout_at};

use super::Namespace;
use super::chosen::{Choice, chosen};
use super::jsonpath::Template;
use super::kinds::Kind;
use crate::client::LabClient;

/// What a negative --timeout means (kubectl).
const A_WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  meltemi lab wait --for=condition=Ready pod/curl-6b7f9-x2k4p\n  \
                        meltemi lab wait --for=condition=Available deployment --all --timeout=60s\n  \
                        meltemi lab wait --for=condition=Ready pod -l app=ratings\n  meltemi lab wait --for=delete pod/curl-6b7f9-x2k4p\n  \
                        meltemi lab wait --for=jsonpath='{.status.phase}'=Running pod/curl-6b7f9-x2k4p"
)]
pub(super) struct Options {
    /// KIND NAME..., KIND/NAME..., or KIND with -l or --all.
    #[arg(required = true)]
    words: Vec<String>,
    /// condition=NAME[=VALUE], delete, create, or jsonpath=PATH[=VALUE].
    #[arg(long = "for", value_name = "WHAT", required = true)]
    aim: Aim,
    /// Give up after that long; 0s looks once, below zero is a week.
    #[arg(long, value_parser = limit, default_value = "30s", allow_hyphen_values = true)]
    timeout: Duration,
    #[command(flatten)]
    choice: Choice,
    #[command(flatten)]
    namespace: Namespace,
}

fn limit(text: &str) -> Result<Duration, String> {
    match text.strip_prefix('-') {
        Some(rest) => super::duration(rest).map(|_negative| A_WEEK),
        None => super::duration(text),
    }
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Aim {
    Create,
    Delete,
    Condition {
        name: String,
        value: String,
    },
    JsonPath {
        path: Template,
        value: Option<String>,
    },
}

impl FromStr for Aim {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            None if text == "delete" => Ok(Self::Delete),
            None if text == "create" => Ok(Self::Create),
            Some(("condition", condition)) => {
                let (name, value) = condition.split_once('=').unwrap_or((condition, "true"));
                Ok(Self::Condition {
                    name: name.to_owned(),
                    value: value.to_owned(),
                })
            }
            Some(("jsonpath", path)) => {
                // Behind the braces, if there are any; a path may have a sign of equality inside of a filter.
                let (path, value) = match path.rsplit_once("}=") {
                    Some((path, value)) => (format!("{path}}}"), Some(value.to_owned())),
                    None if path.contains(['{', '[']) => (path.to_owned(), None),
                    None => match path.split_once('=') {
                        Some((path, value)) => (path.to_owned(), Some(value.to_owned())),
                        None => (path.to_owned(), None),
                    },
                };
                let path = Template::relaxed(&path)?;
                Ok(Self::JsonPath { path, value })
            }
            _ => Err(
                "one of condition=NAME[=VALUE], delete, create, jsonpath=PATH[=VALUE]".to_owned(),
            ),
        }
    }
}

impl Aim {
    /// Whether an object, which may not be there, is as it is waited for.
    fn holds(&self, object: Option<&Value>) -> bool {
        match (self, object) {
            (Self::Delete, object) => object.is_none(),
            (_, None) => false,
            (Self::Create, Some(_)) => true,
            (Self::Condition { name, value }, Some(object)) => {
                let conditions = object["status"]["conditions"].as_array();
                conditions.into_iter().flatten().any(|condition| {
                    let is = |field: &str, wanted: &str| {
                        let text = condition[field].as_str().unwrap_or_default();
                        text.eq_ignore_ascii_case(wanted)
                    };
                    is("type", name) && is("status", value)
                })
            }
            (Self::JsonPath { path, value }, Some(object)) => {
                let found = path.values(object);
                match value {
                    Some(value) => found.iter().any(|found| found == value),
                    None => !found.is_empty(),
                }
            }
        }
    }

    /// Whether what is not there can still come to it.
    fn may_be_absent(&self) -> bool {
        matches!(self, Self::Create | Self::Delete)
    }
}

pub(super) async fn wait(client: &LabClient, options: &Options) -> anyhow::Result<ExitCode> {
    let deadline = Instant::now() + options.timeout;
    let objects = chosen(client, &options.words, &options.choice, &options.namespace).await?;
    if objects.is_empty() && options.aim != Aim::Delete {
        anyhow::bail!("no matching resources found");
    }
    let mut late = false;
    for (kind, name) in objects {
        if one(client, options, kind, &name, deadline).await? {
            println!("{}/{name} condition met", kind.resource);
        } else {
            late = true;
            eprintln!(
                "error: timed out waiting for the condition on {}/{name} (`meltemi lab describe {}/{name}` says how it is)",
                kind.plural, kind.resource
            );
        }
    }
    Ok(if late {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

/// Whether one object is as asked before the deadline.
async fn one(
    client: &LabClient,
    options: &Options,
    kind: &Kind,
    name: &str,
    deadline: Instant,
) -> anyhow::Result<bool> {
    let namespace = options.namespace.namespace.as_str();
    let mut first: Option<Value> = None;
    loop {
        let in_namespace = kind.namespaced.then_some(namespace);
        let (objects, revision) = client.objects_at(kind.kind, in_namespace).await?;
        let mut object = objects
            .into_iter()
            .find(|object| object["metadata"]["name"] == name);
        if object.is_none() && !options.aim.may_be_absent() {
            anyhow::bail!("{} \"{name}\" not found", kind.plural);
        }
        if let (Aim::Delete, Some(found)) = (&options.aim, &object) {
            // Another one of that name has come instead.
            let uid = found["metadata"]["uid"].clone();
            if *first.get_or_insert_with(|| uid.clone()) != uid {
                object = None;
            }
        }
        if options.aim.holds(object.as_ref()) {
            return Ok(true);
        }
        if Instant::now() >= deadline {
            return Ok(false);
        }
        // Where the question fails, the next one tells why.
        drop(timeout_at(deadline, client.changed(revision)).await);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn holds(aim: &str, object: &Value) -> bool {
        aim.parse::<Aim>().unwrap().holds(Some(object))
    }

    #[test]
    fn conditions_values_and_ends() {
        let pod = json!({"status": {"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}, {"type": "Initialized", "status": "False"},
        ]}});
        for (aim, expected) in [
            ("condition=Ready", true),
            ("condition=ready=true", true),
            ("condition=Initialized", false),
            ("condition=Initialized=false", true),
            ("condition=Available", false),
            ("create", true),
            ("delete", false),
            ("jsonpath={.status.phase}=Running", true),
            ("jsonpath=.status.phase=Running", true),
            ("jsonpath={.status.phase}=Pending", false),
            ("jsonpath={.status.phase}", true),
            ("jsonpath={.status.podIP}", false),
            (
                "jsonpath={.status.conditions[?(@.type==\"Ready\")].status}=True",
                true,
            ),
        ] {
            assert_eq!(holds(aim, &pod), expected, "{aim}");
        }
        assert!(Aim::Delete.holds(None) && !Aim::Create.holds(None));
        for wrong in ["", "condition", "ready", "jsonpath={.a"] {
            assert!(wrong.parse::<Aim>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_negative_limit_is_a_week() {
        assert_eq!(limit("-1s"), Ok(A_WEEK));
        assert_eq!(limit("1m30s"), Ok(Duration::from_secs(90)));
        assert!(limit("90").is_err());
    }
}
