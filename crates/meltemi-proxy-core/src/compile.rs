//! Compiles xDS resources to [`crate::runtime`].
//!
//! Every field is either compiled or refused: a compiler takes the fields it knows out of the message, and whatever is left
//! is an error with its path. Fields that only name statistics or hint at buffer sizes of Envoy's own are dropped by name,
//! with the reason beside them. All problems of a resource are reported, not the first.

#![allow(
    deprecated,
    reason = "Istio and Envoy's own examples still send fields that newer ones replace"
)]

mod access_log;
mod cluster;
mod common;
mod endpoint;
mod ext_authz;
mod filter;
mod http_connection_manager;
mod jwt;
mod listener;
mod metadata;
mod rbac;
mod route;
mod scope;
mod secret;
mod tls;

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use meltemi_proto::envoy::config::{
    cluster::v3 as cluster_proto, endpoint::v3 as endpoint_proto, listener::v3 as listener_proto,
    route::v3 as route_proto,
};
use meltemi_proto::envoy::extensions::transport_sockets::tls::v3 as tls_proto;

use prost::Message as _;

use crate::runtime;
use scope::Scope;

/// Why a resource was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct CompileErrors {
    /// Of the resource.
    pub name: String,
    pub problems: Vec<Problem>,
}

/// One problem of a resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// `filter_chains[1].filters[0].typed_config.stat_prefix`.
    pub field: String,
    pub reason: String,
}

/// `name: field: reason`, one after another, as a NACK tells it.
impl fmt::Display for CompileErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            let separator = if i == 0 { "" } else { "; " };
            write!(
                f,
                "{separator}{}: {}: {}",
                self.name, problem.field, problem.reason
            )?;
        }
        Ok(())
    }
}

/// # Errors
/// The listener holds something that we do not implement, or that is wrong.
pub fn listener(resource: listener_proto::Listener) -> Result<runtime::Listener, CompileErrors> {
    let name = resource.name.clone();
    collect(name, |scope| listener::listener(scope, resource))
}

/// # Errors
/// The route configuration holds something that we do not implement, or that is wrong.
pub fn route_configuration(
    resource: route_proto::RouteConfiguration,
) -> Result<runtime::RouteConfiguration, CompileErrors> {
    let name = resource.name.clone();
    collect(name, |scope| route::route_configuration(scope, resource))
}

/// A route configuration that is in force, and what of it is not.
#[derive(Debug, Clone)]
pub struct PartialRoutes {
    pub routes: runtime::RouteConfiguration,
    /// The virtual hosts that were refused, and the configuration with what took their place.
    pub refused: Option<(CompileErrors, Bytes)>,
}

/// Compiles a route configuration from its wire form, whose parts its virtual hosts then are. A virtual host that is
/// refused serves on as it does in `last`, and no other host feels it.
///
/// # Errors
/// It is no route configuration, or holds something outside of its virtual hosts that we do not implement, or that is
/// wrong.
pub fn encoded_route_configuration(
    body: &Bytes,
    last: Option<&runtime::RouteConfiguration>,
) -> Result<PartialRoutes, CompileErrors> {
    let (mut hosts, rest) = route::decode_without_hosts(body).map_err(|error| CompileErrors {
        name: String::new(),
        problems: vec![Problem {
            field: "body".to_owned(),
            reason: error.to_string(),
        }],
    })?;
    let (name, problems) = (rest.name.clone(), RefCell::default());
    let salvage = route::Salvage {
        last,
        problems: &problems,
    };
    let routes = collect(name.clone(), |scope| {
        route::route_configuration_of(scope, &mut hosts, rest.clone(), Some(&salvage))
    })?;
    let problems = problems.into_inner();
    let refused = (!problems.is_empty()).then(|| {
        let body = route::encode_with_hosts(&rest, &hosts);
        (CompileErrors { name, problems }, body)
    });
    Ok(PartialRoutes { routes, refused })
}

/// Compiles a virtual host again that was accepted with its configuration.
pub(crate) fn kept_virtual_host(
    encoded: Bytes,
    direct_response_limit_bytes: usize,
) -> Option<runtime::VirtualHost> {
    let host = route_proto::VirtualHost::decode(encoded).ok()?;
    virtual_host(host, direct_response_limit_bytes).ok()
}

/// Compiles a virtual host that came by itself (VHDS), with the bound of its route configuration.
///
/// # Errors
/// The virtual host holds something that we do not implement, or that is wrong.
pub fn virtual_host(
    resource: route_proto::VirtualHost,
    direct_response_limit_bytes: usize,
) -> Result<runtime::VirtualHost, CompileErrors> {
    let name = resource.name.clone();
    collect(name, |scope| {
        route::virtual_host(scope, resource, direct_response_limit_bytes)
    })
}

/// # Errors
/// The cluster holds something that we do not implement, or that is wrong.
pub fn cluster(resource: cluster_proto::Cluster) -> Result<runtime::Cluster, CompileErrors> {
    let name = resource.name.clone();
    collect(name, |scope| cluster::cluster(scope, resource))
}

/// # Errors
/// The assignment holds something that we do not implement, or that is wrong.
pub fn cluster_load_assignment(
    resource: endpoint_proto::ClusterLoadAssignment,
) -> Result<runtime::ClusterLoadAssignment, CompileErrors> {
    let name = resource.cluster_name.clone();
    collect(name, |scope| {
        endpoint::cluster_load_assignment(scope, resource)
    })
}

/// # Errors
/// The secret is of a kind that we do not implement, or not inline.
pub fn secret(resource: tls_proto::Secret) -> Result<runtime::Secret, CompileErrors> {
    let name = resource.name.clone();
    collect(name, |scope| secret::secret(scope, resource))
}

/// # Errors
/// The filter holds something that we do not implement, or that is wrong.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn jwt_filter(
    config: meltemi_proto::envoy::extensions::filters::http::jwt_authn::v3::JwtAuthentication,
) -> Result<runtime::JwtAuthentication, CompileErrors> {
    collect(String::new(), |scope| jwt::filter(scope, config))
}

/// Runs a compiler and turns what it reported into a result.
fn collect<T>(
    name: String,
    compile: impl FnOnce(&Scope<'_>) -> Option<T>,
) -> Result<T, CompileErrors> {
    let problems = RefCell::new(Vec::new());
    let compiled = compile(&Scope::root(&problems));
    let mut problems = problems.into_inner();
    match compiled {
        Some(compiled) if problems.is_empty() => Ok(compiled),
        _ => {
            if problems.is_empty() {
                problems.push(Problem {
                    field: String::new(),
                    reason: "is incomplete".to_owned(),
                });
            }
            Err(CompileErrors { name, problems })
        }
    }
}

#[cfg(test)]
mod tests;
