use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{FieldPath, ObjectRef};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Severity {
    Info,
    Warning,
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Info => "info",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// A place in a configuration file. Lines and columns count from 1.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SourceLocation {
    pub file: String,
    pub line: u32,
    pub column: u32,
    /// The text of that line, for the caret; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub snippet: String,
}

/// One problem in what a user wrote. Codes are Istio's `ISTnnnn` where it has one, else `MELnnnn`, and never reused.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Diagnostic {
    pub code: String,
    pub severity: Severity,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<ObjectRef>,
    #[serde(skip_serializing_if = "FieldPath::is_empty", default)]
    pub field: FieldPath,
    pub message: String,
    /// How to fix it; empty when the message says it.
    #[serde(skip_serializing_if = "String::is_empty", default)]
    pub hint: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub location: Option<SourceLocation>,
}

impl Diagnostic {
    pub fn new(code: &str, severity: Severity, message: impl Into<String>) -> Self {
        Self {
            code: code.to_owned(),
            severity,
            object: None,
            field: FieldPath::default(),
            message: message.into(),
            hint: String::new(),
            location: None,
        }
    }

    pub fn error(code: &str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Error, message)
    }

    pub fn warning(code: &str, message: impl Into<String>) -> Self {
        Self::new(code, Severity::Warning, message)
    }

    #[must_use]
    pub fn object(mut self, object: ObjectRef) -> Self {
        self.object = Some(object);
        self
    }

    #[must_use]
    pub fn field(mut self, field: FieldPath) -> Self {
        self.field = field;
        self
    }

    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    #[must_use]
    pub fn at(mut self, location: SourceLocation) -> Self {
        self.location = Some(location);
        self
    }
}

/// `error IST0101 VirtualService default/reviews: spec.http[1]: message (hint: ...)`, then the place and a caret.
impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.severity, self.code)?;
        if let Some(object) = &self.object {
            write!(f, " {object}")?;
        }
        f.write_str(": ")?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, " (hint: {})", self.hint)?;
        }
        let Some(SourceLocation {
            file,
            line,
            column,
            snippet,
        }) = &self.location
        else {
            return Ok(());
        };
        write!(f, "\n  --> {file}:{line}:{column}")?;
        if !snippet.is_empty() {
            let gutter = line.to_string();
            let blank = " ".repeat(gutter.len());
            let indent = " ".repeat(column.saturating_sub(1) as usize);
            write!(
                f,
                "\n {blank} |\n {gutter} | {snippet}\n {blank} | {indent}^"
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_everything_a_person_needs() {
        let text = Diagnostic::error("IST0101", "referenced host not found: \"reviewz\"")
            .object(ObjectRef::new("VirtualService", "default", "reviews"))
            .field(FieldPath::new("spec").field("http").index(1))
            .hint("did you mean \"reviews\"?")
            .at(SourceLocation {
                file: "a.yaml".into(),
                line: 12,
                column: 3,
                snippet: "  host: reviewz".into(),
            })
            .to_string();
        assert_eq!(
            text,
            "error IST0101 VirtualService default/reviews: spec.http[1]: referenced host not found: \"reviewz\" \
             (hint: did you mean \"reviews\"?)\n  --> a.yaml:12:3\n    |\n 12 |   host: reviewz\n    |   ^"
        );
    }
}
