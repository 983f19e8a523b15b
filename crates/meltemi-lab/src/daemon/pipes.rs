//! Containers' logs, streamed.

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
    let (text, end) = log.read();
    let shown = Bytes::copy_from_slice(query.tail.map_or(&text[..], |lines| tail(&text, lines)));
    let first = stream::once(async move { Ok::<_, std::convert::Infallible>(shown) });
    if !query.follow {
        return Ok(Body::from_stream(first));
    }
    let rest = stream::unfold((log, end), |(log, sent)| async move {
        let (bytes, end) = next(&log, sent).await?;
        Some((Ok(bytes), (log, end)))
    });
    Ok(Body::from_stream(first.chain(rest)))
}

/// Waits for what comes after `sent` bytes; `None` when the run has ended.
async fn next(log: &RunLog, sent: u64) -> Option<(Bytes, u64)> {
    let mut written = log.written.clone();
    drop(written.wait_for(|total| *total > sent).await.ok()?);
    let (text, end) = log.read();
    let fresh = usize::try_from(end - sent)
        .unwrap_or(usize::MAX)
        .min(text.len());
    Some((Bytes::copy_from_slice(text.get(text.len() - fresh..)?), end))
}
