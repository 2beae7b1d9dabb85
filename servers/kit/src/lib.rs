//! What every server shares: events on their way to the log, an accept loop with limits, an orderly stop.
//!
//! Guarantees: [`GameEvents::emit`] never waits for the log; events of one game reach the log in the order in which
//! they were emitted, with gapless `seq`, whether they went through memory or the spill file; nothing is counted as
//! acknowledged before the log said so.

mod emitter;
pub mod metrics;
mod sender;
mod serve;
mod shutdown;
pub mod spill;

pub use emitter::{Emitter, EmitterConfig, EmitterError, EmitterStats, GameEvents};
pub use serve::{ServeConfig, bind, serve};
pub use shutdown::Shutdown;

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
