//! Connects, speaks and reconnects.

use std::future::Future;
use std::sync::Arc;

use meltemi_proto::envoy::config::core::v3::Node;
use meltemi_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use meltemi_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status, Streaming};

use super::backoff::Backoff;
use super::interest::Interest;
use super::state::{Received, State};
use super::{ClientState, Rejection, Subscriptions, Transport, TransportError, Update};
use crate::limits::{CONNECT_TIMEOUT, REQUEST_QUEUE, RESPONSE_LIMIT_BYTES};

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error("connecting to the control plane: {0}")]
    Connect(TransportError),
    #[error("connecting to the control plane: no answer within {CONNECT_TIMEOUT:?}")]
    ConnectTimeout,
    #[error("xDS stream: {}: {}", .0.code(), .0.message())]
    Stream(Box<Status>),
    #[error("the control plane closed the xDS stream")]
    Closed,
    #[error("the application wants another connection")]
    Restart,
    /// Nobody wants updates any more.
    #[error("the application is gone")]
    Unused,
}

impl From<Status> for Ended {
    fn from(status: Status) -> Self {
        Self::Stream(Box::new(status))
    }
}

#[derive(Debug)]
pub(super) struct Worker {
    node: Node,
    interest: watch::Receiver<Interest>,
    /// Keeps `interest` open: subscriptions outlive the handles that made them.
    subscriptions: Subscriptions,
    updates: mpsc::Sender<Update>,
    reported: watch::Sender<ClientState>,
    state: State,
    backoff: Backoff,
}

/// The sending half of one stream.
struct Outbound {
    requests: mpsc::Sender<DeltaDiscoveryRequest>,
    /// Goes with the first request.
    node: Option<Node>,
}

impl Outbound {
    async fn send(&mut self, mut request: DeltaDiscoveryRequest) -> Result<(), Ended> {
        request.node = self.node.take();
        let sent = self.requests.send(request).await;
        sent.map_err(|_closed| Ended::Closed)
    }
}

impl Worker {
    pub(super) fn new(
        node: Node,
        subscriptions: Subscriptions,
        updates: mpsc::Sender<Update>,
        reported: watch::Sender<ClientState>,
    ) -> Self {
        Self {
            node,
            interest: subscriptions.follow(),
            subscriptions,
            updates,
            reported,
            state: State::default(),
            backoff: Backoff::default(),
        }
    }

    pub(super) async fn run<C, F>(mut self, mut connect: C)
    where
        C: FnMut() -> F + Send + 'static,
        F: Future<Output = Result<Transport, TransportError>> + Send + 'static,
    {
        let mut random = StdRng::from_os_rng();
        let updates = self.updates.clone();
        loop {
            let ended = tokio::select! {
                ended = self.connection(&mut connect) => ended,
                () = updates.closed() => return,
            };
            if matches!(ended, Ended::Unused) {
                return;
            }
            tracing::warn!(reason = %ended, "xDS connection ended");
            self.reported.send_modify(|state| {
                state.connected = false;
                state.last_error = Some(ended.to_string());
            });
            tokio::select! {
                () = sleep(self.backoff.pause(&mut random)) => {}
                () = updates.closed() => return,
            }
        }
    }

    async fn connection<C, F>(&mut self, connect: &mut C) -> Ended
    where
        C: FnMut() -> F,
        F: Future<Output = Result<Transport, TransportError>>,
    {
        let transport = match timeout(CONNECT_TIMEOUT, connect()).await {
            Ok(Ok(transport)) => transport,
            Ok(Err(error)) => return Ended::Connect(error),
            Err(_elapsed) => return Ended::ConnectTimeout,
        };
        match self.converse(transport).await {
            Ok(()) => Ended::Unused,
            Err(ended) => ended,
        }
    }

    async fn converse(&mut self, transport: Transport) -> Result<(), Ended> {
        self.state.reconnect();
        let (requests, queue) = mpsc::channel(REQUEST_QUEUE);
        let mut outbound = Outbound {
            requests,
            node: Some(self.node.clone()),
        };
        let mut client = AggregatedDiscoveryServiceClient::new(transport.channel)
            .max_decoding_message_size(RESPONSE_LIMIT_BYTES);
        let mut call = Request::new(ReceiverStream::new(queue));
        *call.metadata_mut() = transport.metadata;
        // Some servers send headers with their first response only: requests must flow while the call opens.
        let mut opening = Box::pin(client.delta_aggregated_resources(call));
        let mut responses = loop {
            self.ask(&mut outbound).await?;
            tokio::select! {
                opened = &mut opening => break opened?.into_inner(),
                changed = self.interest.changed() => changed.map_err(|_gone| Ended::Unused)?,
            }
        };
        self.reported.send_modify(|state| {
            state.connected = true;
            state.connections += 1;
            state.last_error = None;
        });
        self.listen(&mut outbound, &mut responses).await
    }

    async fn listen(
        &mut self,
        outbound: &mut Outbound,
        responses: &mut Streaming<DeltaDiscoveryResponse>,
    ) -> Result<(), Ended> {
        loop {
            tokio::select! {
                () = self.subscriptions.restarted() => return Err(Ended::Restart),
                response = responses.message() => {
                    let response = response?.ok_or(Ended::Closed)?;
                    // Only a server that says something is a working one.
                    self.backoff.reset();
                    let received = self.state.receive(&self.interest.borrow(), response);
                    let Some(answer) = self.judge(received).await else {
                        return Ok(());
                    };
                    outbound.send(answer).await?;
                }
                changed = self.interest.changed() => {
                    changed.map_err(|_gone| Ended::Unused)?;
                    self.ask(outbound).await?;
                }
            }
        }
    }

    async fn ask(&mut self, outbound: &mut Outbound) -> Result<(), Ended> {
        let requests = self.state.requests(&self.interest.borrow_and_update());
        for request in requests {
            outbound.send(request).await?;
        }
        Ok(())
    }

    /// Lets the application judge; `None` when it is gone.
    async fn judge(&mut self, received: Received) -> Option<DeltaDiscoveryRequest> {
        let Received {
            key,
            nonce,
            added,
            removed,
            malformed: mut rejected,
        } = received;
        let version = |r: &crate::Resource| (r.name.clone(), r.version.clone());
        let versions: Vec<_> = added.iter().map(version).collect();
        let (verdict, judged) = oneshot::channel();
        let update = Update {
            type_url: key.url.clone(),
            added,
            removed: removed.clone(),
            verdict,
        };
        self.updates.send(update).await.ok()?;
        match judged.await {
            Ok(named) => rejected.extend(named),
            Err(_dropped) => rejected.extend(all_unjudged(&versions, &removed)),
        }
        for rejection in &rejected {
            let Rejection { name, reason } = rejection;
            tracing::warn!(type_url = key.url, name, reason, "resource rejected");
        }
        Some(self.state.judge(&key, nonce, versions, &removed, &rejected))
    }
}

fn all_unjudged<'a>(
    versions: &'a [(Arc<str>, Arc<str>)],
    removed: &'a [String],
) -> impl Iterator<Item = Rejection> + 'a {
    let added = versions.iter().map(|(name, _)| &**name);
    let removed = removed.iter().map(String::as_str);
    added.chain(removed).map(|name| Rejection {
        name: name.to_owned(),
        reason: "not processed".to_owned(),
    })
}
