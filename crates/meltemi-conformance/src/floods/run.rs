//! Runs one flood after another against a proxy and reads what they cost from the system's accounting of it.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;

use super::connections as slow;
use super::frames::{self, Flood, Limits};
use super::{Course, Extent, Required};
use crate::report::{Case, Outcome};
use crate::rig::upstream::{Answer, Upstream};
use crate::rig::{Kind, Line, Programs, Subject};

const GROUP: &str = "floods";
const QUICK: Limits = Limits {
    time: Duration::from_millis(1500),
    bytes: 20 << 20,
};
const LONG: Limits = Limits {
    time: Duration::from_secs(8),
    bytes: 200 << 20,
};
/// What one hostile connection may make the proxy hold.
const GROWTH_LIMIT_KIB: u64 = 16 << 10;
/// A thousand connections may hold more.
const SLOW_GROWTH_LIMIT_KIB: u64 = 64 << 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Item {
    Frames(Flood),
    SmallMessages,
    OneByteChunks,
    Pipelined,
    SlowReader,
    OneByteWindows,
    SlowHeads,
}

/// Name, row of the catalogue, flood, and what it must come to.
type Entry = (&'static str, &'static str, Item, Required);

#[rustfmt::skip]
const LIST: [Entry; 18] = [
    ("rapid reset", "C16", Item::Frames(Flood::RapidReset), Required::Cut),
    ("made you reset", "C17", Item::Frames(Flood::MadeYouReset), Required::Cut),
    ("CONTINUATION of 16 KB", "C18", Item::Frames(Flood::Continuation), Required::Cut),
    ("empty CONTINUATION", "C18", Item::Frames(Flood::EmptyContinuation), Required::Cut),
    ("SETTINGS", "C20", Item::Frames(Flood::Settings), Required::Cut),
    ("PING", "C20", Item::Frames(Flood::Ping), Required::Cut),
    ("PRIORITY", "C20", Item::Frames(Flood::Priority), Required::Cut),
    ("WINDOW_UPDATE of 1", "C20", Item::Frames(Flood::WindowUpdate), Required::Cut),
    ("empty DATA", "C21", Item::Frames(Flood::EmptyData), Required::Cut),
    ("6,000 messages of 10 bytes", "C21", Item::SmallMessages, Required::Served),
    ("header bomb", "C22", Item::Frames(Flood::HeaderBomb), Required::Bounded),
    ("cookie bomb", "C22", Item::Frames(Flood::CookieBomb), Required::Bounded),
    ("host and head of 75 KB", "C23", Item::Frames(Flood::LongHost), Required::Bounded),
    ("chunks of 1 byte", "C26", Item::OneByteChunks, Required::Served),
    ("10,000 pipelined, unread", "C26", Item::Pipelined, Required::Bounded),
    ("64 MiB, unread", "C26", Item::SlowReader, Required::Bounded),
    ("64 MiB by windows of 1 byte", "C20", Item::OneByteWindows, Required::Bounded),
    ("1,000 heads without end", "slowloris", Item::SlowHeads, Required::Cut),
];

fn items(extent: Extent) -> impl Iterator<Item = &'static Entry> {
    LIST.iter()
        .filter(move |(_, _, item, _)| extent == Extent::Full || *item != Item::SlowHeads)
}

/// The cases, in the order of the outcomes of [`run`].
pub fn cases(extent: Extent) -> Vec<Case> {
    items(extent)
        .map(|(name, rule, _, required)| Case {
            group: GROUP,
            name: (*name).to_owned(),
            rule: (*rule).to_owned(),
            required: required.name().to_owned(),
            known: None,
        })
        .collect()
}

/// Runs every flood against one proxy.
///
/// # Errors
/// The proxy does not start, or has ended.
pub async fn run(kind: Kind, programs: &Programs, extent: Extent) -> Result<Vec<Outcome>> {
    let limits = match extent {
        Extent::Core => QUICK,
        Extent::Full => LONG,
    };
    let (upstream, large) = (Upstream::http1().await?, Upstream::http1().await?);
    large.prepare(Answer::Large);
    let lines = [
        Line::new("plain", upstream.address, false),
        Line::new("large", large.address, false),
    ];
    let mut subject = Subject::start(kind, programs, &lines).await?;
    let (plain, large) = (subject.address("plain"), subject.address("large"));
    // What is allocated once is no growth.
    slow::is_serving(plain).await;
    let mut outcomes = Vec::new();
    for (name, _, item, required) in items(extent) {
        subject.forget_peak()?;
        let before = subject.usage()?;
        let course = meet(*item, plain, large, limits).await;
        anyhow::ensure!(
            subject.lives(),
            "{} has ended in {name}; its log:\n{}",
            kind.name(),
            subject.log()
        );
        let after = subject.usage()?;
        let cpu = after.cpu_seconds - before.cpu_seconds;
        let growth = after.peak_kib.saturating_sub(before.resident_kib);
        outcomes.push(match course {
            Ok(_) if !slow::is_serving(plain).await => Outcome::bad("others are no longer served"),
            Ok(course) => judge(*item, *required, &course, cpu, growth),
            Err(error) => Outcome::bad(error.to_string()),
        });
    }
    Ok(outcomes)
}

async fn meet(item: Item, plain: SocketAddr, large: SocketAddr, limits: Limits) -> Result<Course> {
    match item {
        Item::Frames(flood) => frames::flood(plain, flood, limits).await,
        Item::SmallMessages => frames::small_messages(plain).await,
        Item::OneByteChunks => slow::one_byte_chunks(plain).await,
        Item::Pipelined => slow::pipelined(plain).await,
        Item::SlowReader => slow::slow_reader(large).await,
        Item::OneByteWindows => slow::one_byte_windows(large).await,
        Item::SlowHeads => slow::slow_heads(plain).await,
    }
}

fn judge(item: Item, required: Required, course: &Course, cpu: f64, growth: u64) -> Outcome {
    let limit = match item {
        Item::SlowHeads => SLOW_GROWTH_LIMIT_KIB,
        _ => GROWTH_LIMIT_KIB,
    };
    let end = match (&course.cut, course.is_served) {
        (Some(cut), _) => format!("{cut} after at most {}", course.sent),
        (None, true) => format!("served {}", course.sent),
        (None, false) => format!("not cut after {}", course.sent),
    };
    let text = format!(
        "{end}, {:.1} s, {cpu:.2} s CPU, +{growth} KiB",
        course.seconds
    );
    let holds = match required {
        Required::Cut => course.cut.is_some(),
        Required::Served => course.is_served && course.cut.is_none(),
        Required::Bounded => true,
    };
    if holds && growth <= limit {
        Outcome::good(text)
    } else {
        Outcome::bad(text)
    }
}
