//! A work-alike of Istio's tcp-echo sample: each line comes back with a prefix.

use clap::Args;
use futures_util::future::try_join_all;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::serve::listen;

/// The longest line that is echoed.
const LINE_LIMIT_BYTES: u64 = 64 * 1024;

#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Ports to listen on.
    #[arg(value_delimiter = ',', required = true)]
    ports: Vec<u16>,
    /// What stands before each line.
    prefix: String,
}

pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    try_join_all(
        options
            .ports
            .iter()
            .map(|port| serve(*port, &options.prefix)),
    )
    .await?;
    Ok(())
}

async fn serve(port: u16, prefix: &str) -> anyhow::Result<()> {
    let listener = listen(port).await?;
    println!("listening on TCP port {port}");
    loop {
        let (stream, source) = listener.accept().await?;
        let prefix = prefix.to_owned();
        tokio::spawn(async move {
            if let Err(error) = echo(stream, &prefix).await {
                println!("{source}: {error}");
            }
        });
    }
}

async fn echo(mut stream: TcpStream, prefix: &str) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut lines = BufReader::new(read);
    loop {
        let mut line = Vec::new();
        if (&mut lines)
            .take(LINE_LIMIT_BYTES)
            .read_until(b'\n', &mut line)
            .await?
            == 0
        {
            return write.shutdown().await;
        }
        write.write_all(format!("{prefix} ").as_bytes()).await?;
        write.write_all(&line).await?;
    }
}
