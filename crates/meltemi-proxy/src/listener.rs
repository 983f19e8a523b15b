//! Accepts connections and finds out what they are: original destination, first bytes, listener, filter chain.

mod accept;
pub(crate) mod inspect;
pub(crate) mod sniff;
pub(crate) mod socket;

pub(crate) use accept::{Accepted, accept_loop, names, serve, transport};
