//! What the reader sees: titles, commands, evidence, verdicts.

use std::time::Duration;

use anstream::println;
use anstyle::{AnsiColor, Style};

const TITLE: Style = Style::new().bold();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// What one proof found: a line of evidence each; `Err` says what did not hold.
pub(super) type Evidence = anyhow::Result<Vec<String>>;

pub(super) struct Tour {
    step: u32,
    failed: u32,
}

impl Tour {
    pub(super) fn new() -> Self {
        Self { step: 0, failed: 0 }
    }

    pub(super) fn say(&self, text: &str) {
        println!("{text}");
    }

    /// Shows a command as a reader could type it.
    pub(super) fn command(&self, line: &str) {
        println!("{DIM}  $ {line}{DIM:#}");
    }

    pub(super) fn prove(&mut self, title: &str, proof: impl FnOnce() -> Evidence) {
        self.step += 1;
        println!("\n{TITLE}{}. {title}{TITLE:#}", self.step);
        match proof() {
            Ok(lines) => {
                for line in lines {
                    println!("   {line}");
                }
                println!("   {GOOD}✔ holds{GOOD:#}");
            }
            Err(error) => {
                self.failed += 1;
                println!("   {BAD}✘ {error:#}{BAD:#}");
            }
        }
    }

    /// Prints the verdict; whether every proof held.
    pub(super) fn finish(&self, took: Duration) -> bool {
        let proofs = self.step;
        let held = proofs - self.failed;
        println!(
            "\n{TITLE}{held} of {proofs} proofs held{TITLE:#} in {:.1} s.",
            took.as_secs_f32()
        );
        self.failed == 0
    }
}
