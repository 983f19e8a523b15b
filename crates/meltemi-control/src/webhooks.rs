//! 15017: what an API server asks, over TLS with the control plane's own certificate.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use meltemi_process::CancellationToken;
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::rustls::ServerConfig;

use crate::listener::{self, Connection};

/// Connections between their handshake and the server.
const CONNECTION_QUEUE_LIMIT: usize = 64;

/// Serves until the process shuts down.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Arc<ServerConfig>,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let address = listener.local_addr()?;
    let (connections, incoming) = mpsc::channel(CONNECTION_QUEUE_LIMIT);
    let incoming = Incoming {
        connections: incoming,
        address,
    };
    let server = axum::serve(incoming, router).with_graceful_shutdown(shutdown.cancelled_owned());
    tokio::select! {
        served = server => served,
        () = listener::accept(listener, tls, connections) => Ok(()),
    }
}

struct Incoming {
    connections: mpsc::Receiver<io::Result<Connection>>,
    address: SocketAddr,
}

impl axum::serve::Listener for Incoming {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        loop {
            match self.connections.recv().await {
                Some(Ok(connection)) => return (connection, self.address),
                Some(Err(_failed)) => {}
                // The acceptor has ended, and with it the server will.
                None => std::future::pending().await,
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
