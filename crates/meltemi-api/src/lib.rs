//! What users write: Kubernetes and Istio resources, read from YAML or JSON.
//!
//! ```text
//! text -> documents -> tree (every node knows its line) -> typed Object -> validation
//!                 \________________ Diagnostics, all at once ______________/
//! ```
//! [`parse`] reads one file and reports every problem of every object in it; a broken object never hides the others.
//! A transport (files, a Kubernetes watch) turns what it sees into [`Change`]s. This crate knows no files, sockets or
//! clocks, and judges each object alone: what only shows between objects is found where all of them are.

mod object;

pub mod istio;
pub mod k8s;
pub mod pod;

mod decode;
mod parse;
pub mod schema;
mod source;
pub mod status;
mod suggest;
mod support;
mod tree;
mod validate;

pub use object::{Change, Kind, Meta, Object, ObjectKey, Resource, Scope};
pub use parse::{Message, Parsed, parse, parse_json, parse_message};
pub use source::Source;
pub use suggest::did_you_mean;
pub use validate::{format, jwks, labels};
