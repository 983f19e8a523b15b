//! Sends every vector through a proxy, several side by side.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures_util::future::join_all;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::judge::{self, Given, Told};
use super::responses::{self, Response};
use super::{Expectation, Extent, Fields, Vector, Verdict, http1, http2};
use crate::http2::frame::{code, flag, headers, kind, request_block};
use crate::http2::peer::{Event, Peer};
use crate::report::{Case, Outcome};
use crate::rig::upstream::{Answer, Upstream};
use crate::rig::{Kind, Line, Programs, Subject, client};

const GROUP: &str = "smuggling";
/// Connections at a time: each has an upstream of its own, so that every byte has one origin.
const LANES: usize = 8;
const PATIENCE: Duration = Duration::from_secs(2);
/// After a stream has ended: for what the proxy still does with the rest.
const SILENCE: Duration = Duration::from_millis(200);

/// What is sent, and how.
#[derive(Clone, Debug)]
enum Job {
    Bytes(Vector),
    Fields(Fields),
    Answer(Response, Client),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Client {
    Http1,
    Http2,
}

/// A job on its way through a proxy.
#[derive(Clone, Debug)]
struct Passage {
    job: Job,
    upstream_http2: bool,
}

impl Passage {
    fn expectation(&self) -> &Expectation {
        match &self.job {
            Job::Bytes(vector) => &vector.expectation,
            Job::Fields(fields) => &fields.expectation,
            Job::Answer(response, _) => &response.expectation,
        }
    }

