//! Asks the API server whose a service-account token is.

use std::sync::Arc;

use k8s_openapi::api::authentication::v1::{
    TokenReview, TokenReviewSpec, TokenReviewStatus, UserInfo,
};
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::Semaphore;

use crate::bounded;

/// Reviews at one time: whoever connects can ask for one, and the API server has others to serve.
const REVIEW_LIMIT: usize = 16;

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";
const NODE_NAME: &str = "authentication.kubernetes.io/node-name";

/// Who a token stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reviewed {
    pub namespace: String,
    pub service_account: String,
    /// Name and uid of the pod that the token is bound to.
    pub pod: Option<(String, String)>,
    pub node: Option<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum ReviewError {
    #[error("the API server does not answer: {0}")]
    Unavailable(String),
    #[error("the API server does not know the token: {0}")]
    Refused(String),
}

/// Reviews tokens for one audience.
#[derive(Clone)]
pub struct TokenReviewer {
    reviews: Api<TokenReview>,
    audience: String,
    slots: Arc<Semaphore>,
}

impl TokenReviewer {
    pub fn new(client: Client, audience: &str) -> Self {
        Self {
            reviews: Api::all(client),
            audience: audience.to_owned(),
            slots: Arc::new(Semaphore::new(REVIEW_LIMIT)),
        }
    }

    /// # Errors
    /// The token is not valid for the audience, is no service account's, or nobody could be asked.
    pub async fn review(&self, token: &str) -> Result<Reviewed, ReviewError> {
        let review = TokenReview {
            spec: TokenReviewSpec {
                token: token.to_owned(),
                audiences: Some(vec![self.audience.clone()]),
            },
            ..TokenReview::default()
        };
        let unavailable =
            |error: &dyn std::fmt::Display| ReviewError::Unavailable(error.to_string());
        let slot = self.slots.acquire().await;
        let _slot = slot.map_err(|error| unavailable(&error))?;
        let parameters = PostParams::default();
        let review = bounded(self.reviews.create(&parameters, &review)).await;
        let review = review.map_err(|error| unavailable(&error))?;
        judge(review.status.unwrap_or_default(), &self.audience).map_err(ReviewError::Refused)
    }
}

impl std::fmt::Debug for TokenReviewer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TokenReviewer")
            .field("audience", &self.audience)
            .finish_non_exhaustive()
    }
}

/// An API server that does not know audiences answers without any: what it says then is of its own, and not enough.
fn judge(status: TokenReviewStatus, audience: &str) -> Result<Reviewed, String> {
    if status.authenticated != Some(true) {
        return Err(status
            .error
            .unwrap_or_else(|| "not authenticated".to_owned()));
    }
    let audiences = status.audiences.unwrap_or_default();
    if !audiences.iter().any(|given| given == audience) {
        return Err(format!("it is not for the audience \"{audience}\""));
    }
    let user = status.user.unwrap_or_default();
    let name = user.username.clone().unwrap_or_default();
    let account = name.strip_prefix("system:serviceaccount:");
    let Some((namespace, service_account)) = account.and_then(|account| account.split_once(':'))
    else {
        return Err(format!("\"{name}\" is no service account"));
    };
    Ok(Reviewed {
        namespace: namespace.to_owned(),
        service_account: service_account.to_owned(),
        pod: Option::zip(extra(&user, POD_NAME), extra(&user, POD_UID)),
        node: extra(&user, NODE_NAME),
    })
}

fn extra(user: &UserInfo, key: &str) -> Option<String> {
    user.extra.as_ref()?.get(key)?.first().cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn judged(status: serde_json::Value) -> Result<Reviewed, String> {
        judge(serde_json::from_value(status).unwrap(), "istio-ca")
    }

    #[test]
    fn a_bound_token_names_account_pod_and_node() {
        let status = json!({
            "authenticated": true, "audiences": ["istio-ca"],
            "user": {"username": "system:serviceaccount:shop:cart", "extra": {
                POD_NAME: ["cart-1"], POD_UID: ["u"], NODE_NAME: ["n1"]}},
        });
        let expected = Reviewed {
            namespace: "shop".to_owned(),
            service_account: "cart".to_owned(),
            pod: Some(("cart-1".to_owned(), "u".to_owned())),
            node: Some("n1".to_owned()),
        };
        assert_eq!(judged(status), Ok(expected));
    }

    #[test]
    fn everything_else_is_refused() {
        let user = json!({"username": "system:serviceaccount:shop:cart"});
        for status in [
            json!({}),
            json!({"authenticated": false, "user": user, "audiences": ["istio-ca"]}),
            json!({"authenticated": true, "user": user}),
            json!({"authenticated": true, "user": user, "audiences": ["vault"]}),
            json!({"authenticated": true, "user": {"username": "admin"}, "audiences": ["istio-ca"]}),
            json!({"authenticated": true, "audiences": ["istio-ca"]}),
        ] {
            assert!(judged(status.clone()).is_err(), "{status}");
        }
    }
}
