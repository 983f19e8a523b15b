use std::fmt;

/// Why a token is not believed, in the words of Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum JwtStatus {
    Missing,
    BadFormat,
    HeaderBase64,
    HeaderJson,
    HeaderAlgorithm,
    UnsupportedAlgorithm,
    HeaderKeyId,
    /// RFC 7515 section 4.1.11: whoever does not understand an extension that is critical must refuse.
    Critical,
    PayloadBase64,
    PayloadJson,
    /// A claim that has to be a text is none.
    NotText(&'static str),
    NotInteger(&'static str),
    OutOfRange(&'static str),
    AudienceForm,
    SignatureBase64,
    UnknownIssuer,
    NotYetValid,
    Expired,
    AudienceNotAllowed,
    /// The keys could not be fetched, and none are known.
    FetchFailed,
    NoMatchingKey,
    VerificationFails,
}

impl JwtStatus {
    /// Who is known and may not: all else is about who it is.
    pub fn is_forbidden(self) -> bool {
        self == Self::AudienceNotAllowed
    }
}

impl fmt::Display for JwtStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = match self {
            Self::Missing => "Jwt is missing",
            Self::BadFormat => {
                "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections"
            }
            Self::HeaderBase64 => "Jwt header is an invalid Base64url encoded",
            Self::HeaderJson => "Jwt header is an invalid JSON",
            Self::HeaderAlgorithm => "Jwt header [alg] field is required and must be a string",
            Self::UnsupportedAlgorithm => "Jwt header [alg] is not supported",
            Self::HeaderKeyId => "Jwt header [kid] field is not a string",
            Self::Critical => "Jwt header [crit] is not supported",
            Self::PayloadBase64 => "Jwt payload is an invalid Base64url encoded",
            Self::PayloadJson => "Jwt payload is an invalid JSON",
            Self::NotText(claim) => {
                return write!(f, "Jwt payload [{claim}] field is not a string");
            }
            Self::NotInteger(claim) => {
                return write!(f, "Jwt payload [{claim}] field is not an integer");
            }
            Self::OutOfRange(claim) => {
                return write!(
                    f,
                    "Jwt payload [{claim}] field is not a positive 64 bit integer"
                );
            }
            Self::AudienceForm => "Jwt payload [aud] field is not a string or string list",
            Self::SignatureBase64 => "Jwt signature is an invalid Base64url encoded",
            Self::UnknownIssuer => "Jwt issuer is not configured",
            Self::NotYetValid => "Jwt not yet valid",
            Self::Expired => "Jwt is expired",
            Self::AudienceNotAllowed => "Audiences in Jwt are not allowed",
            Self::FetchFailed => "Jwks remote fetch is failed",
            Self::NoMatchingKey => "Jwks doesn't have key to match kid or alg from Jwt",
            Self::VerificationFails => "Jwt verification fails",
        };
        f.write_str(text)
    }
}
