//! Reads one file: documents, lists, objects.

mod documents;
mod header;
mod object;
mod syntax;

use std::collections::BTreeSet;
use std::sync::Arc;

use meltemi_core::{Diagnostic, FieldPath, ObjectRef, Severity, SourceLocation};
use serde::de::DeserializeOwned;

use crate::decode::{Problem, ProblemKind, decode};
use crate::object::{Object, ObjectKey};
use crate::source::{SourceText, location};
use crate::support;
use crate::tree::{Entry, Node, Place, Value};

/// What one file says.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The objects without errors, in the order of writing.
    pub objects: Vec<Arc<Object>>,
    /// Objects that are in the file but have errors: whoever has an earlier version keeps it.
    pub rejected: Vec<ObjectKey>,
    /// What counts of a rejected policy for those who have no earlier version: it lets nothing through.
    pub stand_ins: Vec<Arc<Object>>,
    /// Whether a part of the file could not be read at all, so that objects missing here may be in that part.
    pub is_partial: bool,
    pub diagnostics: Vec<Diagnostic>,
}

/// Reads the YAML or JSON text of one file, any number of documents and Lists, and reports every problem in it.
/// Objects of namespaced kinds without a namespace get `default_namespace`.
pub fn parse(file: &str, text: &str, default_namespace: &str) -> Parsed {
    let mut parser = Parser {
        text: Arc::new(SourceText {
            file: file.to_owned(),
            text: text.to_owned(),
        }),
        default_namespace,
        seen: BTreeSet::new(),
        parsed: Parsed::default(),
    };
    for document in documents::split(text) {
        match documents::read(&document) {
            Ok(Some(tree)) => parser.document(tree),
            Ok(None) => {}
            Err(error) => parser.unreadable(&document, error),
        }
    }
    let place = |diagnostic: &Diagnostic| {
        let location = diagnostic.location.as_ref();
        location.map(|location| (location.line, location.column))
    };
    parser.parsed.diagnostics.sort_by_key(place);
    parser.parsed
}

/// Reads one object, or a List of them, as an API server gives it. There is no file: diagnostics and objects have no place.
pub fn parse_json(value: serde_json::Value) -> Parsed {
    let mut parser = Parser {
        text: Arc::new(SourceText {
            file: String::new(),
            text: String::new(),
        }),
        default_namespace: "default",
        seen: BTreeSet::new(),
        parsed: Parsed::default(),
    };
    parser.document(Node::from(value));
    let mut parsed = parser.parsed;
    for diagnostic in &mut parsed.diagnostics {
        diagnostic.location = None;
    }
    for object in &mut parsed.objects {
        Arc::make_mut(object).source = None;
    }
    parsed
}

struct Parser<'a> {
    text: Arc<SourceText>,
    default_namespace: &'a str,
    seen: BTreeSet<ObjectKey>,
    parsed: Parsed,
}

