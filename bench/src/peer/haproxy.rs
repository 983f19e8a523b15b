//! HAProxy in the same place: mutual TLS with the same certificates. It checks chains, not SPIFFE names, which it has no
//! setting for.

use std::process::Command;

use anyhow::Context as _;

use super::{Fleet, Protocol};
use crate::pki::{Account, KeyType};
use crate::rig::{BACK, INBOUND, OUTBOUND};

pub(super) fn pair(
    fleet: &Fleet<'_>,
    protocol: Protocol,
    workers: usize,
) -> anyhow::Result<[Command; 2]> {
    let (mode, alpn, proto) = match protocol {
        Protocol::Http1 => ("http", "alpn http/1.1", ""),
        Protocol::Http2 => ("http", "alpn h2", "proto h2"),
        Protocol::Tcp | Protocol::Tls(_) => ("tcp", "", ""),
    };
    let (target_a, target_b) = (protocol.port().target(), protocol.port_b().target());
    let root = fleet.pki.root();
    let root = root.display();
    let certificate = |account| fleet.pki.files(account, KeyType::EcdsaP256).combined;
    let (client, own) = (certificate(Account::Client), certificate(Account::Server));
    let common = format!(
        "global\n  nbthread {workers}\n  maxconn 4000\n  ssl-default-bind-options ssl-min-ver TLSv1.3\n  ssl-default-server-options ssl-min-ver TLSv1.3\n\
         defaults\n  mode {mode}\n  timeout connect 10s\n  timeout client 5m\n  timeout server 5m\n  {}\n",
        if mode == "http" {
            "http-reuse always\n  option forwardfor"
        } else {
            ""
        },
    );
    let a = format!(
        "{common}listen outbound\n  bind :{OUTBOUND} {proto}\n  \
         server server {BACK}:{target_a} ssl crt {} ca-file {root} verify required {alpn} {}\n",
        client.display(),
        if protocol == Protocol::Http2 {
            "proto h2"
        } else {
            ""
        },
    );
    let b = format!(
        "{common}listen inbound\n  bind :{INBOUND} ssl crt {} ca-file {root} verify required {alpn}\n  \
         server server 127.0.0.1:{target_b} {proto}\n",
        own.display(),
    );
    Ok([
        command(fleet, "haproxy-a", &a)?,
        command(fleet, "haproxy-b", &b)?,
    ])
}

fn command(fleet: &Fleet<'_>, name: &str, config: &str) -> anyhow::Result<Command> {
    let program = fleet
        .programs
        .haproxy
        .as_ref()
        .context("HAProxy is not installed")?;
    let path = fleet.write(&format!("{name}.cfg"), config)?;
    let mut command = fleet.command(program, &format!("{name}.log"))?;
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}
