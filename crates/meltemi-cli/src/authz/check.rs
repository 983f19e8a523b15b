//! `authz check`: the policies in a proxy's configuration, in istioctl's columns.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::Rule;
use crate::command::PodArgs;
use crate::output::structured;
use crate::proxy_config::{self, dump::text};
use crate::table::Table;
use crate::{Access, CliError, Io};

/// What istioctl writes where an action has no rule at all.
const NOTHING: &str = "_anonymous_match_nothing_";

/// In the order in which proxies ask them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Action {
    Custom,
    Audit,
    Deny,
    Allow,
}

impl Action {
    fn as_str(self) -> &'static str {
        match self {
            Self::Custom => "CUSTOM",
            Self::Audit => "AUDIT",
            Self::Deny => "DENY",
            Self::Allow => "ALLOW",
        }
    }
}

/// Action, whether it is a dry run, and `name.namespace`: the rules.
type Rows = BTreeMap<(Action, bool, String), BTreeSet<usize>>;

pub(super) async fn run(
    args: &PodArgs,
    access: &dyn Access,
    io: &mut Io<'_>,
) -> Result<(), CliError> {
    let dump = proxy_config::load(args, access, io).await?;
    let mut rows = Rows::new();
    for listener in dump.listeners() {
        visit(listener, &mut rows);
    }
    let list: Value = rows
        .iter()
        .map(|((action, is_dry_run, policy), rules)| {
            json!({"action": action.as_str(), "authorizationPolicy": policy, "rules": rules.len(), "dryRun": is_dry_run})
        })
        .collect();
    if let Some(text) = structured(&list, args.output)? {
        return io.print(&text);
    }
    let mut table = Table::new(["ACTION", "AuthorizationPolicy", "RULES"]);
    for ((action, is_dry_run, policy), rules) in &rows {
        let action = match is_dry_run {
            true => format!("{} (dry run)", action.as_str()),
            false => action.as_str().to_owned(),
        };
        table.row([action.as_str(), policy, &rules.len().to_string()]);
    }
    io.print(&table.render())
}

/// RBAC filters may stand in any chain, among filters of requests and of connections.
fn visit(value: &Value, rows: &mut Rows) {
    match value {
        Value::Object(fields) => {
            if text(value, "/@type").ends_with("rbac.v3.RBAC") {
                note(&value["rules"], false, rows);
                note(&value["shadowRules"], true, rows);
                return;
            }
            fields.values().for_each(|value| visit(value, rows));
        }
        Value::Array(items) => items.iter().for_each(|item| visit(item, rows)),
        _ => {}
    }
}

fn note(rules: &Value, is_dry_run: bool, rows: &mut Rows) {
    if !rules.is_object() {
        return;
    }
    let action = match text(rules, "/action") {
        "DENY" => Action::Deny,
        "LOG" => Action::Audit,
        _ => Action::Allow,
    };
    let policies = rules["policies"].as_object();
    let policies = policies.into_iter().flatten();
    let mut is_empty = true;
    for (name, policy) in policies {
        is_empty = false;
        let (action, name, index, is_dry_run) = match Rule::parse(name) {
            Some(rule) => {
                // Rules of CUSTOM are evaluated only, as those of a dry run are, but the authorizer behind them decides.
                let is_dry_run = is_dry_run && !rule.is_custom;
                let action = if rule.is_custom {
                    Action::Custom
                } else {
                    action
                };
                let name = format!("{}.{}", rule.policy.name, rule.policy.namespace);
                (action, name, rule.index, is_dry_run)
            }
            None => (action, name.clone(), 0, is_dry_run),
        };
        let rules = rows.entry((action, is_dry_run, name)).or_default();
        // A policy without rules stands there as one that nothing matches.
        if policy.pointer("/permissions/0/notRule/any") != Some(&Value::Bool(true)) {
            rules.insert(index);
        }
    }
    if is_empty {
        let key = (action, is_dry_run, NOTHING.to_owned());
        rows.entry(key).or_default();
    }
}
