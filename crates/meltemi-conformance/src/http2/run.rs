//! Plays every case against a proxy, several side by side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::time::{Instant, timeout};

use super::client_role::{self, Downstream, Reply};
use super::expect::{Expect, MARK, TOO_MANY, received, stream_limit, summary};
use super::frame::{Frame, kind, ping};
use super::peer::{Event, Peer};
use super::script::{Script, Step, post};
use super::server_role;
use crate::report::{Case, Outcome};
use crate::rig::upstream::{Answer, Upstream};
use crate::rig::{Kind, Line, Programs, Subject, client};

const SERVER_GROUP: &str = "h2 server";
const CLIENT_GROUP: &str = "h2 client";
const LANES: usize = 8;
/// How long the proxy may take to do what is required.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long a request may take to come out of the proxy.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);
/// Longer than the windows that cases set.
const ANSWER: Answer =
    Answer::RawKept(b"HTTP/1.1 200 OK\r\ncontent-length: 16\r\n\r\n0123456789abcdef");

#[derive(Clone, Debug)]
enum Job {
    Server(Script),
    Client(Reply),
}

fn jobs() -> Vec<Job> {
    let server = server_role::scripts().into_iter().map(Job::Server);
    server
        .chain(client_role::replies().into_iter().map(Job::Client))
        .collect()
}

/// The cases, in the order of the outcomes of [`run`].
pub fn cases() -> Vec<Case> {
    let case = |job: &Job| match job {
        Job::Server(script) => Case {
            group: SERVER_GROUP,
            name: format!("{} {}", script.id, script.what),
            rule: format!("RFC {}", script.section),
            required: script.expect.text(),
            known: None,
        },
        Job::Client(reply) => Case {
            group: CLIENT_GROUP,
            name: format!("{} {}", reply.id, reply.what),
            known: reply.known,
            rule: format!("RFC {}", reply.section),
            required: reply.expect.map_or_else(
                || match reply.downstream {
                    Downstream::Answer => "answer".to_owned(),
                    Downstream::Failure => "no whole answer".to_owned(),
                    Downstream::Either => "lives".to_owned(),
                },
                Expect::text,
            ),
        },
    };
    jobs().iter().map(case).collect()
}

/// Plays every case against one proxy.
///
/// # Errors
/// The proxy does not start, or has ended.
pub async fn run(proxy: Kind, programs: &Programs) -> Result<Vec<Outcome>> {
    let (mut lines, mut ends) = (Vec::new(), Vec::new());
    for lane in 0..LANES {
        let upstream = Upstream::http1().await?;
        upstream.prepare(ANSWER);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        lines.push(Line::new(format!("{lane}-server"), upstream.address, false));
        lines.push(Line::new(
            format!("{lane}-client"),
            listener.local_addr()?,
            true,
        ));
        ends.push((upstream, listener));
    }
    let mut subject = Subject::start(proxy, programs, &lines).await?;
    let jobs = jobs();
    let outcomes = Arc::new(Mutex::new(vec![None; jobs.len()]));
    let queue = Arc::new(Mutex::new(jobs.into_iter().enumerate()));
    let lanes = ends
        .into_iter()
        .enumerate()
        .map(|(lane, (upstream, listener))| {
            let lane = Lane {
                server: subject.address(&format!("{lane}-server")),
                client: subject.address(&format!("{lane}-client")),
                listener,
                _upstream: upstream,
            };
            lane.work(queue.clone(), outcomes.clone())
        });
    join_all(lanes).await;
    let lives = subject.lives();
    let outcomes = std::mem::take(&mut *outcomes.lock());
    anyhow::ensure!(
        lives,
        "{} has ended; its log:\n{}",
        proxy.name(),
        subject.log()
    );
    Ok(outcomes.into_iter().flatten().collect())
}

type Queue = Arc<Mutex<std::iter::Enumerate<std::vec::IntoIter<Job>>>>;

struct Lane {
    /// The listener that leads to a sound upstream.
    server: SocketAddr,
    /// The listener that leads to us.
    client: SocketAddr,
    listener: TcpListener,
    _upstream: Upstream,
}

impl Lane {
    async fn work(self, queue: Queue, outcomes: Arc<Mutex<Vec<Option<Outcome>>>>) {
        loop {
            let next = queue.lock().next();
            let Some((at, job)) = next else {
                return;
            };
            let outcome = match job {
                Job::Server(script) => play(self.server, &script).await,
                Job::Client(reply) => self.answer(&reply).await,
            };
            if let Some(slot) = outcomes.lock().get_mut(at) {
                *slot = Some(outcome.unwrap_or_else(|error| Outcome::bad(error.to_string())));
            }
        }
    }

