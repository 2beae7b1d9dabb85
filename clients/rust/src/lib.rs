//! For game servers in Rust: emit events, follow a model, decide with it in this process.
//!
//! An [`Emitter`] sends a game's events in batches to `POST /v1/events` from a thread of its own. A [`Follower`] asks
//! which version an alias names, fetches and checks its weights away from every decision, and exchanges one pointer;
//! a [`Decider`] answers an observation with the version of that moment, and names it.
//!
//! # What is promised
//! - **A game never waits for the server.** [`Draft::emit`] queues in memory, or writes to the spool file.
//! - **What is acknowledged is in the log**, as durably as [`Stats::durability`] says. A batch is sent again until it
//!   is answered, so an event can reach the log twice; the server and the lander drop repeats by `(game_id, seq)`.
//! - **Order is kept.** Events that cannot be sent go to the spool file and later ones queue behind it; it is drained
//!   when the server is back, and first of all at the next start. It is not synced: it survives the end of the
//!   process, not a power cut.
//! - **A version that is damaged, of another shape, or without finite answers never decides**; the one before plays on.
//! - **Everything is bounded**: memory, spool, batches, answers, weights and waits.
//!
//! ```no_run
//! # fn example(observation: [f32; 108], over: bool) -> Result<(), Box<dyn std::error::Error>> {
//! use flywheel_client::{EmitConfig, Emitter, FollowConfig, Follower, GameId, System};
//!
//! let emitter = Emitter::start(EmitConfig::new("http://127.0.0.1:8080").spool("events.spool"))?;
//! let champion = Follower::start(FollowConfig::new("http://127.0.0.1:8080"))?;
//! let (game, mut decider) = (emitter.game(System::Tank, GameId::new("g-17")?), champion.decider());
//! while !over {
//!     let decision = decider.decide(&observation);
//!     let input = serde_json::json!({"tick": 1, "action": decision.action});
//!     game.event("tank.input").actor("ai-1").model(decision.model).payload(&input).emit()?;
//! }
//! # Ok(()) }
//! ```

mod config;
mod decide;
mod emitter;
mod error;
mod follow;
mod game;
mod http;
mod keep;
mod queue;
mod spool;

pub use config::{Compression, EmitConfig, FollowConfig, OnRefused};
pub use decide::{Decider, Decision};
pub use emitter::Emitter;
pub use error::{ClientError, ClientErrorKind};
pub use flywheel_events::{BaseKey, GameId, ModelRef, ModelVersion, System};
pub use flywheel_policy::{LivePolicy, Network, Policy, VersionedNetwork};
pub use follow::{FollowStats, Follower};
pub use game::{Draft, Game};
pub use http::Problem;
pub use queue::{Durability, Stats};
