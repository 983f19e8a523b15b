//! The authorizer of Istio's task "External Authorization": it allows what bears `x-ext-authz: allow`, over HTTP and over gRPC,
//! and tells in headers what it has seen.

use std::collections::{BTreeMap, HashMap};

use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use clap::Args;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use meltemi_proto::envoy::config::core::v3::{
    HeaderValue as WireHeader, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use meltemi_proto::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use meltemi_proto::envoy::service::auth::v3::check_response::HttpResponse;
use meltemi_proto::envoy::service::auth::v3::{
    AttributeContext, CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use meltemi_proto::envoy::r#type::v3::HttpStatus;
use meltemi_proto::google::rpc::Status;

const CHECKED: &str = "x-ext-authz";
const ALLOWED: &str = "allow";
const RESULT: &str = "x-ext-authz-check-result";
const RECEIVED: &str = "x-ext-authz-check-received";
/// Over gRPC the answer puts something of its own in the place of what a client says here; over HTTP it tells what came.
const OVERRIDE: &str = "x-ext-authz-additional-header-override";
const OVERRIDDEN: &str = "grpc-additional-header-override-value";
const DENIAL: &str = "denied by ext_authz for not found header `x-ext-authz: allow` in the request";
/// gRPC's PERMISSION_DENIED.
const PERMISSION_DENIED: i32 = 7;
/// Characters of what was received that are told.
const TOLD_CHARACTERS: usize = 4096;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The port of the HTTP authorizer.
    #[arg(long, default_value_t = 8000)]
    http: u16,
    /// The port of the gRPC authorizer.
    #[arg(long, default_value_t = 9000)]
    grpc: u16,
    /// A service account whose connections are allowed, of those that no request is known of.
    #[arg(long = "allow-service-account", default_value = "a")]
    service_account: String,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let http = Router::new().fallback(check_http);
    let grpc = tonic::service::Routes::new(AuthorizationServer::new(GrpcChecks {
        service_account: options.service_account,
    }));
    tokio::try_join!(
        crate::serve::http(options.http, http),
        crate::serve::http(options.grpc, grpc.into_axum_router()),
    )?;
    Ok(())
}

async fn check_http(request: Request) -> Response {
    let headers = request.headers();
    let is_allowed = headers.get(CHECKED).is_some_and(|value| value == ALLOWED);
    let told: BTreeMap<&str, String> = headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes());
            (name.as_str(), value.into_owned())
        })
        .collect();
    let host = headers.get(http::header::HOST);
    let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    let received = format!(
        "{} {host}{}, headers: {told:?}",
        request.method(),
        request.uri()
    );
    println!("[HTTP][{}]: {received}", result(is_allowed));
    let mut answer = HeaderMap::new();
    let overridden = headers.get(OVERRIDE);
    let overridden = overridden.and_then(|value| value.to_str().ok());
    for (name, value) in telling(is_allowed, &received, overridden.unwrap_or_default()) {
        if let Ok(value) = HeaderValue::try_from(value) {
            answer.insert(HeaderName::from_static(name), value);
        }
    }
    match is_allowed {
        true => (StatusCode::OK, answer).into_response(),
        false => (StatusCode::FORBIDDEN, answer, DENIAL).into_response(),
    }
}

fn result(is_allowed: bool) -> &'static str {
    match is_allowed {
        true => "allowed",
        false => "denied",
    }
}

/// What an answer tells of the question.
fn telling(is_allowed: bool, received: &str, overridden: &str) -> [(&'static str, String); 3] {
    let printable = |c: char| {
        if c.is_ascii_graphic() || c == ' ' {
            c
        } else {
            '?'
        }
    };
    let received = received.chars().take(TOLD_CHARACTERS).map(printable);
    [
        (RESULT, result(is_allowed).to_owned()),
        (RECEIVED, received.collect()),
        (OVERRIDE, overridden.to_owned()),
    ]
}

struct GrpcChecks {
    service_account: String,
}

#[tonic::async_trait]
impl Authorization for GrpcChecks {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let attributes = request.into_inner().attributes.unwrap_or_default();
        Ok(tonic::Response::new(self.judge(&attributes)))
    }
}

impl GrpcChecks {
    fn judge(&self, attributes: &AttributeContext) -> CheckResponse {
        let http = attributes.request.as_ref();
        let http = http
            .and_then(|request| request.http.clone())
            .unwrap_or_default();
        let source = attributes.source.as_ref();
        let principal = source.map_or("", |source| source.principal.as_str());
        let account = format!("/sa/{}", self.service_account);
        let has_header = http
            .headers
            .get(CHECKED)
            .is_some_and(|value| value == ALLOWED);
        let is_allowed = has_header || principal.ends_with(&account);
        let received = format!(
            "{} {}{}, principal: {principal}, headers: {:?}",
            http.method,
            http.host,
            http.path,
            sorted(&http.headers)
        );
        println!("[gRPCv3][{}]: {received}", result(is_allowed));
        let headers =
            telling(is_allowed, &received, OVERRIDDEN).map(|(name, value)| overwrite(name, value));
        let (code, said) = match is_allowed {
            true => (
                0,
                HttpResponse::OkResponse(OkHttpResponse {
                    headers: headers.into(),
                    ..OkHttpResponse::default()
                }),
            ),
            false => (
                PERMISSION_DENIED,
                HttpResponse::DeniedResponse(DeniedHttpResponse {
                    status: Some(HttpStatus { code: 403 }),
                    body: DENIAL.to_owned(),
                    headers: headers.into(),
                }),
            ),
        };
        CheckResponse {
            status: Some(Status {
                code,
                ..Status::default()
            }),
            http_response: Some(said),
            ..CheckResponse::default()
        }
    }
}

fn sorted(headers: &HashMap<String, String>) -> BTreeMap<&str, &str> {
    let headers = headers.iter();
    headers
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

fn overwrite(name: &str, value: String) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(WireHeader {
            key: name.to_owned(),
            value,
            ..WireHeader::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use meltemi_proto::envoy::service::auth::v3::attribute_context::{
        HttpRequest, Peer, Request as Asked,
    };

    fn judge(principal: &str, headers: &[(&str, &str)]) -> i32 {
        let headers = headers.iter();
        let headers = headers.map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let attributes = AttributeContext {
            source: Some(Peer {
                principal: principal.to_owned(),
                ..Peer::default()
            }),
            request: Some(Asked {
                http: Some(HttpRequest {
                    headers: headers.collect(),
                    ..HttpRequest::default()
                }),
                ..Asked::default()
            }),
            ..AttributeContext::default()
        };
        let checks = GrpcChecks {
            service_account: "a".to_owned(),
        };
        checks.judge(&attributes).status.unwrap().code
    }

    #[test]
    fn the_header_or_the_account_allows() {
        assert_eq!(judge("", &[(CHECKED, "allow")]), 0);
        assert_eq!(judge("spiffe://td/ns/n/sa/a", &[]), 0);
        for denied in [
            judge("", &[]),
            judge("spiffe://td/ns/n/sa/b", &[(CHECKED, "deny")]),
        ] {
            assert_eq!(denied, PERMISSION_DENIED);
        }
    }

    #[tokio::test]
    async fn over_http_likewise() {
        for (value, status) in [("allow", 200), ("deny", 403)] {
            let request = Request::get("/headers").header(CHECKED, value);
            let request = request.body(axum::body::Body::empty()).unwrap();
            let response = check_http(request).await;
            assert_eq!(response.status().as_u16(), status);
            assert_eq!(response.headers()[RESULT], result(status == 200));
        }
    }
}
