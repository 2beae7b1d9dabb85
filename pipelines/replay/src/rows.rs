use flywheel_policy::TrainingBatch;
use serde::{Deserialize, Serialize};

use crate::{
    ReplayError,
    sampler::{Sampler, SamplerState},
    slab::{Slab, copy_past_caches, fence},
};

/// Numbers after both observations: action, reward, discount, done, generation.
const TAIL: usize = 5;
/// One cache line.
const LINE: usize = 16;
/// How many rows ahead of the copy the next ones are asked for.
const AHEAD: usize = 3;

/// How a [`RowBuffer`] keeps and draws rows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RowBufferConfig {
    /// Rows kept; the oldest make room. At most 2^31.
    pub capacity: usize,
    /// Numbers in one observation.
    pub obs_len: usize,
    /// Keep priorities; without them an insert is a copy and nothing else.
    pub prioritised: bool,
    pub alpha: f32,
    pub beta: f32,
    pub seed: u64,
}

impl Default for RowBufferConfig {
    fn default() -> Self {
        Self { capacity: 1_000_000, obs_len: 128, prioritised: true, alpha: 0.6, beta: 0.4, seed: 0 }
    }
}

/// Rows to insert, each field contiguous.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    pub s: &'a [f32],
    pub s2: &'a [f32],
    pub action: &'a [i32],
    pub reward: &'a [f32],
    pub discount: &'a [f32],
    pub done: &'a [u8],
}

/// A batch of whole rows. `training.reward` and `training.discount` are as inserted: whoever inserts n-step
/// returns inserts their discounts, and 0 after an end.
#[derive(Debug, Clone, Default)]
pub struct RowBatch {
    pub training: TrainingBatch,
    pub done: Vec<u8>,
}

/// Whole rows in a ring, each in cache lines of its own: a draw costs one run of consecutive lines.
///
/// For observations that have no frames in common and for data sets that come with their returns summed. Twice the
/// memory of [`crate::ReplayBuffer`] and more, and faster: inserts go past the caches, draws are prefetched.
#[derive(Debug)]
pub struct RowBuffer {
    config: RowBufferConfig,
    numbers: Slab,
    stride: usize,
    sampler: Sampler,
    next: usize,
    len: usize,
    inserted: u64,
    /// Which round of the ring is being written, from 1: with its slot it names a row.
    round: u32,
    end: Vec<f32>,
}

