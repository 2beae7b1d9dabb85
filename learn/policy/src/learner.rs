//! The seam between what samples and what learns.

use std::{fmt, path::Path};

use crate::Network;

/// A batch of sampled transitions, one row each; reused from step to step.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TrainingBatch {
    pub n: usize,
    pub obs_len: usize,
    /// Observations, `[n, obs_len]`.
    pub s: Vec<f32>,
    /// Actions taken, `[n]`.
    pub a: Vec<i64>,
    /// Discounted n-step returns, `[n]`.
    pub reward: Vec<f32>,
    /// `gamma^k * (1 - done)`, `[n]`: what the value of `s2` counts for, `k` steps on.
    pub discount: Vec<f32>,
    /// Observations `k` steps later, `[n, obs_len]`.
    pub s2: Vec<f32>,
    /// Importance weights, `[n]`; 1 when sampling is uniform.
    pub weight: Vec<f32>,
    /// Where each row lies in the replay buffer, `[n]`.
    pub index: Vec<u32>,
    /// Which filling of that place it was, `[n]`, so that a late priority does not hit a newer transition.
    pub generation: Vec<u32>,
}

impl TrainingBatch {
    /// An empty batch with room for `n` rows.
    pub fn with_capacity(n: usize, obs_len: usize) -> Self {
        Self {
            n: 0,
            obs_len,
            s: Vec::with_capacity(n * obs_len),
            a: Vec::with_capacity(n),
            reward: Vec::with_capacity(n),
            discount: Vec::with_capacity(n),
            s2: Vec::with_capacity(n * obs_len),
            weight: Vec::with_capacity(n),
            index: Vec::with_capacity(n),
            generation: Vec::with_capacity(n),
        }
    }

    /// Makes it exactly `n` rows of `obs_len`, keeping what was allocated; the contents are to be overwritten.
    pub fn resize(&mut self, n: usize, obs_len: usize) {
        self.n = n;
        self.obs_len = obs_len;
        self.s.resize(n * obs_len, 0.0);
        self.a.resize(n, 0);
        self.reward.resize(n, 0.0);
        self.discount.resize(n, 0.0);
        self.s2.resize(n * obs_len, 0.0);
        self.weight.resize(n, 1.0);
        self.index.resize(n, 0);
        self.generation.resize(n, 0);
    }

    /// Checks that every column has `n` rows and that every action lies below `actions`.
    ///
    /// # Errors
    /// [`LearnErrorKind::InvalidBatch`] naming the column.
    pub fn check(&self, actions: usize) -> Result<(), LearnError> {
        let (n, wide) = (self.n, self.n * self.obs_len);
        let columns = [
            ("s", self.s.len(), wide),
            ("a", self.a.len(), n),
            ("reward", self.reward.len(), n),
            ("discount", self.discount.len(), n),
            ("s2", self.s2.len(), wide),
            ("weight", self.weight.len(), n),
            ("index", self.index.len(), n),
            ("generation", self.generation.len(), n),
        ];
        let wrong = |what: String| LearnError::new(LearnErrorKind::InvalidBatch, "check the batch", what);
        if let Some((name, found, expected)) = columns.into_iter().find(|(_, found, expected)| found != expected) {
            return Err(wrong(format!("column `{name}` holds {found} numbers; expected {expected}")));
        }
        match self.a.iter().position(|&a| usize::try_from(a).map_or(true, |a| a >= actions)) {
            Some(row) => Err(wrong(format!("row {row} has action {}; expected 0 to {}", self.a[row], actions - 1))),
            None => Ok(()),
        }
    }
}

/// What one step did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct StepReport {
    /// Weighted mean loss over the batch.
    pub loss: f32,
    /// Absolute temporal-difference error of each row: the new priorities.
    pub td_abs: Vec<f32>,
    /// Mean value of the actions taken.
    pub q_mean: f32,
    /// L2 norm of the whole gradient, before clipping.
    pub grad_norm: f32,
}

/// Something that learns from batches. It lives on one thread; all its calls may take milliseconds.
pub trait Learner: Send {
    /// One update.
    ///
    /// # Errors
    /// `InvalidBatch` if the batch does not fit the network; `NotFinite` if loss or gradient is not finite, in
    /// which case nothing was changed.
    fn step(&mut self, batch: &TrainingBatch) -> Result<StepReport, LearnError>;

    /// A copy of the network as it is now.
    ///
    /// # Errors
    /// `NotFinite` if training has diverged.
    fn export(&self) -> Result<Network, LearnError>;

    /// Writes everything that [`Learner::load`] needs into `dir`, which exists: network, target, optimiser
    /// state, number of steps. Durable when it returns.
    ///
    /// # Errors
    /// `Io`.
    fn save(&self, dir: &Path) -> Result<(), LearnError>;

    /// Goes on from what [`Learner::save`] wrote: the next steps are the same as if there had been no break.
    ///
    /// # Errors
    /// `Io`, or `InvalidCheckpoint` for one that is incomplete or of another network; the learner is unchanged.
    fn load(&mut self, dir: &Path) -> Result<(), LearnError>;

    /// Updates made so far, those before a resume included.
    fn steps(&self) -> u64;
}

/// What callers can act on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LearnErrorKind {
    InvalidBatch,
    InvalidCheckpoint,
    /// Training has diverged.
    NotFinite,
    /// The device that was asked for is not there.
    DeviceAbsent,
    Io,
    Internal,
}

/// What was attempted and why it failed.
#[derive(Debug)]
pub struct LearnError {
    kind: LearnErrorKind,
    operation: &'static str,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl LearnError {
    pub fn new(
        kind: LearnErrorKind,
        operation: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { kind, operation, source: source.into() }
    }

    pub fn kind(&self) -> LearnErrorKind {
        self.kind
    }
}

impl fmt::Display for LearnError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.operation, self.source)
    }
}

impl std::error::Error for LearnError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_with_a_short_column_or_an_unknown_action_is_refused_by_name() {
        let mut batch = TrainingBatch::default();
        batch.resize(3, 4);
        batch.check(2).unwrap();
        batch.a[1] = 2;
        let error = batch.check(2).unwrap_err();
        assert_eq!(error.kind(), LearnErrorKind::InvalidBatch);
        assert!(error.to_string().contains("row 1 has action 2; expected 0 to 1"), "{error}");
        batch.a[1] = 0;
        batch.s2.pop();
        assert!(batch.check(2).unwrap_err().to_string().contains("`s2` holds 11 numbers; expected 12"));
    }
}
