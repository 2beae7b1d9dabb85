//! Decides whether a version goes live, and whether it stays.
//!
//! A [`trial`] plays candidate and champion in the same seeded games against fixed anchors until Wald's sequential
//! test speaks; a version with illegal actions, slow decisions or values that are not finite is refused whatever
//! its score. [`Judge`] follows the alias `candidate`, writes every game to `evaluations`, moves `champion` by
//! compare-and-set, and moves it back when live play falls below the predecessor's.
//!
//! Guarantees: a version is promoted only on a verdict of its own trial against the champion of that moment; the
//! games of one trial are in the table once, however often the judge was killed; a judge that begins again knows the
//! scores, moves and verdicts of those before it.

mod arena;
mod live;
mod metrics;
mod past;
mod ratings;
mod sequential;
mod service;
mod trial;

pub use arena::{Arena, Fixture, GameResult, fixtures};
pub use live::{Fall, LiveConfig, LivePlay};
pub use metrics::describe_metrics;
pub use past::Past;
pub use ratings::{Rating, ratings};
pub use sequential::{Decision, SequentialConfig, SequentialTest, fisher_lower, sign_test};
pub use service::{Judge, JudgeConfig, JudgeError, JudgeState, LiveGame, Promotion, ScoreRow};
pub use trial::{Contender, JudgedGame, TrialConfig, TrialError, Verdict, by_opponent, score_sheet, trial};
