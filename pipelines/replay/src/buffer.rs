use std::collections::HashMap;

use flywheel_policy::TrainingBatch;

use crate::{
    ReplayConfig, ReplayError,
    frames::{Frames, ZEROS},
    sampler::{Sampler, SamplerState},
};

const NO_ROW: u32 = u32::MAX;
/// How many rows ahead of the copy frames are asked for.
const AHEAD: usize = 6;

/// One transition to insert. Observations are `stack` frames, the newest last; frames of zeros in front are the
/// padding at the start of an episode.
#[derive(Debug, Clone, Copy)]
pub struct Insert<'a> {
    /// The seat of the game it belongs to. Rows of one lane come in the order in which they happened.
    pub lane: u64,
    pub s: &'a [f32],
    pub a: i64,
    pub r: f32,
    pub s2: &'a [f32],
    /// No future follows: `s2` is not bootstrapped from.
    pub done: bool,
    /// The lane ends here for another reason (a time limit): no later row continues it, `s2` is bootstrapped from.
    pub truncated: bool,
    /// Version of the model that acted; 0 if none did.
    pub model_version: u64,
}

impl<'a> Insert<'a> {
    /// A transition in the midst of an episode.
    pub fn new(lane: u64, s: &'a [f32], a: i64, r: f32, s2: &'a [f32]) -> Self {
        Self { lane, s, a, r, s2, done: false, truncated: false, model_version: 0 }
    }
}

/// How old the data is, in model versions.
#[derive(Debug, Clone, Copy, PartialEq, Default, serde::Serialize)]
pub struct Staleness {
    /// Mean over the rows in the buffer.
    pub mean: f64,
    /// Of the oldest row in the buffer.
    pub oldest: u64,
    /// Mean over the last batch sampled.
    pub sampled_mean: f64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Row {
    lane: u64,
    version: u64,
    action: i64,
    reward: f32,
    /// The lane's next row, if that one begins where this one ends.
    next: u32,
    /// How often this slot has been written; 0 is never.
    generation: u32,
    done: bool,
}

/// Transitions of many lanes in a ring: the oldest make room for new ones.
///
/// Each frame is kept once. A row names the frames of both its observations, so that a batch needs no walk to
/// rebuild them, whatever happened to neighbouring rows. n-step returns follow links between rows of a lane whose
/// observations fit together bit for bit; they stop at the end of an episode, at a break of the lane and at its
/// newest row, and bootstrap from where they stopped unless that was terminal.
#[derive(Debug)]
pub struct ReplayBuffer {
    config: ReplayConfig,
    rows: Vec<Row>,
    /// `2 * stack` frame numbers for each row: those of `s`, then those of `s2`.
    stacks: Vec<u32>,
    frames: Frames,
    sampler: Sampler,
    /// The newest row of each lane that goes on. At most one entry for each row.
    lanes: HashMap<u64, u32>,
    oldest: usize,
    len: usize,
    version_sum: u128,
    sampled_version_mean: f64,
    inserted: u64,
    powers: Vec<f32>,
    last: Vec<u32>,
}

impl ReplayBuffer {
    /// # Panics
    /// If the config has problems; see [`ReplayConfig::problems`].
    pub fn new(config: ReplayConfig) -> Self {
        let problems = config.problems();
        assert!(problems.is_empty(), "replay buffer: {}", problems.join("; "));
        let frames = (config.capacity as f64 * f64::from(config.frames_per_row)).ceil() as usize + 4 * config.stack;
        let mut powers = vec![1.0; config.n_step + 1];
        for k in 1..powers.len() {
            powers[k] = powers[k - 1] * config.discount;
        }
        Self {
            rows: vec![Row::default(); config.capacity],
            stacks: vec![ZEROS; config.capacity * 2 * config.stack],
            frames: Frames::new(frames, config.frame_len),
            sampler: Sampler::new(config.capacity, true, config.alpha, config.beta, config.seed),
            lanes: HashMap::new(),
            oldest: 0,
            len: 0,
            version_sum: 0,
            sampled_version_mean: 0.0,
            inserted: 0,
            powers,
            last: Vec::new(),
            config,
        }
    }

