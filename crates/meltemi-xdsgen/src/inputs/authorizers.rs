use std::sync::Arc;

use meltemi_api::istio::{AuthorizationAction, AuthorizerProvider};
use meltemi_core::Hostname;
use meltemi_model::{Part, Service};

use super::Inputs;

/// A provider of MeshConfig, and the service that it is.
pub(crate) type Authorizer<'a> = (AuthorizerProvider<'a>, &'a Arc<Service>);

impl<'a> Inputs<'a> {
    /// Where the authorizers of the workload's policies are.
    pub(crate) fn authorizers(&self) -> Vec<Hostname> {
        let policies = self.authorization_policies().into_iter();
        let custom = policies.filter(|policy| policy.spec.action == AuthorizationAction::Custom);
        let named = custom.filter_map(|policy| policy.spec.provider.as_ref());
        let services = named.filter_map(|named| self.authorizer_service(&named.name).ok());
        services
            .map(|(_, service)| service.hostname.clone())
            .collect()
    }

    fn authorizer_service(&self, name: &str) -> Result<Authorizer<'a>, String> {
        let told = |(message, _): (String, String)| message;
        let provider = self.config().authorizer(name).map_err(told)?;
        if let Ok(host) = Hostname::new(provider.service().1) {
            let host = self.unaliased(host);
            self.note(Part::Service(host));
        }
        let service = self.mesh.authorizer_service(&provider).map_err(told)?;
        Ok((provider, service))
    }

    /// The authorizer that a policy names, and its service.
    ///
    /// # Errors
    /// It cannot be asked: there is no such provider or service, or the service is not for this proxy.
    pub(crate) fn authorizer(&self, name: &str) -> Result<Authorizer<'a>, String> {
        let (provider, service) = self.authorizer_service(name)?;
        match self.service(&service.hostname) {
            Some(_) => Ok((provider, service)),
            None => Err(format!("{} is not exported to here", service.hostname)),
        }
    }
}
