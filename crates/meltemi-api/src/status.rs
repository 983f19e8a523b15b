//! The `status` of Istio's kinds: whether an object is good, and how many proxies run it.
//!
//! | condition | True | False |
//! |---|---|---|
//! | `Accepted` | nothing in the object is an error; warnings stand in the message | `Invalid`: what is wrong, by field. The version before, if it was good, stays in force |
//! | `Programmed` | every connected proxy whose configuration it is part of has accepted it: `Programmed`; there is none: `NotUsed` | `Pending`, `Refused`: which proxies, and why; `Invalid` |
//!
//! A rollout that came to its end stays so for that generation: a proxy that starts later begins with the object as it is.

use jiff::Timestamp;
use meltemi_core::{Diagnostic, ObjectRef, Severity};
use serde::{Deserialize, Serialize};

/// Proxies that are named where a count says less.
const NAMED_LIMIT: usize = 3;
/// Of a condition's message (Kubernetes API, `metav1.Condition`); ends on a character.
const MESSAGE_LIMIT: usize = 32 * 1024;

pub const ACCEPTED: &str = "Accepted";
pub const PROGRAMMED: &str = "Programmed";

/// How far an object has come.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    pub object: ObjectRef,
    /// The version that counts; none where no version was ever good.
    pub generation: Option<i64>,
    pub problems: Vec<Diagnostic>,
    /// None where nobody counted: as before.
    pub proxies: Option<Proxies>,
}

impl Standing {
    pub fn new(object: ObjectRef, generation: Option<i64>) -> Self {
        Self {
            object,
            generation,
            problems: Vec::new(),
            proxies: None,
        }
    }
}

/// The connected proxies whose configuration an object is part of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Proxies {
    pub concerned: usize,
    /// Those that have accepted the object as it is now.
    pub running: usize,
    /// The first few that have not answered yet.
    pub waiting: Vec<String>,
    /// The first few that refuse a part of their configuration, and why.
    pub refusing: Vec<String>,
}

impl Proxies {
    pub fn add_running(&mut self) {
        self.concerned += 1;
        self.running += 1;
    }

    pub fn add_waiting(&mut self, name: &str) {
        self.concerned += 1;
        if self.waiting.len() < NAMED_LIMIT {
            self.waiting.push(name.to_owned());
        }
    }

    pub fn add_refusing(&mut self, name: &str, reason: &str) {
        self.concerned += 1;
        if self.refusing.len() < NAMED_LIMIT {
            self.refusing.push(format!("{name}: {reason}"));
        }
    }

    /// Whether all that are concerned run it.
    pub fn are_done(&self) -> bool {
        self.running == self.concerned
    }

    /// Adds what another control plane sees of its own proxies.
    pub fn add(&mut self, other: Self) {
        self.concerned += other.concerned;
        self.running += other.running;
        for (named, more) in [
            (&mut self.waiting, other.waiting),
            (&mut self.refusing, other.refusing),
        ] {
            named.extend(more);
            named.truncate(NAMED_LIMIT);
        }
    }

    fn summary(&self) -> String {
        let proxies = if self.concerned == 1 {
            "proxy runs"
        } else {
            "proxies run"
        };
        format!("{} of {} {proxies} it", self.running, self.concerned)
    }
}

/// What the control plane writes into an object's `status`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Status {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    pub conditions: Vec<Condition>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub validation_messages: Vec<ValidationMessage>,
}

/// `metav1.Condition`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    #[serde(rename = "type")]
    pub kind: String,
    pub status: String,
    #[serde(default)]
    pub reason: String,
    #[serde(default)]
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub observed_generation: Option<i64>,
    #[serde(default)]
    pub last_transition_time: Option<Timestamp>,
}

/// `istio.analysis.v1alpha1.AnalysisMessageBase`, with its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ValidationMessage {
    #[serde(rename = "type")]
    pub kind: MessageType,
    /// `ERROR`, `WARNING` or `INFO`.
    pub level: String,
    #[serde(default)]
    pub message: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MessageType {
    pub code: String,
}

