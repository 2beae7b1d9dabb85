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

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");

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

/// How long [`open_patiently`] waits for a program that has opened the log for a while, such as one that audits it.
const LONG_PATIENCE: Duration = Duration::from_secs(15);

/// Opens the log in `dir`, waiting a while for a process that holds it to end.
///
/// # Errors
/// As [`EmbeddedLog::open`].
pub async fn open_patiently(dir: &Path, config: EmbeddedConfig) -> Result<Arc<EmbeddedLog>, LogError> {
    let until = tokio::time::Instant::now() + LONG_PATIENCE;
    loop {
        match EmbeddedLog::open(dir, config.clone()) {
            Err(error) if error.kind() == LogErrorKind::Conflict && tokio::time::Instant::now() < until => {
                tracing::info!(%error, "waiting for it to let go");
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
            opened => return opened,
        }
    }
}

/// Connects to the process that holds the log in `dir`, waiting a while for it to come; never holds the log itself. With
/// the log's name.
///
/// # Errors
/// If nobody serves it by then.
pub async fn connect(dir: &Path) -> Result<(Arc<dyn EventLog>, String), LogError> {
    let until = tokio::time::Instant::now() + LONG_PATIENCE;
    loop {
        match RemoteLog::connect(&dir.join(SOCKET)).await {
            Ok(log) => {
                let id = log.identity();
                return Ok((log, id));
            }
            Err(error) if !error.kind().is_retryable() || tokio::time::Instant::now() >= until => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Opens the log in `dir`, or connects to the process that holds it; with the log's name.
///
/// That process may be about to serve its socket, or about to go: both are tried for a moment.
///
/// # Errors
/// If it can neither be opened nor connected to; the message says which process to look for.
pub async fn open_or_connect(dir: &Path) -> Result<(Arc<dyn EventLog>, String), LogError> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        let held = match EmbeddedLog::open(dir, EmbeddedConfig::default()) {
            Ok(log) => {
                let id = log.identity().to_owned();
                return Ok((log, id));
            }
            Err(error) if error.kind() == LogErrorKind::Conflict => error,
            Err(error) => return Err(error),
        };
        match RemoteLog::connect(&dir.join(SOCKET)).await {
            Ok(log) => {
                let id = log.identity();
                return Ok((log, id));
            }
            Err(error) if !error.kind().is_retryable() => return Err(error),
            Err(_) if tokio::time::Instant::now() >= until => return Err(held),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}
