use std::collections::BTreeSet;
use std::net::IpAddr;
use std::num::ParseIntError;

use clap::ValueEnum;
use ipnet::IpNet;
use meltemi_core::names::{PROXY_UID, port};

use crate::{Exemption, Ports, Ranges, Settings};

/// The flags of `istio-iptables`, as Istio's injection template and users' scripts spell them.
#[derive(Clone, Debug, clap::Args)]
pub struct Args {
    /// Port that captured outbound connections go to
    #[arg(short = 'p', long = "envoy-port", default_value_t = port::OUTBOUND)]
    pub envoy_port: u16,
    /// Port that captured inbound connections go to
    #[arg(short = 'z', long = "inbound-capture-port", default_value_t = port::INBOUND)]
    pub inbound_capture_port: u16,
    /// Port of the inbound tunnel, which is not redirected
    #[arg(short = 'e', long = "inbound-tunnel-port", default_value_t = 15008)]
    pub inbound_tunnel_port: u16,
    /// Comma-separated uids whose connections are not redirected [default: 1337, unless --proxy-mark is given]
    #[arg(short = 'u', long = "proxy-uid")]
    pub proxy_uid: Option<String>,
    /// Comma-separated gids whose connections are not redirected [default: those of --proxy-uid]
    #[arg(short = 'g', long = "proxy-gid")]
    pub proxy_gid: Option<String>,
    /// Socket mark whose connections are not redirected, for user namespaces with a single id
    #[arg(long = "proxy-mark", env = "MELTEMI_SOCKET_MARK")]
    pub proxy_mark: Option<u32>,
    /// How inbound connections are redirected
    #[arg(
        short = 'm',
        long = "istio-inbound-interception-mode",
        default_value = "REDIRECT",
        ignore_case = true
    )]
    pub mode: Mode,
    /// Comma-separated inbound ports to capture, `*` for all, empty for none
    #[arg(short = 'b', long = "istio-inbound-ports", default_value = "*")]
    pub inbound_ports: String,
    /// Comma-separated inbound ports to leave alone when all are captured
    #[arg(short = 'd', long = "istio-local-exclude-ports", default_value = "")]
    pub exclude_inbound_ports: String,
    /// Comma-separated outbound ports to capture whatever the destination
    #[arg(short = 'q', long = "istio-outbound-ports", default_value = "")]
    pub outbound_ports: String,
    /// Comma-separated outbound ports to leave alone
    #[arg(
        short = 'o',
        long = "istio-local-outbound-ports-exclude",
        default_value = ""
    )]
    pub exclude_outbound_ports: String,
    /// Comma-separated CIDRs to capture outbound, `*` for all, empty for none
    #[arg(short = 'i', long = "istio-service-cidr", default_value = "*")]
    pub service_cidr: String,
    /// Comma-separated CIDRs to leave alone outbound
    #[arg(short = 'x', long = "istio-service-exclude-cidr", default_value = "")]
    pub exclude_service_cidr: String,
    /// Comma-separated interfaces whose traffic is left alone
    #[arg(short = 'c', long = "istio-exclude-interfaces", default_value = "")]
    pub exclude_interfaces: String,
    /// Print the rules instead of applying them
    #[arg(short = 'n', long = "dry-run")]
    pub dry_run: bool,
    /// Take the rules away instead of applying them
    #[arg(long = "cleanup-only")]
    pub cleanup_only: bool,
    /// Log level, `scope:level[,scope:level]`; read by the program's logging
    #[arg(long = "log_output_level", default_value = "default:info")]
    pub log_output_level: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum Mode {
    Redirect,
    Tproxy,
}

#[derive(Debug, thiserror::Error)]
pub enum ArgsError {
    #[error("-{flag}: {value:?} is not a number")]
    Number {
        flag: char,
        value: String,
        #[source]
        source: ParseIntError,
    },
    #[error("-{flag}: {value:?} is not a CIDR or address")]
    Cidr { flag: char, value: String },
    #[error("-{flag}: `*` is not possible here; name what to exclude")]
    Wildcard { flag: char },
    #[error("-c: {0:?} is not an interface name")]
    Interface(String),
    #[error("-m TPROXY is not supported; use REDIRECT")]
    Tproxy,
}

impl Args {
    /// Checks the flags and turns them into settings.
    ///
    /// # Errors
    /// When a flag's value cannot be read or asks for what is not supported; the message names the flag.
    pub fn settings(&self) -> Result<Settings, ArgsError> {
        if self.mode == Mode::Tproxy {
            return Err(ArgsError::Tproxy);
        }
        Ok(Settings {
            outbound_port: self.envoy_port,
            inbound_port: self.inbound_capture_port,
            tunnel_port: self.inbound_tunnel_port,
            exemptions: self.exemptions()?,
            inbound_ports: ports('b', &self.inbound_ports)?,
            excluded_inbound_ports: excluded_ports('d', &self.exclude_inbound_ports)?,
            outbound_ranges: ranges('i', &self.service_cidr)?,
            excluded_outbound_ranges: match ranges('x', &self.exclude_service_cidr)? {
                Ranges::All => return Err(ArgsError::Wildcard { flag: 'x' }),
                Ranges::Only(ranges) => ranges,
            },
            outbound_ports: ports('q', &self.outbound_ports)?,
            excluded_outbound_ports: excluded_ports('o', &self.exclude_outbound_ports)?,
            excluded_interfaces: interfaces(&self.exclude_interfaces)?,
        })
    }

