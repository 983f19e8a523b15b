//! A small `nc`, for images whose own would be there: connects or listens over TCP, standard input to the peer and back.
//!
//! As busybox's: the end of the input half-closes the connection, and the peer's end is the end.

use std::process::ExitCode;
use std::time::Duration;

use anstream::eprintln;
use anyhow::{Context as _, Result};
use clap::Args;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// A connection that nobody answers is given up, without -w, after this.
const CONNECT_LIMIT: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  echo hello | nc tcp-echo 9000\n  nc -zv reviews 9080\n  nc -l -p 9000"
)]
pub(crate) struct Options {
    /// Listen for a connection instead of making one.
    #[arg(short = 'l')]
    listen: bool,
    /// The port to listen on.
    #[arg(short = 'p', value_name = "PORT")]
    port: Option<u16>,
    /// Listen on after a connection has ended.
    #[arg(short = 'k', requires = "listen")]
    keep: bool,
    /// Only say whether a connection can be made.
    #[arg(short = 'z')]
    scan: bool,
    /// Say what becomes of connections.
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    verbose: u8,
    /// Give up after that many seconds: connecting, and on the peer once the input has ended.
    #[arg(short = 'w', value_name = "SECONDS")]
    wait: Option<u64>,
    /// Accepted: names are looked up where they are not addresses.
    #[arg(short = 'n')]
    numeric: bool,
    /// Accepted: the end of the input always half-closes the connection.
    #[arg(short = 'N')]
    shutdown: bool,
    /// HOST PORT, or the port to listen on.
    words: Vec<String>,
}

#[derive(Debug, PartialEq, Eq)]
enum Plan {
    Connect { host: String, port: u16 },
    Listen { port: u16 },
}

impl Options {
    fn plan(&self) -> Result<Plan> {
        let number = |text: &String| {
            text.parse::<u16>()
                .with_context(|| format!("{text:?} is not a port; write 1 to 65535"))
        };
        match (self.listen, self.port, self.words.as_slice()) {
            (true, Some(port), []) => Ok(Plan::Listen { port }),
            (true, None, [port]) => Ok(Plan::Listen {
                port: number(port)?,
            }),
            (false, None, [host, port]) => Ok(Plan::Connect {
                host: host.clone(),
                port: number(port)?,
            }),
            (true, ..) => anyhow::bail!("write nc -l -p PORT"),
            (false, ..) => anyhow::bail!("write nc HOST PORT"),
        }
    }

    fn limit(&self) -> Option<Duration> {
        self.wait.map(Duration::from_secs)
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose > 0 {
            eprintln!("{}", what());
        }
    }
}

pub(crate) async fn run(options: Options) -> Result<ExitCode> {
    let done = match options.plan() {
        Ok(Plan::Connect { host, port }) => connect(&options, &host, port).await,
        Ok(Plan::Listen { port }) => listen(&options, port).await,
        Err(error) => Err(error),
    };
    Ok(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("nc: {error:#}");
            ExitCode::FAILURE
        }
    })
}

async fn connect(options: &Options, host: &str, port: u16) -> Result<()> {
    let limit = options.limit().unwrap_or(CONNECT_LIMIT);
    let connected = timeout(limit, TcpStream::connect((host, port))).await;
    let stream = connected
        .unwrap_or_else(|_elapsed| Err(std::io::ErrorKind::TimedOut.into()))
        .with_context(|| format!("connect to {host} port {port} (tcp) failed"))?;
    options.say(|| format!("Connection to {host} {port} port [tcp] succeeded!"));
    if options.scan {
        return Ok(());
    }
    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
    join(stream, input, output, options.limit()).await
}

async fn listen(options: &Options, port: u16) -> Result<()> {
    let listener = TcpListener::bind(("0.0.0.0", port))
        .await
        .with_context(|| format!("cannot listen on port {port}"))?;
    options.say(|| format!("Listening on 0.0.0.0 {port}"));
    loop {
        let (stream, peer) = listener.accept().await?;
        options.say(|| format!("Connection received on {} {}", peer.ip(), peer.port()));
        let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
        let joined = join(stream, input, output, options.limit()).await;
        if !options.keep {
            return joined;
        }
        if let Err(error) = joined {
            eprintln!("nc: {error:#}");
        }
    }
}

/// Passes the input to the peer and what it says to the output, until it has ended; once the input has, at most that long.
async fn join(
    stream: TcpStream,
    mut input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    limit: Option<Duration>,
) -> Result<()> {
    let (mut from_peer, mut to_peer) = stream.into_split();
    let receive = async {
        let received = copy(&mut from_peer, &mut output).await;
        output.flush().await?;
        received
    };
    let send = async {
        // A peer that has gone shows in what is received.
        drop(copy(&mut input, &mut to_peer).await);
        drop(to_peer.shutdown().await);
    };
    tokio::pin!(receive);
    tokio::select! {
        biased;
        received = &mut receive => {
            received?;
            return Ok(());
        }
        () = send => {}
    }
    match limit {
        None => drop(receive.await?),
        Some(limit) => {
            if let Ok(received) = timeout(limit, receive).await {
                received?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use tokio::io::AsyncReadExt;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        options: Options,
    }

    fn plan(words: &str) -> Result<Plan> {
        let words = std::iter::once("nc").chain(words.split(' '));
        Cli::try_parse_from(words)?.options.plan()
    }

    #[test]
    fn the_usual_spellings() {
        let connect = |port| Plan::Connect {
            host: "tcp-echo".to_owned(),
            port,
        };
        assert_eq!(plan("tcp-echo 9000").unwrap(), connect(9000));
        assert_eq!(plan("-zv -w 3 tcp-echo 9001").unwrap(), connect(9001));
        assert_eq!(plan("-w3 -N tcp-echo 9001").unwrap(), connect(9001));
        for listening in ["-l -p 9000", "-lkp 9000", "-l 9000", "-lk -p 9000"] {
            let expected = Plan::Listen { port: 9000 };
            assert_eq!(plan(listening).unwrap(), expected, "{listening}");
        }
        for wrong in ["tcp-echo", "tcp-echo http", "-u tcp-echo 9000", "-l a 9000"] {
            assert!(plan(wrong).is_err(), "{wrong}");
        }
    }

    /// A peer that answers only once it has been told that nothing more comes.
    #[tokio::test]
    async fn the_end_of_the_input_is_passed_on_and_the_answer_awaited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let peer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = String::new();
            stream.read_to_string(&mut heard).await.unwrap();
            stream.write_all(format!("one {heard}").as_bytes()).await
        };
        let mut output = Vec::new();
        let client = async {
            let stream = TcpStream::connect(address).await.unwrap();
            join(stream, &b"hello\n"[..], &mut output, None).await
        };
        let (answered, joined) = tokio::join!(peer, client);
        answered.unwrap();
        joined.unwrap();
        assert_eq!(output, b"one hello\n");
    }

    #[tokio::test]
    async fn a_silent_peer_is_left_after_the_limit() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let limit = Some(Duration::from_millis(20));
        join(stream, &b""[..], Vec::new(), limit).await.unwrap();
    }
}
