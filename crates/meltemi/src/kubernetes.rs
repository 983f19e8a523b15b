//! The control plane in a Kubernetes cluster: its parts find each other here.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use meltemi_api::status::Standing;
use meltemi_ca::{
    AuthError, AuthenticatedWorkload, Authenticator, Credentials, PodRef, Signer, SignerOptions,
};
use meltemi_control::{Environment, Options, SecretsOf, SourceUpdate, StandingReader};
use meltemi_core::names::{ISTIOD, TOKEN_AUDIENCE, of_revision, port};
use meltemi_core::{Identity, TrustDomain};
use meltemi_inject::InjectionSettings;
use meltemi_kube::status::{Standings, StatusWriter};
use meltemi_kube::{
    AuthoritySecret, Injector, Leadership, Ours, ReviewError, Reviewed, RootKeeper, TokenReviewer,
    Updates, status,
};
use meltemi_process::CancellationToken;
use tokio::sync::{mpsc, oneshot};

const POD_NAME: &str = "POD_NAME";
/// In the state folder: the authority's own folder, and its published root.
const AUTHORITY_FOLDER: &str = "ca";
const ROOT_FILE: &str = "root-cert.pem";
/// Updates on their way from the watch to the control plane.
const UPDATE_QUEUE_LIMIT: usize = 1;

pub(crate) async fn run(mut options: Options, shutdown: CancellationToken) -> anyhow::Result<()> {
    let client = meltemi_kube::client()
        .await
        .context("cannot find the API server")?;
    let namespace = options.namespace.clone();
    let folder = options.state_dir.join(AUTHORITY_FOLDER);
    let mut secret = AuthoritySecret::new(client.clone(), &namespace, &folder);
    if !secret.fetch().await? {
        let founding = SignerOptions {
            trust_domain: options.trust_domain.clone().unwrap_or_default(),
            ..SignerOptions::default()
        };
        std::fs::create_dir_all(&options.state_dir)?;
        Signer::load_or_create(&folder, founding, SystemTime::now())?;
        secret.keep().await?;
    }
    // What is not there yet will be: an API server answers whole lists or none.
    options.accept_empty_config = true;
    let root = options.state_dir.join(ROOT_FILE);
    let service = of_revision(ISTIOD, &options.revision);
    let base = InjectionSettings {
        revision: options.revision.clone(),
        cluster_id: options.cluster_id.clone(),
        ca_address: format!("{service}.{namespace}.svc:{}", port::XDS_TLS),
        ..InjectionSettings::default()
    };
    let injector = Injector::new(base, &namespace);
    let reviewer = TokenReviewer::new(client.clone(), TOKEN_AUDIENCE);
    let believing = injector.clone();
    let replica = std::env::var(POD_NAME).context("POD_NAME names this replica; it is not set")?;
    let leadership = Leadership::seek(client.clone(), &namespace, status::LEASE, replica.clone());
    let writer = StatusWriter::new(client.clone(), &leadership);
    let (standings, reader) = oneshot::channel();
    let updates_of_cluster = meltemi_kube::watch(&client, &namespace);
    let ours = Ours {
        namespace,
        revision: options.revision.clone(),
    };
    let environment = Environment {
        updates: updates(updates_of_cluster, injector.clone()),
        authenticators: Box::new(move |trust_domain| {
            believing.set_trust_domain(trust_domain.as_str());
            let trust_domain = trust_domain.clone();
            vec![Arc::new(TokenAuthenticator {
                reviewer,
                trust_domain,
            })]
        }),
        webhooks: meltemi_kube::webhooks(injector),
        replica,
        // Nobody takes it when the control plane ends before it begins.
        standings: Box::new(|reader| drop(standings.send(reader))),
    };
    let ended = tokio::select! {
        ended = meltemi_control::run_in(environment, options, shutdown) => {
            ended.context("the control plane ended")
        }
        () = secret.follow() => Ok(()),
        () = write_statuses(writer, reader) => Ok(()),
        () = RootKeeper::new(client, &root, ours).run() => Ok(()),
    };
    leadership.release().await;
    ended
}

/// For as long as the control plane runs; it is what ends the process.
async fn write_statuses(writer: StatusWriter, reader: oneshot::Receiver<StandingReader>) {
    if let Ok(reader) = reader.await {
        writer.run(Reader(reader)).await;
    }
    std::future::pending().await
}

struct Reader(StandingReader);

impl Standings for Reader {
    async fn changed(&mut self) {
        self.0.changed().await;
    }

    async fn read(&mut self, all: bool) -> Option<Vec<Standing>> {
        self.0.read(all).await
    }
}

/// The watch's updates as the control plane takes them; injection sees them first.
fn updates(mut watch: Updates, injector: Injector) -> mpsc::Receiver<SourceUpdate> {
    let (sender, receiver) = mpsc::channel(UPDATE_QUEUE_LIMIT);
    tokio::spawn(async move {
        while let Some(update) = watch.recv().await {
            injector.note(&update.changes);
            let update = SourceUpdate {
                changes: update.changes,
                mesh_config: None,
                secrets_of: SecretsOf::Only(update.secrets_of),
                diagnostics: Arc::new(update.diagnostics),
                noticed_at: update.noticed_at,
            };
            if sender.send(update).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Believes who the API server says a token belongs to.
struct TokenAuthenticator {
    reviewer: TokenReviewer,
    trust_domain: TrustDomain,
}

const NAME: &str = "token review";

#[tonic::async_trait]
impl Authenticator for TokenAuthenticator {
    async fn authenticate(
        &self,
        credentials: &Credentials<'_>,
    ) -> Result<AuthenticatedWorkload, AuthError> {
        let token = credentials.bearer.ok_or(AuthError::Absent)?;
        let reviewed = self.reviewer.review(token).await;
        workload(reviewed, &self.trust_domain)
    }
}

fn workload(
    reviewed: Result<Reviewed, ReviewError>,
    trust_domain: &TrustDomain,
) -> Result<AuthenticatedWorkload, AuthError> {
    let denied = |reason: String| AuthError::Denied { by: NAME, reason };
    let reviewed = reviewed.map_err(|error| denied(error.to_string()))?;
    let (namespace, account) = (&reviewed.namespace, &reviewed.service_account);
    let identity = Identity::new(trust_domain.clone(), namespace, account);
    Ok(AuthenticatedWorkload {
        identity: identity.map_err(|error| denied(error.to_string()))?,
        pod: reviewed.pod.map(|(name, uid)| PodRef { name, uid }),
        node: reviewed.node,
        by: NAME,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reviewed_token_is_a_workload_and_everything_else_is_denied() {
        let reviewed = |account: &str| Reviewed {
            namespace: "shop".to_owned(),
            service_account: account.to_owned(),
            pod: None,
            node: None,
        };
        let domain = TrustDomain::default();
        let known = workload(Ok(reviewed("cart")), &domain).unwrap();
        assert_eq!(
            known.identity.to_string(),
            "spiffe://cluster.local/ns/shop/sa/cart"
        );
        assert!(workload(Ok(reviewed("a/b")), &domain).is_err());
        let unavailable = ReviewError::Unavailable("refused".to_owned());
        assert!(workload(Err(unavailable), &domain).is_err());
    }
}
