use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::forward::forward_write;
use super::lent::{Lent, Size};
use super::pieces;

/// Reads bulk in large pieces for a reader that asks for small ones.
///
/// rustls asks its transport for 4 KiB at a time (`DeframerVecBuffer::prepare_read`), so that a record of 16 KiB takes
/// five system calls. Here one of them fetches several records. The price is a copy of what was read, far less than the
/// calls it saves; small messages do not pay it, because reading ahead starts only after a reader got all it asked for.
///
/// ```text
/// direct --a read filled the reader's buffer--> ahead --a read brought no more than was asked for--> direct
/// ```
pub(crate) struct ReadAhead<S> {
    inner: S,
    is_bulk: bool,
    /// Bytes read and not yet asked for.
    ahead: Option<Ahead>,
}

struct Ahead {
    buffer: Lent,
    start: usize,
    end: usize,
}

impl Ahead {
    fn give(&mut self, buf: &mut ReadBuf<'_>) {
        let taken = buf.remaining().min(self.end - self.start);
        let bytes = &self.buffer[self.start..self.start + taken];
        pieces::copy(buf.initialize_unfilled_to(taken), bytes);
        buf.advance(taken);
        self.start += taken;
    }
}

impl<S> ReadAhead<S> {
    pub(crate) fn new(inner: S) -> Self {
        Self {
            inner,
            is_bulk: false,
            ahead: None,
        }
    }

    pub(crate) fn get_ref(&self) -> &S {
        &self.inner
    }
}

impl<S: AsyncRead + Unpin> ReadAhead<S> {
    fn poll_direct(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        self.is_bulk = buf.remaining() == 0;
        Poll::Ready(Ok(()))
    }

    fn poll_ahead(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut buffer = Lent::new(Size::Large);
        let mut unread = ReadBuf::new(&mut buffer);
        ready!(Pin::new(&mut self.inner).poll_read(cx, &mut unread))?;
        let end = unread.filled().len();
        self.is_bulk = end > buf.remaining();
        let mut ahead = Ahead {
            buffer,
            start: 0,
            end,
        };
        ahead.give(buf);
        self.ahead = Some(ahead).filter(|ahead| ahead.start < ahead.end);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Some(ahead) = &mut this.ahead {
            ahead.give(buf);
            if ahead.start == ahead.end {
                this.ahead = None;
            }
            return Poll::Ready(Ok(()));
        }
        if this.is_bulk {
            this.poll_ahead(cx, buf)
        } else {
            this.poll_direct(cx, buf)
        }
    }
}

forward_write!(impl [S: AsyncWrite + Unpin] for ReadAhead<S>: Self { inner: io, .. } => io);

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use super::super::lent::LARGE_BYTES;
    use super::*;
    use tokio::io::AsyncReadExt;

    /// Answers each read with at most the next size of bytes, and notes how much was asked for.
    #[derive(Default)]
    struct Source {
        sizes: VecDeque<usize>,
        next: u8,
        asked: Vec<usize>,
    }

    impl AsyncRead for Source {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            self.asked.push(buf.remaining());
            let size = self.sizes.pop_front().unwrap_or(0).min(buf.remaining());
            for _ in 0..size {
                buf.put_slice(&[self.next]);
                self.next = self.next.wrapping_add(1);
            }
            Poll::Ready(Ok(()))
        }
    }

    async fn read_all(source: Source, piece: usize) -> (Vec<u8>, ReadAhead<Source>) {
        let mut reader = ReadAhead::new(source);
        let (mut all, mut buffer) = (Vec::new(), vec![0; piece]);
        loop {
            match reader.read(&mut buffer).await.unwrap() {
                0 => return (all, reader),
                read => all.extend_from_slice(&buffer[..read]),
            }
        }
    }

    fn counting(bytes: usize) -> Vec<u8> {
        (0..=u8::MAX).cycle().take(bytes).collect()
    }

    #[tokio::test]
    async fn bulk_is_read_ahead_and_arrives_in_order() {
        let source = Source {
            sizes: [4096, 100_000, 10_000].into(),
            ..Source::default()
        };
        let (all, reader) = read_all(source, 4096).await;
        assert!(all == counting(114_096));
        // The last but one brought more than was asked for, so the end was looked for with a large buffer too.
        let asked = &reader.get_ref().asked;
        assert_eq!(asked[..3], [4096, LARGE_BYTES, LARGE_BYTES]);
        assert!(reader.ahead.is_none());
    }

    #[tokio::test]
    async fn small_messages_are_read_directly() {
        let source = Source {
            sizes: [300, 4095, 7].into(),
            ..Source::default()
        };
        let (all, reader) = read_all(source, 4096).await;
        assert!(all == counting(300 + 4095 + 7));
        assert_eq!(reader.get_ref().asked, [4096; 4]);
    }

    #[tokio::test]
    async fn a_lull_ends_reading_ahead() {
        let source = Source {
            sizes: [4096, 5000, 20, 20].into(),
            ..Source::default()
        };
        let (_, reader) = read_all(source, 4096).await;
        let asked = &reader.get_ref().asked;
        assert_eq!(asked[..], [4096, LARGE_BYTES, LARGE_BYTES, 4096, 4096]);
    }
}
