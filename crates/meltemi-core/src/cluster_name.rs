use std::fmt;
use std::str::FromStr;

/// Where traffic flows, seen from the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    Inbound,
    Outbound,
}

impl Direction {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl fmt::Display for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The name of a generated cluster, `outbound|9080|v1|reviews.default.svc.cluster.local` or `inbound|9080||`.
///
/// Names that are not of this shape (`PassthroughCluster`, `sds-grpc`) are no `ClusterName`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterName {
    pub direction: Direction,
    /// The service port (outbound) or the target port (inbound).
    pub port: u16,
    /// Empty for the whole service.
    pub subset: String,
    /// Empty for inbound clusters.
    pub host: String,
}

impl ClusterName {
    pub fn outbound(port: u16, subset: &str, host: &str) -> Self {
        Self {
            direction: Direction::Outbound,
            port,
            subset: subset.to_owned(),
            host: host.to_owned(),
        }
    }

    pub fn inbound(target_port: u16) -> Self {
        Self {
            direction: Direction::Inbound,
            port: target_port,
            subset: String::new(),
            host: String::new(),
        }
    }

    /// The SNI that an upstream of this cluster expects: `outbound_.9080_.v1_.reviews.default.svc.cluster.local`.
    pub fn sni(&self) -> String {
        format!(
            "{}_.{}_.{}_.{}",
            self.direction, self.port, self.subset, self.host
        )
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}|{}|{}|{}",
            self.direction, self.port, self.subset, self.host
        )
    }
}

impl FromStr for ClusterName {
    type Err = ClusterNameError;

    fn from_str(name: &str) -> Result<Self, ClusterNameError> {
        let error = || ClusterNameError(name.to_owned());
        let parts: Vec<&str> = name.split('|').collect();
        let [direction, port, subset, host] = parts[..] else {
            return Err(error());
        };
        let direction = match direction {
            "inbound" => Direction::Inbound,
            "outbound" => Direction::Outbound,
            _ => return Err(error()),
        };
        let port = port.parse().map_err(|_| error())?;
        Ok(Self {
            direction,
            port,
            subset: subset.to_owned(),
            host: host.to_owned(),
        })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not <direction>|<port>|<subset>|<host>")]
pub struct ClusterNameError(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        for name in [
            "outbound|9080|v1|reviews.default.svc.cluster.local",
            "outbound|80||a.b",
            "inbound|9080||",
        ] {
            assert_eq!(name.parse::<ClusterName>().unwrap().to_string(), name);
        }
        for bad in [
            "PassthroughCluster",
            "outbound|x||a",
            "sideways|1||a",
            "outbound|1||a|b",
        ] {
            assert!(bad.parse::<ClusterName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sni_keeps_the_empty_subset() {
        assert_eq!(
            ClusterName::outbound(9080, "", "ratings.default").sni(),
            "outbound_.9080_._.ratings.default"
        );
    }
}
