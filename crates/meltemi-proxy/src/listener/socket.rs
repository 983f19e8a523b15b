//! Listening sockets and what the kernel knows of an accepted one.

use std::io;
use std::net::{IpAddr, SocketAddr};

use meltemi_proxy_core::runtime::TcpKeepalive;
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};

/// Connections the kernel queues before `accept`.
const BACKLOG: i32 = 4096;

/// Opens a listening socket that other workers may open too (`SO_REUSEPORT`); the kernel spreads connections over them.
///
/// # Errors
/// As `socket`, `bind` and `listen`.
pub(crate) fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // All IPv6 addresses beside all IPv4 ones are two sockets.
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

/// Where the client wanted to go before the capture rules redirected it here (`SO_ORIGINAL_DST`).
///
/// `None` when the connection was made to this socket directly.
pub(crate) fn original_dst(stream: &TcpStream) -> Option<SocketAddr> {
    let socket = SockRef::from(stream);
    let v4 = || {
        socket
            .original_dst_v4()
            .ok()
            .as_ref()
            .and_then(SockAddr::as_socket)
    };
    let v6 = || {
        socket
            .original_dst_v6()
            .ok()
            .as_ref()
            .and_then(SockAddr::as_socket)
    };
    v4().or_else(v6).map(unmapped)
}

/// Turns `::ffff:a.b.c.d` into `a.b.c.d`, as rules and logs name it.
pub(crate) fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// How sockets to upstreams are opened.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct UpstreamSocketOptions {
    /// Marks the proxy's own connections where the capture rules exempt by mark.
    pub(crate) mark: Option<u32>,
    /// Source address, 127.0.0.6 for inbound passthrough.
    pub(crate) source: Option<IpAddr>,
    pub(crate) keepalive: Option<TcpKeepalive>,
}

/// Connects to an upstream.
///
/// # Errors
/// As `socket` and `connect`; `PermissionDenied` when a mark is asked for without the right to set it.
pub(crate) async fn connect(
    address: SocketAddr,
    options: UpstreamSocketOptions,
) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() {
        tokio::net::TcpSocket::new_v4()
    } else {
        tokio::net::TcpSocket::new_v6()
    }?;
    if let Some(mark) = options.mark {
        SockRef::from(&socket).set_mark(mark)?;
    }
    if let Some(keepalive) = options.keepalive {
        set_keepalive(&socket, keepalive)?;
    }
    if let Some(source) = options.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// TCP keepalive with the cluster's settings; what it leaves open is the system's.
fn set_keepalive(socket: &tokio::net::TcpSocket, settings: TcpKeepalive) -> io::Result<()> {
    let mut keepalive = socket2::TcpKeepalive::new();
    if let Some(time) = settings.time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = settings.interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = settings.probes {
        keepalive = keepalive.with_retries(probes);
    }
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}

/// Whether the address belongs to the loopback interface.
pub(crate) fn is_loopback(ip: IpAddr) -> bool {
    ip.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn two_workers_share_a_port() {
        let first = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = first.local_addr().unwrap();
        let second = listen(address).unwrap();
        assert_eq!(second.local_addr().unwrap(), address);
    }

    #[tokio::test]
    async fn binds_the_source_address() {
        let listener = listen("127.0.0.1:0".parse().unwrap()).unwrap();
        let options = UpstreamSocketOptions {
            mark: None,
            source: Some("127.0.0.6".parse().unwrap()),
            keepalive: None,
        };
        let stream = connect(listener.local_addr().unwrap(), options)
            .await
            .unwrap();
        let (_, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 6]));
        assert_eq!(peer, stream.local_addr().unwrap());
    }

    #[test]
    fn unmaps() {
        assert_eq!(
            unmapped("[::ffff:10.0.0.1]:80".parse().unwrap()),
            "10.0.0.1:80".parse().unwrap()
        );
    }
}
