//! Where an object was written.

use std::fmt;
use std::sync::Arc;

use meltemi_core::{FieldPath, SourceLocation};

use crate::tree::{Node, Place};

/// The longest line that a diagnostic quotes, in characters.
const SNIPPET_LIMIT_CHARS: usize = 200;

/// The text of a file, to quote from.
pub(crate) struct SourceText {
    pub(crate) file: String,
    pub(crate) text: String,
}

/// One object's place in a file; finds its fields again for problems that show later.
#[derive(Clone)]
pub struct Source {
    text: Arc<SourceText>,
    tree: Node,
    /// Secrets are never quoted.
    quotable: bool,
}

impl Source {
    pub(crate) fn new(text: Arc<SourceText>, tree: Node, quotable: bool) -> Self {
        Self {
            text,
            tree,
            quotable,
        }
    }

    pub fn file(&self) -> &str {
        &self.text.file
    }

    /// The place of a field, or of its nearest ancestor that is written.
    pub fn locate(&self, field: &FieldPath) -> SourceLocation {
        location(&self.text, self.tree.locate(field), self.quotable)
    }

    /// The place in this file of a line and column inside a text that a field holds, such as a configuration inside a
    /// ConfigMap. Where the text is no literal block (`|`), the field's own place.
    pub fn locate_inside(&self, field: &FieldPath, line: u32, column: u32) -> SourceLocation {
        let value = self.tree.locate(field);
        if value.line <= self.tree.locate_key(field).line {
            return self.locate(field);
        }
        // A block begins below its key, at the place of its first character.
        let place = Place {
            line: value.line + line.saturating_sub(1),
            column: value.column + column.saturating_sub(1),
        };
        location(&self.text, place, self.quotable)
    }

    /// The object as it was written.
    pub fn to_json(&self) -> serde_json::Value {
        self.tree.to_json()
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source")
            .field("file", &self.text.file)
            .field("line", &self.tree.place.line)
            .finish_non_exhaustive()
    }
}

pub(crate) fn location(source: &SourceText, place: Place, quotable: bool) -> SourceLocation {
    let snippet = match source
        .text
        .lines()
        .nth(place.line.saturating_sub(1) as usize)
    {
        Some(line) if quotable && place.line > 0 => {
            line.chars().take(SNIPPET_LIMIT_CHARS).collect()
        }
        _ => String::new(),
    };
    SourceLocation {
        file: source.file.clone(),
        line: place.line,
        column: place.column,
        snippet,
    }
}
