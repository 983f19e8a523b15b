//! Budgets for the HTTP/2 frames that carry nothing (security catalogue C16, C20, C21).
//!
//! The HTTP library answers PING and SETTINGS for as long as the peer can send them, and reads PRIORITY and WINDOW_UPDATE
//! without end. Only the nine bytes in front of a frame are read here; what frames mean stays the library's business.
//! The limits bear Envoy's names (`Http2ProtocolOptions`).

use std::time::Duration;

/// The connection preface of a client (RFC 9113 section 3.4).
const PREFACE_BYTES: u32 = 24;
/// WINDOW_UPDATE frames without any data sent: those that open the connection, and a margin for our estimate.
const WINDOW_UPDATE_MARGIN: u64 = 1000;
/// Bytes of the smallest honest DATA frame: its header and a gRPC message of ten bytes. By this what we sent is turned into
/// frames, generously.
const SMALL_DATA_FRAME_BYTES: u64 = 24;
/// Bytes sent that earn one control frame: gRPC peers probe the bandwidth with a PING per round trip.
const BYTES_PER_CONTROL_FRAME: u64 = 256;

/// How many frames without content a peer may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameRules {
    /// PING, SETTINGS, RST_STREAM and unknown frames per second, and at once (`max_outbound_control_frames`).
    pub control_frames: u32,
    /// Consecutive DATA frames without payload that do not end their stream
    /// (`max_consecutive_inbound_frames_with_empty_payload`).
    pub empty_frames: u32,
    /// `max_inbound_priority_frames_per_stream`.
    pub priorities_per_stream: u32,
    /// `max_inbound_window_update_frames_per_data_frame_sent`.
    pub window_updates_per_data_frame: u32,
}

impl Default for FrameRules {
    /// Envoy's defaults, but for empty frames: peers that end a stream with one, and there are many streams, are honest.
    fn default() -> Self {
        Self {
            control_frames: 1000,
            empty_frames: 100,
            priorities_per_stream: 100,
            window_updates_per_data_frame: 10,
        }
    }
}

/// Counts the frames of one connection.
#[derive(Debug)]
pub struct FrameMeter {
    rules: FrameRules,
    header: [u8; 9],
    header_len: usize,
    /// Bytes until the next frame begins.
    payload: u32,
    /// Inside a header block: a HEADERS frame has come, its END_HEADERS not.
    in_block: bool,
    /// The payload is part of a header block.
    in_head_payload: bool,
    /// What began since the connection did: frames, a header block counted once.
    begun: u64,
    streams: u64,
    sent_bytes: u64,
    priorities: u64,
    window_updates: u64,
    empty_in_a_row: u32,
    /// Control frames that may still come now.
    control: u64,
    credited: u64,
    refilled: Duration,
    is_exceeded: bool,
}

mod kind {
    pub(super) const DATA: u8 = 0;
    pub(super) const HEADERS: u8 = 1;
    pub(super) const PRIORITY: u8 = 2;
    pub(super) const PUSH_PROMISE: u8 = 5;
    pub(super) const GOAWAY: u8 = 7;
    pub(super) const WINDOW_UPDATE: u8 = 8;
    pub(super) const CONTINUATION: u8 = 9;
}

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

impl FrameMeter {
    pub fn new(rules: FrameRules) -> Self {
        Self {
            rules,
            header: [0; 9],
            header_len: 0,
            payload: PREFACE_BYTES,
            in_block: false,
            in_head_payload: false,
            begun: 0,
            streams: 0,
            sent_bytes: 0,
            priorities: 0,
            window_updates: 0,
            empty_in_a_row: 0,
            control: u64::from(rules.control_frames),
            credited: 0,
            refilled: Duration::ZERO,
            is_exceeded: false,
        }
    }

    /// Counts what was sent to the peer: it earns window updates and probes.
    pub fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    /// Ends the connection with the frame that is being read: the peer used up a budget that is counted elsewhere.
    pub fn exceed(&mut self) {
        self.is_exceeded = true;
    }

