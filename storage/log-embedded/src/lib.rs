//! The log that needs nothing installed: one redb file, shared with other processes over a Unix socket.
//!
//! Guarantees: an append that returned is on disk (one fsync covers all appends that waited together); a batch is
//! there whole or not at all; damaged bytes are named by partition and offset and never served; a file of a newer
//! format is refused before anything is written. [`RemoteLog`] gives other processes of this machine the same
//! contract, and passes the same suite.

mod codec;
mod embedded;
mod error;
mod path;
mod remote;
mod server;
mod store;
mod wire;

/// Whether `FLYWHEEL_BUG` names this fault, seeded to see that the tests find it; see `scripts/seeded-bugs.sh`.
#[cfg(flywheel_bug)]
fn seeded_bug(name: &str) -> bool {
    std::env::var_os("FLYWHEEL_BUG").is_some_and(|awake| awake == name)
}

#[cfg(test)]
mod tests;

use std::{path::Path, sync::Arc, time::Duration};

use flywheel_log::{EventLog, LogError, LogErrorKind};

pub use embedded::{EmbeddedConfig, EmbeddedLog};
pub use remote::RemoteLog;
pub use store::FORMAT_VERSION;

/// Name of the socket in the log's folder.
pub const SOCKET: &str = "log.sock";

/// How long [`open_or_connect`] waits for a process that holds the log and does not answer yet, or no longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Opens the log in `dir`, or connects to the process that holds it.
///
/// That process may be about to serve its socket, or about to go: both are tried for a moment.
///
/// # Errors
/// If it can neither be opened nor connected to; the message says which process to look for.
pub async fn open_or_connect(dir: &Path) -> Result<Arc<dyn EventLog>, LogError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let held = match EmbeddedLog::open(dir, EmbeddedConfig::default()) {
            Ok(log) => return Ok(log),
            Err(error) if error.kind() == LogErrorKind::Conflict => error,
            Err(error) => return Err(error),
        };
        match RemoteLog::connect(&dir.join(SOCKET)).await {
            Ok(log) => return Ok(log),
            Err(error) if !error.kind().is_retryable() => return Err(error),
            Err(_) if tokio::time::Instant::now() >= until => return Err(held),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
