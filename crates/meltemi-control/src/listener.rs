//! The TLS listener of 15012: bounded work for whoever connects, and the caller's certificate for the services behind.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use meltemi_ca::PeerInfo;
use meltemi_pki::HandshakeInfo;
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

/// Handshakes at one time; later connections wait in the kernel's queue.
const HANDSHAKE_LIMIT: usize = 128;
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections at one time.
const CONNECTION_LIMIT: usize = 20_000;
/// Connections of one address: a pod has two or three, and nobody may take all of them without proving who it is.
const CONNECTIONS_PER_ADDRESS: usize = 64;
/// After an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A connection after its handshake.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerInfo,
    _slot: OwnedSemaphorePermit,
    _share: Share,
}

/// Open connections by address.
type Shares = Arc<Mutex<HashMap<IpAddr, usize>>>;

/// One connection of an address's share, given back when dropped.
#[derive(Debug)]
struct Share {
    shares: Shares,
    address: IpAddr,
}

impl Share {
    /// None when the address has its share.
    fn take(shares: &Shares, address: IpAddr) -> Option<Self> {
        let mut open = shares.lock();
        let count = open.entry(address).or_default();
        if *count >= CONNECTIONS_PER_ADDRESS {
            return None;
        }
        *count += 1;
        Some(Self {
            shares: Arc::clone(shares),
            address,
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.lock();
        if let Some(count) = open.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.address);
            }
        }
    }
}

/// Accepts until the receiver is gone.
pub(crate) async fn accept(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let acceptor = TlsAcceptor::from(tls);
    let handshakes = Arc::new(Semaphore::new(HANDSHAKE_LIMIT));
    let slots = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    let shares = Shares::default();
    loop {
        let (Ok(handshake), Ok(slot)) = (
            Arc::clone(&handshakes).acquire_owned().await,
            Arc::clone(&slots).acquire_owned().await,
        ) else {
            return;
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        match accepted {
            Ok((stream, address)) => {
                let Some(share) = Share::take(&shares, address.ip()) else {
                    tracing::warn!(%address, "too many connections from this address");
                    continue;
                };
                let acceptor = acceptor.clone();
                let connections = connections.clone();
                tokio::spawn(async move {
                    let result = shake(stream, address, acceptor, (slot, share)).await;
                    drop(handshake);
                    match result {
                        Ok(connection) => {
                            // Only a server that is shutting down does not take it.
                            drop(connections.send(Ok(connection)).await);
                        }
                        Err(error) => tracing::debug!(%address, %error, "handshake failed"),
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn shake(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: TlsAcceptor,
    (slot, share): (OwnedSemaphorePermit, Share),
) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let info = HandshakeInfo::new(stream.get_ref().1, None, SystemTime::now())
        .map_err(|error| io::Error::new(io::ErrorKind::PermissionDenied, error))?;
    Ok(Connection {
        stream,
        peer: PeerInfo {
            address: Some(address),
            identity: info.peer.map(|peer| Arc::clone(&peer.identity)),
        },
        _slot: slot,
        _share: share,
    })
}

impl Connected for Connection {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_gets_its_share_and_no_more() {
        let shares = Shares::default();
        let (greedy, other) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let mut held: Vec<Share> = std::iter::from_fn(|| Share::take(&shares, greedy)).collect();
        assert_eq!(held.len(), CONNECTIONS_PER_ADDRESS);
        assert!(Share::take(&shares, other).is_some());
        held.pop();
        assert!(Share::take(&shares, greedy).is_some());
        drop(held);
        assert!(shares.lock().is_empty());
    }
}
