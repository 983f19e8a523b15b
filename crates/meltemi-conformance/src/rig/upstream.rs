//! The application behind the proxy: keeps every byte, and says what two servers could read differently in it.

mod http1;
mod http2;
mod parse;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long a connection may take to end after the client had its answer.
const SETTLE_LIMIT: Duration = Duration::from_millis(400);
/// The content of a large answer.
pub const LARGE_BYTES: usize = 64 << 20;
/// Messages kept per case.
const SEEN_LIMIT: usize = 64;

/// What an upstream does with a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Answer {
    /// Reads the request to its end, answers 200 and closes.
    #[default]
    Whole,
    /// Answers 200 as soon as it has the head, and keeps the connection.
    Early,
    /// Reads the request to its end and sends these bytes. HTTP/1 only.
    Raw(&'static [u8]),
    /// The same, and keeps the connection. HTTP/1 only.
    RawKept(&'static [u8]),
    /// Answers with [`LARGE_BYTES`]. HTTP/1 only.
    Large,
}

/// A request as it came out of the proxy.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Request line and header lines; of HTTP/2, written as HTTP/1 would.
    pub head: Vec<u8>,
    pub body: Vec<u8>,
    /// The message ended as its own framing says.
    pub is_complete: bool,
    /// Something a second server could read in another way.
    pub oddity: Option<String>,
}

impl Seen {
    pub fn target(&self) -> String {
        let line = self.head.split(|c| *c == b'\n').next().unwrap_or_default();
        String::from_utf8_lossy(line)
            .split(' ')
            .nth(1)
            .unwrap_or_default()
            .to_owned()
    }

    pub fn contains(&self, text: &str) -> bool {
        let found = |bytes: &[u8]| bytes.windows(text.len()).any(|w| w == text.as_bytes());
        found(&self.head) || found(&self.body)
    }
}

#[derive(Debug, Default)]
struct Record {
    /// The number of the case. What began in an earlier one and ends late is not this one's.
    case: u64,
    answer: Answer,
    seen: Vec<Seen>,
}

/// A listening upstream; dropped, it ends.
#[derive(Debug)]
pub struct Upstream {
    pub address: SocketAddr,
    record: Arc<Mutex<Record>>,
    busy: watch::Receiver<usize>,
    accepting: JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Upstream {
    /// An HTTP/1.1 server.
    ///
    /// # Errors
    /// There is no port.
    pub async fn http1() -> Result<Self> {
        Self::start(|stream, log| async move { http1::serve(stream, log).await }).await
    }

    /// An HTTP/2 server with prior knowledge.
    ///
    /// # Errors
    /// There is no port.
    pub async fn http2() -> Result<Self> {
        Self::start(|stream, log| async move { http2::serve(stream, log).await }).await
    }

    async fn start<F, S>(serve: S) -> Result<Self>
    where
        S: Fn(TcpStream, Log) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let record: Arc<Mutex<Record>> = Arc::default();
        let (count, busy) = watch::channel(0);
        let log = Log {
            record: record.clone(),
            busy: Arc::new(count),
        };
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, log.clone()));
            }
        });
        Ok(Self {
            address,
            record,
            busy,
            accepting,
        })
    }

    /// Forgets what was seen, and answers so from now on.
    pub fn prepare(&self, answer: Answer) {
        let mut record = self.record.lock();
        *record = Record {
            case: record.case + 1,
            answer,
            seen: Vec::new(),
        };
    }

    /// What was seen since, once no message is under way (or a limit has passed: then it never ends).
    pub async fn take(&mut self) -> Vec<Seen> {
        let settled = self.busy.wait_for(|messages| *messages == 0);
        // Either way what is there is what counts.
        let _settled = timeout(SETTLE_LIMIT, settled).await;
        std::mem::take(&mut self.record.lock().seen)
    }
}

/// Where a connection of an upstream writes down what it reads.
#[derive(Clone)]
struct Log {
    record: Arc<Mutex<Record>>,
    busy: Arc<watch::Sender<usize>>,
}

impl Log {
    fn answer(&self) -> Answer {
        self.record.lock().answer
    }

    /// To be held while a message is under way.
    fn begin(&self) -> Busy {
        self.busy.send_modify(|messages| *messages += 1);
        Busy {
            case: self.record.lock().case,
            log: self.clone(),
        }
    }
}

/// A message under way.
struct Busy {
    case: u64,
    log: Log,
}

impl Busy {
    fn note(&self, seen: Seen) {
        let mut record = self.log.record.lock();
        if record.case == self.case && record.seen.len() < SEEN_LIMIT {
            record.seen.push(seen);
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.log.busy.send_modify(|messages| *messages -= 1);
    }
}
