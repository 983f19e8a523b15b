//! Lets only well-formed HTTP/1 through.
//!
//! A head reaches the library whole or not at all. In place of a malformed one the library gets a request that stands for it,
//! so that the refusal is answered in turn, logged and counted like any other answer; what follows is thrown away. A
//! malformed body ends in a read error.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, BytesMut};
use meltemi_proxy_core::error::ErrorKind;
use meltemi_proxy_core::strict::{ChunkScanner, Framing, HeadRules, HeadScanner};
use tokio::io::{AsyncRead, ReadBuf};

use super::patience::{Unfinished, poll_discard};
use super::{Answer, Refusal, WireState};

/// Stands for a request that was refused; its [`Refusal`] is found by its number.
const STAND_IN: &[u8] = b"GET / HTTP/1.1\r\nconnection: close\r\n\r\n";
/// Bytes kept while it is open whether they are a tunnel's.
const HELD_LIMIT_BYTES: usize = 64 * 1024;

pub(crate) struct Guard {
    rules: HeadRules,
    stage: Stage,
    /// The request being read may become a tunnel.
    asks_tunnel: bool,
    /// Heads passed on.
    pub(crate) requests: u64,
    /// Read and not passed on.
    held: BytesMut,
    /// How much of it may pass.
    ready: usize,
    head_timer: Unfinished,
    state: Arc<WireState>,
}

/// What the next byte belongs to.
enum Stage {
    Head(HeadScanner),
    Length(u64),
    Chunks(ChunkScanner),
    /// To the tunnel that was asked for, or to the next head.
    Undecided,
    Tunnel,
    /// To a request that was refused.
    Refused,
    /// To a body that is broken.
    Broken,
}

impl Guard {
    /// `head_limit` is the time for a head that was begun.
    pub(crate) fn new(
        rules: HeadRules,
        head_limit: Option<Duration>,
        state: Arc<WireState>,
    ) -> Self {
        Self {
            rules,
            stage: Stage::Head(HeadScanner::default()),
            asks_tunnel: false,
            requests: 0,
            held: BytesMut::new(),
            ready: 0,
            head_timer: Unfinished::new(head_limit),
            state,
        }
    }

    #[cfg(test)]
    pub(super) fn for_tests() -> Self {
        let rules = HeadRules {
            max_bytes: 1024,
            max_fields: 10,
            allow_chunked_length: false,
        };
        Self::new(rules, Some(Duration::from_secs(15)), Arc::default())
    }

    pub(crate) fn is_tunnel(&self) -> bool {
        matches!(self.stage, Stage::Tunnel)
    }

