//! Where the authorizers of CUSTOM policies are (Istio reference, MeshConfig.ExtensionProvider).

use std::sync::Arc;

use meltemi_api::did_you_mean;
use meltemi_api::istio::AuthorizerProvider;
use meltemi_core::Hostname;

use crate::{MeshSnapshot, Service};

impl MeshSnapshot {
    /// The service that a provider is: `Part::Service` of its host, and of what that is another name of.
    ///
    /// # Errors
    /// Why there is none, and how to mend it.
    pub fn authorizer_service(
        &self,
        provider: &AuthorizerProvider<'_>,
    ) -> Result<&Arc<Service>, (String, String)> {
        let (namespace, written) = provider.service();
        let host = Hostname::new(written).ok();
        let host = host.map(|host| self.alias(&host).cloned().unwrap_or(host));
        let Some(service) = host.and_then(|host| self.service(&host)) else {
            let known = self.services().map(|service| service.hostname.as_str());
            let first = written.split('.').next().unwrap_or_default();
            // Written as in a namespace, the name lacks what makes it one of the mesh.
            let longer = self.services().find(|service| service.name == first);
            let near = longer.map(|service| service.hostname.as_str());
            let near = near.or_else(|| did_you_mean(written, known));
            let hint = near.map_or_else(
                || "write the full name of a Service or the host of a ServiceEntry".to_owned(),
                |near| format!("did you mean \"{near}\"?"),
            );
            return Err((format!("no service has the host \"{written}\""), hint));
        };
        if let Some(namespace) = namespace.filter(|namespace| *namespace != service.namespace) {
            return Err((
                format!("\"{written}\" is no service of the namespace {namespace}"),
                format!("write {}/{written}", service.namespace),
            ));
        }
        let port = provider.port();
        if !service.ports.iter().any(|own| own.number == port) {
            let ports = service.ports.iter().map(|own| own.number.to_string());
            let ports: Vec<String> = ports.collect();
            return Err((
                format!("{port} is no port of {written}"),
                format!("its ports: {}", ports.join(", ")),
            ));
        }
        Ok(service)
    }
}
