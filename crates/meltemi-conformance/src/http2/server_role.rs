//! The proxy as a server: we are its client.

mod frames;
mod generic;
mod messages;
mod states;
use super::expect::Expect::{
    self, Acknowledged, Alive, Answered, Connection, Data, Malformed, RefusedOrUnlimited, Stream,
};
use super::frame::{
    PREFACE, block, code, continuation, data, flag, frame, goaway, headed, headers,
    indexed_literal, integer, kind, literal, priority, request_block, rst_stream, setting,
    settings, window_update,
};
use super::script::{Script, Step, get, open_head, post};

const PROTOCOL: &[u32] = &[code::PROTOCOL_ERROR];
const SIZE: &[u32] = &[code::FRAME_SIZE_ERROR];
const FLOW: &[u32] = &[code::FLOW_CONTROL_ERROR];
const COMPRESSION: &[u32] = &[code::COMPRESSION_ERROR];
const CLOSED: &[u32] = &[code::STREAM_CLOSED];
const CLOSED_OR_PROTOCOL: &[u32] = &[code::STREAM_CLOSED, code::PROTOCOL_ERROR];
const SIZE_OR_PROTOCOL: &[u32] = &[code::FRAME_SIZE_ERROR, code::PROTOCOL_ERROR];

/// The default of SETTINGS_MAX_FRAME_SIZE.
const FRAME: usize = 16384;

fn case(id: &'static str, section: &'static str, what: &'static str, expect: Expect) -> Script {
    Script::new(id, section, what, expect)
}

pub(super) fn scripts() -> Vec<Script> {
    let mut all = generic::generic();
    all.extend(generic::generic_frames());
    all.extend(generic::generic_messages());
    all.extend(generic::generic_compression());
    all.extend(states::start_and_frames());
    all.extend(states::states());
    all.extend(states::errors_and_extensions());
    all.extend(frames::data_and_headers());
    all.extend(frames::small_frames());
    all.extend(frames::settings_frames());
    all.extend(frames::ping_and_goaway());
    all.extend(frames::flow_control());
    all.extend(frames::continuations());
    all.extend(messages::messages());
    all.extend(messages::compression());
    all
}