    pub(crate) fn poll_read(
        &mut self,
        transport: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if self.ready > 0 {
                self.hand_over(buf);
                return Poll::Ready(Ok(()));
            }
            match self.stage {
                Stage::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Stage::Refused => return poll_discard(transport, cx).map(Ok),
                Stage::Tunnel if self.held.is_empty() => {
                    return Pin::new(transport).poll_read(cx, buf);
                }
                Stage::Undecided => {
                    if ready!(self.poll_undecided(transport, cx))? {
                        return Poll::Ready(Ok(()));
                    }
                }
                _ if self.held.is_empty() => {
                    let start = buf.filled().len();
                    ready!(Pin::new(&mut *transport).poll_read(cx, buf))?;
                    let read = buf.filled().len() - start;
                    let passed = self.scan(&buf.filled()[start..]);
                    if self.keeps_rest() {
                        self.held.extend_from_slice(&buf.filled()[start + passed..]);
                    }
                    buf.set_filled(start + passed);
                    self.stand_in();
                    if passed > 0 || read == 0 {
                        return Poll::Ready(Ok(()));
                    }
                }
                _ => match self.poll_more(transport, cx) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Ok(())),
                    Poll::Ready(Ok(_)) => self.scan_held(),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending if self.head_timer.poll_expired(cx) => {
                        self.refuse(ErrorKind::RequestHeadersTimeout, false);
                        self.held.clear();
                        self.stand_in();
                    }
                    Poll::Pending => return Poll::Pending,
                },
            }
        }
    }

    fn hand_over(&mut self, buf: &mut ReadBuf<'_>) {
        let taken = self.ready.min(buf.remaining());
        buf.put_slice(&self.held[..taken]);
        self.held.advance(taken);
        self.ready -= taken;
        if self.held.is_empty() {
            self.held = BytesMut::new();
        }
    }

    fn poll_more(
        &mut self,
        transport: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        let mut scratch = [0; 4096];
        let mut buf = ReadBuf::new(&mut scratch);
        ready!(Pin::new(transport).poll_read(cx, &mut buf))?;
        self.held.extend_from_slice(buf.filled());
        Poll::Ready(Ok(buf.filled().len()))
    }

    /// Waits for the answer to a request that asked for a tunnel. `true` is the end of the connection.
    fn poll_undecided(
        &mut self,
        transport: &mut (impl AsyncRead + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<bool>> {
        match self.state.answer(cx) {
            Some(Answer::Tunnel) => {
                self.stage = Stage::Tunnel;
                self.ready = self.held.len();
            }
            Some(Answer::Http) => {
                self.stage = Stage::Head(HeadScanner::default());
                self.scan_held();
            }
            None if self.held.len() >= HELD_LIMIT_BYTES => return Poll::Pending,
            None => return self.poll_more(transport, cx).map_ok(|read| read == 0),
        }
        Poll::Ready(Ok(false))
    }

    fn scan_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.ready = self.scan(&held);
        self.held = held;
        if !self.keeps_rest() {
            self.held.truncate(self.ready);
        }
        self.stand_in();
    }

    fn keeps_rest(&self) -> bool {
        !matches!(self.stage, Stage::Refused | Stage::Broken)
    }

    /// Puts the stand-in behind what may pass, once the request it stands for was refused.
    fn stand_in(&mut self) {
        if matches!(self.stage, Stage::Refused) {
            self.held.extend_from_slice(STAND_IN);
            self.ready = self.held.len();
        }
    }

    fn refuse(&mut self, kind: ErrorKind, in_body: bool) {
        let request = self.requests + u64::from(!in_body);
        self.state.refuse(Refusal {
            request,
            kind,
            in_body,
        });
        self.stage = if in_body {
            Stage::Broken
        } else {
            Stage::Refused
        };
    }

    /// Reads bytes and says how many of them may pass.
    fn scan(&mut self, bytes: &[u8]) -> usize {
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            match &mut self.stage {
                Stage::Head(scanner) => match scanner.scan(rest, &self.rules) {
                    Ok(Some(head)) => {
                        at += head.len;
                        self.requests += 1;
                        self.asks_tunnel = head.asks_tunnel;
                        self.head_timer.done();
                        self.begin_body(head.framing);
                    }
                    Ok(None) => break,
                    Err(malformed) => {
                        self.refuse(ErrorKind::Malformed(malformed), false);
                        break;
                    }
                },
                Stage::Length(left) => {
                    let taken = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
                    at += taken;
                    *left -= taken as u64;
                    if *left == 0 {
                        self.end_body();
                    }
                }
                Stage::Chunks(scanner) => match scanner.scan(rest) {
                    Ok(taken) => {
                        at += taken;
                        if scanner.is_done() {
                            self.end_body();
                        }
                    }
                    Err((taken, malformed)) => {
                        at += taken;
                        self.refuse(ErrorKind::Malformed(malformed), true);
                        break;
                    }
                },
                Stage::Undecided => break,
                Stage::Tunnel => return bytes.len(),
                Stage::Refused | Stage::Broken => break,
            }
        }
        at
    }

    fn begin_body(&mut self, framing: Framing) {
        match framing {
            Framing::Length(0) => self.end_body(),
            Framing::Length(length) => self.stage = Stage::Length(length),
            Framing::Chunked => self.stage = Stage::Chunks(ChunkScanner::new(self.rules.max_bytes)),
        }
    }

    fn end_body(&mut self) {
        self.stage = if self.asks_tunnel {
            self.state.hold();
            Stage::Undecided
        } else {
            Stage::Head(HeadScanner::default())
        };
    }
}

#[cfg(test)]
mod tests;