impl Status {
    /// What there is to say of an object, after what was said before.
    pub fn new(standing: &Standing, before: &Self, now: Timestamp) -> Self {
        let generation = standing.generation;
        let accepted = accepted(standing);
        let programmed = programmed(standing, before, &accepted);
        let mut conditions: Vec<_> = std::iter::once(accepted).chain(programmed).collect();
        for condition in &mut conditions {
            let same = before.condition(&condition.kind);
            let same = same.filter(|same| same.status == condition.status);
            condition.observed_generation = generation;
            condition.last_transition_time = same
                .and_then(|same| same.last_transition_time)
                .or(Some(now));
        }
        Self {
            observed_generation: generation,
            conditions,
            validation_messages: standing.problems.iter().map(message).collect(),
        }
    }

    pub fn condition(&self, kind: &str) -> Option<&Condition> {
        self.conditions
            .iter()
            .find(|condition| condition.kind == kind)
    }

    /// Whether it says something else than before, beside how many proxies there are.
    pub fn is_news(&self, before: &Self) -> bool {
        let verdict = |status: &Self| -> Vec<_> {
            let conditions = status.conditions.iter();
            let verdict =
                |one: &Condition| (one.kind.clone(), one.status.clone(), one.reason.clone());
            conditions.map(verdict).collect()
        };
        self.observed_generation != before.observed_generation
            || self.validation_messages != before.validation_messages
            || verdict(self) != verdict(before)
    }
}

fn condition(kind: &str, status: bool, reason: &str, mut message: String) -> Condition {
    if message.len() > MESSAGE_LIMIT {
        message.truncate(message.floor_char_boundary(MESSAGE_LIMIT));
    }
    Condition {
        kind: kind.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: reason.to_owned(),
        message,
        observed_generation: None,
        last_transition_time: None,
    }
}

fn accepted(standing: &Standing) -> Condition {
    let texts: Vec<String> = standing.problems.iter().map(text).collect();
    let text = texts.join("; ");
    let problems = &standing.problems;
    if problems.iter().any(|one| one.severity == Severity::Error) {
        return condition(ACCEPTED, false, "Invalid", text);
    }
    let text = if text.is_empty() {
        "the object is good".to_owned()
    } else {
        text
    };
    condition(ACCEPTED, true, "Accepted", text)
}

fn programmed(standing: &Standing, before: &Status, accepted: &Condition) -> Option<Condition> {
    let is = |status: bool, reason: &str, message: String| {
        Some(condition(PROGRAMMED, status, reason, message))
    };
    let was = before.condition(PROGRAMMED);
    if accepted.status == "False" {
        return is(false, "Invalid", "see the condition Accepted".to_owned());
    }
    let Some(proxies) = &standing.proxies else {
        let as_before = was.filter(|was| was.observed_generation == standing.generation);
        return as_before.cloned();
    };
    if !proxies.refusing.is_empty() {
        let message = format!(
            "{}; refused by {}",
            proxies.summary(),
            proxies.refusing.join(", ")
        );
        return is(false, "Refused", message);
    }
    if proxies.concerned == 0 {
        let message = "no connected proxy has it in its configuration".to_owned();
        return is(true, "NotUsed", message);
    }
    let was = was.is_some_and(|was| {
        was.status == "True"
            && was.reason == PROGRAMMED
            && was.observed_generation == standing.generation
    });
    if proxies.are_done() || was {
        return is(true, PROGRAMMED, proxies.summary());
    }
    let message = format!(
        "{}; waiting for {}",
        proxies.summary(),
        proxies.waiting.join(", ")
    );
    is(false, "Pending", message)
}

fn text(problem: &Diagnostic) -> String {
    let field = if problem.field.is_empty() {
        String::new()
    } else {
        format!("{}: ", problem.field)
    };
    let hint = if problem.hint.is_empty() {
        String::new()
    } else {
        format!(" (hint: {})", problem.hint)
    };
    format!("{} {field}{}{hint}", problem.code, problem.message)
}

fn message(problem: &Diagnostic) -> ValidationMessage {
    ValidationMessage {
        kind: MessageType {
            code: problem.code.clone(),
        },
        level: problem.severity.to_string().to_uppercase(),
        message: text(problem),
    }
}

