//! Peers that never stop: when they are cut off, and what they cost until then.

mod connections;
mod frames;
mod run;

pub use run::{cases, run};

/// What a flood must come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Required {
    /// The connection is ended by the proxy.
    Cut,
    /// Everything is served: it is no flood.
    Served,
    /// Neither; but memory stays within its bound.
    Bounded,
}

impl Required {
    fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut",
            Self::Served => "served",
            Self::Bounded => "memory bounded",
        }
    }
}

/// What a flood came to.
#[derive(Clone, Debug, Default)]
struct Course {
    /// Frames, requests or connections, as the flood counts.
    sent: u64,
    seconds: f64,
    /// How the proxy ended it.
    cut: Option<String>,
    is_served: bool,
}

/// Whether the quick core or everything is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// Less than a second for each, and none that waits for a time-out.
    Core,
    Full,
}
