//! The byte pump of TCP connections and upgraded HTTP streams.
//!
//! Each direction reads into a buffer that the worker lends it and gives it back when the reader has nothing, so an idle
//! connection holds none. A full read moves the direction to large buffers: bulk streams take few system calls and
//! chatty ones stay in the cache.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use crate::io::lent::{Lent, SMALL_BYTES, Size};

/// Rounds of one direction before the other gets its turn and the task yields.
const ROUNDS_PER_TURN: usize = 16;

/// Bytes moved in each direction, also when the copy ended with an error.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Copied {
    pub(crate) to_upstream: u64,
    pub(crate) to_downstream: u64,
}

/// Why a copy ended other than by both sides finishing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CopyError {
    #[error("downstream failed")]
    Downstream(#[source] io::Error),
    #[error("upstream failed")]
    Upstream(#[source] io::Error),
    #[error("no byte for {0:?}")]
    Idle(Duration),
}

/// Copies both ways until both sides have ended, one fails, or nothing moved for `idle_timeout`.
///
/// The end of one direction is passed on as a half-close and the other goes on. `moved` is told of progress after each
/// turn, and at the end, so that periodic reports see long connections.
pub(crate) async fn copy_bidirectional<D, U>(
    downstream: &mut D,
    upstream: &mut U,
    idle_timeout: Option<Duration>,
    mut moved: impl FnMut(Copied),
) -> (Copied, Result<(), CopyError>)
where
    D: AsyncRead + AsyncWrite + Unpin,
    U: AsyncRead + AsyncWrite + Unpin,
{
    let mut up = Direction::default();
    let mut down = Direction::default();
    let mut last = Copied::default();
    let mut idle = pin!(tokio::time::sleep(idle_timeout.unwrap_or(FAR)));
    let mut last_moved = Instant::now();
    let result = poll_fn(|cx| {
        let to_upstream = up
            .poll(cx, downstream, upstream)
            .map_err(|side| match side {
                Side::Reader(error) => CopyError::Downstream(error),
                Side::Writer(error) => CopyError::Upstream(error),
            })?;
        let to_downstream = down
            .poll(cx, upstream, downstream)
            .map_err(|side| match side {
                Side::Reader(error) => CopyError::Upstream(error),
                Side::Writer(error) => CopyError::Downstream(error),
            })?;
        let now = Copied {
            to_upstream: up.copied,
            to_downstream: down.copied,
        };
        if now != last {
            last = now;
            moved(now);
            last_moved = Instant::now();
        }
        if to_upstream.is_ready() && to_downstream.is_ready() {
            return Poll::Ready(Ok(()));
        }
        let Some(limit) = idle_timeout else {
            return Poll::Pending;
        };
        // The timer is moved only when it fires: re-arming it at every read would cost more than the copy.
        while idle.as_mut().poll(cx).is_ready() {
            let due = last_moved + limit;
            if due <= Instant::now() {
                return Poll::Ready(Err(CopyError::Idle(limit)));
            }
            idle.as_mut().reset(due);
        }
        Poll::Pending
    })
    .await;
    let copied = Copied {
        to_upstream: up.copied,
        to_downstream: down.copied,
    };
    if copied != last {
        moved(copied);
    }
    (copied, result)
}

/// Stands for "never" in a timer that is not polled.
const FAR: Duration = Duration::from_secs(365 * 24 * 3600);

enum Side {
    Reader(io::Error),
    Writer(io::Error),
}

#[derive(Default)]
struct Direction {
    /// Held only between a read and the write of its last byte.
    buffer: Option<Lent>,
    start: usize,
    end: usize,
    copied: u64,
    is_bulk: bool,
    /// Something was written since the last flush.
    dirty: bool,
    state: State,
}

#[derive(Default, PartialEq)]
enum State {
    #[default]
    Copying,
    Closing,
    Closed,
}

impl Direction {
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        for _ in 0..ROUNDS_PER_TURN {
            match self.state {
                State::Closed => return Poll::Ready(Ok(())),
                State::Closing => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Side::Writer)?;
                    self.state = State::Closed;
                }
                State::Copying => {
                    if self.start == self.end {
                        ready!(self.poll_fill(cx, reader, writer))?;
                    } else {
                        ready!(self.poll_drain(cx, writer)).map_err(Side::Writer)?;
                    }
                }
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_fill<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Side>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let mut buffer = Lent::new(if self.is_bulk {
            Size::Large
        } else {
            Size::Small
        });
        let mut unread = ReadBuf::new(&mut buffer);
        match Pin::new(reader).poll_read(cx, &mut unread) {
            Poll::Pending => {
                if self.dirty {
                    ready!(Pin::new(writer).poll_flush(cx)).map_err(Side::Writer)?;
                    self.dirty = false;
                }
                Poll::Pending
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(Side::Reader(error))),
            Poll::Ready(Ok(())) => {
                let read = unread.filled().len();
                if read == 0 {
                    self.state = State::Closing;
                    return Poll::Ready(Ok(()));
                }
                self.is_bulk = read == buffer.len() || (self.is_bulk && read >= SMALL_BYTES);
                (self.start, self.end) = (0, read);
                self.buffer = Some(buffer);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn poll_drain<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<io::Result<()>> {
        let Some(buffer) = &self.buffer else {
            return Poll::Ready(Ok(()));
        };
        while self.start < self.end {
            let written =
                ready!(Pin::new(&mut *writer).poll_write(cx, &buffer[self.start..self.end]))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.start += written;
            self.copied += written as u64;
        }
        self.dirty = true;
        self.buffer = None;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn pipe() -> (DuplexStream, DuplexStream) {
        duplex(4096)
    }

    #[tokio::test]
    async fn passes_a_half_close_on_and_keeps_the_other_direction() {
        let (mut client, mut downstream) = pipe();
        let (mut upstream, mut server) = pipe();
        let copy = tokio::spawn(async move {
            copy_bidirectional(&mut downstream, &mut upstream, None, |_| ()).await
        });
        client.write_all(b"question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.unwrap();
        assert_eq!(asked, "question");
        server.write_all(b"answer").await.unwrap();
        drop(server);
        let mut answered = String::new();
        client.read_to_string(&mut answered).await.unwrap();
        assert_eq!(answered, "answer");
        let (copied, result) = copy.await.unwrap();
        result.unwrap();
        assert_eq!(
            copied,
            Copied {
                to_upstream: 8,
                to_downstream: 6
            }
        );
    }

    #[tokio::test]
    async fn moves_bulk_unchanged() {
        let (mut client, mut downstream) = pipe();
        let (mut upstream, mut server) = pipe();
        tokio::spawn(async move {
            copy_bidirectional(&mut downstream, &mut upstream, None, |_| ()).await
        });
        let sent: Vec<u8> = (0..1_000_000_u32).map(|i| (i % 251) as u8).collect();
        let expected = sent.clone();
        tokio::spawn(async move {
            client.write_all(&sent).await.unwrap();
            client.shutdown().await.unwrap();
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.unwrap();
        });
        let mut received = Vec::new();
        server.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
    }

    #[tokio::test(start_paused = true)]
    async fn ends_an_idle_connection() {
        let (mut client, mut downstream) = pipe();
        let (mut upstream, _server) = pipe();
        let limit = Duration::from_secs(60);
        let started = Instant::now();
        let copy = tokio::spawn(async move {
            copy_bidirectional(&mut downstream, &mut upstream, Some(limit), |_| ()).await
        });
        tokio::time::sleep(Duration::from_secs(40)).await;
        client.write_all(b"still here").await.unwrap();
        let (copied, result) = copy.await.unwrap();
        assert!(matches!(result, Err(CopyError::Idle(_))));
        assert_eq!(copied.to_upstream, 10);
        assert!(started.elapsed() >= Duration::from_secs(100));
    }
}
