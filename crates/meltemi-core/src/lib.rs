//! The words of the mesh: names, identities, references and diagnostics that every other crate speaks in.
//!
//! This crate knows no files, sockets, clocks or wire formats, and no crate of ours. It is small on purpose
//! and changes rarely, because everything is rebuilt when it does.

mod cluster_name;
mod diagnostic;
pub mod duration;
mod hostname;
mod identity;
mod labels;
mod locality;
pub mod names;
mod object;

pub use cluster_name::{ClusterName, ClusterNameError, Direction};
pub use diagnostic::{Diagnostic, Severity, SourceLocation};
pub use hostname::{Hostname, HostnameError};
pub use identity::{Identity, IdentityError, TrustDomain};
pub use labels::Labels;
pub use locality::Locality;
pub use object::{FieldPath, ObjectRef};
