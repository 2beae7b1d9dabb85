//! SIGTERM and Ctrl-C: the first asks for an orderly stop, the second ends the process at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Told by a signal that the process should stop.
#[derive(Debug, Clone)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    /// Listens for signals from now on, on the present runtime.
    ///
    /// # Panics
    /// If the system refuses a signal handler.
    pub fn install() -> Self {
        let token = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).expect("a handler for SIGTERM can be set");
        let mut interrupt = signal(SignalKind::interrupt()).expect("a handler for SIGINT can be set");
        let told = token.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                if told.is_cancelled() {
                    // Safe at any moment: what is acknowledged is on disk.
                    std::process::exit(130);
                }
                told.cancel();
            }
        });
        Self(token)
    }

    pub async fn cancelled(&self) {
        self.0.cancelled().await;
    }

    pub fn token(&self) -> CancellationToken {
        self.0.clone()
    }
}
