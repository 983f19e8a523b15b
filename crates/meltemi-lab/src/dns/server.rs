use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hickory_proto::op::{Message, ResponseCode};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::Zone;

/// RFC 1035: what fits a UDP answer without EDNS.
const PLAIN_UDP_LIMIT: usize = 512;
/// TCP connections at one time, and how long one may be silent.
const CONNECTION_LIMIT: usize = 256;
const IDLE: Duration = Duration::from_secs(10);

/// Serves both transports until the task is dropped.
pub(crate) async fn serve(address: SocketAddr, zone: Arc<ArcSwap<Zone>>) -> std::io::Result<()> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    tokio::spawn(serve_udp(udp, Arc::clone(&zone)));
    tokio::spawn(serve_tcp(tcp, zone));
    Ok(())
}

async fn serve_udp(socket: UdpSocket, zone: Arc<ArcSwap<Zone>>) {
    let mut buffer = [0; 4096];
    loop {
        // Errors here are ICMP answers to earlier replies: the asker has gone.
        let Ok((length, peer)) = socket.recv_from(&mut buffer).await else {
            continue;
        };
        let Some(reply) = buffer
            .get(..length)
            .and_then(|query| respond(&zone, query, true))
        else {
            continue;
        };
        if let Err(error) = socket.send_to(&reply, peer).await {
            tracing::debug!(%peer, %error, "a DNS answer was not sent");
        }
    }
}

async fn serve_tcp(listener: TcpListener, zone: Arc<ArcSwap<Zone>>) {
    let permits = Arc::new(Semaphore::new(CONNECTION_LIMIT));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        let Ok((stream, peer)) = listener.accept().await else {
            continue;
        };
        let zone = Arc::clone(&zone);
        tokio::spawn(async move {
            if let Err(error) = connection(stream, &zone).await {
                tracing::debug!(%peer, %error, "a DNS connection ended");
            }
            drop(permit);
        });
    }
}

async fn connection(mut stream: TcpStream, zone: &ArcSwap<Zone>) -> std::io::Result<()> {
    loop {
        let Ok(length) = timeout(IDLE, stream.read_u16()).await else {
            return Ok(());
        };
        let mut query = vec![0; usize::from(length?)];
        stream.read_exact(&mut query).await?;
        let Some(reply) = respond(zone, &query, false) else {
            return Ok(());
        };
        let length = u16::try_from(reply.len()).map_err(std::io::Error::other)?;
        stream.write_u16(length).await?;
        stream.write_all(&reply).await?;
    }
}

/// `None` for what is not DNS: it gets no answer.
fn respond(zone: &ArcSwap<Zone>, query: &[u8], udp: bool) -> Option<Vec<u8>> {
    let query = Message::from_vec(query).ok()?;
    let reply = zone.load().answer(&query);
    let limit = if udp {
        usize::from(query.max_payload()).max(PLAIN_UDP_LIMIT)
    } else {
        usize::from(u16::MAX)
    };
    match reply.to_vec() {
        Ok(bytes) if bytes.len() <= limit => Some(bytes),
        Ok(_) => reply.truncate().to_vec().ok(),
        Err(_) => {
            let code = ResponseCode::ServFail;
            Message::error_msg(query.metadata.id, query.metadata.op_code, code)
                .to_vec()
                .ok()
        }
    }
}