impl Parser<'_> {
    fn unreadable(&mut self, document: &documents::Document<'_>, error: documents::SyntaxError) {
        self.parsed.is_partial = true;
        let quotable = !document.text.contains("Secret");
        let mut diagnostic = Diagnostic::error("MEL0001", error.message)
            .hint(error.hint)
            .at(location(&self.text, error.place, quotable));
        diagnostic.object = syntax::object_of(document.text).map(|(kind, namespace, name)| {
            let namespace = namespace.unwrap_or_else(|| self.default_namespace.to_owned());
            header::reference(&kind, &namespace, &name)
        });
        self.parsed.diagnostics.push(diagnostic);
    }

    fn document(&mut self, tree: Node) {
        let is_list = tree
            .get("kind")
            .and_then(Node::as_str)
            .is_some_and(|kind| kind.ends_with("List"));
        if !is_list {
            self.object(tree);
            return;
        }
        let Value::Map(entries) = tree.value else {
            return;
        };
        let items = entries.into_iter().find(|entry| entry.key == "items");
        match items {
            Some(Entry {
                node:
                    Node {
                        value: Value::List(items),
                        ..
                    },
                ..
            }) => items.into_iter().for_each(|item| self.document(item)),
            Some(Entry { node, .. }) if node.is_null() => {}
            other => {
                self.parsed.is_partial = true;
                let place = other.map_or(tree.place, |entry| entry.key_place);
                let place = location(&self.text, place, true);
                self.parsed.diagnostics.push(
                    Diagnostic::error("MEL0002", "a List holds its objects in items")
                        .field(FieldPath::new("items"))
                        .hint("write items: and the objects below it, each begun with \"- \"")
                        .at(place),
                );
            }
        }
    }

    fn object(&mut self, tree: Node) {
        let quotable = tree.get("kind").and_then(Node::as_str) != Some("Secret");
        let mut report = Report {
            text: Arc::clone(&self.text),
            quotable,
            object: None,
            diagnostics: Vec::new(),
        };
        let mut tree = tree;
        let repeated = tree.take_repeated();
        let header = header::read(&tree, self.default_namespace, &mut report);
        report.repeated_fields(repeated);
        let key = match header {
            header::Header::Object(key) => key,
            header::Header::Unread => {
                self.parsed.diagnostics.append(&mut report.diagnostics);
                return;
            }
            header::Header::Unknown => {
                self.parsed.is_partial = true;
                self.parsed.diagnostics.append(&mut report.diagnostics);
                return;
            }
        };
        report.object = Some(key.reference());
        if !self.seen.insert(key.clone()) {
            let message = "this file defines the object twice; the first definition counts";
            report.add(
                &tree,
                FieldPath::new("metadata.name"),
                Diagnostic::error("MEL0006", message)
                    .hint("remove one of the two, or give it another name"),
            );
            self.parsed.diagnostics.append(&mut report.diagnostics);
            return;
        }
        let stand_in = object::stand_in(&key, &tree);
        let object = object::read(&key, tree, &mut report);
        self.parsed.diagnostics.append(&mut report.diagnostics);
        match object {
            Some(object) => self.parsed.objects.push(Arc::new(object)),
            None => {
                self.parsed.stand_ins.extend(stand_in.map(Arc::new));
                self.parsed.rejected.push(key);
            }
        }
    }
}

/// Collects the problems of one object, with their places.
pub(crate) struct Report {
    text: Arc<SourceText>,
    quotable: bool,
    object: Option<ObjectRef>,
    diagnostics: Vec<Diagnostic>,
}

impl Report {
    pub(crate) fn has_errors(&self) -> bool {
        self.diagnostics
            .iter()
            .any(|diagnostic| diagnostic.severity == Severity::Error)
    }

    pub(crate) fn add(&mut self, tree: &Node, field: FieldPath, mut diagnostic: Diagnostic) {
        diagnostic.location = Some(self.place(tree.locate(&field)));
        diagnostic.object.clone_from(&self.object);
        diagnostic.field = field;
        self.diagnostics.push(diagnostic);
    }

    /// A mapping with a field twice, which YAML forbids (YAML 1.2.2, 3.2.1.3): which of the two was meant nobody can tell.
    /// What else is wrong is told of the first.
    fn repeated_fields(&mut self, repeated: Vec<(FieldPath, Place)>) {
        for (field, place) in repeated {
            let mut diagnostic = Diagnostic::error("MEL0001", "the field is written twice")
                .hint("keep one of the two")
                .at(self.place(place))
                .field(field);
            diagnostic.object.clone_from(&self.object);
            self.diagnostics.push(diagnostic);
        }
    }

    fn place(&self, place: Place) -> SourceLocation {
        location(&self.text, place, self.quotable)
    }

