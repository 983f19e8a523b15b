//! Containers' logs, streamed.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{Query, State};
use futures_util::StreamExt as _;
use futures_util::stream;
use serde::Deserialize;

use super::{Answer, Refusal, Shared, default_namespace};
use crate::pod::logs::{RunLog, tail};

#[derive(Debug, Deserialize)]
pub(super) struct Logs {
    #[serde(default = "default_namespace")]
    namespace: String,
    pod: String,
    container: Option<String>,
    tail: Option<usize>,
    /// Only what was written in this time up to now.
    since_millis: Option<u64>,
    #[serde(default)]
    previous: bool,
    #[serde(default)]
    follow: bool,
}

pub(super) async fn logs(State(daemon): Shared, Query(query): Query<Logs>) -> Answer<Body> {
    let target = daemon
        .target(query.namespace, query.pod, query.container)
        .await?;
    let container = target.container;
    let log = target
        .shared
        .logs
        .lock()
        .find(&container, query.previous)
        .cloned();
    let what = if query.previous {
        "previous run"
    } else {
        "output yet"
    };
    let log = log.ok_or_else(|| {
        Refusal(
            http::StatusCode::NOT_FOUND,
            format!("container {container} has no {what}"),
        )
    })?;
    let since = query.since_millis.map(Duration::from_millis);
    let from = since.map_or(0, |since| log.written_since(since));
    let (text, end) = read(log.clone(), from).await?;
    let shown = Bytes::copy_from_slice(query.tail.map_or(&text[..], |lines| tail(&text, lines)));
    let first = stream::once(async move { Ok::<_, Refusal>(shown) });
    if !query.follow {
        return Ok(Body::from_stream(first.map(broken)));
    }
    let rest = stream::try_unfold((log, end), |(log, sent)| async move {
        // `None` when the run has ended.
        if !log.grows(sent).await {
            return Ok(None);
        }
        let (text, end) = read(log.clone(), sent).await?;
        Ok(Some((Bytes::from(text), (log, end))))
    });
    Ok(Body::from_stream(first.chain(rest).map(broken)))
}

/// Reads a log's files on a thread that may block.
async fn read(log: RunLog, sent: u64) -> Answer<(Vec<u8>, u64)> {
    let read = tokio::task::spawn_blocking(move || log.read_from(sent)).await;
    Ok(read.map_err(anyhow::Error::from)?)
}

fn broken(chunk: Answer<Bytes>) -> std::io::Result<Bytes> {
    chunk.map_err(|refusal| std::io::Error::other(refusal.1))
}
