//! From what was seen at each endpoint to one line. Policies are no input here.

use std::collections::BTreeMap;
use std::fmt;

/// What the calling proxy does towards an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Client {
    /// A handshake proved both identities.
    MutualTls {
        peer_identity: String,
    },
    /// TLS without the mesh's identities on both ends.
    Tls,
    Plaintext,
    /// The handshake, or the connection, failed.
    Failed(String),
    /// Claimed, but no handshake shows it.
    Unproven(String),
}

/// What the proxy of an endpoint does with connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Server {
    Strict,
    Permissive,
    Disable,
    /// The endpoint's pod has no proxy, or the endpoint is no pod.
    NoSidecar,
    /// Its proxy could not be asked.
    Unknown(String),
}

/// One endpoint as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub address: String,
    pub client: Client,
    pub server: Server,
}

/// The verdict; `Display` is what follows `MODE: `.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mode {
    /// `mTLS (STRICT)`, `mTLS (PERMISSIVE)`: encrypted, and what the destination would accept besides.
    MutualTls(String),
    Tls(String),
    Plaintext(String),
    /// Endpoints differ.
    Mixed(String),
    /// Calls fail.
    Conflict(String),
    Unknown(String),
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MutualTls(how) => write!(f, "mTLS ({how})"),
            Self::Tls(how) => write!(f, "TLS ({how})"),
            Self::Plaintext(how) => write!(f, "PLAINTEXT ({how})"),
            Self::Mixed(what) => write!(f, "MIXED ({what})"),
            Self::Conflict(why) => write!(f, "CONFLICT ({why})"),
            Self::Unknown(why) => write!(f, "UNKNOWN ({why})"),
        }
    }
}

/// Judges a service by its endpoints: one mode if all agree, `CONFLICT` if any call would fail, else `MIXED`.
pub fn verdict(endpoints: &[Endpoint]) -> Mode {
    let modes: Vec<Mode> = endpoints.iter().map(judge).collect();
    let Some(first) = modes.first() else {
        return Mode::Unknown("the source's proxy knows no endpoint".to_owned());
    };
    if modes.iter().all(|mode| mode == first) {
        return first.clone();
    }
    let mut counts: BTreeMap<&Mode, usize> = BTreeMap::new();
    for mode in &modes {
        *counts.entry(mode).or_default() += 1;
    }
    let parts: Vec<String> = counts
        .iter()
        .map(|(mode, count)| format!("{count} of {} {mode}", modes.len()))
        .collect();
    let parts = parts.join(", ");
    if modes.iter().any(|mode| matches!(mode, Mode::Conflict(_))) {
        Mode::Conflict(parts)
    } else {
        Mode::Mixed(parts)
    }
}

