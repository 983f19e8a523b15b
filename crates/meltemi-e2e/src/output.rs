use std::process::ExitStatus;

use serde_json::Value;

/// What a command printed and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    pub line: String,
    pub status: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub(crate) fn new(line: String, status: ExitStatus, stdout: &[u8], stderr: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self {
            line,
            status: status.code().unwrap_or(-1),
            stdout: text(stdout),
            stderr: text(stderr),
        }
    }

    /// The standard output of a command that must have succeeded.
    ///
    /// # Panics
    /// It did not succeed.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(
            self.status, 0,
            "`{}` failed\nstdout: {}\nstderr: {}",
            self.line, self.stdout, self.stderr
        );
        self.stdout
    }

    /// As [`Output::ok`], read as JSON.
    ///
    /// # Panics
    /// It did not succeed or printed no JSON.
    #[track_caller]
    pub fn json(self) -> Value {
        let line = self.line.clone();
        let text = self.ok();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("`{line}` printed no JSON ({error}): {text}"))
    }
}
