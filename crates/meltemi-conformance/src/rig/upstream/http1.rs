use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::parse::{Chunk, Framing, chunk, examine, head_length};
use super::{Answer, Busy, LARGE_BYTES, Log, Seen};

const OK_AND_CLOSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok";
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
/// What follows an answer within this time was sent on the strength of the same request.
const AFTERMATH: Duration = Duration::from_millis(100);
const MESSAGE_LIMIT_BYTES: usize = 8 << 20;

/// Reads requests and answers them as the case at hand says.
pub(super) async fn serve(stream: TcpStream, log: Log) {
    let mut connection = Connection {
        stream,
        buffer: Vec::new(),
    };
    while connection.exchange(&log).await {}
}

struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    /// One request and its answer; says whether another may follow.
    async fn exchange(&mut self, log: &Log) -> bool {
        if self.buffer.is_empty() && !self.read().await {
            return false;
        }
        let busy = log.begin();
        let Some(end) = self.read_head().await else {
            busy.note(Seen {
                head: std::mem::take(&mut self.buffer),
                ..Seen::default()
            });
            return false;
        };
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        let (framing, oddity) = examine(&head);
        let mut seen = Seen {
            head,
            oddity,
            ..Seen::default()
        };
        let answer = log.answer();
        if answer == Answer::Early && !self.write(OK).await {
            busy.note(seen);
            return false;
        }
        self.read_body(&framing, &mut seen).await;
        let is_complete = seen.is_complete;
        busy.note(seen);
        is_complete && self.answer(answer, &busy).await
    }

    /// Sends what is due after a whole request.
    async fn answer(&mut self, answer: Answer, busy: &Busy) -> bool {
        let (bytes, is_kept) = match answer {
            Answer::Early => return true,
            Answer::Whole => (OK_AND_CLOSE, false),
            Answer::Large => return self.write_large().await,
            Answer::Raw(bytes) => (bytes, false),
            Answer::RawKept(bytes) => (bytes, true),
        };
        if !self.write(bytes).await {
            return false;
        }
        if is_kept {
            return true;
        }
        // What the proxy still sends on a connection that is over belongs to nobody.
        let _shut = self.stream.shutdown().await;
        let _ended = timeout(AFTERMATH, async { while self.read().await {} }).await;
        if !self.buffer.is_empty() {
            busy.note(Seen {
                head: std::mem::take(&mut self.buffer),
                oddity: Some("bytes after the end of the request".to_owned()),
                ..Seen::default()
            });
        }
        false
    }

    /// As much as the proxy takes.
    async fn write_large(&mut self) -> bool {
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {LARGE_BYTES}\r\n\r\n");
        let mut is_taken = self.write(head.as_bytes()).await;
        let block = vec![b'x'; 64 << 10];
        for _ in 0..LARGE_BYTES / block.len() {
            is_taken = is_taken && self.write(&block).await;
        }
        is_taken
    }

    async fn read_head(&mut self) -> Option<usize> {
        loop {
            if let Some(end) = head_length(&self.buffer) {
                return Some(end);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    async fn read_body(&mut self, framing: &Framing, seen: &mut Seen) {
        loop {
            match framing {
                Framing::Length(length) if self.buffer.len() >= *length => {
                    seen.body = self.buffer.drain(..*length).collect();
                    seen.is_complete = true;
                    return;
                }
                Framing::Length(_) => {}
                Framing::Chunked => {
                    if self.take_chunks(seen) {
                        return;
                    }
                }
            }
            if !self.read().await {
                seen.body.append(&mut self.buffer);
                return;
            }
        }
    }

    /// Takes whole chunks off the buffer; says whether the body is over.
    fn take_chunks(&mut self, seen: &mut Seen) -> bool {
        let mut taken = 0;
        let is_over = loop {
            match chunk(self.buffer.get(taken..).unwrap_or_default()) {
                Chunk::More => break false,
                Chunk::Content(content, length) => {
                    seen.body.extend_from_slice(content);
                    taken += length;
                }
                Chunk::Last(length) => {
                    taken += length;
                    seen.is_complete = true;
                    break true;
                }
                Chunk::Bad(what) => {
                    seen.oddity.get_or_insert_with(|| what.to_owned());
                    break true;
                }
            }
        };
        self.buffer.drain(..taken);
        is_over
    }

    async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    async fn read(&mut self) -> bool {
        self.buffer.len() < MESSAGE_LIMIT_BYTES
            && matches!(self.stream.read_buf(&mut self.buffer).await, Ok(read) if read > 0)
    }
}
