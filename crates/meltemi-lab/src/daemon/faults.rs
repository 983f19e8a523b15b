//! What is wrong with the watched files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use meltemi_core::{Diagnostic, Severity, SourceLocation};

use crate::wire::{Fault, Report};

#[derive(Debug, Default)]
pub(super) struct Faults(BTreeMap<PathBuf, Fault>);

impl Faults {
    /// Takes what a file is told now; as long as that is anything, the file keeps the time of the first.
    pub(super) fn note(&mut self, file: &Path, diagnostics: Vec<Diagnostic>, now: String) {
        if diagnostics.is_empty() {
            self.0.remove(file);
            return;
        }
        let fault = self.0.entry(file.to_owned()).or_insert_with(|| Fault {
            file: file.to_owned(),
            since: now,
            diagnostics: Vec::new(),
        });
        fault.diagnostics = diagnostics;
    }

    pub(super) fn list(&self) -> Vec<Fault> {
        self.0.values().cloned().collect()
    }
}

/// What is told of a file: its errors and warnings.
pub(super) fn of_report(report: &Report) -> Vec<Diagnostic> {
    let mut told = report.diagnostics.clone();
    told.retain(|diagnostic| diagnostic.severity != Severity::Info);
    told
}

/// What is told of a file that cannot be read.
pub(super) fn of_failure(file: &Path, error: &io::Error) -> Diagnostic {
    let diagnostic = if error.kind() == io::ErrorKind::NotFound {
        Diagnostic::warning("MEL0511", "the file is gone, its objects stay")
            .hint("delete them with `meltemi lab delete`, or put the file back")
    } else {
        Diagnostic::error("MEL0007", format!("cannot be read: {error}"))
            .hint("what was read from it before stays in force")
    };
    diagnostic.at(SourceLocation {
        file: file.display().to_string(),
        line: 1,
        column: 1,
        snippet: String::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(diagnostics: Vec<Diagnostic>) -> Report {
        Report {
            diagnostics,
            ..Report::default()
        }
    }

    #[test]
    fn a_broken_file_is_told_from_its_first_break_until_it_is_mended() {
        let file = Path::new("/m/w.yaml");
        let broken = |message: &str| of_report(&report(vec![Diagnostic::error("X", message)]));
        let mut faults = Faults::default();
        faults.note(file, broken("one"), "10:00".to_owned());
        faults.note(file, broken("two"), "10:05".to_owned());
        let [fault] = &faults.list()[..] else {
            panic!("one file is broken")
        };
        assert_eq!(
            (fault.since.as_str(), fault.diagnostics[0].message.as_str()),
            ("10:00", "two")
        );
        faults.note(file, of_report(&report(Vec::new())), "10:06".to_owned());
        assert!(faults.list().is_empty());
    }

    #[test]
    fn errors_and_warnings_are_told() {
        let note = Diagnostic::new("I", Severity::Info, "fine");
        let warning = Diagnostic::warning("W", "unknown field");
        let error = Diagnostic::error("E", "refused");
        let told = of_report(&report(vec![note, warning.clone(), error.clone()]));
        assert_eq!(told, [warning, error]);
    }

    #[test]
    fn a_file_that_is_gone_is_told_as_such() {
        let gone = of_failure(Path::new("/m/w.yaml"), &io::ErrorKind::NotFound.into());
        assert_eq!(gone.code, "MEL0511");
        let locked = of_failure(
            Path::new("/m/w.yaml"),
            &io::ErrorKind::PermissionDenied.into(),
        );
        assert_eq!(
            (locked.code.as_str(), locked.severity),
            ("MEL0007", Severity::Error)
        );
    }
}
