//! Splits a file into documents and reads each as a tree, so that a syntax error stays in its document.

use serde_saphyr::options::DuplicateKeyPolicy;

use super::syntax;
use crate::tree::{Node, Place};

pub(super) struct Document<'a> {
    pub(super) text: &'a str,
    /// Lines of the file before this document.
    pub(super) line_offset: u32,
}

/// Splits at lines that start with `---`, which a YAML document cannot contain (YAML 1.2.2, 9.1.2, c-forbidden).
pub(super) fn split(text: &str) -> Vec<Document<'_>> {
    let mut documents = Vec::new();
    let mut rest = text;
    let mut line_offset = 0;
    let mut current_len = 0;
    let mut lines = 0;
    for line in text.split_inclusive('\n') {
        if is_separator(line) && current_len > 0 {
            let (document, tail) = rest.split_at(current_len);
            documents.push(Document {
                text: document,
                line_offset,
            });
            rest = tail;
            line_offset += lines;
            (current_len, lines) = (0, 0);
        }
        current_len += line.len();
        lines += 1;
    }
    documents.push(Document {
        text: rest,
        line_offset,
    });
    documents.retain(|document| has_content(document.text));
    documents
}

fn is_separator(line: &str) -> bool {
    line.strip_prefix("---")
        .is_some_and(|rest| rest.is_empty() || rest.starts_with(char::is_whitespace))
}

/// Whether there is more than comments, directives and markers.
fn has_content(text: &str) -> bool {
    text.lines().any(|line| {
        let line = line.strip_prefix("---").unwrap_or(line).trim();
        !(line.is_empty() || line.starts_with(['#', '%']) || line == "...")
    })
}

pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) message: String,
    pub(super) hint: &'static str,
}

/// `None` for an empty document.
pub(super) fn read(document: &Document<'_>) -> Result<Option<Node>, SyntaxError> {
    let options = serde_saphyr::options! {
        // As Kubernetes reads: `defaultMode: 0644` is octal.
        legacy_octal_numbers: true,
        with_snippet: false,
        // Told with the object and field that they belong to: see `Node::take_repeated`.
        duplicate_keys: DuplicateKeyPolicy::PassThrough,
    };
    match serde_saphyr::from_str_with_options::<Option<Node>>(document.text, options) {
        Ok(Some(mut tree)) if !tree.is_null() => {
            tree.move_down(document.line_offset);
            Ok(Some(tree))
        }
        Ok(_) => Ok(None),
        Err(error) => {
            let mut place = error
                .location()
                .map_or(Place { line: 1, column: 1 }, Place::from);
            place.line += document.line_offset;
            let parsers_text = error.without_snippet().to_string();
            let (message, hint) = syntax::explain(&parsers_text);
            Err(SyntaxError {
                place,
                message: format!("not valid YAML: {message}"),
                hint,
            })
        }
    }
}
