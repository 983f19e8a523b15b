use std::time::Duration;

use serde::Deserialize;

use super::common::{StringMap, duration};

/// A service outside of the mesh's own parts that policies name (`mesh.v1alpha1.MeshConfig.ExtensionProvider`). Of other kinds
/// than authorizers only the name is known.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtensionProvider {
    pub name: String,
    pub envoy_ext_authz_http: Option<ExtAuthzHttp>,
    pub envoy_ext_authz_grpc: Option<ExtAuthzGrpc>,
}

/// An authorizer that is asked by a request like the one that it judges
/// (`MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationHttpProvider`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtAuthzHttp {
    /// `[<Namespace>/]<Hostname>`.
    pub service: String,
    pub port: u32,
    /// Default 10 min.
    #[serde(with = "duration")]
    pub timeout: Option<Duration>,
    pub path_prefix: String,
    /// A number; default 403.
    pub status_on_error: String,
    pub fail_open: bool,
    pub clear_route_cache: bool,
    pub include_request_headers_in_check: Vec<String>,
    /// What the field above was once called; it counts where that is empty.
    pub include_headers_in_check: Vec<String>,
    pub include_additional_headers_in_check: StringMap,
    pub include_request_body_in_check: Option<CheckedRequestBody>,
    pub headers_to_upstream_on_allow: Vec<String>,
    pub headers_to_downstream_on_allow: Vec<String>,
    /// Empty: all.
    pub headers_to_downstream_on_deny: Vec<String>,
}

impl ExtAuthzHttp {
    /// The headers that the authorizer is told of besides those that it always is.
    pub fn told_headers(&self) -> &[String] {
        match self.include_request_headers_in_check.is_empty() {
            true => &self.include_headers_in_check,
            false => &self.include_request_headers_in_check,
        }
    }
}

/// An authorizer that is asked by `envoy.service.auth.v3.Authorization`
/// (`MeshConfig.ExtensionProvider.EnvoyExternalAuthorizationGrpcProvider`).
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ExtAuthzGrpc {
    /// `[<Namespace>/]<Hostname>`.
    pub service: String,
    pub port: u32,
    /// Default 10 min.
    #[serde(with = "duration")]
    pub timeout: Option<Duration>,
    /// A number; default 403.
    pub status_on_error: String,
    pub fail_open: bool,
    pub clear_route_cache: bool,
    pub include_request_body_in_check: Option<CheckedRequestBody>,
}

/// How much of a body an authorizer is shown (`EnvoyExternalAuthorizationRequestBody`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct CheckedRequestBody {
    pub max_request_bytes: u32,
    pub allow_partial_message: bool,
    pub pack_as_bytes: bool,
}

/// A provider that a CUSTOM policy can name.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum AuthorizerProvider<'a> {
    Http(&'a ExtAuthzHttp),
    Grpc(&'a ExtAuthzGrpc),
}

impl<'a> AuthorizerProvider<'a> {
    /// As it is written, `[<Namespace>/]<Hostname>`: the two apart.
    pub fn service(&self) -> (Option<&'a str>, &'a str) {
        let service = match self {
            Self::Http(http) => http.service.as_str(),
            Self::Grpc(grpc) => grpc.service.as_str(),
        };
        match service.split_once('/') {
            Some((namespace, host)) => (Some(namespace), host),
            None => (None, service),
        }
    }

    /// 0 where no port has such a number.
    pub fn port(&self) -> u16 {
        let port = match self {
            Self::Http(http) => http.port,
            Self::Grpc(grpc) => grpc.port,
        };
        u16::try_from(port).unwrap_or(0)
    }

    /// The status of a request that could not be judged, if it is not the usual one.
    pub fn status_on_error(&self) -> Option<u16> {
        let status = match self {
            Self::Http(http) => &http.status_on_error,
            Self::Grpc(grpc) => &grpc.status_on_error,
        };
        status.parse().ok()
    }
}
