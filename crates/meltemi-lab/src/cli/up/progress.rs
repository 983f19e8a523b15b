//! What is told while pods are waited for: a line on a terminal that is written over, plain lines elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use anstream::{eprint, eprintln};
use tokio::time::Instant;

use crate::wire::Progress;

/// Plain lines are at least this far apart.
pub(super) const EVERY: Duration = Duration::from_secs(3);
/// What has not changed is told again after this long: whoever reads a log sees that it goes on.
const AGAIN: Duration = Duration::from_secs(30);

pub(super) struct Shown {
    is_terminal: bool,
    last: String,
    at: Instant,
}

impl Shown {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            is_terminal: std::io::stderr().is_terminal(),
            last: String::new(),
            at: now,
        }
    }

    pub(super) fn show(&mut self, progress: &Progress, now: Instant) {
        let text = text(progress);
        if self.is_terminal {
            if text != self.last {
                eprint!("\r\x1b[2K{text}");
                self.last = text;
            }
        } else if !progress.ready && is_due(text != self.last, now - self.at) {
            eprintln!("waiting: {text}");
            (self.last, self.at) = (text, now);
        }
    }

    pub(super) fn clear(&self) {
        if self.is_terminal && !self.last.is_empty() {
            eprint!("\r\x1b[2K");
        }
    }
}

/// Whether a plain line is written, that long after the last.
fn is_due(is_news: bool, since_last: Duration) -> bool {
    since_last >= if is_news { EVERY } else { AGAIN }
}

fn text(progress: &Progress) -> String {
    let mut text = format!("{}/{} pods ready", progress.pods_ready, progress.pods_total);
    if let Some((first, rest)) = progress.waiting.split_first() {
        text += &format!("  {first}");
        if !rest.is_empty() {
            text += &format!("  (and {} more)", rest.len());
        }
    }
    text
}

/// Says what was not ready, each on a line with its reason.
pub(super) fn timed_out(limit: Duration, progress: &Progress) -> String {
    format!(
        "not ready after {limit:?}:\n  {}\nThe lab goes on: `meltemi lab describe pod NAME` tells more, \
         `meltemi lab up` waits again",
        progress.waiting.join("\n  ")
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn progress(waiting: &[&str]) -> Progress {
        Progress {
            ready: waiting.is_empty(),
            pods_ready: 1,
            pods_total: 3,
            waiting: waiting.iter().map(|reason| (*reason).to_owned()).collect(),
            ..Progress::default()
        }
    }

    #[test]
    fn plain_lines_come_when_there_is_news_and_not_too_often() {
        let seconds = Duration::from_secs;
        assert!(!is_due(true, seconds(2)) && is_due(true, EVERY));
        assert!(!is_due(false, seconds(20)) && is_due(false, AGAIN));
    }

    #[test]
    fn a_line_names_what_is_waited_for_and_why() {
        let two = progress(&["default/a: app: ErrImagePull", "default/b: Pending"]);
        assert_eq!(
            text(&two),
            "1/3 pods ready  default/a: app: ErrImagePull  (and 1 more)"
        );
    }

    #[test]
    fn the_end_of_patience_names_everything() {
        let two = progress(&["default/a: app: ErrImagePull", "default/b: Pending"]);
        let told = timed_out(Duration::from_secs(90), &two);
        assert!(
            told.starts_with(
                "not ready after 90s:\n  default/a: app: ErrImagePull\n  default/b: Pending\n"
            ),
            "{told}"
        );
    }
}
