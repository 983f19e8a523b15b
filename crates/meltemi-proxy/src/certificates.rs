//! Who this proxy is: a key that never leaves the process, a certificate from the authority, renewed at half of its life.

mod authority;
mod renewal;
mod store;

pub(crate) use authority::{Authority, AuthorityError};
pub(crate) use renewal::keep_fresh;
pub(crate) use store::{CredentialStore, Credentials};
