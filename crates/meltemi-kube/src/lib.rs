//! A mesh on Kubernetes: the only crate that talks to an API server.
//!
//! ```text
//! API server --watch--> trim --> Ledger (what is known, by kind) --> Update     the configuration
//!            <--------- TokenReview                                             who asks for a certificate
//!            <--------- Secrets cacerts, istio-ca-secret                        the authority's key
//!            <--------- ConfigMap istio-ca-root-cert, caBundle of webhooks      its root
//!            <--------- status of Istio's kinds                                 what became of the configuration
//!            ---------> /inject, /validate                                      pods and objects before they are made
//! ```
//! Everything is asked for again after an error, with growing pauses, for as long as the process lives: an API server that
//! is away stops nothing that runs. What an object means is not known here, nor what a proxy is sent.

use std::time::Duration;

mod authority;
mod cluster;
mod events;
mod injector;
mod install;
mod lease;
mod ledger;
mod resources;
mod root;
pub mod status;
mod token;
mod trim;
mod watch;
mod webhooks;

pub use authority::{AuthorityError, AuthoritySecret};
pub use cluster::{Cluster, ClusterError, ClusterOptions, ControlPlanePod};
pub use injector::Injector;
pub use kube::Client;
pub use lease::Leadership;
pub use root::{Ours, RootKeeper};
pub use token::{ReviewError, Reviewed, TokenReviewer};
pub use watch::{Update, Updates, watch};
pub use webhooks::webhooks;

/// The longest that one question may take; watches last.
const TIMEOUT: Duration = Duration::from_secs(10);

/// An answer of the API server, or an error when it takes too long.
async fn bounded<T>(answer: impl Future<Output = kube::Result<T>>) -> kube::Result<T> {
    match tokio::time::timeout(TIMEOUT, answer).await {
        Ok(answer) => answer,
        Err(_late) => {
            let message = format!("no answer within {} s", TIMEOUT.as_secs());
            Err(kube::Error::Service(message.into()))
        }
    }
}

/// Finds the API server: KUBECONFIG, `~/.kube/config`, or that of the cluster that this process runs in.
///
/// # Errors
/// None of them is there, or what is there cannot be used.
pub async fn client() -> kube::Result<Client> {
    Client::try_default().await
}
