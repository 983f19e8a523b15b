//! What a case is made of.

use super::expect::Expect;
use super::frame::{self, flag};

/// One thing that the peer of the proxy does.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Send(Vec<u8>),
    /// Waits until the proxy has ended a stream.
    AwaitEnd(u32),
    /// Waits until so many bytes of DATA have come.
    AwaitData(u32, usize),
    /// Opens streams until the proxy's own limit is passed by one; does nothing where that limit is beyond reason.
    OpenTooMany,
}

/// A behaviour and the section that requires it.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) id: &'static str,
    pub(super) section: &'static str,
    pub(super) what: &'static str,
    /// Settings of the peer; `None` begins without the handshake.
    pub(super) settings: Option<Vec<(u16, u32)>>,
    pub(super) steps: Vec<Step>,
    pub(super) expect: Expect,
}

impl Script {
    pub(super) fn new(
        id: &'static str,
        section: &'static str,
        what: &'static str,
        expect: Expect,
    ) -> Self {
        Self {
            id,
            section,
            what,
            settings: Some(Vec::new()),
            steps: Vec::new(),
            expect,
        }
    }

    /// Frames, one after another.
    pub(super) fn send<const N: usize>(mut self, frames: [Vec<u8>; N]) -> Self {
        self.steps.push(Step::Send(frames.concat()));
        self
    }

    /// A whole GET on a stream, and its whole answer.
    pub(super) fn answered(self, stream: u32) -> Self {
        let mut asked = self.send([get(stream)]);
        asked.steps.push(Step::AwaitEnd(stream));
        asked
    }

    pub(super) fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    pub(super) fn with_settings(mut self, values: &[(u16, u32)]) -> Self {
        self.settings = Some(values.to_vec());
        self
    }

    pub(super) fn without_handshake(mut self) -> Self {
        self.settings = None;
        self
    }
}

/// A whole GET.
pub(super) fn get(stream: u32) -> Vec<u8> {
    frame::headers(stream, flag::END_STREAM, &frame::request_block("GET", &[]))
}

/// The head of a POST.
pub(super) fn post(stream: u32) -> Vec<u8> {
    frame::headers(stream, 0, &frame::request_block("POST", &[]))
}

/// A head that is not at its end.
pub(super) fn open_head(stream: u32, flags: u8) -> Vec<u8> {
    let block = frame::request_block("GET", &[]);
    frame::frame(frame::kind::HEADERS, flags, stream, &block)
}
