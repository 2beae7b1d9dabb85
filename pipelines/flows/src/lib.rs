//! The two streaming jobs between the log and the tables.
//!
//! [`Land`] puts every event into `events`. [`Assemble`] plays each game's events through its
//! [`Experience`](flywheel_game_api::Experience) and, once the game has closed, puts its transitions and
//! episodes into their tables.
//!
//! Both are exactly once: how far each partition of the log was taken lies in the same commit as the rows. Both
//! give the same rows whenever and however often they are killed and started again, and however many of them run
//! at once. Neither is ever stopped by a record: what cannot be used becomes a dead letter with its position,
//! reason and bytes; a repeat of `(game_id, seq)` is dropped and counted; a gap in `seq` is counted by `Land` and
//! marks the game's episodes `incomplete` in `Assemble`, which keeps its transitions out.
//!
//! Several processes on one log share its partitions ([`sharing`]): by lease, so that a dead one's move on, and by
//! fence, so that one that only seemed dead can commit nothing.
//!
//! When the store or the log is away, the job waits with growing pauses and its [`FlowStatus`] says why. Memory is
//! bounded by the configured batch, plus one small entry for each recent game, plus (for `Assemble`) the
//! transitions of open games.

mod assemble;
mod batch;
mod config;
mod error;
mod flight;
mod game;
mod histogram;
mod land;
pub mod metrics;
mod owned;
mod partition;
mod read;
mod retry;
mod seen;
pub mod sharing;
mod status;

pub use assemble::{Assemble, AssembleStats, app_id as assemble_app_id, low_app_id as assemble_low_app_id};
pub use config::{AssembleConfig, LandConfig};
pub use error::FlowError;
pub use game::{Closing, is_terminal};
pub use histogram::Histogram;
pub use land::{Land, LandStats, app_id as land_app_id};
pub use owned::OwnedStats;
pub use seen::{Added, Seen, SeqSet};
pub use sharing::Sharing;
pub use status::{Away, FlowState, FlowStatus};
pub use tokio_util::sync::CancellationToken;

/// Flows run as tasks of their own.
const _: () = {
    const fn is_send<T: Send>(_: &T) {}
    #[allow(dead_code)]
    fn flows_are_tasks(land: Land, assemble: Assemble, cancel: tokio_util::sync::CancellationToken) {
        is_send(&land.run(cancel.clone()));
        is_send(&assemble.run(cancel));
    }
};

#[cfg(flywheel_bug)]
include!("../../../scripts/seeded_bug.rs");
