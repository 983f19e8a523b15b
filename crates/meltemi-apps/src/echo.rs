//! An echo server: reports everything it received, and counts what reached each port.

pub(crate) mod grpc;
mod http;
mod tcp;

use clap::Args;
use futures_util::future::{BoxFuture, select_all};

use crate::serve::Counters;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Ports for HTTP/1.1, h2c, WebSocket (/ws) and gRPC.
    #[arg(long, value_delimiter = ',', default_values_t = [8080, 7070])]
    http: Vec<u16>,
    /// Ports that send back each line they read.
    #[arg(long, value_delimiter = ',', default_values_t = [9000])]
    tcp: Vec<u16>,
    /// Ports that greet before they read, as SMTP and MySQL do.
    #[arg(long, value_delimiter = ',', default_values_t = [9001])]
    server_first: Vec<u16>,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let counters = Counters::default();
    let mut servers: Vec<BoxFuture<'static, anyhow::Result<()>>> = Vec::new();
    for port in options.http {
        let counters = counters.clone();
        servers.push(Box::pin(async move {
            crate::serve::counted_http(port, http::app(&counters), &counters).await
        }));
    }
    for (ports, greets) in [(options.tcp, false), (options.server_first, true)] {
        for port in ports {
            servers.push(Box::pin(tcp::serve(port, greets, counters.of(port))));
        }
    }
    anyhow::ensure!(!servers.is_empty(), "no port to listen on");
    select_all(servers).await.0
}
