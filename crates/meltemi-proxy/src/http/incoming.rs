//! What is read from a connection, of either version of HTTP.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use meltemi_proxy_core::error::{ErrorKind, ResetReason};

use crate::http1;

/// The body of a message.
#[derive(Debug)]
pub(crate) enum Incoming {
    Http1(http1::Body),
    Http2(hyper::body::Incoming),
}

/// Why a message, or the answer to it, did not come.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error(transparent)]
    Http1(#[from] http1::Error),
    #[error(transparent)]
    Http2(#[from] hyper::Error),
}

impl StreamError {
    /// What it is to a request that waited for an upstream.
    pub(crate) fn reset_reason(&self) -> ResetReason {
        match self {
            Self::Http1(error) if error.is_malformed() => ResetReason::ProtocolError,
            Self::Http1(_) => ResetReason::ConnectionTermination,
            Self::Http2(error) => http2_reset_reason(error),
        }
    }

    /// What it is to a request that came from a downstream.
    pub(crate) fn request_fault(&self) -> ErrorKind {
        match self {
            Self::Http1(http1::Error::Malformed(malformed)) => ErrorKind::Malformed(*malformed),
            Self::Http1(_) | Self::Http2(_) => ErrorKind::DownstreamDisconnect,
        }
    }
}

fn http2_reset_reason(error: &hyper::Error) -> ResetReason {
    use std::error::Error as _;
    let h2 = error
        .source()
        .and_then(|source| source.downcast_ref::<h2::Error>());
    let Some(h2) = h2 else {
        return ResetReason::ConnectionTermination;
    };
    match h2.reason() {
        Some(h2::Reason::REFUSED_STREAM) => ResetReason::RemoteRefusedStream,
        Some(h2::Reason::PROTOCOL_ERROR) if !h2.is_remote() => ResetReason::ProtocolError,
        // After a graceful GOAWAY the streams above the last one taken were not processed.
        Some(h2::Reason::NO_ERROR) if h2.is_go_away() => ResetReason::RemoteRefusedStream,
        Some(_) if h2.is_reset() => ResetReason::RemoteReset,
        _ => ResetReason::ConnectionTermination,
    }
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = StreamError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, StreamError>>> {
        match self.get_mut() {
            Self::Http1(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(StreamError::from)))
            }
            Self::Http2(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(StreamError::from)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(body) => body.is_end_stream(),
            Self::Http2(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(body) => body.size_hint(),
            Self::Http2(body) => body.size_hint(),
        }
    }
}