/// Judges one endpoint.
///
/// | client \ server | STRICT | PERMISSIVE | DISABLE | no sidecar |
/// |---|---|---|---|---|
/// | mTLS | mTLS (STRICT) | mTLS (PERMISSIVE) | CONFLICT: one of both is changing | mTLS (the application's own) |
/// | TLS | CONFLICT | TLS | TLS | TLS |
/// | plaintext | CONFLICT: will be reset | PLAINTEXT | PLAINTEXT | PLAINTEXT |
fn judge(endpoint: &Endpoint) -> Mode {
    let plain = |how: &str| Mode::Plaintext(how.to_owned());
    let conflict = |why: String| Mode::Conflict(why);
    match (&endpoint.client, &endpoint.server) {
        (Client::Failed(error), _) => conflict(format!("the connection fails: {error}")),
        (Client::Unproven(why), _) => Mode::Unknown(why.clone()),
        (Client::MutualTls { peer_identity }, _) if !peer_identity.starts_with("spiffe://") => {
            Mode::Unknown("the peer showed no SPIFFE identity".to_owned())
        }
        (_, Server::Unknown(why)) => Mode::Unknown(why.clone()),
        (Client::MutualTls { .. }, Server::Strict) => Mode::MutualTls("STRICT".to_owned()),
        (Client::MutualTls { .. }, Server::Permissive) => Mode::MutualTls("PERMISSIVE".to_owned()),
        (Client::MutualTls { .. }, Server::Disable) => {
            conflict("a handshake succeeded, yet the destination takes plaintext only; one of both is changing".to_owned())
        }
        (Client::MutualTls { .. }, Server::NoSidecar) => Mode::MutualTls("by the application itself".to_owned()),
        (Client::Tls, Server::Strict) => {
            conflict("the source speaks TLS without a mesh certificate, the destination requires mTLS".to_owned())
        }
        (Client::Tls, _) => Mode::Tls("no mesh identity".to_owned()),
        (Client::Plaintext, Server::Strict) => {
            conflict("the source sends plaintext, the destination requires mTLS and resets it".to_owned())
        }
        (Client::Plaintext, Server::Permissive) => plain("PERMISSIVE"),
        (Client::Plaintext, Server::Disable) => plain("DISABLE"),
        (Client::Plaintext, Server::NoSidecar) => plain("no sidecar at the destination"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mtls() -> Client {
        Client::MutualTls {
            peer_identity: "spiffe://cluster.local/ns/default/sa/ratings".to_owned(),
        }
    }

    fn check(endpoints: Vec<(Client, Server)>, expected: &str) {
        let endpoint = |(client, server)| Endpoint {
            address: "10.244.0.2:9080".to_owned(),
            client,
            server,
        };
        let endpoints: Vec<Endpoint> = endpoints.into_iter().map(endpoint).collect();
        assert_eq!(verdict(&endpoints).to_string(), expected);
    }

    #[test]
    fn one_mode_where_all_agree() {
        check(vec![(mtls(), Server::Strict); 3], "mTLS (STRICT)");
        check(vec![(mtls(), Server::Permissive)], "mTLS (PERMISSIVE)");
        check(
            vec![(Client::Plaintext, Server::Disable)],
            "PLAINTEXT (DISABLE)",
        );
        check(
            vec![(Client::Plaintext, Server::Permissive)],
            "PLAINTEXT (PERMISSIVE)",
        );
        check(
            vec![(Client::Plaintext, Server::NoSidecar)],
            "PLAINTEXT (no sidecar at the destination)",
        );
        check(
            vec![(mtls(), Server::NoSidecar)],
            "mTLS (by the application itself)",
        );
        check(
            vec![(Client::Tls, Server::NoSidecar)],
            "TLS (no mesh identity)",
        );
        check(vec![], "UNKNOWN (the source's proxy knows no endpoint)");
    }

    #[test]
    fn endpoints_that_differ() {
        check(
            vec![
                (mtls(), Server::Strict),
                (mtls(), Server::Strict),
                (Client::Plaintext, Server::NoSidecar),
            ],
            "MIXED (2 of 3 mTLS (STRICT), 1 of 3 PLAINTEXT (no sidecar at the destination))",
        );
        check(
            vec![(mtls(), Server::Strict), (mtls(), Server::Permissive)],
            "MIXED (1 of 2 mTLS (PERMISSIVE), 1 of 2 mTLS (STRICT))",
        );
    }

    #[test]
    fn calls_that_fail() {
        check(
            vec![(Client::Plaintext, Server::Strict)],
            "CONFLICT (the source sends plaintext, the destination requires mTLS and resets it)",
        );
        check(
            vec![(
                Client::Failed("certificate expired".to_owned()),
                Server::Strict,
            )],
            "CONFLICT (the connection fails: certificate expired)",
        );
        check(
            vec![
                (mtls(), Server::Strict),
                (Client::Failed("reset".to_owned()), Server::Strict),
            ],
            "CONFLICT (1 of 2 mTLS (STRICT), 1 of 2 CONFLICT (the connection fails: reset))",
        );
        check(
            vec![(mtls(), Server::Disable)],
            "CONFLICT (a handshake succeeded, yet the destination takes plaintext only; one of both is changing)",
        );
    }

    #[test]
    fn what_is_not_seen_is_not_claimed() {
        check(
            vec![(
                Client::Unproven("no handshake yet".to_owned()),
                Server::Strict,
            )],
            "UNKNOWN (no handshake yet)",
        );
        check(
            vec![(mtls(), Server::Unknown("not asked".to_owned()))],
            "UNKNOWN (not asked)",
        );
        let nobody = Client::MutualTls {
            peer_identity: String::new(),
        };
        check(
            vec![(nobody, Server::Strict)],
            "UNKNOWN (the peer showed no SPIFFE identity)",
        );
    }
}