    fn case(&self) -> Case {
        let expectation = self.expectation();
        let downstream = match self.job {
            Job::Bytes(_) | Job::Answer(_, Client::Http1) => "h1",
            Job::Fields(_) | Job::Answer(_, Client::Http2) => "h2",
        };
        let upstream = if self.upstream_http2 { "h2" } else { "h1" };
        Case {
            group: GROUP,
            name: format!("{downstream}>{upstream} {}", expectation.name),
            rule: expectation.rule.to_owned(),
            required: expectation.verdict.name().to_owned(),
            known: None,
        }
    }
}

/// Every vector in every translation that it makes sense in.
fn passages(extent: Extent) -> Vec<Passage> {
    let upstreams: &[bool] = match extent {
        Extent::Core => &[false],
        Extent::Full => &[false, true],
    };
    let mut all = Vec::new();
    for upstream_http2 in upstreams.iter().copied() {
        let mut push = |job| {
            all.push(Passage {
                job,
                upstream_http2,
            });
        };
        for vector in http1::vectors() {
            let is_scripted = matches!(
                vector.expectation.answer,
                Answer::Raw(_) | Answer::RawKept(_)
            );
            if !(is_scripted && upstream_http2) {
                push(Job::Bytes(vector));
            }
        }
        http2::vectors()
            .into_iter()
            .map(Job::Fields)
            .for_each(&mut push);
    }
    for client in [Client::Http1, Client::Http2] {
        let answers = responses::vectors().into_iter();
        all.extend(answers.map(|response| Passage {
            job: Job::Answer(response, client),
            upstream_http2: false,
        }));
    }
    all
}

/// The cases, in the order of the outcomes of [`run`].
pub fn cases(extent: Extent) -> Vec<Case> {
    passages(extent).iter().map(Passage::case).collect()
}

/// Runs every vector against one proxy.
///
/// # Errors
/// The proxy does not start.
pub async fn run(kind: Kind, programs: &Programs, extent: Extent) -> Result<Vec<Outcome>> {
    let (mut lines, mut upstreams) = (Vec::new(), Vec::new());
    for lane in 0..LANES {
        let pair = (Upstream::http1().await?, Upstream::http2().await?);
        lines.push(Line::new(format!("{lane}-h1"), pair.0.address, false));
        lines.push(Line::new(format!("{lane}-h2"), pair.1.address, true));
        upstreams.push(pair);
    }
    let mut subject = Subject::start(kind, programs, &lines).await?;
    let passages = passages(extent);
    let outcomes = Arc::new(Mutex::new(vec![None; passages.len()]));
    let queue = Arc::new(Mutex::new(passages.into_iter().enumerate()));
    let lanes = upstreams
        .into_iter()
        .enumerate()
        .map(|(lane, (http1, http2))| {
            let addresses = (
                subject.address(&format!("{lane}-h1")),
                subject.address(&format!("{lane}-h2")),
            );
            work(
                Lane {
                    http1,
                    http2,
                    addresses,
                },
                queue.clone(),
                outcomes.clone(),
            )
        });
    join_all(lanes).await;
    let lives = subject.lives();
    let outcomes = std::mem::take(&mut *outcomes.lock());
    anyhow::ensure!(
        lives,
        "{} has ended; its log:\n{}",
        kind.name(),
        subject.log()
    );
    Ok(outcomes.into_iter().flatten().collect())
}

struct Lane {
    http1: Upstream,
    http2: Upstream,
    /// The listeners that lead to them.
    addresses: (SocketAddr, SocketAddr),
}

type Queue = Arc<Mutex<std::iter::Enumerate<std::vec::IntoIter<Passage>>>>;

async fn work(mut lane: Lane, queue: Queue, outcomes: Arc<Mutex<Vec<Option<Outcome>>>>) {
    loop {
        let next = queue.lock().next();
        let Some((at, passage)) = next else {
            return;
        };
        let outcome = lane.pass(&passage).await;
        if let Some(slot) = outcomes.lock().get_mut(at) {
            *slot = Some(outcome);
        }
    }
}

impl Lane {
    async fn pass(&mut self, passage: &Passage) -> Outcome {
        let (upstream, address) = if passage.upstream_http2 {
            (&mut self.http2, self.addresses.1)
        } else {
            (&mut self.http1, self.addresses.0)
        };
        let expectation = passage.expectation();
        upstream.prepare(expectation.answer);
        let told = match &passage.job {
            Job::Bytes(vector) => send_bytes(address, &vector.bytes).await,
            Job::Fields(fields) => send_fields(address, fields).await,
            Job::Answer(response, client) => {
                let given = match client {
                    Client::Http1 => ask_http1(address, response).await,
                    Client::Http2 => ask_http2(address, response).await,
                };
                upstream.take().await;
                return match given {
                    Ok(given) => judge::response(expectation, &given),
                    Err(error) => Outcome::bad(error.to_string()),
                };
            }
        };
        if expectation.verdict == Verdict::RefuseBody {
            // The head may still be on its way to the upstream: it is this case's, not the next one's.
            tokio::time::sleep(SILENCE).await;
        }
        let seen = upstream.take().await;
        match told {
            Ok(told) => judge::request(expectation, &seen, &told),
            Err(error) => Outcome::bad(error.to_string()),
        }
    }
}

async fn send_bytes(address: SocketAddr, bytes: &[u8]) -> std::io::Result<Told> {
    let reply = client::talk(address, bytes).await?;
    Ok(Told {
        statuses: reply.statuses(),
        reset: None,
        closed: reply.closed,
    })
}

async fn send_fields(address: SocketAddr, fields: &Fields) -> std::io::Result<Told> {
    let mut peer = Peer::client(address, &[]).await?;
    peer.send(&fields.frames()).await;
    Ok(listen(&mut peer, 1).await.told)
}

async fn ask_http2(address: SocketAddr, response: &Response) -> std::io::Result<Given> {
    let mut peer = Peer::client(address, &[]).await?;
    let mut given = Given::default();
    for stream in (1..).step_by(2).take(response.repeats) {
        let block = request_block(response.method, &[]);
        peer.send(&headers(stream, flag::END_STREAM, &block)).await;
        given = listen(&mut peer, stream).await;
    }
    Ok(given)
}

/// Reads until a stream has ended, and a little longer.
async fn listen(peer: &mut Peer, stream: u32) -> Given {
    let mut given = Given::default();
    let mut deadline = Instant::now() + PATIENCE;
    loop {
        match peer.next(deadline).await {
            Event::Silence => return given,
            Event::Closed => {
                given.told.closed = true;
                return given;
            }
            Event::Frame(frame) => {
                if matches!(frame.kind, kind::RST_STREAM | kind::GOAWAY) {
                    let code = frame.code().unwrap_or_default();
                    // The proxy may say that it needs no more of a request that is answered.
                    if code != code::NO_ERROR {
                        given.told.reset.get_or_insert_with(|| code::name(code));
                    }
                    deadline = Instant::now() + SILENCE;
                }
                if frame.stream != stream {
                    continue;
                }
                if frame.kind == kind::HEADERS && given.told.statuses.iter().all(|s| *s < 200) {
                    given
                        .told
                        .statuses
                        .push(frame.indexed_status().unwrap_or(0));
                }
                if frame.ends_stream() {
                    given.is_complete = true;
                    deadline = Instant::now() + SILENCE;
                }
                given.bytes.extend(frame.payload);
            }
        }
    }
}

async fn ask_http1(address: SocketAddr, response: &Response) -> std::io::Result<Given> {
    let request = format!("{} /v HTTP/1.1\r\nHost: a\r\n\r\n", response.method);
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let mut given = Given::default();
    for _ in 0..response.repeats {
        let sent = tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await;
        if sent.is_err() {
            break;
        }
        let reply = client::read_all(&mut stream).await;
        given.is_complete = reply.is_complete(response.method == "HEAD");
        given.oddity = given.oddity.or_else(|| reply.oddity());
        given.told = Told {
            statuses: reply.statuses(),
            reset: None,
            closed: reply.closed,
        };
        given.bytes.extend(reply.bytes);
    }
    Ok(given)
}
