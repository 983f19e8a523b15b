//! An open-loop load generator: requests are due at fixed times, and latency counts from when they were due.
//!
//! It ends by itself, after a duration or a number of requests, and prints what it counted as one JSON object.

mod connection;
mod grpc;
mod http_calls;
mod summary;
mod websocket;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use clap::{Args, ValueEnum};
use http::{HeaderName, HeaderValue, Uri};
use tokio::time::Instant;

use connection::Connection;
use summary::Summary;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Requests per second over all connections; without it each connection sends as soon as it has an answer.
    #[arg(long)]
    rps: Option<f64>,
    /// How long to send, such as 30s or 2m.
    #[arg(long, value_parser = duration, default_value = "10s")]
    duration: Duration,
    /// Stop after that many requests.
    #[arg(long)]
    requests: Option<u64>,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// A header to send, `name: value`; may be given again.
    #[arg(long, value_parser = header)]
    header: Vec<(HeaderName, HeaderValue)>,
    /// What to speak; a message of a stream counts as a request.
    #[arg(long, value_enum, default_value = "http1")]
    protocol: Protocol,
    /// Messages after which a stream or WebSocket is ended and opened anew.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    messages_per_stream: u32,
    /// Open a new connection for each request.
    #[arg(long)]
    fresh_connections: bool,
    /// How long one request may take.
    #[arg(long, value_parser = duration, default_value = "15s")]
    timeout: Duration,
    /// Count the answers by this response header.
    #[arg(long)]
    count_header: Option<HeaderName>,
    /// Count the answers by this top-level field of their JSON body.
    #[arg(long)]
    count_json: Option<String>,
    /// What to request.
    url: Uri,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Protocol {
    Http1,
    /// HTTP/2 with prior knowledge.
    H2,
    /// Unary calls of the echo service.
    Grpc,
    /// Bidirectional streams of the echo service.
    GrpcStream,
    Websocket,
}

fn duration(text: &str) -> Result<Duration, String> {
    meltemi_core::duration::parse(text)
        .ok_or_else(|| format!("\"{text}\" is not a duration such as 500ms, 30s or 2m"))
}

fn header(text: &str) -> Result<(HeaderName, HeaderValue), String> {
    let (name, value) = text
        .split_once(':')
        .ok_or("a header is written `name: value`")?;
    let name = name
        .trim()
        .parse()
        .map_err(|_| format!("\"{name}\" is no header name"))?;
    let value = value
        .trim()
        .parse()
        .map_err(|_| "that is no header value".to_owned())?;
    Ok((name, value))
}

/// Hands out the times at which requests are due.
struct Schedule {
    start: Instant,
    end: Instant,
    /// Between two requests; `None` sends as fast as answers come.
    interval: Option<Duration>,
    limit: u64,
    next: AtomicU64,
}

impl Schedule {
    fn new(options: &Options) -> Self {
        let start = Instant::now();
        Self {
            start,
            end: start + options.duration,
            interval: options
                .rps
                .map(|rps| Duration::from_secs_f64(1.0 / rps.max(0.001))),
            limit: options.requests.unwrap_or(u64::MAX),
            next: AtomicU64::new(0),
        }
    }

    /// When the next request is due; `None` when there is none left. A count of requests is not cut by the default duration.
    fn take(&self) -> Option<Instant> {
        let index = self.next.fetch_add(1, Ordering::Relaxed);
        let due = match self.interval {
            Some(interval) => {
                self.start + interval.mul_f64(u32::try_from(index).map_or(f64::MAX, f64::from))
            }
            None => Instant::now(),
        };
        let counted = self.limit != u64::MAX;
        (index < self.limit && (counted || due < self.end)).then_some(due)
    }
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.url.host().is_some(), "the URL needs a host");
    let options = Arc::new(options);
    let schedule = Arc::new(Schedule::new(&options));
    let workers: Vec<_> = (0..options.connections.clamp(1, 1024))
        .map(|_| tokio::spawn(work(Arc::clone(&options), Arc::clone(&schedule))))
        .collect();
    let stopper = tokio::spawn(stop_early(Arc::clone(&schedule)));
    let mut summary = Summary::default();
    for worker in workers {
        summary.merge(worker.await?);
    }
    stopper.abort();
    println!("{}", summary.into_json(schedule.start.elapsed()));
    Ok(())
}

/// A signal ends the schedule; what was counted so far is still printed.
async fn stop_early(schedule: Arc<Schedule>) {
    crate::serve::terminated().await;
    schedule.next.store(u64::MAX / 2, Ordering::Relaxed);
}

/// One connection's share of the load.
async fn work(options: Arc<Options>, schedule: Arc<Schedule>) -> Summary {
    let mut summary = Summary::default();
    let mut connection: Option<Connection> = None;
    while let Some(due) = schedule.take() {
        tokio::time::sleep_until(due).await;
        let outcome = tokio::time::timeout(
            options.timeout,
            connection::request(&options, &mut connection),
        )
        .await;
        match outcome {
            Ok(Ok(answer)) => summary.answered(&answer, due.elapsed(), &options),
            Ok(Err(kind)) => {
                connection = None;
                summary.failed(kind);
            }
            Err(_elapsed) => {
                connection = None;
                summary.failed("timeout".to_owned());
            }
        }
        if options.fresh_connections || connection.as_ref().is_some_and(Connection::is_done) {
            end(&options, connection.take(), &mut summary).await;
        }
    }
    end(&options, connection, &mut summary).await;
    summary
}

/// Ends a connection; a stream that does not end well spoils its last message.
async fn end(options: &Options, connection: Option<Connection>, summary: &mut Summary) {
    let Some(connection) = connection else {
        return;
    };
    match tokio::time::timeout(options.timeout, connection.close()).await {
        Ok(Ok(())) => {}
        Ok(Err(kind)) => summary.spoiled(kind),
        Err(_elapsed) => summary.spoiled("close: timeout".to_owned()),
    }
}
