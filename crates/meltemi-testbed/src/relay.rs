//! The way from the machine to the API server: a port of the machine's loopback, copied byte for byte into the cluster.
//!
//! A socket stays in the network namespace it was made in. The listener is made in the machine's, everything else in the
//! supervisor's own; so no link, route or rule of the machine is needed.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at once; kubectl and a test use a handful.
const CONNECTIONS: usize = 256;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// After accept(2) has failed, such as for want of file descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// Listens on a free port of the loopback of the caller's network namespace.
pub(crate) fn listen() -> Result<std::net::TcpListener> {
    let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .context("cannot listen on the machine's loopback")?;
    listener
        .set_nonblocking(true)
        .context("cannot make a listener non-blocking")?;
    Ok(listener)
}

/// Copies every connection to and from the target; never returns.
pub(crate) async fn serve(listener: TcpListener, target: SocketAddrV4) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else {
            return;
        };
        let Ok((mut near, _)) = listener.accept().await else {
            sleep(PAUSE).await;
            continue;
        };
        tokio::spawn(async move {
            let connect = timeout(CONNECT_TIMEOUT, TcpStream::connect(target));
            if let Ok(Ok(mut far)) = connect.await {
                // An error ends the connection on both sides, which is all there is to say about it.
                copy_bidirectional(&mut near, &mut far).await.ok();
            }
            drop(slot);
        });
    }
}
