//! One end of an HTTP/2 connection that does as it is told.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use super::frame::{Frame, PREFACE, flag, kind, settings, settings_ack};

/// How long the start of a connection may take.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);
const BUFFER_LIMIT_BYTES: usize = 32 << 20;

/// What was heard.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Frame(Frame),
    Closed,
    /// Nothing until the deadline.
    Silence,
}

#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// Everything heard so far.
    pub heard: Vec<Frame>,
}

impl Peer {
    pub fn new(stream: TcpStream) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            heard: Vec::new(),
        }
    }

    /// Connects without a word.
    ///
    /// # Errors
    /// The proxy does not accept.
    pub async fn connect(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::new(stream))
    }

    /// Connects, exchanges settings and waits for both acknowledgements.
    ///
    /// # Errors
    /// The proxy does not accept, or does not speak HTTP/2.
    pub async fn client(address: SocketAddr, values: &[(u16, u32)]) -> io::Result<Self> {
        let mut peer = Self::connect(address).await?;
        peer.send(&[PREFACE, &settings(values)].concat()).await;
        peer.settle().await?;
        Ok(peer)
    }

    /// Takes the proxy's connection: reads its preface and exchanges settings.
    ///
    /// # Errors
    /// It is no HTTP/2 connection.
    pub async fn server(stream: TcpStream, values: &[(u16, u32)]) -> io::Result<Self> {
        let mut peer = Self::new(stream);
        let deadline = Instant::now() + HANDSHAKE_LIMIT;
        while peer.buffer.len() < PREFACE.len() {
            if !peer.fill(deadline).await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        if !peer.buffer.starts_with(PREFACE) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        peer.buffer.drain(..PREFACE.len());
        peer.send(&settings(values)).await;
        peer.settle().await?;
        Ok(peer)
    }

    /// Waits until the other end's settings have come and ours are acknowledged.
    async fn settle(&mut self) -> io::Result<()> {
        let deadline = Instant::now() + HANDSHAKE_LIMIT;
        let (mut came, mut acknowledged) = (false, false);
        while !(came && acknowledged) {
            match self.next(deadline).await {
                Event::Frame(frame) if frame.kind == kind::SETTINGS => {
                    if frame.has(flag::ACK) {
                        acknowledged = true;
                    } else {
                        came = true;
                    }
                }
                Event::Frame(_) => {}
                Event::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Event::Silence => return Err(io::ErrorKind::TimedOut.into()),
            }
        }
        Ok(())
    }

    /// Gives the connection away, with what was read but not yet heard.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }

    /// Sends bytes; says whether the other end still takes them.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// The next frame. Acknowledges settings by itself.
    pub async fn next(&mut self, deadline: Instant) -> Event {
        loop {
            if let Some(frame) = Frame::take(&mut self.buffer) {
                if frame.kind == kind::SETTINGS && !frame.has(flag::ACK) {
                    self.send(&settings_ack()).await;
                }
                self.heard.push(frame.clone());
                return Event::Frame(frame);
            }
            match self.fill(deadline).await {
                Ok(true) => {}
                Ok(false) => return Event::Silence,
                Err(_) => return Event::Closed,
            }
        }
    }

    /// Reads on until a frame is one that is waited for.
    pub async fn until(
        &mut self,
        deadline: Instant,
        mut is_awaited: impl FnMut(&Frame) -> bool,
    ) -> Event {
        loop {
            match self.next(deadline).await {
                Event::Frame(frame) if is_awaited(&frame) => return Event::Frame(frame),
                Event::Frame(_) => {}
                end => return end,
            }
        }
    }

    /// Reads more; false when the deadline passes first.
    async fn fill(&mut self, deadline: Instant) -> io::Result<bool> {
        if self.buffer.len() > BUFFER_LIMIT_BYTES {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        match timeout_at(deadline, self.stream.read_buf(&mut self.buffer)).await {
            Err(_) => Ok(false),
            Ok(Ok(0)) => Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(Ok(_)) => Ok(true),
            Ok(Err(error)) => Err(error),
        }
    }
}
