use std::cell::RefCell;

use meltemi_proto::any;
use meltemi_proto::json::{self, FieldNames};
use prost::{Message, Name};

use super::Problem;

/// Where in a resource the compiler is, and where it reports to. The path is only spelled out for a report.
pub(super) struct Scope<'p> {
    problems: &'p RefCell<Vec<Problem>>,
    parent: Option<&'p Self>,
    part: Part<'p>,
}

enum Part<'p> {
    Root,
    Field(&'p str),
    Index(usize),
    Key(&'p str),
}

impl<'p> Scope<'p> {
    pub(super) fn root(problems: &'p RefCell<Vec<Problem>>) -> Self {
        Self {
            problems,
            parent: None,
            part: Part::Root,
        }
    }

    pub(super) fn at<'c>(&'c self, field: &'c str) -> Scope<'c> {
        self.child(Part::Field(field))
    }

    pub(super) fn index(&self, index: usize) -> Scope<'_> {
        self.child(Part::Index(index))
    }

    pub(super) fn key<'c>(&'c self, key: &'c str) -> Scope<'c> {
        self.child(Part::Key(key))
    }

    /// The same place, with reports kept apart: for a part whose problems are not the whole's.
    pub(super) fn apart<'c>(&'c self, problems: &'c RefCell<Vec<Problem>>) -> Scope<'c> {
        Scope {
            problems,
            ..self.child(Part::Root)
        }
    }

    fn child<'c>(&'c self, part: Part<'c>) -> Scope<'c> {
        Scope {
            problems: self.problems,
            parent: Some(self),
            part,
        }
    }

    /// Reports a problem of this field.
    pub(super) fn reject(&self, reason: impl Into<String>) {
        let mut field = String::new();
        self.write_path(&mut field);
        self.problems.borrow_mut().push(Problem {
            field,
            reason: reason.into(),
        });
    }

    /// Reports and gives nothing, to end a compiler with.
    pub(super) fn refuse<T>(&self, reason: impl Into<String>) -> Option<T> {
        self.reject(reason);
        None
    }

    /// Reports every field that is still set in a message from which the known ones were taken.
    pub(super) fn rest<M: Message + Name + Default + PartialEq>(&self, left: &M) {
        if *left == M::default() {
            return;
        }
        let json = json::any_to_json_with(&any::pack_named(left), FieldNames::Proto).ok();
        let fields = json.as_ref().and_then(serde_json::Value::as_object);
        let mut is_reported = false;
        for field in fields
            .into_iter()
            .flat_map(|object| object.keys())
            .filter(|key| *key != "@type")
        {
            self.at(field).reject("is not supported");
            is_reported = true;
        }
        if !is_reported {
            self.reject("has a field that is not supported");
        }
    }

    /// Compiles each item of a list, leaving out what is refused.
    pub(super) fn each<T, U>(
        &self,
        field: &str,
        items: Vec<T>,
        mut compile: impl FnMut(&Scope<'_>, T) -> Option<U>,
    ) -> Vec<U> {
        let list = self.at(field);
        let compiled = items
            .into_iter()
            .enumerate()
            .filter_map(|(i, item)| compile(&list.index(i), item));
        compiled.collect()
    }

    fn write_path(&self, out: &mut String) {
        if let Some(parent) = self.parent {
            parent.write_path(out);
        }
        match self.part {
            Part::Root => {}
            Part::Field(name) => {
                if !out.is_empty() {
                    out.push('.');
                }
                out.push_str(name);
            }
            Part::Index(index) => {
                out.push('[');
                out.push_str(&index.to_string());
                out.push(']');
            }
            Part::Key(key) => {
                out.push_str("[\"");
                out.push_str(key);
                out.push_str("\"]");
            }
        }
    }
}
