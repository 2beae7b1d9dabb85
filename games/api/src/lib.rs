//! What every game system must offer: rules that run anywhere, and experience read off its events.
//!
//! Both are synchronous, deterministic and free of I/O: randomness arrives as a seed, time as events.

mod experience;
mod game;

pub use experience::{EpisodeRow, Experience, ExperienceError, Lane, SeatOutcome, TransitionRow};
pub use game::{Game, IllegalAction, Outcome, Seat};
