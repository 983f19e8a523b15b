use std::fmt;
use std::io::{Read, Write};

use anstyle::{AnsiColor, Style};
use jiff::Timestamp;

use crate::CliError;

/// The terminal of a command.
pub struct Io<'a> {
    pub stdin: &'a mut (dyn Read + Send),
    pub stdout: &'a mut (dyn Write + Send),
    pub stderr: &'a mut (dyn Write + Send),
    /// Whether stdout shows colours (a terminal, and `NO_COLOR` is not set).
    pub color: bool,
    /// The program's whole command line, for `completion`.
    pub program: clap::Command,
    /// The name it was called by, for hints: `meltemi`, `istioctl`, `kubectl meltemi`.
    pub called: String,
    pub now: Timestamp,
}

impl fmt::Debug for Io<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Io")
            .field("called", &self.called)
            .finish_non_exhaustive()
    }
}

impl Io<'_> {
    pub(crate) fn print(&mut self, text: &str) -> Result<(), CliError> {
        self.stdout.write_all(text.as_bytes())?;
        if !text.is_empty() && !text.ends_with('\n') {
            self.stdout.write_all(b"\n")?;
        }
        Ok(())
    }

    /// A line beside the output, for people.
    pub(crate) fn note(&mut self, text: &str) -> Result<(), CliError> {
        Ok(writeln!(self.stderr, "{text}")?)
    }

    pub(crate) fn paint(&self, color: AnsiColor, text: &str) -> String {
        if !self.color {
            return text.to_owned();
        }
        let style = Style::new().bold().fg_color(Some(color.into()));
        format!("{style}{text}{style:#}")
    }

    pub(crate) fn report(&mut self, error: &CliError) {
        let hint = error.hint();
        let hint = if hint.is_empty() {
            String::new()
        } else {
            format!("\n{hint}")
        };
        // Nobody is left to tell when stderr is closed.
        drop(writeln!(self.stderr, "Error: {error}{hint}"));
    }
}
