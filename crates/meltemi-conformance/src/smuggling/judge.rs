//! Verdicts from what arrived on either side. Pure.

use super::{Expectation, Verdict};
use crate::report::Outcome;
use crate::rig::upstream::Seen;

/// What the sender of a request was told.
#[derive(Clone, Debug, Default)]
pub(super) struct Told {
    pub(super) statuses: Vec<u16>,
    /// The code of RST_STREAM or GOAWAY.
    pub(super) reset: Option<String>,
    pub(super) closed: bool,
}

impl Told {
    fn successes(&self) -> usize {
        let is_success = |status: &&u16| (200..300).contains(*status);
        self.statuses.iter().filter(is_success).count()
    }

    fn text(&self) -> String {
        let statuses: Vec<String> = self.statuses.iter().map(u16::to_string).collect();
        match (&self.reset, statuses.join(" ")) {
            (Some(reset), _) => reset.clone(),
            (None, statuses) if !statuses.is_empty() => statuses,
            _ if self.closed => "closed".to_owned(),
            _ => "waits".to_owned(),
        }
    }
}

/// Judges a request vector.
pub(super) fn request(expected: &Expectation, seen: &[Seen], told: &Told) -> Outcome {
    if let Some(fault) = unsound(expected, seen) {
        return Outcome::bad(fault);
    }
    let complete = seen.iter().filter(|seen| seen.is_complete).count();
    match expected.verdict {
        Verdict::Refuse if !seen.is_empty() => Outcome::bad(format!("forwarded, {}", told.text())),
        Verdict::RefuseBody if complete > 0 => Outcome::bad(format!("forwarded, {}", told.text())),
        Verdict::Refuse if told.successes() > 0 => {
            Outcome::bad(format!("answered {}", told.text()))
        }
        Verdict::Refuse | Verdict::RefuseBody => Outcome::good(told.text()),
        Verdict::Either if complete == 0 => Outcome::good(told.text()),
        Verdict::Either => Outcome::good(format!("passed, {}", told.text())),
        Verdict::Pass if complete < expected.requests => {
            Outcome::bad(format!("refused, {}", told.text()))
        }
        Verdict::Pass if told.successes() < expected.requests => {
            Outcome::bad(format!("passed, but {}", told.text()))
        }
        Verdict::Pass => match expected.needs {
            Some(text) if !seen.iter().any(|seen| seen.contains(text)) => {
                Outcome::bad(format!("lost {text:?}"))
            }
            _ => Outcome::good(format!("passed, {}", told.text())),
        },
    }
}

/// What may hold of no case.
fn unsound(expected: &Expectation, seen: &[Seen]) -> Option<String> {
    if seen.iter().any(|seen| seen.target().contains("smuggled")) {
        return Some("SMUGGLED: a request out of another".to_owned());
    }
    if let Some(oddity) = seen.iter().find_map(|seen| seen.oddity.as_ref()) {
        return Some(format!("passes on: {oddity}"));
    }
    let complete = seen.iter().filter(|seen| seen.is_complete).count();
    if complete > expected.requests {
        return Some(format!(
            "SMUGGLED: {complete} requests out of {}",
            expected.requests
        ));
    }
    let never = expected.never?;
    let passed = seen.iter().any(|seen| seen.contains(never));
    passed.then(|| format!("passes on {never:?}"))
}

/// What a client was given for a response vector.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    pub(super) told: Told,
    pub(super) bytes: Vec<u8>,
    /// The message came to its end as its framing says.
    pub(super) is_complete: bool,
    pub(super) oddity: Option<String>,
}

/// Judges a response vector.
pub(super) fn response(expected: &Expectation, given: &Given) -> Outcome {
    let contains = |text: &str| {
        given
            .bytes
            .windows(text.len())
            .any(|w| w == text.as_bytes())
    };
    let text = given.told.text();
    if let Some(oddity) = &given.oddity {
        return Outcome::bad(format!("passes on: {oddity}"));
    }
    if let Some(never) = expected.never.filter(|never| contains(never)) {
        return Outcome::bad(format!("passes on {never:?}"));
    }
    let succeeded = given.told.successes() > 0;
    match expected.verdict {
        Verdict::Refuse if succeeded => Outcome::bad(format!("forwarded, {text}")),
        Verdict::RefuseBody if succeeded && given.is_complete => {
            Outcome::bad(format!("forwarded as whole, {text}"))
        }
        Verdict::Pass if !succeeded => Outcome::bad(format!("refused, {text}")),
        Verdict::Pass if !given.is_complete => Outcome::bad(format!("cut, {text}")),
        Verdict::Pass if !expected.needs.is_none_or(contains) => Outcome::bad("lost content"),
        _ => Outcome::good(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(target: &str) -> Seen {
        Seen {
            head: format!("GET {target} HTTP/1.1\r\nhost: a\r\n\r\n").into_bytes(),
            is_complete: true,
            ..Seen::default()
        }
    }

    fn check(verdict: Verdict, seen: &[Seen], statuses: &[u16], expected: bool) {
        let told = Told {
            statuses: statuses.to_vec(),
            ..Told::default()
        };
        let found = request(&Expectation::new("x", "", verdict), seen, &told);
        assert_eq!(found.ok, expected, "{found:?}");
    }

    #[test]
    fn a_second_request_is_never_right() {
        for verdict in [Verdict::Pass, Verdict::Either, Verdict::Refuse] {
            check(verdict, &[seen("/v"), seen("/smuggled")], &[200], false);
            check(verdict, &[seen("/v"), seen("/v")], &[200, 200], false);
        }
    }

    #[test]
    fn refusal_lets_nothing_through() {
        check(Verdict::Refuse, &[], &[400], true);
        check(Verdict::Refuse, &[seen("/v")], &[400], false);
        check(Verdict::Refuse, &[], &[200], false);
        let mut begun = seen("/v");
        begun.is_complete = false;
        check(Verdict::RefuseBody, &[begun], &[400], true);
    }

    #[test]
    fn passing_needs_both_sides() {
        check(Verdict::Pass, &[seen("/v")], &[200], true);
        check(Verdict::Pass, &[seen("/v")], &[502], false);
        check(Verdict::Pass, &[], &[400], false);
        let mut odd = seen("/v");
        odd.oddity = Some("two Hosts".to_owned());
        check(Verdict::Either, &[odd], &[200], false);
    }
}
