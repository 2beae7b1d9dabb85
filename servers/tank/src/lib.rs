//! The tank system's servers: the game backend, the RL model store, scripted players and the farm.
//!
//! [`GameBackend`] plays sessions over HTTP and WebSocket (tank spec, sections 4, 5 and 7) and turns them into
//! events. [`ModelStore`] is a face of the model registry (section 6). [`ScriptedClient`] plays as an ordinary
//! client would. [`Farm`] plays whole games without sockets and produces the same events.
//!
//! Guarantees: a client can slow down or confuse nobody but itself — queues are bounded, a socket that does not
//! read is closed, a frame that makes no sense is dropped and counted; a tick never waits for a client, the log or
//! the store; every event of a game is emitted in the order in which it happened.
//!
//! ```no_run
//! # async fn example(emitter: flywheel_kit::Emitter) -> Result<(), Box<dyn std::error::Error>> {
//! use flywheel_tank_server::{GameBackend, GameBackendConfig};
//! use tokio_util::sync::CancellationToken;
//!
//! let stop = CancellationToken::new();
//! let backend = GameBackend::start(GameBackendConfig::default(), emitter, stop.clone()).await?;
//! println!("http://{}/sessions", backend.local_addr());
//! stop.cancel();
//! backend.closed().await;
//! # Ok(())
//! # }
//! ```

mod backend;
mod beat;
mod config;
mod debug;
mod error;
mod farm;
mod frames;
mod http;
mod messages;
pub mod metrics;
mod payload;
pub mod protocol;
mod scripted;
mod session;
mod socket;
mod store;

pub use backend::{GameBackend, GameBackendStats, NewSession, OpenError};
pub use config::GameBackendConfig;
pub use error::TankServerError;
pub use farm::{Farm, FarmConfig, FarmStats};
pub use frames::{GameFrame, TileGrid};
pub use payload::{ModelPayload, PayloadError, WeightSpec, base_of};
pub use scripted::{ScriptedClient, ScriptedClientConfig, ScriptedStats};
pub use session::SessionInfo;
pub use store::{ModelStore, ServingModelStore};