#[cfg(test)]
mod tests {
    use meltemi_core::FieldPath;

    use super::*;

    fn standing(running: usize, waiting: &[&str], refusing: &[(&str, &str)]) -> Standing {
        let object = ObjectRef::new("VirtualService", "shop", "a");
        let mut standing = Standing::new(object, Some(2));
        let mut proxies = Proxies::default();
        (0..running).for_each(|_| proxies.add_running());
        waiting.iter().for_each(|name| proxies.add_waiting(name));
        for (name, reason) in refusing {
            proxies.add_refusing(name, reason);
        }
        standing.proxies = Some(proxies);
        standing
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Type, status, reason and message of the conditions.
    fn said(status: &Status) -> Vec<String> {
        let conditions = status.conditions.iter();
        let text = |one: &Condition| {
            format!(
                "{} {} {}: {}",
                one.kind, one.status, one.reason, one.message
            )
        };
        conditions.map(text).collect()
    }

    #[test]
    fn a_status_says_who_runs_the_object() {
        let new = |standing: &Standing| Status::new(standing, &Status::default(), at(1));
        for (standing, programmed) in [
            (
                standing(12, &[], &[]),
                "Programmed True Programmed: 12 of 12 proxies run it",
            ),
            (
                standing(1, &[], &[]),
                "Programmed True Programmed: 1 of 1 proxy runs it",
            ),
            (
                standing(1, &["b.shop", "c.shop"], &[]),
                "Programmed False Pending: 1 of 3 proxies run it; waiting for b.shop, c.shop",
            ),
            (
                standing(1, &["b.shop"], &[("c.shop", "listener: bad")]),
                "Programmed False Refused: 1 of 3 proxies run it; refused by c.shop: listener: bad",
            ),
            (
                standing(0, &[], &[]),
                "Programmed True NotUsed: no connected proxy has it in its configuration",
            ),
        ] {
            let accepted = "Accepted True Accepted: the object is good";
            assert_eq!(said(&new(&standing)), [accepted, programmed]);
        }
    }

    #[test]
    fn errors_are_told_by_field_and_warnings_beside() {
        let mut bad = standing(2, &[], &[]);
        let field = FieldPath::new("spec.host");
        bad.problems = vec![
            Diagnostic::warning("W1", "odd")
                .field(field.clone())
                .hint("say b"),
        ];
        let status = Status::new(&bad, &Status::default(), at(1));
        assert_eq!(
            said(&status)[0],
            "Accepted True Accepted: W1 spec.host: odd (hint: say b)"
        );
        bad.problems
            .push(Diagnostic::error("E1", "wrong").field(field));
        let status = Status::new(&bad, &Status::default(), at(1));
        assert_eq!(
            said(&status),
            [
                "Accepted False Invalid: W1 spec.host: odd (hint: say b); E1 spec.host: wrong",
                "Programmed False Invalid: see the condition Accepted",
            ]
        );
        let levels: Vec<_> = status
            .validation_messages
            .iter()
            .map(|m| m.level.as_str())
            .collect();
        assert_eq!(levels, ["WARNING", "ERROR"]);
    }

    #[test]
    fn a_rollout_that_ended_stays_so_for_its_generation() {
        let done = Status::new(&standing(2, &[], &[]), &Status::default(), at(1));
        let started = Status::new(&standing(2, &["new.shop"], &[]), &done, at(5));
        assert_eq!(
            said(&started)[1],
            "Programmed True Programmed: 2 of 3 proxies run it"
        );
        assert_eq!(started.conditions[1].last_transition_time, Some(at(1)));
        assert!(!started.is_news(&done));
        let mut uncounted = standing(0, &[], &[]);
        uncounted.proxies = None;
        assert_eq!(Status::new(&uncounted, &started, at(7)), started);
        let mut changed = standing(2, &["new.shop"], &[]);
        changed.generation = Some(3);
        let changed = Status::new(&changed, &started, at(9));
        assert!(said(&changed)[1].starts_with("Programmed False Pending"));
        assert_eq!(changed.conditions[1].last_transition_time, Some(at(9)));
        assert!(changed.is_news(&started));
    }
}
