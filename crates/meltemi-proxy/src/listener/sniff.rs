//! Reads the first bytes of a connection until its protocol is known, for a bounded time.

use std::io;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncReadExt;

use meltemi_proxy_core::sniff::SNIFF_LIMIT_BYTES;

use super::inspect::{Spoken, Verdict, inspect};
use crate::io::Socket;

/// Which inspectors the listener has, and how long it waits for the client's first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Inspection {
    pub(crate) tls: bool,
    pub(crate) http: bool,
    /// `listener_filters_timeout`; `None` waits for ever.
    pub(crate) timeout: Option<Duration>,
    /// At the timeout the connection goes on as opaque, instead of being closed.
    pub(crate) continue_on_timeout: bool,
}

/// Room for the first read.
const FIRST_READ_BYTES: usize = 2048;

#[derive(Debug, thiserror::Error)]
pub(crate) enum SniffError {
    #[error("cannot read the first bytes")]
    Io(#[from] io::Error),
    #[error("the client closed before it said anything")]
    Silent,
    #[error("the client said nothing in time")]
    Timeout,
    #[error("a TLS record that is no ClientHello")]
    BrokenTls,
}

/// Reads until the protocol is decided; the bytes read are handed back for replay.
///
/// When the time is over the connection is opaque: a server-first protocol whose client waits for the greeting.
pub(crate) async fn sniff(
    socket: &mut Socket,
    inspection: Inspection,
) -> Result<(Spoken, Bytes), SniffError> {
    if !inspection.tls && !inspection.http {
        return Ok((Spoken::Opaque, Bytes::new()));
    }
    // Most clients say all they have to say first within this.
    let mut buffer = BytesMut::with_capacity(FIRST_READ_BYTES);
    let decided = match inspection.timeout {
        None => read_until_decided(socket, &mut buffer, inspection).await,
        Some(limit) => {
            match tokio::time::timeout(limit, read_until_decided(socket, &mut buffer, inspection))
                .await
            {
                Ok(decided) => decided,
                Err(_) if inspection.tls && buffer.first() == Some(&0x16) => {
                    Err(SniffError::BrokenTls)
                }
                Err(_) if inspection.continue_on_timeout => Ok(Spoken::Opaque),
                Err(_) => Err(SniffError::Timeout),
            }
        }
    };
    Ok((decided?, buffer.freeze()))
}

async fn read_until_decided(
    socket: &mut Socket,
    buffer: &mut BytesMut,
    inspection: Inspection,
) -> Result<Spoken, SniffError> {
    loop {
        let read = socket.read_buf(buffer).await?;
        match inspect(buffer, inspection.tls, inspection.http) {
            Verdict::Decided(spoken) => return Ok(spoken),
            Verdict::Broken => return Err(SniffError::BrokenTls),
            Verdict::NeedMore if read == 0 && buffer.is_empty() => return Err(SniffError::Silent),
            Verdict::NeedMore if read == 0 && inspection.tls && buffer.first() == Some(&0x16) => {
                return Err(SniffError::BrokenTls);
            }
            Verdict::NeedMore if read == 0 || buffer.len() >= SNIFF_LIMIT_BYTES => {
                return Ok(Spoken::Opaque);
            }
            Verdict::NeedMore => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    const BOTH: Inspection = Inspection {
        tls: true,
        http: true,
        timeout: Some(Duration::from_secs(5)),
        continue_on_timeout: true,
    };

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_opaque_after_the_timeout() {
        let (_client, server) = tokio::io::duplex(64);
        let started = tokio::time::Instant::now();
        let (spoken, bytes) = sniff(&mut Socket::boxed(server), BOTH).await.unwrap();
        assert_eq!((spoken, bytes.len()), (Spoken::Opaque, 0));
        assert_eq!(started.elapsed(), Duration::from_secs(5));
    }

    #[tokio::test]
    async fn keeps_what_it_read() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
        let (spoken, bytes) = sniff(&mut Socket::boxed(server), BOTH).await.unwrap();
        assert_eq!(
            (spoken, &bytes[..]),
            (Spoken::Http11, &b"GET / HTTP/1.1\r\n"[..])
        );
    }

    #[tokio::test(start_paused = true)]
    async fn half_a_client_hello_is_refused() {
        let (mut client, server) = tokio::io::duplex(64);
        client.write_all(b"\x16\x03\x01").await.unwrap();
        assert!(matches!(
            sniff(&mut Socket::boxed(server), BOTH).await,
            Err(SniffError::BrokenTls)
        ));
    }

    #[tokio::test]
    async fn a_client_that_leaves_is_no_connection() {
        let (client, server) = tokio::io::duplex(64);
        drop(client);
        assert!(matches!(
            sniff(&mut Socket::boxed(server), BOTH).await,
            Err(SniffError::Silent)
        ));
    }
}
