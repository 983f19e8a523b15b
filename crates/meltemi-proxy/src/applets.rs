//! What the binary does besides proxying: the commands of Istio's `pilot-agent` and a `curl`.

mod capture;
mod command;
mod curl;
mod request;

pub use command::{Program, run};
pub(crate) use request::ask_admin;
