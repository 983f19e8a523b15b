//! The one place where calls of a wrapper go on unchanged to the stream inside: `pattern => field` for each shape of it.
//! Vectored writes must not be forgotten: without them every head and body leave in two system calls and two TLS records.

/// Implements `AsyncRead` by the stream inside.
macro_rules! forward_read {
    ($type:ty: $($pattern:pat => $io:ident),+) => {
        impl tokio::io::AsyncRead for $type {
            fn poll_read(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &mut tokio::io::ReadBuf<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $($pattern => std::pin::Pin::new($io).poll_read(cx, buf)),+
                }
            }
        }
    };
}

/// Implements `AsyncWrite` by the stream inside.
macro_rules! forward_write {
    (impl [$($generics:tt)*] for $type:ty: $($pattern:pat => $io:ident),+) => {
        impl<$($generics)*> tokio::io::AsyncWrite for $type {
            fn poll_write(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                buf: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $($pattern => std::pin::Pin::new($io).poll_write(cx, buf)),+
                }
            }

            fn poll_write_vectored(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
                bufs: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                match self.get_mut() {
                    $($pattern => std::pin::Pin::new($io).poll_write_vectored(cx, bufs)),+
                }
            }

            fn is_write_vectored(&self) -> bool {
                match self {
                    $($pattern => $io.is_write_vectored()),+
                }
            }

            fn poll_flush(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $($pattern => std::pin::Pin::new($io).poll_flush(cx)),+
                }
            }

            fn poll_shutdown(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                match self.get_mut() {
                    $($pattern => std::pin::Pin::new($io).poll_shutdown(cx)),+
                }
            }
        }
    };
    ($type:ty: $($pattern:pat => $io:ident),+) => {
        $crate::io::forward_write!(impl [] for $type: $($pattern => $io),+);
    };
}

pub(crate) use {forward_read, forward_write};
