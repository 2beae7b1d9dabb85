//! The doors for events: `POST /v1/events` and the WebSocket `/v1/events/ws`, and the JSON Schemas at `/v1/schemas`.
//!
//! A program in any language hands in envelopes as JSON (one, an array, or a line each) or CloudEvents (structured,
//! batch, binary), plain or as gzip or zstd. The answer comes after the log's append returned, and says how durable
//! that is and how far each game has come.
//!
//! # What is promised
//! - **All or nothing per request.** Every event is read and checked before the first is appended. If one is
//!   malformed, none is appended, and the answer (RFC 9457) names the index and the field of the first bad one.
//! - **An acknowledged event is in the log**, with the durability that the answer names. Without an answer, or with
//!   503, the outcome is unknown: send the same events again. What is there already is acknowledged as `repeated`,
//!   or appended a second time and dropped on the way into the table, by `(game_id, seq)`.
//! - **While the log is away**, doors made by [`Door::spooling`] keep events in files of this machine, synced before the
//!   answer, which says `spooled` and promises no more than that disk does. They go into the log in their order, before
//!   later ones, once it is back; first of all after a restart.
//! - **A repeat is left out only when it is surely one**: its `seq` lies in the run of consecutive numbers that this
//!   process has itself seen acknowledged; see [`Games`]. A gap is accepted and reported; it is closed by sending what
//!   is missing.
//! - **The producer's clock orders nothing**: the past is taken, what cannot have happened yet is refused as `bad_time`,
//!   and a clock that jumps within a game is counted.
//! - **Who has a key writes the games of that key and no others**, and who has none no game of any key: doors made by
//!   [`Door::guarded`]. One event of another's game keeps its whole request out.
//! - **Everything is bounded**: a body, what it inflates to, events per request, depth, bytes in flight over all
//!   requests, sockets, waits. Over a limit the answer is 413, 429 or 503, and nothing was appended.
//!
//! ```no_run
//! # async fn example(log: std::sync::Arc<dyn flywheel_log::EventLog>) -> std::io::Result<()> {
//! use flywheel_ingest::{Door, IngestConfig, router};
//! let stop = tokio_util::sync::CancellationToken::new();
//! let door = Door::new(log, IngestConfig::default(), stop);
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! axum::serve(listener, router(door)).await
//! # }
//! ```

mod blame;
mod body;
mod clock;
mod cloudevents;
mod config;
mod door;
mod drain;
pub mod evolution;
mod http;
mod inflate;
mod keys;
pub mod metrics;
mod parse;
mod problem;
mod schemas;
mod sequence;
mod socket;
mod source;
mod spool;
mod token;

pub use clock::{Clock, JUMP_MS};
pub use config::IngestConfig;
pub use door::{Ack, Door, GameAck, Gap};
pub use http::router;
pub use keys::{KeyRecord, KeyRing, KeyRule, KeyStore, RingConfig};
pub use parse::{Format, Incoming, parse};
pub use problem::{Problem, Refusal};
pub use schemas::SCHEMAS;
pub use sequence::{Games, Known};
pub use source::{Prefixes, Source};
pub use spool::{SpoolConfig, SpoolState};
pub use token::{NotAToken, Token};

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
