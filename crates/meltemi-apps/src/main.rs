//! Sample applications for the lab, the tests and a cluster: bookinfo's four services, an echo server, an httpbin
//! work-alike, a sleeper and a load generator, in one program; and, by their own names, the tools `nc` and `nslookup` that
//! guides call inside of pods.
//!
//! They know nothing of the mesh: what they show, they show as any application would see it.
#![allow(
    clippy::print_stdout,
    reason = "applications log to their standard output"
)]

mod bookinfo;
mod client;
mod echo;
mod ext_authz;
mod helloworld;
mod httpbin;
mod nc;
mod nslookup;
mod serve;
mod tcp_echo;

use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// What a shell reports of a program that SIGTERM ended.
const TERMINATED: u8 = 143;

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
    /// Judges requests by the header `x-ext-authz`, for proxies that ask over HTTP or gRPC.
    ExtAuthz(ext_authz::Options),
    /// Says which version and which pod answered.
    Helloworld(helloworld::Options),
    /// A work-alike of httpbin.
    Httpbin(httpbin::Options),
    /// Answers each line with a prefix before it.
    TcpEcho(tcp_echo::Options),
    /// A bounded, open-loop load generator that prints a JSON summary.
    Client(client::Options),
    /// Connects or listens over TCP, as the tool of that name.
    Nc(nc::Options),
    /// Asks the name server, as the tool of that name.
    Nslookup(nslookup::Options),
    /// Does nothing until SIGTERM.
    Sleep {
        /// Accepted as sleep(1) does; any value means until SIGTERM.
        #[arg(default_value = "infinity")]
        duration: String,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let app = Cli::parse_from(words(std::env::args().collect())).app;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let done = runtime.block_on(async {
        match app {
            App::Nc(options) => until_terminated(nc::run(options)).await,
            App::Nslookup(options) => until_terminated(nslookup::run(options)).await,
            app => {
                tokio::select! {
                    result = run(app) => result,
                    () = serve::drained() => Ok(()),
                }?;
                Ok(ExitCode::SUCCESS)
            }
        }
    });
    // A read of standard input that nobody waits for any more must not hold the end up.
    runtime.shutdown_background();
    done
}

/// The words of the command line; a link to this program is a tool of that name.
fn words(mut words: Vec<String>) -> Vec<String> {
    let program = words.first().map(Path::new);
    let name = program
        .and_then(Path::file_name)
        .and_then(|name| name.to_str());
    if let Some(tool @ ("nc" | "nslookup")) = name {
        let tool = tool.to_owned();
        words.insert(1, tool);
    }
    if words.get(1).is_some_and(|word| word == "nslookup") {
        words = words.into_iter().map(nslookup::long_options).collect();
    }
    words
}

async fn until_terminated(
    tool: impl Future<Output = anyhow::Result<ExitCode>>,
) -> anyhow::Result<ExitCode> {
    tokio::select! {
        result = tool => result,
        () = serve::terminated() => Ok(ExitCode::from(TERMINATED)),
    }
}

async fn run(app: App) -> anyhow::Result<()> {
    match app {
        App::Bookinfo(service) => bookinfo::run(service).await,
        App::Echo(options) => echo::run(options).await,
        App::ExtAuthz(options) => ext_authz::run(options).await,
        App::Helloworld(options) => helloworld::run(options).await,
        App::Httpbin(options) => httpbin::run(options).await,
        App::TcpEcho(options) => tcp_echo::run(options).await,
        App::Client(options) => client::run(options).await,
        App::Sleep { .. } => {
            serve::terminated().await;
            Ok(())
        }
        App::Nc(_) | App::Nslookup(_) => anyhow::bail!("a tool is no application"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_to_the_program_is_a_tool() {
        let read = |line: &str| {
            let line = line.split(' ').map(str::to_owned).collect();
            Cli::try_parse_from(words(line)).map(|cli| cli.app)
        };
        let tool = read("/usr/local/bin/nc -z tcp-echo 9000");
        assert!(matches!(tool, Ok(App::Nc(_))));
        let tool = read("nslookup -type=A reviews");
        assert!(matches!(tool, Ok(App::Nslookup(_))));
        assert!(matches!(read("meltemi-apps nc a 1"), Ok(App::Nc(_))));
        assert!(matches!(
            read("/bin/meltemi-apps sleep"),
            Ok(App::Sleep { .. })
        ));
    }
}
