//! The words everybody uses: one event envelope, ids, event kinds and their payloads.
//!
//! An [`Event`] is one immutable fact of one game. `(game_id, seq)` is its identity and its order; on the
//! wire it is one JSON object, so that a program in any language can write it.
//!
//! ```
//! use flywheel_events::{Event, GameId, System};
//!
//! let event = Event::new(System::Tank, "tank.input", GameId::new("g-17").unwrap(), 0, 1_700_000_000_000)
//!     .payload(&serde_json::json!({"tick": 1}));
//! assert_eq!(Event::decode(&event.encode()).unwrap(), event);
//! ```

mod envelope;
pub mod floats;
mod ids;
pub mod kinds;
pub mod tank;

pub use envelope::{DecodeError, ENVELOPE_VERSION, Event, MAX_DEPTH, MAX_EVENT_BYTES, nesting};
pub use ids::{BaseKey, GameId, IdError, ModelRef, ModelVersion, System};
