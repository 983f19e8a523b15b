//! Listening, counting and ending.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::extract::Request;
use axum::extract::connect_info::Connected;
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Ends at SIGTERM or SIGINT; as process 1 of a container the default actions do not apply.
pub(crate) async fn terminated() {
    let (Ok(mut term), Ok(mut int)) = (
        signal(SignalKind::terminate()),
        signal(SignalKind::interrupt()),
    ) else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
    }
}

/// How long nobody may have asked before an application ends, and how long it waits for that.
const QUIET: Duration = Duration::from_secs(1);
const LAST_SERVICE: Duration = Duration::from_secs(10);

/// Requests begun and answered, by the whole process.
static ACTIVITY: LazyLock<watch::Sender<Activity>> = LazyLock::new(watch::Sender::default);

#[derive(Clone, Copy, Debug, Default)]
struct Activity {
    begun: u64,
    answered: u64,
}

/// Serves on after SIGTERM until nobody has asked for a while: an endpoint leaves the lists of its callers only some time
/// after its pod was told to end (Kubernetes, "Termination of Pods").
pub(crate) async fn drained() {
    terminated().await;
    let mut activity = ACTIVITY.subscribe();
    let quiet = async {
        loop {
            let last = tokio::time::timeout(QUIET, activity.changed()).await;
            let Activity { begun, answered } = *activity.borrow();
            if last.is_err() && begun == answered {
                return;
            }
        }
    };
    // Whoever is still being answered then has had its time.
    drop(tokio::time::timeout(LAST_SERVICE, quiet).await);
}

async fn counted(request: Request, next: Next) -> Response {
    ACTIVITY.send_modify(|activity| activity.begun += 1);
    let answered = Answered;
    let response = next.run(request).await;
    drop(answered);
    response
}

/// Counts an answer also where the caller went away before it.
struct Answered;

impl Drop for Answered {
    fn drop(&mut self) {
        ACTIVITY.send_modify(|activity| activity.answered += 1);
    }
}

/// Listens on all addresses of the pod, both families where the machine has them.
pub(crate) async fn listen(port: u16) -> io::Result<TcpListener> {
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await {
        Ok(listener) => Ok(listener),
        Err(_) => TcpListener::bind(("0.0.0.0", port)).await,
    }
}

/// Serves HTTP/1.1 and prior-knowledge HTTP/2 on a port.
pub(crate) async fn http(port: u16, app: Router) -> anyhow::Result<()> {
    counted_http(port, app, &Counters::default()).await
}

pub(crate) async fn counted_http(
    port: u16,
    app: Router,
    counters: &Counters,
) -> anyhow::Result<()> {
    let listener = CountingListener {
        listener: listen(port).await?,
        counter: counters.of(port),
    };
    println!("listening on port {port}");
    axum::serve(
        listener,
        app.layer(from_fn(counted))
            .into_make_service_with_connect_info::<Source>(),
    )
    .await?;
    Ok(())
}

/// Connections and bytes that reached each port.
#[derive(Clone, Default)]
pub(crate) struct Counters(Arc<parking_lot::Mutex<BTreeMap<u16, Arc<Counter>>>>);

#[derive(Default)]
pub(crate) struct Counter {
    connections: AtomicU64,
    received_bytes: AtomicU64,
}

#[derive(Serialize)]
pub(crate) struct Count {
    connections: u64,
    received_bytes: u64,
}

impl Counters {
    pub(crate) fn of(&self, port: u16) -> Arc<Counter> {
        Arc::clone(self.0.lock().entry(port).or_default())
    }

    pub(crate) fn read(&self) -> BTreeMap<u16, Count> {
        let counters = self.0.lock();
        let count = |counter: &Counter| Count {
            connections: counter.connections.load(Ordering::Relaxed),
            received_bytes: counter.received_bytes.load(Ordering::Relaxed),
        };
        counters
            .iter()
            .map(|(port, counter)| (*port, count(counter)))
            .collect()
    }
}

impl Counter {
    /// Counts a new connection and everything that will be read from it.
    pub(crate) fn wrap(self: &Arc<Self>, stream: TcpStream) -> Counted {
        self.connections.fetch_add(1, Ordering::Relaxed);
        Counted {
            stream,
            counter: Arc::clone(self),
        }
    }
}

struct CountingListener {
    listener: TcpListener,
    counter: Arc<Counter>,
}

impl Listener for CountingListener {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        let (stream, source) = Listener::accept(&mut self.listener).await;
        // As Go's and Java's servers do; without it a gRPC answer's trailers wait for the peer's delayed ACK.
        stream.set_nodelay(true).ok();
        (self.counter.wrap(stream), source)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// Where a connection comes from and on which port it arrived.
#[derive(Clone, Copy)]
pub(crate) struct Source {
    pub(crate) address: SocketAddr,
    pub(crate) local_port: u16,
}

impl Connected<IncomingStream<'_, CountingListener>> for Source {
    fn connect_info(stream: IncomingStream<'_, CountingListener>) -> Self {
        let local_port = stream
            .io()
            .stream
            .local_addr()
            .map_or(0, |address| address.port());
        let address = *stream.remote_addr();
        Self {
            address: SocketAddr::new(address.ip().to_canonical(), address.port()),
            local_port,
        }
    }
}

/// A connection whose received bytes are counted.
pub(crate) struct Counted {
    stream: TcpStream,
    counter: Arc<Counter>,
}

impl AsyncRead for Counted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let result = Pin::new(&mut self.stream).poll_read(cx, buf);
        let received = (buf.filled().len() - before) as u64;
        self.counter
            .received_bytes
            .fetch_add(received, Ordering::Relaxed);
        result
    }
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

/// The pod's name.
pub(crate) fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| String::new(), |name| name.trim().to_owned())
}

pub(crate) fn env_or(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}
