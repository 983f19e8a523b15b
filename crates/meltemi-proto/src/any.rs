//! Typed use of `google.protobuf.Any`.

use crate::google::protobuf::Any;
use prost::{Message, Name};

/// Why an `Any` is not the message that was expected.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    #[error("expected type {expected:?}, found {found:?}")]
    Type { expected: String, found: String },
    #[error("decoding {type_url:?}")]
    Decode {
        type_url: String,
        #[source]
        source: prost::DecodeError,
    },
}

/// Wraps a message under a type URL of [`crate::type_url`].
pub fn pack<M: Message>(type_url: &str, message: &M) -> Any {
    Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec(),
    }
}

/// Wraps a message under its own type URL.
pub fn pack_named<M: Message + Name>(message: &M) -> Any {
    pack(&M::type_url(), message)
}

/// # Errors
/// The `Any` holds another type than `expected_type_url`, or bytes that are not that message.
pub fn unpack<M: Message + Default>(any: &Any, expected_type_url: &str) -> Result<M, UnpackError> {
    if any.type_url != expected_type_url {
        return Err(UnpackError::Type {
            expected: expected_type_url.to_owned(),
            found: any.type_url.clone(),
        });
    }
    M::decode(any.value.as_slice()).map_err(|source| UnpackError::Decode {
        type_url: any.type_url.clone(),
        source,
    })
}

/// # Errors
/// As [`unpack`], the expected type being the message's own.
pub fn unpack_named<M: Message + Name + Default>(any: &Any) -> Result<M, UnpackError> {
    unpack(any, &M::type_url())
}
