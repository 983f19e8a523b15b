use crate::AccessError;

/// Exit statuses (istioctl's, which follow `sysexits.h`).
pub mod exit {
    pub const FAILURE: u8 = 1;
    pub const USAGE: u8 = 64;
    /// What the user gave cannot be read or names nothing.
    pub const DATA: u8 = 65;
    pub const UNREACHABLE: u8 = 69;
    /// `authz can`: the call is denied.
    pub const DENIED: u8 = 77;
    /// `analyze` found issues at or above the threshold.
    pub const ISSUES_FOUND: u8 = 79;
}

/// Why a command ended without doing what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{message}")]
    Usage { message: String, hint: String },
    #[error("{message}")]
    Data { message: String, hint: String },
    #[error("{message}")]
    Unreachable { message: String, hint: String },
    /// The other side answered, but not with what was asked for.
    #[error("{message}")]
    Answer { message: String },
    /// What was asked about is not allowed.
    #[error("denied")]
    Denied,
    #[error("{0}")]
    IssuesFound(String),
    #[error("reading {path}: {source}")]
    Read {
        path: String,
        source: std::io::Error,
    },
    #[error("writing the output: {0}")]
    Write(#[from] std::io::Error),
}

impl CliError {
    pub(crate) fn usage(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn data(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::Data {
            message: message.into(),
            hint: hint.into(),
        }
    }

    pub(crate) fn answer(message: impl Into<String>) -> Self {
        Self::Answer {
            message: message.into(),
        }
    }

    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage { .. } => exit::USAGE,
            Self::Data { .. } | Self::Read { .. } => exit::DATA,
            Self::Unreachable { .. } => exit::UNREACHABLE,
            Self::Denied => exit::DENIED,
            Self::IssuesFound(_) => exit::ISSUES_FOUND,
            Self::Answer { .. } | Self::Write(_) => exit::FAILURE,
        }
    }

    /// What to do about it; empty when the message says it.
    pub fn hint(&self) -> &str {
        match self {
            Self::Usage { hint, .. } | Self::Data { hint, .. } | Self::Unreachable { hint, .. } => {
                hint
            }
            _ => "",
        }
    }
}

impl From<AccessError> for CliError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Unreachable { message, hint } => Self::Unreachable { message, hint },
            AccessError::Failed { message } => Self::Answer { message },
        }
    }
}
