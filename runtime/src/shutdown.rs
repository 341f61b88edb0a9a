//! How a process is told to end: SIGTERM or SIGINT cancel a token; what runs gets a grace period.
//!
//! A second signal while the first is obeyed ends the process at once, with status 130.

use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Handed to every part of a process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Shutdown {
    /// Cancelled when the process is to end.
    pub token: CancellationToken,
    /// How long work under way may take from then on.
    pub grace: Duration,
}

impl Shutdown {
    /// One that nobody triggers but its owner, for tests and for parts inside another process.
    pub fn manual(grace: Duration) -> Self {
        Self {
            token: CancellationToken::new(),
            grace,
        }
    }

    /// One that SIGTERM and SIGINT trigger. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// The signal handlers can't be installed.
    pub fn on_signals(grace: Duration) -> std::io::Result<Self> {
        let shutdown = Self::manual(grace);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let token = shutdown.token.clone();
        tokio::spawn(async move {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "ending");
            token.cancel();
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::warn!("a second signal: ending at once");
            std::process::exit(130);
        });
        Ok(shutdown)
    }

    /// Whether the process is to end.
    pub fn is_triggered(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Returns when the process is to end.
    pub async fn triggered(&self) {
        self.token.cancelled().await;
    }

    /// Returns when the process is to end and the grace period is over.
    pub async fn grace_over(&self) {
        self.token.cancelled().await;
        tokio::time::sleep(self.grace).await;
    }
}