    /// Sends a request through the proxy and plays its upstream.
    async fn answer(&self, reply: &Reply) -> std::io::Result<Outcome> {
        let request = format!("{} /v HTTP/1.1\r\nHost: a\r\n\r\n", reply.method);
        let downstream = async {
            let told = client::talk(self.client, request.as_bytes()).await?;
            Ok::<_, std::io::Error>(told)
        };
        let upstream = async {
            let accepted = timeout(ARRIVAL_LIMIT, self.listener.accept()).await??;
            let mut peer = Peer::server(accepted.0, &reply.settings).await?;
            // The request may have come together with the settings.
            let is_request = |f: &Frame| f.stream == 1 && f.kind == kind::HEADERS;
            if !peer.heard.iter().any(is_request) {
                let deadline = Instant::now() + ARRIVAL_LIMIT;
                let arrived = peer.until(deadline, is_request).await;
                if !matches!(arrived, Event::Frame(_)) {
                    return Err(std::io::ErrorKind::TimedOut.into());
                }
            }
            peer.send(&reply.bytes).await;
            let heard = listen(&mut peer, reply.expect).await;
            Ok::<_, std::io::Error>((heard, peer))
        };
        let (told, upstream) = tokio::join!(downstream, upstream);
        // The upstream stays until the downstream has its answer.
        let (told, (heard, _peer)) = (told?, upstream?);
        let statuses = told.statuses();
        let is_answered = statuses.last() == Some(&200) && told.is_complete(reply.method == "HEAD");
        let text = statuses
            .iter()
            .map(u16::to_string)
            .collect::<Vec<_>>()
            .join(" ");
        Ok(match (reply.downstream, heard) {
            (Downstream::Answer, _) if !is_answered => Outcome::bad(format!("downstream {text}")),
            (Downstream::Failure, _) if is_answered => Outcome::bad("downstream is answered 200"),
            (_, Some(outcome)) => outcome,
            (_, None) if text.is_empty() => Outcome::good("downstream closed"),
            (_, None) => Outcome::good(format!("downstream {text}")),
        })
    }
}

/// Hears the proxy out; `None` where nothing is required of it.
async fn listen(peer: &mut Peer, expect: Option<Expect>) -> Option<Outcome> {
    let expect = expect?;
    let deadline = Instant::now() + PATIENCE;
    loop {
        let event = peer.next(deadline).await;
        let is_closed = event == Event::Closed;
        let is_over = event == Event::Silence || is_closed;
        let verdict = expect.judge(&peer.heard, is_closed, is_over);
        if verdict.is_some() || is_over {
            return verdict;
        }
    }
}

/// Plays a client of the proxy.
async fn play(address: SocketAddr, script: &Script) -> std::io::Result<Outcome> {
    let mut peer = match &script.settings {
        Some(values) => Peer::client(address, values).await?,
        None => Peer::connect(address).await?,
    };
    for step in &script.steps {
        let deadline = Instant::now() + PATIENCE;
        let event = match step {
            Step::Send(bytes) => {
                peer.send(bytes).await;
                continue;
            }
            Step::AwaitEnd(stream) => {
                peer.until(deadline, |f| f.stream == *stream && f.ends_stream())
                    .await
            }
            Step::AwaitData(stream, length) => {
                while received(&peer.heard, *stream) < *length {
                    if !matches!(peer.next(deadline).await, Event::Frame(_)) {
                        return Ok(Outcome::bad(summary(&peer.heard, false)));
                    }
                }
                continue;
            }
            Step::OpenTooMany => {
                open_too_many(&mut peer).await;
                continue;
            }
        };
        if !matches!(event, Event::Frame(_)) {
            return Ok(Outcome::bad(summary(&peer.heard, event == Event::Closed)));
        }
    }
    if script.expect == Expect::Alive {
        peer.send(&ping(MARK)).await;
    }
    let verdict = listen(&mut peer, Some(script.expect)).await;
    Ok(verdict.unwrap_or_else(|| Outcome::bad(summary(&peer.heard, false))))
}

async fn open_too_many(peer: &mut Peer) {
    let limit = stream_limit(&peer.heard);
    if limit > TOO_MANY {
        return;
    }
    let heads: Vec<u8> = (0..=limit).flat_map(|n| post(2 * n + 1)).collect();
    peer.send(&heads).await;
}
