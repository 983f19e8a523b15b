//! Lines in, lines out; with a greeting first where the protocol is the server's to begin.

use std::sync::Arc;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::serve::{Counted, Counter, hostname, listen};

/// The longest line that is echoed.
const LINE_LIMIT_BYTES: u64 = 64 * 1024;

pub(super) async fn serve(port: u16, greets: bool, counter: Arc<Counter>) -> anyhow::Result<()> {
    let listener = listen(port).await?;
    println!("listening on TCP port {port}");
    loop {
        let (stream, source) = listener.accept().await?;
        let stream = counter.wrap(stream);
        tokio::spawn(async move {
            if let Err(error) = echo(stream, greets).await {
                println!("{source} on TCP port {port}: {error}");
            }
        });
    }
}

async fn echo(stream: Counted, greets: bool) -> std::io::Result<()> {
    let (read, mut write) = tokio::io::split(stream);
    if greets {
        write
            .write_all(format!("220 {} ready\r\n", hostname()).as_bytes())
            .await?;
    }
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
        write.write_all(&line).await?;
    }
}