impl RowBuffer {
    /// # Panics
    /// If `capacity` is zero or above 2^31, or `obs_len` is zero.
    pub fn new(config: RowBufferConfig) -> Self {
        assert!((1..=1 << 31).contains(&config.capacity), "`capacity` must lie within 1..=2147483648");
        assert!(config.obs_len > 0, "`obs_len` must be above zero");
        let stride = (2 * config.obs_len + TAIL).next_multiple_of(LINE);
        Self {
            numbers: Slab::zeroed(config.capacity * stride),
            stride,
            sampler: Sampler::new(config.capacity, config.prioritised, config.alpha, config.beta, config.seed),
            next: 0,
            len: 0,
            inserted: 0,
            round: 1,
            end: vec![0.0; stride - 2 * config.obs_len / LINE * LINE],
            config,
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The most that this buffer will ever use.
    pub fn memory_bytes(&self) -> usize {
        self.numbers.len() * 4 + self.sampler.memory_bytes()
    }

    /// Adds rows in order.
    ///
    /// # Errors
    /// `Shape` if the fields disagree about the number of rows; nothing is inserted then.
    pub fn insert(&mut self, rows: Rows<'_>) -> Result<(), ReplayError> {
        let (n, obs) = (rows.action.len(), self.config.obs_len);
        let lengths = [
            ("s", rows.s.len(), n * obs),
            ("s2", rows.s2.len(), n * obs),
            ("reward", rows.reward.len(), n),
            ("discount", rows.discount.len(), n),
            ("done", rows.done.len(), n),
        ];
        for (field, found, expected) in lengths {
            if found != expected {
                return Err(ReplayError::Shape { field, found, expected });
            }
        }
        let mut run = 0;
        for i in 0..n {
            let slot = self.next;
            let tail = [
                f32::from_bits(rows.action[i] as u32),
                rows.reward[i],
                rows.discount[i],
                f32::from_bits(u32::from(rows.done[i])),
                f32::from_bits(self.round),
            ];
            let (s, s2) = (&rows.s[i * obs..(i + 1) * obs], &rows.s2[i * obs..(i + 1) * obs]);
            let row = &mut self.numbers[slot * self.stride..(slot + 1) * self.stride];
            if obs.is_multiple_of(LINE) {
                copy_past_caches(s, &mut row[..obs]);
                copy_past_caches(s2, &mut row[obs..2 * obs]);
                self.end[..TAIL].copy_from_slice(&tail);
                copy_past_caches(&self.end, &mut row[2 * obs..]);
            } else {
                row[..obs].copy_from_slice(s);
                row[obs..2 * obs].copy_from_slice(s2);
                row[2 * obs..2 * obs + TAIL].copy_from_slice(&tail);
            }
            self.next = slot + 1;
            run += 1;
            if self.next == self.config.capacity || i + 1 == n {
                self.sampler.inserted(slot + 1 - run, run);
                run = 0;
            }
            if self.next == self.config.capacity {
                self.next = 0;
                self.round += 1;
            }
        }
        fence();
        self.len = (self.len + n).min(self.config.capacity);
        self.inserted += n as u64;
        Ok(())
    }

    /// Draws `n` rows evenly, with replacement; all weights are 1.
    ///
    /// # Errors
    /// `Empty`.
    pub fn sample_uniform(&mut self, n: usize, batch: &mut RowBatch) -> Result<(), ReplayError> {
        if self.len == 0 {
            return Err(ReplayError::Empty);
        }
        let first = if self.len == self.config.capacity { self.next } else { 0 };
        self.sampler.draw_uniform(n, first, self.len, self.config.capacity, &mut batch.training.index);
        batch.training.weight.clear();
        batch.training.weight.resize(n, 1.0);
        self.gather(n, batch);
        Ok(())
    }

    /// Draws `n` rows in proportion to their priorities, with importance weights.
    ///
    /// # Errors
    /// `Empty`, or `NotPrioritised` if the buffer was built without priorities.
    pub fn sample_prioritised(&mut self, n: usize, batch: &mut RowBatch) -> Result<(), ReplayError> {
        if self.len == 0 {
            return Err(ReplayError::Empty);
        }
        self.sampler.draw_prioritised(n, &mut batch.training.index, &mut batch.training.weight)?;
        self.gather(n, batch);
        Ok(())
    }

    /// As [`crate::ReplayBuffer::update_priorities`].
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn update_priorities(&mut self, index: &[u32], generation: &[u32], td_abs: &[f32]) -> usize {
        assert!(index.len() == generation.len() && index.len() == td_abs.len(), "one generation and error a row");
        let (inserted, capacity) = (self.inserted, self.config.capacity as u64);
        self.sampler.update(index, td_abs, |i| {
            // Which round of the ring the slot is in now follows from how many rows have come.
            let slot = u64::from(index[i]);
            let rounds = inserted / capacity + u64::from(slot < inserted % capacity);
            slot < capacity && generation[i] != 0 && generation[i] == rounds as u32
        })
    }

    pub fn set_beta(&mut self, beta: f32) {
        self.sampler.set_beta(beta);
    }

    /// The priority of a slot, already raised to `alpha`.
    pub fn priority(&self, index: u32) -> f32 {
        self.sampler.priority(index as usize)
    }

    pub fn sampler_state(&self) -> SamplerState {
        self.sampler.state()
    }

    /// # Errors
    /// `BadState` if the state is malformed.
    pub fn restore_sampler(&mut self, state: &SamplerState) -> Result<(), ReplayError> {
        self.sampler.restore(state)
    }

    fn gather(&self, n: usize, batch: &mut RowBatch) {
        let (obs, stride) = (self.config.obs_len, self.stride);
        let RowBatch { training, done } = batch;
        training.resize(n, obs);
        done.resize(n, 0);
        let used = 2 * obs + TAIL;
        for &slot in &training.index[..AHEAD.min(n)] {
            self.numbers.prefetch(slot as usize * stride, used);
        }
        let TrainingBatch { s, s2, a, reward, discount, index, generation, .. } = training;
        for (i, done) in done.iter_mut().enumerate() {
            if let Some(&slot) = index.get(i + AHEAD) {
                self.numbers.prefetch(slot as usize * stride, used);
            }
            let at = index[i] as usize * stride;
            let row = &self.numbers[at..at + used];
            s[i * obs..(i + 1) * obs].copy_from_slice(&row[..obs]);
            s2[i * obs..(i + 1) * obs].copy_from_slice(&row[obs..2 * obs]);
            let tail = &row[2 * obs..];
            a[i] = i64::from(tail[0].to_bits() as i32);
            reward[i] = tail[1];
            discount[i] = tail[2];
            *done = tail[3].to_bits() as u8;
            generation[i] = tail[4].to_bits();
        }
    }
}

#[cfg(test)]
mod tests;
