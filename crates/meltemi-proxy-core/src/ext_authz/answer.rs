//! The answer: what an authorizer's words mean. Everything in them is checked before any of it is done.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, StatusCode};
use meltemi_proto::envoy::config::core::v3::HeaderValueOption;
use meltemi_proto::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use meltemi_proto::envoy::service::auth::v3::check_response::HttpResponse;
use meltemi_proto::envoy::service::auth::v3::{CheckResponse, DeniedHttpResponse, OkHttpResponse};
use serde_json::{Map, Value};

use super::{Allowance, Change, Denial, Verdict, metadata};
use crate::headers::{HeaderChange, is_framing, remove_hop_by_hop};
use crate::runtime::{HeaderAppend, HttpAuthorizer};

/// Names headers that are to be taken from the request, in an answer over HTTP.
const HEADERS_TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";

/// What an answer over HTTP means: 200 allows, 5xx is a failure, all else denies.
pub fn of_http(
    config: &HttpAuthorizer,
    status: StatusCode,
    mut headers: HeaderMap,
    body: Bytes,
) -> Verdict {
    if status.is_server_error() || status.is_informational() {
        return Verdict::Failed(None);
    }
    let removed: Vec<HeaderName> = listed(&headers).collect();
    headers.remove(HEADERS_TO_REMOVE);
    // They are of the authorizer's message.
    remove_hop_by_hop(&mut headers);
    let metadata: Map<String, Value> = headers
        .iter()
        .filter(|(name, _)| config.to_metadata.contains(name.as_str()))
        .filter_map(|(name, value)| Some((name.to_string(), value.to_str().ok()?.into())))
        .collect();
    let metadata = (!metadata.is_empty()).then(|| Arc::new(metadata));
    if status != StatusCode::OK {
        if let Some(names) = &config.to_client_on_denial {
            let kept = headers.iter().filter(|(name, _)| {
                names.contains(name.as_str()) || ALWAYS_TO_CLIENT.contains(name)
            });
            headers = kept
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect();
        }
        headers.remove(header::HOST);
        return Verdict::Denied(Box::new(Denial {
            status: Some(status),
            headers,
            body,
            metadata,
        }));
    }
    let mut allowance = Allowance {
        remove: removed,
        metadata,
        ..Allowance::default()
    };
    let mut response = Vec::new();
    for (name, value) in &headers {
        let mut change = |append| {
            allowance.request.push(Change::Header(HeaderChange {
                name: name.clone(),
                value: value.clone(),
                append,
            }));
        };
        // Which length a message has is not for headers of another to say.
        if is_framing(name) || name == header::HOST {
            continue;
        }
        if config.to_upstream.contains(name.as_str()) {
            change(HeaderAppend::OverwriteIfExistsOrAdd);
        }
        if config.to_upstream_appended.contains(name.as_str()) {
            change(HeaderAppend::AppendIfExistsOrAdd);
        }
        if config.to_client_on_success.contains(name.as_str()) {
            response.push(HeaderChange {
                name: name.clone(),
                value: value.clone(),
                append: HeaderAppend::AppendIfExistsOrAdd,
            });
        }
    }
    allowance.response = response.into();
    Verdict::Allowed(Box::new(allowance))
}

/// What a client gets of a denial besides what is listed.
const ALWAYS_TO_CLIENT: [HeaderName; 3] = [
    header::CONTENT_LENGTH,
    header::WWW_AUTHENTICATE,
    header::LOCATION,
];

fn listed(headers: &HeaderMap) -> impl Iterator<Item = HeaderName> {
    let lists = headers.get_all(HEADERS_TO_REMOVE).into_iter();
    let lists = lists.filter_map(|list| list.to_str().ok());
    let names = lists.flat_map(|list| list.split(','));
    names.filter_map(|name| removable(name.trim()))
}

/// Pseudo-headers and Host stay: without them a request is none. A name that is none is of no header.
fn removable(name: &str) -> Option<HeaderName> {
    let name = HeaderName::try_from(name).ok()?;
    (name != header::HOST).then_some(name)
}

/// What a `CheckResponse` means: status 0 allows, all else denies, unless it tells of an error.
pub fn of_grpc(mut response: CheckResponse) -> Verdict {
    let code = response.status.take().map_or(0, |status| status.code);
    let outer = response.dynamic_metadata.take();
    match (code, response.http_response.take()) {
        (0, Some(HttpResponse::OkResponse(mut ok))) => {
            #[allow(
                deprecated,
                reason = "authorizers still write it, and Envoy still heeds it"
            )]
            let metadata = metadata(ok.dynamic_metadata.take().or(outer));
            match allowance(ok) {
                Some(allowance) => Verdict::Allowed(Box::new(Allowance {
                    metadata,
                    ..allowance
                })),
                None => Verdict::Invalid,
            }
        }
        (0, _) => Verdict::Allowed(Box::new(Allowance {
            metadata: metadata(outer),
            ..Allowance::default()
        })),
        (_, Some(HttpResponse::ErrorResponse(error))) => {
            denial(error).map_or(Verdict::Invalid, |denial| {
                Verdict::Failed(Some(Box::new(Denial {
                    metadata: metadata(outer),
                    ..denial
                })))
            })
        }
        (_, said) => {
            let said = match said {
                Some(HttpResponse::DeniedResponse(denied)) => denied,
                _ => DeniedHttpResponse::default(),
            };
            denial(said).map_or(Verdict::Invalid, |denial| {
                Verdict::Denied(Box::new(Denial {
                    status: Some(denial.status.unwrap_or(StatusCode::FORBIDDEN)),
                    metadata: metadata(outer),
                    ..denial
                }))
            })
        }
    }
}

