//! The tank system's AI backend (tank spec, section 10).
//!
//! It finds sessions by polling the game backend, attaches one WebSocket to each, drives every AI tank with a small
//! network, learns online from the rewards if told to, saves models on a thread of its own, and follows champions
//! of the registry while games go on.
//!
//! Guarantees: two sessions never hold one model key; all actions of one tick are by one named version; between two
//! swap points a game uses one version only; a failed poll tears nothing down; no game waits for the store.
//!
//! ```no_run
//! # async fn example(registry: std::sync::Arc<flywheel_registry::Registry>, emitter: flywheel_kit::Emitter) -> Result<(), flywheel_agent::AgentError> {
//! use flywheel_agent::{Agent, AgentConfig};
//! use tokio_util::sync::CancellationToken;
//!
//! let config = AgentConfig { online_learning: false, ..AgentConfig::default() };
//! let stop = CancellationToken::new();
//! let agent = Agent::start(config, Some(registry), None, Some(emitter), stop.clone())?;
//! println!("{:?}", agent.stats().decision);
//! stop.cancel();
//! agent.closed().await;
//! # Ok(())
//! # }
//! ```

mod agent;
mod champions;
mod config;
mod error;
mod eyes;
mod follow;
mod gbe;
mod histogram;
mod load;
pub mod metrics;
mod model;
mod pilot;
mod pool;
mod saver;
mod session;
mod stats;

pub use agent::Agent;
pub use config::{AgentConfig, Swap};
pub use error::AgentError;
pub use histogram::{Latency, Quantiles};
pub use session::SessionState;
pub use stats::{AgentStats, Learning};

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