    /// Adds what decoding found. Unknown fields have the given severity: in a policy of Istio's they are errors, because
    /// a misspelt policy protects nothing.
    pub(crate) fn problems(&mut self, tree: &Node, problems: Vec<Problem>, unknown: Severity) {
        for problem in problems {
            let (severity, code) = match (problem.kind, unknown) {
                (ProblemKind::UnknownField, Severity::Error) | (ProblemKind::Malformed, _) => {
                    (Severity::Error, "IST0106")
                }
                (ProblemKind::UnknownField, severity) => (severity, "MEL0008"),
            };
            let place = match problem.kind {
                ProblemKind::Malformed => tree.locate(&problem.path),
                ProblemKind::UnknownField => tree.locate_key(&problem.path),
            };
            let place = self.place(place);
            let mut diagnostic = Diagnostic::new(code, severity, problem.message)
                .field(problem.path)
                .hint(problem.hint)
                .at(place);
            diagnostic.object.clone_from(&self.object);
            self.diagnostics.push(diagnostic);
        }
    }

    /// Warns of every field that is written but not acted on.
    pub(crate) fn unsupported(&mut self, tree: &Node, is_unsupported: &dyn Fn(&FieldPath) -> bool) {
        for field in tree.fields() {
            if is_unsupported(&field) {
                let place = self.place(tree.locate_key(&field));
                let mut diagnostic = Diagnostic::warning("MEL0005", "not supported yet, ignored")
                    .field(field)
                    .at(place);
                diagnostic.object.clone_from(&self.object);
                self.diagnostics.push(diagnostic);
            }
        }
    }
}

/// Reads one message - a MeshConfig, a ProxyConfig - from YAML or JSON text. `None` if it has errors.
pub fn parse_message<T: DeserializeOwned + Message>(
    file: &str,
    text: &str,
) -> (Option<T>, Vec<Diagnostic>) {
    let mut report = Report {
        text: Arc::new(SourceText {
            file: file.to_owned(),
            text: text.to_owned(),
        }),
        quotable: true,
        object: None,
        diagnostics: Vec::new(),
    };
    let document = documents::Document {
        text,
        line_offset: 0,
    };
    let tree = match documents::read(&document) {
        Ok(Some(tree)) => tree,
        Ok(None) => Node {
            place: Place::default(),
            value: Value::Map(Vec::new()),
        },
        Err(error) => {
            let diagnostic = Diagnostic::error("MEL0001", error.message)
                .hint(error.hint)
                .at(report.place(error.place));
            return (None, vec![diagnostic]);
        }
    };
    let mut tree = tree;
    let repeated = tree.take_repeated();
    report.repeated_fields(repeated);
    if report.has_errors() {
        return (None, report.diagnostics);
    }
    let is_unsupported = |field: &FieldPath| T::is_unsupported(field);
    report.unsupported(&tree, &is_unsupported);
    let (message, problems) = decode::<T>(&tree, &FieldPath::default(), &is_unsupported);
    report.problems(&tree, problems, Severity::Warning);
    for diagnostic in message.iter().flat_map(T::problems) {
        report.add(&tree, diagnostic.field.clone(), diagnostic);
    }
    (message, report.diagnostics)
}

/// A configuration message that is no object.
pub trait Message {
    fn is_unsupported(field: &FieldPath) -> bool;

    /// What types cannot say. The message is given all the same: its other fields are sound.
    fn problems(&self) -> Vec<Diagnostic> {
        Vec::new()
    }
}

impl Message for crate::istio::MeshConfig {
    fn is_unsupported(field: &FieldPath) -> bool {
        support::is_unsupported_mesh_config(field)
    }

    fn problems(&self) -> Vec<Diagnostic> {
        self.problems()
    }
}

impl Message for crate::istio::ProxyConfig {
    fn is_unsupported(field: &FieldPath) -> bool {
        support::is_unsupported_mesh_config(&FieldPath::new(&format!("defaultConfig.{field}")))
    }
}

#[cfg(test)]
mod tests;
