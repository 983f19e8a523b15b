use std::fmt;
use std::sync::Arc;

use axum::Router;
use meltemi_ca::Authenticator;
use meltemi_core::TrustDomain;
use tokio::sync::mpsc;

use crate::{SourceUpdate, StandingReader};

pub type MakeAuthenticators = Box<dyn FnOnce(&TrustDomain) -> Vec<Arc<dyn Authenticator>> + Send>;

pub type TakeStandings = Box<dyn FnOnce(StandingReader) + Send>;

/// What a control plane gets from where it runs, instead of files: in Kubernetes from the API server.
pub struct Environment {
    /// The configuration; the first update says everything. The control plane ends when this does.
    pub updates: mpsc::Receiver<SourceUpdate>,
    /// Makes, for the trust domain of the mesh, what is asked after the authenticators of the mesh's own certificates.
    pub authenticators: MakeAuthenticators,
    /// Served on the webhook port with the control plane's own certificate.
    pub webhooks: Router,
    /// The name of this replica's pod.
    pub replica: String,
    /// Is given the way to follow the objects of users, once there is one.
    pub standings: TakeStandings,
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Environment").finish_non_exhaustive()
    }
}
