use std::io;

use meltemi_proxy_core::strict::Malformed;

pub(super) type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a message did not come to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Io(#[from] io::Error),
    /// The peer ended the connection in the middle of a message.
    #[error("connection closed before the message was complete")]
    Incomplete,
    /// Before any of it.
    #[error("connection closed")]
    Closed,
    #[error("{0}")]
    Malformed(#[from] Malformed),
    #[error("malformed response: {0}")]
    Response(&'static str),
    /// Whoever makes the body that is sent failed.
    #[error("{0}")]
    Body(BoxError),
    #[error("the body is not as long as its content-length says")]
    Length,
}

impl Error {
    /// Whether the peer broke the protocol.
    pub(crate) fn is_malformed(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Response(_))
    }
}
