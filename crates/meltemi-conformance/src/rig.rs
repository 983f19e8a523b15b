//! Proxies under test, what stands behind them, and who speaks to them.

pub mod client;
mod configuration;
mod control;
pub mod namespace;
mod subject;
pub mod upstream;

pub use configuration::Line;
pub use subject::{Kind, Programs, Subject};
