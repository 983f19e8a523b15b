//! See ARCHITECTURE.md.
mod authority;
mod listener;
mod options;
mod source;
pub use authority::AuthorityError;
pub use options::Options;
