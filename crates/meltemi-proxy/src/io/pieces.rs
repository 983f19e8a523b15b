use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Longest piece that is handed on or copied at once.
const PIECE_BYTES: usize = 2048;
/// Pieces of one call: as much as rustls takes at a time (64 KiB).
const MAX_PIECES: usize = 32;

/// Hands long writes on as many short pieces of one vectored write.
///
/// rustls copies what it is given behind the five bytes of a record's head, so to an odd address. glibc copies long pieces
/// with `rep movsb`, which AMD processors since Zen 3 do at 3 to 11 GB/s when source and destination are so misaligned, and
/// at 40 GB/s otherwise: encrypting bulk took twice the time. Long begins at some 8 KiB, and at 2112 bytes where the
/// processor says that it is good at short ones (FSRM). Shorter pieces are copied with vector instructions everywhere, and
/// records come out as long as before.
pub(crate) struct InPieces<S>(pub(crate) S);

/// Copies between buffers of one length that are aligned anyhow.
pub(super) fn copy(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.chunks_mut(PIECE_BYTES).zip(from.chunks(PIECE_BYTES)) {
        to.copy_from_slice(from);
    }
}

fn is_short(buf: &IoSlice<'_>) -> bool {
    buf.len() <= PIECE_BYTES
}

impl<S: AsyncRead + Unpin> AsyncRead for InPieces<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for InPieces<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if is_short(&IoSlice::new(buf)) {
            return Pin::new(&mut self.get_mut().0).poll_write(cx, buf);
        }
        self.poll_write_vectored(cx, &[IoSlice::new(buf)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = Pin::new(&mut self.get_mut().0);
        if bufs.iter().all(is_short) {
            return inner.poll_write_vectored(cx, bufs);
        }
        let mut pieces = [IoSlice::new(&[]); MAX_PIECES];
        let all = bufs.iter().flat_map(|buf| buf.chunks(PIECE_BYTES));
        let mut count = 0;
        for (place, piece) in pieces.iter_mut().zip(all) {
            *place = IoSlice::new(piece);
            count += 1;
        }
        inner.poll_write_vectored(cx, &pieces[..count])
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    /// Notes the lengths that each vectored write was given, and takes at most `room` bytes.
    struct Sink {
        given: Vec<Vec<usize>>,
        taken: Vec<u8>,
        room: usize,
    }

    impl AsyncWrite for Sink {
        fn poll_write(
            self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &[u8],
        ) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(buf)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bufs: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            self.given.push(bufs.iter().map(|buf| buf.len()).collect());
            let before = self.taken.len();
            let room = self.room;
            let bytes = bufs.iter().flat_map(|buf| buf.iter().copied());
            self.taken.extend(bytes.take(room));
            Poll::Ready(Ok(self.taken.len() - before))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    async fn write(bufs: &[&[u8]], room: usize) -> (usize, Sink) {
        let mut stream = InPieces(Sink {
            given: Vec::new(),
            taken: Vec::new(),
            room,
        });
        let slices: Vec<IoSlice<'_>> = bufs.iter().map(|buf| IoSlice::new(buf)).collect();
        let written = poll_fn(|cx| Pin::new(&mut stream).poll_write_vectored(cx, &slices)).await;
        (written.unwrap(), stream.0)
    }

    #[tokio::test]
    async fn long_writes_go_on_in_short_pieces_and_in_order() {
        let long: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
        let (written, sink) = write(&[b"head", &long], usize::MAX).await;
        assert_eq!(written, 10_004);
        assert_eq!(sink.given, [vec![4, 2048, 2048, 2048, 2048, 1808]]);
        assert_eq!(sink.taken[..4], *b"head");
        assert!(sink.taken[4..] == long);
    }

    #[test]
    fn copies_all() {
        let from: Vec<u8> = (0..=u8::MAX).cycle().take(10_000).collect();
        let mut to = vec![0; 10_000];
        copy(&mut to, &from);
        assert!(to == from);
    }

    #[tokio::test]
    async fn short_writes_are_not_touched_and_long_ones_may_be_taken_in_part() {
        let (written, sink) = write(&[b"a", b"", b"bc"], usize::MAX).await;
        assert_eq!((written, sink.given), (3, vec![vec![1, 0, 2]]));
        let (written, sink) = write(&[&[7; 9000]], 5000).await;
        assert_eq!((written, sink.taken), (5000, vec![7; 5000]));
    }

    #[tokio::test]
    async fn a_very_long_write_is_taken_in_part() {
        let (written, sink) = write(&[&[7; 200_000]], usize::MAX).await;
        assert_eq!(written, MAX_PIECES * PIECE_BYTES);
        assert_eq!(sink.given[0].len(), MAX_PIECES);
    }
}
