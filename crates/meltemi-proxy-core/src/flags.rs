//! Envoy's response flags, short and long (`%RESPONSE_FLAGS%`).

use std::fmt;

/// A set of response flags.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($name:ident = $bit:literal, $short:literal, $long:literal;)*) => {
        impl ResponseFlags {
            $(#[doc = concat!("`", $short, "`, ", $long)] pub const $name: Self = Self(1 << $bit);)*
            const ALL: &'static [(Self, &'static str, &'static str)] = &[$((Self::$name, $short, $long)),*];
        }
    };
}

// In the order in which Envoy prints them.
flags! {
    FAILED_LOCAL_HEALTH_CHECK = 0, "LH", "FailedLocalHealthCheck";
    NO_HEALTHY_UPSTREAM = 1, "UH", "NoHealthyUpstream";
    UPSTREAM_REQUEST_TIMEOUT = 2, "UT", "UpstreamRequestTimeout";
    LOCAL_RESET = 3, "LR", "LocalReset";
    UPSTREAM_REMOTE_RESET = 4, "UR", "UpstreamRemoteReset";
    UPSTREAM_CONNECTION_FAILURE = 5, "UF", "UpstreamConnectionFailure";
    UPSTREAM_CONNECTION_TERMINATION = 6, "UC", "UpstreamConnectionTermination";
    UPSTREAM_OVERFLOW = 7, "UO", "UpstreamOverflow";
    NO_ROUTE_FOUND = 8, "NR", "NoRouteFound";
    DELAY_INJECTED = 9, "DI", "DelayInjected";
    FAULT_INJECTED = 10, "FI", "FaultInjected";
    RATE_LIMITED = 11, "RL", "RateLimited";
    UNAUTHORIZED_EXTERNAL_SERVICE = 12, "UAEX", "UnauthorizedExternalService";
    RATE_LIMIT_SERVICE_ERROR = 13, "RLSE", "RateLimitServiceError";
    DOWNSTREAM_CONNECTION_TERMINATION = 14, "DC", "DownstreamConnectionTermination";
    UPSTREAM_RETRY_LIMIT_EXCEEDED = 15, "URX", "UpstreamRetryLimitExceeded";
    STREAM_IDLE_TIMEOUT = 16, "SI", "StreamIdleTimeout";
    INVALID_ENVOY_REQUEST_HEADERS = 17, "IH", "InvalidEnvoyRequestHeaders";
    DOWNSTREAM_PROTOCOL_ERROR = 18, "DPE", "DownstreamProtocolError";
    UPSTREAM_MAX_STREAM_DURATION_REACHED = 19, "UMSDR", "UpstreamMaxStreamDurationReached";
    NO_FILTER_CONFIG_FOUND = 20, "NFCF", "NoFilterConfigFound";
    DURATION_TIMEOUT = 21, "DT", "DurationTimeout";
    UPSTREAM_PROTOCOL_ERROR = 22, "UPE", "UpstreamProtocolError";
    NO_CLUSTER_FOUND = 23, "NC", "NoClusterFound";
    OVERLOAD_MANAGER = 24, "OM", "OverloadManagerTerminated";
    DNS_RESOLUTION_FAILED = 25, "DF", "DnsResolutionFailed";
    DROP_OVERLOAD = 26, "DO", "DropOverLoad";
    DOWNSTREAM_REMOTE_RESET = 27, "DR", "DownstreamRemoteReset";
}

impl ResponseFlags {
    pub const NONE: Self = Self(0);

    pub fn insert(&mut self, other: Self) {
        self.0 |= other.0;
    }

    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The flag of a short name.
    pub fn from_short(name: &str) -> Option<Self> {
        let found = Self::ALL.iter().find(|(_, short, _)| *short == name);
        found.map(|(flag, _, _)| *flag)
    }

    /// The long names, comma-separated; `-` for none.
    pub fn long(self) -> String {
        self.join(|(_, _, long)| long)
    }

    fn join(self, name: fn(&(Self, &'static str, &'static str)) -> &'static str) -> String {
        let names: Vec<_> = Self::ALL
            .iter()
            .filter(|row| self.contains(row.0))
            .map(name)
            .collect();
        if names.is_empty() {
            "-".to_owned()
        } else {
            names.join(",")
        }
    }
}

/// The short names, comma-separated; `-` for none.
impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        f.write_str(&self.join(|(_, short, _)| short))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_as_envoy_does() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        let flags = ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED
            .with(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(flags.to_string(), "UF,URX");
        assert_eq!(
            flags.long(),
            "UpstreamConnectionFailure,UpstreamRetryLimitExceeded"
        );
    }

    #[test]
    fn short_names_are_unique() {
        for (flag, short, _) in ResponseFlags::ALL {
            assert_eq!(ResponseFlags::from_short(short), Some(*flag));
        }
        assert_eq!(ResponseFlags::from_short("XX"), None);
    }
}
