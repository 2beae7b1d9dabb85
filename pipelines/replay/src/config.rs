use serde::{Deserialize, Serialize};

/// How a [`crate::ReplayBuffer`] keeps and draws transitions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ReplayConfig {
    /// Transitions kept; the oldest make room. At most 2^28.
    pub capacity: usize,
    /// Numbers in one frame.
    pub frame_len: usize,
    /// Frames in one observation, the newest last. At most 64.
    pub stack: usize,
    /// Longest return summed when a row is sampled; 1 is the plain one-step target.
    pub n_step: usize,
    /// Discount of one step, within `0.0..=1.0`.
    pub discount: f32,
    /// How strongly priorities shape the draw: 0 is uniform, 1 proportional. Schaul et al. 2016, eq. 1.
    pub alpha: f32,
    /// How much importance weights correct for it: 0 not at all, 1 fully. Schaul et al. 2016, section 3.4.
    pub beta: f32,
    /// Of the generator that draws.
    pub seed: u64,
    /// Frames kept for each transition, averaged over the buffer. Lanes that run on need little more than one;
    /// with more breaks than this pays for, the oldest rows go early.
    pub frames_per_row: f32,
}

impl Default for ReplayConfig {
    fn default() -> Self {
        Self {
            capacity: 400_000,
            frame_len: 27,
            stack: 4,
            n_step: 5,
            discount: 0.98,
            alpha: 0.6,
            beta: 0.4,
            seed: 0,
            frames_per_row: 1.25,
        }
    }
}

impl ReplayConfig {
    /// Every setting that makes no sense, in words; empty if there is none.
    pub fn problems(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut check = |ok: bool, what: &str| {
            if !ok {
                found.push(what.to_owned());
            }
        };
        check(self.capacity >= 1 && self.capacity <= 1 << 28, "`capacity` must lie within 1..=268435456");
        check(self.frame_len >= 1 && self.frame_len <= 1 << 20, "`frame_len` must lie within 1..=1048576");
        check(self.stack >= 1 && self.stack <= 64, "`stack` must lie within 1..=64");
        check(self.n_step >= 1 && self.n_step <= 1000, "`n_step` must lie within 1..=1000");
        check((0.0..=1.0).contains(&self.discount), "`discount` must lie within 0..=1");
        check((0.0..=1.0).contains(&self.alpha), "`alpha` must lie within 0..=1");
        check((0.0..=1.0).contains(&self.beta), "`beta` must lie within 0..=1");
        check(
            self.frames_per_row >= 0.1 && self.frames_per_row <= 2.0 * self.stack as f32,
            "`frames_per_row` must lie within 0.1..=2*stack",
        );
        found
    }
}

/// Why a row was refused or a batch cannot be drawn. The buffer is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReplayError {
    #[error("`{field}` has {found} numbers; this buffer keeps {expected}")]
    Shape { field: &'static str, found: usize, expected: usize },
    #[error("`{field}` holds a number that is not finite; rows like this would spoil the network")]
    NotFinite { field: &'static str },
    #[error("the buffer is empty; insert rows before sampling")]
    Empty,
    #[error("the buffer was built without priorities; set `prioritised` to sample by them")]
    NotPrioritised,
    #[error("a sampler state of another kind: {0}")]
    BadState(String),
}
