use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use crate::{ReplayError, SumTree};

/// Added to every temporal-difference error, so that a row whose error is zero can still be drawn.
const PRIORITY_FLOOR: f32 = 1e-4;

/// Where a sampler stands: with the same rows, a buffer restored from it draws what the saved one would have drawn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SamplerState {
    /// Of the generator, 64 hexadecimal digits.
    pub seed: String,
    /// Words drawn so far.
    pub word_pos: u64,
    /// Largest priority seen, already raised to `alpha`.
    pub max_priority: f32,
}

/// Draws slots, evenly or in proportion to their priorities (Schaul et al. 2016, *Prioritized Experience Replay*).
#[derive(Debug)]
pub(crate) struct Sampler {
    rng: ChaCha8Rng,
    tree: Option<SumTree>,
    /// New rows get the largest priority seen, so that each is likely to be drawn once.
    max_priority: f32,
    alpha: f32,
    beta: f32,
    targets: Vec<f64>,
    changed: Vec<u32>,
    values: Vec<f32>,
}

impl Sampler {
    pub(crate) fn new(capacity: usize, prioritised: bool, alpha: f32, beta: f32, seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            tree: prioritised.then(|| SumTree::new(capacity)),
            max_priority: 1.0,
            alpha,
            beta,
            targets: Vec::new(),
            changed: Vec::new(),
            values: Vec::new(),
        }
    }

    pub(crate) fn set_beta(&mut self, beta: f32) {
        self.beta = beta.clamp(0.0, 1.0);
    }

    pub(crate) fn memory_bytes(&self) -> usize {
        self.tree.as_ref().map_or(0, SumTree::memory_bytes)
    }

    /// `count` new rows lie from slot `first` on.
    #[inline]
    pub(crate) fn inserted(&mut self, first: usize, count: usize) {
        if let Some(tree) = &mut self.tree {
            if count == 1 {
                tree.set(first, self.max_priority);
            } else {
                tree.fill(first, count, self.max_priority);
            }
        }
    }

    /// The row at `slot` is gone and nothing takes its place yet.
    #[inline]
    pub(crate) fn evicted(&mut self, slot: usize) {
        if let Some(tree) = &mut self.tree {
            tree.set(slot, 0.0);
        }
    }

    /// `n` slots drawn evenly with replacement from the `len` that begin at `first` and wrap at `capacity`.
    pub(crate) fn draw_uniform(&mut self, n: usize, first: usize, len: usize, capacity: usize, out: &mut Vec<u32>) {
        out.resize(n, 0);
        let (first, len, capacity) = (first as u32, len as u32, capacity as u32);
        // Lemire's multiply-shift; the rejection makes it exact (2019, *Fast Random Integer Generation in an Interval*).
        let reject_below = len.wrapping_neg() % len;
        for slot in out.iter_mut() {
            let drawn = loop {
                let product = u64::from(self.rng.next_u32()) * u64::from(len);
                if product as u32 >= reject_below {
                    break (product >> 32) as u32;
                }
            };
            let at = first + drawn;
            *slot = if at >= capacity { at - capacity } else { at };
        }
    }

    /// `n` slots in rising order, drawn with replacement in proportion to their priorities: one from each of `n`
    /// equal parts of the total (Schaul et al. 2016, appendix B.2.1). `weights` becomes
    /// `(size * probability)^-beta`, divided by the batch's largest.
    pub(crate) fn draw_prioritised(
        &mut self,
        n: usize,
        out: &mut Vec<u32>,
        weights: &mut Vec<f32>,
    ) -> Result<(), ReplayError> {
        let tree = self.tree.as_ref().ok_or(ReplayError::NotPrioritised)?;
        let total = f64::from(tree.total());
        out.resize(n, 0);
        weights.resize(n, 0.0);
        self.targets.clear();
        let part = total / n as f64;
        for i in 0..n {
            self.targets.push((i as f64 + self.rng.random::<f64>()) * part);
        }
        tree.find_many(&mut self.targets, out);
        let mut least = f32::INFINITY;
        for (weight, &slot) in weights.iter_mut().zip(out.iter()) {
            *weight = tree.get(slot as usize);
            least = least.min(*weight);
        }
        // (size * p / total)^-beta over its maximum is (least / p)^beta: size and total cancel.
        for weight in weights.iter_mut() {
            *weight = if *weight == least { 1.0 } else { (least / *weight).powf(self.beta) };
        }
        Ok(())
    }

    /// Sets the priorities of the slots for which `live` says yes; errors that are not finite are left out.
    pub(crate) fn update(&mut self, slots: &[u32], errors: &[f32], mut live: impl FnMut(usize) -> bool) -> usize {
        let Some(tree) = &mut self.tree else { return 0 };
        self.changed.clear();
        self.values.clear();
        for (i, (&slot, &error)) in slots.iter().zip(errors).enumerate() {
            if live(i) && error.is_finite() {
                let priority = (error.abs() + PRIORITY_FLOOR).powf(self.alpha);
                self.max_priority = self.max_priority.max(priority);
                self.changed.push(slot);
                self.values.push(priority);
            }
        }
        tree.set_many(&self.changed, &self.values);
        self.changed.len()
    }

    pub(crate) fn set(&mut self, slots: &[u32], priorities: &[f32]) {
        if let Some(tree) = &mut self.tree {
            tree.set_many(slots, priorities);
        }
    }

    pub(crate) fn priority(&self, slot: usize) -> f32 {
        self.tree.as_ref().map_or(1.0, |tree| tree.get(slot))
    }

    pub(crate) fn state(&self) -> SamplerState {
        SamplerState {
            seed: self.rng.get_seed().iter().map(|byte| format!("{byte:02x}")).collect(),
            word_pos: self.rng.get_word_pos() as u64,
            max_priority: self.max_priority,
        }
    }

    pub(crate) fn restore(&mut self, state: &SamplerState) -> Result<(), ReplayError> {
        let bad = |what: &str| ReplayError::BadState(what.to_owned());
        if state.seed.len() != 64 || !state.seed.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(bad("`seed` is not 64 hexadecimal digits"));
        }
        if !(state.max_priority.is_finite() && state.max_priority > 0.0) {
            return Err(bad("`max_priority` is not a number above zero"));
        }
        let mut seed = [0; 32];
        for (i, byte) in seed.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&state.seed[2 * i..2 * i + 2], 16).map_err(|_| bad("`seed`"))?;
        }
        self.rng = ChaCha8Rng::from_seed(seed);
        self.rng.set_word_pos(u128::from(state.word_pos));
        self.max_priority = state.max_priority;
        Ok(())
    }
}
