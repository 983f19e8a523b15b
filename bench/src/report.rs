//! The results, for people and for programs.

mod chart;
mod machine;
mod table;

pub(crate) use chart::chart;
pub(crate) use machine::Machine;
pub(crate) use table::table;

use serde::Serialize;

use crate::campaign::Sample;
use crate::figures::Figure;

/// Everything of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report<'run> {
    pub(crate) machine: &'run Machine,
    pub(crate) figures: &'run [Figure],
    pub(crate) samples: &'run [Sample],
}
