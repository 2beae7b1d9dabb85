//! The log that needs nothing installed: one redb file, shared with other processes over a Unix socket.
//!
//! Guarantees: an append that returned is on disk (one fsync covers all appends that waited together); a batch is
//! there whole or not at all; damaged bytes are named by partition and offset and never served; a file of a newer
//! format is refused before anything is written. [`RemoteLog`] gives other processes of this machine the same
//! contract, and passes the same suite.

mod codec;
mod embedded;
mod error;
mod remote;
mod server;
mod store;
mod wire;

use std::{path::Path, sync::Arc};

use flywheel_log::{EventLog, LogError};

pub use embedded::{EmbeddedConfig, EmbeddedLog};
pub use remote::RemoteLog;
pub use store::FORMAT_VERSION;

/// Name of the socket in the log's folder.
pub const SOCKET: &str = "log.sock";

/// Opens the log in `dir`, or connects to the process that holds it.
///
/// # Errors
/// If it can neither be opened nor connected to; the message says which process to look for.
pub async fn open_or_connect(dir: &Path) -> Result<Arc<dyn EventLog>, LogError> {
    match EmbeddedLog::open(dir, EmbeddedConfig::default()) {
        Ok(log) => Ok(log),
        Err(error) if error.kind() == flywheel_log::LogErrorKind::Conflict => {
            let log = RemoteLog::connect(&dir.join(SOCKET)).await.map_err(|_| error)?;
            Ok(log)
        }
        Err(error) => Err(error),
    }
}
