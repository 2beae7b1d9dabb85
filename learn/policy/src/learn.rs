//! The seam between a replay buffer and whatever learns from it.

use std::path::Path;

use crate::Network;

/// A batch of transitions, reused from step to step so that sampling allocates nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingBatch {
    pub n: usize,
    pub observation_len: usize,
    /// `[n, observation_len]`.
    pub s: Vec<f32>,
    /// `[n]`, action indices.
    pub a: Vec<i64>,
    /// `[n]`, n-step returns: `sum_{k<m} discount^k r_k`.
    pub reward: Vec<f32>,
    /// `[n]`: `discount^m`, or 0 where the game ended within the m steps.
    pub discount: Vec<f32>,
    /// `[n, observation_len]`, the observation m steps later.
    pub s2: Vec<f32>,
    /// `[n]`, importance weights, at most 1.
    pub weight: Vec<f32>,
    /// `[n]`, where each row lies in the buffer.
    pub index: Vec<u32>,
    /// `[n]`, which row lay there when it was drawn.
    pub generation: Vec<u32>,
}

impl TrainingBatch {
    /// Makes room for `n` rows; contents are whatever was there.
    pub fn resize(&mut self, n: usize, observation_len: usize) {
        (self.n, self.observation_len) = (n, observation_len);
        for values in [&mut self.s, &mut self.s2] {
            values.resize(n * observation_len, 0.0);
        }
        for values in [&mut self.reward, &mut self.discount, &mut self.weight] {
            values.resize(n, 0.0);
        }
        self.a.resize(n, 0);
        self.index.resize(n, 0);
        self.generation.resize(n, 0);
    }
}

/// What one step did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    pub loss: f32,
    /// `[n]`, absolute temporal-difference errors: the next priorities.
    pub td_abs: Vec<f32>,
    /// Mean value of the actions taken.
    pub q_mean: f32,
    /// Norm of the gradient before clipping.
    pub grad_norm: f32,
}

/// Why a learner could not step, save or load.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    #[error("the loss of step {step} is {loss}, not a finite number")]
    NotFinite { step: u64, loss: f32 },
    #[error("the batch has {found} numbers an observation; the network takes {expected}")]
    Shape { expected: usize, found: usize },
    #[error("the checkpoint `{path}` cannot be used: {reason}")]
    Checkpoint { path: String, reason: String },
    #[error("{0}")]
    Device(String),
    #[error("{operation} failed: {reason}")]
    Backend { operation: &'static str, reason: String },
}

/// Turns batches into a better network.
pub trait Learner {
    /// # Errors
    /// `NotFinite` leaves the learner as it was before the step or unusable; load a checkpoint then.
    fn step(&mut self, batch: &TrainingBatch) -> Result<StepReport, LearnError>;

    /// The network as it is now.
    ///
    /// # Errors
    /// If its numbers are not finite.
    fn export(&self) -> Result<Network, LearnError>;

    /// Writes everything that a resumed run needs to go on as if undisturbed, into the folder `dir`.
    ///
    /// # Errors
    /// If the folder cannot be written.
    fn save(&self, dir: &Path) -> Result<(), LearnError>;

    /// # Errors
    /// If the checkpoint is cut, foreign or of another shape; the learner is unchanged then.
    fn load(&mut self, dir: &Path) -> Result<(), LearnError>;

    /// Steps done so far, over all resumed runs.
    fn steps(&self) -> u64;
}
