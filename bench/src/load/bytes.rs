//! Byte streams through the pair: as much as goes, and connections that only exist.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::{Target, Window, to_f64};
use crate::backend::STREAM;
use crate::rig::Usage;

const BUFFER_BYTES: usize = 256 * 1024;
/// Connections that are being opened at the same time.
const OPENING: usize = 16;
/// How long idle connections are left alone before memory is looked at.
const SETTLE: Duration = Duration::from_secs(1);

/// What a window of streams carried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Carried {
    pub(crate) megabytes_per_second: f64,
    pub(crate) cpu_per_gb: f64,
}

/// Downloads on so many connections.
///
/// # Errors
/// A connection is refused or ends.
pub(crate) async fn download(
    target: Target,
    streams: usize,
    window: Window,
    usage: &dyn Fn() -> anyhow::Result<Usage>,
) -> anyhow::Result<Carried> {
    let received = Rc::new(Cell::new(0_u64));
    let mut tasks = JoinSet::new();
    for _ in 0..streams {
        let mut stream = target.connect().await?;
        stream.write_all(&[STREAM]).await?;
        tasks.spawn_local(drain(stream, received.clone()));
    }
    tokio::time::sleep(window.warm_up).await;
    let (before, start) = (usage()?, Instant::now());
    received.set(0);
    tokio::time::sleep(window.length).await;
    let (after, bytes, elapsed) = (usage()?, received.get(), start.elapsed());
    anyhow::ensure!(
        bytes > 0 && tasks.try_join_next().is_none(),
        "a stream broke"
    );
    let cpu = after.cpu.saturating_sub(before.cpu);
    Ok(Carried {
        megabytes_per_second: to_f64(bytes) / 1e6 / elapsed.as_secs_f64(),
        cpu_per_gb: cpu.as_secs_f64() * 1e9 / to_f64(bytes),
    })
}

async fn drain(mut stream: TcpStream, received: Rc<Cell<u64>>) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => received.set(received.get() + u64::try_from(count).unwrap_or_default()),
        }
    }
}

/// Sends a byte and waits for its echo.
pub(super) async fn ping<S>(stream: &mut S) -> std::io::Result<()>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    stream.write_all(b"e").await?;
    stream.flush().await?;
    stream.read_exact(&mut [0]).await.map(drop)
}

/// Bytes of resident memory that each of `count` connections costs once it is used no more.
///
/// # Errors
/// A connection is refused.
pub(crate) async fn idle(
    target: Target,
    count: usize,
    usage: &dyn Fn() -> anyhow::Result<Usage>,
) -> anyhow::Result<f64> {
    let before = usage()?.resident_bytes;
    let mut connections = Vec::with_capacity(count);
    while connections.len() < count {
        let batch = OPENING.min(count - connections.len());
        let opened = futures_util::future::try_join_all((0..batch).map(|_| async {
            let mut stream = target.connect().await?;
            ping(&mut stream).await?;
            Ok::<_, std::io::Error>(stream)
        }));
        connections.extend(opened.await?);
    }
    tokio::time::sleep(SETTLE).await;
    let after = usage()?.resident_bytes;
    let each = to_f64(after.saturating_sub(before)) / to_f64(u64::try_from(count)?);
    drop(connections);
    Ok(each)
}