    /// Whether the peer is in the middle of what it should finish soon - the preface, a frame's header, a header block -
    /// and which one it is, counted.
    pub fn unfinished_head(&self) -> Option<u64> {
        let is_preface = self.begun == 0 && self.payload > 0;
        let is_unfinished = is_preface
            || self.header_len > 0
            || self.in_block
            || (self.in_head_payload && self.payload > 0);
        is_unfinished.then_some(self.begun)
    }

    /// Reads on. `Some` is how many of the bytes may pass when the budget is used up: to the end of a frame. `elapsed` is the
    /// time since the connection began, asked for only when a budget runs low.
    pub fn read(&mut self, bytes: &[u8], elapsed: impl Fn() -> Duration) -> Option<usize> {
        let mut at = 0;
        loop {
            let skipped = (self.payload as usize).min(bytes.len() - at);
            at += skipped;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "no more than the payload, which is a u32"
            )]
            let skipped = skipped as u32;
            self.payload -= skipped;
            if self.payload > 0 {
                return None;
            }
            if self.is_exceeded && self.header_len == 0 {
                return Some(at);
            }
            let taken = (9 - self.header_len).min(bytes.len() - at);
            self.header[self.header_len..self.header_len + taken]
                .copy_from_slice(&bytes[at..at + taken]);
            self.header_len += taken;
            at += taken;
            if self.header_len < 9 {
                return None;
            }
            self.header_len = 0;
            self.frame(&elapsed);
        }
    }

    fn frame(&mut self, elapsed: &impl Fn() -> Duration) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.payload = u32::from_be_bytes([0, a, b, c]);
        self.in_head_payload = matches!(kind, kind::HEADERS | kind::CONTINUATION);
        self.begun += u64::from(kind != kind::CONTINUATION);
        let is_within = match kind {
            kind::DATA => self.data(flags),
            kind::HEADERS | kind::CONTINUATION => {
                // The library bounds the frames of a header block, and the streams.
                self.in_block = flags & END_HEADERS == 0;
                self.streams += u64::from(kind == kind::HEADERS);
                true
            }
            kind::PRIORITY => {
                self.priorities += 1;
                self.priorities <= u64::from(self.rules.priorities_per_stream) * (1 + self.streams)
            }
            kind::WINDOW_UPDATE => {
                self.window_updates += 1;
                let frames = self.sent_bytes / SMALL_DATA_FRAME_BYTES;
                let per_frame = u64::from(self.rules.window_updates_per_data_frame);
                self.window_updates
                    <= WINDOW_UPDATE_MARGIN + 2 * (self.streams + per_frame.saturating_mul(frames))
            }
            // A protocol error and a farewell: the library's.
            kind::PUSH_PROMISE | kind::GOAWAY => true,
            _ => self.control(elapsed),
        };
        self.is_exceeded |= !is_within;
    }

    fn data(&mut self, flags: u8) -> bool {
        if self.payload > 0 || flags & END_STREAM != 0 {
            self.empty_in_a_row = 0;
            return true;
        }
        self.empty_in_a_row += 1;
        self.empty_in_a_row <= self.rules.empty_frames
    }

    fn control(&mut self, elapsed: &impl Fn() -> Duration) -> bool {
        if self.control == 0 {
            self.refill(elapsed());
        }
        self.control
            .checked_sub(1)
            .map(|left| self.control = left)
            .is_some()
    }

    /// By time, never above a second's worth; by work done, one for each reset that a stream may end with and for each
    /// stretch of data sent.
    fn refill(&mut self, now: Duration) {
        let per_second = u128::from(self.rules.control_frames);
        let by_time = now.saturating_sub(self.refilled).as_millis().min(1000) * per_second / 1000;
        let by_time = u64::try_from(by_time).unwrap_or(u64::MAX);
        if by_time > 0 {
            self.refilled = now;
        }
        let earned = self.sent_bytes / BYTES_PER_CONTROL_FRAME + self.streams;
        let by_work = earned - self.credited;
        self.credited = earned;
        self.control += by_time + by_work;
    }
}

#[cfg(test)]
mod tests;
