//! Authorizers of both kinds that answer by the path.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Response;
use http_body_util::Full;
use meltemi_proto::envoy::config::core::v3::{
    HeaderValue as WireHeader, HeaderValueOption, QueryParameter,
    header_value_option::HeaderAppendAction,
};
use meltemi_proto::envoy::service::auth::v3::authorization_server::{
    Authorization, AuthorizationServer,
};
use meltemi_proto::envoy::service::auth::v3::check_response::HttpResponse;
use meltemi_proto::envoy::service::auth::v3::{
    CheckRequest, CheckResponse, DeniedHttpResponse, OkHttpResponse,
};
use meltemi_proto::envoy::r#type::v3::HttpStatus;
use meltemi_proto::google::rpc::Status;
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;

use super::super::mesh::App;

pub(super) type Asked = Arc<Mutex<Vec<CheckRequest>>>;

/// An authorizer over gRPC that answers by the path, and remembers what it was asked.
struct Scripted(Asked);

#[tonic::async_trait]
impl Authorization for Scripted {
    async fn check(
        &self,
        request: tonic::Request<CheckRequest>,
    ) -> Result<tonic::Response<CheckResponse>, tonic::Status> {
        let check = request.into_inner();
        let http = check
            .attributes
            .as_ref()
            .and_then(|all| all.request.as_ref());
        let path = http.and_then(|request| request.http.as_ref());
        let path = path.map_or_else(String::new, |http| http.path.clone());
        self.0.lock().push(check);
        match path.split('?').next().unwrap_or_default() {
            "/broken" => Err(tonic::Status::unavailable("out of order")),
            path => Ok(tonic::Response::new(scripted(path))),
        }
    }
}

fn header(name: &str, value: &str, action: HeaderAppendAction) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(WireHeader {
            key: name.to_owned(),
            value: value.to_owned(),
            ..WireHeader::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}

/// As it was once written.
fn appended(name: &str) -> HeaderValueOption {
    #[allow(deprecated, reason = "authorizers still write it")]
    HeaderValueOption {
        append: Some(meltemi_proto::google::protobuf::BoolValue { value: true }),
        ..header(name, "appended", HeaderAppendAction::default())
    }
}

fn answer(code: i32, said: Option<HttpResponse>) -> CheckResponse {
    CheckResponse {
        status: Some(Status {
            code,
            ..Status::default()
        }),
        http_response: said,
        ..CheckResponse::default()
    }
}

fn scripted(path: &str) -> CheckResponse {
    use HeaderAppendAction as A;
    let ok = |ok| answer(0, Some(HttpResponse::OkResponse(ok)));
    let denied = |status, headers, body: &str| DeniedHttpResponse {
        status: Some(HttpStatus { code: status }),
        headers,
        body: body.to_owned(),
    };
    match path {
        "/change" => ok(OkHttpResponse {
            headers: vec![
                header("x-set", "new", A::OverwriteIfExistsOrAdd),
                header("x-add", "new", A::AppendIfExistsOrAdd),
                header("x-absent", "new", A::AddIfAbsent),
                header("x-exists", "new", A::OverwriteIfExists),
            ],
            headers_to_remove: vec!["x-remove".to_owned(), "host".to_owned(), ":path".to_owned()],
            response_headers_to_add: vec![header("x-said", "yes", A::OverwriteIfExistsOrAdd)],
            ..OkHttpResponse::default()
        }),
        "/append" => ok(OkHttpResponse {
            headers: vec![appended("x-add"), appended("x-absent")],
            response_headers_to_add: vec![
                appended("x-said"),
                header("x-said", "again", A::AppendIfExistsOrAdd),
                header("x-said", "no", A::AddIfAbsent),
                header("x-more", "no", A::OverwriteIfExists),
            ],
            ..OkHttpResponse::default()
        }),
        "/path" => ok(OkHttpResponse {
            headers: vec![
                header(":path", "/other?x", A::OverwriteIfExistsOrAdd),
                header("x-route", "other", A::OverwriteIfExistsOrAdd),
            ],
            ..OkHttpResponse::default()
        }),
        "/bad-response" => ok(OkHttpResponse {
            response_headers_to_add: vec![header("x", "a\nb", A::OverwriteIfExistsOrAdd)],
            ..OkHttpResponse::default()
        }),
        "/bad-query" => ok(OkHttpResponse {
            query_parameters_to_set: vec![QueryParameter {
                key: "a b".to_owned(),
                value: "9".to_owned(),
            }],
            ..OkHttpResponse::default()
        }),
        "/cookies" => {
            let cookie = |value| header("set-cookie", value, A::OverwriteIfExistsOrAdd);
            let headers = vec![cookie("a=1"), cookie("b=2")];
            answer(
                7,
                Some(HttpResponse::DeniedResponse(denied(0, headers, ""))),
            )
        }
        "/query" => ok(OkHttpResponse {
            query_parameters_to_set: vec![QueryParameter {
                key: "a".to_owned(),
                value: "9".to_owned(),
            }],
            query_parameters_to_remove: vec!["c".to_owned()],
            ..OkHttpResponse::default()
        }),
        "/elsewhere" => ok(OkHttpResponse {
            headers: vec![header("x-route", "other", A::OverwriteIfExistsOrAdd)],
            ..OkHttpResponse::default()
        }),
        "/bad" => ok(OkHttpResponse {
            headers: vec![header("x y", "1", A::OverwriteIfExistsOrAdd)],
            ..OkHttpResponse::default()
        }),
        "/401" => answer(
            16,
            Some(HttpResponse::DeniedResponse(denied(
                401,
                vec![
                    header("www-authenticate", "Basic", A::OverwriteIfExistsOrAdd),
                    header("content-type", "text/html", A::OverwriteIfExistsOrAdd),
                ],
                "<b>who?</b>",
            ))),
        ),
        "/denied" => answer(7, None),
        "/error" => answer(
            13,
            Some(HttpResponse::ErrorResponse(denied(
                503,
                Vec::new(),
                "later",
            ))),
        ),
        _ => answer(0, None),
    }
}

pub(super) async fn grpc_authorizer() -> (SocketAddr, Asked) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Asked::default();
    let service = AuthorizationServer::new(Scripted(asked.clone()));
    let server = tonic::transport::Server::builder().add_service(service);
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (address, asked)
}

/// One over HTTP, likewise.
pub(super) async fn http_authorizer() -> App {
    App::start(|request, _| {
        let response = Response::builder().header("x-secret", "1");
        let (status, body) = match request.uri().path() {
            "/check/change" => (200, ""),
            "/check/401" => (401, "who?"),
            "/check/302" => (302, ""),
            "/check/204" => (204, ""),
            "/check/500" => (500, "broken"),
            "/check/denied" => (403, "no"),
            _ => (200, "fine"),
        };
        response
            .status(status)
            .header("x-user", "alice")
            .header("x-role", "reader")
            .header("x-said", "yes")
            .header("location", "/login")
            .header("x-envoy-auth-headers-to-remove", "x-remove, host")
            .body(Full::from(body))
            .unwrap()
    })
    .await
}
