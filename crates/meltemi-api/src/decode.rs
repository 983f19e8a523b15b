//! Decodes a tree into serde types and reports *every* problem, with its field.
//!
//! serde stops at the first error. So a value that does not decode is masked - treated as absent - and decoding starts
//! again, until it succeeds or too much is wrong. Unknown fields show themselves because serde asks to ignore them.

mod deserializer;
mod error;

use std::cell::RefCell;
use std::collections::BTreeSet;

use meltemi_core::FieldPath;
use serde::de::DeserializeOwned;

use crate::tree::Node;
use deserializer::NodeDeserializer;
pub(crate) use error::{Problem, ProblemKind};

/// More wrong values than this in one object are not listed.
const PROBLEM_LIMIT: usize = 50;

/// Decodes the value at `path`. `skip` names fields that are known but not decoded. The result is `None` if any value
/// has the wrong form; unknown fields alone do not prevent it.
pub(crate) fn decode<T: DeserializeOwned>(
    node: &Node,
    path: &FieldPath,
    skip: &dyn Fn(&FieldPath) -> bool,
) -> (Option<T>, Vec<Problem>) {
    let mut masked = BTreeSet::new();
    let mut problems = Vec::new();
    loop {
        let session = Session {
            masked: &masked,
            skip,
            unknown: RefCell::default(),
        };
        let result = T::deserialize(NodeDeserializer::new(node, path.clone(), &session));
        let mut unknown = session.unknown.into_inner();
        match result {
            Ok(value) => {
                problems.append(&mut unknown);
                let sound = masked.is_empty();
                return (sound.then_some(value), problems);
            }
            Err(error) => {
                let problem = error.into_problem(path);
                let again = problem.path != *path
                    && problems.len() < PROBLEM_LIMIT
                    && masked.insert(problem.path.clone());
                problems.push(problem);
                if !again {
                    return (None, problems);
                }
            }
        }
    }
}

/// What one pass over the tree shares.
struct Session<'a> {
    masked: &'a BTreeSet<FieldPath>,
    skip: &'a dyn Fn(&FieldPath) -> bool,
    unknown: RefCell<Vec<Problem>>,
}

impl Session<'_> {
    fn is_hidden(&self, path: &FieldPath) -> bool {
        self.masked.contains(path) || (self.skip)(path)
    }
}

#[cfg(test)]
mod tests;
