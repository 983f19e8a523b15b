//! Drives one stream: requests and snapshots in, responses out when the transport has room.

use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3::Node;
use prost::Message;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tonic::{Request, Status, Streaming};

use super::{Connection, Connector, Event, Peer, StatusSink};
use crate::limits::{FIRST_REQUEST_TIMEOUT, RESPONSE_QUEUE};
use crate::resource::Snapshot;

/// What one peer holds and is owed, in one of the two variants of the protocol. Pure.
pub(super) trait Session: Send + 'static {
    type Request: Message + Default + 'static;
    type Response: Message + 'static;

    /// The first request of a stream says who is there (`DiscoveryRequest.node`).
    fn take_node(request: &mut Self::Request) -> Option<Node>;

    /// # Errors
    /// The request breaks a bound; the stream ends.
    fn on_request(&mut self, request: Self::Request) -> Result<Option<Event>, Status>;

    /// What happened since it was last asked, beside requests and responses.
    fn take_events(&mut self) -> Vec<Event> {
        Vec::new()
    }

    /// Whether the peer owes no ACK.
    fn is_answered(&self) -> bool;

    /// The next response that brings the peer nearer to the snapshot, none when it is there or must ACK first.
    fn next_response(&mut self, snapshot: &Snapshot) -> Option<(Self::Response, Event)>;
}

/// Answers at once, before the first request is read: a client may wait for headers before it sends.
pub(super) fn spawn<C: Connector, S: Session>(
    connector: &Arc<C>,
    request: Request<Streaming<S::Request>>,
    session: S,
) -> mpsc::Receiver<Result<S::Response, Status>> {
    let (responses, outbound) = mpsc::channel(RESPONSE_QUEUE);
    let connector = Arc::clone(connector);
    tokio::spawn(async move {
        if let Err(status) = run(&*connector, request, session, &responses).await {
            tracing::info!(code = ?status.code(), reason = status.message(), "xDS stream refused");
            // A peer that has gone does not hear why.
            let _gone = responses.send(Err(status)).await;
        }
    });
    outbound
}

async fn run<C: Connector, S: Session>(
    connector: &C,
    request: Request<Streaming<S::Request>>,
    session: S,
    responses: &mpsc::Sender<Result<S::Response, Status>>,
) -> Result<(), Status> {
    let (metadata, extensions, mut requests) = request.into_parts();
    let first = timeout(FIRST_REQUEST_TIMEOUT, requests.message())
        .await
        .map_err(|_elapsed| Status::deadline_exceeded("no request came"))??;
    let Some(mut first) = first else {
        return Ok(());
    };
    let node = S::take_node(&mut first)
        .ok_or_else(|| Status::invalid_argument("the first request names no node"))?;
    let peer = Peer {
        metadata,
        extensions,
    };
    let Connection { snapshots, status } = connector.connect(node, peer).await?;
    let mut stream = Stream {
        session,
        snapshots,
        status,
        at_rest: None,
    };
    let ended = stream.serve(first, &mut requests, responses).await;
    stream.status.record(Event::Disconnected);
    ended
}

struct Stream<S> {
    session: S,
    snapshots: watch::Receiver<Option<Arc<Snapshot>>>,
    status: Box<dyn StatusSink>,
    /// The last snapshot of which the peer had everything.
    at_rest: Option<Arc<Snapshot>>,
}

impl<S: Session> Stream<S> {
    async fn serve(
        &mut self,
        first: S::Request,
        requests: &mut Streaming<S::Request>,
        responses: &mpsc::Sender<Result<S::Response, Status>>,
    ) -> Result<(), Status> {
        self.accept(first)?;
        let mut may_respond = true;
        loop {
            tokio::select! {
                // Requests first: they may widen what the next response answers.
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => {
                        self.accept(request)?;
                        may_respond = true;
                    }
                    Ok(None) => return Ok(()),
                    // Too large, or no message. Where the transport broke, nobody hears it.
                    Err(status) => return Err(status),
                },
                changed = self.snapshots.changed() => {
                    if changed.is_err() {
                        return Err(Status::unavailable("the control plane is shutting down"));
                    }
                    may_respond = true;
                }
                permit = responses.reserve(), if may_respond => {
                    let Ok(permit) = permit else { return Ok(()) };
                    match self.respond() {
                        Some(response) => permit.send(Ok(response)),
                        None => may_respond = false,
                    }
                }
            }
        }
    }

    fn accept(&mut self, request: S::Request) -> Result<(), Status> {
        if let Some(event) = self.session.on_request(request)? {
            self.status.record(event);
        }
        self.record_events();
        Ok(())
    }

    fn record_events(&mut self) {
        for event in self.session.take_events() {
            self.status.record(event);
        }
    }

    fn respond(&mut self) -> Option<S::Response> {
        let snapshot = self.snapshots.borrow().clone()?;
        let next = self.session.next_response(&snapshot);
        self.record_events();
        let Some((response, event)) = next else {
            self.rest(snapshot);
            return None;
        };
        self.status.record(event);
        Some(response)
    }

    /// Tells once for each snapshot that nothing of it is missing.
    fn rest(&mut self, snapshot: Arc<Snapshot>) {
        let told = self.at_rest.as_ref();
        let is_told = told.is_some_and(|told| Arc::ptr_eq(told, &snapshot));
        if is_told || !self.session.is_answered() {
            return;
        }
        let version = snapshot.version().to_owned();
        self.status.record(Event::AtRest { version });
        self.at_rest = Some(snapshot);
    }
}