    pub fn config(&self) -> &ReplayConfig {
        &self.config
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Rows ever inserted.
    pub fn inserted(&self) -> u64 {
        self.inserted
    }

    /// Numbers in one observation.
    pub fn observation_len(&self) -> usize {
        self.config.frame_len * self.config.stack
    }

    /// Frames held now; without sharing it would be `2 * stack` for each row.
    pub fn frames_kept(&self) -> usize {
        self.frames.kept()
    }

    /// The most that this buffer will ever use, fixed when it is built (lanes counted at one for each 8 rows).
    pub fn memory_bytes(&self) -> usize {
        self.rows.len() * size_of::<Row>()
            + self.stacks.len() * 4
            + self.frames.memory_bytes()
            + self.sampler.memory_bytes()
            + self.rows.len() / 8 * 24
    }

    /// Adds one transition; the oldest go when rows or frames run out.
    ///
    /// # Errors
    /// `Shape` or `NotFinite`; nothing is inserted then.
    pub fn insert(&mut self, row: Insert<'_>) -> Result<(), ReplayError> {
        self.check(&row)?;
        let (stack, frame_len) = (self.config.stack, self.config.frame_len);
        while self.len == self.config.capacity || self.frames.available() < 2 * stack {
            self.evict();
        }
        let slot = (self.oldest + self.len) % self.config.capacity;

        // Frames of `s` that the lane has shown already are shared. A shift of zero is a continuation.
        let newest = self.lanes.get(&row.lane).copied();
        let mut stacks = [ZEROS; 128];
        let (now, next) = stacks.split_at_mut(64);
        let (now, next) = (&mut now[..stack], &mut next[..stack]);
        let mut shift = stack;
        if let Some(newest) = newest {
            let at = newest as usize * 2 * stack + stack;
            now.copy_from_slice(&self.stacks[at..at + stack]);
            shift = self.shift(now, row.s);
        }
        self.advance(now, shift, row.s);
        next.copy_from_slice(now);
        let onward = self.shift(next, row.s2);
        self.advance(next, onward, row.s2);

        let at = slot * 2 * stack;
        self.stacks[at..at + stack].copy_from_slice(now);
        self.stacks[at + stack..at + 2 * stack].copy_from_slice(next);
        debug_assert_eq!(row.s.len(), stack * frame_len);
        self.rows[slot] = Row {
            lane: row.lane,
            version: row.model_version,
            reward: row.r,
            action: row.a,
            next: NO_ROW,
            generation: self.rows[slot].generation.wrapping_add(1).max(1),
            done: row.done,
        };
        if let Some(newest) = newest
            && shift == 0
        {
            self.rows[newest as usize].next = slot as u32;
        }
        if row.done || row.truncated {
            self.lanes.remove(&row.lane);
        } else {
            self.lanes.insert(row.lane, slot as u32);
        }
        self.len += 1;
        self.inserted += 1;
        self.version_sum += u128::from(row.model_version);
        self.sampler.inserted(slot, 1);
        Ok(())
    }

    /// The lane goes on no longer: its newest row becomes its last. Harmless for a lane that is not there.
    pub fn end_lane(&mut self, lane: u64) {
        self.lanes.remove(&lane);
    }

    /// Draws `n` rows evenly, with replacement; all weights are 1.
    ///
    /// # Errors
    /// `Empty`.
    pub fn sample_uniform(&mut self, n: usize, batch: &mut TrainingBatch) -> Result<(), ReplayError> {
        if self.len == 0 {
            return Err(ReplayError::Empty);
        }
        self.sampler.draw_uniform(n, self.oldest, self.len, self.config.capacity, &mut batch.index);
        batch.weight.clear();
        batch.weight.resize(n, 1.0);
        self.gather(n, batch);
        Ok(())
    }

    /// Draws `n` rows in proportion to their priorities, with importance weights.
    ///
    /// # Errors
    /// `Empty`.
    pub fn sample_prioritised(&mut self, n: usize, batch: &mut TrainingBatch) -> Result<(), ReplayError> {
        if self.len == 0 {
            return Err(ReplayError::Empty);
        }
        self.sampler.draw_prioritised(n, &mut batch.index, &mut batch.weight)?;
        self.gather(n, batch);
        Ok(())
    }

    /// Sets priorities to `|td|` of a sampled batch. Rows overwritten since are left alone: their generation has
    /// changed. Returns how many were set.
    ///
    /// # Panics
    /// If the lengths differ.
    pub fn update_priorities(&mut self, index: &[u32], generation: &[u32], td_abs: &[f32]) -> usize {
        assert!(index.len() == generation.len() && index.len() == td_abs.len(), "one generation and error a row");
        let (rows, sampler) = (&self.rows, &mut self.sampler);
        sampler.update(index, td_abs, |i| {
            rows.get(index[i] as usize).is_some_and(|row| generation[i] != 0 && row.generation == generation[i])
        })
    }

    /// See [`ReplayConfig::beta`]; usually raised to 1 in the course of training.
    pub fn set_beta(&mut self, beta: f32) {
        self.sampler.set_beta(beta);
    }

    /// The priority of a slot, already raised to `alpha`.
    pub fn priority(&self, index: u32) -> f32 {
        self.sampler.priority(index as usize)
    }

    pub fn staleness(&self, current_version: u64) -> Staleness {
        if self.len == 0 {
            return Staleness::default();
        }
        let mean = self.version_sum as f64 / self.len as f64;
        Staleness {
            mean: (current_version as f64 - mean).max(0.0),
            oldest: current_version.saturating_sub(self.rows[self.oldest].version),
            sampled_mean: (current_version as f64 - self.sampled_version_mean).max(0.0),
        }
    }

    pub fn sampler_state(&self) -> SamplerState {
        self.sampler.state()
    }

    /// # Errors
    /// `BadState` if the state is malformed.
    pub fn restore_sampler(&mut self, state: &SamplerState) -> Result<(), ReplayError> {
        self.sampler.restore(state)
    }

    /// The priority of each row, already raised to `alpha`, oldest row first.
    pub fn priorities(&self) -> Vec<f32> {
        let capacity = self.config.capacity;
        (0..self.len).map(|i| self.sampler.priority((self.oldest + i) % capacity)).collect()
    }

    /// Sets what [`ReplayBuffer::priorities`] gave for the same rows.
    ///
    /// # Errors
    /// `BadState` if there is not one priority, finite and not negative, for each row.
    pub fn restore_priorities(&mut self, priorities: &[f32]) -> Result<(), ReplayError> {
        if priorities.len() != self.len {
            let why = format!("{} priorities for {} rows", priorities.len(), self.len);
            return Err(ReplayError::BadState(why));
        }
        if !priorities.iter().all(|priority| priority.is_finite() && *priority >= 0.0) {
            return Err(ReplayError::BadState("a priority is negative or not finite".to_owned()));
        }
        let capacity = self.config.capacity as u32;
        let slots: Vec<u32> = (0..self.len as u32).map(|i| (self.oldest as u32 + i) % capacity).collect();
        self.sampler.set(&slots, priorities);
        Ok(())
    }

    fn check(&self, row: &Insert<'_>) -> Result<(), ReplayError> {
        let expected = self.observation_len();
        for (field, numbers) in [("s", row.s), ("s2", row.s2)] {
            if numbers.len() != expected {
                return Err(ReplayError::Shape { field, found: numbers.len(), expected });
            }
            if !numbers.iter().all(|number| number.is_finite()) {
                return Err(ReplayError::NotFinite { field });
            }
        }
        if !row.r.is_finite() {
            return Err(ReplayError::NotFinite { field: "r" });
        }
        Ok(())
    }

    /// By how many frames `kept` must move on to show `observation`: 0 if it is the same, `stack` if nothing fits.
    fn shift(&self, kept: &[u32], observation: &[f32]) -> usize {
        let (stack, frame_len) = (self.config.stack, self.config.frame_len);
        let frame = |i: usize| &observation[i * frame_len..(i + 1) * frame_len];
        (0..stack).find(|&shift| (shift..stack).all(|i| self.frames.same(kept[i], frame(i - shift)))).unwrap_or(stack)
    }

    /// Turns `stack` into the frames of `observation`: those still shown are shared, the newest `shift` are kept anew.
    fn advance(&mut self, stack: &mut [u32], shift: usize, observation: &[f32]) {
        let (n, frame_len) = (self.config.stack, self.config.frame_len);
        for i in 0..n {
            stack[i] = if i + shift < n {
                self.frames.share(stack[i + shift])
            } else {
                self.frames.keep(&observation[i * frame_len..(i + 1) * frame_len])
            };
        }
    }

    fn evict(&mut self) {
        assert!(self.len > 0, "an empty buffer has all frames free");
        let slot = self.oldest;
        let row = self.rows[slot];
        if self.lanes.get(&row.lane) == Some(&(slot as u32)) {
            self.lanes.remove(&row.lane);
        }
        let stack = self.config.stack;
        for at in slot * 2 * stack..(slot + 1) * 2 * stack {
            self.frames.release(self.stacks[at]);
        }
        self.sampler.evicted(slot);
        // The slot is nobody's until it is written again: late priorities must not revive it.
        self.rows[slot].generation = row.generation.wrapping_add(1).max(1);
        self.version_sum -= u128::from(row.version);
        self.oldest = (self.oldest + 1) % self.config.capacity;
        self.len -= 1;
    }

    /// Fills the batch for the slots in `batch.index`.
    fn gather(&mut self, n: usize, batch: &mut TrainingBatch) {
        let (stack, frame_len, obs) = (self.config.stack, self.config.frame_len, self.observation_len());
        batch.resize(n, obs);
        self.last.clear();
        self.last.extend_from_slice(&batch.index);

        // First the returns, one step of all rows at a time: the next rows' lines arrive while others are summed.
        for &slot in &batch.index {
            prefetch(&self.rows[slot as usize]);
            prefetch(&self.stacks[slot as usize * 2 * stack]);
        }
        let mut versions = 0.0;
        for i in 0..n {
            let row = &self.rows[batch.index[i] as usize];
            batch.a[i] = row.action;
            batch.reward[i] = row.reward;
            batch.discount[i] = self.powers[1];
            batch.generation[i] = row.generation;
            versions += row.version as f64;
            if row.next != NO_ROW {
                prefetch(&self.rows[row.next as usize]);
            }
        }
        self.sampled_version_mean = versions / n.max(1) as f64;
        for k in 1..self.config.n_step {
            for i in 0..n {
                let row = &self.rows[self.last[i] as usize];
                // Rows that stopped earlier stay stopped: `next` and `done` of their last row have not changed.
                if row.done || row.next == NO_ROW {
                    continue;
                }
                let next = &self.rows[row.next as usize];
                batch.reward[i] += self.powers[k] * next.reward;
                batch.discount[i] = self.powers[k + 1];
                self.last[i] = row.next;
                if next.next != NO_ROW {
                    prefetch(&self.rows[next.next as usize]);
                }
            }
        }
        for i in 0..n {
            if self.rows[self.last[i] as usize].done {
                batch.discount[i] = 0.0;
            }
            prefetch(&self.stacks[self.last[i] as usize * 2 * stack + stack]);
        }

        // Then the observations.
        let stacks = |i: usize| {
            let (s, s2) = (batch.index[i] as usize * 2 * stack, self.last[i] as usize * 2 * stack + stack);
            (&self.stacks[s..s + stack], &self.stacks[s2..s2 + stack])
        };
        let ask = |i: usize| {
            let (s, s2) = stacks(i);
            for &frame in s.iter().chain(s2) {
                self.frames.prefetch(frame);
            }
        };
        (0..AHEAD.min(n)).for_each(ask);
        for i in 0..n {
            if i + AHEAD < n {
                ask(i + AHEAD);
            }
            let (s, s2) = stacks(i);
            for (f, &frame) in s.iter().enumerate() {
                self.frames.copy(frame, &mut batch.s[i * obs + f * frame_len..][..frame_len]);
            }
            for (f, &frame) in s2.iter().enumerate() {
                self.frames.copy(frame, &mut batch.s2[i * obs + f * frame_len..][..frame_len]);
            }
        }
    }
}

#[inline]
fn prefetch<T>(what: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch is a hint and reads nothing.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(what).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = what;
}

#[cfg(test)]
mod tests;
