//! The orderly end of a process.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Gives a token that is cancelled by the first SIGTERM or SIGINT. The handlers are installed on return, so no
/// signal is lost; a second signal ends the process at once, for an operator who will not wait.
///
/// # Errors
/// The handlers cannot be installed.
pub fn on_signal() -> io::Result<CancellationToken> {
    let signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
    };
    let token = CancellationToken::new();
    tokio::spawn(cancel_on_signal(signals, token.clone()));
    Ok(token)
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}

#[expect(clippy::exit, reason = "a second signal asks for exactly that")]
async fn cancel_on_signal(mut signals: Signals, token: CancellationToken) {
    let name = signals.next().await;
    tracing::info!(signal = name, "shutting down");
    token.cancel();
    let name = signals.next().await;
    tracing::warn!(signal = name, "ending without draining");
    std::process::exit(1);
}