    /// A mark alone replaces the uid rules: where it is needed, proxy and application share one uid, and a rule for that
    /// uid would exempt the application.
    fn exemptions(&self) -> Result<Vec<Exemption>, ArgsError> {
        if let Some(mark) = self.proxy_mark {
            return Ok(vec![Exemption::Mark(mark)]);
        }
        let default = PROXY_UID.to_string();
        let uids = self.proxy_uid.as_deref().unwrap_or(&default);
        let gids = self.proxy_gid.as_deref().unwrap_or(uids);
        let mut exemptions: Vec<Exemption> = numbers('u', uids)?
            .into_iter()
            .map(Exemption::Uid)
            .collect();
        exemptions.extend(numbers('g', gids)?.into_iter().map(Exemption::Gid));
        Ok(exemptions)
    }
}

fn items(list: &str) -> impl Iterator<Item = &str> {
    list.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

fn numbers<N: std::str::FromStr<Err = ParseIntError>>(
    flag: char,
    list: &str,
) -> Result<Vec<N>, ArgsError> {
    items(list)
        .map(|item| {
            item.parse().map_err(|source| ArgsError::Number {
                flag,
                value: item.to_owned(),
                source,
            })
        })
        .collect()
}

fn ports(flag: char, list: &str) -> Result<Ports, ArgsError> {
    if list.trim() == "*" {
        return Ok(Ports::All);
    }
    Ok(Ports::Only(numbers(flag, list)?.into_iter().collect()))
}

fn excluded_ports(flag: char, list: &str) -> Result<BTreeSet<u16>, ArgsError> {
    match ports(flag, list)? {
        Ports::All => Err(ArgsError::Wildcard { flag }),
        Ports::Only(ports) => Ok(ports),
    }
}

fn ranges(flag: char, list: &str) -> Result<Ranges, ArgsError> {
    if list.trim() == "*" {
        return Ok(Ranges::All);
    }
    items(list)
        .map(|item| range(flag, item))
        .collect::<Result<_, _>>()
        .map(Ranges::Only)
}

fn range(flag: char, item: &str) -> Result<IpNet, ArgsError> {
    let address = || item.parse::<IpAddr>().map(IpNet::from);
    item.parse::<IpNet>()
        .or_else(|_| address())
        .map_err(|_| ArgsError::Cidr {
            flag,
            value: item.to_owned(),
        })
}

/// Names go into rule text, so only what Linux allows in one and nft does not treat as special passes.
fn interfaces(list: &str) -> Result<Vec<String>, ArgsError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.@:".contains(c);
    items(list)
        .map(|name| {
            let valid = name.len() < 16 && name.chars().all(allowed);
            if valid {
                Ok(name.to_owned())
            } else {
                Err(ArgsError::Interface(name.to_owned()))
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(Debug, clap::Parser)]
    struct Program {
        #[command(flatten)]
        args: Args,
    }

    fn parse(line: &str) -> Args {
        Program::try_parse_from(std::iter::once("istio-iptables").chain(line.split(' ')))
            .unwrap()
            .args
    }

    #[test]
    fn reads_the_line_of_istios_injection_template() {
        let args = parse(
            "-p 15001 -z 15006 -u 1337 -m REDIRECT -i * -x= -b * -d 15090,15021,15020 --log_output_level=default:info",
        );
        let expected = Settings {
            excluded_inbound_ports: [15090, 15021, 15020].into(),
            ..Settings::default()
        };
        assert_eq!(args.settings().unwrap(), expected);
    }

    #[test]
    fn reads_lists() {
        let args = parse(
            "-i 10.0.0.0/8,fd00::/8 -x 10.9.9.9 -b 80,9080 -q 443 -o 25 -c docker0,br-a -g 7",
        );
        let settings = args.settings().unwrap();
        assert_eq!(
            settings.outbound_ranges,
            Ranges::Only(vec![
                "10.0.0.0/8".parse().unwrap(),
                "fd00::/8".parse().unwrap()
            ])
        );
        assert_eq!(
            settings.excluded_outbound_ranges,
            vec!["10.9.9.9/32".parse::<IpNet>().unwrap()]
        );
        assert_eq!(settings.inbound_ports, Ports::Only([80, 9080].into()));
        assert_eq!(settings.outbound_ports, Ports::Only([443].into()));
        assert_eq!(settings.excluded_outbound_ports, [25].into());
        assert_eq!(settings.excluded_interfaces, ["docker0", "br-a"]);
        assert_eq!(
            settings.exemptions,
            [Exemption::Uid(1337), Exemption::Gid(7)]
        );
    }

    #[test]
    fn a_mark_takes_the_place_of_uids() {
        assert_eq!(
            parse("-u 1337 --proxy-mark 1337")
                .settings()
                .unwrap()
                .exemptions,
            [Exemption::Mark(1337)]
        );
    }

    #[test]
    fn names_the_flag_that_is_wrong() {
        for (line, message) in [
            ("-b eighty", "-b: \"eighty\" is not a number"),
            (
                "-i 10.0.0.0/33",
                "-i: \"10.0.0.0/33\" is not a CIDR or address",
            ),
            ("-x *", "-x: `*` is not possible here; name what to exclude"),
            ("-c a\"b", "-c: \"a\\\"b\" is not an interface name"),
            ("-m TPROXY", "-m TPROXY is not supported; use REDIRECT"),
        ] {
            assert_eq!(parse(line).settings().unwrap_err().to_string(), message);
        }
    }
}
