//! Training runs: transitions from the table and the log, a learner's steps, versions and checkpoints out.
//!
//! A [`Session`] is one run on one thread. It reads the newest rows of `transitions` at a pinned version, then
//! follows the log, samples by priority, steps the learner as often as the data pays for, publishes candidates and
//! keeps checkpoints. A [`TrainJob`] runs one under the lease that a `flywheel_jobs::Worker` keeps. Everything but the
//! learner is here; `flywheel-trainer` (feature `torch`) joins it with the one on libtorch.
//!
//! Guarantees: a record is sampleable as soon as the log hands it over, between two steps; a run that was stopped or
//! killed goes on from its last whole checkpoint; on fixed data (`follow = false`) it goes on step for step as if it
//! had not been disturbed; a run that lost its lease publishes and keeps nothing more; numbers that are not finite
//! never reach a checkpoint or a version.

mod checkpoint;
mod config;
mod elsewhere;
mod error;
mod follow;
mod freshness;
mod games;
mod host;
mod job;
#[cfg(feature = "torch")]
mod learner;
mod load;
pub mod metrics;
mod session;
mod take;
mod trainer;

pub use checkpoint::{Checkpoint, CheckpointError, Checkpoints, TrainerState};
pub use config::{Shape, TrainConfig};
pub use elsewhere::Sent;
pub use error::TrainError;
pub use follow::{Batch, follow};
pub use freshness::{Freshness, FreshnessReport};
pub use games::{ExperienceFactory, Games, GamesStats, Taken};
pub use host::RunHost;
pub use job::{KIND, Plan, TrainJob, TrainParts};
pub use load::{Loaded, load_table};
pub use session::{Beat, Candidate, Ended, Host, Origin, PublishError, Session, Sources};
pub use take::take_run;
pub use trainer::{Step, TrainLearner, Trainer};
