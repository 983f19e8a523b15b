//! A downstream that sends bytes and keeps what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// After this much silence nothing more is expected.
const SILENCE: Duration = Duration::from_millis(200);
/// No answer of a case is as long.
const REPLY_LIMIT_BYTES: usize = 4 << 20;

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    pub bytes: Vec<u8>,
    /// The proxy ended the connection.
    pub closed: bool,
}

impl Reply {
    /// The status of every HTTP/1 response, interim ones too.
    pub fn statuses(&self) -> Vec<u16> {
        let text = String::from_utf8_lossy(&self.bytes);
        let after = |(at, marker): (usize, &str)| {
            text.get(at + marker.len()..)?
                .get(2..5)?
                .parse::<u16>()
                .ok()
        };
        text.match_indices("HTTP/1.").filter_map(after).collect()
    }

    /// Whether the last response came to its end as its framing says.
    pub fn is_complete(&self, is_to_head: bool) -> bool {
        let Some((head, body)) = self.last_response() else {
            return false;
        };
        let head = head.to_ascii_lowercase();
        let field = |name: &str| {
            let line = head.lines().find_map(|line| line.strip_prefix(name));
            line.map(|value| value.trim().to_owned())
        };
        if is_to_head {
            return true;
        }
        if field("transfer-encoding:").is_some() {
            return body.ends_with("0\r\n\r\n");
        }
        let length = field("content-length:").and_then(|value| value.parse::<usize>().ok());
        length.map_or(self.closed, |length| body.len() >= length)
    }

    /// What in the last head two clients could read differently.
    pub fn oddity(&self) -> Option<String> {
        let (head, _) = self.last_response()?;
        let statements = head
            .to_ascii_lowercase()
            .lines()
            .filter(|line| {
                line.starts_with("content-length:") || line.starts_with("transfer-encoding:")
            })
            .count();
        let text = head.replace("\r\n", "");
        let what = match () {
            () if statements > 1 => "more than one statement of the length",
            () if text.contains(['\r', '\n']) => "bare CR or LF in the head",
            () if text.contains('\0') => "NUL in the head",
            () => return None,
        };
        Some(what.to_owned())
    }

    /// Head and rest from the last status line on.
    fn last_response(&self) -> Option<(String, String)> {
        let text = String::from_utf8_lossy(&self.bytes);
        let begin = text.rfind("HTTP/1.")?;
        let (head, body) = text.get(begin..)?.split_once("\r\n\r\n")?;
        Some((head.to_owned(), body.to_owned()))
    }
}

/// Sends `bytes`, and reads until the proxy closes or falls silent.
///
/// # Errors
/// The proxy does not accept.
pub async fn talk(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Reply> {
    talk_patiently(address, bytes, PATIENCE).await
}

/// The same where the answer may take its time.
///
/// # Errors
/// The proxy does not accept.
pub async fn talk_patiently(
    address: SocketAddr,
    bytes: &[u8],
    patience: Duration,
) -> std::io::Result<Reply> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // A proxy that has seen enough may have closed before the end.
    let _sent = stream.write_all(bytes).await;
    Ok(read_within(&mut stream, patience).await)
}

/// Reads until the other end closes or falls silent.
pub async fn read_all(stream: &mut TcpStream) -> Reply {
    read_within(stream, PATIENCE).await
}

async fn read_within(stream: &mut TcpStream, patience: Duration) -> Reply {
    let mut reply = Reply::default();
    let mut buffer = vec![0; 16 << 10];
    let mut deadline = Instant::now() + patience;
    while reply.bytes.len() < REPLY_LIMIT_BYTES {
        match timeout_at(deadline, stream.read(&mut buffer)).await {
            Err(_) => return reply,
            Ok(Ok(0) | Err(_)) => {
                reply.closed = true;
                return reply;
            }
            Ok(Ok(read)) => reply.bytes.extend(buffer.iter().take(read)),
        }
        deadline = Instant::now() + SILENCE;
    }
    reply
}
