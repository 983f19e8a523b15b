//! Sample applications for the lab, the tests and a cluster: bookinfo's four services, an echo server, an httpbin
//! work-alike, a sleeper and a load generator, in one program.
//!
//! They know nothing of the mesh: what they show, they show as any application would see it.
#![allow(
    clippy::print_stdout,
    reason = "applications log to their standard output"
)]

mod bookinfo;
mod client;
mod echo;
mod helloworld;
mod httpbin;
mod serve;
mod tcp_echo;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "meltemi-apps", version, about, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    app: App,
}

#[derive(Debug, Subcommand)]
enum App {
    /// One of the four services of the bookinfo sample.
    #[command(subcommand)]
    Bookinfo(bookinfo::Service),
    /// Reports what it received, over HTTP/1.1, h2c, gRPC, WebSocket and TCP.
    Echo(echo::Options),
    /// Says which version and which pod answered.
    Helloworld(helloworld::Options),
    /// A work-alike of httpbin.
    Httpbin(httpbin::Options),
    /// Answers each line with a prefix before it.
    TcpEcho(tcp_echo::Options),
    /// A bounded, open-loop load generator that prints a JSON summary.
    Client(client::Options),
    /// Does nothing until SIGTERM.
    Sleep {
        /// Accepted as sleep(1) does; any value means until SIGTERM.
        #[arg(default_value = "infinity")]
        duration: String,
    },
}

fn main() -> anyhow::Result<()> {
    let app = Cli::parse().app;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            result = run(app) => result,
            () = serve::drained() => Ok(()),
        }
    })
}

async fn run(app: App) -> anyhow::Result<()> {
    match app {
        App::Bookinfo(service) => bookinfo::run(service).await,
        App::Echo(options) => echo::run(options).await,
        App::Helloworld(options) => helloworld::run(options).await,
        App::Httpbin(options) => httpbin::run(options).await,
        App::TcpEcho(options) => tcp_echo::run(options).await,
        App::Client(options) => client::run(options).await,
        App::Sleep { .. } => {
            serve::terminated().await;
            Ok(())
        }
    }
}
