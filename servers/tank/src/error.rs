//! What can go wrong when a server of this crate starts.

use std::net::SocketAddr;

/// Why a game backend, a model store or a farm did not start, or a client could not go on.
#[derive(Debug, thiserror::Error)]
pub enum TankServerError {
    #[error("listening on `{address}`: {source}; choose another port, or end the program that holds it")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the setting `{setting}` is {value}; expected {expected}")]
    Setting { setting: &'static str, value: String, expected: String },
    #[error("there is no map to play: `maps` is empty")]
    NoMaps,
    #[error("{operation} at `{target}`: {reason}")]
    Client { operation: &'static str, target: String, reason: String },
    #[error("reading the registry: {0}")]
    Registry(String),
    #[error("starting a thread: {0}")]
    Thread(std::io::Error),
}