fn allowance(ok: OkHttpResponse) -> Option<Allowance> {
    let request: Option<Vec<Change>> = ok.headers.into_iter().map(change).collect();
    let response = ok.response_headers_to_add.into_iter();
    let response: Option<Vec<HeaderChange>> = response.map(unframed).collect();
    let query_set = ok.query_parameters_to_set.into_iter();
    let query_set = query_set.map(|pair| {
        let is_encoded = is_encoded(&pair.key) && is_encoded(&pair.value);
        is_encoded.then_some((pair.key, pair.value))
    });
    let removed = ok.headers_to_remove.iter();
    Some(Allowance {
        request: request?,
        remove: removed.filter_map(|name| removable(name)).collect(),
        query_set: query_set.collect::<Option<_>>()?,
        query_remove: ok.query_parameters_to_remove,
        response: response?.into(),
        metadata: None,
    })
}

/// Whether a part of a query has only characters that need no encoding, and escapes.
fn is_encoded(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%!$'()*+,;:@/?".contains(&byte))
}

fn denial(said: DeniedHttpResponse) -> Option<Denial> {
    let mut headers = HeaderMap::new();
    // One that is named twice is there twice, as `set-cookie` may be.
    for option in said.headers {
        let change = header_change(option)?;
        headers.append(change.name, change.value);
    }
    remove_hop_by_hop(&mut headers);
    let code = said.status.map_or(0, |status| status.code);
    let status = match code {
        0 => None,
        code => {
            let status = StatusCode::from_u16(u16::try_from(code).ok()?).ok()?;
            // Which ends no request.
            (!status.is_informational()).then_some(status)?.into()
        }
    };
    Some(Denial {
        status,
        headers,
        body: said.body.into(),
        metadata: None,
    })
}

/// A change of the request that is allowed; `None` if it cannot be done. Envoy heeds `append` only here, not `append_action`: what
/// an authorizer sets never stands beside what the client has said.
fn change(option: HeaderValueOption) -> Option<Change> {
    let name = option
        .header
        .as_ref()
        .map(|header| header.key.to_ascii_lowercase())?;
    let is_pseudo = name.starts_with(':') || name == "host";
    if !is_pseudo {
        #[allow(
            deprecated,
            reason = "authorizers still write it, and Envoy still heeds it"
        )]
        let extends = option.append.is_some_and(|append| append.value);
        let HeaderChange { name, value, .. } = unframed(option)?;
        return Some(match extends {
            true => Change::Extended(name, value),
            false => Change::Header(HeaderChange {
                name,
                value,
                append: HeaderAppend::OverwriteIfExistsOrAdd,
            }),
        });
    }
    let text = text_of(option)?;
    match name.as_str() {
        ":method" => Method::from_bytes(text.as_bytes()).ok().map(Change::Method),
        ":path" => {
            let is_path = text.starts_with('/') && PathAndQuery::try_from(text.as_str()).is_ok();
            is_path.then_some(Change::Path(text))
        }
        ":authority" | "host" => {
            let is_authority = Authority::try_from(text.as_str()).is_ok();
            is_authority.then_some(Change::Authority(text))
        }
        _ => None,
    }
}

fn text_of(option: HeaderValueOption) -> Option<String> {
    let header = option.header?;
    match header.value.is_empty() {
        false => Some(header.value),
        true => String::from_utf8(header.raw_value).ok(),
    }
}

/// A change that does not say where the message ends: that is not for an authorizer to know.
fn unframed(option: HeaderValueOption) -> Option<HeaderChange> {
    header_change(option).filter(|change| !is_framing(&change.name))
}

fn header_change(mut option: HeaderValueOption) -> Option<HeaderChange> {
    #[allow(
        deprecated,
        reason = "authorizers still write it, and Envoy still heeds it"
    )]
    let append = match (
        option.append.take(),
        HeaderAppendAction::try_from(option.append_action).ok()?,
    ) {
        (Some(append), _) if append.value => HeaderAppend::AppendIfExistsOrAdd,
        (Some(_), _) => HeaderAppend::OverwriteIfExistsOrAdd,
        (None, HeaderAppendAction::AppendIfExistsOrAdd) => HeaderAppend::AppendIfExistsOrAdd,
        (None, HeaderAppendAction::AddIfAbsent) => HeaderAppend::AddIfAbsent,
        (None, HeaderAppendAction::OverwriteIfExists) => HeaderAppend::OverwriteIfExists,
        (None, HeaderAppendAction::OverwriteIfExistsOrAdd) => HeaderAppend::OverwriteIfExistsOrAdd,
    };
    let header = option.header?;
    let value = match header.value.is_empty() {
        false => header.value.into_bytes(),
        true => header.raw_value,
    };
    Some(HeaderChange {
        name: HeaderName::try_from(&header.key).ok()?,
        value: HeaderValue::try_from(value).ok()?,
        append,
    })
}
